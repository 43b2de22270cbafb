//! Text forms come back exactly, deltas lead where they say, and damaged bytes are refused.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crabbox_tree::lane::{Packer, Unpacker, lane};
use crabbox_tree::{
    Delta, Entry, Groups, Have, Kind, Manifest, Recipe, between, block, content_hash, cut, pieces,
};
use proptest::prelude::*;

fn path() -> impl Strategy<Value = PathBuf> {
    let part = proptest::collection::vec(1u8..=255, 1..8)
        .prop_map(|b| b.into_iter().map(|b| if b == b'/' { b'_' } else { b }).collect::<Vec<_>>())
        .prop_filter("not a dot", |b| !matches!(&b[..], b"." | b".."));
    proptest::collection::vec(part, 1..4)
        .prop_map(|parts| PathBuf::from(OsString::from_vec(parts.join(&b'/'))))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any::<[u8; 32]>(), any::<u16>(), any::<bool>())
            .prop_map(|(sha256, size, exec)| Kind::File { size: size.into(), sha256, exec }),
        proptest::collection::vec(any::<u8>(), 0..9)
            .prop_map(|b| Kind::Symlink { target: OsString::from_vec(b) }),
    ]
}

fn manifest() -> impl Strategy<Value = Manifest> {
    proptest::collection::vec((path(), kind()), 0..20).prop_map(|all| {
        Manifest::new(all.into_iter().map(|(path, kind)| Entry { path, kind }).collect()).unwrap()
    })
}

/// One of few entries, so that two trees of them have many in common.
fn few() -> impl Strategy<Value = Entry> {
    (0..99u8, 0..2u64).prop_map(|(n, size)| Entry {
        path: format!("{}/{n}", n % 7).into(),
        kind: Kind::File { size, sha256: [0; 32], exec: false },
    })
}

proptest! {
    #[test]
    fn a_manifest_survives_its_text_form(manifest in manifest()) {
        let text = manifest.to_text();
        prop_assert_eq!(Manifest::from_text(&text), Some(manifest));
    }

    #[test]
    fn a_delta_leads_from_one_manifest_to_the_other(from in manifest(), to in manifest()) {
        let delta = from.delta(&to);
        let delta = Delta::from_text(&delta.to_text()).unwrap();
        prop_assert_eq!(delta.apply(&from).unwrap(), to.clone());
        prop_assert_eq!(delta.is_empty(), from == to);
        prop_assert_eq!(&Delta::from_packed(&delta.to_packed(), 1 << 20).unwrap(), &delta);
        prop_assert_eq!(from.digest() == to.digest(), from == to);
    }

    #[test]
    fn a_digest_that_follows_changes_is_that_of_the_whole(
        from in proptest::collection::vec(few(), 0..60),
        to in proptest::collection::vec(few(), 0..60),
    ) {
        let (from, to) = (Manifest::new(from).unwrap(), Manifest::new(to).unwrap());
        let delta = from.delta(&to);
        let paths = delta.removed.iter().chain(delta.wanted.iter().map(|e| &e.path));
        let within = |start: &[u8], until: Option<&[u8]>| {
            let range = between(to.entries(), start, until);
            to.entries()[range].iter().map(std::borrow::Cow::Borrowed).collect::<Vec<_>>()
        };
        let groups = from.groups().changed(paths.map(PathBuf::as_path), within);
        prop_assert_eq!(&groups, &to.groups());
        prop_assert_eq!(groups.digest(), to.digest());
        prop_assert_eq!(from.digest() == to.digest(), from == to);
        let told: Groups = groups.iter().map(|(path, hash)| (path.to_vec(), *hash)).collect();
        prop_assert_eq!(told, groups);
    }

    #[test]
    fn the_later_of_two_manifests_is_right(from in manifest(), to in manifest()) {
        let both = from.with(&to);
        for entry in both.entries() {
            prop_assert_eq!(to.get(&entry.path).or(from.get(&entry.path)), Some(entry));
        }
        prop_assert!(from.entries().iter().chain(to.entries()).all(|e| both.get(&e.path).is_some()));
    }

    #[test]
    fn damaged_text_is_never_taken_for_whole(manifest in manifest(), at in any::<usize>(), bit in 0..8u8) {
        let mut text = manifest.delta(&Manifest::default()).to_text();
        let at = at % text.len();
        text[at] ^= 1u8 << bit;
        prop_assert!(Delta::from_text(&text).is_err());
    }

    #[test]
    fn blocks_come_back_and_noise_is_refused_without_a_panic(
        contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..9),
        level in proptest::option::of(1..4),
        noise in proptest::collection::vec(any::<u8>(), 0..99),
    ) {
        let mut block = block::Block::default();
        for content in &contents {
            block.push(&content_hash(content), content);
        }
        let raw = block::open(&block.seal(level).unwrap()).unwrap();
        let back: Vec<_> = block::records(&raw).map(|r| r.unwrap().1.to_vec()).collect();
        prop_assert_eq!(back, contents);
        if let Ok(raw) = block::open(&noise) {
            for _ in block::records(&raw) {}
        }
    }

    #[test]
    fn blocks_of_a_lane_come_back_in_order_and_damage_is_refused_without_a_panic(
        contents in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), 1..4), 1..9),
        noise in proptest::collection::vec(any::<u8>(), 0..99),
        at in any::<usize>(),
    ) {
        let (mut packer, mut unpacker, mut raw) = (Packer::new(3), Unpacker::default(), Vec::new());
        for (content, level) in &contents {
            let mut block = block::Block::default();
            prop_assert_eq!(block.pull(&content_hash(content), content.len() as u32, &content[..]).unwrap(), &content[..]);
            let sealed = packer.seal(&block, *level).unwrap();
            prop_assert_eq!(lane(&sealed), Some(3));
            unpacker.open(&sealed, &mut raw).unwrap();
            let back: Vec<_> = block::records(&raw).map(|r| r.unwrap().1.to_vec()).collect();
            prop_assert_eq!(back, vec![content.clone()]);
            let mut damaged = sealed.clone();
            damaged[at % sealed.len()] ^= 1;
            damaged.extend(&noise);
            if Unpacker::default().open(&damaged, &mut raw).is_ok() {
                for _ in block::records(&raw) {}
            }
        }
    }
}

