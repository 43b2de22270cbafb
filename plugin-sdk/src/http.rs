//! Requests through the host, which holds the credentials: a provider needs no HTTP library and sees no key.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use crabbox_schemas::plugin::{
    BasicAuth, Capture, HeaderAuth, HttpAuth, HttpBody, HttpParams, HttpResult, Part, SecretText,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::call::millis;
use crate::doors::HttpSend;
use crate::{Call, ErrorKind, Failure, HttpStream};

/// Pages of one listing; more are not looked at.
const PAGES: usize = 400;
/// Most characters of a service's own words in a failure.
const WORDS: usize = 200;

/// A request that is being put together; [`send`](Self::send) makes it.
#[derive(Debug)]
#[must_use = "nothing is sent before `send` or `open`"]
pub struct HttpRequest<'a> {
    call: &'a Call,
    params: HttpParams,
    /// What could not be encoded.
    broken: Option<Failure>,
}

/// An answer. A status of 400 and more is an answer too; see [`ok`](Self::ok).
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// `POST https://api.example.dev/v1/servers`, for messages.
    what: String,
    result: HttpResult,
}

/// Where a secret goes in a JSON body or a form: the host puts its text there.
pub fn secret(handle: impl Into<String>) -> Value {
    json!({ "$secret": handle.into() })
}

impl Call {
    /// A request to make through the host. Its origin must be in the manifest's grants.
    pub fn http(&self, method: &str, url: impl fmt::Display) -> HttpRequest<'_> {
        let params = HttpParams { call: self.id(), ..HttpParams::new(method, &url.to_string()) };
        HttpRequest { call: self, params, broken: None }
    }
}

impl<'a> HttpRequest<'a> {
    /// Adds a header field. Credentials belong in [`auth`](Self::auth).
    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.params.headers.insert(name.to_owned(), value.to_string());
        self
    }

    /// Adds `name=value` to the URL, encoded.
    pub fn query(mut self, name: &str, value: impl fmt::Display) -> Self {
        let mark = if self.params.url.contains('?') { '&' } else { '?' };
        let pair = format!("{mark}{}={}", encode(name), encode(&value.to_string()));
        self.params.url.push_str(&pair);
        self
    }

    /// Adds `name=value` to the URL, of which only the host knows the value.
    pub fn query_secret(mut self, name: &str, handle: &str) -> Self {
        self.params.query.insert(name.to_owned(), SecretText::Secret(handle.to_owned()));
        self
    }

    /// Authorises with one of the host's kinds.
    pub fn auth(mut self, auth: HttpAuth) -> Self {
        self.params.auth = Some(auth);
        self
    }

    /// `Authorization: Bearer …` with the secret of this handle.
    pub fn bearer(self, handle: impl Into<String>) -> Self {
        self.auth(HttpAuth::Bearer(handle.into()))
    }

    /// `Authorization: Basic …` with the password of this handle.
    pub fn basic(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let (username, password) = (SecretText::Plain(user.into()), password.into());
        self.auth(HttpAuth::Basic(BasicAuth { username, password }))
    }

    /// A header field of the service's own with the secret of this handle.
    pub fn key(self, name: &str, handle: impl Into<String>) -> Self {
        let (name, prefix, secret) = (name.to_owned(), String::new(), handle.into());
        self.auth(HttpAuth::Header(HeaderAuth { name, prefix, secret }))
    }

    /// Sends JSON; [`secret`] says where secrets go in it.
    pub fn json(mut self, body: &impl Serialize) -> Self {
        match serde_json::to_value(body) {
            Ok(value) => self.body(HttpBody::Json(value)),
            Err(error) => {
                self.broken = Some(Failure::internal("cannot encode a body").because(&error));
                self
            }
        }
    }

    /// Sends a form.
    pub fn form<'f>(self, fields: impl IntoIterator<Item = (&'f str, SecretText)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        self.body(HttpBody::Form(fields.collect()))
    }

    /// Sends `multipart/form-data`.
    pub fn multipart(self, parts: Vec<Part>) -> Self {
        self.body(HttpBody::Multipart(parts))
    }

    /// Sends text.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.body(HttpBody::Text(text.into()))
    }

    /// Sends the content of a sealed blob.
    pub fn blob(self, blob: &str) -> Self {
        self.body(HttpBody::Blob(blob.to_owned()))
    }

    /// Sends a body of any kind.
    pub fn body(mut self, body: HttpBody) -> Self {
        self.params.body = Some(body);
        self
    }

    /// Makes a member of a JSON answer a secret before it gets here; in its place stands its handle. It may be
    /// sent to the origin it came from.
    pub fn capture(mut self, pointer: &str) -> Self {
        self.params.capture.push(Capture { pointer: pointer.to_owned(), to: vec![], ttl_ms: None });
        self
    }

    /// The same for these origins instead: the one it came from is among them only when it is named.
    pub fn capture_for<'o>(
        mut self,
        pointer: &str,
        origins: impl IntoIterator<Item = &'o str>,
    ) -> Self {
        let to = origins.into_iter().map(str::to_owned).collect();
        self.params.capture.push(Capture { pointer: pointer.to_owned(), to, ttl_ms: None });
        self
    }

    /// How long the answer may take; a minute without.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.params.timeout_ms = Some(millis(time));
        self
    }

    /// Most bytes of the answer; 512 KiB without.
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.params.max_response = Some(bytes);
        self
    }

    /// Puts the answer's body in a new blob; see [`Reply::blob`].
    pub fn into_blob(mut self) -> Self {
        self.params.into_blob = true;
        self
    }

    /// Sends the request and waits for the whole answer.
    pub fn send(self) -> Result<Reply, Failure> {
        let (call, params) = self.ready()?;
        let path = params.url.split(['?', '#']).next().unwrap_or_default();
        let what = format!("{} {path}", params.method);
        Ok(Reply { what, result: call.ask::<HttpSend>(&params)? })
    }

    /// Sends the request and waits for the answer's head; the body is read bit by bit.
    pub fn open(self) -> Result<HttpStream<'a>, Failure> {
        let (call, params) = self.ready()?;
        HttpStream::open(call, &params)
    }

    fn ready(self) -> Result<(&'a Call, HttpParams), Failure> {
        match self.broken {
            Some(failure) => Err(failure),
            None => Ok((self.call, self.params)),
        }
    }
}

