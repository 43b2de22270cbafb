//! A large content that grows chunk by chunk, and whose chunks outlive a flight that is cut.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use crabbox_tree::{Hash, Recipe, content_hash, hex};
use rustix::fs::{AtFlags, renameat, unlinkat};

use crate::tree::check::content_of;
use crate::tree::fault::{Fault, Result};
use crate::tree::place::{self, Place};
use crate::tree::state::Boot;

/// A large content in the making: `<hash>.part` in the staging folder, and `<hash>.log`, which says which of its
/// chunks are in place: the boot id, the recipe's hash, then a number a chunk.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) content: Hash,
    file: File,
    log: Mutex<File>,
    /// Where each chunk begins, and its length and hash.
    chunks: Vec<(u64, u32, Hash)>,
}

impl Partial {
    /// Opens it, and tells which chunks are in place already.
    pub(crate) fn open(place: &Place, recipe: &Recipe) -> Result<(Self, BTreeSet<usize>)> {
        let name = hex(&recipe.content);
        let failed = || Fault::io("stage a large file");
        let mut at = 0;
        let mut chunks = Vec::with_capacity(recipe.chunks.len());
        let mut key = Vec::with_capacity(recipe.chunks.len() * 36);
        for chunk in &recipe.chunks {
            chunks.push((at, chunk.len, chunk.sha256));
            at += u64::from(chunk.len);
            key.extend_from_slice(&chunk.len.to_le_bytes());
            key.extend_from_slice(&chunk.sha256);
        }
        let file = place::create(&place.staging, &format!("{name}.part"))?;
        let mut log = place::create(&place.staging, &format!("{name}.log"))?;
        let head = [&place.boot[..], &content_hash(&key)].concat();
        let mut noted = Vec::new();
        log.read_to_end(&mut noted).map_err(failed())?;
        let mut partial = Self { content: recipe.content, file, log: Mutex::new(log), chunks };
        // A log may outlive its file when both are removed.
        let grown = partial.file.metadata().map_err(failed())?.len() == at;
        let present = if grown { partial.present(&noted, &head) } else { BTreeSet::new() };
        let whole = present.len() * 4 + head.len() == noted.len() && noted.starts_with(&head);
        if !whole {
            partial.restart(&head, &present, at).map_err(failed())?;
        }
        Ok((partial, present))
    }

    /// The chunks a log names; after another boot only those whose bytes are there.
    fn present(&self, noted: &[u8], head: &[u8]) -> BTreeSet<usize> {
        const BOOT: usize = size_of::<Boot>();
        if noted.len() < head.len() || noted[BOOT..head.len()] != head[BOOT..] {
            return BTreeSet::new();
        }
        let same_boot = noted[..BOOT] == head[..BOOT];
        let (numbers, _) = noted[head.len()..].as_chunks::<4>();
        numbers
            .iter()
            .map(|number| u32::from_le_bytes(*number) as usize)
            .filter(|at| self.chunks.get(*at).is_some_and(|c| same_boot || self.holds(c)))
            .collect()
    }

    fn holds(&self, (at, len, sha256): &(u64, u32, Hash)) -> bool {
        let mut bytes = vec![0; *len as usize];
        self.file.read_exact_at(&mut bytes, *at).is_ok() && content_hash(&bytes) == *sha256
    }

    /// Writes the log anew. Without a chunk the file is emptied, too: what is not written reads as zeros.
    fn restart(
        &mut self,
        head: &[u8],
        present: &BTreeSet<usize>,
        size: u64,
    ) -> std::io::Result<()> {
        let log = self.log.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        log.set_len(0)?;
        if present.is_empty() {
            self.file.set_len(0)?;
        }
        self.file.set_len(size)?;
        let mut bytes = head.to_vec();
        for at in present {
            bytes.extend_from_slice(&u32::try_from(*at).unwrap_or(u32::MAX).to_le_bytes());
        }
        std::io::Seek::rewind(log)?;
        log.write_all(&bytes)
    }

    /// The hashes of its chunks, in order.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = &Hash> {
        self.chunks.iter().map(|(_, _, hash)| hash)
    }

    /// Puts a chunk in its place; its bytes were checked. Zeros stay a hole.
    pub(crate) fn put(&self, number: usize, bytes: &[u8]) -> Result<()> {
        let failed = || Fault::io("stage a part of a large file");
        let (at, ..) = self.chunks[number];
        if bytes.iter().any(|b| *b != 0) {
            self.file.write_all_at(bytes, at).map_err(failed())?;
        }
        let mark = u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        let mut log = self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        log.write_all(&mark).map_err(failed())
    }

    /// Proves the whole content and gives it its name; spoiled content is removed.
    pub(crate) fn finish(&self, place: &Place) -> Result<()> {
        let name = hex(&self.content);
        let (part, log) = (format!("{name}.part"), format!("{name}.log"));
        let failed = || Fault::of("stage a large file");
        std::io::Seek::rewind(&mut &self.file).map_err(Fault::io("read a staged file"))?;
        let found = content_of(&self.file, &mut Vec::new()).map_err(failed())?;
        let right = found.is_some_and(|(hash, _)| hash == self.content);
        unlinkat(&place.staging, &log, AtFlags::empty()).map_err(failed())?;
        if right {
            return renameat(&place.staging, &part, &place.staging, &name).map_err(failed());
        }
        unlinkat(&place.staging, &part, AtFlags::empty()).map_err(failed())?;
        Err(Fault::Content)
    }
}