#[test]
fn a_block_refers_to_those_before_it_in_its_lane_and_is_of_no_use_without_them() {
    let noise = |seed: u32| {
        (0..200_000u32).map(|n| (n.wrapping_mul(seed) >> 13) as u8).collect::<Vec<u8>>()
    };
    let content = noise(2_654_435_761);
    let mut block = block::Block::default();
    block.push(&content_hash(&content), &content);
    let mut packer = Packer::new(0);
    let first = packer.seal(&block, 1).unwrap();
    let second = packer.seal(&block, 1).unwrap();
    assert!(second.len() < first.len() / 10, "{} then {}", first.len(), second.len());
    let (mut unpacker, mut raw) = (Unpacker::default(), Vec::new());
    assert!(unpacker.open(&second, &mut raw).is_err());
    for sealed in [&first, &second, &packer.seal(&block, 3).unwrap()] {
        unpacker.open(sealed, &mut raw).unwrap();
        assert_eq!(block::records(&raw).next().unwrap().unwrap().1, content);
    }
}

#[test]
fn a_large_delta_travels_packed_and_one_larger_than_allowed_is_refused() {
    let entry = |n: u32| Entry {
        path: format!("file{n}").into(),
        kind: Kind::File { size: n.into(), sha256: content_hash(&n.to_le_bytes()), exec: false },
    };
    let delta = Delta { wanted: (1000..2000).map(entry).collect(), ..Delta::default() };
    let (text, packed) = (delta.to_text(), delta.to_packed());
    assert!(packed.len() < text.len() * 3 / 4, "{} of {}", packed.len(), text.len());
    assert_eq!(Delta::from_packed(&packed, text.len()).unwrap(), delta);
    assert!(Delta::from_packed(&packed, text.len() - 1).is_err());
    assert!(Delta::from_packed(&packed[..packed.len() / 2], text.len()).is_err());
}

#[test]
fn a_path_that_leaves_the_tree_is_refused_everywhere() {
    for bad in ["../x", "/etc/passwd", "a//b", "a/./b", ""] {
        let entry = Entry { path: bad.into(), kind: Kind::Symlink { target: "t".into() } };
        assert!(Manifest::new(vec![entry.clone()]).is_err(), "{bad:?}");
        let delta = Delta { wanted: vec![entry], ..Delta::default() };
        assert!(Delta::from_text(&delta.to_text()).is_err(), "{bad:?}");
        let delta = Delta { removed: vec![bad.into()], ..Delta::default() };
        assert!(Delta::from_text(&delta.to_text()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_large_file_travels_in_chunks_that_an_insertion_hardly_moves() {
    let mut seed = 1u64;
    let mut content: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    })
    .take(8 << 20)
    .collect();
    let before = cut(&content, true);
    content.insert(4 << 20, 7);
    let after = cut(&content, true);
    let old: std::collections::HashSet<_> = before.iter().map(|c| c.sha256).collect();
    let new = after.iter().filter(|c| !old.contains(&c.sha256)).count();
    assert!((1..=4).contains(&new), "{new} of {} chunks are new", after.len());

    let sha256 = content_hash(&content);
    let entry = Entry {
        path: "big".into(),
        kind: Kind::File { size: content.len() as u64, sha256, exec: false },
    };
    let mut delta = Delta { wanted: vec![entry], ..Delta::default() };
    assert!(pieces(&delta).is_err(), "a recipe is missing");
    delta.recipes.push(Recipe { content: sha256, chunks: after.clone() });
    let delta = Delta::from_text(&delta.to_text()).unwrap();
    let all = pieces(&delta).unwrap();
    assert_eq!(all.iter().map(|p| u64::from(p.len)).sum::<u64>(), content.len() as u64);
    for piece in &all {
        let at = usize::try_from(piece.at.1).unwrap();
        assert_eq!(content_hash(&content[at..at + piece.len as usize]), piece.sha256);
    }
    let mut have = Have::nothing(all.len());
    have.set(all.len() - 1);
    let have = Have::from_bytes(have.as_bytes().to_vec(), all.len()).unwrap();
    assert!(have.has(all.len() - 1) && !have.has(0) && !have.has(all.len() + 9));
    assert!(Have::from_bytes(vec![0; 99], all.len()).is_err());
}
