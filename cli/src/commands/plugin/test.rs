//! `plugin test`: the kit plays the kernel and says what a plugin does wrong.

use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::Urgency;
use crabbox_kernel::state::failed;
use crabbox_kit::{Report, Subject, junit};
use crabbox_plugins::{Entry, FlagKind, Libraries, Place, Written, check_settings, load, passes};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::{PluginTestView, TestedProvider};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::Runtime;
use crabbox_schemas::plugin::{ProviderKind, UserFacts};
use serde_json::{Map, Value, json};

use crate::context::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing outside this machine is asked, and nothing is paid for, unless the plugin does its own requests.

Examples:
  crabbox plugin test ./rack
  crabbox plugin test ./rack --only I,C2
  crabbox plugin test ./rack --runtime all
  crabbox plugin test ./rack --cassette ./rack/cassette.jsonl
  crabbox plugin test ./rack --set root=/srv/boxes --junit report.xml"
)]
pub(super) struct Args {
    /// The plugin's folder
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Which of its providers; all without
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Which of its artifacts: stdio, wasm, wasi-stdio, native, or all; the one crabbox would run without
    #[arg(long, value_name = "RUNTIME", value_parser = ["stdio", "wasm", "wasi-stdio", "native", "all"])]
    runtime: Option<String>,
    /// A setting of the provider
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Only the check of this id, or all of a letter, such as C2 or I
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Checks that are known to fail: they are told, and do not count
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    expect: Vec<String>,
    /// Wait this many times longer than the protocol says, for slow or busy machines
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    patience: u32,
    /// Recorded exchanges that answer what it asks of services and tools
    #[arg(long, value_name = "FILE")]
    cassette: Option<PathBuf>,
    /// Write a JUnit report to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

pub(super) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let folder = ctx.cwd.join(&args.folder);
    let folder = folder.canonicalize().unwrap_or(folder);
    let entries = load(&folder, Place::Developer, ctx.programs())?;
    let kind = kind(ctx)?;
    let wanted = |entry: &&Entry| {
        args.provider.as_ref().is_none_or(|n| *n == entry.provider.name)
            && kind.is_none_or(|kind| kind == entry.provider.kind)
    };
    let entries = entries.iter().filter(wanted);
    let entries: Vec<Entry> =
        entries.map(|e| artifacts(ctx, args, e)).collect::<Result<Vec<_>>>()?.concat();
    if entries.is_empty() {
        return Err(KernelError::new(ErrorCode::NotFound, "the plugin offers no such provider")
            .hint("look at [[provider]] in its manifest"));
    }
    if let Some(entry) = entries.iter().find(|entry| !entry.artifact.exists()) {
        let name = entry.artifact.file_name().unwrap_or_default().display();
        let missing = format!("there is no {name} in {}", entry.folder.display());
        return Err(KernelError::new(ErrorCode::NotFound, missing)
            .hint("build it first; [[artifact]] in its manifest says where it must be"));
    }
    let (mut broken, mut documents, mut suites) = (0, Vec::new(), Vec::new());
    for entry in &entries {
        let report = test(ctx, args, entry)?;
        if ctx.stop.urgency() > Urgency::None {
            return Err(KernelError::new(ErrorCode::Cancelled, "interrupted"));
        }
        let unexpected = report.findings.iter().filter(|finding| {
            finding.is_broken() && !args.expect.iter().any(|id| id == finding.id)
        });
        broken += unexpected.count();
        let runtime = entry.runtime.map_or("", Runtime::word);
        suites.push(report.suite(&format!("{} {runtime}", entry.provider.name)));
        documents.push(document(entry, &report));
    }
    if let Some(path) = &args.junit {
        let path = ctx.cwd.join(path);
        let text = junit(&suites);
        std::fs::write(&path, text).map_err(|e| {
            failed("cannot write", &path, &e).hint("name a file that you may write, with --junit")
        })?;
    }
    if ctx.global.json {
        let (schema_version, providers) = (SCHEMA_VERSION, documents);
        ctx.terminal.out_json(&PluginTestView { schema_version, providers });
    }
    Ok(i32::from(broken > 0))
}

/// The kind of provider that `--profile` names: here it is none of a configuration.
fn kind(ctx: &Context) -> Result<Option<ProviderKind>> {
    match ctx.global.profile.as_deref() {
        None => Ok(None),
        Some("ssh-lease") => Ok(Some(ProviderKind::SshLease)),
        Some("delegated" | "delegated-run") => Ok(Some(ProviderKind::DelegatedRun)),
        Some(other) => Err(KernelError::new(
            ErrorCode::Usage,
            format!("--profile {other} names no kind of provider"),
        )
        .hint("a test has the profiles `ssh-lease` and `delegated`")),
    }
}

/// The provider by each artifact that is to be tested.
fn artifacts(ctx: &Context, args: &Args, entry: &Entry) -> Result<Vec<Entry>> {
    let word = args.runtime.as_deref();
    let mut wanted: Vec<Runtime> = entry.manifest.artifacts.iter().map(|a| a.runtime).collect();
    wanted.dedup();
    wanted.retain(|runtime| matches!(word, Some("all")) || word == Some(runtime.word()));
    let libraries = Libraries::of(&ctx.values.plugins.native);
    if wanted.contains(&Runtime::Native)
        && let Err(refused) = libraries.check(entry)
    {
        if word != Some("all") {
            return Err(refused);
        }
        ctx.terminal.warn(&format!("not tested as native: {refused}"));
        wanted.retain(|runtime| *runtime != Runtime::Native);
    }
    match (word, wanted.is_empty()) {
        (None, _) if entry.runtime.is_none() => return Err(entry.unusable()),
        (None, _) => return Ok(vec![entry.clone()]),
        (Some(word), true) => {
            let what = format!("the plugin has no {word} artifact");
            return Err(KernelError::new(ErrorCode::NotFound, what)
                .hint("look at [[artifact]] in its manifest"));
        }
        _ => {}
    }
    wanted
        .into_iter()
        .map(|runtime| entry.by(runtime, ctx.programs()).ok_or_else(|| entry.unusable()))
        .collect()
}

