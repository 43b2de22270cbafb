//! Credentials of AWS, from where AWS's own tools look for them, in their order.

mod profile;
mod remote;
mod role;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_types::date_time::{DateTime, Format};
use crabbox_schemas::error::{ErrorKind, RpcError};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::aws::profile::{Profile, profile};
use crate::client::Clients;
use crate::sigv4::Keys;
use crate::vault::Secret;

/// How long credentials that end some day are used at most before they are looked for again. Services hand out new ones at
/// least five minutes before the old ones end.
const KEEP: Duration = Duration::from_secs(240);
/// How long before their own end they are not used any more: what hands them out may have kept them.
const EARLY: Duration = Duration::from_secs(60);

/// What a command line of the user's prints.
pub type Printing = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// The places of one user.
pub struct Chain {
    /// The user's environment.
    env: Arc<BTreeMap<String, String>>,
    home: PathBuf,
    /// The profile the user chose in crabbox's settings.
    chosen: Option<String>,
    /// Runs a command line of the user's.
    print: Arc<dyn Fn(String) -> Printing + Send + Sync>,
    /// What time it is, in milliseconds since 1970.
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    clients: Clients,
    kept: Mutex<Option<(Secret, Option<Instant>)>>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chain(…)")
    }
}

impl Chain {
    /// Looks nowhere before it is asked.
    pub fn new(
        env: Arc<BTreeMap<String, String>>,
        home: PathBuf,
        chosen: Option<String>,
        print: Arc<dyn Fn(String) -> Printing + Send + Sync>,
        now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        let clients = Clients::new(Vec::new(), None);
        Self { env, home, chosen, print, now_ms, clients, kept: Mutex::default() }
    }

    /// The credentials, as a `credential_process` prints them; none when no place has any.
    pub async fn find(&self) -> Result<Option<Secret>, RpcError> {
        let mut kept = self.kept.lock().await;
        if let Some((secret, until)) = &*kept
            && until.is_none_or(|until| until > Instant::now())
        {
            return Ok(Some(secret.clone()));
        }
        let Some(found) = self.look().await.map_err(|what| refused(&what))? else {
            return Ok(None);
        };
        let secret = Secret::new(found.to_string());
        let now = Duration::from_millis((self.now_ms)());
        let until = lasts(secret.expose(), now).map(|lasting| Instant::now() + lasting);
        if Keys::read(secret.expose()).is_none() {
            return Err(refused("a key is missing where they were found"));
        }
        *kept = Some((secret.clone(), until));
        Ok(Some(secret))
    }

    /// A profile that was chosen here goes before variables that are set for everything.
    async fn look(&self) -> Result<Option<Value>, String> {
        if self.chosen.is_none()
            && let Some(found) = self.variables()
        {
            return Ok(Some(found));
        }
        let wanted = self.chosen.as_deref().or_else(|| self.var("AWS_PROFILE"));
        if wanted.is_none() && self.var("AWS_WEB_IDENTITY_TOKEN_FILE").is_some() {
            // Going on would find somebody else: the machine's own role.
            return Err("AWS_WEB_IDENTITY_TOKEN_FILE is set, which crabbox does not follow; let the vendor's \
                 tool do it: `cmd:aws configure export-credentials --format process` as the credentials"
                .to_owned());
        }
        match profile(self, wanted.unwrap_or("default"))? {
            Some(profile) => {
                if let Some(found) = self.of_profile(&profile, 0).await? {
                    return Ok(Some(found));
                }
            }
            None if wanted.is_some() => {
                return Err(format!("there is no profile {}", wanted.unwrap_or_default()));
            }
            None => {}
        }
        if let Some(found) = remote::container(self).await? {
            return Ok(Some(found));
        }
        remote::machine(self).await
    }

    fn variables(&self) -> Option<Value> {
        let (access, secret) = (self.var("AWS_ACCESS_KEY_ID")?, self.var("AWS_SECRET_ACCESS_KEY")?);
        Some(document(access, secret, self.var("AWS_SESSION_TOKEN"), None))
    }

