//! The delta: what leads from one manifest to the next, with the recipes of large files.

use std::io::Read;
use std::path::PathBuf;

use crate::entry::{
    Entry, bytes_of, content_hash, escape, hex, path_from_word, unhex_bytes, write_hex,
};
use crate::manifest::whole;
use crate::piece::{Chunk, Recipe};
use crate::{Manifest, TreeError};

/// First line of the text form.
const HEADER: &[u8] = b"crabbox-delta 1";

/// Texts below this size travel as they are. Bytes.
const SMALL: usize = 16 << 10;
/// How everything that zstd packed begins.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What leads from one manifest to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Paths that vanish.
    pub removed: Vec<PathBuf>,
    /// Entries that are new or different, in the order of their paths' bytes.
    pub wanted: Vec<Entry>,
    /// How the contents among them that are larger than a piece are cut.
    pub recipes: Vec<Recipe>,
}

impl Delta {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.wanted.is_empty()
    }

    /// The manifest this delta leads to.
    pub fn apply(&self, base: &Manifest) -> Result<Manifest, TreeError> {
        let gone: std::collections::HashSet<_> = self.removed.iter().collect();
        let kept = base.entries().iter().filter(|e| !gone.contains(&e.path)).cloned().collect();
        let wanted = Manifest::new(self.wanted.clone())?;
        Ok(Manifest::new(kept)?.with(&wanted))
    }

    /// Its text form, ended by a line that proves it is whole.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(64 + self.wanted.len() * 128);
        text.extend_from_slice(HEADER);
        text.push(b'\n');
        for path in &self.removed {
            text.extend_from_slice(b"- ");
            escape(bytes_of(path), &mut text);
            text.push(b'\n');
        }
        for entry in &self.wanted {
            entry.write_line(&mut text);
        }
        for recipe in &self.recipes {
            text.extend_from_slice(b"r ");
            write_hex(&recipe.content, &mut text);
            for chunk in &recipe.chunks {
                text.extend_from_slice(format!(" {}:", chunk.len).as_bytes());
                write_hex(&chunk.sha256, &mut text);
            }
            text.push(b'\n');
        }
        let digest = hex(&content_hash(&text));
        text.extend_from_slice(format!("end {digest}\n").as_bytes());
        text
    }

    /// The form in which it travels: its text, packed with zstd when that is worth it.
    pub fn to_packed(&self) -> Vec<u8> {
        let text = self.to_text();
        match text.len() < SMALL {
            true => text,
            false => zstd::bulk::compress(&text, 1).unwrap_or(text),
        }
    }

    /// Reads the form in which it travels; its text may have at most so many bytes.
    pub fn from_packed(bytes: &[u8], most: usize) -> Result<Self, TreeError> {
        if !bytes.starts_with(&ZSTD) {
            return Self::from_text(bytes);
        }
        let failed = |_| TreeError::new("a delta is packed badly");
        let mut text = Vec::new();
        let unpacked = zstd::stream::read::Decoder::with_buffer(bytes).map_err(failed)?;
        let read = unpacked.take(most as u64).read_to_end(&mut text);
        read.map_err(failed).and_then(|_| Self::from_text(&text))
    }

    /// Reads the text form.
    pub fn from_text(text: &[u8]) -> Result<Self, TreeError> {
        let body = whole(text).ok_or_else(|| TreeError::new("a delta is not whole"))?;
        let mut lines = body.strip_suffix(b"\n").unwrap_or(body).split(|b| *b == b'\n');
        if lines.next() != Some(HEADER) {
            return Err(TreeError::new("a delta of another version"));
        }
        let mut delta = Self::default();
        for line in lines {
            let read = match line.split_first_chunk::<2>() {
                Some((b"- ", path)) => path_from_word(path).map(|path| delta.removed.push(path)),
                Some((b"r ", words)) => recipe_of(words).map(|recipe| delta.recipes.push(recipe)),
                _ => Entry::from_line(line).map(|entry| delta.wanted.push(entry)),
            };
            read.ok_or_else(|| {
                TreeError::new(format!("a bad line in a delta: {}", line.escape_ascii()))
            })?;
        }
        Ok(delta)
    }
}

fn recipe_of(words: &[u8]) -> Option<Recipe> {
    let mut words = words.split(|b| *b == b' ');
    let content = unhex_bytes(words.next()?)?;
    let chunks = words.map(chunk_of).collect::<Option<Vec<_>>>()?;
    Some(Recipe { content, chunks })
}

fn chunk_of(word: &[u8]) -> Option<Chunk> {
    let colon = word.iter().position(|b| *b == b':')?;
    let len = std::str::from_utf8(&word[..colon]).ok()?.parse().ok()?;
    Some(Chunk { len, sha256: unhex_bytes(&word[colon + 1..])? })
}
