//! Local claim files: which lease belongs to which checkout, found by id or slug.

use std::fs;
use std::path::{Path, PathBuf};

use crabbox_schemas::claim::Claim;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::LeaseId;

use crate::error::{KernelError, Result};
use crate::slug::normalise;
use crate::state::{failed, write_atomic};

/// The claims folder.
#[derive(Debug, Clone)]
pub struct Claims {
    dir: PathBuf,
}

impl Claims {
    /// The claims in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Every readable claim in id order, and what could not be read.
    pub fn all(&self) -> (Vec<Claim>, Vec<String>) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return (Vec::new(), Vec::new()) };
        let mut claims = Vec::new();
        let mut problems = Vec::new();
        for path in entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|x| x == "json"))
        {
            match read(&path) {
                Ok(claim) => claims.push(claim),
                Err(error) => problems.push(error.to_string()),
            }
        }
        claims.sort_by(|a, b| a.lease_id.cmp(&b.lease_id));
        problems.sort();
        (claims, problems)
    }

    /// The claim of one lease.
    pub fn get(&self, id: &LeaseId) -> Result<Option<Claim>> {
        let path = self.path(id);
        if path.exists() { read(&path).map(Some) } else { Ok(None) }
    }

    /// Finds a claim by exact id, else by normalised slug. A slug that fits several names them all.
    pub fn find(&self, name: &str) -> Result<Option<Claim>> {
        if let Some(claim) = LeaseId::parse(name).map(|id| self.get(&id)).transpose()?.flatten() {
            return Ok(Some(claim));
        }
        let wanted = normalise(name);
        let mut fits: Vec<Claim> = self
            .all()
            .0
            .into_iter()
            .filter(|c| !c.slug.is_empty() && normalise(&c.slug) == wanted)
            .collect();
        if fits.len() > 1 {
            return Err(ambiguous(
                name,
                fits.iter().map(|c| (c.lease_id.as_str(), c.provider.as_str())),
            ));
        }
        Ok(fits.pop())
    }

    /// Writes a claim.
    pub fn put(&self, claim: &Claim) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(claim).map_err(|e| {
            KernelError::new(ErrorCode::Internal, "cannot encode a claim").because(&e)
        })?;
        text.push(b'\n');
        write_atomic(&self.path(&claim.lease_id), &text)
    }

    /// Forgets a claim; forgetting twice is fine.
    pub fn remove(&self, id: &LeaseId) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("cannot remove", &path, &e))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, id: &LeaseId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

/// The error for a name that fits more than one lease; it lists the candidates.
pub fn ambiguous<'a>(name: &str, fits: impl Iterator<Item = (&'a str, &'a str)>) -> KernelError {
    let list: Vec<_> = fits.map(|(id, provider)| format!("{id} ({provider})")).collect();
    KernelError::new(
        ErrorCode::Ambiguous,
        format!("{name} fits {} leases: {}", list.len(), list.join(", ")),
    )
    .hint("use the lease id")
}

/// Refuses a lease that belongs to another checkout, unless it is to be claimed anew.
pub fn check_checkout(claim: &Claim, repo_root: &Path, reclaim: bool) -> Result<()> {
    if reclaim || claim.repo_root.is_empty() || Path::new(&claim.repo_root) == repo_root {
        return Ok(());
    }
    Err(KernelError::new(
        ErrorCode::ClaimConflict,
        format!(
            "lease {} belongs to {}, not to {}",
            claim.lease_id,
            claim.repo_root,
            repo_root.display()
        ),
    )
    .hint("pass --reclaim to use it from here"))
}

fn read(path: &Path) -> Result<Claim> {
    let bytes = fs::read(path).map_err(|e| failed("cannot read", path, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        KernelError::new(ErrorCode::State, format!("{} is not a claim", path.display()))
            .because(&e)
            .hint("move the file away if it is damaged")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: &str, slug: &str) -> Claim {
        serde_json::from_value(serde_json::json!({
            "leaseID": id, "slug": slug, "provider": "toy", "repoRoot": "/src/app",
            "claimedAt": "2026-01-01T00:00:00Z", "lastUsedAt": "2026-01-01T00:00:00Z"
        }))
        .unwrap()
    }

    #[test]
    fn claims_are_found_by_id_then_by_normalised_slug() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::new(dir.path().to_owned());
        claims.put(&claim("cbx_abcdef123456", "blue-prawn")).unwrap();
        claims.put(&claim("cbx_abcdef123457", "red-crab")).unwrap();
        assert_eq!(
            claims.find("Blue Prawn").unwrap().unwrap().lease_id.as_str(),
            "cbx_abcdef123456"
        );
        assert_eq!(claims.find("cbx_abcdef123457").unwrap().unwrap().slug, "red-crab");
        assert!(claims.find("../../etc/passwd").unwrap().is_none());
        claims.put(&claim("cbx_abcdef123458", "blue-prawn")).unwrap();
        let error = claims.find("blue-prawn").unwrap_err();
        assert_eq!(error.code, ErrorCode::Ambiguous);
        assert!(
            error.message.contains("cbx_abcdef123456 (toy), cbx_abcdef123458 (toy)"),
            "{}",
            error.message
        );
    }

    #[test]
    fn a_damaged_claim_is_named_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let claims = Claims::new(dir.path().to_owned());
        claims.put(&claim("cbx_abcdef123456", "blue-prawn")).unwrap();
        fs::write(dir.path().join("cbx_bad.json"), "{").unwrap();
        let (good, problems) = claims.all();
        assert_eq!((good.len(), problems.len()), (1, 1));
        assert!(problems[0].contains("cbx_bad.json"));
    }

    #[test]
    fn another_checkout_needs_reclaim() {
        let claim = claim("cbx_abcdef123456", "blue-prawn");
        assert!(check_checkout(&claim, Path::new("/src/app"), false).is_ok());
        assert_eq!(
            check_checkout(&claim, Path::new("/other"), false).unwrap_err().code,
            ErrorCode::ClaimConflict
        );
        assert!(check_checkout(&claim, Path::new("/other"), true).is_ok());
    }
}
