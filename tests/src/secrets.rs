//! Where a text stands that should stand nowhere.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Whether bytes hold a text.
pub fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Every plain file below a folder that holds the text.
pub fn holders(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(holders(&path, text)),
            Ok(kind) if kind.is_file() && holds(&fs::read(&path).unwrap_or_default(), text) => {
                found.push(path);
            }
            _ => {}
        }
    }
    found
}

/// Every process below this one whose memory holds the text, by name; and how many were looked at.
pub fn minds_below(pid: u32, text: &str) -> (Vec<String>, usize) {
    let (mut found, mut seen) = (Vec::new(), 0);
    for child in children(pid) {
        seen += 1;
        if memory_holds(child, text) {
            let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&line).into_owned());
        }
        let (deeper, more) = minds_below(child, text);
        found.extend(deeper);
        seen += more;
    }
    (found, seen)
}

/// Whether any memory that a process may write holds the text.
pub fn memory_holds(pid: u32, text: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the test may look");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("the test may look");
    maps.lines().filter_map(written).any(|(start, len)| {
        let mut bytes = vec![0; len];
        // What is mapped but has no pages behind it cannot be read, and holds nothing.
        memory.read_exact_at(&mut bytes, start).is_ok() && holds(&bytes, text)
    })
}

/// Start and length of a range that may be written, from its line in `maps`.
fn written(line: &str) -> Option<(u64, usize)> {
    let (range, facts) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    facts.starts_with("rw").then_some((start, usize::try_from(end - start).ok()?))
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|ids| ids.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect()
}
