//! What stands between the user and a machine; nothing is made or changed.

use crabbox_plugin_sdk::cloud::check_places;
use crabbox_plugin_sdk::{Check, CheckStatus, ErrorKind, Failure, check, refused};
use serde::Deserialize;
use serde_json::Value;

use crate::api::Api;
use crate::catalog;
use crate::site;
use crate::system::System;

/// The role that is enough, as the provider's page has it.
const ROLE: &str = include_str!("../role.json");

pub(crate) fn checks(api: &Api<'_>) -> Result<Vec<Check>, Failure> {
    let settings = api.settings;
    let known = match settings.complete().and_then(|()| catalog::regions(api)) {
        Ok(known) => known,
        Err(failure) => return Ok(vec![refused("azure.credentials", failure)?]),
    };
    let mut checks = vec![check("azure.credentials", CheckStatus::Ok, "they are known", "")];
    let (none, hint) = ("the subscription has no location", "choose another azure.location");
    checks.extend(check_places("azure.location", &settings.locations(), &known, none, hint));
    checks.push(match site::look(api, &settings.location, System::Linux) {
        Ok(_) => check("azure.network", CheckStatus::Ok, &settings.resource_group, ""),
        Err(failure) => refused("azure.network", failure)?,
    });
    rights(api, &mut checks)?;
    checks.push(quota(api));
    Ok(checks)
}

/// What a role allows, with stars, less what it leaves out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    #[serde(default, alias = "Actions")]
    actions: Vec<String>,
    #[serde(default)]
    not_actions: Vec<String>,
}

/// Which rights are missing; as seen from the resource group, or from the subscription while there is no such group.
fn rights(api: &Api<'_>, checks: &mut Vec<Check>) -> Result<(), Failure> {
    let end = "/providers/Microsoft.Authorization/permissions";
    let settings = api.settings;
    let there = api.get::<Value>(&settings.group())?.is_some();
    let scope = if there { settings.group() } else { settings.subscription() };
    let roles = match api.all::<Role>(&format!("{scope}{end}")) {
        Ok(roles) => roles,
        Err(failure) if failure.kind() == ErrorKind::Permission => {
            let hint =
                "allow Microsoft.Authorization/permissions/read, and missing rights are named";
            checks.push(check("azure.right", CheckStatus::Skip, "nobody may ask for them", hint));
            return Ok(());
        }
        Err(failure) => return Err(failure),
    };
    let enough: Role = serde_json::from_str(ROLE)
        .map_err(|error| Failure::internal("the role is broken").because(&error))?;
    let has = |right: &&String| {
        roles.iter().any(|role| {
            role.actions.iter().any(|action| fits(action, right))
                && !role.not_actions.iter().any(|action| fits(action, right))
        })
    };
    let (had, lacking): (Vec<_>, Vec<_>) = enough.actions.iter().partition(has);
    for right in &lacking {
        let hint =
            format!("allow {right}; the whole role is on crabbox's page about the azure provider");
        let what = format!("{right} is not allowed");
        checks.push(check("azure.right", CheckStatus::Fail, what, &hint));
    }
    if lacking.is_empty() {
        let what = format!("all {} that are needed", had.len());
        checks.push(check("azure.right", CheckStatus::Ok, what, ""));
    }
    Ok(())
}

/// Whether an action with stars covers a right; letters count alike.
fn fits(action: &str, right: &str) -> bool {
    let (action, right) = (action.to_lowercase(), right.to_lowercase());
    let Some((first, rest)) = action.split_once('*') else { return action == right };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let start = right.strip_prefix(first);
    let left = middle.split('*').fold(start, |left, part| Some(left?.split_once(part)?.1));
    left.is_some_and(|rest| rest.ends_with(last))
}

/// How many virtual processors may still run in the first location.
fn quota(api: &Api<'_>) -> Check {
    let (id, location) = ("azure.quota", &api.settings.location);
    let path = format!(
        "{}/providers/Microsoft.Compute/locations/{location}/usages",
        api.settings.subscription()
    );
    let all: Vec<Value> = match api.all(&path) {
        Ok(all) => all,
        Err(failure) => {
            let hint = "allow Microsoft.Compute/locations/usages/read";
            return check(id, CheckStatus::Skip, failure.message(), hint);
        }
    };
    let left = |name: &str| {
        let found = all.iter().find(|usage| usage["name"]["value"] == name);
        let number = |key: &str| found.and_then(|usage| usage[key].as_i64()).unwrap_or(0);
        (number("limit") - number("currentValue")).max(0)
    };
    let (regular, spot) = (left("cores"), left("lowPriorityCores"));
    let what = format!("{regular} vCPUs on demand and {spot} on spot are left in {location}");
    // The smallest machine of a class has 16.
    let (status, hint) = match regular.max(spot) {
        16.. => (CheckStatus::Ok, ""),
        _ => {
            (CheckStatus::Warn, "ask Azure to raise it (Quotas, Compute), or choose a small --type")
        }
    };
    check(id, status, what, hint)
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything() {
        let right = "Microsoft.Compute/virtualMachines/write";
        for action in ["*", "Microsoft.Compute/*", "microsoft.compute/*/write", "*/write", right] {
            assert!(fits(action, right), "{action}");
        }
        for action in ["*/read", "Microsoft.Network/*", "Microsoft.Compute/virtualMachines", ""] {
            assert!(!fits(action, right), "{action}");
        }
    }
}
