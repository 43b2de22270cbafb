//! `crabbox run`: lease a box, send the tree, run the command, give the box back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_host::Lazy;
use crabbox_kernel::config::Layer;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::lease::Ask;
use crabbox_kernel::lease::acquire::random;
use crabbox_kernel::lease::lock::Patience;
use crabbox_kernel::plan::{Plan, Supply, Sync};
use crabbox_kernel::ports::Stop;
use crabbox_kernel::run::collect::Download;
use crabbox_kernel::run::command::{Action, Command, choose, is_env_name};
use crabbox_kernel::run::process::Console;
use crabbox_kernel::run::{Outcome, run as run_plan};
use crabbox_kernel::time::parse_duration;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::RunId;
use crabbox_schemas::run::Timing;

use crate::args::LeaseFlags;
use crate::checkout::{self, Known};
use crate::console;
use crate::context::Context;
use crate::handle::HandleFile;
use crate::screen::{CaptureFiles, Screen};
use crate::warm;

/// Run a command on a box
///
/// Leases a box, sends the checkout as it is (uncommitted and untracked files included), runs the command there with
/// its output streamed, exits with the command's status, and gives the box back. The command starts at the top of
/// the checkout, and a single word with shell signs in it is a line of shell. With --id an existing box is used and
/// kept.
///
/// A command survives a broken connection: crabbox reaches the box again and goes on where the output stopped. Runs on
/// one work tree take turns; --isolate gives a run a copy of its own. With --detach the command goes on alone:
/// `crabbox attach RUN` follows it, also from another machine that holds the lease.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox run -- pnpm test
  crabbox run --id blue-prawn -- cargo test -p api
  crabbox run --id blue-prawn --detach -- make release
  crabbox run --shell -- 'make && make test | tee log'
  crabbox run --env CI=1 --junit 'reports/*.xml' --download log.txt=out/log.txt -- make test")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) lease: LeaseFlags,
    /// Use this existing box: lease id, slug, machine name or provider id
    #[arg(long, value_name = "BOX")]
    pub(crate) id: Option<String>,
    /// Keep the box afterwards
    #[arg(long)]
    pub(crate) keep: bool,
    /// The box is kept for the next run of a watch.
    #[arg(skip)]
    pub(crate) watched: bool,
    /// Keep the box when the run fails
    #[arg(long)]
    keep_on_failure: bool,
    /// Fail at once when another run uses the work tree
    #[arg(long)]
    no_wait: bool,
    /// Run in a private copy of the tree, beside other runs
    #[arg(long)]
    isolate: bool,
    /// Start the command, print the run's id, and leave it to the box
    #[arg(long, short = 'd', conflicts_with_all = ["sync_only", "pty", "junit", "download", "capture_stdout", "capture_stderr", "keep_on_failure"])]
    pub(crate) detach: bool,
    /// How long to try to reach the box again when the connection breaks
    #[arg(long, value_name = "TIME")]
    reconnect: Option<String>,
    #[command(flatten)]
    pub(crate) sync: SyncFlags,
    #[command(flatten)]
    pub(crate) command: CommandFlags,
    #[command(flatten)]
    evidence: EvidenceFlags,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    words: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sync")]
