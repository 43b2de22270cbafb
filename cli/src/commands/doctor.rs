//! `crabbox doctor`: is everything in place? It looks and changes nothing.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crabbox_kernel::error::Result;
use crabbox_kernel::lease::reap;
use crabbox_kernel::ports::{Clock, Provider};
use crabbox_schemas::plugin::CheckStatus;
use crabbox_schemas::view::{DoctorCheck, DoctorView};

use crate::context::Context;

/// Check configuration, repository, local state, plugins and provider
///
/// Changes nothing and leases nothing. Exits 1 when a check fails.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox doctor
  crabbox doctor --provider ssh --json")]
pub(crate) struct Args {
    /// Provider to check; the configured one when left out
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

/// How long a provider may take to answer.
const PROVIDER_LIMIT: Duration = Duration::from_secs(10);

/// Looks at everything.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    let mut checks = config(ctx);
    checks.push(repository(ctx));
    checks.extend(state(ctx));
    checks.extend(plugins(ctx));
    checks.extend(provider(ctx, args.provider.as_deref()).await);
    let healthy = checks.iter().all(|c| c.status != CheckStatus::Fail);
    if ctx.global.json {
        let schema_version = crabbox_schemas::SCHEMA_VERSION;
        ctx.terminal.out_json(&DoctorView { schema_version, healthy, mutation: false, checks });
    } else {
        for c in &checks {
            ctx.terminal.out(&format!("{} {}.{} {}", word(c.status), c.category, c.id, c.message));
            if let Some(remedy) = c.remediation.as_ref().filter(|_| c.status != CheckStatus::Ok) {
                ctx.terminal.out(&format!("     {remedy}"));
            }
        }
    }
    Ok(i32::from(!healthy))
}

fn word(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Ok => "ok     ",
        CheckStatus::Warn => "warning",
        CheckStatus::Fail => "failed ",
        CheckStatus::Skip => "skipped",
    }
}

fn check(
    category: &str,
    id: &str,
    status: CheckStatus,
    message: String,
    remedy: Option<&str>,
) -> DoctorCheck {
    DoctorCheck {
        category: category.to_owned(),
        id: id.to_owned(),
        status,
        message,
        remediation: remedy.map(str::to_owned),
    }
}

fn config(ctx: &Context) -> Vec<DoctorCheck> {
    let mut checks: Vec<_> = ctx
        .settings
        .files
        .iter()
        .map(|file| {
            let path = file.path.display();
            if file.is_exposed() {
                let remedy = format!("chmod 600 {path}");
                check(
                    "config",
                    "mode",
                    CheckStatus::Fail,
                    format!("{path} can be read by others"),
                    Some(&remedy),
                )
            } else {
                check("config", "file", CheckStatus::Ok, path.to_string(), None)
            }
        })
        .collect();
    if checks.is_empty() {
        checks.push(check(
            "config",
            "file",
            CheckStatus::Ok,
            "no configuration file; defaults are used".into(),
            None,
        ));
    }
    let unused = ctx.settings.unknown.iter().map(|(key, origin)| {
        let remedy = "`crabbox config show` lists unused keys";
        check(
            "config",
            "unused",
            CheckStatus::Warn,
            format!("{key} ({}) is not used", origin.place),
            Some(remedy),
        )
    });
    checks.extend(unused);
    checks
}

fn repository(ctx: &Context) -> DoctorCheck {
    match &ctx.git_root {
        Some(root) => check(
            "repository",
            "git",
            CheckStatus::Ok,
            format!("git work tree {}", root.display()),
            None,
        ),
        None => check(
            "repository",
            "git",
            CheckStatus::Warn,
            format!(
                "{} is not in a git work tree; it is sent as a plain directory",
                ctx.cwd.display()
            ),
            Some("`crabbox sync-plan` shows what would be sent"),
        ),
    }
}

fn state(ctx: &Context) -> Vec<DoctorCheck> {
    let root = &ctx.state.root;
    let first = match std::fs::metadata(root) {
        Err(_) => check(
            "state",
            "dir",
            CheckStatus::Ok,
            format!("{} will be made when needed", root.display()),
            None,
        ),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            let remedy = format!("chmod 700 {}", root.display());
            let message = format!("{} can be entered by others", root.display());
            check("state", "mode", CheckStatus::Fail, message, Some(&remedy))
        }
        Ok(_) => check("state", "dir", CheckStatus::Ok, root.display().to_string(), None),
    };
    let open = reap::open(&ctx.state).into_iter().map(|o| {
        let message = format!("lease {} on {} is open: {}", o.desired.slug, o.provider, o.reason);
        check(
            "state",
            "open-lease",
            CheckStatus::Warn,
            message,
            Some("`crabbox cleanup` finishes it"),
        )
    });
    let damaged = ctx.claims().all().1.into_iter().map(|problem| {
        check("state", "claim", CheckStatus::Warn, problem, Some("move the damaged file away"))
    });
    std::iter::once(first).chain(open).chain(damaged).collect()
}

fn plugins(ctx: &Context) -> Vec<DoctorCheck> {
    if ctx.catalog.providers().is_empty() {
        let remedy = "reinstall crabbox; in a source checkout build the whole workspace";
        return vec![check(
            "plugins",
            "found",
            CheckStatus::Fail,
            "no plugin was found".into(),
            Some(remedy),
        )];
    }
    ctx.catalog
        .providers()
        .iter()
        .map(|entry| {
            let name = &entry.provider.name;
            if entry.program.is_file() {
                let message =
                    format!("{name} from {} {}", entry.manifest.id, entry.manifest.version);
                check("plugins", name, CheckStatus::Ok, message, None)
            } else {
                let message = format!("{name}: {} is missing", entry.program.display());
                check(
                    "plugins",
                    name,
                    CheckStatus::Warn,
                    message,
                    Some("build or reinstall the plugin"),
                )
            }
        })
        .collect()
}

async fn provider(ctx: &Context, flag: Option<&str>) -> Vec<DoctorCheck> {
    let failed = |error: &crabbox_kernel::error::KernelError| {
        vec![check("provider", "open", CheckStatus::Fail, error.to_string(), error.hint.as_deref())]
    };
    let name = match ctx.choose_provider(None, flag) {
        Ok(name) => name,
        Err(error) => return failed(&error),
    };
    let looked = async {
        let session = ctx.open_provider(&name).await?;
        let found = session.doctor().await;
        session.close().await;
        found
    };
    let found = tokio::select! {
        found = looked => found,
        () = ctx.clock.sleep(PROVIDER_LIMIT) => {
            let message = format!("{name} did not answer within {} s", PROVIDER_LIMIT.as_secs());
            return vec![check("provider", "answer", CheckStatus::Fail, message, None)];
        }
    };
    match found {
        Err(error) => failed(&error),
        Ok(found) => {
            let opened =
                check("provider", "open", CheckStatus::Ok, format!("{name} answers"), None);
            let own = found
                .into_iter()
                .map(|c| check("provider", &c.id, c.status, c.message, c.hint.as_deref()));
            std::iter::once(opened).chain(own).collect()
        }
    }
}
