//! The slice of Hetzner's API that is in use, and what its errors mean.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_plugin_sdk::cloud::{Codes, Extra};
use crabbox_plugin_sdk::{Call, ErrorKind, Failure, HttpRequest, Reply, every_page, found};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::server::{Server, SshKey};

/// Entries of a page; the service gives no more.
const PAGE: u32 = 50;
/// A page of servers, each with everything about its type, image and location.
const PAGE_BYTES: u64 = 4 << 20;
/// What to wait when the service asks to slow down and does not say for how long.
const SLOW_DOWN: Duration = Duration::from_secs(5);
/// The longest wait that is worth waiting: an hour's allowance comes back bit by bit.
const LONGEST_WAIT: u64 = 60;

/// What to do about an image that is not there.
pub(crate) const IMAGE: &str =
    "set hetzner.image to an image's name, or to the number of a snapshot";

/// The API as one call sees it. The token is put in by the host.
pub(crate) struct Api<'a> {
    pub(crate) call: &'a Call,
    pub(crate) url: &'a str,
}

/// A machine type, where it can be had, and for how much.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct MachineType {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) memory: f64,
    #[serde(default)]
    pub(crate) disk: f64,
    #[serde(default)]
    pub(crate) prices: Vec<Tariff>,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) cores: u32,
    #[serde(default)]
    pub(crate) locations: Vec<Place>,
}

/// A location that has a machine type, perhaps sold out or going away.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Not in older answers.
    available: Option<bool>,
    deprecation: Option<Value>,
}

/// What a machine type costs at one location.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Tariff {
    pub(crate) location: String,
    pub(crate) price_hourly: Amount,
}

/// An amount without taxes, a number in a text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Amount {
    pub(crate) net: String,
}

impl MachineType {
    /// Whether it can probably be had at this location.
    pub(crate) fn is_at(&self, location: &str) -> bool {
        let had = |place: &&Place| place.available != Some(false) && place.deprecation.is_none();
        self.locations.iter().filter(had).any(|place| place.name == location)
    }
}

#[derive(Deserialize)]
struct Created {
    server: Server,
}

