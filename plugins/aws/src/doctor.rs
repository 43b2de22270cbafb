//! What stands between the user and an instance; nothing is made or changed.

use crabbox_plugin_sdk::cloud::{Market, check_places};
use crabbox_plugin_sdk::{
    BoxRequest, Call, Check, CheckStatus, ErrorKind, Failure, check, refused,
};

use crate::Aws;
use crate::api::{Api, Query, is};
use crate::catalog;
use crate::config::{CLASSES, vcpus};
use crate::site;
use crate::system::System;

/// What may be allowed for some things only shows when they are there.
const REMOVE: &str = "not looked at: ec2:TerminateInstances and ec2:DeleteKeyPair, which may be allowed for what crabbox made alone";

pub(crate) fn checks(aws: &Aws, call: &Call) -> Result<Vec<Check>, Failure> {
    let (api, settings) = (aws.home(call), &aws.settings);
    let known = match catalog::regions(&api) {
        Ok(known) => known,
        Err(failure) => return Ok(vec![refused("aws.credentials", failure)?]),
    };
    let mut checks = vec![check("aws.credentials", CheckStatus::Ok, "they are known", "")];
    let hint = "turn it on, or choose another aws.region";
    let none = "the account has no region";
    checks.extend(check_places("aws.region", &settings.regions(&[]), &known, none, hint));
    let image = match site::image(&api, settings, System::Linux) {
        Ok(image) => image.image_id,
        Err(failure) => {
            checks.push(refused("aws.image", failure)?);
            return Ok(checks);
        }
    };
    checks.push(check("aws.image", CheckStatus::Ok, &image, ""));
    for query in rights(&image) {
        checks.push(right(&api, query)?);
    }
    checks.push(check("aws.right", CheckStatus::Skip, REMOVE, ""));
    checks.push(quota(&api));
    Ok(checks)
}

/// What would be done, asked for without doing it.
fn rights(image: &str) -> Vec<Query> {
    let (name, key) = ("crabbox-doctor", "c3NoLWVkMjU1MTkgQUFBQSBjcmFiYm94");
    let dry = |action| Query::new(action).with("DryRun", true);
    let tags = [("crabbox".to_owned(), "true".to_owned())].into();
    vec![
        dry("RunInstances")
            .with("ImageId", image)
            .maybe("InstanceType", System::Linux.small())
            .with("MinCount", 1)
            .with("MaxCount", 1)
            .tags(&["instance", "volume"], &tags),
        dry("ImportKeyPair").with("KeyName", name).with("PublicKeyMaterial", key),
        dry("CreateSecurityGroup").with("GroupName", name).with("GroupDescription", name),
    ]
}

fn right(api: &Api<'_>, query: Query) -> Result<Check, Failure> {
    let (id, action) = ("aws.right", query.action);
    let what = format!("ec2:{action}");
    match api.tell(&query) {
        Ok(()) => Ok(check(id, CheckStatus::Ok, what, "")),
        Err(failure) if is(&failure, "DryRunOperation") => Ok(check(id, CheckStatus::Ok, what, "")),
        Err(failure) if failure.kind() == ErrorKind::Permission => {
            let hint = format!(
                "allow {what}; the whole policy is on crabbox's page about the aws provider"
            );
            Ok(check(id, CheckStatus::Fail, format!("{what} is not allowed"), &hint))
        }
        Err(failure) if failure.kind() == ErrorKind::InvalidRequest => {
            Ok(check(id, CheckStatus::Skip, failure.message(), ""))
        }
        Err(failure) => Err(failure),
    }
}

/// Whether the account's limits let the smallest class begin.
fn quota(api: &Api<'_>) -> Check {
    let limits = [Market::Spot, Market::OnDemand].map(|market| (market, site::limit(api, market)));
    let known = |(market, limit): &(Market, Option<f64>)| {
        limit.map(|limit| format!("{} {limit} vCPUs", market.word()))
    };
    let told: Vec<_> = limits.iter().filter_map(known).collect();
    let request = BoxRequest { class: "standard".to_owned(), ..BoxRequest::default() };
    let least = CLASSES.machines(&request).iter().filter_map(|machine| vcpus(machine)).min();
    let most = limits.iter().filter_map(|(_, limit)| *limit).reduce(f64::max);
    let id = "aws.quota";
    match (least, most) {
        (Some(least), Some(most)) if f64::from(least) > most => {
            let hint = "ask AWS to raise it (Service Quotas, Amazon EC2), or choose a small --type";
            check(id, CheckStatus::Warn, told.join(", "), hint)
        }
        (_, Some(_)) => check(id, CheckStatus::Ok, told.join(", "), ""),
        (_, None) => {
            let hint =
                "allow servicequotas:GetServiceQuota, and what is too large is not even tried";
            check(id, CheckStatus::Skip, "nobody may ask for the limits", hint)
        }
    }
}
