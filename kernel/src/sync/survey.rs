//! What the box really holds: asked with shell builtins and whatever hashes there, or with tar alone.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use crabbox_schemas::error::ErrorCode;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use crate::error::{KernelError, Result};
use crate::ports::Remote;
use crate::shell::quote;
use crate::sync::manifest::{Entry, Hash, Kind, Manifest, PIECE, bytes_of, hex, unhex};
use crate::sync::talk::{BEGIN, END, Places, Taker, calls, find, run_script, run_small, word_of};

/// What the box has, and what it was last sent.
#[derive(Debug)]
pub(super) struct Probe {
    /// The command that prints SHA-256 sums.
    pub(super) hasher: Option<String>,
    /// Its tar reads escapes in names unless told not to.
    pub(super) gnu_tar: bool,
    /// A helper left notes of this tree.
    pub(super) helper: bool,
    /// The manifest of the last sync that was finished.
    pub(super) finished: Option<Manifest>,
    /// What a later sync that was not finished may have left.
    pub(super) unfinished: Option<Manifest>,
}

/// What stands at a path on the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing.
    Missing,
    /// A regular file; its hash, when it could be had.
    File { exec: bool, sha256: Option<Hash> },
    /// A link; its target, when it was asked for.
    Link(Option<OsString>),
    /// A directory.
    Dir,
    /// Something else, or a file that cannot be read.
    Other,
}

impl Seen {
    /// Whether this is what an entry wants.
    pub(super) fn is(&self, wanted: &Kind) -> bool {
        match (self, wanted) {
            (Seen::File { exec, sha256: Some(hash) }, Kind::File { sha256, exec: wants, .. }) => {
                exec == wants && hash == sha256
            }
            (Seen::Link(Some(at)), Kind::Symlink { target }) => at == target,
            _ => false,
        }
    }
}

/// The answer of a survey.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Every asked path.
    pub(super) paths: HashMap<PathBuf, Seen>,
    /// Every directory above one.
    pub(super) dirs: HashMap<PathBuf, Seen>,
}

impl Survey {
    /// What stands at a path.
    pub(super) fn at(&self, path: &Path) -> &Seen {
        self.paths.get(path).unwrap_or(&Seen::Missing)
    }

    /// Forgets what was seen through a link or below a file: it is not in the tree.
    fn stay_inside(&mut self) {
        let dirs = &self.dirs;
        for (path, seen) in &mut self.paths {
            if above(path).any(|d| dirs.get(d) != Some(&Seen::Dir)) {
                *seen = Seen::Missing;
            }
        }
    }
}

/// The directories above a path, nearest first, without the top.
pub(super) fn above(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors().skip(1).filter(|d| !d.as_os_str().is_empty())
}

/// Makes the work directory, finds the box's tools and reads what it was last sent.
pub(super) async fn prepare<R: Remote>(remote: &R, places: &Places) -> Result<Probe> {
    let newline = hex(&Sha256::digest(b"\n").into());
    let body = format!(
        r#"LC_ALL=C; export LC_ALL; umask 022
w={workdir}
m={meta}
t={helper}
if [ -h "$w" ] || {{ [ -e "$w" ] && [ ! -d "$w" ]; }}; then rm -f "$w" || exit 1; fi
mkdir -p "$w" "$m" || exit 1
[ -w "$w" ] && [ -x "$w" ] || {{ echo "$w is not writable" >&2; exit 1; }}
command -v tar >/dev/null 2>&1 || {{ echo "tar: not found" >&2; exit 127; }}
echo {BEGIN}
case "$(tar --version 2>/dev/null)" in *'GNU tar'*) echo gnu;; *) echo other;; esac
h=
for c in sha256sum 'shasum -a 256' 'openssl dgst -sha256 -r'; do
case "$(echo | $c 2>/dev/null)" in {newline}*) h=$c; break;; esac
done
echo "$h"
if [ -e "$t/state" ] || [ -e "$t/done" ]; then echo helper; else echo; fi
for f in manifest unfinished; do
echo "$f"
if [ -f "$m/$f" ]; then cat "$m/$f"; fi
done
echo {END}"#,
        workdir = quote(&places.workdir),
        meta = quote(&places.meta),
        helper = quote(&places.helper),
    );
    let said = run_small(remote, &body).await?;
    let answer = said.answer("prepare the work directory")?;
    let text = String::from_utf8_lossy(answer);
    let mut parts = text.splitn(4, '\n');
    let mut part = || parts.next().unwrap_or_default();
    let (tar, hasher, helper, rest) = (part(), part(), part(), part());
    let rest = rest
        .strip_prefix("manifest\n")
        .or_else(|| rest.strip_prefix("manifest"))
        .unwrap_or_default();
    let (finished, unfinished) = match rest.strip_prefix("unfinished") {
        Some(unfinished) => ("", unfinished),
        None => rest.split_once("\nunfinished").unwrap_or((rest, "")),
    };
    Ok(Probe {
        hasher: (!hasher.is_empty()).then(|| hasher.to_owned()),
        gnu_tar: tar == "gnu",
        helper: helper == "helper",
        finished: read(finished),
        unfinished: read(unfinished.trim_start()),
    })
}