    /// The credentials of a profile that so many roles lead to.
    async fn of_profile(&self, profile: &Profile, depth: usize) -> Result<Option<Value>, String> {
        if let Some(key) =
            ["web_identity_token_file", "mfa_serial"].iter().find(|key| profile.get(key).is_some())
        {
            let name = &profile.name;
            return Err(format!(
                "profile {name} has {key}, which crabbox does not follow; let the vendor's tool do it: \
                 `cmd:aws configure export-credentials --format process --profile {name}` as the credentials"
            ));
        }
        if let Some(arn) = profile.get("role_arn") {
            return role::assume(self, profile, arn, depth).await.map(Some);
        }
        if profile.get("sso_account_id").is_some() {
            return remote::sso(self, profile).await.map(Some);
        }
        if let Some(keys) = profile.keys() {
            return Ok(Some(keys));
        }
        let Some(command) = profile.get("credential_process") else { return Ok(None) };
        let wrong = |what: &str| format!("the credential_process of {}: {what}", profile.name);
        let printed = (self.print)(command.to_owned()).await.map_err(|e| wrong(&e))?;
        let printed: Value =
            serde_json::from_str(&printed).map_err(|_| wrong("it printed no JSON"))?;
        Ok(Some(printed))
    }

    fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// How long credentials in the form of a `credential_process` are used before they are looked for again; none where they do
/// not say that they end. `now` is the time since 1970.
pub fn lasts(document: &str, now: Duration) -> Option<Duration> {
    let document: Value = serde_json::from_str(document).ok()?;
    let end = match document.get("Expiration")? {
        Value::String(text) => DateTime::from_str(text, Format::DateTimeWithOffset)
            .ok()
            .and_then(|end| u64::try_from(end.to_millis().ok()?).ok()),
        number => number.as_u64(),
    };
    // One that cannot be read ends some day as well.
    let left = end.map_or(KEEP, |end| Duration::from_millis(end).saturating_sub(now + EARLY));
    Some(left.min(KEEP))
}

/// Credentials in the form of a `credential_process`.
fn document(access: &str, secret: &str, session: Option<&str>, until: Option<&Value>) -> Value {
    let mut found = json!({"Version": 1, "AccessKeyId": access, "SecretAccessKey": secret});
    if let Some(session) = session {
        found["SessionToken"] = session.into();
    }
    if let Some(until) = until {
        found["Expiration"] = until.clone();
    }
    found
}

fn refused(what: &str) -> RpcError {
    RpcError::of(ErrorKind::Auth, format!("no credentials of AWS: {what}")).with(|data| {
        data.hint = Some(
            "`aws configure list-profiles` shows the profiles; `aws sts get-caller-identity --profile NAME` tries one"
                .to_owned(),
        );
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_used_four_minutes_at_most_and_never_in_their_last_one() {
        let lasts = |end: Value| {
            let document = json!({"AccessKeyId": "a", "Expiration": end}).to_string();
            super::lasts(&document, Duration::from_secs(1_778_148_251)).map(|left| left.as_secs())
        };
        assert_eq!(lasts(json!("2026-05-07T11:04:11Z")), Some(240));
        assert_eq!(lasts(json!("2026-05-07T12:06:11.5+02:00")), Some(60));
        assert_eq!(lasts(json!("2026-05-07T10:04:40Z")), Some(0), "asked for again at once");
        assert_eq!(lasts(json!("2020-01-01T00:00:00Z")), Some(0));
        assert_eq!(lasts(json!(1_778_148_401_000_u64)), Some(90), "single sign-on counts so");
        assert_eq!(lasts(json!("soon")), Some(240));
        assert_eq!(super::lasts("{\"AccessKeyId\": \"a\"}", Duration::ZERO), None);
    }
}
