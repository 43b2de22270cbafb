//! Logging in: keys from files and the agent, passphrases asked only when the server wants the key.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crabbox_kernel::error::KernelError;
use crabbox_schemas::error::ErrorCode;
use russh::client::AuthResult;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{self, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{AgentAuthError, SendError, Signer};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::race::Fault;
use crate::session::Line;

/// Asks the user a question, such as a passphrase; `None` when there is nobody to ask.
pub type Ask = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// How often a passphrase may be wrong.
const PASSPHRASES: usize = 3;
/// Keys offered before giving up; servers allow about six.
const OFFERS: usize = 8;
/// For an agent to list its keys.
const AGENT: Duration = Duration::from_secs(5);

/// As whom, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    /// The user name is a secret and stays out of messages.
    pub(crate) secret: bool,
    /// Private key files in order; those that do not exist are passed over.
    pub(crate) files: Vec<PathBuf>,
    /// The agent's socket.
    pub(crate) agent: Option<PathBuf>,
    /// Only the agent's keys that are also in `files`.
    pub(crate) only_files: bool,
    /// A refusal may pass: the box may not have learnt its key yet.
    pub(crate) again: bool,
}

/// Keys opened so far, so that each passphrase is asked once.
pub(crate) struct Wallet {
    ask: Option<Ask>,
    opened: Mutex<HashMap<PathBuf, Arc<PrivateKey>>>,
}

/// A private key file.
struct KeyFile {
    path: PathBuf,
    text: String,
    public: Option<PublicKey>,
    /// The key, unless it is locked.
    key: Option<Arc<PrivateKey>>,
}

/// One log-in under way.
struct Attempt<'a> {
    line: &'a mut Line,
    login: &'a Login,
    limit: Duration,
    tried: Vec<String>,
}

/// After fewer refusals than this a server hangs up for other reasons.
const FEW: usize = 3;

/// The connection ended while we logged in.
struct Gone(String);

type Accepted = Result<bool, Gone>;

impl Wallet {
    pub(crate) fn new(ask: Option<Ask>) -> Self {
        Self { ask, opened: Mutex::default() }
    }

    /// Logs in or says what was tried.
    pub(crate) async fn log_in(
        &self,
        line: &mut Line,
        login: &Login,
        peer: &str,
        limit: Duration,
    ) -> Result<(), Fault> {
        let mut attempt = Attempt { line, login, limit, tried: Vec::new() };
        let accepted = self.offer_all(&mut attempt).await;
        let tried = std::mem::take(&mut attempt.tried);
        let (gone, message) = match accepted {
            Ok(true) => return Ok(()),
            Ok(false) => (None, refusal(login, peer)),
            Err(Gone(why)) => (Some(why), format!("{peer} hung up during the log-in")),
        };
        let mut error = KernelError::new(ErrorCode::SshAuth, message).hint(match login.again {
            true => "the box has not accepted the lease's key; it may not have finished its first start",
            false => "check the user name, the key and the server's authorized_keys; `ssh-add -l` lists the agent's keys",
        });
        // A line that is cut here is worth another; a server that has seen too many keys is not.
        let cut = gone.is_some() && tried.len() < FEW;
        error.causes.extend(tried.into_iter().chain(gone));
        Err(Fault { again: login.again || cut, ..Fault::new("auth", error) })
    }

    async fn offer_all(&self, attempt: &mut Attempt<'_>) -> Accepted {
        let mut files: Vec<KeyFile> = Vec::new();
        for path in &attempt.login.files {
            match self.read(path) {
                Ok(file) => files.push(file),
                Err(why) => attempt.tried.push(format!("{}: {why}", path.display())),
            }
        }
        let mut offered = Vec::new();
        if attempt.offer_agent(&files, &mut offered).await? {
            return Ok(true);
        }
        for file in files
            .into_iter()
            .filter(|file| !file.public.as_ref().is_some_and(|key| offered.contains(key)))
            .take(OFFERS)
        {
            if self.offer_file(attempt, file).await? {
                return Ok(true);
            }
        }
        let none = attempt.line.handle.authenticate_none(&attempt.login.user);
        let verdict = within(attempt.limit, none).await;
        attempt.judge("no key at all", verdict)
    }

