//! Questions to Azure's resource manager, operations that take their time, and what its refusals mean.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_plugin_sdk::{Call, ErrorKind, Failure, HttpRequest, Outcome, Repeat, Reply, Woken};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Settings;

/// Part of an id, and the version of the interface that knows it.
const VERSIONS: &[(&str, &str)] = &[
    ("/Microsoft.Compute/skus", "2021-07-01"),
    ("/Microsoft.Compute/disks", "2024-03-02"),
    ("/Microsoft.Compute/", "2024-07-01"),
    ("/Microsoft.Network/", "2024-05-01"),
    ("/Microsoft.Authorization/", "2022-04-01"),
    ("/locations", "2022-12-01"),
    ("", "2021-04-01"),
];
/// Most bytes of a page, a little less than what fits a line from the host, and pages of one listing.
const PAGE_BYTES: u64 = 900 << 10;
const PAGES: usize = 200;
/// Between two looks at an operation that does not say when to look again, the least time between two looks, and how
/// often it is looked at: twenty minutes and more.
const LOOK: Duration = Duration::from_secs(2);
const LEAST: Duration = Duration::from_millis(100);
const LOOKS: usize = 600;

/// The resource manager as one call sees it. The token is put in by the host.
#[derive(Clone, Copy)]
pub(crate) struct Api<'a> {
    pub(crate) call: &'a Call,
    pub(crate) settings: &'a Settings,
}

/// Anything that has an id, as far as it matters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Thing {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) location: String,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) properties: Value,
}

impl Thing {
    /// A text among its properties.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.properties.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn provisioning(&self) -> &str {
        self.text("/provisioningState")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    value: Vec<T>,
    #[serde(default)]
    next_link: Option<String>,
}

impl<'a> Api<'a> {
    /// A request for an id or an address the service gave; ids get the version of the interface that knows them.
    pub(crate) fn request(&self, method: &str, path: &str) -> HttpRequest<'a> {
        if path.starts_with("http") {
            return self.call.http(method, path).auth(self.settings.auth());
        }
        let version = VERSIONS.iter().find(|(part, _)| path.contains(part)).map(|row| row.1);
        let url = format!("{}{path}", self.settings.arm_url);
        let request = self.call.http(method, url).query("api-version", version.unwrap_or_default());
        request.auth(self.settings.auth())
    }

    /// Asks, and asks again when the service is busy or nobody knows what became of the request: every one in use here
    /// can be repeated.
    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply, Failure> {
        self.call.steadily(Repeat::Safe, || {
            let request = self.request(method, path).at_most(PAGE_BYTES);
            let request = body.into_iter().fold(request, |request, body| request.json(body));
            ok(request.send()?)
        })
    }

    /// What is there, and the service's own clock in seconds since 1970; nothing when it does not exist.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<(T, Option<u64>)>, Failure> {
        let Some(reply) = found(self.send("GET", path, None))? else { return Ok(None) };
        Ok(Some((reply.json()?, reply.date())))
    }

    /// Every page of a listing; what is in no resource group that exists does not exist either.
    pub(crate) fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        let (mut all, mut next) = (Vec::new(), path.to_owned());
        for _ in 0..PAGES {
            let Some((page, _)) = self.get::<Page<T>>(&next)? else { return Ok(all) };
            all.extend(page.value);
            match page.next_link.filter(|link| !link.is_empty()) {
                Some(link) => next = link,
                None => return Ok(all),
            }
        }
        Err(Failure::quota(format!("there are more than {PAGES} pages")))
    }

    /// Makes something, or makes it so, and waits until it is. The same twice is the same once, so that an answer that
    /// was lost does no harm.
    pub(crate) fn put(&self, path: &str, body: &Value) -> Result<Thing, Failure> {
        let asked = self.send("PUT", path, Some(body)).and_then(|reply| self.finish(&reply));
        let lost = match asked {
            Ok(true) => None,
            Ok(false) => return Err(cancelled()),
            // Asked again, the service says that it is at it already.
            Err(failure) if is_lost(&failure) || failure.kind() == ErrorKind::Conflict => {
                Some(failure)
            }
            Err(failure) => return Err(failure),
        };
        let lease = body.pointer("/tags/lease").and_then(Value::as_str).unwrap_or_default();
        let is_it = |thing: &Thing| {
            let place = body.get("location").and_then(Value::as_str);
            thing.tag("lease") == lease && place.is_none_or(|place| is_same(&thing.location, place))
        };
        match self.settled(path)? {
            Some(thing) if !is_it(&thing) => Err(Failure::conflict(format!(
                "{} is there already, for something else",
                thing.name
            ))),
            Some(thing) if thing.provisioning() != "Failed" => Ok(thing),
            made => Err(lost.unwrap_or_else(|| {
                let state = made.map_or("gone", |_| "failed");
                Failure::transient(format!("{} is {state} after it was made", name_of(path)))
            })),
        }
    }

    /// Something once nobody works on it any more.
    pub(crate) fn settled(&self, path: &str) -> Result<Option<Thing>, Failure> {
        for _ in 0..LOOKS {
            let Some((thing, _)) = self.get::<Thing>(path)? else { return Ok(None) };
            if matches!(thing.provisioning(), "" | "Succeeded" | "Failed" | "Canceled") {
                return Ok(Some(thing));
            }
            if self.call.sleep(LOOK)? == Woken::Cancel {
                return Err(cancelled());
            }
        }
        Err(Failure::timeout(format!("{} was not ready in twenty minutes", name_of(path))))
    }

    /// Deletes something; whether that is over. What does not exist is deleted.
    pub(crate) fn delete(&self, path: &str) -> Result<bool, Failure> {
        match found(self.send("DELETE", path, None))? {
            Some(reply) => self.finish(&reply),
            None => Ok(true),
        }
    }

    /// Changes the tags of a machine. Nothing waits for it.
    pub(crate) fn retag(&self, path: &str, body: &Value) -> Result<(), Failure> {
        self.send("PATCH", path, Some(body)).map(drop)
    }

    /// Waits for the end of what an answer began; false when somebody is in a hurry and it still goes on.
    fn finish(&self, reply: &Reply) -> Result<bool, Failure> {
        let location = reply.header("location").filter(|_| reply.status() == 202);
        let Some(link) = reply.header("azure-asyncoperation").or(location) else {
            return Ok(true);
        };
        let mut wait = pause(reply);
        for _ in 0..LOOKS {
            if self.call.sleep(wait)? == Woken::Cancel {
                return Ok(false);
            }
            let now = match found(self.send("GET", link, None)) {
                Ok(Some(now)) => now,
                // An operation is forgotten some time after its end.
                Ok(None) => return Ok(true),
                Err(failure) if is_lost(&failure) => continue,
                Err(failure) => return Err(failure),
            };
            let word = now.value().and_then(|value| value.get("status")?.as_str());
            match word {
                Some("Failed" | "Canceled") => return Err(refused(&now)),
                None if now.status() != 202 => return Ok(true),
                Some("Succeeded") => return Ok(true),
                _ => wait = pause(&now),
            }
        }
        Err(Failure::timeout("Azure was not done in twenty minutes"))
    }
}

