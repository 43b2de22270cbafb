//! Services that hand credentials out: the portal of a single sign-on, a container's, the machine's own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;
use sha1::{Digest, Sha1};
use tokio::time::timeout;
use url::{Host, Url};

use crate::aws::profile::Profile;
use crate::aws::{Chain, document};
use crate::policy::Reach;

/// How long the machine's own service may take: on most machines there is none.
const NEAR: Duration = Duration::from_secs(1);
/// How long others may take.
pub(super) const FAR: Duration = Duration::from_secs(10);
/// Most bytes of an answer, or of a file with a token.
const MOST: usize = 64 * 1024;
/// The service of containers, and the ones of two kinds of clusters.
const CONTAINER: &str = "http://169.254.170.2";
const CONTAINERS: &[&str] = &["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
const MACHINE: &str = "http://169.254.169.254";

/// A region's name, which becomes part of an address.
pub(super) fn region(name: &str) -> Result<&str, String> {
    match name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        true => Ok(name),
        false => Err(format!("{name:?} is no region")),
    }
}

/// Exchanges the token that `aws sso login` left for credentials.
pub(super) async fn sso(chain: &Chain, profile: &Profile) -> Result<Value, String> {
    let name = &profile.name;
    let want = |key: &str| profile.get(key).ok_or_else(|| format!("profile {name} has no {key}"));
    let (account, role, region) =
        (want("sso_account_id")?, want("sso_role_name")?, want("sso_region")?);
    let key = profile.get("sso_session").map_or_else(|| want("sso_start_url"), Ok)?;
    let file: String = Sha1::digest(key).iter().map(|byte| format!("{byte:02x}")).collect();
    let file = chain.home.join(format!(".aws/sso/cache/{file}.json"));
    let login = || format!("log in with `aws sso login --profile {name}`");
    let cached: Value = fs::read(&file)
        .ok()
        .filter(|bytes| bytes.len() <= MOST)
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(login)?;
    let token = cached.get("accessToken").and_then(Value::as_str).ok_or_else(login)?;
    let region = self::region(region)?;
    let portal = chain.var("AWS_ENDPOINT_URL_SSO").map(str::to_owned);
    let portal = portal.unwrap_or_else(|| format!("https://portal.sso.{region}.amazonaws.com"));
    let mut url = Url::parse(&format!("{portal}/federation/credentials"))
        .map_err(|e| format!("{portal}: {e}"))?;
    url.query_pairs_mut().append_pair("account_id", account).append_pair("role_name", role);
    let headers = [("x-amz-sso_bearer_token", token)];
    let (status, body) = ask(chain, Method::GET, url, &headers, FAR).await?;
    if status == 401 {
        return Err(login());
    }
    let found = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let text = |member: &str| found.pointer(&format!("/roleCredentials/{member}"));
    match (
        text("accessKeyId").and_then(Value::as_str),
        text("secretAccessKey").and_then(Value::as_str),
    ) {
        (Some(access), Some(secret)) => {
            let session = text("sessionToken").and_then(Value::as_str);
            Ok(document(access, secret, session, text("expiration")))
        }
        _ => Err(format!("the portal answered {status} for {role} in {account}")),
    }
}

/// The service of the container this runs in, when its variables name one.
pub(super) async fn container(chain: &Chain) -> Result<Option<Value>, String> {
    let url = match (
        chain.var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        chain.var("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ) {
        (Some(path), _) => format!("{CONTAINER}{path}"),
        (None, Some(url)) => url.to_owned(),
        (None, None) => return Ok(None),
    };
    let url = Url::parse(&url).map_err(|e| format!("{url}: {e}"))?;
    if url.scheme() != "https" && !is_near(&url) {
        return Err(format!("{url} is neither this machine nor encrypted"));
    }
    let token = match chain.var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => Some(token(Path::new(path))?),
        None => chain.var("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
    };
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    let (status, body) = ask(chain, Method::GET, url, &headers, FAR).await?;
    read(status, &body, "the container's service").map(Some)
}

fn is_near(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) if address.is_loopback() => true,
        Some(Host::Ipv6(address)) if address.is_loopback() => true,
        _ => url.host_str().is_some_and(|host| host == "localhost" || CONTAINERS.contains(&host)),
    }
}

fn token(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The machine's own service, in the version that wants a token; none on machines that have no such service or no role.
pub(super) async fn machine(chain: &Chain) -> Result<Option<Value>, String> {
    if chain.var("AWS_EC2_METADATA_DISABLED").is_some_and(|word| word.eq_ignore_ascii_case("true"))
    {
        return Ok(None);
    }
    let base = chain.var("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(MACHINE);
    let at = |path: &str| {
        let url = format!("{}/latest/{path}", base.trim_end_matches('/'));
        Url::parse(&url).map_err(|e| format!("{url}: {e}"))
    };
    let life = [("x-aws-ec2-metadata-token-ttl-seconds", "300")];
    let Ok((200, token)) = ask(chain, Method::PUT, at("api/token")?, &life, NEAR).await else {
        return Ok(None);
    };
    let token = String::from_utf8_lossy(&token).trim().to_owned();
    let headers = [("x-aws-ec2-metadata-token", token.as_str())];
    let roles = "meta-data/iam/security-credentials/";
    let (status, role) = ask(chain, Method::GET, at(roles)?, &headers, NEAR).await?;
    let role = String::from_utf8_lossy(&role);
    let Some(role) =
        role.lines().next().map(str::trim).filter(|role| !role.is_empty() && status == 200)
    else {
        return Ok(None);
    };
    let (status, body) =
        ask(chain, Method::GET, at(&format!("{roles}{role}"))?, &headers, NEAR).await?;
    read(status, &body, "the machine's own service").map(Some)
}

/// The answer of a container's or a machine's service.
fn read(status: u16, body: &[u8], whose: &str) -> Result<Value, String> {
    let found = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let text = |name: &str| found.get(name).and_then(Value::as_str);
    match (text("AccessKeyId"), text("SecretAccessKey")) {
        (Some(access), Some(secret)) => {
            Ok(document(access, secret, text("Token"), found.get("Expiration")))
        }
        _ => Err(format!("{whose} answered {status} without credentials")),
    }
}

async fn ask(
    chain: &Chain,
    method: Method,
    url: Url,
    headers: &[(&str, &str)],
    patience: Duration,
) -> Result<(u16, Vec<u8>), String> {
    post(chain, method, url, headers, String::new(), patience).await
}

/// The same with a body.
pub(super) async fn post(
    chain: &Chain,
    method: Method,
    url: Url,
    headers: &[(&str, &str)],
    body: String,
    patience: Duration,
) -> Result<(u16, Vec<u8>), String> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let client = chain.clients.get(Reach::Anywhere).await.map_err(|error| error.message)?;
    let request = headers
        .iter()
        .fold(client.request(method, url), |request, (name, value)| request.header(*name, *value));
    let request = if body.is_empty() { request } else { request.body(body) };
    let asking = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, whole(response).await?))
    };
    let answered: Result<_, reqwest::Error> =
        timeout(patience, asking).await.map_err(|_| format!("{host} did not answer in time"))?;
    answered.map_err(|_| format!("cannot ask {host}"))
}

async fn whole(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST {
            body.clear();
            break;
        }
    }
    Ok(body)
}
