//! Islo's web API: sessions that are exchanged for the key, requests with them, and what refusals mean.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_plugin_sdk::{
    Call, ErrorKind, Failure, HttpRequest, HttpStream, Next, Outcome, Repeat, Reply, secret,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{Config, origin};

/// How long before its end a session is exchanged for a new one, and how long one lasts that does not say.
const MARGIN: Duration = Duration::from_secs(60);
const SESSION: Duration = Duration::from_secs(600);
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
struct Session {
    handle: String,
    until: Instant,
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
        let (url, compute) =
            (format!("{}/auth/token", self.config.base_url), origin(self.config.compute()));
        let body = json!({ "access_key": secret("api-key") });
        let asked = call.http("POST", &url).json(&body).capture_for("/session_token", compute);
        // Whatever goes wrong here, what the session is for was not done.
        let reply = asked.send().and_then(good).map_err(|f| f.outcome(Outcome::NotStarted))?;
        let handle = reply.captured("/session_token").map(str::to_owned).ok_or_else(|| {
            Failure::transient("Islo gave no session for the key: its answer has no session_token")
        })?;
        let lasts = reply.value().and_then(|answer| answer["cookie_max_age"].as_u64());
        let lasts = lasts.map_or(SESSION, Duration::from_secs).saturating_sub(MARGIN);
        let until = Instant::now() + lasts.min(Duration::from_secs(86_400));
        *held = Some(Session { handle: handle.clone(), until });
        Ok(handle)
    }

    /// Sends with a session, and once more with a new one when it was refused: what was refused was not done.
    fn authorised<T>(
        &self,
        call: &Call,
        status: impl Fn(&T) -> u16,
        send: impl Fn(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let session = self.session(call)?;
        let answer = send(&session)?;
        if status(&answer) != 401 {
            return Ok(answer);
        }
        drop(answer);
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        held.take_if(|held| held.handle == session);
        drop(held);
        send(&self.session(call)?)
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
        let send = |session: &str| fill(call.http(method, &url).bearer(session)).send();
        call.steadily(repeat, || self.authorised(call, Reply::status, send).and_then(good))
    }

    /// A request whose answer is read while it comes.
    pub(crate) fn open<'a>(
        &self,
        call: &'a Call,
        path: &str,
        body: &Value,
    ) -> Result<HttpStream<'a>, Failure> {
        let url = format!("{}{path}", self.config.compute());
        let send = |session: &str| {
            let request = call.http("POST", &url).bearer(session).json(body);
            request.header("accept", "text/event-stream").open()
        };
        call.steadily(Repeat::Never, || {
            let mut stream = self.authorised(call, HttpStream::status, send)?;
            if stream.status() < 400 {
                return Ok(stream);
            }
            let (body, wait) = (whole(&mut stream), stream.header("retry-after"));
            Err(refused(stream.status(), wait, body.as_ref()))
        })
    }
}

/// An answer that is no refusal.
fn good(reply: Reply) -> Result<Reply, Failure> {
    match reply.status() {
        ..=399 => Ok(reply),
        status => Err(refused(status, reply.header("retry-after"), reply.value())),
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
fn refused(status: u16, retry_after: Option<&str>, body: Option<&Value>) -> Failure {
    let said = body.map(|body| body.get("error").filter(|e| e.is_object()).unwrap_or(body));
    let refusal = said.and_then(|said| Refusal::deserialize(said).ok()).unwrap_or_default();
    let kind = kind(status, &refusal);
    let words: String =
        refusal.message.lines().next().unwrap_or_default().chars().take(WORDS).collect();
    let parts = [
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
            assert_eq!(refused(status, None, Some(&body)).kind(), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_refusal_tells_amounts_and_the_wait() {
        let body = json!({"code": "RESOURCE_UNAVAILABLE", "message": "full\nsecond line",
            "resource": "vcpus", "requested": 4, "available": 1, "limit": 8, "request_id": "r-1"});
        let failure = refused(503, Some("7"), Some(&body));
        assert_eq!(
            failure.message(),
            "Islo answered with status 503: RESOURCE_UNAVAILABLE: full: \
             vcpus 4 asked for, 1 left of 8: request r-1"
        );
        assert_eq!(failure.data().retry_after_ms, Some(7000));
    }
}
