//! Repositories to measure with: generated, the same every time, and one of real sources.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::launch::Step;

/// A kind of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Small,
    Medium,
    Large,
    Real,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
            Self::Real => "real",
        }
    }

    /// Files and bytes of a generated one.
    fn size(self) -> (usize, usize) {
        match self {
            Self::Small => (200, 2_000_000),
            Self::Medium => (10_000, 150_000_000),
            Self::Large | Self::Real => (100_000, 800_000_000),
        }
    }
}

const WORDS: &[&str] = &[
    "fn", "let", "match", "return", "struct", "impl", "self", "await", "lease", "box", "sync",
    "tree", "delta", "result", "error", "option", "vec", "string", "bytes", "channel", "state",
    "plan", "index", "path", "hash", "request", "answer", "remote", "local", "status", "value",
    "kind",
];

/// Numbers that are the same in every run (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }

    /// Lines that look like source.
    fn text(&mut self, count: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(count + 100);
        while text.len() < count {
            let indent = self.below(4) * 4;
            text.extend(std::iter::repeat_n(b' ', indent));
            for _ in 0..3 + self.below(7) {
                text.extend(WORDS[self.below(WORDS.len())].bytes());
                text.push(b' ');
            }
            if self.below(3) == 0 {
                let _ = write!(text, "= {};", self.next() >> 34);
            }
            text.push(b'\n');
        }
        text.truncate(count);
        text
    }
}

/// Makes a repository in use: committed, then changed, with files deleted, untracked and ignored.
pub(crate) fn make(kind: Kind, dir: &Path, registry: Option<&Path>, git: &Step) -> Result<()> {
    fs::create_dir_all(dir).map_err(text)?;
    let files = match kind {
        Kind::Real => copy_sources(dir, registry)?,
        _ => generate(dir, kind.size())?,
    };
    fs::write(dir.join(".gitignore"), "target/\n*.log\n").map_err(text)?;
    for args in [
        &["init", "-q"][..],
        &["config", "gc.auto", "0"],
        &["add", "-A", "-f"],
        &["commit", "-q", "-m", "Begin"],
    ] {
        let _ = git.clone().args(["-C"]).arg(dir).args(args.iter().copied()).run()?;
    }
    let spread =
        |from: usize, count: usize| files.iter().skip(from).step_by(files.len() / 10).take(count);
    spread(1, 3).try_for_each(|path| append(path, "\n// changed here\n"))?;
    spread(2, 2).try_for_each(|path| fs::remove_file(path).map_err(text))?;
    for number in 0..3 {
        fs::write(dir.join(format!("untracked-{number}.txt")), "not yet added\n").map_err(text)?;
    }
    fs::create_dir_all(dir.join("target/debug")).map_err(text)?;
    for number in 0..(files.len() / 20).max(20) {
        fs::write(dir.join(format!("target/debug/{number}.o")), [b'x'; 4096]).map_err(text)?;
    }
    fs::write(dir.join("run.log"), "ignored\n").map_err(text)
}

fn generate(dir: &Path, (count, bytes): (usize, usize)) -> Result<Vec<PathBuf>> {
    let mut dice = Dice(7);
    let pool = dice.text(4 << 20);
    let folders: Vec<PathBuf> = (0..(count / 12).max(1))
        .map(|number| {
            let above = (0..1 + dice.below(4)).map(|_| format!("m{:02}/", dice.below(24)));
            dir.join(above.collect::<String>()).join(format!("d{number}"))
        })
        .collect();
    folders.iter().try_for_each(|folder| fs::create_dir_all(folder).map_err(text))?;
    // A few large files among many small ones: the size is a square of even chances, eight times over for one in fifty.
    let weights: Vec<usize> = (0..count)
        .map(|_| {
            (dice.below(1000) + 30).pow(2) / 1000 * if dice.below(50) == 0 { 8 } else { 1 } + 1
        })
        .collect();
    let whole: usize = weights.iter().sum();
    let mut files = Vec::with_capacity(count);
    for (number, weight) in weights.into_iter().enumerate() {
        let size = (bytes as f64 / whole as f64 * weight as f64) as usize;
        let binary = dice.below(20) == 0;
        let path = folders[number % folders.len()]
            .join(format!("f{number}.{}", if binary { "bin" } else { "rs" }));
        let mut content = format!("// file {number}\n").into_bytes();
        if binary {
            content.extend(dice.bytes(size));
        }
        while content.len() < size {
            let from = dice.below(pool.len() - 1);
            let piece =
                (8192 + dice.below(65_536)).min(size - content.len()).min(pool.len() - from);
            content.extend(&pool[from..from + piece]);
        }
        fs::write(&path, content).map_err(text)?;
        files.push(path);
    }
    Ok(files)
}

/// Copies unpacked sources of other people's crates until there are about ten thousand files.
fn copy_sources(dir: &Path, registry: Option<&Path>) -> Result<Vec<PathBuf>> {
    const ENOUGH: usize = 10_000;
    let none =
        || "no unpacked crates to copy: they are in ~/.cargo/registry/src after a build".to_owned();
    let registry = registry.ok_or_else(none)?;
    let mut crates: Vec<PathBuf> = entries(registry)?
        .into_iter()
        .flat_map(|index| entries(&index).unwrap_or_default())
        .collect();
    crates.sort();
    let mut files = Vec::new();
    for from in crates.iter().filter(|path| path.is_dir()) {
        if files.len() >= ENOUGH {
            break;
        }
        copy(from, &dir.join(from.file_name().unwrap_or_default()), &mut files)?;
    }
    if files.len() < 2000 { Err(none()) } else { Ok(files) }
}

fn copy(from: &Path, to: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    fs::create_dir_all(to).map_err(text)?;
    for path in entries(from)? {
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != ".git" && name != "target" {
            copy(&path, &to.join(name), files)?;
        } else if path.is_file() && name != ".gitignore" {
            fs::copy(&path, to.join(name)).map_err(text)?;
            files.push(to.join(name));
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(dir).map_err(text)?.flatten().map(|e| e.path()).collect();
    all.sort();
    Ok(all)
}

/// Adds a line to a file.
pub(crate) fn append(path: &Path, line: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new().append(true).open(path).map_err(text)?;
    file.write_all(line.as_bytes()).map_err(text)
}

fn text(e: std::io::Error) -> String {
    e.to_string()
}
