//! Which host keys are believed: the provider's, the user's known hosts, else the first one seen, pinned for the lease.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::write_atomic;
use crabbox_schemas::error::ErrorCode;
use russh::Preferred;
use russh::keys::{Algorithm, HashAlg, PublicKey, known_hosts};

use crate::pattern::any_fits;

/// What is known of a host before it shows its key.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    /// Name of the host in known-hosts files.
    pub(crate) name: String,
    /// Ports the same host may answer on.
    pub(crate) ports: Vec<u16>,
    /// The port that answered.
    pub(crate) port: u16,
    /// Keys the provider vouches for; when there are any, only these count.
    pub(crate) given: Vec<PublicKey>,
    /// The user's own files, read only.
    pub(crate) files: Vec<PathBuf>,
    /// The lease's file, where the first key is pinned.
    pub(crate) pins: PathBuf,
}

/// A line of a known-hosts file that concerns the host.
struct Known {
    key: PublicKey,
    revoked: bool,
    place: String,
}

impl Trust {
    /// Host key algorithms to ask for, the known ones first, so that a host shows a key we can compare.
    pub(crate) fn preferred(&self) -> Vec<Algorithm> {
        let known: Vec<Algorithm> = self.keys().into_iter().map(|key| family(&key)).collect();
        let mut order = Preferred::DEFAULT.key.to_vec();
        order.retain(|algorithm| *algorithm != Algorithm::Rsa { hash: None });
        order.sort_by_key(|algorithm| !known.contains(&rootname(algorithm)));
        order
    }

    fn keys(&self) -> Vec<PublicKey> {
        if !self.given.is_empty() {
            return self.given.clone();
        }
        self.known().into_iter().filter(|known| !known.revoked).map(|known| known.key).collect()
    }

    /// Believes the key, pins it, or says why not.
    pub(crate) fn check(&self, shown: &PublicKey) -> Result<()> {
        let same = |key: &PublicKey| key.key_data() == shown.key_data();
        let known = self.known();
        if let Some(line) = known.iter().find(|line| line.revoked && same(&line.key)) {
            return Err(self.refuse(shown, "is revoked", &line.place));
        }
        if !self.given.is_empty() {
            return match self.given.iter().any(same) {
                true => Ok(()),
                false => {
                    Err(self.refuse(shown, "is not the one the provider announced", "the provider"))
                }
            };
        }
        let mut expected = known.iter().filter(|line| !line.revoked).peekable();
        match expected.peek() {
            None => self.pin(shown),
            Some(first) => {
                let place = first.place.clone();
                match expected.any(|line| same(&line.key)) {
                    true => Ok(()),
                    false => Err(self.refuse(shown, "has changed", &place)),
                }
            }
        }
    }

    fn refuse(&self, shown: &PublicKey, what: &str, place: &str) -> KernelError {
        let mut error =
            KernelError::new(ErrorCode::SshHostKey, format!("the host key of {} {what}", self.label(self.port)))
                .at("host-key")
                .hint(format!(
                    "somebody may be listening in; if the host was rebuilt on purpose, remove its line from {place}"
                ));
        error.causes.push(format!("it showed {}", shown.fingerprint(HashAlg::Sha256)));
        error
    }

    /// OpenSSH's spelling of a host and port.
    fn label(&self, port: u16) -> String {
        match port {
            22 => self.name.clone(),
            _ => format!("[{}]:{port}", self.name),
        }
    }

    fn pin(&self, key: &PublicKey) -> Result<()> {
        let line = PublicKey::new(key.key_data().clone(), "").to_openssh().map_err(|e| {
            KernelError::new(ErrorCode::SshHostKey, "cannot write the host key down").because(&e)
        })?;
        let mut text = fs::read_to_string(&self.pins).unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("{} {}\n", self.label(self.port), line.trim()));
        write_atomic(&self.pins, text.as_bytes())
    }

    fn known(&self) -> Vec<Known> {
        std::iter::once(&self.pins)
            .chain(&self.files)
            .flat_map(|file| self.known_in(file))
            .collect()
    }

    fn known_in(&self, file: &Path) -> Vec<Known> {
        let bytes = fs::read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<Line> = text
            .lines()
            .enumerate()
            .filter_map(|(at, line)| Line::read(line, format!("{}:{}", file.display(), at + 1)))
            .collect();
        let hashed = self.hashed(&lines);
        let concerns = |line: &Line| match line.hosts.starts_with('|') {
            true => hashed.contains(&line.known.place),
            false => self.ports.iter().any(|p| any_fits(line.hosts.split(','), &self.label(*p))),
        };
        lines.into_iter().filter(concerns).map(|line| line.known).collect()
    }

    /// Places of the lines with hashed names that are about this host; russh knows the hash.
    fn hashed(&self, lines: &[Line]) -> HashSet<String> {
        let lines: Vec<&Line> = lines.iter().filter(|line| line.hosts.starts_with('|')).collect();
        if lines.is_empty() {
            return HashSet::new();
        }
        let find = || -> std::io::Result<HashSet<String>> {
            let mut file = tempfile::NamedTempFile::new()?;
            for line in &lines {
                writeln!(file, "{} {}", line.hosts, line.key)?;
            }
            let found = |port: &u16| {
                let found = known_hosts::known_host_keys_path(&self.name, *port, file.path());
                found.unwrap_or_default().into_iter().map(|(number, _)| number)
            };
            let numbers = self.ports.iter().flat_map(found);
            Ok(numbers.filter_map(|n| Some(lines.get(n - 1)?.known.place.clone())).collect())
        };
        find().unwrap_or_else(|error| {
            tracing::debug!(%error, "hashed known hosts not read");
            HashSet::new()
        })
    }
}

/// One usable line of a known-hosts file.
struct Line<'a> {
    hosts: &'a str,
    key: String,
    known: Known,
}

impl<'a> Line<'a> {
    /// `None` for comments, authorities and keys that cannot be read.
    fn read(line: &'a str, place: String) -> Option<Self> {
        let mut words = line.split_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@'));
        let (hosts, kind, blob) = (words.next()?, words.next()?, words.next()?);
        if hosts.starts_with('#') || marker.is_some_and(|marker| marker != "@revoked") {
            return None;
        }
        let text = format!("{kind} {blob}");
        let key = PublicKey::from_openssh(&text).ok()?;
        Some(Self { hosts, key: text, known: Known { key, revoked: marker.is_some(), place } })
    }
}

fn family(key: &PublicKey) -> Algorithm {
    rootname(&key.algorithm())
}

/// The algorithm without the hash an RSA key is used with.
fn rootname(algorithm: &Algorithm) -> Algorithm {
    match algorithm {
        Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
        other => other.clone(),
    }
}
