//! Sends a request and follows its redirects: every hop is checked, paced and authorised by itself.

use std::error::Error;
use std::time::Duration;

use bytes::BytesMut;
use crabbox_schemas::error::{ErrorKind, Outcome, RpcError};
use crabbox_schemas::plugin::{HttpBody, HttpParams, SecretText};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::auth::{Unsigned, Used, authorize};
use crate::blob::Blobs;
use crate::body::Payload;
use crate::client::Astray;
use crate::net::Net;
use crate::origin::Origin;
use crate::pace::{Turn, retry_after};
use crate::policy::private;

/// Redirects that are followed.
const REDIRECTS: usize = 5;
/// Header fields that belong to the connection, which is ours.
const OURS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Header fields that may follow a redirect to another origin.
const HARMLESS: &[&str] = &["accept", "accept-language", "content-type", "user-agent"];

/// What a request may use, and until when it must be answered.
pub(crate) struct Gate<'a> {
    pub(crate) blobs: &'a Blobs,
    pub(crate) deadline: Instant,
    /// Fields of ours that the plugin may not write, for a WebSocket's handshake.
    pub(crate) handshake: Option<&'a HeaderMap>,
}

/// The answer's head has come.
pub(crate) struct Landed {
    pub(crate) response: reqwest::Response,
    pub(crate) origin: Origin,
    /// Given back when the head has come, for an answer that stays open.
    pub(crate) turn: Option<Turn>,
}

/// One request of a chain of redirects.
struct Hop {
    method: Method,
    url: Url,
    headers: HeaderMap,
    /// The body goes along.
    body: bool,
    /// Every hop so far was at the first origin: credentials go along.
    home: bool,
    /// No answer said where to go.
    first: bool,
}

impl Net {
    /// Sends and follows redirects, until the head of the last answer.
    pub(crate) async fn send(
        &self,
        params: &HttpParams,
        gate: &Gate<'_>,
    ) -> Result<Landed, RpcError> {
        let mut hop = Hop::first(params)?;
        for _ in 0..=REDIRECTS {
            let landed = self.hop(&hop, params, gate).await?;
            match hop.next(&landed)? {
                Some(next) => hop = next,
                None => return Ok(landed),
            }
        }
        let message = format!("more than {REDIRECTS} redirects");
        Err(RpcError::of(ErrorKind::InvalidRequest, message))
    }

    async fn hop(
        &self,
        hop: &Hop,
        params: &HttpParams,
        gate: &Gate<'_>,
    ) -> Result<Landed, RpcError> {
        let (landed, used) = self.once(hop, params, gate).await?;
        match used {
            // A token may be revoked before its time; what was refused was not done.
            Some(Used(auth, token)) if landed.response.status() == StatusCode::UNAUTHORIZED => {
                drop(landed);
                self.tokens.forget(auth, &token).await;
                Ok(self.once(hop, params, gate).await?.0)
            }
            _ => Ok(landed),
        }
    }