/// How long to wait before the next look.
fn pause(reply: &Reply) -> Duration {
    let told = reply.header("retry-after").and_then(|value| value.parse().ok());
    told.map_or(LOOK, Duration::from_secs).max(LEAST)
}

fn cancelled() -> Failure {
    Failure::cancelled("cancelled", Outcome::Uncertain)
}

/// Whether two words mean one place or size: `East US` is `eastus`.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one.replace(' ', "").eq_ignore_ascii_case(other)
}

/// The last part of an id.
pub(crate) fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

const LIMIT: &str = "ask Azure to raise the limit (Quotas, Compute), or choose another --class, --type, --market or azure.location";
const LOGIN: &str = "look at azure.tenantId, azure.clientId and AZURE_CLIENT_SECRET, or log in with `az login` where azure.token asks az";
const RIGHT: &str = "the role that crabbox needs is on its page about the azure provider";
const IMAGE: &str = "set azure.image to an image of this location, Publisher:Offer:SKU:Version";
const PAYER: &str = "look at the subscription in Azure's portal";

/// The service's own words for an error, what they mean, and what can be done. A word that begins with a dot is the end
/// of one.
const CODES: &[(&str, ErrorKind, &str)] = &[
    ("SkuNotAvailable", ErrorKind::Capacity, ""),
    ("AllocationFailed", ErrorKind::Capacity, ""),
    ("ZonalAllocationFailed", ErrorKind::Capacity, ""),
    ("OverconstrainedAllocationRequest", ErrorKind::Capacity, ""),
    ("OverconstrainedZonalAllocationRequest", ErrorKind::Capacity, ""),
    ("VMSizeNotSupported", ErrorKind::Capacity, ""),
    ("RequestDisallowedByAzure", ErrorKind::Capacity, ""),
    ("QuotaExceeded", ErrorKind::Quota, LIMIT),
    (".LimitReached", ErrorKind::Quota, LIMIT),
    ("TooManyRequests", ErrorKind::RateLimited, ""),
    ("SubscriptionRequestsThrottled", ErrorKind::RateLimited, ""),
    ("InvalidAuthenticationToken", ErrorKind::Auth, LOGIN),
    ("InvalidAuthenticationTokenTenant", ErrorKind::Auth, LOGIN),
    ("ExpiredAuthenticationToken", ErrorKind::Auth, LOGIN),
    ("AuthenticationFailed", ErrorKind::Auth, LOGIN),
    ("AuthorizationFailed", ErrorKind::Permission, RIGHT),
    ("LinkedAuthorizationFailed", ErrorKind::Permission, RIGHT),
    (
        "RequestDisallowedByPolicy",
        ErrorKind::Permission,
        "a policy of the subscription forbids it: another azure.location or --type may be allowed",
    ),
    (
        "MissingSubscriptionRegistration",
        ErrorKind::Permission,
        "run `az provider register --namespace Microsoft.Compute`, and the same for Microsoft.Network",
    ),
    ("SubscriptionNotFound", ErrorKind::InvalidConfig, "look at azure.subscriptionId"),
    ("InvalidSubscriptionId", ErrorKind::InvalidConfig, "look at azure.subscriptionId"),
    ("LocationNotAvailableForResourceType", ErrorKind::InvalidConfig, "look at azure.location"),
    ("NoRegisteredProviderFound", ErrorKind::InvalidConfig, "look at azure.location"),
    ("PlatformImageNotFound", ErrorKind::InvalidConfig, IMAGE),
    ("ImageNotFound", ErrorKind::InvalidConfig, IMAGE),
    ("ReadOnlyDisabledSubscription", ErrorKind::Billing, PAYER),
    ("SubscriptionNotRegistered", ErrorKind::Billing, PAYER),
    ("DisallowedOperation", ErrorKind::Billing, PAYER),
    (
        "ScopeLocked",
        ErrorKind::Precondition,
        "take the lock off the resource group, or choose another",
    ),
    ("NicReservedForAnotherVm", ErrorKind::Conflict, ""),
    ("PublicIPAddressCannotBeDeleted", ErrorKind::Conflict, ""),
    ("NicInUse", ErrorKind::Conflict, ""),
    ("AnotherOperationInProgress", ErrorKind::Conflict, ""),
    ("OperationNotAllowed", ErrorKind::Conflict, ""),
    ("AttachDiskWhileBeingDetached", ErrorKind::Conflict, ""),
    ("OSProvisioningTimedOut", ErrorKind::Bootstrap, ""),
    ("OSProvisioningClientError", ErrorKind::Bootstrap, ""),
    ("VMStartTimedOut", ErrorKind::Bootstrap, ""),
    ("RetryableError", ErrorKind::Transient, ""),
    ("OperationPreempted", ErrorKind::Transient, ""),
    ("ServerTimeout", ErrorKind::Transient, ""),
];

