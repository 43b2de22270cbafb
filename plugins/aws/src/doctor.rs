//! What stands between the user and an instance; nothing is made or changed.

use crabbox_plugin_sdk::{BoxRequest, Call, Check, CheckStatus, ErrorKind, Failure};

use crate::Aws;
use crate::api::{Api, Query, is};
use crate::catalog;
use crate::config::{Market, SMALL, machines, vcpus};
use crate::site;

pub(crate) fn checks(aws: &Aws, call: &Call) -> Result<Vec<Check>, Failure> {
    let (api, settings) = (aws.home(call), &aws.settings);
    let known = match catalog::regions(&api) {
        Ok(known) => known.offers,
        Err(failure) => return Ok(vec![refused("aws.credentials", &failure)?]),
    };
    let mut checks = vec![check("aws.credentials", CheckStatus::Ok, "they are known", "")];
    for region in settings.regions() {
        checks.push(match known.iter().any(|offer| offer.name == region) {
            true => check("aws.region", CheckStatus::Ok, region, ""),
            false => {
                let what = format!("the account has no region {region}");
                check(
                    "aws.region",
                    CheckStatus::Fail,
                    &what,
                    "turn it on, or choose another aws.region",
                )
            }
        });
    }
    let image = match site::image(&api, settings) {
        Ok(image) => image.image_id,
        Err(failure) => {
            checks.push(refused("aws.image", &failure)?);
            return Ok(checks);
        }
    };
    checks.push(check("aws.image", CheckStatus::Ok, &image, ""));
    for query in rights(&image) {
        checks.push(right(&api, query)?);
    }
    checks.push(quota(&api));
    Ok(checks)
}

fn check(id: &str, status: CheckStatus, message: &str, hint: &str) -> Check {
    let hint = Some(hint.to_owned()).filter(|hint| !hint.is_empty());
    Check { id: id.to_owned(), status, message: message.to_owned(), hint }
}

/// Something that is refused is a finding; a service that does not answer is a failure.
fn refused(id: &str, failure: &Failure) -> Result<Check, Failure> {
    match failure.kind() {
        ErrorKind::Auth | ErrorKind::Permission | ErrorKind::InvalidConfig | ErrorKind::Billing => {
            let hint = failure.data().hint.clone().unwrap_or_default();
            Ok(check(id, CheckStatus::Fail, failure.message(), &hint))
        }
        _ => Err(failure.clone()),
    }
}

/// What would be done, asked for without doing it.
fn rights(image: &str) -> Vec<Query> {
    let (name, key) = ("crabbox-doctor", "c3NoLWVkMjU1MTkgQUFBQSBjcmFiYm94");
    let dry = |action| Query::new(action).with("DryRun", true);
    let tags = [("crabbox".to_owned(), "true".to_owned())].into();
    vec![
        dry("RunInstances")
            .with("ImageId", image)
            .with("InstanceType", SMALL)
            .with("MinCount", 1)
            .with("MaxCount", 1)
            .tags(&["instance", "volume"], &tags),
        dry("ImportKeyPair").with("KeyName", name).with("PublicKeyMaterial", key),
        dry("DeleteKeyPair").with("KeyName", name),
        dry("CreateSecurityGroup").with("GroupName", name).with("GroupDescription", name),
    ]
}

fn right(api: &Api<'_>, query: Query) -> Result<Check, Failure> {
    let (id, action) = ("aws.right", query.action());
    let what = format!("ec2:{action}");
    match api.tell(&query) {
        Ok(_) => Ok(check(id, CheckStatus::Ok, &what, "")),
        Err(failure) if is(&failure, "DryRunOperation") => {
            Ok(check(id, CheckStatus::Ok, &what, ""))
        }
        Err(failure) if failure.kind() == ErrorKind::Permission => {
            let hint = format!(
                "allow {what}; the whole policy is on crabbox's page about the aws provider"
            );
            Ok(check(id, CheckStatus::Fail, &format!("{what} is not allowed"), &hint))
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
    let told = limits
        .iter()
        .filter_map(|(market, limit)| Some(format!("{} {} vCPUs", market.word(), (*limit)?)));
    let told: Vec<_> = told.collect();
    let request = BoxRequest { class: "standard".to_owned(), ..BoxRequest::default() };
    let least = machines(&request).iter().filter_map(|machine| vcpus(machine)).min();
    let most = limits.iter().filter_map(|(_, limit)| *limit).reduce(f64::max);
    let id = "aws.quota";
    match (least, most) {
        (Some(least), Some(most)) if f64::from(least) > most => {
            let hint = "ask AWS to raise it (Service Quotas, Amazon EC2), or choose a small --type";
            check(id, CheckStatus::Warn, &told.join(", "), hint)
        }
        (_, Some(_)) => check(id, CheckStatus::Ok, &told.join(", "), ""),
        (_, None) => {
            let hint =
                "allow servicequotas:GetServiceQuota, and what is too large is not even tried";
            check(id, CheckStatus::Skip, "nobody may ask for the limits", hint)
        }
    }
}
