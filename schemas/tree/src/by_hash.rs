//! Maps and sets by content: a hash is as good as random already, so its first bytes are its place in the table.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::Hash;

/// What is known of each content.
pub type ByHash<V> = HashMap<Hash, V, BuildHasherDefault<FirstBytes>>;

/// Some contents.
pub type Hashes = HashSet<Hash, BuildHasherDefault<FirstBytes>>;

/// Takes the first bytes of the last thing it is given.
#[derive(Debug, Default, Clone, Copy)]
pub struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content_hash;

    #[test]
    fn contents_are_told_apart() {
        let hashes: Hashes = (0..1000_u32).map(|n| content_hash(&n.to_le_bytes())).collect();
        assert_eq!(hashes.len(), 1000);
        let mut near = [7; 32];
        near[31] = 8;
        assert_eq!([[7; 32], near, [7; 32]].into_iter().collect::<Hashes>().len(), 2);
    }
}
