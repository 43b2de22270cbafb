//! The laptop's side of a flight, as small as it can be: describes a folder, sends what is asked for, corrects itself.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crabbox_helper::tree::{Begin, Fault, Staging, Tree};
use crabbox_schemas::helper::{Applied, Blob, Refused, TreeChange};
use crabbox_tree::{
    Delta, Entry, Kind, Manifest, Recipe, WHOLE, block, bytes_of, content_hash, cut, hex,
};

/// What the laptop has: contents by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files(pub(crate) BTreeMap<PathBuf, File>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum File {
    Bytes(Vec<u8>, bool),
    Link(String),
}

impl Files {
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let mut all = Self::default();
        for (path, text) in files {
            all.put(path, text.as_bytes());
        }
        all
    }

    pub(crate) fn put(&mut self, path: &str, bytes: &[u8]) {
        self.0.insert(path.into(), File::Bytes(bytes.to_vec(), false));
    }

    pub(crate) fn manifest(&self) -> Manifest {
        let entry = |(path, file): (&PathBuf, &File)| Entry {
            path: path.clone(),
            kind: match file {
                File::Bytes(bytes, exec) => Kind::File {
                    size: bytes.len() as u64,
                    sha256: content_hash(bytes),
                    exec: *exec,
                },
                File::Link(target) => Kind::Symlink { target: target.into() },
            },
        };
        Manifest::new(self.0.iter().map(entry).collect()).unwrap()
    }

    /// What is really there, directories left away.
    pub(crate) fn read(root: &Path) -> Self {
        let mut all = Self::default();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).unwrap() {
                let at = entry.unwrap().path();
                let meta = std::fs::symlink_metadata(&at).unwrap();
                let path = at.strip_prefix(root).unwrap().to_owned();
                if meta.is_dir() {
                    dirs.push(at);
                } else if meta.is_symlink() {
                    let target = std::fs::read_link(&at).unwrap();
                    all.0.insert(path, File::Link(target.to_str().unwrap().into()));
                } else if meta.is_file() {
                    let exec = meta.permissions().mode() & 0o100 != 0;
                    all.0.insert(path, File::Bytes(std::fs::read(&at).unwrap(), exec));
                }
            }
        }
        all
    }
}

/// How a flight is flown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    pub(crate) ask: bool,
    pub(crate) checksum: bool,
    /// The link is cut after so many pieces.
    pub(crate) cut: Option<usize>,
}

/// What a flight came to.
#[derive(Debug, Default)]
pub(crate) struct Flown {
    pub(crate) applied: Applied,
    pub(crate) refusals: usize,
    pub(crate) sent: usize,
}

/// One laptop with one tree on the box.
pub(crate) struct Laptop {
    pub(crate) base: Manifest,
}

impl Laptop {
    pub(crate) fn new() -> Self {
        Self { base: Manifest::default() }
    }

    pub(crate) fn fly(&mut self, tree: &mut Tree, files: &Files) -> Flown {
        self.fly_so(tree, files, Manner { ask: true, ..Manner::default() }).unwrap()
    }

    /// Flies until it is applied; `None` when the link was cut.
    pub(crate) fn fly_so(
        &mut self,
        tree: &mut Tree,
        files: &Files,
        manner: Manner,
    ) -> Result<Flown, Option<Fault>> {
        let wanted = files.manifest();
        let mut flown = Flown::default();
        let mut drift: Vec<PathBuf> = Vec::new();
        for _ in 0..5 {
            let delta = self.delta(&wanted, files, &drift);
            let change = TreeChange {
                base: hex(&self.base.digest()),
                target: hex(&wanted.digest()),
                ask: manner.ask,
                checksum: manner.checksum,
                seed: None,
            };
            match tree.begin(&change, delta.clone()).map_err(Some)? {
                Begin::Refused(Refused::Base, text) => {
                    self.base = Manifest::from_text(&text.unwrap()).unwrap();
                }
                Begin::Refused(Refused::Drift { paths }, None) => {
                    drift.extend(paths.into_iter().map(|b| match b {
                        Blob::Text(text) => PathBuf::from(text),
                        Blob::Bytes { b64 } => {
                            use base64::Engine;
                            let bytes = base64::prelude::BASE64_STANDARD.decode(b64).unwrap();
                            PathBuf::from(std::ffi::OsString::from_vec(bytes))
                        }
                    }));
                }
                Begin::Refused(other, _) => panic!("{other:?}"),
                Begin::Ready(mut staging) => {
                    let whole =
                        send(&mut staging, &delta, files, manner, &mut flown).map_err(Some)?;
                    if !whole {
                        return Err(None);
                    }
                    flown.applied = staging.apply(tree).map_err(Some)?;
                    self.base = wanted;
                    return Ok(flown);
                }
            }
            flown.refusals += 1;
        }
        panic!("refused five times; the last drift: {drift:?}");
    }

    pub(crate) fn delta(&self, wanted: &Manifest, files: &Files, drift: &[PathBuf]) -> Delta {
        let mut delta = self.base.delta(wanted);
        for path in drift {
            let known =
                delta.removed.contains(path) || delta.wanted.iter().any(|e| e.path == *path);
            match wanted.get(path) {
                _ if known => {}
                Some(entry) => delta.wanted.push(entry.clone()),
                None => delta.removed.push(path.clone()),
            }
        }
        delta.wanted.sort_by(|a, b| bytes_of(&a.path).cmp(bytes_of(&b.path)));
        let mut cut_already = std::collections::HashSet::new();
        for entry in &delta.wanted {
            if let (File::Bytes(bytes, _), Kind::File { size, sha256, .. }) =
                (&files.0[&entry.path], &entry.kind)
                && *size > WHOLE
                && cut_already.insert(*sha256)
            {
                delta.recipes.push(Recipe { content: *sha256, chunks: cut(bytes, true) });
            }
        }
        delta
    }
}

/// Sends the missing pieces; false when the link was cut before all were there.
fn send(
    staging: &mut Staging,
    delta: &Delta,
    files: &Files,
    manner: Manner,
    flown: &mut Flown,
) -> Result<bool, Fault> {
    let have = staging.have();
    let mut block = block::Block::default();
    let mut count = 0;
    for (at, piece) in staging.pieces().to_vec().iter().enumerate() {
        if manner.ask && have.has(at) {
            continue;
        }
        if manner.cut == Some(count) {
            staging.put(block.seal(None).unwrap().into())?;
            return Ok(false);
        }
        let File::Bytes(bytes, _) = &files.0[&delta.wanted[piece.at.0].path] else { panic!() };
        let from = usize::try_from(piece.at.1).unwrap();
        block.push(&piece.sha256, &bytes[from..from + piece.len as usize]);
        count += 1;
        if block.is_full() {
            staging.put(std::mem::take(&mut block).seal(Some(1)).unwrap().into())?;
        }
    }
    flown.sent += count;
    if !block.is_empty() {
        staging.put(block.seal(Some(1)).unwrap().into())?;
    }
    Ok(true)
}

/// Bytes that do not compress and do not repeat.
pub(crate) fn noise(len: usize, mut seed: u64) -> Vec<u8> {
    std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    })
    .take(len)
    .collect()
}

/// A path's text.
pub(crate) fn text(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}
