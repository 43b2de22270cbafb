//! Makes the tree on the box a git checkout, for commands that ask git what changed.
//!
//! The commits come out of the object store here and travel over our connection: the box needs git, but no
//! credentials and no road to the origin. History is cut at the merge base, as in a shallow clone.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use tokio::sync::oneshot;

use crate::error::{KernelError, Result};
use crate::event::Stream;
use crate::ports::{Piece, ProcessInput, ProcessOutput, Remote};
use crate::shell::quote;
use crate::state::write_atomic;
use crate::sync::git;

/// Size of one read of the pack.
const PIECE: usize = 256 << 10;
/// How much of what the box says is kept for an error.
const SAID: usize = 4 << 10;

/// What the checkout on the box shall know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commits {
    /// The commit checked out here.
    pub head: String,
    /// The branch it is on; `None` when it is detached.
    pub branch: Option<String>,
    /// The commit to compare with.
    pub base: String,
    /// Its branch, without the remote's name; `None` for a bare commit id or a tag.
    pub base_branch: Option<String>,
    /// Where history is cut.
    pub edge: Vec<String>,
}

impl Commits {
    /// Asks git here for the checkout's commit, the base and where they meet.
    pub fn look(root: &Path, base_ref: &str) -> Result<Self> {
        let head = ask(root, &["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?.ok_or_else(
            || {
                KernelError::new(
                    ErrorCode::SyncRead,
                    "sync.baseRef is set, but nothing is committed here",
                )
            },
        )?;
        let name = base_ref.strip_prefix("origin/").unwrap_or(base_ref);
        let mut found = None;
        for candidate in [
            format!("refs/remotes/origin/{name}"),
            format!("refs/heads/{name}"),
            base_ref.to_owned(),
        ] {
            let commit = format!("{candidate}^{{commit}}");
            if let Some(oid) =
                ask(root, &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])?
            {
                found = Some((oid, candidate.starts_with("refs/").then(|| name.to_owned())));
                break;
            }
        }
        let (base, base_branch) = found.ok_or_else(|| {
            KernelError::new(
                ErrorCode::SyncRead,
                format!("sync.baseRef: no commit here is called {base_ref:?}"),
            )
            .hint(format!("git fetch origin {}", quote(name)))
        })?;
        let meet = ask(root, &["merge-base", "--all", &head, &base])?.unwrap_or_default();
        let mut edge: Vec<String> = meet.lines().map(str::to_owned).collect();
        if edge.is_empty() {
            edge = vec![head.clone(), base.clone()];
        }
        let branch = ask(root, &["symbolic-ref", "--quiet", "--short", "HEAD"])?;
        Ok(Self { head, branch, base, base_branch, edge })
    }

    /// What is written down once the box knows them.
    fn stamp(&self) -> String {
        format!("{self:?}\n")
    }

    /// Sends what the box lacks, unless `stamp` says that it has everything. Returns whether anything was sent.
    pub async fn send<R: Remote>(
        &self,
        remote: &R,
        root: &Path,
        workdir: &str,
        stamp: &Path,
    ) -> Result<bool> {
        if std::fs::read_to_string(stamp).is_ok_and(|known| known == self.stamp()) {
            return Ok(false);
        }
        let pack = self.pack(root).await?;
        let (mut input, mut output) = remote.start(&self.receiver(workdir), None).await?;
        let (sent, answer) = tokio::join!(feed(&mut input, pack), answer(&mut output));
        let (code, said) = answer?;
        match code {
            0 => sent?,
            NO_GIT => {
                return Err(refused("there is no git on the box")
                    .hint("install git there, or leave sync.baseRef unset"));
            }
            FOREIGN => {
                return Err(refused(
                    "the work directory on the box is a git checkout of somebody else's making",
                )
                .hint("remove its .git there, or leave sync.baseRef unset"));
            }
            _ => return Err(refused(&format!("git on the box says: {}", said.trim()))),
        }
        if let Some(dir) = stamp.parent() {
            crate::state::make_dir(dir)?;
        }
        write_atomic(stamp, self.stamp().as_bytes())?;
        Ok(true)
    }

    /// Packs both commits and what lies between them and the edge, on a thread of its own.
    async fn pack(&self, root: &Path) -> Result<File> {
        let mut wants = String::new();
        self.edge.iter().for_each(|oid| wants.push_str(&format!("--shallow {oid}\n")));
        wants.push_str(&format!("{}\n{}\n", self.head, self.base));
        let root = root.to_owned();
        let (done, packed) = oneshot::channel();
        std::thread::spawn(move || done.send(pack(&root, &wants)));
        packed.await.map_err(|e| failed("cannot pack the commits").because(&e))?
    }

