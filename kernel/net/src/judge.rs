//! Whether a request may be made, without making it: for tests of plugins, where recordings answer.

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{HttpAuth, HttpBody, HttpParams, SecretText};
use serde_json::Value;
use url::Url;

use crate::net::Net;
use crate::origin::Origin;
use crate::vault::CAPTURED;

impl Net {
    /// Whether the grants allow a request and every secret it carries; where it goes, and those secrets.
    pub async fn judge(&self, params: &HttpParams) -> Result<(Origin, Vec<String>), RpcError> {
        let origin = self.allowed(&params.method, &params.url)?;
        let mut named: Vec<_> =
            handles(params).into_iter().map(|handle| (handle, origin.clone())).collect();
        if let Some(HttpAuth::Oauth2(oauth)) = &params.auth {
            // What a client proves itself with goes to the server of its tokens and nowhere else.
            let server = self.allowed("POST", &oauth.token_url)?;
            let client = secret(&oauth.client_id).chain([&*oauth.client_secret]);
            named.extend(client.map(|handle| (handle, server.clone())));
        }
        let mut secrets = Vec::new();
        for (handle, origin) in named.iter().filter(|(handle, _)| !handle.starts_with(CAPTURED)) {
            self.vault.inject(handle, origin).await?;
            secrets.push((*handle).to_owned());
        }
        Ok((origin, secrets))
    }

    /// Where a request goes, when the grants allow it.
    fn allowed(&self, method: &str, url: &str) -> Result<Origin, RpcError> {
        let parsed = Url::parse(url).map_err(|e| {
            RpcError::of(ErrorKind::InvalidRequest, format!("{url:?} is no URL: {e}"))
        })?;
        Ok(self.policy.check(&method.to_ascii_uppercase(), &parsed)?.0)
    }
}

/// The secrets a request names.
fn handles(params: &HttpParams) -> Vec<&str> {
    let mut found = match &params.auth {
        None => vec![],
        Some(HttpAuth::Bearer(handle)) => vec![&**handle],
        Some(HttpAuth::Basic(basic)) => secret(&basic.username).chain([&*basic.password]).collect(),
        Some(HttpAuth::Header(field)) => vec![&*field.secret],
        Some(HttpAuth::Sigv4(aws)) => {
            let more = [aws.session_token.as_deref(), aws.credentials.as_deref()];
            let keys = [&*aws.access_key, &*aws.secret_key].into_iter();
            keys.filter(|handle| !handle.is_empty()).chain(more.into_iter().flatten()).collect()
        }
        // Those of a client do not go along with its requests.
        Some(HttpAuth::Oauth2(_)) => vec![],
    };
    found.extend(params.query.values().flat_map(secret));
    match &params.body {
        Some(HttpBody::Json(value)) => inside(value, &mut found),
        Some(HttpBody::Form(fields)) => found.extend(fields.values().flat_map(secret)),
        _ => {}
    }
    found
}

fn secret(text: &SecretText) -> impl Iterator<Item = &str> {
    match text {
        SecretText::Plain(_) => None,
        SecretText::Secret(handle) => Some(&**handle),
    }
    .into_iter()
}

fn inside<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => match members.get("$secret").and_then(Value::as_str) {
            Some(handle) => found.push(handle),
            None => members.values().for_each(|value| inside(value, found)),
        },
        Value::Array(items) => items.iter().for_each(|item| inside(item, found)),
        _ => {}
    }
}
