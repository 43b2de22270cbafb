//! Islo's web API: sessions that are exchanged for the key, requests with them, and what refusals mean.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_plugin_sdk::{
    Call, ErrorKind, Failure, HttpRequest, HttpStream, Next, Reply, Woken, secret,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Config, origin};

/// How long before its end a session is exchanged for a new one, and how long one lasts that does not say.
const MARGIN: Duration = Duration::from_secs(60);
const SESSION: Duration = Duration::from_secs(600);
/// How often a request that was not carried out is made again, and the longest wait in between.
const AGAIN: u32 = 3;
const LONGEST: Duration = Duration::from_secs(30);
/// Most bytes that are read of a refusal.
const REFUSAL: usize = 64 * 1024;
/// Most characters of the service's own words that are passed on.
const WORDS: usize = 200;

/// The service, and the session with it.
pub(crate) struct Api {
    pub(crate) config: Config,
    session: Mutex<Option<Session>>,
}

/// A session's token, by the handle the host gave it.
#[derive(Clone)]
struct Session {
    handle: String,
    until: Instant,
}

/// Whether a request may be made again when nobody knows what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It reads, or does the same again.
    Safe,
    /// Once more only when it surely was not carried out.
    Never,
}

impl Api {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, session: Mutex::new(None) }
    }

    /// The handle of a session that lasts a while. The key goes from the host to Islo, and the session's token from
    /// Islo to the host: neither is seen here.
    pub(crate) fn session(&self, call: &Call) -> Result<String, Failure> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(session) = held.as_ref().filter(|session| session.until > Instant::now()) {
            return Ok(session.handle.clone());
        }
        let url = format!("{}/auth/token", self.config.base_url);
        let exchange = || {
            let compute = origin(self.config.compute());
            let body = json!({ "access_key": secret("api-key") });
            call.http("POST", &url).json(&body).capture_for("/session_token", compute).send()
        };
        let reply = steadily(call, Repeat::Safe, exchange)?;
        let handle = reply.captured("/session_token").map(str::to_owned).ok_or_else(|| {
            Failure::transient("Islo gave no session for the key: its answer has no session_token")
        })?;
        let lasts = reply.value().and_then(|answer| answer["cookie_max_age"].as_u64());
        let lasts = lasts.map_or(SESSION, Duration::from_secs).saturating_sub(MARGIN);
        let until = Instant::now() + lasts.min(Duration::from_secs(86_400));
        *held = Some(Session { handle: handle.clone(), until });
        Ok(handle)
    }

    /// Forgets a session that was refused before its time.
    fn forget(&self, handle: &str) {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_if(|session| session.handle == handle);
    }

    /// A request to the compute API.
    pub(crate) fn ask<'a>(
        &self,
        call: &'a Call,
        method: &str,
        path: &str,
        repeat: Repeat,
        fill: impl Fn(HttpRequest<'a>) -> HttpRequest<'a>,
    ) -> Result<Reply, Failure> {
        let url = format!("{}{path}", self.config.compute());
        let once = || {
            let session = self.session(call)?;
            let reply = fill(call.http(method, &url).bearer(&session)).send()?;
            match reply.status() {
                // What was refused was not done.
                401 => {
                    self.forget(&session);
                    fill(call.http(method, &url).bearer(self.session(call)?)).send()
                }
                _ => Ok(reply),
            }
        };
        steadily(call, repeat, once)
    }

    /// A request whose answer is read while it comes. It is made again only when it was refused.
    pub(crate) fn open<'a>(
        &self,
        call: &'a Call,
        path: &str,
        body: &Value,
    ) -> Result<HttpStream<'a>, Failure> {
        let url = format!("{}{path}", self.config.compute());
        let mut waited = Duration::ZERO;
        for turn in 0..=AGAIN {
            let session = self.session(call)?;
            let request = call.http("POST", &url).bearer(&session).json(body);
            let mut stream = request.header("accept", "text/event-stream").open()?;
            let failure = match stream.status() {
                ..=299 => return Ok(stream),
                401 if turn == 0 => {
                    self.forget(&session);
                    continue;
                }
                status => {
                    let wait = stream.header("retry-after").map(str::to_owned);
                    refused(path, status, wait.as_deref(), whole(&mut stream).as_ref())
                }
            };
            drop(stream);
            waited += pause(call, &failure, waited, Repeat::Never, turn)?;
        }
        Err(Failure::transient(format!("{path}: refused again and again")))
    }
}