impl Reply {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.result.status
    }

    /// A header field, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.result.headers.get(name).map(String::as_str)
    }

    /// What the service's clock shows, in seconds since 1970: a guest has no clock of its own.
    pub fn date(&self) -> Option<u64> {
        let date = httpdate::parse_http_date(self.header("date")?).ok()?;
        Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
    }

    /// How long to wait before asking again, where the service says it in seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.parse().ok().map(Duration::from_secs)
    }

    /// The body, when it is JSON.
    pub fn value(&self) -> Option<&Value> {
        self.result.json.as_ref()
    }

    /// The body, when it is text that is no JSON.
    pub fn text(&self) -> Option<&str> {
        self.result.text.as_deref()
    }

    /// The blob the body is in, after [`HttpRequest::into_blob`].
    pub fn blob(&self) -> Option<&str> {
        self.result.blob.as_deref()
    }

    /// The handle that [`HttpRequest::capture`] left at this place.
    pub fn captured(&self, pointer: &str) -> Option<&str> {
        self.value()?.pointer(pointer)?.get("$secret")?.as_str()
    }

    /// Reads the JSON body into a type of the provider's.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let value = self
            .value()
            .ok_or_else(|| Failure::transient(format!("{}: the answer is no JSON", self.what)))?;
        T::deserialize(value).map_err(|error| {
            Failure::internal(format!("{}: the answer does not fit", self.what)).because(&error)
        })
    }

    /// The answer itself when its status is below 400, else what the status means. A 404 is `not_found`, which
    /// proves that the thing does not exist: where a service says 404 for something else, look at the status first.
    pub fn ok(self) -> Result<Self, Failure> {
        let kind = match self.status() {
            ..=399 => return Ok(self),
            401 => ErrorKind::Auth,
            402 => ErrorKind::Billing,
            403 => ErrorKind::Permission,
            404 | 410 => ErrorKind::NotFound,
            408 | 425 | 500.. => ErrorKind::Transient,
            409 | 423 => ErrorKind::Conflict,
            412 => ErrorKind::Precondition,
            429 => ErrorKind::RateLimited,
            _ => ErrorKind::InvalidRequest,
        };
        let words = self.words().map(|words| format!(": {words}")).unwrap_or_default();
        let failure = Failure::new(kind, format!("{}: status {}{words}", self.what, self.status()));
        Err(self.retry_after().into_iter().fold(failure, Failure::retry_after))
    }

    /// The service's own words for what went wrong, where services usually have them.
    fn words(&self) -> Option<String> {
        let places = [
            "/error/message",
            "/error_description",
            "/message",
            "/error",
            "/errors/0/message",
            "/title",
        ];
        let said = match self.value() {
            Some(value) => places.iter().find_map(|place| value.pointer(place)?.as_str()),
            None => self.text().filter(|text| !text.trim_start().starts_with('<')),
        };
        let line = said?.lines().next()?.trim();
        (!line.is_empty()).then(|| line.chars().take(WORDS).collect())
    }
}

