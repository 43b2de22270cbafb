//! Questions to Azure's resource manager, operations that take their time, and what its refusals mean.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_plugin_sdk::cloud::{Codes, short};
use crabbox_plugin_sdk::{
    Call, ErrorKind, Failure, HttpRequest, Outcome, Repeat, Reply, Woken, every_page, found,
};
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
/// Most bytes of a page, a little less than what fits a line from the host.
const PAGE_BYTES: u64 = 900 << 10;
/// Between two looks at an operation that does not say when to look again, the least time between two looks, and how
/// often it is looked at: twenty minutes and more.
const LOOK: Duration = Duration::from_secs(2);
const LEAST: Duration = Duration::from_millis(100);
const LOOKS: usize = 600;
/// How often it is tried to delete what something else still holds, and the pause before each: what Azure keeps an
/// interface reserved for is three minutes.
const ROUNDS: usize = 48;
const PAUSE: Duration = Duration::from_secs(5);

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

    /// The entries of a list among them.
    pub(crate) fn list(&self, pointer: &str) -> impl Iterator<Item = &Value> {
        self.properties.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
    }

    pub(crate) fn provisioning(&self) -> &str {
        self.text("/provisioningState")
    }

    /// Whether nobody works on it any more.
    fn is_settled(&self) -> bool {
        matches!(self.provisioning(), "" | "Succeeded" | "Failed" | "Canceled")
    }
}

#[derive(Deserialize)]
struct Page<T> {
    value: Vec<T>,
    #[serde(default, rename = "nextLink")]
    next: Option<String>,
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
            ok(request.send().map_err(of_login)?)
        })
    }

    /// What is there; nothing when it does not exist.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        Ok(self.timed(path)?.map(|(thing, _)| thing))
    }

    /// The same, and the service's own clock in seconds since 1970.
    pub(crate) fn timed<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<Option<(T, Option<u64>)>, Failure> {
        let Some(reply) = found(self.send("GET", path, None))? else { return Ok(None) };
        Ok(Some((reply.json()?, reply.date())))
    }

    /// Every page of a listing; what is in no resource group that exists does not exist either.
    pub(crate) fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        every_page(|next: Option<&String>| {
            let found = self.get::<Page<T>>(next.map_or(path, String::as_str))?;
            let page = found.map(|page| (page.value, page.next));
            let (all, next) = page.unwrap_or_default();
            Ok((all, next.filter(|link| !link.is_empty())))
        })
    }

    /// Makes something, or makes it so, and waits until it is. The same twice is the same once, so that an answer that
    /// was lost does no harm.
    pub(crate) fn put(&self, path: &str, body: &Value) -> Result<Thing, Failure> {
        let asked = self.send("PUT", path, Some(body)).and_then(|reply| self.finish(&reply));
        let lost = match asked {
            // Asked again, the service says that it is at it already.
            Err(failure) if failure.is_lost() || failure.kind() == ErrorKind::Conflict => {
                Some(failure)
            }
            asked => asked.map(|()| None)?,
        };
        let lease = body["tags"]["lease"].as_str().unwrap_or_default();
        let is_it = |thing: &Thing| {
            let place = body["location"].as_str();
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
                Failure::transient(format!("{} is {state} after it was made", short(path)))
            })),
        }
    }

    /// Something once nobody works on it any more.
    pub(crate) fn settled(&self, path: &str) -> Result<Option<Thing>, Failure> {
        let look = || match self.get::<Thing>(path)? {
            Some(thing) => Ok(thing.is_settled().then_some(Some(thing))),
            None => Ok(Some(None)),
        };
        let late = || Failure::timeout(format!("{} was not ready in twenty minutes", short(path)));
        self.call.poll(LOOK, LOOKS, look)?.ok_or_else(late)
    }

    /// Deletes something and waits until that is over. What does not exist is deleted.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        let mut held = Failure::conflict(format!("{} is still held", short(path)));
        let look = || {
            let asked = found(self.send("DELETE", path, None));
            match asked.and_then(|reply| reply.map_or(Ok(()), |reply| self.finish(&reply))) {
                Err(failure) if failure.kind() == ErrorKind::Conflict => {
                    held = failure;
                    Ok(None)
                }
                done => done.map(Some),
            }
        };
        self.call.poll(PAUSE, ROUNDS, look)?.ok_or(held)
    }

    /// Changes the tags of a machine. Nothing waits for it.
    pub(crate) fn retag(&self, path: &str, body: &Value) -> Result<(), Failure> {
        self.send("PATCH", path, Some(body)).map(drop)
    }

    /// Waits for the end of what an answer began; cancelled when somebody is in a hurry and it still goes on.
    fn finish(&self, reply: &Reply) -> Result<(), Failure> {
        let location = reply.header("location").filter(|_| reply.status() == 202);
        let Some(link) = reply.header("azure-asyncoperation").or(location) else {
            return Ok(());
        };
        let mut wait = pause(reply);
        for _ in 0..LOOKS {
            if self.call.sleep(wait)? == Woken::Cancel {
                return Err(Failure::cancelled("cancelled", Outcome::Uncertain));
            }
            let now = match found(self.send("GET", link, None)) {
                Ok(Some(now)) => now,
                // An operation is forgotten some time after its end.
                Ok(None) => return Ok(()),
                Err(failure) if failure.is_lost() => continue,
                Err(failure) => return Err(failure),
            };
            let word = now.value().and_then(|value| value["status"].as_str());
            match word {
                Some("Failed" | "Canceled") => return Err(refused(&now)),
                None if now.status() != 202 => return Ok(()),
                Some("Succeeded") => return Ok(()),
                _ => wait = pause(&now),
            }
        }
        Err(Failure::timeout("Azure was not done in twenty minutes"))
    }
}

