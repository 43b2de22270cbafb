//! Puts credentials on a request: the last thing before it goes, and only where they may go.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{HttpAuth, Oauth2Auth, Sigv4Auth};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use crate::body::Payload;
use crate::net::Net;
use crate::origin::Origin;
use crate::send::{Gate, field_name};
use crate::sigv4::{self, Keys, Scope};
use crate::vault::{Secret, Vault};

/// A token that was sent although it is not fresh: worth another try when it is refused.
pub(crate) struct Used<'a>(pub(crate) &'a Oauth2Auth, pub(crate) Secret);

/// A request that lacks only its credentials.
pub(crate) struct Unsigned<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: &'a Url,
    pub(crate) origin: &'a Origin,
    pub(crate) payload: &'a Payload,
}

/// Adds what `auth` asks for.
pub(crate) async fn authorize<'a>(
    net: &Net,
    auth: &'a HttpAuth,
    request: &Unsigned<'_>,
    headers: &mut HeaderMap,
    gate: &Gate<'_>,
) -> Result<Option<Used<'a>>, RpcError> {
    let (vault, origin) = (&net.vault, request.origin);
    match auth {
        HttpAuth::Bearer(handle) => {
            let token = vault.inject(handle, origin).await?;
            put(headers, AUTHORIZATION, &format!("Bearer {}", token.expose()))?;
        }
        HttpAuth::Basic(basic) => {
            let user = vault.fill(&basic.username, origin).await?;
            let password = vault.inject(&basic.password, origin).await?;
            let pair = STANDARD.encode(format!("{}:{}", user.expose(), password.expose()));
            vault.watch(&pair);
            put(headers, AUTHORIZATION, &format!("Basic {pair}"))?;
        }
        HttpAuth::Header(field) => {
            let name = field_name(&field.name)?;
            let secret = vault.inject(&field.secret, origin).await?;
            put(headers, name, &format!("{}{}", field.prefix, secret.expose()))?;
        }
        HttpAuth::Sigv4(aws) => {
            let keys = keys(vault, aws, origin).await?;
            let now = Duration::from_millis((net.now_ms)());
            let scope = Scope { service: &aws.service, region: &aws.region, now };
            let (url, payload) = (request.url.as_str(), request.payload);
            sigv4::authorize(request.method, url, headers, payload, &keys, &scope)?;
        }
        HttpAuth::Oauth2(oauth) => {
            let (token, used) = Box::pin(net.tokens.get(net, oauth, gate)).await?;
            put(headers, AUTHORIZATION, &format!("Bearer {}", token.expose()))?;
            return Ok(used.then_some(Used(oauth, token)));
        }
    }
    Ok(None)
}

/// The keys by one handle each, or all of them by one.
async fn keys(vault: &Vault, aws: &Sigv4Auth, origin: &Origin) -> Result<Keys, RpcError> {
    if let Some(handle) = &aws.credentials {
        let keys = Keys::read(vault.inject(handle, origin).await?.expose());
        let keys = keys.ok_or_else(|| {
            let message = format!("the secret {handle} is no set of credentials");
            RpcError::of(ErrorKind::Auth, message)
        })?;
        [&keys.access, &keys.secret]
            .into_iter()
            .chain(&keys.session)
            .for_each(|secret| vault.watch(secret.expose()));
        return Ok(keys);
    }
    let session = match &aws.session_token {
        Some(handle) => Some(vault.inject(handle, origin).await?),
        None => None,
    };
    Ok(Keys {
        access: vault.inject(&aws.access_key, origin).await?,
        secret: vault.inject(&aws.secret_key, origin).await?,
        session,
    })
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), RpcError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        RpcError::of(ErrorKind::Auth, "a secret holds characters that no header field may have")
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}
