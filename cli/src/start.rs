//! The outside world, read once: arguments, environment, directories, the executable's own place.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_host::Transcript;
use crabbox_kernel::config::{self, Sources};
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::helper::Binaries;
use crabbox_kernel::lease::reap;
use crabbox_kernel::state::State;
use crabbox_plugins::{Catalog, Places, Shelf, discover};
use crabbox_schemas::error::ErrorCode;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::SystemClock;
use crate::commands::Cli;
use crate::context::Context;
use crate::flags::Wanted;
use crate::signals;
use crate::terminal::Terminal;

/// Where administrators put plugins.
const SYSTEM_PLUGINS: &[&str] = &["/usr/local/lib/crabbox/plugins", "/usr/lib/crabbox/plugins"];

/// What the process was given.
pub(crate) struct Outside {
    /// The arguments, program name first.
    pub(crate) words: Vec<OsString>,
    env: BTreeMap<String, String>,
    cwd: std::io::Result<PathBuf>,
    exe: std::io::Result<PathBuf>,
}

impl Outside {
    /// Reads it. Environment entries that are not UTF-8 are left out.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn read() -> Self {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            words: renamed(std::env::args_os().collect()),
            env: std::env::vars_os().filter_map(text).collect(),
            cwd: std::env::current_dir(),
            exe: std::env::current_exe(),
        }
    }

    /// Whether the user asked for no colour.
    pub(crate) fn no_colour(&self) -> bool {
        self.env.get("NO_COLOR").is_some_and(|v| !v.is_empty())
            || self.env.get("TERM").is_some_and(|t| t == "dumb")
    }

    /// The first-party tool beside this executable that the command line means.
    pub(crate) fn tool(&self) -> Option<PathBuf> {
        crate::tools::beside(self.exe.as_ref().ok()?, &self.words)
    }

    /// Every plugin that can be found.
    pub(crate) fn catalog(&self) -> Result<Catalog> {
        let exe = self.exe.as_ref().map_err(|e| lost("this program's own file", e))?;
        let named = self.env.get("CRABBOX_PLUGIN_DIR").map(String::as_str).unwrap_or_default();
        let named = named.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from);
        let developed = self.given("--plugin-dev").into_iter().map(PathBuf::from);
        let shelf = self.shelf();
        Ok(discover(&Places {
            developer: developed.chain(named).collect(),
            user: shelf.folders(),
            system: SYSTEM_PLUGINS.iter().map(PathBuf::from).collect(),
            index: shelf.root().is_dir().then(|| shelf.index()),
            ..Places::beside(exe)
        }))
    }

    /// Which of the providers' flags this command line needs; help shows those of the provider that would be used.
    pub(crate) fn wanted(&self, catalog: &Catalog) -> Wanted {
        let words: Vec<_> = self.own_words().map(|w| w.to_string_lossy().into_owned()).collect();
        if !words.iter().any(|word| ["help", "--help", "-h"].contains(&word.as_str())) {
            return Wanted::among(&words);
        }
        let default = || catalog.embedded_default().map(|entry| entry.provider.name.clone());
        Wanted::Of(self.provider().or_else(default))
    }

    /// The words before a command that is to be run.
    fn own_words(&self) -> impl Iterator<Item = &OsString> {
        self.words.iter().take_while(|word| *word != "--")
    }

    /// The provider that would be used, as far as it can be told before the command line is parsed.
    fn provider(&self) -> Option<String> {
        let named = self.given("--provider").pop().map(|name| name.to_string_lossy().into_owned());
        named.or_else(|| self.configured())
    }

    fn configured(&self) -> Option<String> {
        let cwd = self.cwd.as_ref().ok()?;
        let sources = Sources {
            cwd: cwd.clone(),
            git_root: git_root(cwd),
            user_config_dir: state(&self.env).ok()?.config,
            env: self.env.clone(),
            flags: Vec::new(),
        };
        config::load(&sources).ok()?.0.values().provider
    }

    /// What a flag was given, before the command line can be parsed.
    fn given(&self, flag: &str) -> Vec<OsString> {
        let mut words = self.own_words();
        let mut found = Vec::new();
        while let Some(word) = words.next() {
            if word == flag {
                found.extend(words.next().cloned());
            } else if let Some(value) = word
                .to_str()
                .and_then(|w| w.strip_prefix(flag))
                .and_then(|rest| rest.strip_prefix('='))
            {
                found.push(value.into());
            }
        }
        found
    }

    /// The user's own plugins.
    fn shelf(&self) -> Shelf {
        let absolute = |name| self.env.get(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = absolute("HOME");
        let data = if cfg!(target_os = "macos") {
            home.map(|home| home.join("Library/Application Support"))
        } else {
            absolute("XDG_DATA_HOME").or_else(|| home.map(|home| home.join(".local/share")))
        };
        Shelf::new(data.unwrap_or_else(|| PathBuf::from("/nonexistent")).join("crabbox/plugins"))
    }

    /// Everything a command needs.
    pub(crate) fn context(
        self,
        cli: &Cli,
        mut catalog: Catalog,
        provider_flags: Vec<(String, String, String)>,
    ) -> Result<Context> {
        let (no_colour, shelf) = (self.no_colour(), self.shelf());
        let cwd = self.cwd.map_err(|e| lost("the current directory", &e))?;
        let exe = self.exe.map_err(|e| lost("this program's own file", &e))?;
        let terminal = Terminal::new(cli.global.quiet, cli.global.debug, no_colour);
        logging(cli.global.debug);
        let state = state(&self.env)?;
        let git_root = git_root(&cwd);
        let mut flags = cli.command.settings();
        flags.extend(
            cli.global.no_daemon.then(|| ("daemon.enabled".to_owned(), "false".to_owned())),
        );
        flags.extend(cli.global.profile.iter().map(|p| ("profile".to_owned(), p.clone())));
        let sources = Sources {
            cwd: cwd.clone(),
            git_root: git_root.clone(),
            user_config_dir: state.config.clone(),
            env: self.env.clone(),
            flags,
        };
        let (settings, warnings) = config::load(&sources).map_err(|e| e.at("config"))?;
        for warning in warnings {
            terminal.warn(&warning.to_string());
        }
        let (wish, stop) = signals::watch().map_err(|e| {
            KernelError::new(ErrorCode::Internal, "cannot watch for signals").because(&e)
        })?;
        if !cli.global.plugin_dev.is_empty() {
            catalog.problems.iter().for_each(|problem| terminal.warn(&problem.to_string()));
        }
        let values = settings.values();
        let choices = values.plugins.prefer.iter();
        let choices = choices.filter_map(|choice| choice.split_once('='));
        catalog.prefer(&choices.map(|(p, id)| (p.to_owned(), id.to_owned())).collect::<Vec<_>>());
        for choice in &values.plugins.runtime {
            catalog
                .choose(choice, exe.parent().unwrap_or(Path::new("/")))
                .map_err(|e| e.at("config"))?;
        }
        let transcript = cli.global.plugin_transcript.as_deref().map(transcript).transpose()?;
        Ok(Context {
            shelf,
            transcript,
            pin: OnceCell::new(),
            retired: OnceCell::new(),
            env: self.env,
            cwd,
            binaries: exe.parent().map_or_else(Binaries::none, |dir| Binaries::in_dir(dir.into())),
            exe,
            git_root,
            state,
            settings,
            values,
            catalog,
            provider_flags,
            global: cli.global.clone(),
            terminal,
            clock: SystemClock::new(),
            daemon: OnceCell::new(),
            wish,
            stop,
        })
    }
}

