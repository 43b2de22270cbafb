//! Short programs for the box's shell: sent whole or not run at all, their answers bounded and marked.

use std::path::Path;

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::error::{KernelError, Result};
use crate::event::Stream;
use crate::ports::{Piece, ProcessInput, ProcessOutput, Remote};
use crate::shell::quote;
use crate::sync::manifest::{PIECE, bytes_of, hex};

/// First and last line of an answer, so that what a login shell prints before it does no harm.
pub(super) const BEGIN: &str = "crabbox-begin";
pub(super) const END: &str = "crabbox-end";
/// Most bytes of an answer we keep.
const ANSWER_LIMIT: usize = 256 << 20;
/// Most bytes of complaint we keep.
const STDERR_LIMIT: usize = 16 << 10;
/// Status of a program that did not arrive whole.
const CUT: i32 = 97;

/// Where a tree and what we know about it stand on the box.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The tree.
    pub(super) workdir: String,
    /// Our notes, beside the tree.
    pub(super) meta: String,
    /// A helper's notes of the same tree.
    pub(super) helper: String,
}

impl Places {
    pub(super) fn new(workdir: &str) -> Result<Self> {
        let (parent, name) = workdir.rsplit_once('/').unwrap_or(("", ""));
        if !workdir.starts_with('/') || name.is_empty() || name == "." || name == ".." {
            return Err(KernelError::new(
                ErrorCode::Config,
                format!("not an absolute work directory: {workdir}"),
            ));
        }
        let notes = |of: &str| format!("{parent}/.crabbox/{of}/{name}");
        Ok(Self { workdir: workdir.to_owned(), meta: notes("sync"), helper: notes("tree") })
    }

    pub(super) fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.meta)
    }
}

/// What a process is fed.
pub(super) enum Feed {
    /// These bytes.
    Body(Bytes),
    /// What a thread makes, piece by piece.
    Stream(mpsc::Receiver<Bytes>),
}

impl Feed {
    async fn next(&mut self) -> Option<Bytes> {
        match self {
            Feed::Body(bytes) if bytes.is_empty() => None,
            Feed::Body(bytes) => Some(bytes.split_to(bytes.len().min(PIECE))),
            Feed::Stream(pieces) => pieces.recv().await,
        }
    }
}

/// Where a process's output goes.
pub(super) enum Taker {
    /// It is kept.
    Keep(Vec<u8>),
    /// A thread reads it.
    Pass(mpsc::Sender<Bytes>),
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) code: i32,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Said {
    /// The answer between its marks; an error when the program failed or its answer is not whole.
    pub(super) fn answer(&self, doing: &str) -> Result<&[u8]> {
        self.check(doing)?;
        let begin = format!("{BEGIN}\n");
        let end = format!("\n{END}\n");
        let from = find(&self.stdout, begin.as_bytes()).map(|at| at + begin.len());
        from.and_then(|from| self.stdout[from - 1..].strip_suffix(end.as_bytes()))
            .map(|answer| answer.get(1..).unwrap_or_default())
            .ok_or_else(|| self.failed(doing))
    }

    /// An error unless the program succeeded.
    pub(super) fn check(&self, doing: &str) -> Result<()> {
        if self.code == 0 { Ok(()) } else { Err(self.failed(doing)) }
    }

    /// Whether the box has no space left.
    pub(super) fn is_full(&self) -> bool {
        let said = String::from_utf8_lossy(&self.stderr);
        FULL.iter().any(|words| said.contains(words))
    }

    fn failed(&self, doing: &str) -> KernelError {
        let said = String::from_utf8_lossy(&self.stderr);
        let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
        let causes =
            lines[lines.len().saturating_sub(5)..].iter().map(|l| l.trim().to_owned()).collect();
        let error = KernelError::new(ErrorCode::SyncWrite, format!("the box could not {doing}"));
        let error = KernelError { causes, ..error };
        if self.is_full() {
            return error.hint("free some space on the box, or leave files out with sync.exclude");
        }
        match hint(&said, self.code) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// How programs say that the disk is full.
const FULL: &[&str] =
    &["No space left", "Disk quota", "File too large", "out of space", "Wrote only"];

fn hint(said: &str, code: i32) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|w| said.contains(w));
    if has(&[
        "Read-only file system",
        "Permission denied",
        "Operation not permitted",
        "not writable",
    ]) {
        Some("the work root must be writable for the login user; choose another one with workRoot")
    } else if code == 127 || has(&["not found"]) {
        Some("the box needs a POSIX sh, tar, mkdir, rm, cat, mv and rmdir")
    } else if code == CUT {
        Some("the connection may have been cut; try again")
    } else {
        None
    }
}

