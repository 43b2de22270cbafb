//! A role that somebody else's credentials may take on, through the service of security tokens.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use reqwest::Method;
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::aws::profile::{Profile, profile};
use crate::aws::remote::{self, FAR};
use crate::aws::{Chain, document};
use crate::body::Payload;
use crate::sigv4::{Keys, Scope, authorize};

/// Roles that may be taken on one after the other.
const DEEPEST: usize = 5;

/// Takes the role of a profile on, with the credentials the profile names.
pub(super) async fn assume(
    chain: &Chain,
    profile: &Profile,
    arn: &str,
    depth: usize,
) -> Result<Value, String> {
    let name = &profile.name;
    if depth >= DEEPEST {
        return Err(format!("profile {name} is behind more than {DEEPEST} roles"));
    }
    let found = Box::pin(source(chain, profile, depth)).await?;
    let found = found.ok_or_else(|| {
        format!("profile {name} has role_arn, and nothing that has credentials for it")
    })?;
    let keys = Keys::read(&found.to_string())
        .ok_or_else(|| format!("the credentials for the role of profile {name} lack a key"))?;
    ask(chain, profile, arn, &keys).await
}

/// The credentials that take the role on.
async fn source(chain: &Chain, own: &Profile, depth: usize) -> Result<Option<Value>, String> {
    match (own.get("source_profile"), own.get("credential_source")) {
        (Some(name), _) if name == own.name => Ok(own.keys()),
        (Some(name), _) => match profile(chain, name)? {
            Some(source) => chain.of_profile(&source, depth + 1).await,
            None => Err(format!("there is no profile {name}, which profile {} names", own.name)),
        },
        (None, Some("Environment")) => Ok(chain.variables()),
        (None, Some("EcsContainer")) => remote::container(chain).await,
        (None, Some("Ec2InstanceMetadata")) => remote::machine(chain).await,
        (None, _) => Ok(None),
    }
}

async fn ask(chain: &Chain, own: &Profile, arn: &str, keys: &Keys) -> Result<Value, String> {
    let region = own.get("region").or_else(|| chain.var("AWS_REGION"));
    let region = region.or_else(|| chain.var("AWS_DEFAULT_REGION")).unwrap_or("us-east-1");
    let region = remote::region(region)?;
    let service = chain.var("AWS_ENDPOINT_URL_STS").map(str::to_owned);
    let service = service.unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
    let url = Url::parse(&service).map_err(|e| format!("{service}: {e}"))?;
    let fields = [
        ("Action", Some("AssumeRole")),
        ("Version", Some("2011-06-15")),
        ("RoleArn", Some(arn)),
        ("RoleSessionName", own.get("role_session_name").or(Some("crabbox"))),
        ("ExternalId", own.get("external_id")),
        ("DurationSeconds", own.get("duration_seconds")),
    ];
    let fields = fields.iter().filter_map(|(name, value)| Some((name, (*value)?)));
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let payload = Payload::Bytes(Bytes::from(form.clone()), "application/x-www-form-urlencoded");
    let mut headers = HeaderMap::new();
    let now = Duration::from_millis((chain.now_ms)());
    let scope = Scope { service: "sts", region, now };
    authorize("POST", url.as_str(), &mut headers, &payload, keys, &scope).map_err(|e| e.message)?;
    let signed =
        headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let headers: Vec<_> =
        signed.chain([("content-type", "application/x-www-form-urlencoded")]).collect();
    let (status, body) = remote::post(chain, Method::POST, url, &headers, form, FAR).await?;
    let text = String::from_utf8_lossy(&body);
    let (access, secret) = (inside(&text, "AccessKeyId"), inside(&text, "SecretAccessKey"));
    let (Some(access), Some(secret)) = (access, secret) else {
        let why = inside(&text, "Message").unwrap_or("it does not say why");
        return Err(format!(
            "the role {arn} of profile {} was refused ({status}): {why}",
            own.name
        ));
    };
    let until = inside(&text, "Expiration").map(|until| json!(until));
    Ok(document(access, secret, inside(&text, "SessionToken"), until.as_ref()))
}

/// The text of an element that holds nothing else; keys and times have nothing that must be escaped.
fn inside<'a>(text: &'a str, element: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{element}>"))?;
    rest.split_once('<').map(|(inside, _)| inside.trim()).filter(|inside| !inside.is_empty())
}
