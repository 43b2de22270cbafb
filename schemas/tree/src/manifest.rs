//! The manifest: every entry of a tree by path, kind and content, sorted, with a text form and a digest.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use crate::entry::{Entry, Hash, bytes_of, content_hash, hex, is_inside, shown};
use crate::{Delta, Groups, TreeError};

/// First line of the text form.
const HEADER: &[u8] = b"crabbox-manifest 1";

/// Entries sorted by the bytes of their path, each path once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
}

impl Manifest {
    /// Sorts entries; of two with one path the later wins. A path that leaves the tree is an error.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        if let Some(bad) = entries.iter().find(|e| !is_inside(&e.path)) {
            return Err(TreeError::new(format!(
                "{} is not a path inside the tree",
                shown(&bad.path)
            )));
        }
        if !entries.is_sorted_by(|a, b| bytes_of(&a.path) < bytes_of(&b.path)) {
            entries.reverse();
            entries.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
            entries.dedup_by(|a, b| a.path == b.path);
        }
        Ok(Self { entries })
    }

    /// The entries, sorted.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entries, sorted, taken out.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The sum of all sizes.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(Entry::size).sum()
    }

    /// The entry at a path.
    pub fn get(&self, path: &Path) -> Option<&Entry> {
        self.find(path).map(|at| &self.entries[at])
    }

    /// Where the entry at a path stands.
    pub fn find(&self, path: &Path) -> Option<usize> {
        self.entries.binary_search_by(|e| bytes_of(&e.path).cmp(bytes_of(path))).ok()
    }

    /// These entries and those of `other`; where both know a path, `other` is right.
    pub fn with(&self, other: &Self) -> Self {
        let mut entries = Vec::with_capacity(self.entries.len().max(other.entries.len()));
        let (mut ours, mut theirs) =
            (self.entries.iter().peekable(), other.entries.iter().peekable());
        while let Some(entry) = ours.peek() {
            match theirs.peek().map(|other| bytes_of(&other.path).cmp(bytes_of(&entry.path))) {
                Some(std::cmp::Ordering::Less) => entries.extend(theirs.next().cloned()),
                Some(std::cmp::Ordering::Equal) => {
                    ours.next();
                    entries.extend(theirs.next().cloned());
                }
                _ => entries.extend(ours.next().cloned()),
            }
        }
        entries.extend(theirs.cloned());
        Self { entries }
    }

    /// What leads from this manifest to `wanted`: vanished paths removed, new and different entries wanted.
    pub fn delta(&self, wanted: &Self) -> Delta {
        let mut delta = Delta::default();
        let mut old = self.entries.iter().peekable();
        for entry in &wanted.entries {
            while let Some(gone) = old.next_if(|o| bytes_of(&o.path) < bytes_of(&entry.path)) {
                delta.removed.push(gone.path.clone());
            }
            if old.next_if(|o| bytes_of(&o.path) == bytes_of(&entry.path)) != Some(entry) {
                delta.wanted.push(entry.clone());
            }
        }
        delta.removed.extend(old.map(|gone| gone.path.clone()));
        delta
    }

    /// Its text form: a header, a line per entry, and a last line that proves it is whole.
    pub fn to_text(&self) -> String {
        let mut body = self.body();
        let end = hex(&content_hash(&body));
        body.extend_from_slice(format!("end {end}\n").as_bytes());
        String::from_utf8(body).expect("a line holds visible ASCII only")
    }

    /// Reads the text form; `None` when it is not whole or not ours.
    pub fn from_text(text: &str) -> Option<Self> {
        let body = whole(text.as_bytes())?;
        let mut lines = body.strip_suffix(b"\n")?.split(|b| *b == b'\n');
        if lines.next()? != HEADER {
            return None;
        }
        let entries = lines.map(Entry::from_line).collect::<Option<Vec<_>>>()?;
        Self::new(entries).ok()
    }

    /// Equal exactly when two trees are equal.
    pub fn digest(&self) -> Hash {
        self.groups().digest()
    }

    /// What the digest is made of.
    pub fn groups(&self) -> Groups {
        Groups::of(self.entries.iter().map(Cow::Borrowed))
    }

    /// Entries that are inside the tree and sorted, each path once: those of manifests, brought together.
    pub fn of_sorted(entries: Vec<Entry>) -> Self {
        debug_assert!(entries.is_sorted_by(|a, b| bytes_of(&a.path) < bytes_of(&b.path)));
        Self { entries }
    }

    fn body(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(64 + self.entries.len() * 128);
        text.extend_from_slice(HEADER);
        text.push(b'\n');
        for entry in &self.entries {
            entry.write_line(&mut text);
        }
        text
    }
}

/// Where entries in the order of their paths' bytes stand that come from one path on and before another; without
/// another, to the end.
pub fn between(sorted: &[Entry], from: &[u8], until: Option<&[u8]>) -> Range<usize> {
    let place = |path: &[u8]| sorted.partition_point(|e| bytes_of(&e.path) < path);
    let end = until.map_or(sorted.len(), place);
    place(from).min(end)..end
}

/// The text above its last line, when that line is `end` and the hash of what stands above it.
pub(crate) fn whole(text: &[u8]) -> Option<&[u8]> {
    let last = text.strip_suffix(b"\n")?.iter().rposition(|b| *b == b'\n')? + 1;
    let (body, end) = text.split_at(last);
    let said = end.strip_prefix(b"end ")?.strip_suffix(b"\n")?;
    (said == hex(&content_hash(body)).as_bytes()).then_some(body)
}