pub(crate) struct SyncFlags {
    /// Do not touch the tree on the box
    #[arg(long, conflicts_with = "sync_only")]
    pub(crate) no_sync: bool,
    /// Send the tree and run nothing
    #[arg(long)]
    sync_only: bool,
    /// Compare every byte, whatever was remembered
    #[arg(long)]
    checksum: bool,
    /// Send everything anew
    #[arg(long)]
    full_resync: bool,
    /// Send a tree beyond the size limits
    #[arg(long)]
    force_sync_large: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Command")]
pub(crate) struct CommandFlags {
    /// Run the words as one line of shell
    #[arg(long)]
    shell: bool,
    /// Upload this file and run it; the words are its arguments
    #[arg(long, value_name = "FILE", conflicts_with_all = ["script_stdin", "shell"])]
    script: Option<PathBuf>,
    /// Upload standard input and run it; the words are its arguments
    #[arg(long, conflicts_with = "shell")]
    pub(crate) script_stdin: bool,
    /// Pass an environment variable: NAME takes its value from here
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Pass the variables of a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Give the command a terminal
    #[arg(long, short = 't', alias = "tty")]
    pty: bool,
    /// Stop the command after this time, such as 10m
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Evidence")]
struct EvidenceFlags {
    /// Read these JUnit files afterwards; patterns relative to the tree
    #[arg(long, value_name = "PATTERN")]
    junit: Vec<String>,
    /// Copy a file back afterwards, also when the command failed
    #[arg(long, value_name = "REMOTE=LOCAL")]
    download: Vec<String>,
    /// Also write the command's standard output to a file
    #[arg(long, value_name = "FILE")]
    capture_stdout: Option<PathBuf>,
    /// Also write the command's standard error to a file
    #[arg(long, value_name = "FILE")]
    capture_stderr: Option<PathBuf>,
    /// Label for the run's record
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Write the box's handle as JSON to a file
    #[arg(long, value_name = "FILE")]
    lease_output: Option<PathBuf>,
    /// Print where the time went as one JSON line on stderr
    #[arg(long)]
    timing_json: bool,
    /// Write the event stream: jsonl to stderr, or jsonl:FILE
    #[arg(long, value_name = "jsonl[:FILE]")]
    events: Option<String>,
}

impl Args {
    /// Configuration keys these flags set.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let mut all = self.lease.settings();
        let switches = [
            ("sync.checksum", self.sync.checksum),
            ("sync.allowLarge", self.sync.force_sync_large),
        ];
        all.extend(self.reconnect.iter().map(|time| ("run.reconnect".to_owned(), time.clone())));
        all.extend(switches.iter().filter(|s| s.1).map(|s| (s.0.to_owned(), "true".to_owned())));
        all
    }
}

/// Runs and returns the exit status.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let provider = ctx.choose_provider(args.id.as_deref(), args.lease.provider.as_deref())?;
    let stays = args.keep || args.id.is_some();
    let (known, sight) = match stays && !args.sync.no_sync {
        true => warm::look(ctx, &checkout::find(ctx)?.root).await,
        false => (Known::default(), None),
    };
    let mut plan = plan(ctx, &provider, &args, &known)?;
    if let Some(sight) = sight {
        sight.scanned(&plan).await;
    }
    let hears = !(args.command.script_stdin || args.detach);
    if hears {
        plan.input = console::supply();
    }
    let outcome = carry_out(ctx, &provider, &args, &plan, hears, &ctx.stop).await?;
    Ok(outcome.exit_code)
}

/// Carries a plan out and tells how it went. A command that `hears` gets our standard input.
pub(crate) async fn carry_out(
    ctx: &Context,
    provider: &str,
    args: &Args,
    plan: &Plan,
    hears: bool,
    stop: &Stop,
) -> Result<Outcome> {
    if let Some(path) = &args.evidence.lease_output {
        crate::terminal::check_writable(path)?;
    }
    let captures = CaptureFiles::open(
        args.evidence.capture_stdout.as_deref(),
        args.evidence.capture_stderr.as_deref(),
    )?;
    let mut screen =
        Screen::for_run(ctx, plan, provider, captures, args.evidence.events.as_deref())?;
    if let Some(path) = &args.evidence.lease_output {
        screen.hand_over(HandleFile::new(path.clone(), plan));
    }
    let mut console = if hears { console::open() } else { Console::closed() };
    let raw = (hears && args.command.pty).then(console::RawMode::enter).flatten();
    let outcome = match provider_for(ctx, plan, provider).await {
        Ok(provider) => {
            let stays = args.keep || args.id.is_some();
            let dialer = if stays { ctx.warm_dialer() } else { ctx.dialer() };
            let bench = ctx.bench(&provider, &dialer);
            let outcome = run_plan(&bench, plan, &mut console, &mut screen, stop).await;
            provider.close().await;
            outcome
        }
        Err(error) => {
            let timing = Timing { provider: provider.to_owned(), ..Timing::default() };
            Outcome::never_began(error.at("provider"), timing, &mut screen)
        }
    };
    drop(raw);
    let outcome = screen.judge(outcome);
    screen.finish_run(&outcome, ctx.is_superseded(stop));
    if args.evidence.timing_json {
        ctx.terminal.err_json(&outcome.timing);
    }
    Ok(outcome)
}

