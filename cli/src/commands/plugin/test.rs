//! `plugin test`: the kit plays the kernel and says what a plugin does wrong.

use std::path::PathBuf;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::failed;
use crabbox_kit::{Report, Subject};
use crabbox_plugins::{EVERY, Entry, FlagKind, Place, check_settings, load};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::plugin::UserFacts;
use serde_json::{Map, Value, json};

use crate::context::Context;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing outside this machine is asked, and nothing is paid for, unless the plugin does its own requests.

Examples:
  crabbox plugin test ./rack
  crabbox plugin test ./rack --only I,C2
  crabbox plugin test ./rack --set root=/srv/boxes --junit report.xml"
)]
pub(super) struct Args {
    /// The plugin's folder
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Which of its providers; all without
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// A setting of the provider
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Only checks whose id begins like this, such as I or C2
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    only: Vec<String>,
    /// Checks that are known to fail: they are told, and do not count
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    expect: Vec<String>,
    /// Wait this many times longer than the protocol says, for slow or busy machines
    #[arg(long, value_name = "TIMES", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    patience: u32,
    /// Write a JUnit report to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

pub(super) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let folder = ctx.cwd.join(&args.folder);
    let folder = folder.canonicalize().unwrap_or(folder);
    let entries = load(&folder, Place::Developer, ctx.programs())?;
    let wanted = |entry: &&Entry| args.provider.as_ref().is_none_or(|n| *n == entry.provider.name);
    let entries: Vec<&Entry> = entries.iter().filter(wanted).collect();
    if entries.is_empty() {
        return Err(KernelError::new(ErrorCode::NotFound, "the plugin offers no such provider")
            .hint("look at [[provider]] in its manifest"));
    }
    let (mut broken, mut documents) = (0, Vec::new());
    for entry in entries {
        let report = test(ctx, args, entry)?;
        let unexpected = report.findings.iter().filter(|finding| {
            finding.is_broken() && !args.expect.iter().any(|id| id == finding.id)
        });
        broken += unexpected.count();
        if let Some(path) = &args.junit {
            let path = ctx.cwd.join(path);
            let text = report.junit(&format!("crabbox plugin test {}", entry.provider.name));
            std::fs::write(&path, text).map_err(|e| failed("cannot write", &path, &e))?;
        }
        documents.push(document(entry, &report));
    }
    if ctx.global.json {
        ctx.terminal.out_json(&json!({"schemaVersion": SCHEMA_VERSION, "providers": documents}));
    }
    Ok(i32::from(broken > 0))
}

fn test(ctx: &Context, args: &Args, entry: &Entry) -> Result<Report> {
    let config = settings(entry, &args.set)?;
    check_settings(entry, &config)?;
    let state = tempfile::tempdir()
        .map_err(|e| failed("cannot make a folder in", std::path::Path::new("TMPDIR"), &e))?;
    let user = UserFacts {
        home: ctx.env.get("HOME").cloned().unwrap_or_default(),
        path: ctx.env.get("PATH").cloned().unwrap_or_default(),
        login: ctx.login(),
    };
    let granted = &entry.manifest.grants.env;
    let granted = |name: &str| granted.iter().any(|granted| granted == EVERY || granted == name);
    let env = ctx.env.iter().filter(|(name, _)| granted(name));
    let env = env.map(|(name, value)| (name.clone(), value.clone())).collect();
    let (entry, patience) = (entry.clone(), args.patience);
    let subject = Subject { entry, config, user, env, state, patience };
    let tell = |finding: &crabbox_kit::Finding| {
        if !ctx.global.json {
            finding.lines().iter().for_each(|line| ctx.terminal.out(line));
        }
    };
    let report = crabbox_kit::test(&subject, &args.only, tell);
    let [passed, failed, warned, skipped] = report.counts();
    ctx.terminal.err(&format!(
        "{}: {passed} passed, {failed} failed, {warned} warnings, {skipped} skipped",
        subject.entry.provider.name
    ));
    Ok(report)
}

fn document(entry: &Entry, report: &Report) -> Value {
    let [passed, failed, warnings, skipped] = report.counts();
    json!({
        "provider": entry.provider.name, "plugin": entry.manifest.id, "version": entry.manifest.version,
        "passed": passed, "failed": failed, "warnings": warnings, "skipped": skipped,
        "checks": report.json(),
    })
}

/// `KEY=VALUE` pairs as settings, each read as its schema says.
fn settings(entry: &Entry, pairs: &[String]) -> Result<Map<String, Value>> {
    let mut config = Map::new();
    for pair in pairs {
        let usage = |why: String| {
            KernelError::new(ErrorCode::Usage, why)
                .hint(format!("`crabbox plugin info {}` names its settings", entry.manifest.id))
        };
        let Some((key, text)) = pair.split_once('=') else {
            return Err(usage(format!("{pair} is no KEY=VALUE")));
        };
        let flag = entry.flags.iter().find(|flag| flag.config_key == key);
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
