//! Questions to EC2's Query API, and what its refusals mean.

use std::collections::BTreeMap;
use std::fmt::Display;

use crabbox_plugin_sdk::cloud::Codes;
use crabbox_plugin_sdk::{
    Call, ErrorKind, Failure, HttpAuth, HttpBody, Repeat, Reply, SecretText, Sigv4Auth, every_page,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const VERSION: &str = "2016-11-15";
/// What fits a line from the host, and a little less.
const PAGE_BYTES: u64 = 900 << 10;
/// Instances of a page, each with everything about its network and disks.
const PAGE: u32 = 50;

/// The API of one region as one call sees it. The host signs.
#[derive(Clone, Copy)]
pub(crate) struct Api<'a> {
    pub(crate) call: &'a Call,
    /// The user's own endpoint.
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) region: &'a str,
}

/// One action and its parameters.
pub(crate) struct Query {
    pub(crate) action: &'static str,
    fields: BTreeMap<String, String>,
    filters: usize,
}

impl Query {
    pub(crate) fn new(action: &'static str) -> Self {
        Self { action, fields: BTreeMap::new(), filters: 0 }
    }

    pub(crate) fn with(mut self, name: impl Display, value: impl Display) -> Self {
        self.fields.insert(name.to_string(), value.to_string());
        self
    }

    pub(crate) fn maybe(self, name: &str, value: Option<&str>) -> Self {
        value.into_iter().fold(self, |query, value| query.with(name, value))
    }

    /// `name.1=…&name.2=…`.
    pub(crate) fn each<T: Display>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let values = values.into_iter().enumerate();
        values.fold(self, |query, (n, value)| query.with(format!("{name}.{}", n + 1), value))
    }

    /// Only what has one of these values.
    pub(crate) fn filter(mut self, name: &str, values: &[&str]) -> Self {
        self.filters += 1;
        let filter = format!("Filter.{}", self.filters);
        self.with(format!("{filter}.Name"), name).each(&format!("{filter}.Value"), values)
    }

    /// Tags for what is made.
    pub(crate) fn tags(self, kinds: &[&str], tags: &BTreeMap<String, String>) -> Self {
        kinds.iter().enumerate().fold(self, |query, (n, kind)| {
            let place = format!("TagSpecification.{}", n + 1);
            query.with(format!("{place}.ResourceType"), kind).pairs(&format!("{place}.Tag"), tags)
        })
    }

    pub(crate) fn pairs(self, name: &str, tags: &BTreeMap<String, String>) -> Self {
        tags.iter().enumerate().fold(self, |query, (n, (key, value))| {
            let place = format!("{name}.{}", n + 1);
            query.with(format!("{place}.Key"), key).with(format!("{place}.Value"), value)
        })
    }
}