/// The original's two-word names of `list` and `cleanup` go on working.
fn renamed(mut words: Vec<OsString>) -> Vec<OsString> {
    let old = [("pool", "list"), ("machine", "cleanup")];
    let given = |at: usize, name: &str| words.get(at).is_some_and(|word| word == name);
    if old.iter().any(|(group, name)| given(1, group) && given(2, name)) {
        words.remove(1);
    }
    words
}

/// Whether a directory is the top of a git work tree: it holds a repository, or a file that points to one.
fn git_root(cwd: &Path) -> Option<PathBuf> {
    let is_root = |dir: &&Path| {
        let git = dir.join(".git");
        git.is_file() || git.join("HEAD").exists()
    };
    cwd.ancestors().find(is_root).map(Path::to_owned)
}

/// Diagnostics of every crate go to stderr with `--debug`.
fn logging(debug: bool) {
    if !debug {
        return;
    }
    let crates =
        ["kernel", "daemon", "host", "remote", "cli"].map(|name| format!("crabbox_{name}"));
    // What plugins say on their standard error has a name of its own.
    let told = crates.into_iter().chain(["plugin".to_owned()]);
    let filter: Targets = told.map(|name| (name, LevelFilter::DEBUG)).collect();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// Where this user's state and configuration live.
fn state(env: &BTreeMap<String, String>) -> Result<State> {
    let absolute = |name: &str| env.get(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = absolute("HOME");
    let config = if cfg!(target_os = "macos") {
        home.as_ref().map(|h| h.join("Library/Application Support"))
    } else {
        absolute("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|h| h.join(".config")))
    };
    let config = config
        .ok_or_else(|| {
            KernelError::new(ErrorCode::State, "there is no home directory to keep state in")
                .hint("set HOME")
        })?
        .join("crabbox");
    let root =
        absolute("XDG_STATE_HOME").map_or_else(|| config.join("state"), |dir| dir.join("crabbox"));
    Ok(State { root, config })
}

/// Says which leases interrupted commands left behind.
pub(crate) fn tell_open_leases(ctx: &Context) {
    for open in reap::open(&ctx.state) {
        ctx.terminal.warn(&format!(
            "lease {} on {} is open: {}; run `crabbox cleanup`",
            open.desired.slug, open.provider, open.reason
        ));
    }
}

fn lost(what: &str, error: &std::io::Error) -> KernelError {
    KernelError::new(ErrorCode::State, format!("cannot find {what}")).because(error)
}

/// The file that `--plugin-transcript` names.
fn transcript(path: &Path) -> Result<Arc<Transcript>> {
    Transcript::create(path).map(Arc::new).map_err(|e| {
        let what = format!("cannot write the transcript {}", path.display());
        KernelError::new(ErrorCode::Usage, what)
            .because(&e)
            .hint("name a file in a folder that you may write to")
    })
}