/// Finds bytes in bytes.
pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Starts a command, feeds it and takes what it prints, until it ends.
pub(super) async fn exchange<R: Remote>(
    remote: &R,
    command: &str,
    mut feed: Feed,
    mut taker: Taker,
    fed: &mut dyn FnMut(usize),
) -> Result<Said> {
    let (mut input, mut output) = remote.start(command, None).await?;
    let send = async move {
        while let Some(piece) = feed.next().await {
            let len = piece.len();
            input.write(piece).await?;
            fed(len);
        }
        input.finish().await
    };
    let receive = async {
        let mut stderr = Vec::new();
        loop {
            match output.next().await? {
                Piece::Data(Stream::Stdout, data) => take(&mut taker, data).await?,
                Piece::Data(Stream::Stderr, data) => {
                    stderr.extend_from_slice(&data);
                    let surplus = stderr.len().saturating_sub(STDERR_LIMIT);
                    stderr.drain(..surplus);
                }
                Piece::Exited(exit) => {
                    return Ok((exit.code, stderr));
                }
            }
        }
    };
    let ended = {
        tokio::pin!(send, receive);
        tokio::select! {
            biased;
            ended = &mut receive => ended,
            sent = &mut send => match (sent, receive.await) {
                (Err(error), Ok((0, _)) | Err(_)) => Err(error),
                (_, ended) => ended,
            },
        }
    };
    let (code, stderr) = ended?;
    let stdout = match taker {
        Taker::Keep(bytes) => bytes,
        Taker::Pass(_) => Vec::new(),
    };
    Ok(Said { code, stdout, stderr })
}

async fn take(taker: &mut Taker, data: Bytes) -> Result<()> {
    match taker {
        Taker::Keep(bytes) if bytes.len() + data.len() > ANSWER_LIMIT => Err(KernelError::new(
            ErrorCode::SyncWrite,
            "the box answered with more than was asked for",
        )),
        Taker::Keep(bytes) => {
            bytes.extend_from_slice(&data);
            Ok(())
        }
        Taker::Pass(sender) => {
            // A reader that has seen enough is gone; what follows is of no interest.
            let _ = sender.send(data).await;
            Ok(())
        }
    }
}

/// Runs a short program that needs no place on the box.
pub(super) async fn run_small<R: Remote>(remote: &R, body: impl AsRef<[u8]>) -> Result<Said> {
    let whole = [b"main() {\n", body.as_ref(), b"\n}\nmain\n"].concat();
    exchange(remote, "exec sh -s", Feed::Body(whole.into()), Taker::Keep(Vec::new()), &mut |_| ())
        .await
}

/// Stores a program beside the tree and runs it, if it arrived whole.
pub(super) async fn run_script<R: Remote>(
    remote: &R,
    places: &Places,
    name: &str,
    mut body: Vec<u8>,
    taker: Taker,
) -> Result<Said> {
    let proof = hex(&Sha256::digest(&body).into());
    body.extend_from_slice(format!("# {proof}\n").as_bytes());
    let command = format!(
        "exec sh -c 'cat >\"$0\" || exit 1; LC_ALL=C; export LC_ALL; case \"$(cat \"$0\")\" in *$1) exec sh \"$0\";; *) exit {CUT};; esac' {} {proof}",
        quote(&places.file(name)),
    );
    exchange(remote, &command, Feed::Body(body.into()), taker, &mut |_| ()).await
}

/// Stores a text that ends with `proof` in a file beside the tree: whole, or not at all. Afterwards `rival`
/// is removed.
pub(super) async fn store<R: Remote>(
    remote: &R,
    places: &Places,
    name: &str,
    text: String,
    rival: Option<&str>,
) -> Result<()> {
    let proof = text.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
    let command = format!(
        "exec sh -c 'cat >\"$0\" || exit 1; LC_ALL=C; export LC_ALL; case \"$(cat \"$0\")\" in *$1) mv -f \"$0\" \"$2\" || exit 1; [ -z \"$3\" ] || rm -f \"$3\";; *) exit {CUT};; esac' {} {proof} {} {}",
        quote(&places.file("manifest.new")),
        quote(&places.file(name)),
        quote(&rival.map(|r| places.file(r)).unwrap_or_default()),
    );
    let said =
        exchange(remote, &command, Feed::Body(text.into()), Taker::Keep(Vec::new()), &mut |_| ())
            .await?;
    said.check("store the manifest")
}

/// Most names of one call, and most of their bytes.
const BATCH_NAMES: usize = 100;
const BATCH_BYTES: usize = 60 << 10;

/// Writes calls of `word` with paths as arguments, as many calls as it takes; returns how many paths each has.
pub(super) fn calls<'a>(
    script: &mut Vec<u8>,
    word: &str,
    paths: impl Iterator<Item = &'a Path>,
) -> Vec<usize> {
    let mut sizes = Vec::new();
    let (mut names, mut bytes) = (0, 0);
    for path in paths {
        if names == BATCH_NAMES || bytes > BATCH_BYTES {
            sizes.push(std::mem::take(&mut names));
            bytes = 0;
            script.push(b'\n');
        }
        if names == 0 {
            script.extend_from_slice(word.as_bytes());
        }
        let word = word_of(path);
        bytes += word.len();
        names += 1;
        script.push(b' ');
        script.extend(word);
    }
    if names > 0 {
        sizes.push(names);
        script.push(b'\n');
    }
    sizes
}

/// A path as a word that cannot be taken for an option.
pub(super) fn word_of(path: &Path) -> Vec<u8> {
    let mut bytes = b"./".to_vec();
    bytes.extend_from_slice(bytes_of(path));
    crate::shell::quote_bytes(&bytes)
}