/// The provider of a run. Only a new box needs its plugin in any case.
async fn provider_for<'a>(ctx: &'a Context, plan: &Plan, name: &str) -> Result<Lazy<'a>> {
    let provider = ctx.provider(name)?;
    if matches!(plan.ask, Ask::New(_)) {
        provider.session().await?;
    }
    Ok(provider)
}

pub(crate) fn plan(ctx: &Context, provider: &str, args: &Args, known: &Known) -> Result<Plan> {
    let run_id = RunId::mint(random()?);
    let values = &ctx.values;
    let timeout = duration("--timeout", args.command.timeout.as_deref())?;
    let own_sync = ctx.entry(provider)?.sends_checkout();
    let mut command = if args.sync.sync_only { None } else { Some(command(ctx, args)?) };
    if args.sync.sync_only && !args.words.is_empty() {
        return Err(KernelError::new(
            ErrorCode::Usage,
            "--sync-only runs nothing, but a command was given",
        ));
    }
    let new_box = args.lease.about_new_boxes().join(", ");
    if args.id.is_some() && !new_box.is_empty() {
        return Err(KernelError::new(
            ErrorCode::Usage,
            format!("--id wants a box that exists, but a new one is described: {new_box}"),
        )
        .hint("leave --id out, or the other flags"));
    }
    let (slug, reclaim) = (args.lease.slug.as_deref(), args.lease.reclaim);
    let ask = match &args.id {
        Some(name) => Ask::Existing { name: name.clone(), reclaim },
        None => Ask::New(ctx.new_lease(provider, args.keep, slug, reclaim)?),
    };
    let downloads = args.evidence.download.iter().map(|d| download(d)).collect::<Result<_>>()?;
    let place = checkout::find(ctx)?;
    let sync = if own_sync {
        if let Some(command) = &mut command {
            leave_defaults(ctx, args, command);
        }
        Sync::Own { asked: asked_of_sync(ctx, args) }
    } else if args.sync.no_sync {
        Sync::Off
    } else {
        checkout::scan(ctx, &place, args.sync.full_resync, known)?
    };
    Ok(Plan {
        ask,
        keep: args.keep.then_some(match args.watched {
            true => "the watch goes on",
            false => "--keep was given",
        }),
        keep_on_failure: args.keep_on_failure,
        repo_name: place.name(),
        repo_root: place.root,
        commits: sync.commits(),
        sync,
        command,
        input: Supply::Nothing,
        detach: args.detach,
        isolate: args.isolate,
        reconnect: values.reconnect,
        owner: format!("{run_id} of {}", ctx.whereabouts()),
        spool_bytes: values.history.max_bytes,
        timeout,
        patience: Patience(if args.no_wait { Duration::ZERO } else { values.lock_wait }),
        junit: if args.evidence.junit.is_empty() {
            values.results_junit.clone()
        } else {
            args.evidence.junit.clone()
        },
        downloads,
        label: args.evidence.label.clone(),
        run_id,
    })
}

/// What was asked of the sync beyond sending the tree.
fn asked_of_sync(ctx: &Context, args: &Args) -> Vec<&'static str> {
    let asked = [
        ("--no-sync", args.sync.no_sync),
        ("--checksum", ctx.values.sync.checksum),
        ("--full-resync", args.sync.full_resync),
        ("--force-sync-large", ctx.values.sync.allow_large),
    ];
    asked.into_iter().filter(|(_, asked)| *asked).map(|(option, _)| option).collect()
}

/// Takes out the variables that nobody asked for, and says so: names that are allowed only by default.
fn leave_defaults(ctx: &Context, args: &Args, command: &mut Command) {
    let flags = &args.command;
    let by_default =
        ctx.settings.get("env.allow").is_none_or(|setting| setting.from.layer == Layer::Default);
    if by_default && flags.env.is_empty() && flags.env_file.is_empty() && !command.env.is_empty() {
        let names = command.env.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        ctx.terminal.warn(&format!("not passed to the command, which gets no variables: {names}"));
        command.env.clear();
    }
}