/// Asks until there is an answer that is none of passing weather.
fn steadily(
    call: &Call,
    repeat: Repeat,
    once: impl Fn() -> Result<Reply, Failure>,
) -> Result<Reply, Failure> {
    let mut waited = Duration::ZERO;
    for turn in 0.. {
        let failure = match once() {
            Ok(reply) if reply.status() < 400 => return Ok(reply),
            Ok(reply) => refused("", reply.status(), reply.header("retry-after"), reply.value()),
            Err(failure) => failure,
        };
        waited += pause(call, &failure, waited, repeat, turn)?;
    }
    Err(Failure::internal("asked without end"))
}

/// Waits before a request is made again; the failure itself when it is not.
fn pause(
    call: &Call,
    failure: &Failure,
    waited: Duration,
    repeat: Repeat,
    turn: u32,
) -> Result<Duration, Failure> {
    let weather = match failure.kind() {
        ErrorKind::RateLimited => true,
        ErrorKind::Transient => repeat == Repeat::Safe,
        _ => false,
    };
    let asked = failure.data().retry_after_ms.map(Duration::from_millis);
    let wait = asked.unwrap_or(Duration::from_secs(1 << turn.min(4)));
    if !weather || turn >= AGAIN || waited + wait > LONGEST || wait >= call.time_left() {
        return Err(failure.clone());
    }
    match call.sleep(wait)? {
        Woken::Time => Ok(wait),
        Woken::Cancel => Err(failure.clone()),
    }
}

/// The body of a refusal, when it is JSON.
fn whole(stream: &mut HttpStream<'_>) -> Option<Value> {
    let mut body = Vec::new();
    while body.len() < REFUSAL {
        match stream.bytes(Duration::from_secs(10)) {
            Ok(Next::Item(piece)) => body.extend(piece),
            _ => break,
        }
    }
    serde_json::from_slice(&body).ok()
}

/// Islo's refusals, as far as they matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    code: String,
    message: String,
    request_id: Option<String>,
    resource: Option<String>,
    limit: Option<u64>,
    requested: Option<u64>,
    available: Option<u64>,
}

/// What a refusal means.
fn refused(what: &str, status: u16, retry_after: Option<&str>, body: Option<&Value>) -> Failure {
    let said = body.map(|body| body.get("error").filter(|e| e.is_object()).unwrap_or(body));
    let refusal = said.and_then(|said| Refusal::deserialize(said).ok()).unwrap_or_default();
    let kind = kind(status, &refusal);
    let words: String =
        refusal.message.lines().next().unwrap_or_default().chars().take(WORDS).collect();
    let parts = [
        (!what.is_empty()).then(|| what.to_owned()),
        Some(format!("Islo answered with status {status}")),
        (!refusal.code.is_empty()).then(|| refusal.code.clone()),
        (!words.is_empty()).then_some(words),
        refusal.limit.map(|limit| amounts(&refusal, limit)),
        refusal.request_id.as_ref().map(|id| format!("request {id}")),
    ];
    let message = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
    let failure = Failure::new(kind, message);
    let failure = match hint(kind) {
        Some(hint) => failure.hint(hint),
        None => failure,
    };
    let wait = retry_after.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
    wait.into_iter().fold(failure, Failure::retry_after)
}

