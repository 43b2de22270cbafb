//! OAuth 2 client credentials: tokens are fetched, kept for the session and renewed here.

use std::collections::HashMap;
use std::time::Duration;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{HttpBody, HttpParams, Oauth2Auth, SecretText};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::net::Net;
use crate::send::Gate;
use crate::vault::Secret;

/// How long a token lives when its server does not say.
const UNSAID: u64 = 300;
/// Renewed this long before its end.
const EARLY: Duration = Duration::from_secs(30);
/// Most bytes of a token server's answer.
const MOST: usize = 256 * 1024;

/// Most characters of a token server's own words.
const WORDS: usize = 200;

/// The tokens of one session.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, Token>>);

/// Token server, client, handle of its secret, scope.
type Key = (String, String, String, String);

#[derive(Clone)]
struct Token {
    value: Secret,
    until: Instant,
}

impl Tokens {
    /// A token, and whether it was used before.
    pub(crate) async fn get(
        &self,
        net: &Net,
        auth: &Oauth2Auth,
        gate: &Gate<'_>,
    ) -> Result<(Secret, bool), RpcError> {
        // Whoever comes second waits for the first one's token.
        let mut tokens = self.0.lock().await;
        if let Some(token) = tokens.get(&key(auth)).filter(|token| token.until > Instant::now()) {
            return Ok((token.value.clone(), true));
        }
        let token = fetch(net, auth, gate).await?;
        let value = token.value.clone();
        tokens.insert(key(auth), token);
        Ok((value, false))
    }

    /// The service did not want this token: the next one is fetched anew.
    pub(crate) async fn forget(&self, auth: &Oauth2Auth, refused: &Secret) {
        let mut tokens = self.0.lock().await;
        if tokens.get(&key(auth)).is_some_and(|token| token.value == *refused) {
            tokens.remove(&key(auth));
        }
    }
}

fn key(auth: &Oauth2Auth) -> Key {
    let client = Value::from(auth.client_id.clone()).to_string();
    let scope = auth.scope.clone().unwrap_or_default();
    (auth.token_url.clone(), client, auth.client_secret.clone(), scope)
}

async fn fetch(net: &Net, auth: &Oauth2Auth, gate: &Gate<'_>) -> Result<Token, RpcError> {
    let plain = |text: &str| SecretText::Plain(text.to_owned());
    let mut form = [
        ("grant_type".to_owned(), plain("client_credentials")),
        ("client_id".to_owned(), auth.client_id.clone()),
        ("client_secret".to_owned(), SecretText::Secret(auth.client_secret.clone())),
    ]
    .into_iter()
    .collect::<std::collections::BTreeMap<_, _>>();
    if let Some(scope) = &auth.scope {
        form.insert("scope".to_owned(), plain(scope));
    }
    let params = HttpParams {
        headers: [("accept".to_owned(), "application/json".to_owned())].into(),
        body: Some(HttpBody::Form(form)),
        ..HttpParams::new("POST", &auth.token_url)
    };
    let landed = net.send(&params, gate).await?;
    let status = landed.response.status();
    let body = landed.whole(MOST, gate.deadline, net).await?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    if !status.is_success() {
        let why = answer.get("error").and_then(Value::as_str).unwrap_or("no reason given");
        let kind = if status.is_server_error() { ErrorKind::Transient } else { ErrorKind::Auth };
        let more = answer.get("error_description").and_then(Value::as_str);
        let more = more.and_then(|text| text.lines().next()).unwrap_or_default();
        let more = more.chars().take(WORDS).collect::<String>();
        let message = format!("no token: its server answered {} ({why}) {more}", status.as_u16());
        let message = message.trim_end();
        return Err(RpcError::of(kind, net.vault.redactor().text(message)));
    }
    let token = answer.get("access_token").and_then(Value::as_str);
    let token = token.ok_or_else(|| {
        RpcError::of(ErrorKind::Auth, "no token: its server's answer holds no access_token")
    })?;
    net.vault.watch(token);
    let life =
        Duration::from_secs(answer.get("expires_in").and_then(Value::as_u64).unwrap_or(UNSAID));
    let life = life.saturating_sub(EARLY.min(life / 10)).min(Duration::from_secs(86_400));
    Ok(Token { value: Secret::new(token.to_owned()), until: Instant::now() + life })
}
