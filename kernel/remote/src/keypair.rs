//! Keys made here: the pair of a lease, whose private half never leaves this machine, and the host key of a box, which
//! nowhere stays on it.

use std::fs;
use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::HostKey;
use crabbox_kernel::state::{failed, write_atomic};
use crabbox_schemas::error::ErrorCode;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};

/// Makes `id_ed25519` and `id_ed25519.pub` in `dir`, or finds them there; the public half in one line.
pub(crate) fn make(dir: &Path, comment: &str) -> Result<String> {
    let (private, public) = (dir.join("id_ed25519"), dir.join("id_ed25519.pub"));
    if private.exists() {
        let text = fs::read_to_string(&public).map_err(|e| failed("cannot read", &public, &e))?;
        return Ok(text.trim().to_owned());
    }
    let key = ed25519(comment)?;
    let line = key.public_key().to_openssh().map_err(broken)?;
    write_atomic(&public, format!("{line}\n").as_bytes())?;
    write_atomic(&private, key.to_openssh(LineEnding::LF).map_err(broken)?.as_bytes())?;
    Ok(line)
}

/// A key pair for the SSH server of a box; nothing of it is kept here.
pub(crate) fn host_key(comment: &str) -> Result<HostKey> {
    let key = ed25519(comment)?;
    let public = key.public_key().to_openssh().map_err(broken)?;
    let private = key.to_openssh(LineEnding::LF).map_err(broken)?.to_string();
    Ok(HostKey { private, public })
}

fn ed25519(comment: &str) -> Result<PrivateKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| {
        KernelError::new(ErrorCode::Internal, format!("the system gives no randomness: {e}"))
    })?;
    PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed)), comment).map_err(broken)
}

fn broken(error: russh::keys::ssh_key::Error) -> KernelError {
    KernelError::new(ErrorCode::Internal, "cannot make the lease's key pair").because(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_made_once_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = make(dir.path(), "crabbox cbx_000000000000").unwrap();
        assert!(
            first.starts_with("ssh-ed25519 ") && first.ends_with(" crabbox cbx_000000000000"),
            "{first}"
        );
        assert_eq!(make(dir.path(), "again").unwrap(), first);
        let key = russh::keys::load_secret_key(dir.path().join("id_ed25519"), None).unwrap();
        assert_eq!(key.public_key().to_openssh().unwrap(), first);
    }
}
