//! Secrets by handle: where each may go, and what must never come back.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::manifest::{SecretChain, SecretGrant, SecretMode};
use crabbox_schemas::plugin::SecretText;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::origin::{Origin, Pattern};
use crate::policy::{Setting, named};
use crate::redact::Redactor;

/// Begins the handle of a captured secret; no setting's name holds a colon.
pub(crate) const CAPTURED: &str = "captured:";
/// Captured secrets kept at once.
const MOST_CAPTURED: usize = 256;

/// Finds the value of a secret named in the grants.
pub type Source = Arc<dyn Fn(&str) -> Finding + Send + Sync>;
/// A value on its way; none when nothing is configured.
pub type Finding = Pin<Box<dyn Future<Output = Result<Option<Secret>, RpcError>> + Send>>;

/// A value that is wiped after use and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a value into care.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value, to be put where it is needed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What one session's plugin may use by handle.
pub struct Vault {
    grants: Vec<Grant>,
    source: Source,
    kept: Mutex<Kept>,
}

struct Grant {
    name: String,
    /// Where it is looked for when its setting says nothing.
    env: Vec<String>,
    /// Where the host looks by itself, as the vendor's own tools do.
    chain: Option<SecretChain>,
    mode: SecretMode,
    /// Empty: wherever requests may go.
    to: Vec<Pattern>,
}

#[derive(Default)]
struct Kept {
    captured: HashMap<String, Captured>,
    issued: u64,
    redactor: Arc<Redactor>,
}

struct Captured {
    secret: Secret,
    to: Vec<Pattern>,
    until: Option<Instant>,
}

impl Captured {
    fn is_alive(&self) -> bool {
        self.until.is_none_or(|until| until > Instant::now())
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({} grants)", self.grants.len())
    }
}

impl Vault {
    /// Reads the grants; `{name}` among the destinations is a setting's origin.
    pub fn new(
        grants: &[SecretGrant],
        setting: impl Fn(&str) -> Option<Setting>,
        source: Source,
    ) -> Result<Self, String> {
        let destination = |text: &String| match text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
        {
            None => Pattern::parse(text).map(Some),
            Some(name) => setting(name).map(|s| named(&s.url).map(Pattern::exactly)).transpose(),
        };
        let read = |grant: &SecretGrant| {
            let mut to = Vec::new();
            for text in &grant.to {
                to.extend(destination(text)?);
            }
            if to.is_empty() && !grant.to.is_empty() {
                // Its only destinations are settings that say nothing: nowhere, not everywhere.
                to.push(Pattern::nowhere());
            }
            let (name, env) = (grant.name.clone(), grant.env.clone());
            Ok(Grant { name, env, chain: grant.chain, mode: grant.mode, to })
        };
        let grants = grants.iter().map(read).collect::<Result<_, String>>()?;
        Ok(Self { grants, source, kept: Mutex::default() })
    }

    /// A secret for a request to this origin.
    pub(crate) async fn inject(&self, handle: &str, origin: &Origin) -> Result<Secret, RpcError> {
        if handle.starts_with(CAPTURED) {
            return self.captured(handle, origin);
        }
        let grant = self.grant(handle)?;
        if grant.mode == SecretMode::Exec {
            return Err(denied(format!(
                "the secret {handle} is granted to tools, not to requests"
            )));
        }
        if !grant.to.is_empty() && !grant.to.iter().any(|to| to.matches(origin)) {
            return Err(denied(format!("the secret {handle} may not be sent to {origin}")));
        }
        self.find(handle).await.inspect(|secret| self.watch(secret.expose()))
    }

    /// A captured secret that is a user name, for the host's own log-in at this host.
    pub fn login(&self, handle: &str, host: &str) -> Result<Secret, RpcError> {
        let kept = self.kept();
        let found = kept.captured.get(handle).filter(|found| found.is_alive());
        match found.filter(|found| found.to.iter().any(|to| to.names(host))) {
            Some(found) => Ok(found.secret.clone()),
            None => Err(denied(format!("the secret {handle} is not for a log-in at {host}"))),
        }
    }

    /// The same for a text that may be plain.
    pub(crate) async fn fill(
        &self,
        text: &SecretText,
        origin: &Origin,
    ) -> Result<Secret, RpcError> {
        match text {
            SecretText::Plain(text) => Ok(Secret::new(text.clone())),
            SecretText::Secret(handle) => self.inject(handle, origin).await,
        }
    }