    /// The script that takes the pack from standard input and points references, index and edge at it.
    fn receiver(&self, workdir: &str) -> String {
        let refs = match &self.base_branch {
            Some(name) => format!(
                "git update-ref {} {base}\n[ {} = {} ] || git update-ref {} {base}\n",
                quote(&format!("refs/remotes/origin/{name}")),
                quote(name),
                quote(self.branch.as_deref().unwrap_or_default()),
                quote(&format!("refs/heads/{name}")),
                base = self.base,
            ),
            None => format!("git update-ref refs/crabbox/base {}\n", self.base),
        };
        let head = match &self.branch {
            Some(branch) => {
                let full = quote(&format!("refs/heads/{branch}"));
                format!("git update-ref {full} {}\ngit symbolic-ref HEAD {full}\n", self.head)
            }
            None => format!("git update-ref --no-deref HEAD {}\n", self.head),
        };
        let script = format!(
            "set -e\nmkdir -p {dir}\ncd {dir}\ncommand -v git >/dev/null || exit {NO_GIT}\n\
             if [ -e .git ] && [ ! -e .git/crabbox ]; then exit {FOREIGN}; fi\n\
             if [ ! -e .git ]; then git init -q --template= . && : >.git/crabbox; fi\n\
             git index-pack --stdin >/dev/null\n\
             printf '%s\\n' {edge} >.git/shallow\n{refs}{head}git read-tree {oid}\n",
            dir = quote(workdir),
            edge = self.edge.join(" "),
            oid = self.head,
        );
        format!("exec sh -c {}", quote(&script))
    }
}

/// Statuses of the receiving script, outside what git uses.
const NO_GIT: i32 = 93;
const FOREIGN: i32 = 94;

async fn feed(input: &mut impl ProcessInput, mut pack: File) -> Result<()> {
    loop {
        let mut piece = vec![0; PIECE];
        let n = pack.read(&mut piece).map_err(|e| failed("cannot read the pack").because(&e))?;
        if n == 0 {
            return input.finish().await;
        }
        piece.truncate(n);
        input.write(Bytes::from(piece)).await?;
    }
}

/// The status of the script and the beginning of what it said on standard error.
async fn answer(output: &mut impl ProcessOutput) -> Result<(i32, String)> {
    let mut said = Vec::new();
    loop {
        match output.next().await? {
            Piece::Data(Stream::Stderr, data) => {
                said.extend_from_slice(&data[..data.len().min(SAID - said.len().min(SAID))]);
            }
            Piece::Data(Stream::Stdout, _) => {}
            Piece::Exited(exit) => {
                return Ok((exit.code, String::from_utf8_lossy(&said).into_owned()));
            }
        }
    }
}

fn failed(what: &str) -> KernelError {
    KernelError::new(ErrorCode::SyncRead, what)
}

fn refused(why: &str) -> KernelError {
    KernelError::new(
        ErrorCode::SyncWrite,
        format!("cannot make the tree on the box a git checkout: {why}"),
    )
}

/// One line of git's answer; `None` when it found nothing.
fn ask(root: &Path, args: &[&str]) -> Result<Option<String>> {
    let out =
        git::command(root, args).output().map_err(|e| failed("cannot start git").because(&e))?;
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    Ok((out.status.success() && !text.is_empty()).then_some(text))
}

/// Packs the objects `wants` asks for, as `git pack-objects --revs` reads it, into a file without a name.
fn pack(root: &Path, wants: &str) -> Result<File> {
    let cannot = |e: std::io::Error| failed("cannot pack the commits").because(&e);
    let mut pack = tempfile::tempfile().map_err(cannot)?;
    let mut child =
        git::command(root, &["pack-objects", "--revs", "--stdout", "--quiet", "--threads=0"])
            .stdin(Stdio::piped())
            .stdout(pack.try_clone().map_err(cannot)?)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed("cannot start git").because(&e))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(wants.as_bytes()).map_err(cannot)?;
    }
    let out = child.wait_with_output().map_err(cannot)?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(KernelError { causes: vec![said], ..failed("git cannot pack the commits") });
    }
    pack.rewind().map_err(cannot)?;
    Ok(pack)
}