/// The answer, or what its error means.
fn ok(reply: Reply) -> Result<Reply, Failure> {
    if reply.status() < 400 {
        return Ok(reply);
    }
    if error_of(&reply).is_some() {
        return Err(refused(&reply));
    }
    reply.ok()
}

fn error_of(reply: &Reply) -> Option<(&str, &str)> {
    let error = reply.value()?.get("error")?;
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    Some((text("code")?, text("message").unwrap_or_default()))
}

/// What an error in the service's own form means.
fn refused(reply: &Reply) -> Failure {
    let (code, message) = error_of(reply).unwrap_or(("Failed", "no reason was given"));
    let lower = message.to_lowercase();
    let fits = |row: &&(&str, _, _)| {
        row.0 == code || (row.0.strip_prefix('.').is_some_and(|end| code.ends_with(end)))
    };
    let (kind, hint) = match CODES.iter().find(fits) {
        // One word for two things.
        Some((..)) if code == "OperationNotAllowed" && lower.contains("quota") => {
            (ErrorKind::Quota, LIMIT)
        }
        Some((_, kind, hint)) => (*kind, *hint),
        None if of_size(&lower) => (ErrorKind::Capacity, ""),
        None => match reply.clone().ok() {
            Err(plain) => (plain.kind(), ""),
            // An operation that failed is told with status 200.
            Ok(_) if code.contains("Internal") => (ErrorKind::Transient, ""),
            Ok(_) => (ErrorKind::InvalidRequest, ""),
        },
    };
    let first = message.lines().next().unwrap_or_default().trim();
    let failure = Failure::new(kind, format!("{first} ({code})"));
    let failure = if hint.is_empty() { failure } else { failure.hint(hint) };
    match reply.header("retry-after").and_then(|value| value.parse().ok()) {
        Some(wait) if kind == ErrorKind::RateLimited => {
            failure.retry_after(Duration::from_secs(wait))
        }
        _ => failure,
    }
}

/// Whether a refusal is about the size, so that another one may do.
fn of_size(message: &str) -> bool {
    ["vmsize", "vm size", "ephemeral os disk"].iter().any(|word| message.contains(word))
}

/// Whether nobody knows what became of a request.
pub(crate) fn is_lost(failure: &Failure) -> bool {
    matches!(failure.kind(), ErrorKind::Transient | ErrorKind::Timeout)
}

/// An answer, or nothing where the service says that there is no such thing.
fn found(answer: Result<Reply, Failure>) -> Result<Option<Reply>, Failure> {
    match answer {
        Err(failure) if failure.kind() == ErrorKind::NotFound => Ok(None),
        answer => answer.map(Some),
    }
}
