//! Whether a sandbox could be made: the key, its rights, and the snapshot. Makes nothing.

use crabbox_plugin_sdk::{Check, CheckStatus, ErrorKind, Failure};
use serde::Deserialize;

use crate::api::Api;

/// What the key must be allowed to do.
const RIGHTS: &[&str] = &["write:sandboxes", "delete:sandboxes"];

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    permissions: Vec<String>,
}

#[derive(Deserialize)]
struct Snapshot {
    name: String,
    #[serde(default)]
    state: String,
}

pub(crate) fn checks(api: Api<'_>) -> Vec<Check> {
    let listed = api.sandboxes();
    let good = listed.is_ok();
    let mut checks = vec![told("daytona.key", listed, |(ours, _)| {
        Ok(format!("{} of ours at {}", ours.len(), api.config.api_url))
    })];
    match good {
        true => checks.extend([rights(api), snapshot(api)]),
        false => {
            let skip = |id| check(id, CheckStatus::Skip, "not asked without a key", None);
            checks.extend(["daytona.rights", "daytona.snapshot"].map(skip));
        }
    }
    checks
}

fn rights(api: Api<'_>) -> Check {
    let id = "daytona.rights";
    if api.config.credential() != "api-key" {
        return check(id, CheckStatus::Skip, "a JWT has its user's rights", None);
    }
    match api.get::<Key>("/api-keys/current") {
        // Not every server tells.
        Err(failure) if failure.kind() == ErrorKind::NotFound => {
            check(id, CheckStatus::Skip, "Daytona does not say what the key may do", None)
        }
        key => told(id, key, |key| {
            let has = |right: &&&str| !key.permissions.iter().any(|own| own == **right);
            let missing: Vec<_> = RIGHTS.iter().filter(has).copied().collect();
            match missing.is_empty() {
                true => Ok("the key may make and delete sandboxes".to_owned()),
                false => Err(format!("the key lacks the rights {}", missing.join(", "))),
            }
        }),
    }
}

fn snapshot(api: Api<'_>) -> Check {
    let found = api.config.snapshot().and_then(|name| {
        let plain = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
        match name.chars().all(|c| plain(&c)) {
            true => api.get::<Snapshot>(&format!("/snapshots/{name}")).map(Some),
            false => Ok(None),
        }
    });
    told("daytona.snapshot", found, |found| match found {
        None => Ok("not asked for: its name does not fit a path".to_owned()),
        Some(found) if matches!(&*found.state, "" | "active") => {
            Ok(format!("{} is there", found.name))
        }
        Some(found) => Err(format!("{} is {}", found.name, found.state)),
    })
}

fn check(id: &str, status: CheckStatus, message: impl Into<String>, hint: Option<String>) -> Check {
    Check { id: id.to_owned(), status, message: message.into(), hint }
}

/// How a question went, as a finding.
fn told<T>(
    id: &str,
    asked: Result<T, Failure>,
    judge: impl FnOnce(T) -> Result<String, String>,
) -> Check {
    match asked.map(judge) {
        Ok(Ok(good)) => check(id, CheckStatus::Ok, good, None),
        Ok(Err(bad)) => check(id, CheckStatus::Fail, bad, None),
        Err(failure) => {
            check(id, CheckStatus::Fail, failure.message(), failure.data().hint.clone())
        }
    }
}
