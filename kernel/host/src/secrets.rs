//! Where secrets come from: the reference in the user's settings, else the names the manifest asks for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crabbox_kernel::lease::acquire::random;
use crabbox_net::{Chain, Printing, Secret, Source};
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::manifest::{SecretChain, SecretGrant};
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, timeout};

use crate::broker::NowMs;
use crate::exec::KillOnDrop;
use crate::fault::refuse;
use crate::spawn::{self, Program};

/// How long a command may take to print a secret.
const PRINT: Duration = Duration::from_secs(10);
/// Most bytes of a secret.
const MOST: u64 = 64 * 1024;

/// How long before a token's own end its place is asked again, and the least time between two questions.
const EARLY: Duration = Duration::from_secs(300);
const LEAST: Duration = Duration::from_secs(30);

/// The secrets of one session, each looked up once.
pub(crate) struct Secrets {
    pub(crate) config: Map<String, Value>,
    pub(crate) grants: Vec<SecretGrant>,
    pub(crate) env: Arc<BTreeMap<String, String>>,
    /// The user's home directory.
    pub(crate) home: PathBuf,
    pub(crate) found: Mutex<HashMap<String, (Secret, Option<Instant>)>>,
    /// The places of AWS's tools.
    pub(crate) aws: OnceCell<Chain>,
    pub(crate) now_ms: NowMs,
}

impl Secrets {
    /// Looks secrets up whenever one is needed.
    pub(crate) fn source(self) -> Source {
        let secrets = Arc::new(self);
        Arc::new(move |name| {
            let (secrets, name) = (Arc::clone(&secrets), name.to_owned());
            Box::pin(async move { secrets.find(&name).await })
        })
    }

    async fn find(self: &Arc<Self>, name: &str) -> Result<Option<Secret>, RpcError> {
        // Whoever comes second waits: a command may ask the person for something.
        let mut found = self.found.lock().await;
        if let Some((known, until)) = found.get(name)
            && until.is_none_or(|until| until > Instant::now())
        {
            return Ok(Some(known.clone()));
        }
        let grant = self.grants.iter().find(|grant| grant.name == name);
        let chain = grant.and_then(|grant| grant.chain);
        let secret = match self.reference(name) {
            Some(reference) => Some(self.follow(name, &reference).await?),
            None => match grant.map(|grant| self.granted(grant)).transpose()?.flatten() {
                // It keeps what it finds as long as that may be kept.
                None if chain == Some(SecretChain::Aws) => {
                    let chain = self.aws.get_or_init(async || self.chain()).await;
                    return chain.find().await;
                }
                None if chain == Some(SecretChain::MadeUp) => Some(made_up()?),
                found => found,
            },
        };
        if let Some(secret) = &secret {
            let now = Duration::from_millis((self.now_ms)());
            let keep = match chain {
                Some(SecretChain::Aws) => crabbox_net::lasts(secret.expose(), now),
                _ => lasts(secret.expose(), now),
            };
            let until = keep.map(|keep| Instant::now() + keep);
            found.insert(name.to_owned(), (secret.clone(), until));
        }
        Ok(secret)
    }

    /// What the environment holds, else the vendor's own tool.
    fn granted(&self, grant: &SecretGrant) -> Result<Option<Secret>, RpcError> {
        let mut values = grant.env.iter().filter_map(|name| self.env.get(name));
        if let Some(value) = values.find(|value| !value.is_empty()) {
            return Ok(Some(Secret::new(value.clone())));
        }
        let Some(file) = &grant.file else { return Ok(None) };
        let path = self.settings_of_others().join(&file.path);
        if !path.exists() {
            return Ok(None);
        }
        let bad = |what: String| {
            refuse(ErrorKind::Auth, format!("the secret {} cannot be read: {what}", grant.name))
        };
        let text = read(&path).map_err(bad)?;
        let document: Value = serde_json::from_str(&text)
            .map_err(|_| bad(format!("{}: it is no JSON", path.display())))?;
        Ok(picked(&document, &file.value).filter(|text| !text.is_empty()).map(Secret::new))
    }

    /// Where programs of this system keep their settings.
    fn settings_of_others(&self) -> PathBuf {
        let named = self.env.get("XDG_CONFIG_HOME").filter(|path| path.starts_with('/'));
        match named {
            Some(path) => PathBuf::from(path),
            None if cfg!(target_os = "macos") => self.home.join("Library/Application Support"),
            None => self.home.join(".config"),
        }
    }