impl Api<'_> {
    /// Asks, and asks again when the service is busy or nobody knows what became of the request: every action in use
    /// here is one that can be repeated.
    pub(crate) fn ask<T: DeserializeOwned>(&self, query: &Query) -> Result<T, Failure> {
        self.timed(query).map(|(answer, _)| answer)
    }

    /// The same, and what the service's own clock shows in seconds since 1970.
    pub(crate) fn timed<T: DeserializeOwned>(
        &self,
        query: &Query,
    ) -> Result<(T, Option<u64>), Failure> {
        let reply = self.answer(query)?;
        Ok((read(query.action, &reply)?, reply.date()))
    }

    /// The same for what answers with nothing of use.
    pub(crate) fn tell(&self, query: &Query) -> Result<(), Failure> {
        self.answer(query).map(drop)
    }

    fn answer(&self, query: &Query) -> Result<Reply, Failure> {
        self.call.steadily(Repeat::Safe, || {
            let text = |(name, value): (&str, &str)| {
                (name.to_owned(), SecretText::Plain(value.to_owned()))
            };
            let said = query.fields.iter().map(|(name, value)| (&**name, &**value));
            let form = said.chain([("Action", query.action), ("Version", VERSION)]).map(text);
            let reply = self
                .call
                .http("POST", self.url("ec2"))
                .auth(self.signed("ec2"))
                .body(HttpBody::Form(form.collect()))
                .at_most(PAGE_BYTES)
                .send()?;
            fits(query.action, ok(query.action, reply)?)
        })
    }

    /// Every page of a listing.
    pub(crate) fn all<P: Page>(&self, query: impl Fn() -> Query) -> Result<Vec<P::Item>, Failure> {
        every_page(|next: Option<&String>| self.page::<P>(query(), next.map(String::as_str)))
    }

    /// One page, and how to ask for the next one.
    pub(crate) fn page<P: Page>(
        &self,
        query: Query,
        token: Option<&str>,
    ) -> Result<(Vec<P::Item>, Option<String>), Failure> {
        let page: P = self.ask(&query.with("MaxResults", P::SIZE).maybe("NextToken", token))?;
        let (items, next) = page.open();
        Ok((items, next.filter(|token| !token.is_empty())))
    }

    /// The account's limit for one kind of thing.
    pub(crate) fn quota(&self, code: &str) -> Result<f64, Failure> {
        let action = "GetServiceQuota";
        let body = json!({"ServiceCode": "ec2", "QuotaCode": code}).to_string();
        let reply = self
            .call
            .http("POST", self.url("servicequotas"))
            .auth(self.signed("servicequotas"))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("ServiceQuotasV20190624.{action}"))
            .text(body)
            .send()?;
        let reply = ok(action, reply)?;
        let value = reply.value().and_then(|value| value.pointer("/Quota/Value")?.as_f64());
        value.ok_or_else(|| Failure::transient(format!("{action}: the answer has no value")))
    }

    fn url(&self, service: &str) -> String {
        match self.endpoint {
            Some(endpoint) => format!("{}/", endpoint.trim_end_matches('/')),
            None => format!("https://{service}.{}.amazonaws.com/", self.region),
        }
    }

    fn signed(&self, service: &str) -> HttpAuth {
        HttpAuth::Sigv4(Sigv4Auth {
            credentials: Some("credentials".to_owned()),
            service: service.to_owned(),
            region: self.region.to_owned(),
            ..Sigv4Auth::default()
        })
    }
}

/// An answer that comes in pages.
pub(crate) trait Page: DeserializeOwned {
    type Item;
    /// Entries of a page.
    const SIZE: u32 = PAGE;
    fn open(self) -> (Vec<Self::Item>, Option<String>);
}

/// The page of a proxy must not pass for an answer in which nothing is.
fn fits(action: &str, reply: Reply) -> Result<Reply, Failure> {
    let mut tags = reply.text().unwrap_or_default().split('<').skip(1);
    let root = tags.find(|tag| !tag.starts_with(['?', '!'])).unwrap_or_default();
    let name = root.split([' ', '>', '/']).next().and_then(|name| name.rsplit(':').next());
    match name.and_then(|name| name.strip_prefix(action)) == Some("Response") {
        true => Ok(reply),
        false => Err(Failure::transient(format!("{action}: the answer is not EC2's"))),
    }
}

fn read<T: DeserializeOwned>(action: &str, reply: &Reply) -> Result<T, Failure> {
    quick_xml::de::from_str(reply.text().unwrap_or_default()).map_err(|error| {
        Failure::transient(format!("{action}: the answer does not fit")).because(&error)
    })
}

/// What an error is called and says. EC2 has one form for it and AWS's other services another.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    #[serde(rename = "Code")]
    code: String,
    #[serde(rename = "Message", alias = "message")]
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    #[serde(rename = "Errors")]
    errors: Errors,
    #[serde(rename = "Error")]
    error: Option<Said>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Errors {
    #[serde(rename = "Error")]
    error: Option<Said>,
}

impl Said {
    fn read(reply: &Reply) -> Option<Self> {
        if let Some(value) = reply.value() {
            let text = |name: &str| value.get(name).and_then(Value::as_str);
            // `com.amazonaws.servicequotas#AccessDeniedException`
            let code = text("__type")?.rsplit('#').next().unwrap_or_default().to_owned();
            let message =
                text("message").or_else(|| text("Message")).unwrap_or_default().to_owned();
            return Some(Self { code, message });
        }
        let refusal: Refusal = quick_xml::de::from_str(reply.text()?).ok()?;
        refusal.errors.error.or(refusal.error).filter(|said| !said.code.is_empty())
    }
}