fn read(text: &str) -> Option<Manifest> {
    Manifest::from_text(&format!("{}\n", text.trim_end()))
}

/// Looks at these paths on the box; contents are compared where `wanted` knows what should be there.
pub(super) async fn survey<R: Remote>(
    remote: &R,
    places: &Places,
    probe: &Probe,
    paths: &BTreeSet<&Path>,
    wanted: &Manifest,
) -> Result<Survey> {
    let dirs: BTreeSet<&Path> = paths.iter().flat_map(|p| above(p)).collect();
    let mut script = functions(places, probe);
    let dir_calls = calls(&mut script, "d", dirs.iter().copied());
    let groups = groups(&mut script, paths);
    script.extend_from_slice(format!("echo {END}\n").as_bytes());
    let said = run_script(remote, places, "survey.sh", script, Taker::Keep(Vec::new())).await?;
    let mut lines = said.answer("look at its tree")?.split(|b| *b == b'\n');
    let mut seen = Survey::default();
    for dir in dirs.iter().take(dir_calls.iter().sum()) {
        seen.dirs.insert(dir.to_path_buf(), kind_of(lines.next()));
    }
    for group in groups {
        group_seen(&mut lines, &group, probe.hasher.is_some(), &mut seen);
    }
    seen.stay_inside();
    fetch(remote, places, probe, wanted, &mut seen).await?;
    Ok(seen)
}

fn functions(places: &Places, probe: &Probe) -> Vec<u8> {
    let hash = match &probe.hasher {
        Some(command) => format!("{command} \"$@\""),
        None => ":".to_owned(),
    };
    format!(
        r#"k() {{
if [ -h "$1" ]; then echo L
elif [ -f "$1" ]; then if [ ! -r "$1" ]; then echo O; elif [ -x "$1" ]; then echo X; else echo F; fi
elif [ -d "$1" ]; then echo D
elif [ -e "$1" ]; then echo O
else echo M; fi
}}
d() {{
for p do
if [ -d "$p" ] && [ ! -h "$p" ]; then [ -r "$p" ] && [ -w "$p" ] && [ -x "$p" ] || chmod u+rwx "$p" 2>/dev/null; fi
k "$p"
done
}}
h() {{ {hash}
}}
p() {{
for p do k "$p"; done
n=$#
while [ "$n" -gt 0 ]; do
p=$1; shift; n=$((n-1))
if [ ! -h "$p" ] && [ -f "$p" ] && [ -r "$p" ]; then set -- "$@" "$p"; fi
done
[ $# -eq 0 ] || h "$@" 2>/dev/null
echo .
}}
s() {{
k "$1"
if [ ! -h "$1" ] && [ -f "$1" ] && [ -r "$1" ]; then h <"$1" 2>/dev/null; fi
echo .
}}
cd {workdir} || exit 1
echo {BEGIN}
"#,
        workdir = quote(&places.workdir),
    )
    .into_bytes()
}

/// Writes the questions; names that hash tools print in their own way are asked one by one.
fn groups<'a>(script: &mut Vec<u8>, paths: &BTreeSet<&'a Path>) -> Vec<Vec<&'a Path>> {
    let (odd, plain): (Vec<&Path>, Vec<&Path>) =
        paths.iter().copied().partition(|p| bytes_of(p).iter().any(|b| b"\n\r\\".contains(b)));
    let sizes = calls(script, "p", plain.iter().copied());
    let mut groups = Vec::new();
    let mut rest = plain.as_slice();
    for size in sizes {
        let (group, others) = rest.split_at(size);
        groups.push(group.to_vec());
        rest = others;
    }
    for path in odd {
        script.extend_from_slice(b"s ");
        script.extend(word_of(path));
        script.push(b'\n');
        groups.push(vec![path]);
    }
    groups
}

/// Reads the answer to one call. A hash too many or too few puts all of them in doubt.
fn group_seen<'a>(
    lines: &mut impl Iterator<Item = &'a [u8]>,
    group: &[&Path],
    hashed: bool,
    seen: &mut Survey,
) {
    let mut kinds: Vec<Seen> = group.iter().map(|_| kind_of(lines.next())).collect();
    let hashes: Vec<Option<Hash>> =
        lines.by_ref().take_while(|l| *l != b".").map(hash_of).collect();
    let files = kinds.iter().filter(|k| matches!(k, Seen::File { .. })).count();
    if hashed && hashes.len() == files {
        let mut hashes = hashes.into_iter();
        for kind in &mut kinds {
            if let Seen::File { sha256, .. } = kind {
                *sha256 = hashes.next().flatten();
            }
        }
    }
    seen.paths.extend(group.iter().map(|p| p.to_path_buf()).zip(kinds));
}

