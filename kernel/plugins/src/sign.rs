//! Signatures of packages: minisign, one key a publisher, kept from first use.

use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::Manifest;
use minisign_verify::{PublicKey, Signature as Minisig};

use crate::shelf::Shelf;

/// A good signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    /// The public key, one line of base64.
    pub(crate) key: String,
    /// The publisher was never seen before, so the key is to be remembered.
    pub(crate) is_new: bool,
}

/// Checks `<package>.minisig` against the key the publisher was first seen with, or for a new publisher the manifest's.
/// `None` when there is no signature. A publisher with a known key must sign.
pub(crate) fn check(
    shelf: &Shelf,
    manifest: &Manifest,
    package: &[u8],
    signature: Option<&str>,
) -> Result<Option<Signature>> {
    let publisher = publisher(&manifest.id);
    let known = shelf.trust()?.publishers.get(publisher).cloned();
    let Some(signature) = signature else {
        return match known {
            Some(_) => Err(bad(publisher, "earlier packages of it were signed, this one is not")),
            None => Ok(None),
        };
    };
    let said = manifest.public_key.clone();
    if let (Some(known), Some(said)) = (&known, &said)
        && known != said
    {
        return Err(bad(publisher, "its key is another than the one first seen"));
    }
    let Some(key) = known.clone().or(said) else {
        return Err(bad(publisher, "the manifest names no public-key to check the signature with"));
    };
    let public = PublicKey::from_base64(&key).map_err(|e| bad(publisher, &e.to_string()))?;
    let signature = Minisig::decode(signature).map_err(|e| bad(publisher, &e.to_string()))?;
    public.verify(package, &signature, false).map_err(|e| bad(publisher, &e.to_string()))?;
    Ok(Some(Signature { key, is_new: known.is_none() }))
}

/// Who signed installed files: the lock knows.
pub(crate) fn signer(shelf: &Shelf, id: &str, files: &str) -> Result<Option<String>> {
    let lock = shelf.lock()?;
    let locked = lock.plugins.get(id).filter(|locked| locked.files == files);
    Ok(locked.and_then(|locked| locked.signer.clone()))
}

/// The publisher's part of an id.
pub(crate) fn publisher(id: &str) -> &str {
    id.split_once('/').map_or(id, |(publisher, _)| publisher)
}

/// The signature's file beside a package.
pub(crate) fn beside(package: &Path) -> std::path::PathBuf {
    let mut name = package.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

fn bad(publisher: &str, why: &str) -> KernelError {
    KernelError::new(
        ErrorCode::PluginUntrusted,
        format!("the package's signature by {publisher} does not hold: {why}"),
    )
    .hint("ask the publisher; `crabbox plugin trust --forget-key PUBLISHER` forgets the old key")
}