const LIMIT: &str = "ask AWS to raise the limit (Service Quotas, Amazon EC2), or choose another --class, --type or --market";
const RULES: &str = "remove old rules of the security group";
const VERIFIED: &str = "AWS still looks at the account; try again in some hours";
const KEYS: &str = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with `aws sso login`";
const RIGHT: &str = "the policy that crabbox needs is on its page about the aws provider";

/// The service's own words for an error, what they mean, and what can be done.
const CODES: Codes = Codes(&[
    ("InsufficientInstanceCapacity|InsufficientHostCapacity", ErrorKind::Capacity, ""),
    ("InsufficientCapacity|SpotMaxPriceTooLow", ErrorKind::Capacity, ""),
    ("Unsupported|UnsupportedOperation", ErrorKind::Capacity, ""),
    ("InvalidInstanceType|InvalidInstanceType.NotFound", ErrorKind::Capacity, ""),
    ("MaxSpotInstanceCountExceeded|VcpuLimitExceeded", ErrorKind::Quota, LIMIT),
    ("InstanceLimitExceeded|LimitExceeded", ErrorKind::Quota, LIMIT),
    ("RulesPerSecurityGroupLimitExceeded", ErrorKind::Quota, RULES),
    ("RequestLimitExceeded|RequestThrottled|Throttling", ErrorKind::RateLimited, ""),
    ("ThrottlingException|TooManyRequestsException", ErrorKind::RateLimited, ""),
    ("AuthFailure|InvalidClientTokenId|UnrecognizedClientException", ErrorKind::Auth, KEYS),
    ("SignatureDoesNotMatch|InvalidSignatureException", ErrorKind::Auth, KEYS),
    ("MissingAuthenticationToken", ErrorKind::Auth, KEYS),
    ("RequestExpired", ErrorKind::Auth, "look at this machine's clock, and log in again"),
    ("ExpiredToken|ExpiredTokenException", ErrorKind::Auth, "log in again"),
    ("UnauthorizedOperation|AccessDenied|AccessDeniedException", ErrorKind::Permission, RIGHT),
    ("OptInRequired", ErrorKind::Billing, "turn the region or the service on in AWS's console"),
    ("PendingVerification", ErrorKind::Billing, VERIFIED),
    ("Blocked", ErrorKind::Billing, "AWS has blocked the account"),
    ("IdempotentParameterMismatch|DependencyViolation|*.Duplicate", ErrorKind::Conflict, ""),
    ("InvalidAMIID.Unavailable|*.Malformed|*.NotFound", ErrorKind::NotFound, ""),
    ("InternalError|InternalFailure|ServiceUnavailable|Unavailable", ErrorKind::Transient, ""),
]);

/// The answer, or what its error means.
pub(crate) fn ok(action: &str, reply: Reply) -> Result<Reply, Failure> {
    if reply.status() < 400 {
        return Ok(reply);
    }
    let Some(Said { code, message }) = Said::read(&reply) else {
        return reply.ok();
    };
    // What follows can only be read with a right of its own.
    let message = message.split(" Encoded authorization failure").next().unwrap_or_default();
    let meaning = CODES.meaning(&code).unwrap_or(match reply.status() {
        // Everything an instance type cannot do has the most general of words.
        _ if of_type(&code, message) => (ErrorKind::Capacity, ""),
        500.. => (ErrorKind::Transient, ""),
        _ => (ErrorKind::InvalidRequest, ""),
    });
    Err(Codes::failure(&code, &format!("{action}: {}", message.trim()), meaning))
}

/// Whether a refusal is about the instance type, so that another one may do.
fn of_type(code: &str, message: &str) -> bool {
    let message = message.to_lowercase();
    code.starts_with("InvalidParameter")
        && ["free tier", "instance type", "instancetype", "eligible"]
            .iter()
            .any(|w| message.contains(w))
}

/// Whether a failure is this error of the service.
pub(crate) fn is(failure: &Failure, code: &str) -> bool {
    failure.message().ends_with(&format!("({code})"))
}
