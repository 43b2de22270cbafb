//! One configured host and the lease it stands for.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{
    Failure, Instance, Lease, LeaseId, SshAuth, SshEndpoint, label_value, settings,
};

use crate::settings::Settings;

/// What a box must have before it counts as ready.
const READY_CHECK: &str = "command -v tar >/dev/null";

/// A checked host.
pub(crate) struct Host {
    settings: Settings,
    fallback_ports: Vec<u16>,
    id: LeaseId,
    slug: String,
    key_file: Option<String>,
    login: String,
}

impl Host {
    /// The configured host, `None` when there is none.
    pub(crate) fn open(instance: &Instance) -> Result<Option<Self>, Failure> {
        let settings: Settings = settings(instance)?;
        settings.check()?;
        if settings.host.is_empty() {
            return Ok(None);
        }
        operating_system(&settings, None)?;
        let shown = if settings.name.is_empty() { &settings.host } else { &settings.name };
        let slug = normalise(shown);
        if slug.is_empty() {
            return Err(Failure::invalid_config(
                "/name",
                format!("no short name can be made from {shown:?}"),
            )
            .hint("set static.name to a word of letters and digits"));
        }
        let key_file =
            (!settings.key.is_empty()).then(|| expand(&settings.key, &instance.user.home));
        Ok(Some(Self {
            fallback_ports: settings.fallback()?,
            id: lease_id(&settings)?,
            slug,
            key_file,
            login: instance.user.login.clone(),
            settings,
        }))
    }

    pub(crate) fn id(&self) -> &LeaseId {
        &self.id
    }

    pub(crate) fn host(&self) -> &str {
        &self.settings.host
    }

    /// The host as people write it: `user@host:port`, as far as it is set.
    pub(crate) fn destination(&self) -> String {
        let Settings { host, user, port, .. } = &self.settings;
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let port = if *port == 0 { String::new() } else { format!(" port {port}") };
        format!("{user}{host}{port}")
    }

    /// Whether a name the user typed means this host.
    pub(crate) fn answers_to(&self, name: &str) -> bool {
        name == self.id.as_str()
            || name == self.slug
            || name == self.host()
            || name == self.settings.name
    }

    /// The lease, for the system and work root that are asked for unless the settings name others.
    pub(crate) fn lease(
        &self,
        wanted: Option<&str>,
        root: Option<String>,
    ) -> Result<Lease, Failure> {
        let target = operating_system(&self.settings, wanted)?;
        let server_type = if target == "macos" { "macos" } else { "ssh" };
        Ok(Lease {
            lease_id: self.id.clone(),
            slug: self.slug.clone(),
            name: self.host().to_owned(),
            cloud_id: self.id.as_str().to_owned(),
            status: "active".to_owned(),
            server_type: server_type.to_owned(),
            labels: self.labels(target, server_type),
            work_root: Some(self.work_root(target, root)),
            ssh: Some(self.endpoint()),
        })
    }

    fn labels(&self, target: &str, server_type: &str) -> BTreeMap<String, String> {
        let rows = [
            ("crabbox", "true"),
            ("created_by", "crabbox"),
            ("keep", "true"),
            ("lease", self.id.as_str()),
            ("provider", "ssh"),
            ("server_type", server_type),
            ("slug", &self.slug),
            ("state", "ready"),
            ("target", target),
        ];
        rows.map(|(key, value)| (key.to_owned(), label_value(value))).into()
    }

    fn work_root(&self, target: &str, asked: Option<String>) -> String {
        if !self.settings.work_root.is_empty() {
            return self.settings.work_root.clone();
        }
        if let Some(asked) = asked.filter(|root| root.starts_with('/')) {
            return asked;
        }
        let user = if self.settings.user.is_empty() { &self.login } else { &self.settings.user };
        match target {
            "macos" if !user.is_empty() => format!("/Users/{user}/crabbox"),
            "macos" => "/Users/Shared/crabbox".to_owned(),
            _ => "/work/crabbox".to_owned(),
        }
    }

    fn endpoint(&self) -> SshEndpoint {
        let auth = if self.key_file.is_some() { SshAuth::KeyFile } else { SshAuth::User };
        SshEndpoint {
            user: self.settings.user.clone(),
            host: self.host().to_owned(),
            port: self.settings.port,
            fallback_ports: self.fallback_ports.clone(),
            auth,
            key_file: self.key_file.clone(),
            ready_check: Some(READY_CHECK.to_owned()),
            ..SshEndpoint::default()
        }
    }
}

/// The host's system. What is asked for may be refused but never ignored: Windows always fails.
fn operating_system<'a>(
    settings: &'a Settings,
    wanted: Option<&'a str>,
) -> Result<&'a str, Failure> {
    let wanted = wanted.filter(|wanted| !wanted.is_empty());
    let configured = Some(&*settings.target).filter(|configured| !configured.is_empty());
    let refused = [wanted, configured].into_iter().flatten().find(|os| !supported(os));
    match refused {
        Some(other) => {
            Err(Failure::unsupported(format!("the ssh provider cannot use {other:?} hosts yet"))
                .hint("use a linux or macos host"))
        }
        None => Ok(configured.or(wanted).unwrap_or("linux")),
    }
}

fn supported(os: &str) -> bool {
    matches!(os, "linux" | "macos")
}

/// `static.id` when it is a lease id already, else `static_` and the normalised id or host.
fn lease_id(settings: &Settings) -> Result<LeaseId, Failure> {
    if let Some(id) = LeaseId::parse(&settings.id) {
        return Ok(id);
    }
    let (field, source) =
        if settings.id.is_empty() { ("/host", &settings.host) } else { ("/id", &settings.id) };
    LeaseId::parse(&format!("static_{}", normalise(source))).ok_or_else(|| {
        Failure::invalid_config(field, format!("no lease id can be made from {source:?}"))
            .hint("set static.id to a word of letters and digits")
    })
}

/// Lowercase letters and digits, every other run one `-`, none at the ends.
fn normalise(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// `~/` means the user's home directory.
fn expand(path: &str, home: &str) -> String {
    match path.strip_prefix("~/") {
        Some(rest) if !home.is_empty() => format!("{}/{rest}", home.trim_end_matches('/')),
        _ => path.to_owned(),
    }
}
