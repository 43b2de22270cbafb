//! Gets plugin packages from where they are published: a web address with a digest, or an OCI registry.
//!
//! What was got lies in a folder of the caller's, with its signature beside it when there is one; whether it may be used
//! is decided elsewhere. Nothing is got in plain text, except from this machine itself.
#![warn(missing_docs)]

mod registry;
mod source;
mod web;

pub use source::Source;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use futures_util::{Stream, StreamExt};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Most bytes of a package.
const LARGEST: u64 = 512 << 20;
/// Most bytes of a signature.
const LARGEST_SIGNATURE: u64 = 16 << 10;
/// How long one address may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// How crabbox names itself.
const AGENT: &str = concat!("crabbox/", env!("CARGO_PKG_VERSION"));

/// Gets a package, and its signature when there is one, into an empty folder. Returns the package's path; the signature
/// has the same name with `.minisig` after it.
pub async fn fetch(source: &Source, into: &Path) -> Result<PathBuf> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails when somebody has chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let package = into.join("package.cbxplugin");
    match source {
        Source::Web { url, digest } => web::fetch(url, digest, &package).await?,
        Source::Registry(reference) => registry::fetch(reference, &package).await?,
    }
    Ok(package)
}

/// The place of a package's signature.
fn signature_of(package: &Path) -> PathBuf {
    package.with_extension("cbxplugin.minisig")
}

/// Writes what comes to a file, so many bytes at most.
async fn save<E: std::error::Error + 'static>(
    bytes: impl Stream<Item = std::result::Result<Bytes, E>>,
    what: &str,
    most: u64,
    to: &Path,
) -> Result<()> {
    let mut file = File::create_new(to).await.map_err(|e| unwritable(to, &e))?;
    let mut bytes = pin!(bytes);
    let mut count = 0;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|e| unreachable(what, &e))?;
        count += chunk.len() as u64;
        if count > most {
            return Err(unusable(what, format!("it is larger than {} KiB", most >> 10)));
        }
        file.write_all(&chunk).await.map_err(|e| unwritable(to, &e))?;
    }
    file.flush().await.map_err(|e| unwritable(to, &e))
}

fn unreachable(what: &str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    KernelError::new(ErrorCode::Transient, format!("cannot get {what}"))
        .because(error)
        .hint("check the address and your connection, then try again")
}

fn unusable(what: &str, why: impl std::fmt::Display) -> KernelError {
    KernelError::new(ErrorCode::Config, format!("{what} is no usable plugin package: {why}"))
        .hint("ask its publisher; nothing was installed")
}

fn unwritable(path: &Path, error: &std::io::Error) -> KernelError {
    crabbox_kernel::state::failed("cannot write", path, error)
}