fn kind_of(line: Option<&[u8]>) -> Seen {
    match line {
        Some(b"M") => Seen::Missing,
        Some(b"F") => Seen::File { exec: false, sha256: None },
        Some(b"X") => Seen::File { exec: true, sha256: None },
        Some(b"L") => Seen::Link(None),
        Some(b"D") => Seen::Dir,
        _ => Seen::Other,
    }
}

fn hash_of(line: &[u8]) -> Option<Hash> {
    let line = line.strip_prefix(b"\\").unwrap_or(line);
    unhex(std::str::from_utf8(line.get(..64)?).ok()?)
}

/// Has the box send links, and files it could not hash, as an archive; contents are hashed here.
async fn fetch<R: Remote>(
    remote: &R,
    places: &Places,
    probe: &Probe,
    wanted: &Manifest,
    seen: &mut Survey,
) -> Result<()> {
    let in_doubt = |entry: &&Entry| match (seen.at(&entry.path), &entry.kind) {
        (Seen::Link(None), Kind::Symlink { .. }) => true,
        (Seen::File { exec, sha256: None }, Kind::File { exec: wants, .. }) => exec == wants,
        _ => false,
    };
    let doubts: Vec<&Path> =
        wanted.entries().iter().filter(in_doubt).map(|e| e.path.as_path()).collect();
    if doubts.is_empty() {
        return Ok(());
    }
    let tar = if probe.gnu_tar { "tar --no-unquote -cf -" } else { "tar -cf -" };
    let mut script = format!(
        "COPYFILE_DISABLE=1; export COPYFILE_DISABLE\ncd {} || exit 1\necho {BEGIN}\n",
        quote(&places.workdir)
    )
    .into_bytes();
    calls(&mut script, tar, doubts.iter().copied());
    script.extend_from_slice(b"exit 0\n");
    let (sender, pieces) = mpsc::channel(16);
    let (told, contents) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = told.send(contents_of(Pieces { pieces, rest: Bytes::new() }));
    });
    let said = run_script(remote, places, "fetch.sh", script, Taker::Pass(sender)).await?;
    said.check("send back its files")?;
    let lost = |_| KernelError::new(ErrorCode::Internal, "the reader of the box's files died");
    for (path, found) in contents.await.map_err(lost)? {
        match (seen.paths.get_mut(&path), found) {
            (Some(Seen::Link(target)), Kind::Symlink { target: found }) => *target = Some(found),
            (Some(Seen::File { sha256, .. }), Kind::File { sha256: found, .. }) => {
                *sha256 = Some(found)
            }
            _ => {}
        }
    }
    Ok(())
}

/// Bytes from the box as a reader, for a thread.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let n = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// How much a login shell may say before our own output begins.
const PREFACE_LIMIT: usize = 64 << 10;

/// What the archives in a stream hold; reading ends quietly where the stream is not understood, because
/// what was not read counts as different.
fn contents_of(mut stream: Pieces) -> HashMap<PathBuf, Kind> {
    let mut found = HashMap::new();
    let begin = format!("{BEGIN}\n");
    let mut preface = Vec::new();
    let mut byte = [0];
    while find(&preface[preface.len().saturating_sub(begin.len())..], begin.as_bytes()).is_none() {
        if preface.len() > PREFACE_LIMIT || !matches!(stream.read(&mut byte), Ok(1)) {
            return found;
        }
        preface.push(byte[0]);
    }
    let mut archive = tar::Archive::new(stream);
    archive.set_ignore_zeros(true);
    let Ok(entries) = archive.entries() else { return found };
    for entry in entries {
        let Ok(mut entry) = entry else { return found };
        let path = inner(&entry.path_bytes());
        let link = entry.link_name_bytes().map(|l| l.into_owned());
        let kind = match (entry.header().entry_type(), link) {
            (tar::EntryType::Symlink, Some(target)) => {
                Some(Kind::Symlink { target: OsString::from_vec(target) })
            }
            (tar::EntryType::Link, Some(target)) => found.get(&inner(&target)).cloned(),
            (kind, _) if kind.is_file() => content_of(&mut entry),
            _ => None,
        };
        if let Some(kind) = kind {
            found.insert(path, kind);
        }
    }
    found
}

fn inner(path: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(path.strip_prefix(b"./").unwrap_or(path).to_vec()))
}

fn content_of(file: &mut impl Read) -> Option<Kind> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => {
                return Some(Kind::File { size, sha256: hasher.finalize().into(), exec: false });
            }
            Ok(n) => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
            Err(_) => return None,
        }
    }
}
