//! Which plugin stands behind a provider, and whether it may run: asked once, on the terminal, or refused.

use std::borrow::Cow;
use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::trail::Trail;
use crabbox_plugins::{
    Entry, Libraries, Place, Policy, Proposal, Rule, Verdict, check_lock, check_version, unmet, vet,
};
use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::Runtime;

use crate::context::Context;
use crate::prompt;

impl Context {
    /// The provider of this name or alias: one that is offered, or one that still has leases.
    pub(crate) fn entry(&self, name: &str) -> Result<&Entry> {
        let mut rivals = self.catalog.rivals(name);
        match (rivals.next(), rivals.next()) {
            (Some(one), None) => Ok(one),
            (Some(one), Some(other)) => Err(rival(name, one, other)),
            (None, _) => {
                let mut retired = self.retired().iter();
                let known = retired.find(|e| e.names().any(|n| n.eq_ignore_ascii_case(name)));
                known.ok_or_else(|| self.unknown(name))
            }
        }
        .map_err(|e| e.at("plan"))
    }

    fn unknown(&self, name: &str) -> KernelError {
        let known: Vec<_> =
            self.catalog.providers().iter().map(|e| e.provider.name.as_str()).collect();
        let problems = self.catalog.problems.iter().map(ToString::to_string).collect();
        let error = KernelError::new(
            ErrorCode::ProviderUnknown,
            format!("there is no provider called {name}"),
        );
        let have = |id: &str| self.catalog.providers().iter().any(|e| e.manifest.id == id);
        let requires = self.values.plugins.requires.iter();
        let missing = requires.filter(|line| !have(line.split('@').next().unwrap_or_default()));
        let missing: Vec<_> = missing.map(String::as_str).collect();
        let hint = match missing.is_empty() {
            true => format!("known providers: {}", known.join(", ")),
            false => format!(
                "this repository requires {}: get it and `crabbox plugin install` it",
                missing.join(" and ")
            ),
        };
        KernelError { causes: problems, ..error }.hint(hint)
    }

    /// Providers whose plugins were removed or never finished a lease: whatever made a lease can end it.
    fn retired(&self) -> &[Entry] {
        self.retired.get_or_init(|| {
            let kept = |pin: PluginPin| self.shelf.pinned(&pin, self.programs()).ok().flatten();
            self.pins().into_iter().filter_map(kept).flatten().collect()
        })
    }

    fn is_retired(&self, entry: &Entry) -> bool {
        self.retired.get().is_some_and(|all| all.iter().any(|e| std::ptr::eq(e, entry)))
    }

    /// Refuses a new box of a plugin that is kept for its leases alone.
    pub(crate) fn offered(&self, name: &str) -> Result<()> {
        let entry = self.entry(name)?;
        if !self.is_retired(entry) {
            return Ok(());
        }
        let id = &entry.manifest.id;
        let what = format!("plugin {id} was removed, and makes no new boxes for {name}");
        Err(KernelError::new(ErrorCode::ProviderUnknown, what)
            .hint("install it again, or use a box of its leases with --id: `crabbox claims list`")
            .at("plan"))
    }

    /// The plugins that made the leases there are.
    pub(crate) fn pins(&self) -> Vec<PluginPin> {
        let claims = self.claims().all().0.into_iter().filter_map(|claim| claim.plugin);
        let mut pins: Vec<_> = claims.chain(Trail::plugins(&self.state.journal())).collect();
        pins.sort_by(|a, b| a.digest.cmp(&b.digest));
        pins.dedup();
        pins
    }