    async fn once<'a>(
        &self,
        hop: &Hop,
        params: &'a HttpParams,
        gate: &Gate<'_>,
    ) -> Result<(Landed, Option<Used<'a>>), RpcError> {
        let (origin, reach) = self.policy.check(hop.method.as_str(), &hop.url)?;
        let body = params.body.as_ref().filter(|_| hop.body);
        if !hop.home && body.is_some_and(holds_secrets) {
            let message = format!("a redirect to {origin} would take a secret of the body along");
            return Err(RpcError::of(ErrorKind::GrantDenied, message));
        }
        let url = self.address(hop, params, &origin).await?;
        let payload = Payload::new(body, &origin, &self.vault, gate.blobs).await?;
        let mut headers = hop.headers.clone();
        if let Some(kind) = payload.content_type() {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
        }
        headers.extend(gate.handshake.cloned().unwrap_or_default());
        let request =
            Unsigned { method: hop.method.as_str(), url: &url, origin: &origin, payload: &payload };
        let used = match params.auth.as_ref().filter(|_| hop.home) {
            Some(auth) => authorize(self, auth, &request, &mut headers, gate).await?,
            None => None,
        };
        let turn = self.pace.turn(&origin, gate.deadline).await?;
        let client = self.clients.get(reach).await?;
        let request = client.request(hop.method.clone(), url.clone()).headers(headers);
        let sending = payload.attach(request).await?.send();
        let sent = timeout_at(gate.deadline, sending).await;
        let response =
            sent.map_err(|_| slow(&origin))?.map_err(|error| self.failed(error, &origin))?;
        self.heed(&response, &origin);
        Ok((Landed { response, origin, turn: Some(turn) }, used))
    }

    /// The URL with what only the host knows. An answer that sends us elsewhere names the whole of its own.
    async fn address(
        &self,
        hop: &Hop,
        params: &HttpParams,
        origin: &Origin,
    ) -> Result<Url, RpcError> {
        let mut url = hop.url.clone();
        for (name, value) in params.query.iter().filter(|_| hop.first) {
            let value = self.vault.fill(value, origin).await?;
            url.query_pairs_mut().append_pair(name, value.expose());
        }
        Ok(url)
    }

    /// Remembers when the origin wants to be asked again.
    fn heed(&self, response: &reqwest::Response, origin: &Origin) {
        let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if !busy.contains(&response.status()) {
            return;
        }
        let value = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let now = Duration::from_millis((self.now_ms)());
        if let Some(wait) = value.and_then(|value| retry_after(value, now)) {
            self.pace.pause(origin, wait);
        }
    }

    /// What became of a request that got no answer; never with a secret in it.
    pub(crate) fn failed(&self, error: reqwest::Error, origin: &Origin) -> RpcError {
        let error = error.without_url();
        let chain = chain(&error);
        let astray = chain.iter().find_map(|error| error.downcast_ref::<Astray>());
        if let Some(Astray::Private(host)) = astray {
            return private(host);
        }
        let (kind, message) = match astray {
            Some(astray) => (ErrorKind::Transient, astray.to_string()),
            None if error.is_timeout() => {
                (ErrorKind::Timeout, format!("{origin} did not answer in time"))
            }
            None if error.is_connect() => {
                (ErrorKind::Transient, format!("cannot connect to {origin}"))
            }
            None if error.is_builder() => {
                (ErrorKind::InvalidRequest, "the request makes no sense".to_owned())
            }
            None => (ErrorKind::Transient, format!("the connection to {origin} broke")),
        };
        let redactor = self.vault.redactor();
        let tls = chain.iter().any(|error| is_tls(*error));
        RpcError::of(kind, message).with(|data| {
            let not_started = astray.is_some() || error.is_connect() || error.is_builder();
            data.outcome = not_started.then_some(Outcome::NotStarted);
            let causes = chain.iter().skip(1).take(8);
            data.cause =
                causes.map(|cause| redactor.text(&cause.to_string()).into_owned()).collect();
            let hint = match tls {
                true => "the system's CA certificates must vouch for the server",
                false => "is this machine online, and is the address right where a setting of the provider names one?",
            };
            data.hint = (tls || error.is_connect()).then(|| hint.to_owned());
        })
    }
}

impl Hop {
    fn first(params: &HttpParams) -> Result<Self, RpcError> {
        let method = params.method.to_ascii_uppercase();
        let method = Method::from_bytes(method.as_bytes())
            .ok()
            .filter(|m| *m != Method::CONNECT && *m != Method::TRACE)
            .ok_or_else(|| invalid(format!("{:?} is no method to ask with", params.method)))?;
        let mut url =
            Url::parse(&params.url).map_err(|e| invalid(format!("the URL cannot be read: {e}")))?;
        url.set_fragment(None);
        let headers = fields(&params.headers)?;
        Ok(Self { method, url, headers, body: true, home: true, first: true })
    }