    fn chain(self: &Arc<Self>) -> Chain {
        let printer = Arc::downgrade(self);
        let print = move |command: String| -> Printing {
            let printer = printer.clone();
            Box::pin(async move {
                let printer = printer.upgrade().ok_or("the session is over")?;
                printer.print(&command).await
            })
        };
        let (env, home) = (Arc::clone(&self.env), self.home.clone());
        let now_ms = Arc::clone(&self.now_ms);
        Chain::new(env, home, self.reference("profile"), Arc::new(print), now_ms)
    }

    /// What the settings say of where it is.
    fn reference(&self, name: &str) -> Option<String> {
        let value = match name.split_once('.') {
            Some((outer, inner)) => self.config.get(outer)?.get(inner),
            None => self.config.get(name),
        };
        value?.as_str().map(str::to_owned)
    }

    async fn follow(&self, name: &str, reference: &str) -> Result<Secret, RpcError> {
        let missing = |what: String| {
            refuse(ErrorKind::Auth, format!("the secret {name} cannot be read: {what}"))
        };
        let text = match reference.split_once(':') {
            Some(("env", variable)) => match self.env.get(variable).filter(|v| !v.is_empty()) {
                Some(value) => value.clone(),
                None => return Err(missing(format!("{variable} is not set"))),
            },
            Some(("file", path)) => read(&self.expand(path)).map_err(missing)?,
            Some(("cmd", command)) => self.print(command).await.map_err(missing)?,
            Some(("keyring", place)) => self.unlock(place).await.map_err(missing)?,
            _ => return Err(missing("its setting names no place".to_owned())),
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(missing("it is empty".to_owned()));
        }
        Ok(Secret::new(text.to_owned()))
    }

    fn expand(&self, path: &str) -> PathBuf {
        match path.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => PathBuf::from(path),
        }
    }

    /// What the system's keyring holds under `SERVICE/USER`, asked for with the system's own tool.
    async fn unlock(&self, place: &str) -> Result<String, String> {
        let (service, user) = place
            .rsplit_once('/')
            .filter(|(service, user)| !service.is_empty() && !user.is_empty())
            .ok_or_else(|| format!("keyring:{place} is not keyring:SERVICE/USER"))?;
        let (tool, words): (_, &[&str]) = match cfg!(target_os = "macos") {
            true => ("security", &["find-generic-password", "-w", "-s", service, "-a", user]),
            false => ("secret-tool", &["lookup", "service", service, "username", user]),
        };
        let words = words.iter().map(|&word| word.to_owned());
        let path = self.env.get("PATH").map(String::as_str).unwrap_or_default();
        let program = std::env::split_paths(path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(tool))
            .find(|program| program.is_file())
            .ok_or_else(|| {
                format!("crabbox asks the keyring with {tool}, which is not installed")
            })?;
        self.output(program, words.collect()).await
    }

    /// What a command of the user's prints; it runs as in the user's own shell.
    async fn print(&self, command: &str) -> Result<String, String> {
        self.output("/bin/sh".into(), vec!["-c".to_owned(), command.to_owned()]).await
    }

    async fn output(&self, path: PathBuf, args: Vec<String>) -> Result<String, String> {
        let env = self.env.iter().map(|(name, value)| (name.clone(), value.into())).collect();
        let cwd = if self.home.is_dir() { self.home.clone() } else { PathBuf::from("/") };
        let name = path.display().to_string();
        let program = Program { path, args, env, cwd, confined: None };
        let running = spawn::start(program).await.map_err(|e| format!("{name}: {e}"))?;
        let _guard = KillOnDrop(Arc::clone(&running.group));
        let spawn::Running { stdin, stdout, mut stderr, group } = running;
        drop(stdin);
        let (mut text, mut limited) = (String::new(), stdout.take(MOST));
        let printing = async {
            // What it complains about may hold the secret: it is read and forgotten.
            let complaints = async { tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await };
            tokio::join!(limited.read_to_string(&mut text), group.ended(), complaints)
        };
        let (printed, exit, _) = timeout(PRINT, printing)
            .await
            .map_err(|_| format!("its command took longer than {} s", PRINT.as_secs()))?;
        printed.map_err(|_| "its command printed no text".to_owned())?;
        match exit.code {
            0 => Ok(text),
            _ => Err(format!("its command ended with {exit}")),
        }
    }
}

/// A password nobody knows, with a character of every kind that services ask for.
fn made_up() -> Result<Secret, RpcError> {
    let mut text = "Cb1!".to_owned();
    for _ in 0..4 {
        let bytes = random().map_err(|error| refuse(ErrorKind::Internal, error.to_string()))?;
        text.extend(bytes.map(|byte| format!("{byte:02x}")));
    }
    Ok(Secret::new(text))
}