    /// The provider as it may run: the very plugin that made the lease in question, or one the user agreed to.
    pub(crate) fn vetted(&self, name: &str) -> Result<Cow<'_, Entry>> {
        let entry = self.entry(name)?;
        if let Some(pin) = self.pin.get().filter(|pin| pin.id == entry.manifest.id)
            && let Some(made_it) = self.shelf.pinned(pin, self.programs())?
            && let Some(same) = made_it.into_iter().find(|e| e.provider.name == entry.provider.name)
        {
            self.policy().check_revoked(&pin.id, &pin.digest)?;
            return Ok(Cow::Owned(same));
        }
        if self.is_retired(entry) {
            let pin = entry.pin()?;
            self.policy().check_revoked(&pin.id, &pin.digest)?;
            return Ok(Cow::Borrowed(entry));
        }
        self.required(entry)?;
        if entry.place == Place::Developer {
            self.develops(entry)?;
        }
        match entry.runtime {
            None => return Err(entry.unusable()),
            Some(Runtime::Native) => Libraries::of(&self.values.plugins.native).check(entry)?,
            Some(_) => {}
        }
        match vet(entry, &self.shelf, &self.policy(), self.programs())? {
            Verdict::Run(vetted) => Ok(Cow::Owned(*vetted)),
            Verdict::Ask(proposal) => {
                self.agree(&proposal)?;
                self.shelf.agree(&entry.folder, &entry.manifest, &proposal.files)?;
                match vet(entry, &self.shelf, &self.policy(), self.programs())? {
                    Verdict::Run(vetted) => Ok(Cow::Owned(*vetted)),
                    Verdict::Ask(_) => Err(untrusted(&proposal)),
                }
            }
        }
    }

    /// Holds a plugin against what the repository requires. It can require; it can bring nothing.
    fn required(&self, entry: &Entry) -> Result<()> {
        let requires = &self.values.plugins.requires;
        check_version(&entry.manifest, requires)?;
        let here: Vec<_> = self.catalog.providers().iter().map(|e| &e.manifest).collect();
        let here: Vec<_> = here.iter().map(|m| (m.id.as_str(), m.version.as_str())).collect();
        for line in unmet(requires, &here)? {
            self.terminal.warn(&format!(
                "this repository requires the plugin {line}, which is not here; `crabbox plugin install` it before its providers are used"
            ));
        }
        match (&self.git_root, entry.place) {
            (Some(root), Place::User) => {
                check_lock(root, &entry.manifest, &self.shelf.digest(&entry.folder)?)
            }
            _ => Ok(()),
        }
    }

    /// Says aloud that an unchecked plugin runs.
    fn develops(&self, entry: &Entry) -> Result<()> {
        let folder = entry.folder.display();
        if self.env.get("CI").is_some_and(|ci| !ci.is_empty()) {
            return Err(KernelError::new(
                ErrorCode::PluginUntrusted,
                format!("{folder} is a developer's (--plugin-dev or CRABBOX_PLUGIN_DIR), which is not for CI: nothing checks what it runs"),
            )
            .hint("install the plugin with `crabbox plugin install`"));
        }
        self.terminal.warn(&format!("plugin {} runs unchecked from {folder}", entry.manifest.id));
        Ok(())
    }

    /// What is allowed at all.
    pub(crate) fn policy(&self) -> Policy {
        let plugins = &self.values.plugins;
        let rule = Rule::WORDS.iter().find(|(word, _)| *word == plugins.policy);
        Policy {
            rule: rule.map(|(_, rule)| *rule).unwrap_or_default(),
            allow: plugins.allow.clone(),
            revoked: plugins.revoked.clone(),
        }
    }

    /// Asks the person to agree; without a terminal the answer is no, with the command that says yes.
    pub(crate) fn agree(&self, proposal: &Proposal) -> Result<()> {
        if self.global.json {
            return Err(KernelError { causes: told(proposal), ..untrusted(proposal) });
        }
        told(proposal).iter().for_each(|line| self.terminal.err(line));
        match prompt::confirm("Let it run?") {
            Some(true) => Ok(()),
            Some(false) => Err(KernelError::new(
                ErrorCode::PluginUntrusted,
                format!("plugin {} was not agreed to", proposal.id),
            )),
            None => Err(untrusted(proposal)),
        }
    }

    /// The folder of crabbox's own programs.
    pub(crate) fn programs(&self) -> &Path {
        self.exe.parent().unwrap_or(Path::new("/"))
    }
}

/// A proposal in lines.
pub(crate) fn told(proposal: &Proposal) -> Vec<String> {
    let mut lines = vec![
        format!("plugin {} {}: {}", proposal.id, proposal.version, proposal.description),
        format!("  from {}, {}, runs as {}", proposal.source, proposal.signature, proposal.runtime),
        format!("  files {}", proposal.files),
    ];
    let also = if proposal.is_change { "it now also wants to" } else { "it wants to" };
    match proposal.lines.is_empty() {
        true => lines.push("  its files changed; it wants nothing more than before".to_owned()),
        false => lines.push(format!("  {also}:")),
    }
    lines.extend(
        proposal.lines.iter().map(|line| format!("  - {} ({})", line.text, line.level.word())),
    );
    lines
}

fn untrusted(proposal: &Proposal) -> KernelError {
    let what = match proposal.is_change {
        true => "was changed since it was agreed to",
        false => "was never agreed to",
    };
    KernelError::new(ErrorCode::PluginUntrusted, format!("plugin {} {what}", proposal.id))
        .hint(format!("to agree: {}", proposal.command()))
}

fn rival(name: &str, one: &Entry, other: &Entry) -> KernelError {
    KernelError::new(
        ErrorCode::Config,
        format!(
            "plugins {} and {} both offer a provider called {name}",
            one.manifest.id, other.manifest.id
        ),
    )
    .hint(format!(
        "choose one in the user's configuration: `plugins: {{prefer: [{}={}]}}`",
        one.provider.name, one.manifest.id
    ))
}