    /// A secret the plugin itself may see. What it says afterwards is watched for it all the same.
    pub async fn reveal(&self, name: &str) -> Result<Secret, RpcError> {
        match self.grant(name)?.mode {
            SecretMode::Reveal => {
                self.find(name).await.inspect(|secret| self.watch(secret.expose()))
            }
            _ => Err(denied(format!("the secret {name} is granted for use, not to be seen"))),
        }
    }

    /// A secret for the environment of a granted tool.
    pub async fn lend(&self, name: &str) -> Result<Secret, RpcError> {
        match self.grant(name)?.mode {
            SecretMode::Inject => {
                Err(denied(format!("the secret {name} is granted to requests, not to tools")))
            }
            _ => self.find(name).await.inspect(|secret| self.watch(secret.expose())),
        }
    }

    /// Keeps what a capture cut out; returns its handle.
    pub(crate) fn capture(&self, value: String, to: Vec<Pattern>, ttl: Option<Duration>) -> String {
        self.watch(&value);
        let mut kept = self.kept();
        kept.issued += 1;
        let handle = format!("{CAPTURED}{}", kept.issued);
        let now = Instant::now();
        kept.captured.retain(|_, c| c.until.is_none_or(|until| until > now));
        if kept.captured.len() >= MOST_CAPTURED
            && let Some(oldest) =
                kept.captured.keys().min_by_key(|h| (h.len(), (*h).clone())).cloned()
        {
            kept.captured.remove(&oldest);
        }
        let until = ttl.and_then(|ttl| now.checked_add(ttl));
        kept.captured.insert(handle.clone(), Captured { secret: Secret::new(value), to, until });
        handle
    }

    /// Watches for a value in everything that comes back from now on.
    pub fn watch(&self, value: &str) {
        let mut kept = self.kept();
        Arc::make_mut(&mut kept.redactor).add(value);
    }

    /// Takes everything that was ever sent out of what comes back.
    pub fn redactor(&self) -> Arc<Redactor> {
        Arc::clone(&self.kept().redactor)
    }

    fn captured(&self, handle: &str, origin: &Origin) -> Result<Secret, RpcError> {
        let kept = self.kept();
        let Some(captured) = kept.captured.get(handle).filter(|found| found.is_alive()) else {
            let message = format!("the captured secret {handle} is gone");
            return Err(RpcError::of(ErrorKind::Auth, message));
        };
        match captured.to.iter().any(|to| to.matches(origin)) {
            true => Ok(captured.secret.clone()),
            false => Err(denied(format!("the secret {handle} may not be sent to {origin}"))),
        }
    }

    fn grant(&self, name: &str) -> Result<&Grant, RpcError> {
        self.grants
            .iter()
            .find(|grant| grant.name == name)
            .ok_or_else(|| denied(format!("the manifest asks for no secret called {name}")))
    }

