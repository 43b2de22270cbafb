//! Where the system offers nothing that tells of every change, nothing is watched and everything is looked at.

use std::io;
use std::path::{Path, PathBuf};

/// Watches nothing.
#[derive(Debug)]
pub struct Watcher(());

impl Watcher {
    /// Refuses.
    pub fn begin(_: &Path, _: &'static [&'static str]) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never a token.
    pub fn token(&mut self) -> Option<String> {
        None
    }

    /// Nothing is known.
    pub fn since(&self, _: &str) -> Option<Vec<PathBuf>> {
        None
    }

    /// Nothing can be told.
    pub fn catch_up(&mut self) -> bool {
        true
    }

    /// Never comes.
    pub fn news(&self) -> impl Future<Output = io::Result<()>> + use<> {
        std::future::pending()
    }

    /// Whether it is of no more use.
    pub fn is_lost(&self) -> bool {
        true
    }

    /// None.
    pub fn folders(&self) -> usize {
        0
    }
}