fn test(ctx: &Context, args: &Args, entry: &Entry) -> Result<Report> {
    let config = settings(entry, &args.set)?;
    check_settings(entry, &config, &Written::default())?;
    let state = tempfile::tempdir()
        .map_err(|e| failed("cannot make a folder in", std::path::Path::new("TMPDIR"), &e))?;
    let user = UserFacts {
        home: ctx.env.get("HOME").cloned().unwrap_or_default(),
        path: ctx.env.get("PATH").cloned().unwrap_or_default(),
        login: ctx.login(),
    };
    let (cache, patience) = (ctx.env.get("XDG_CACHE_HOME").cloned(), args.patience);
    let cassette = args.cassette.as_ref().map(|path| cassette(&ctx.cwd.join(path))).transpose()?;
    let env = ctx.env.iter().filter(|(name, _)| passes(&entry.manifest.grants, name));
    let env = env.map(|(name, value)| (name.clone(), value.clone())).collect();
    let twin = twin(ctx, entry);
    let subject =
        Subject { entry: entry.clone(), twin, config, user, env, state, cache, cassette, patience };
    let tell = |finding: &crabbox_kit::Finding| {
        if !ctx.global.json {
            finding.lines().iter().for_each(|line| ctx.terminal.out(line));
        }
        ctx.stop.urgency() == Urgency::None
    };
    let known = |id: &&String| crabbox_kit::all().any(|check| crabbox_kit::names(id, check));
    if let Some(unknown) = args.only.iter().find(|id| !known(id)) {
        let what = format!("--only {unknown} is neither a check nor the letter of some");
        return Err(KernelError::new(ErrorCode::Usage, what)
            .hint("`crabbox plugin test FOLDER` without it names every check it runs"));
    }
    let report = crabbox_kit::test(&subject, &args.only, tell);
    let [passed, failed, warned, skipped] = report.counts();
    ctx.terminal.err(&format!(
        "{} as {}: {passed} passed, {failed} failed, {warned} warnings, {skipped} skipped",
        entry.provider.name,
        entry.runtime.map_or("nothing", Runtime::word),
    ));
    Ok(report)
}

/// The program that does the same as a sandboxed artifact, when it was built.
fn twin(ctx: &Context, entry: &Entry) -> Option<Entry> {
    let sandboxed = entry.runtime.is_some_and(Runtime::is_sandboxed);
    let twin = sandboxed.then(|| entry.by(Runtime::Stdio, ctx.programs()))??;
    twin.artifact.is_file().then_some(twin)
}

/// The lines of a cassette: a file, or all `.jsonl` files of a folder.
fn cassette(path: &Path) -> Result<String> {
    let cannot = |e: std::io::Error| {
        failed("cannot read", path, &e)
            .hint("name a file of recorded exchanges, or a folder of .jsonl files, with --cassette")
    };
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(cannot)?.flatten().map(|e| e.path());
        files = entries.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
        files.sort();
    }
    let texts = files.iter().map(std::fs::read_to_string).collect::<std::io::Result<Vec<_>>>();
    let text = texts.map_err(cannot)?.join("\n");
    crabbox_kit::check_cassette(&text).map_err(|why| {
        let mut error =
            KernelError::new(ErrorCode::Config, format!("{} is no cassette", path.display()));
        error.causes.push(why);
        error.hint("its form is in docs/plugins.md")
    })?;
    Ok(text)
}

fn document(entry: &Entry, report: &Report) -> TestedProvider {
    let [passed, failed, warnings, skipped] = report.counts().map(|count| count as u64);
    TestedProvider {
        provider: entry.provider.name.clone(),
        plugin: entry.manifest.id.clone(),
        version: entry.manifest.version.clone(),
        runtime: entry.runtime.map(|runtime| runtime.word().to_owned()),
        passed,
        failed,
        warnings,
        skipped,
        checks: report.rows(),
    }
}

/// `KEY=VALUE` pairs as settings, each read as its schema says.
fn settings(entry: &Entry, pairs: &[String]) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    let known: Vec<_> = entry.flags().iter().map(|flag| flag.config_key.as_str()).collect();
    for pair in pairs {
        let usage = |why: String| {
            KernelError::new(ErrorCode::Usage, why).hint(match known.is_empty() {
                true => "it has no settings: leave --set out".to_owned(),
                false => format!("its settings: {}", known.join(", ")),
            })
        };
        let Some((key, text)) = pair.split_once('=') else {
            return Err(usage(format!("{pair} is no KEY=VALUE")));
        };
        let flag = entry.flags().iter().find(|flag| flag.config_key == key);
        let flag = flag.ok_or_else(|| usage(format!("there is no setting {key}")))?;
        let value = match flag.kind {
            FlagKind::Text | FlagKind::Choice(_) => json!(text),
            FlagKind::List => json!(text.split(',').collect::<Vec<_>>()),
            _ => serde_json::from_str(text)
                .map_err(|e| usage(format!("{key} cannot be {text}")).because(&e))?,
        };
        match key.split_once('.') {
            Some((outer, inner)) => config.entry(outer).or_insert_with(|| json!({}))[inner] = value,
            None => drop(config.insert(key.to_owned(), value)),
        }
    }
    Ok(config)
}
