//! The digest of a tree: a hash over the hashes of small groups of entries, so that a change costs what stands near it.

use std::borrow::Cow;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::entry::{Entry, Hash, bytes_of};

/// What is hashed before the groups' hashes; it changes with the way a tree is hashed.
const MARK: &[u8] = b"crabbox-tree 2\n";

/// About one path in so many begins a group.
const GROUP: u32 = 16;

/// The hashes of a tree's groups of entries, in order. Which path begins a group is for the path alone to say, so
/// that equal trees have equal groups, whatever they were before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups(Vec<Group>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    /// The path that begins it; what stands before all others is in the first, whose path is empty.
    from: Vec<u8>,
    hash: Hash,
}

impl Groups {
    /// The groups of entries that come in the order of their paths' bytes.
    pub fn of<'e>(entries: impl IntoIterator<Item = Cow<'e, Entry>>) -> Self {
        let mut cut = Cut::default();
        cut.open(Vec::new());
        cut.all(entries);
        Self(cut.done())
    }

    /// What proves two trees equal.
    pub fn digest(&self) -> Hash {
        let mut hasher = Sha256::new_with_prefix(MARK);
        self.0.iter().for_each(|group| hasher.update(group.hash));
        hasher.finalize().into()
    }

    /// The groups after these paths changed, came or went. `within` names, in order, the entries that stand now from
    /// one path on and before another; without another, to the end.
    pub fn changed<'p, 'e, I>(
        self,
        paths: impl IntoIterator<Item = &'p Path>,
        within: impl Fn(&[u8], Option<&[u8]>) -> I,
    ) -> Self
    where
        I: IntoIterator<Item = Cow<'e, Entry>>,
    {
        let mut stale = vec![false; self.0.len()];
        for path in paths {
            let path = bytes_of(path);
            let at =
                self.0.partition_point(|group| group.from.as_slice() <= path).saturating_sub(1);
            stale[at] = true;
            // When what begins a group went, the rest belongs to the one before.
            if at > 0 && self.0[at].from == path {
                stale[at - 1] = true;
            }
        }
        let mut old = self.0.into_iter().zip(stale).peekable();
        let mut cut = Cut::default();
        while let Some((group, is_stale)) = old.next() {
            if !is_stale {
                cut.groups.push(group);
                continue;
            }
            while old.next_if(|(_, is_stale)| *is_stale).is_some() {}
            let entries = within(&group.from, old.peek().map(|(next, _)| next.from.as_slice()));
            if group.from.is_empty() {
                cut.open(Vec::new());
            }
            cut.all(entries);
            cut.close();
        }
        Self(cut.done())
    }

    /// Each group: the path that begins it, and its hash.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &Hash)> {
        self.0.iter().map(|group| (group.from.as_slice(), &group.hash))
    }
}

impl FromIterator<(Vec<u8>, Hash)> for Groups {
    /// What [`Groups::iter`] said.
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Hash)>>(groups: I) -> Self {
        Self(groups.into_iter().map(|(from, hash)| Group { from, hash }).collect())
    }
}

/// Entries being cut into groups.
#[derive(Default)]
struct Cut {
    groups: Vec<Group>,
    open: Option<(Vec<u8>, Sha256)>,
    line: Vec<u8>,
}

impl Cut {
    fn open(&mut self, from: Vec<u8>) {
        self.close();
        self.open = Some((from, Sha256::new()));
    }

    fn close(&mut self) {
        if let Some((from, hasher)) = self.open.take() {
            self.groups.push(Group { from, hash: hasher.finalize().into() });
        }
    }

    fn all<'e>(&mut self, entries: impl IntoIterator<Item = Cow<'e, Entry>>) {
        for entry in entries {
            let path = bytes_of(&entry.path);
            if begins(path) {
                self.open(path.to_vec());
            }
            self.line.clear();
            entry.write_line(&mut self.line);
            if let Some((_, hasher)) = &mut self.open {
                hasher.update(&self.line);
            }
        }
    }

    fn done(mut self) -> Vec<Group> {
        self.close();
        self.groups
    }
}

/// Whether a path begins a group (FNV-1a, as it needs no table and no key).
fn begins(path: &[u8]) -> bool {
    let hash = path
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash >> 8) % GROUP == 0
}