/// Everything of a listing that comes in pages: each page says how to ask for the next one.
pub fn every_page<T, C>(
    page: impl Fn(Option<&C>) -> Result<(Vec<T>, Option<C>), Failure>,
) -> Result<Vec<T>, Failure> {
    let (mut all, mut next) = (Vec::new(), None);
    for _ in 0..PAGES {
        let (items, more) = page(next.as_ref())?;
        all.extend(items);
        next = more;
        if next.is_none() {
            return Ok(all);
        }
    }
    Err(Failure::quota(format!("a listing has more than {PAGES} pages")))
}

/// Percent-encodes everything but what URLs never give a meaning to.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, json: Option<Value>, text: Option<&str>) -> Reply {
        let headers = [("retry-after".to_owned(), "7".to_owned())].into();
        let text = text.map(str::to_owned);
        let result = HttpResult { status, headers, json, text, ..HttpResult::default() };
        Reply { what: "GET https://api.example.dev/x".to_owned(), result }
    }

    #[test]
    fn a_status_becomes_a_failure_of_its_kind_with_the_services_words() {
        let said = json!({"error": {"message": "no such server\nor so"}});
        let failure = reply(404, Some(said), None).ok().unwrap_err();
        assert_eq!(failure.kind(), ErrorKind::NotFound);
        assert_eq!(failure.message(), "GET https://api.example.dev/x: status 404: no such server");
        let failure = reply(429, None, Some("<html>slow down")).ok().unwrap_err();
        assert_eq!(failure.message(), "GET https://api.example.dev/x: status 429");
        assert_eq!(failure.data().retry_after_ms, Some(7000));
        for (status, kind) in [
            (400, ErrorKind::InvalidRequest),
            (401, ErrorKind::Auth),
            (403, ErrorKind::Permission),
            (409, ErrorKind::Conflict),
            (503, ErrorKind::Transient),
        ] {
            assert_eq!(reply(status, None, None).ok().unwrap_err().kind(), kind, "{status}");
        }
        assert!(reply(204, None, None).ok().is_ok());
    }

    #[test]
    fn every_page_of_a_listing_is_read_and_one_without_an_end_is_an_error() {
        let page = |next: Option<&u32>| {
            let number = next.copied().unwrap_or(1);
            Ok((vec![number], (number < 3).then_some(number + 1)))
        };
        assert_eq!(every_page(page).unwrap(), [1, 2, 3]);
        let endless = every_page(|_: Option<&u32>| Ok((vec![()], Some(1))));
        assert_eq!(endless.unwrap_err().kind(), ErrorKind::Quota);
    }

    #[test]
    fn a_value_in_an_url_means_itself() {
        assert_eq!(encode("a b&c=é/~"), "a%20b%26c%3D%C3%A9%2F~");
    }
}