fn amounts(refusal: &Refusal, limit: u64) -> String {
    let resource = refusal.resource.as_deref().unwrap_or("resource");
    let number = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
    let (requested, available) = (number(refusal.requested), number(refusal.available));
    format!("{resource} {requested} asked for, {available} left of {limit}")
}

fn kind(status: u16, refusal: &Refusal) -> ErrorKind {
    match (&*refusal.code, status) {
        ("RATE_LIMITED", _) | (_, 429) => ErrorKind::RateLimited,
        ("BILLING_NOT_ALLOWED" | "TENANT_SUSPENDED" | "INSUFFICIENT_CREDITS", _) | (_, 402) => {
            ErrorKind::Billing
        }
        ("ACCESS_DENIED", _) | (_, 403) => ErrorKind::Permission,
        (_, 401) => ErrorKind::Auth,
        ("RESOURCE_UNAVAILABLE", _) | (_, 503) if refusal.limit.is_some() => ErrorKind::Quota,
        ("RESOURCE_UNAVAILABLE" | "SANDBOX_PROVISIONING_FAILED", _) => ErrorKind::Capacity,
        ("SANDBOX_ALREADY_EXISTS" | "SANDBOX_INVALID_STATE" | "CACHE_CONFLICT", _) | (_, 409) => {
            ErrorKind::Conflict
        }
        (_, 404 | 410) => ErrorKind::NotFound,
        ("TIMEOUT", _) | (_, 408 | 504) => ErrorKind::Timeout,
        (_, 500..) => ErrorKind::Transient,
        _ => ErrorKind::InvalidRequest,
    }
}

fn hint(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::Auth => {
            "set ISLO_API_KEY, or islo.apiKey in your own configuration, to a valid key"
        }
        ErrorKind::Permission => "the key needs the right to manage sandboxes",
        ErrorKind::Billing => "look at the account's credits and billing at Islo",
        ErrorKind::Quota => {
            "stop sandboxes (`crabbox list`), or ask for less with islo.vcpus, islo.memoryMB, islo.diskGB"
        }
        ErrorKind::Capacity => {
            "try again later, or ask for less with islo.vcpus, islo.memoryMB, islo.diskGB"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_kind_that_says_what_to_do() {
        for (status, body, expected) in [
            (401, json!({"code": "AUTH_REQUIRED"}), ErrorKind::Auth),
            (403, json!({}), ErrorKind::Permission),
            (402, json!({"code": "INSUFFICIENT_CREDITS"}), ErrorKind::Billing),
            (403, json!({"code": "TENANT_SUSPENDED"}), ErrorKind::Billing),
            (409, json!({"code": "SANDBOX_ALREADY_EXISTS"}), ErrorKind::Conflict),
            (503, json!({"code": "RESOURCE_UNAVAILABLE"}), ErrorKind::Capacity),
            (503, json!({"code": "RESOURCE_UNAVAILABLE", "limit": 4}), ErrorKind::Quota),
            (503, json!({}), ErrorKind::Transient),
            (504, json!({"error": {"code": "UPSTREAM_TIMEOUT"}}), ErrorKind::Timeout),
            (422, json!({"code": "VALIDATION_ERROR"}), ErrorKind::InvalidRequest),
        ] {
            assert_eq!(refused("", status, None, Some(&body)).kind(), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_tells_amounts_and_the_wait() {
        let body = json!({"code": "RESOURCE_UNAVAILABLE", "message": "full\nsecond line",
            "resource": "vcpus", "requested": 4, "available": 1, "limit": 8, "request_id": "r-1"});
        let failure = refused("/sandboxes", 503, Some("7"), Some(&body));
        assert_eq!(
            failure.message(),
            "/sandboxes: Islo answered with status 503: RESOURCE_UNAVAILABLE: full: \
             vcpus 4 asked for, 1 left of 8: request r-1"
        );
        assert_eq!(failure.data().retry_after_ms, Some(7000));
    }
}