fn command(ctx: &Context, args: &Args) -> Result<Command> {
    let shown = args.words.iter().map(|w| w.to_string_lossy().into_owned());
    let flags = &args.command;
    let (action, shown) = match (&flags.script, flags.script_stdin) {
        (Some(file), _) => (
            script(read(file)?, args),
            std::iter::once(file.display().to_string()).chain(shown).collect(),
        ),
        (None, true) => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).map_err(|e| {
                KernelError::new(ErrorCode::Usage, "cannot read the script from standard input")
                    .because(&e)
            })?;
            (script(body, args), std::iter::once("<stdin>".to_owned()).chain(shown).collect())
        }
        (None, false) => (choose(args.words.clone(), flags.shell)?, shown.collect()),
    };
    let pty = flags.pty.then(|| console::pty(ctx.env.get("TERM").map(String::as_str)));
    Ok(Command { action, env: environment(ctx, flags)?, pty, shown })
}

fn script(body: Vec<u8>, args: &Args) -> Action {
    Action::Script { body, args: args.words.clone() }
}

/// The command's environment: names allowed by configuration, then files, then flags.
fn environment(ctx: &Context, flags: &CommandFlags) -> Result<BTreeMap<String, OsString>> {
    let mut env = BTreeMap::new();
    for allowed in &ctx.values.env_allow {
        let fits = |name: &str| match allowed.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == allowed,
        };
        env.extend(
            ctx.env
                .iter()
                .filter(|(name, _)| fits(name) && is_env_name(name))
                .map(|(n, v)| (n.clone(), v.into())),
        );
    }
    for file in &flags.env_file {
        for (index, line) in String::from_utf8_lossy(&read(file)?).lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                let line = line.strip_prefix("export ").unwrap_or(line);
                let pair = line.split_once('=').filter(|(name, _)| is_env_name(name));
                let (name, value) = pair.ok_or_else(|| not_a_pair(file, index + 1))?;
                env.insert(name.to_owned(), unquoted(value).into());
            }
        }
    }
    for given in &flags.env {
        match given.split_once('=') {
            Some((name, value)) => env.insert(env_name(name)?, value.into()),
            None => {
                let value = ctx.env.get(given.as_str()).ok_or_else(|| {
                    KernelError::new(
                        ErrorCode::Usage,
                        format!("--env {given}: no such variable here"),
                    )
                    .hint(format!("give it a value: --env {given}=VALUE"))
                })?;
                env.insert(env_name(given)?, value.into())
            }
        };
    }
    Ok(env)
}

/// The line itself may be a secret, or a part of one.
fn not_a_pair(file: &Path, line: usize) -> KernelError {
    let what = format!("{}, line {line}: not NAME=VALUE", file.display());
    KernelError::new(ErrorCode::Usage, what)
        .hint("a name is a letter or _, then letters, digits and _; a value is on one line")
}

fn env_name(name: &str) -> Result<String> {
    if is_env_name(name) {
        return Ok(name.to_owned());
    }
    Err(KernelError::new(ErrorCode::Usage, format!("not an environment name: {name:?}"))
        .hint("a name is a letter or _, then letters, digits and _"))
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(value)
}

fn read(file: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(file).map_err(|e| {
        KernelError::new(ErrorCode::Usage, format!("cannot read {}", file.display())).because(&e)
    })
}

/// A flag that names a duration, when it was given.
pub(crate) fn duration(flag: &str, text: Option<&str>) -> Result<Option<Duration>> {
    let read = |text: &str| {
        parse_duration(text).filter(|t| !t.is_zero()).ok_or_else(|| {
            let what = format!("{flag} wants a duration above zero, not {text:?}");
            KernelError::new(ErrorCode::Usage, what).hint("write 90s, 10m or 1h30m")
        })
    };
    text.map(read).transpose()
}

fn download(text: &str) -> Result<Download> {
    match text.split_once('=') {
        Some((remote, local)) if !remote.is_empty() && !local.is_empty() => {
            Ok(Download { remote: remote.to_owned(), local: PathBuf::from(local) })
        }
        _ => Err(KernelError::new(
            ErrorCode::Usage,
            format!("--download wants REMOTE=LOCAL, not {text:?}"),
        )),
    }
}