    fn read(&self, path: &Path) -> Result<KeyFile, String> {
        let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let read = opened.map_or_else(|| keys::decode_secret_key(&text, None).map(Arc::new), Ok);
        let path = path.to_owned();
        match read {
            Ok(key) => {
                Ok(KeyFile { path, text, public: Some(key.public_key().clone()), key: Some(key) })
            }
            Err(keys::Error::KeyIsEncrypted) => {
                let public =
                    PrivateKey::from_openssh(&text).ok().map(|key| key.public_key().clone());
                Ok(KeyFile { path, text, public, key: None })
            }
            Err(_) if text.contains("ENCRYPTED") => {
                Ok(KeyFile { path, text, public: None, key: None })
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn offer_file(&self, attempt: &mut Attempt<'_>, file: KeyFile) -> Accepted {
        let name = file.path.display().to_string();
        let key = match file.key {
            Some(key) => key,
            None => {
                if let Some(public) = &file.public
                    && !attempt.wanted(&name, public).await?
                {
                    return Ok(false);
                }
                match self.open(&file.path, &file.text).await {
                    Ok(key) => key,
                    Err(why) => {
                        attempt.tried.push(format!("{name}: {why}"));
                        return Ok(false);
                    }
                }
            }
        };
        let hash = attempt.hash(key.public_key()).await?;
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let answer = attempt.line.handle.authenticate_publickey(&attempt.login.user, key);
        let verdict = within(attempt.limit, answer).await;
        attempt.judge(&name, verdict)
    }

    /// Opens a locked key with the user's help.
    async fn open(&self, path: &Path, text: &str) -> Result<Arc<PrivateKey>, String> {
        let ask =
            self.ask.clone().ok_or("it is locked and there is nobody to ask for its passphrase")?;
        for _ in 0..PASSPHRASES {
            let (ask, text) = (ask.clone(), text.to_owned());
            let question = format!("Passphrase for {}: ", path.display());
            let tried = tokio::task::spawn_blocking(move || {
                ask(&question).map(|answer| keys::decode_secret_key(&text, Some(&answer)))
            });
            match tried.await.map_err(|e| e.to_string())? {
                None => return Err("no passphrase was given".to_owned()),
                Some(Ok(key)) => {
                    let key = Arc::new(key);
                    let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
                    opened.insert(path.to_owned(), key.clone());
                    return Ok(key);
                }
                Some(Err(error)) => tracing::debug!(%error, "wrong passphrase"),
            }
        }
        Err(format!("the passphrase was wrong {PASSPHRASES} times"))
    }
}

fn refusal(login: &Login, peer: &str) -> String {
    match login.secret {
        true => format!("{peer} refused the log-in"),
        false => format!("{peer} refused the log-in of {}", login.user),
    }
}

/// Waits for the server's verdict.
async fn within(
    limit: Duration,
    answer: impl Future<Output = Result<AuthResult, russh::Error>>,
) -> Result<AuthResult, String> {
    let verdict = timeout(limit, answer).await.map_err(|e| e.to_string())?;
    verdict.map_err(|e| e.to_string())
}

impl Attempt<'_> {
    /// Notes a refusal.
    fn judge(&mut self, what: &str, verdict: Result<AuthResult, String>) -> Accepted {
        match verdict {
            Ok(AuthResult::Success) => Ok(true),
            Ok(AuthResult::Failure { .. }) if self.line.handle.is_closed() => {
                Err(Gone(format!("{what}: the connection was closed")))
            }
            Ok(AuthResult::Failure { partial_success: true, .. }) => {
                self.tried.push(format!("{what}: accepted, but the server wants a second proof"));
                Ok(false)
            }
            Ok(AuthResult::Failure { .. }) => {
                self.tried.push(format!("{what}: refused"));
                Ok(false)
            }
            Err(why) => Err(Gone(format!("{what}: {why}"))),
        }
    }

    /// The hash an RSA key is used with: what the server lists, else the strongest.
    async fn hash(&self, key: &PublicKey) -> Result<Option<HashAlg>, Gone> {
        if !key.algorithm().is_rsa() {
            return Ok(None);
        }
        let listed =
            self.line.handle.best_supported_rsa_hash().await.map_err(|e| Gone(e.to_string()))?;
        Ok(listed.flatten().or(Some(HashAlg::Sha512)))
    }

    /// Whether the server would take a key, asked without signing anything.
    async fn wanted(&mut self, name: &str, key: &PublicKey) -> Accepted {
        let hash = self.hash(key).await?;
        let mut probe = Probe;
        let asked = self.line.handle.authenticate_publickey_with(
            &self.login.user,
            key.clone(),
            hash,
            &mut probe,
        );
        match timeout(self.limit, asked).await {
            Ok(Err(Probed::Wanted)) => Ok(true),
            Ok(Err(Probed::Gone)) => Err(Gone("the connection was closed".to_owned())),
            Ok(Ok(verdict)) => self.judge(name, Ok(verdict)),
            Err(late) => Err(Gone(late.to_string())),
        }
    }

    /// Offers the agent's keys, those of the configured files first.
    async fn offer_agent(&mut self, files: &[KeyFile], offered: &mut Vec<PublicKey>) -> Accepted {
        let Some(socket) = &self.login.agent else { return Ok(false) };
        let (mut agent, keys) = match timeout(AGENT, list(socket)).await {
            Ok(Ok(listed)) => listed,
            Ok(Err(why)) => {
                self.tried.push(format!("agent: {why}"));
                return Ok(false);
            }
            Err(late) => {
                self.tried.push(format!("agent: {late}"));
                return Ok(false);
            }
        };
        let position = |key: &PublicKey| {
            files
                .iter()
                .position(|f| f.public.as_ref().is_some_and(|p| p.key_data() == key.key_data()))
        };
        let mut keys: Vec<PublicKey> = keys
            .into_iter()
            .filter(|key| !self.login.only_files || position(key).is_some())
            .collect();
        keys.sort_by_key(|key| position(key).unwrap_or(usize::MAX));
        for key in keys.into_iter().take(OFFERS) {
            let name = format!("agent key {}", key.fingerprint(HashAlg::Sha256));
            let hash = self.hash(&key).await?;
            let handle = &mut self.line.handle;
            let asked =
                handle.authenticate_publickey_with(&self.login.user, key.clone(), hash, &mut agent);
            let verdict = match timeout(self.limit, asked).await {
                Ok(Ok(verdict)) => Ok(verdict),
                Ok(Err(AgentAuthError::Key(error))) => {
                    self.tried.push(format!("{name}: {error}"));
                    continue;
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(late) => Err(late.to_string()),
            };
            if self.judge(&name, verdict)? {
                return Ok(true);
            }
            offered.extend(position(&key).and_then(|at| files[at].public.clone()));
        }
        Ok(false)
    }
}

async fn list(socket: &Path) -> Result<(AgentClient<UnixStream>, Vec<PublicKey>), keys::Error> {
    let mut agent = AgentClient::connect_uds(socket).await?;
    let keys = agent.request_identities().await?;
    let plain = keys.into_iter().filter_map(|identity| match identity {
        AgentIdentity::PublicKey { key, .. } => Some(key),
        AgentIdentity::Certificate { .. } => None,
    });
    Ok((agent, plain.collect()))
}

/// A signer that never signs: being asked is the answer.
struct Probe;

enum Probed {
    Wanted,
    Gone,
}

impl From<SendError> for Probed {
    fn from(_: SendError) -> Self {
        Probed::Gone
    }
}

impl Signer for Probe {
    type Error = Probed;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        _: Option<HashAlg>,
        _: Vec<u8>,
    ) -> Result<Vec<u8>, Probed> {
        Err(Probed::Wanted)
    }
}