    /// Where the answer sends us, if it does.
    fn next(&self, landed: &Landed) -> Result<Option<Self>, RpcError> {
        let response = &landed.response;
        let location = match response.status().as_u16() {
            301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION),
            _ => None,
        };
        let Some(location) = location.and_then(|value| value.to_str().ok()) else {
            return Ok(None);
        };
        let mut url = self.url.join(location).map_err(|_| {
            RpcError::of(ErrorKind::Transient, format!("{} redirects to no URL", landed.origin))
        })?;
        url.set_fragment(None);
        let to_get = match response.status().as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::HEAD,
            _ => false,
        };
        let home = self.home && Origin::of(&url).as_ref() == Some(&landed.origin);
        let mut headers = self.headers.clone();
        if to_get {
            headers.remove(CONTENT_TYPE);
        }
        if !home {
            let harmless = |name: &HeaderName| HARMLESS.contains(&name.as_str());
            headers = headers
                .iter()
                .filter(|(n, _)| harmless(n))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect();
        }
        let method = if to_get { Method::GET } else { self.method.clone() };
        Ok(Some(Self { method, url, headers, body: self.body && !to_get, home, first: false }))
    }
}

impl Landed {
    /// The whole body, if it is not larger than that.
    pub(crate) async fn whole(
        mut self,
        most: usize,
        deadline: Instant,
        net: &Net,
    ) -> Result<BytesMut, RpcError> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece(deadline, net).await? {
            if body.len() + piece.len() > most {
                let message = format!("the answer of {} is larger than {most} bytes", self.origin);
                return Err(RpcError::of(ErrorKind::Quota, message).with(|data| {
                    data.hint = Some("ask for more with maxResponse, or for a blob".to_owned());
                }));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The next piece of the body; none at its end.
    pub(crate) async fn piece(
        &mut self,
        deadline: Instant,
        net: &Net,
    ) -> Result<Option<bytes::Bytes>, RpcError> {
        let piece = timeout_at(deadline, self.response.chunk()).await;
        piece.map_err(|_| slow(&self.origin))?.map_err(|error| net.failed(error, &self.origin))
    }
}

/// The plugin's own header fields.
fn fields(headers: &std::collections::BTreeMap<String, String>) -> Result<HeaderMap, RpcError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let bad = |_| invalid(format!("the value of {name} is no header field's"));
        map.append(field_name(name)?, HeaderValue::from_str(value).map_err(bad)?);
    }
    Ok(map)
}

/// The name of a header field that a plugin may write.
pub(crate) fn field_name(name: &str) -> Result<HeaderName, RpcError> {
    let lower = name.to_ascii_lowercase();
    if OURS.contains(&&*lower) || lower.starts_with("sec-websocket-") {
        return Err(invalid(format!("the header field {lower} is the kernel's")));
    }
    HeaderName::try_from(lower).map_err(|_| invalid(format!("{name:?} names no header field")))
}

fn holds_secrets(body: &HttpBody) -> bool {
    fn inside(value: &Value) -> bool {
        match value {
            Value::Object(members) => {
                members.contains_key("$secret") || members.values().any(inside)
            }
            Value::Array(items) => items.iter().any(inside),
            _ => false,
        }
    }
    match body {
        HttpBody::Json(value) => inside(value),
        HttpBody::Form(fields) => fields.values().any(|v| matches!(v, SecretText::Secret(_))),
        _ => false,
    }
}

/// An error and what led to it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let (mut chain, mut next) = (Vec::new(), Some(error));
    while let Some(error) = next {
        chain.push(error);
        next = error.source();
    }
    chain
}

fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

fn slow(origin: &Origin) -> RpcError {
    RpcError::of(ErrorKind::Timeout, format!("{origin} did not answer in time"))
}

fn invalid(message: String) -> RpcError {
    RpcError::of(ErrorKind::InvalidRequest, message)
        .with(|data| data.outcome = Some(Outcome::NotStarted))
}
