//! Where the box may find contents by itself: the public origin of a clone. It is asked beside the sync, which waits for
//! nothing of it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crabbox_schemas::helper::Origin;
use crabbox_tree::{Hash, Piece};

use crate::sync::{LocalTree, TreeKind, git};

/// Longest address.
const LONGEST: usize = 2048;

/// The origin of a clone, with a commit it should have; `None` unless anybody may fetch from it.
pub(super) fn origin(tree: &LocalTree) -> Option<Origin> {
    let ask = |args: &[&str]| said(&tree.root, args);
    if tree.kind != TreeKind::Git {
        return None;
    }
    let url = ask(&["config", "--get", "remote.origin.url"]).filter(|url| is_public(url))?;
    let upstream = ["@{upstream}", "refs/remotes/origin/HEAD"].into_iter().find_map(|name| {
        let full = ask(&["rev-parse", "--symbolic-full-name", name])?;
        let branch = full.strip_prefix("refs/remotes/origin/").filter(|b| *b != "HEAD")?;
        Some((format!("refs/heads/{branch}"), full.clone()))
    });
    let (reference, full) = upstream?;
    let commit = ask(&["merge-base", "HEAD", &full])?;
    Some(Origin { url, commit, reference })
}

/// Whether an address needs no credentials and holds none, as far as it shows.
fn is_public(url: &str) -> bool {
    let rest = ["https://", "http://", "git://"].iter().find_map(|s| url.strip_prefix(s));
    rest.is_some_and(|rest| {
        let host = rest.split('/').next().unwrap_or_default();
        let plain = rest.bytes().all(|b| b.is_ascii_graphic());
        plain && !host.is_empty() && url.len() <= LONGEST && !rest.contains(['@', '?', '#'])
    })
}

/// What git says in one line.
fn said(root: &Path, args: &[&str]) -> Option<String> {
    let output = git::command(root, args).output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim_end().to_owned()).filter(|line| !line.is_empty() && !line.contains('\n'))
}

/// Pieces that the box found while others were sent.
#[derive(Debug, Default)]
pub(super) struct Seeded(Mutex<HashSet<Hash>>);

impl Seeded {
    /// Notes ranges of pieces: the number of the first, and how many.
    pub(super) fn add(&self, pieces: &[Piece], ranges: &[[u64; 2]]) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for [first, count] in ranges {
            let skip = usize::try_from(*first).unwrap_or(usize::MAX);
            let take = usize::try_from(*count).unwrap_or(usize::MAX);
            found.extend(pieces.iter().skip(skip).take(take).map(|piece| piece.sha256));
        }
    }

    pub(super) fn has(&self, piece: &Hash) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_needs_no_credentials_is_public() {
        for url in ["https://example.com/a/b.git", "http://example.com:8080/x", "git://[::1]:9/x"] {
            assert!(is_public(url), "{url}");
        }
        for url in [
            "git@example.com:a/b.git",
            "ssh://example.com/x",
            "file:///x",
            "/srv/x.git",
            "https://token@example.com/x",
            "https://example.com/x?token=1",
            "https:///x",
            "ext::sh -c x",
            "--upload-pack=x",
            "https://example.com/a b",
        ] {
            assert!(!is_public(url), "{url}");
        }
    }
}