/// How long to wait before the next look.
fn pause(reply: &Reply) -> Duration {
    reply.retry_after().unwrap_or(LOOK).max(LEAST)
}

/// Whether two words mean one place or size: `East US` is `eastus`.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    one.replace(' ', "").eq_ignore_ascii_case(other)
}

const LIMIT: &str = "ask Azure to raise the limit (Quotas, Compute), or choose another --class, --type, --market or azure.location";
const LOGIN: &str = "look at azure.tenantId, azure.clientId and AZURE_CLIENT_SECRET, or log in with `az login` where azure.token asks az";
const RIGHT: &str = "the role that crabbox needs is on its page about the azure provider";
const POLICY: &str =
    "a policy of the subscription forbids it: another azure.location or --type may be allowed";
const REGISTER: &str =
    "run `az provider register --namespace Microsoft.Compute`, and the same for Microsoft.Network";
const WHOSE: &str = "look at azure.subscriptionId";
const WHERE: &str = "look at azure.location";
const IMAGE: &str = "set azure.image to an image of this location, Publisher:Offer:SKU:Version";
const PAYER: &str = "look at the subscription in Azure's portal";
const LOCK: &str = "take the lock off the resource group, or choose another";

/// The service's own words for an error, what they mean, and what can be done.
const CODES: Codes = Codes(&[
    ("SkuNotAvailable|VMSizeNotSupported|RequestDisallowedByAzure", ErrorKind::Capacity, ""),
    ("AllocationFailed|ZonalAllocationFailed", ErrorKind::Capacity, ""),
    ("OverconstrainedAllocationRequest", ErrorKind::Capacity, ""),
    ("OverconstrainedZonalAllocationRequest", ErrorKind::Capacity, ""),
    ("QuotaExceeded|*LimitReached", ErrorKind::Quota, LIMIT),
    ("TooManyRequests|SubscriptionRequestsThrottled", ErrorKind::RateLimited, ""),
    ("InvalidAuthenticationToken|InvalidAuthenticationTokenTenant", ErrorKind::Auth, LOGIN),
    ("ExpiredAuthenticationToken|AuthenticationFailed", ErrorKind::Auth, LOGIN),
    ("AuthorizationFailed|LinkedAuthorizationFailed", ErrorKind::Permission, RIGHT),
    ("RequestDisallowedByPolicy", ErrorKind::Permission, POLICY),
    ("MissingSubscriptionRegistration", ErrorKind::Permission, REGISTER),
    ("SubscriptionNotFound|InvalidSubscriptionId", ErrorKind::InvalidConfig, WHOSE),
    ("LocationNotAvailableForResourceType", ErrorKind::InvalidConfig, WHERE),
    ("NoRegisteredProviderFound", ErrorKind::InvalidConfig, WHERE),
    ("PlatformImageNotFound|ImageNotFound", ErrorKind::InvalidConfig, IMAGE),
    ("ReadOnlyDisabledSubscription", ErrorKind::Billing, PAYER),
    ("SubscriptionNotRegistered|DisallowedOperation", ErrorKind::Billing, PAYER),
    ("ScopeLocked", ErrorKind::Precondition, LOCK),
    ("NicReservedForAnotherVm|NicInUse|PublicIPAddressCannotBeDeleted", ErrorKind::Conflict, ""),
    ("AnotherOperationInProgress|OperationNotAllowed", ErrorKind::Conflict, ""),
    ("AttachDiskWhileBeingDetached", ErrorKind::Conflict, ""),
    ("VMExtensionProvisioningError|VMExtensionProvisioningTimeout", ErrorKind::Bootstrap, ""),
    (
        "VMExtensionHandlerNonTransientError|VMAgentStatusCommunicationError",
        ErrorKind::Bootstrap,
        "",
    ),
    ("OSProvisioningTimedOut|OSProvisioningClientError|VMStartTimedOut", ErrorKind::Bootstrap, ""),
    ("RetryableError|OperationPreempted|ServerTimeout", ErrorKind::Transient, ""),
]);

/// What the host says of a client it gets no token for, and what can be done.
fn of_login(failure: Failure) -> Failure {
    match failure.kind() {
        ErrorKind::Auth if failure.data().hint.is_none() => failure.hint(LOGIN),
        _ => failure,
    }
}

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
    let error = &reply.value()?["error"];
    Some((error["code"].as_str()?, error["message"].as_str().unwrap_or_default()))
}

/// What an error in the service's own form means.
fn refused(reply: &Reply) -> Failure {
    let (code, message) = error_of(reply).unwrap_or(("Failed", "no reason was given"));
    let lower = message.to_lowercase();
    let meaning = match (code, CODES.meaning(code)) {
        // One word for two things.
        ("OperationNotAllowed", _) if lower.contains("quota") => (ErrorKind::Quota, LIMIT),
        (_, Some(meaning)) => meaning,
        (_, None) if of_size(&lower) => (ErrorKind::Capacity, ""),
        (_, None) => match reply.clone().ok() {
            Err(plain) => (plain.kind(), ""),
            // An operation that failed is told with status 200.
            Ok(_) if code.contains("Internal") => (ErrorKind::Transient, ""),
            Ok(_) => (ErrorKind::InvalidRequest, ""),
        },
    };
    let failure = Codes::failure(code, message, meaning);
    match reply.retry_after() {
        Some(wait) if failure.kind() == ErrorKind::RateLimited => failure.retry_after(wait),
        _ => failure,
    }
}

/// Whether a refusal is about the size, so that another one may do.
fn of_size(message: &str) -> bool {
    ["vmsize", "vm size", "ephemeral os disk"].iter().any(|word| message.contains(word))
}