/// How long a token that says when it ends (a JWT) is used before its place is asked again.
fn lasts(token: &str, now: Duration) -> Option<Duration> {
    let [_, claims, _] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let plain = claims.replace('-', "+").replace('_', "/");
    let padded = format!("{plain}{}", "=".repeat((4 - plain.len() % 4) % 4));
    let claims: Value =
        serde_json::from_slice(&crabbox_wire::payload::from_b64(&padded).ok()?).ok()?;
    let end = Duration::from_secs(claims.get("exp")?.as_u64()?);
    Some(end.saturating_sub(now + EARLY).max(LEAST))
}

/// A text in a document: names joined by dots, an entry of a list by what the document says of one of its members.
fn picked(document: &Value, path: &str) -> Option<String> {
    let mut place = document;
    for part in path.split('.') {
        place = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            None => place.get(part)?,
            Some((list, wish)) => {
                let (member, wanted) = wish.split_once('=')?;
                let wanted = document.get(wanted)?;
                place
                    .get(list)?
                    .as_array()?
                    .iter()
                    .find(|entry| entry.get(member) == Some(wanted))?
            }
        };
    }
    place.as_str().map(str::to_owned)
}

/// A file only its owner may read.
fn read(path: &Path) -> Result<String, String> {
    if !path.is_absolute() {
        return Err(format!("{} is not absolute", path.display()));
    }
    let shown = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let file = File::open(path).map_err(|e| shown(&e))?;
    let facts = file.metadata().map_err(|e| shown(&e))?;
    if !facts.is_file() || facts.len() > MOST {
        return Err(shown(&"it is no small file"));
    }
    let me = rustix::process::geteuid().as_raw();
    if facts.mode() & 0o077 != 0 || (facts.uid() != me && facts.uid() != 0) {
        return Err(shown(&"others may read it; make it yours alone with chmod 600"));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(|_| shown(&"it is no text"))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crabbox_schemas::manifest::SecretFile;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn secrets(config: Value, home: &Path) -> Arc<Secrets> {
        let env = [("TOKEN", "from env"), ("PATH", "/usr/bin:/bin"), ("EMPTY", "")];
        Arc::new(Secrets {
            config: serde_json::from_value(config).unwrap(),
            grants: vec![SecretGrant {
                name: "granted".into(),
                env: vec!["UNSET".into(), "EMPTY".into(), "TOKEN".into()],
                mode: Default::default(),
                to: vec![],
                file: None,
                chain: None,
            }],
            env: Arc::new(env.map(|(n, v)| (n.to_owned(), v.to_owned())).into()),
            home: home.to_owned(),
            found: Mutex::default(),
            aws: OnceCell::new(),
            now_ms: Arc::new(|| 0),
        })
    }

    async fn find(secrets: &Arc<Secrets>, name: &str) -> String {
        match secrets.find(name).await {
            Ok(secret) => secret.map_or("none".to_owned(), |s| s.expose().to_owned()),
            Err(error) => format!("{:?}: {}", error.data.unwrap().kind, error.message),
        }
    }

    #[tokio::test]
    async fn a_secret_is_found_where_its_reference_says() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        std::fs::write(&path, "from file\r\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let config = json!({
            "a": "env:TOKEN", "b": "file:~/key", "c": "cmd:echo from $((1+1)) \"$TOKEN\"",
            "nested": {"d": "env:TOKEN"},
        });
        let secrets = secrets(config, home.path());
        for (name, value) in [
            ("a", "from env"),
            ("b", "from file"),
            ("c", "from 2 from env"),
            ("nested.d", "from env"),
            ("granted", "from env"),
            ("unknown", "none"),
        ] {
            assert_eq!(find(&secrets, name).await, value, "{name}");
        }
    }

    #[test]
    fn a_token_that_says_when_it_ends_is_asked_for_again_shortly_before() {
        let now = Duration::from_secs(1_000_000);
        // {"exp":1003600,"x":"~~?"} and {"exp":999000}, in the alphabet of URLs and without padding.
        let soon = "e30.eyJleHAiOjEwMDM2MDAsIngiOiJ-fj8ifQ.c2ln";
        assert_eq!(lasts(soon, now), Some(Duration::from_secs(3300)));
        assert_eq!(lasts("e30.eyJleHAiOjk5OTAwMH0.c2ln", now), Some(LEAST));
        for other in ["token", "a.b.c", "e30.e30.c2ln", ""] {
            assert_eq!(lasts(other, now), None, "{other}");
        }
    }

    #[tokio::test]
    async fn the_vendors_own_tool_is_the_last_to_be_asked_and_only_when_its_file_is_private() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".config/acme/config.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = json!({"active": "b", "profiles": [
            {"id": "a", "api": {"key": "of a"}}, {"id": "b", "api": {"key": "of b"}}, {"id": "c", "api": {}}]});
        std::fs::write(&path, text.to_string()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let mut secrets = secrets(json!({}), home.path());
        let value = "profiles[id=active].api.key".to_owned();
        let own = Arc::get_mut(&mut secrets).unwrap();
        own.grants[0].file = Some(SecretFile { path: "acme/config.json".to_owned(), value });
        assert_eq!(secrets.granted(&secrets.grants[0]).unwrap().unwrap().expose(), "from env");
        Arc::get_mut(&mut secrets).unwrap().env = Arc::default();
        assert_eq!(secrets.granted(&secrets.grants[0]).unwrap().unwrap().expose(), "of b");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(find(&secrets, "granted").await.contains("chmod 600"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&path, text.to_string().replace("\"active\":\"b\"", "\"active\":\"c\""))
            .unwrap();
        assert_eq!(find(&secrets, "granted").await, "none");
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_had_says_why_and_shows_nothing_of_it() {
        let home = tempfile::tempdir().unwrap();
        let open = home.path().join("open");
        std::fs::write(&open, "exposed").unwrap();
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).unwrap();
        let config = json!({
            "unset": "env:UNSET", "open": "file:~/open", "absent": "file:/nowhere/key", "loose": "file:key",
            "fails": "cmd:echo exposed; echo exposed >&2; exit 3", "silent": "cmd:true", "ring": "keyring:x",
            "gone": "keyring:crabbox/me",
        });
        let mut secrets = secrets(config, home.path());
        Arc::get_mut(&mut secrets).unwrap().env =
            Arc::new([("PATH".to_owned(), "/nowhere".to_owned())].into());
        for (name, part) in [
            ("unset", "Auth: the secret unset cannot be read: UNSET is not set"),
            ("open", "chmod 600"),
            ("absent", "No such file"),
            ("loose", "not absolute"),
            ("fails", "ended with exit code 3"),
            ("silent", "it is empty"),
            ("ring", "is not keyring:SERVICE/USER"),
            ("gone", "secret-tool, which is not installed"),
        ] {
            let told = find(&secrets, name).await;
            assert!(told.contains(part) && !told.contains("exposed"), "{told}");
        }
    }

    #[tokio::test]
    #[cfg(not(target_os = "macos"))]
    async fn the_keyring_is_asked_with_the_systems_own_tool() {
        let home = tempfile::tempdir().unwrap();
        let tool = home.path().join("secret-tool");
        std::fs::write(&tool, "#!/bin/sh\necho \"$#: $*\"\n").unwrap();
        std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
        let mut secrets = secrets(json!({"token": "keyring:my cloud/eu/me"}), home.path());
        let path = home.path().to_str().unwrap().to_owned();
        Arc::get_mut(&mut secrets).unwrap().env = Arc::new([("PATH".to_owned(), path)].into());
        let told = find(&secrets, "token").await;
        assert_eq!(told, "5: lookup service my cloud/eu username me");
    }

    #[tokio::test]
    async fn a_password_is_made_up_once_a_session_and_is_never_the_same_again() {
        let home = tempfile::tempdir().unwrap();
        let made = || {
            let mut secrets = secrets(json!({}), home.path());
            let own = Arc::get_mut(&mut secrets).unwrap();
            own.grants[0] = SecretGrant {
                name: "password".into(),
                chain: Some(SecretChain::MadeUp),
                ..SecretGrant::default()
            };
            secrets
        };
        let (one, other) = (made(), made());
        let first = find(&one, "password").await;
        assert!(first.len() == 52 && first.starts_with("Cb1!"), "{first}");
        assert_eq!(find(&one, "password").await, first);
        assert_ne!(find(&other, "password").await, first);
    }

    #[tokio::test]
    async fn a_command_runs_once_a_session() {
        let home = tempfile::tempdir().unwrap();
        let secrets = secrets(json!({"c": "cmd:echo x >>count; wc -l <count"}), home.path());
        let (first, second) = tokio::join!(find(&secrets, "c"), find(&secrets, "c"));
        assert_eq!((first.trim(), second.trim()), ("1", "1"));
    }
}
