//! Whether a sandbox could be made: the key, its rights, and the snapshot. Makes nothing.

use crabbox_plugin_sdk::{Check, CheckStatus, ErrorKind, check, judged};
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
    let mut checks = vec![judged("daytona.key", listed, |(ours, _)| {
        Ok(format!("{} of ours at {}", ours.len(), api.config.api_url))
    })];
    match good {
        true => checks.extend([rights(api), snapshot(api)]),
        false => {
            let skip = |id| check(id, CheckStatus::Skip, "not asked without a key", "");
            checks.extend(["daytona.rights", "daytona.snapshot"].map(skip));
        }
    }
    checks
}

fn rights(api: Api<'_>) -> Check {
    let id = "daytona.rights";
    if api.config.credential() != "api-key" {
        return check(id, CheckStatus::Skip, "a JWT has its user's rights", "");
    }
    match api.get::<Key>("/api-keys/current") {
        // Not every server tells.
        Err(failure) if failure.kind() == ErrorKind::NotFound => {
            check(id, CheckStatus::Skip, "Daytona does not say what the key may do", "")
        }
        key => judged(id, key, |key| {
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
    judged("daytona.snapshot", found, |found| match found {
        None => Ok("not asked for: its name does not fit a path".to_owned()),
        Some(found) if matches!(&*found.state, "" | "active") => {
            Ok(format!("{} is there", found.name))
        }
        Some(found) => Err(format!("{} is {}", found.name, found.state)),
    })
}