    async fn find(&self, name: &str) -> Result<Secret, RpcError> {
        let found = (self.source)(name).await?;
        found.ok_or_else(|| {
            let missing = format!("the secret {name} is not configured");
            RpcError::of(ErrorKind::Auth, missing).with(|data| {
                data.hint = self.grants.iter().find(|grant| grant.name == name).and_then(advice);
            })
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a secret that is not there would be found.
fn advice(grant: &Grant) -> Option<String> {
    if let Some(variable) = grant.env.first() {
        let name = &grant.name;
        return Some(format!(
            "set {variable}, or say in the provider's setting `{name}` where it is"
        ));
    }
    (grant.chain == Some(SecretChain::Aws)).then(|| {
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in with `aws configure` or `aws sso login` and name the profile in AWS_PROFILE".to_owned()
    })
}

fn denied(message: String) -> RpcError {
    RpcError::of(ErrorKind::GrantDenied, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(name: &str, mode: SecretMode, to: &[&str]) -> SecretGrant {
        let to = to.iter().map(|&t| t.to_owned()).collect();
        SecretGrant { name: name.to_owned(), env: vec![], mode, to, file: None, chain: None }
    }

    fn vault() -> Vault {
        let grants = [
            grant("token", SecretMode::Inject, &["https://api.example.dev"]),
            grant("seen", SecretMode::Reveal, &[]),
            grant("tool", SecretMode::Exec, &[]),
            grant("unset", SecretMode::Inject, &["{endpoint}"]),
            grant("absent", SecretMode::Reveal, &[]),
        ];
        let source: Source = Arc::new(|name| {
            let value = (name != "absent").then(|| Secret::new(format!("value of {name}")));
            Box::pin(std::future::ready(Ok(value)))
        });
        Vault::new(&grants, |_| None, source).unwrap()
    }

    fn origin(text: &str) -> Origin {
        Origin::parse(text).unwrap()
    }

    fn kind<T: fmt::Debug>(answer: Result<T, RpcError>) -> ErrorKind {
        answer.unwrap_err().data.unwrap().kind
    }

    #[tokio::test]
    async fn a_secret_goes_only_where_and_how_its_grant_says() {
        let vault = vault();
        let (api, other) = (origin("https://api.example.dev"), origin("https://evil.test"));
        assert_eq!(vault.inject("token", &api).await.unwrap().expose(), "value of token");
        assert_eq!(vault.inject("seen", &other).await.unwrap().expose(), "value of seen");
        for (handle, to) in [("token", &other), ("tool", &api), ("unset", &api), ("nobody", &api)] {
            assert_eq!(kind(vault.inject(handle, to).await), ErrorKind::GrantDenied, "{handle}");
        }
        assert_eq!(kind(vault.reveal("token").await), ErrorKind::GrantDenied);
        assert_eq!(kind(vault.reveal("tool").await), ErrorKind::GrantDenied);
        assert_eq!(kind(vault.lend("token").await), ErrorKind::GrantDenied);
        assert_eq!(kind(vault.reveal("absent").await), ErrorKind::Auth);
        assert_eq!(vault.lend("tool").await.unwrap().expose(), "value of tool");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_captured_is_bound_to_its_origin_and_its_time() {
        let vault = vault();
        let api = origin("https://api.example.dev");
        let to = vec![Pattern::exactly(api.clone())];
        let handle = vault.capture("cut out".into(), to, Some(Duration::from_secs(60)));
        assert_eq!(vault.inject(&handle, &api).await.unwrap().expose(), "cut out");
        let elsewhere = vault.inject(&handle, &origin("https://evil.test")).await;
        assert_eq!(kind(elsewhere), ErrorKind::GrantDenied);
        assert_eq!(vault.login(&handle, "API.example.dev").unwrap().expose(), "cut out");
        assert_eq!(kind(vault.login(&handle, "evil.test")), ErrorKind::GrantDenied);
        assert_eq!(kind(vault.login("token", "api.example.dev")), ErrorKind::GrantDenied);
        assert_eq!(vault.redactor().text("it was cut out"), "it was [redacted]");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(kind(vault.inject(&handle, &api).await), ErrorKind::Auth);
    }

    #[tokio::test]
    async fn a_secret_that_is_not_there_says_where_it_would_be_found() {
        let mut grants =
            ["token", "credentials", "other"].map(|n| grant(n, SecretMode::Inject, &[]));
        grants[0].env = vec!["TOKEN".to_owned()];
        grants[1].chain = Some(SecretChain::Aws);
        let nowhere: Source = Arc::new(|_| Box::pin(std::future::ready(Ok(None))));
        let vault = Vault::new(&grants, |_| None, nowhere).unwrap();
        for (name, word) in [("token", "set TOKEN"), ("credentials", "aws sso login")] {
            let error = vault.inject(name, &origin("https://api.example.dev")).await.unwrap_err();
            let hint = error.data.unwrap().hint.unwrap();
            assert!(hint.contains(word), "{name}: {hint}");
        }
        let other = vault.inject("other", &origin("https://api.example.dev")).await.unwrap_err();
        assert_eq!(other.data.unwrap().hint, None);
    }

    #[tokio::test]
    async fn no_secret_shows_in_what_is_printed_for_developers() {
        let vault = vault();
        let secret = vault.inject("seen", &origin("https://api.example.dev")).await.unwrap();
        let printed = format!("{secret:?} {vault:?} {:?}", vault.redactor());
        assert!(!printed.contains("value of"), "{printed}");
    }
}