impl<'a> Api<'a> {
    pub(crate) fn request(&self, method: &str, path: &str) -> HttpRequest<'a> {
        self.call.http(method, format!("{}{path}", self.url.trim_end_matches('/'))).bearer("token")
    }

    /// Asks, and asks again when the service only wanted us to slow down.
    fn patiently(&self, ask: impl Fn() -> HttpRequest<'a>) -> Result<Reply, Failure> {
        self.call.patiently(|| ok(ask().send()?))
    }

    /// One page below a path, and the next one's number; `key` is what the list is called.
    pub(crate) fn page<T: DeserializeOwned>(
        &self,
        key: &str,
        filter: &[(&str, &str)],
        page: u32,
    ) -> Result<(Vec<T>, Option<u32>), Failure> {
        let ask = || {
            let request = self.request("GET", &format!("/{key}"));
            let request = filter.iter().fold(request, |all, (name, value)| all.query(name, value));
            request.query("page", page).query("per_page", PAGE).at_most(PAGE_BYTES)
        };
        let mut answer: Value = self.patiently(ask)?.json()?;
        let next = answer.pointer("/meta/pagination/next_page").and_then(Value::as_u64);
        let next = next.and_then(|next| u32::try_from(next).ok()).filter(|next| *next > page);
        Ok((part(&mut answer, key)?, next))
    }

    /// Everything below a path.
    pub(crate) fn all<T: DeserializeOwned>(
        &self,
        key: &str,
        filter: &[(&str, &str)],
    ) -> Result<Vec<T>, Failure> {
        every_page(|next| self.page(key, filter, next.copied().unwrap_or(1)))
    }

    /// A server, and the service's own clock in seconds since 1970; nothing when it does not exist.
    pub(crate) fn server(&self, id: u64) -> Result<Option<(Server, Option<u64>)>, Failure> {
        let reply = self.patiently(|| self.request("GET", &format!("/servers/{id}")));
        let Some(reply) = found(reply)? else { return Ok(None) };
        let made: Created = reply.json()?;
        Ok(Some((made.server, reply.date())))
    }

    /// Makes a server. Its root password, should there be one, stays with the host.
    pub(crate) fn create_server(&self, body: &Value) -> Result<Server, Failure> {
        let ask = || self.request("POST", "/servers").json(body).capture("/root_password");
        let made: Created = self.patiently(ask)?.json()?;
        Ok(made.server)
    }

    /// Replaces a server's labels.
    pub(crate) fn label_server(
        &self,
        id: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let body = json!({ "labels": labels });
        let ask = || self.request("PUT", &format!("/servers/{id}")).json(&body);
        self.patiently(ask).map(drop)
    }

    /// Deletes something; what is gone already, or on its way, is as good.
    pub(crate) fn delete(&self, path: &str) -> Result<(), Failure> {
        match found(self.patiently(|| self.request("DELETE", path))) {
            Err(failure) if failure.message().ends_with("(locked)") => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Whether there is an image of this name, or with this number.
    pub(crate) fn has_image(&self, image: &str) -> Result<bool, Failure> {
        if image.bytes().all(|byte| byte.is_ascii_digit()) {
            let path = format!("/images/{image}");
            return Ok(found(self.patiently(|| self.request("GET", &path)))?.is_some());
        }
        Ok(!self.page::<Value>("images", &[("name", image)], 1)?.0.is_empty())
    }

    /// The key of this name.
    pub(crate) fn key(&self, name: &str) -> Result<Option<Extra>, Failure> {
        let found: Vec<SshKey> = self.all("ssh_keys", &[("name", name)])?;
        Ok(found.into_iter().find(|key| key.name == name).map(SshKey::extra))
    }

    /// Adds a public key.
    pub(crate) fn create_key(&self, body: &Value) -> Result<Extra, Failure> {
        let ask = || self.request("POST", "/ssh_keys").json(body);
        part(&mut self.patiently(ask)?.json()?, "ssh_key").map(SshKey::extra)
    }
}

/// A member of an answer, in our own type.
fn part<T: DeserializeOwned>(answer: &mut Value, key: &str) -> Result<T, Failure> {
    let part = answer.get_mut(key).map(Value::take).unwrap_or_default();
    serde_json::from_value(part).map_err(|error| {
        Failure::transient(format!("the answer of hetzner has no such {key}")).because(&error)
    })
}

/// What the service's own words for an error mean, and what can be done.
const CODES: Codes = Codes(&[
    ("dedicated_core_limit|resource_limit_exceeded", ErrorKind::Quota, LIMIT),
    (
        "server_type_not_available|location_not_available|unsupported location|\
         resource_unavailable|placement_error",
        ErrorKind::Capacity,
        "",
    ),
    ("unauthorized", ErrorKind::Auth, TOKEN),
    ("token_readonly|forbidden", ErrorKind::Permission, WRITE),
    ("payment_required", ErrorKind::Billing, "see the project's invoices in Hetzner's console"),
    ("rate_limit_exceeded", ErrorKind::RateLimited, ""),
    ("protected", ErrorKind::Conflict, "take the protection off in Hetzner's console first"),
    ("uniqueness_error", ErrorKind::Conflict, ""),
    ("locked|conflict", ErrorKind::Transient, ""),
    ("not_found", ErrorKind::NotFound, ""),
    ("invalid_input|json_error|unsupported_error", ErrorKind::InvalidRequest, ""),
    ("timeout", ErrorKind::Timeout, ""),
]);
/// What may also be told in a message, with a more general word beside it.
const IN_WORDS: &[&str] = &[
    "dedicated_core_limit",
    "resource_limit_exceeded",
    "server_type_not_available",
    "location_not_available",
    "unsupported location",
];
const TOKEN: &str =
    "set HCLOUD_TOKEN to an API token of the project, or hetzner.token to where it is";
const WRITE: &str = "make an API token with the right Read & Write";
const LIMIT: &str =
    "ask Hetzner to raise the project's limits, or choose another --class or --type";

/// The answer, or what its error means.
pub(crate) fn ok(reply: Reply) -> Result<Reply, Failure> {
    if reply.status() < 400 {
        return Ok(reply);
    }
    let said = |name: &str| {
        let place = format!("/error/{name}");
        reply
            .value()
            .and_then(|value| value.pointer(&place)?.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let (code, message, reset) = (said("code"), said("message"), reset(&reply));
    let lower = message.to_lowercase();
    let in_words = IN_WORDS.iter().copied().find(|word| lower.contains(word));
    let meaning = CODES.meaning(in_words.unwrap_or(&code));
    let Err(plain) = reply.ok() else { return Err(Failure::internal("an error that is none")) };
    let wait = plain.data().retry_after_ms.map(Duration::from_millis);
    let failure = match (meaning, plain.kind()) {
        (Some(meaning), _) => Codes::failure(&code, &message, meaning),
        (None, ErrorKind::Auth) => plain.hint(TOKEN),
        (None, ErrorKind::Permission) => plain.hint(WRITE),
        (None, _) => plain,
    };
    Err(match failure.kind() {
        ErrorKind::RateLimited => failure.retry_after(wait.or(reset).unwrap_or(SLOW_DOWN)),
        _ => failure,
    })
}

/// How long until some of the allowance is back.
fn reset(reply: &Reply) -> Option<Duration> {
    let at: u64 = reply.header("ratelimit-reset")?.parse().ok()?;
    let wait = at.saturating_sub(reply.date()?);
    Some(Duration::from_secs(wait.clamp(1, LONGEST_WAIT)))
}
