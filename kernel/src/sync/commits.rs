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
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::error::{KernelError, Result};
use crate::event::Stream;
use crate::ports::{Piece, ProcessInput, ProcessOutput, Remote};
use crate::shell::quote;
use crate::sync::git;

/// Size of one read of the pack.
const PIECE: usize = 256 << 10;
/// How much of what the box says is kept for an error.
const SAID: usize = 4 << 10;

/// How many packs a box keeps, those used last.
const KEPT: usize = 32;

/// What the checkout on the box shall know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commits {
    /// The commit checked out here.
    pub head: String,
    /// The branch it is on; `None` when it is detached.
    pub branch: Option<String>,
    /// The commit to compare with.
    pub base: String,
    /// Its names on the box, as references.
    pub names: Vec<String>,
    /// Where history is cut.
    pub edge: Vec<String>,
    /// Submodules at another commit than the checkout's says: the commit and the path.
    pub moved: Vec<(String, String)>,
}

impl Commits {
    /// Asks git here for the checkout's commit, the base and where they meet.
    pub fn look(root: &Path, base_ref: &str) -> Result<Self> {
        refuse_odd(base_ref)?;
        refuse_sparse(root)?;
        let head = commit(root, "HEAD")?.ok_or_else(|| {
            failed("sync.baseRef is set, but nothing is committed here")
                .hint("commit something, or leave sync.baseRef out")
        })?;
        let (base, mut names) = find(root, base_ref)?.ok_or_else(|| unknown(base_ref))?;
        let meet = ask(root, &["merge-base", "--all", &head, &base])?.unwrap_or_default();
        let mut edge: Vec<String> = meet.lines().map(str::to_owned).collect();
        if edge.is_empty() {
            edge = vec![head.clone(), base.clone()];
        }
        let branch = ask(root, &["symbolic-ref", "--quiet", "--short", "HEAD"])?;
        // The branch that is checked out is where the checkout says.
        names.retain(|name| name.strip_prefix("refs/heads/") != branch.as_deref());
        let moved = moved(root)?;
        Ok(Self { head, branch, base, names, edge, moved })
    }

    /// Where the box keeps the commits of the repository of this name below a lease's folder.
    pub fn store(&self, base_dir: &str, repo: &str) -> String {
        let format = if self.is_sha256() { "-sha256" } else { "" };
        format!("{base_dir}/.crabbox/git{format}/{repo}")
    }

    fn is_sha256(&self) -> bool {
        self.head.len() == 64
    }

    /// `git init` for repositories like the one here.
    fn init(&self) -> &'static str {
        if self.is_sha256() { "git init -q --object-format=sha256" } else { "git init -q" }
    }

    /// Sends the commits into a store beside the tree, unless the box says that it holds them. Any number of runs may
    /// do that at once: no tree is touched. Returns whether anything was sent.
    pub async fn deliver<R: Remote>(&self, remote: &R, root: &Path, store: &str) -> Result<bool> {
        let (mut input, mut output) = remote.start(&self.receiver(store), None).await?;
        let mut heard = Heard::default();
        if let Some(code) = heard.listen(&mut output, true).await? {
            return judge(code, &heard.said).map(|()| false);
        }
        let pack = self.pack(root).await?;
        let (sent, code) = tokio::join!(feed(&mut input, pack), heard.listen(&mut output, false));
        judge(code?.unwrap_or_default(), &heard.said)?;
        sent.map(|()| true)
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

    /// The script that says whether the store lacks the commits, and takes their pack from standard input. Each pack has
    /// a note by its key that names it; the oldest notes go, and the packs that no other note names.
    fn receiver(&self, store: &str) -> String {
        let script = format!(
            "umask 077\ns={store}\ncommand -v git >/dev/null || exit {NO_GIT}\n\
             [ -e \"$s/held/{key}\" ] && {{ touch \"$s/held/{key}\"; exit 0; }}\n\
             if [ ! -e \"$s\" ]; then {init} --bare --template= \"$s.$$\" && mkdir \"$s.$$/held\" && mv \"$s.$$\" \"$s\" || exit; fi\n\
             echo {WANT}\ncd \"$s\" && git index-pack --stdin >{key}.$$ && mv {key}.$$ held/{key} || {{ c=$?; rm -f {key}.$$; exit $c; }}\n\
             find objects/pack -name 'tmp_*' -mmin +1440 -exec rm -f {{}} +\n\
             ls -t held | tail -n +{more} | while read -r k; do read -r word p <\"held/$k\"; rm -f \"held/$k\"\n\
             [ -z \"$p\" ] || grep -qs \"$p\" held/* || rm -f \"objects/pack/pack-$p\".*; done\n",
            store = quote(store),
            init = self.init(),
            key = self.key(),
            more = KEPT + 1,
        );
        format!("exec sh -c {}", quote(&script))
    }

    /// Names what one pack holds.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        [&self.head, &self.base].into_iter().chain(&self.edge).for_each(|oid| hash.update(oid));
        crabbox_tree::hex(&hash.finalize().into())
    }

    /// The script for sh that makes the folder it runs in the checkout: references, index and edge, whatever a command
    /// did to them. The objects come out of the store; what was built anew is not compared with what was there.
    pub fn checkout(&self, store: &str) -> String {
        let mut refs: Vec<_> = self.names.iter().map(|name| (name.clone(), &self.base)).collect();
        let head = match &self.branch {
            Some(branch) => {
                let full = format!("refs/heads/{branch}");
                refs.push((full.clone(), &self.head));
                format!("git symbolic-ref HEAD {}", quote(&full))
            }
            None => format!("git update-ref --no-deref HEAD {}", self.head),
        };
        let refs: String = refs
            .iter()
            .map(|(name, oid)| format!("git update-ref {} {oid} && ", quote(name)))
            .collect();
        let moved = self.moved.iter().map(|(oid, path)| {
            format!(
                " && git update-index --add --cacheinfo {}",
                quote(&format!("160000,{oid},{path}"))
            )
        });
        let moved: String = moved.collect();
        format!(
            "command -v git >/dev/null || {{ echo 'there is no git on the box' >&2; exit {NO_GIT}; }}\n\
             if [ -e .git ] && [ ! -e .git/crabbox ]; then echo {FOREIGN_WORDS} >&2; exit {FOREIGN}; fi\n\
             e={edge}\n[ \"$(cat .git/shallow 2>/dev/null)\" = \"$e\" ] || rm -rf .git\n\
             m() {{ {{ [ -e .git/HEAD ] || {{ mkdir -p .git && : >.git/crabbox && {init} --template= . && git config gc.auto 0; }}; }} && \
             rm -f .git/*.lock && mkdir -p .git/objects/info && printf '%s\\n' {objects} >.git/objects/info/alternates && \
             echo \"$e\" >.git/shallow && {refs}{head} && git read-tree --reset {oid}{moved}; }}\n\
             m 2>/dev/null || {{ rm -rf .git && m; }}\n",
            FOREIGN_WORDS = quote(FOREIGN_WORDS),
            init = self.init(),
            edge = quote(&self.edge.join("\n")),
            objects = quote(&format!("{store}/objects")),
            oid = self.head,
        )
    }
}

/// Removes the checkout that we made in the folder a script runs in: it would grow old.
pub(crate) const FORGET: &str = "if [ -e .git/crabbox ]; then rm -rf .git; fi";

/// Refuses what names no commit and might mean something else to git, or to a shell that a hint is pasted into.
fn refuse_odd(base_ref: &str) -> Result<()> {
    let odd =
        base_ref.starts_with('-') || base_ref.chars().any(|c| c.is_whitespace() || c.is_control());
    if !odd {
        return Ok(());
    }
    let what = format!("sync.baseRef: {base_ref:?} is no name of a commit");
    Err(KernelError::new(ErrorCode::Config, what).hint("name a branch, a tag or a commit"))
}

/// What a sparse checkout leaves out would look deleted on the box.
fn refuse_sparse(root: &Path) -> Result<()> {
    let sparse = ask(root, &["config", "--type=bool", "core.sparseCheckout"])?;
    match sparse.as_deref() {
        Some("true") => Err(failed("sync.baseRef needs all files, and this checkout is sparse")
            .hint("git sparse-checkout disable, or leave sync.baseRef out")),
        _ => Ok(()),
    }
}

/// Submodules that are not where the last commit has them. On the box they are files without a repository, so git there
/// cannot see that for itself.
fn moved(root: &Path) -> Result<Vec<(String, String)>> {
    if !root.join(".gitmodules").exists() {
        return Ok(Vec::new());
    }
    let how = ["diff", "--raw", "-z", "--no-renames", "--ignore-submodules=dirty", "HEAD"];
    let raw = ask(root, &how)?.unwrap_or_default();
    let (mut moved, mut words) = (Vec::new(), raw.split('\0'));
    // Each is a line of modes and ids, and a path.
    while let (Some(change), Some(path)) = (words.next(), words.next()) {
        let inside = root.join(path);
        if change.split(' ').nth(1) == Some("160000")
            && inside.join(".git").exists()
            && let Some(oid) = commit(&inside, "HEAD")?
        {
            moved.push((oid, path.to_owned()));
        }
    }
    Ok(moved)
}

fn unknown(base_ref: &str) -> KernelError {
    let name = base_ref.strip_prefix("origin/").unwrap_or(base_ref);
    failed(&format!("sync.baseRef: no commit here is called {base_ref:?}"))
        .hint(format!("git fetch origin {}", quote(name)))
}

/// The base, and what it shall be called on the box: a branch also as the one of the origin, as in a clone; a tag as
/// that; anything else, such as `HEAD~1`, has no name of its own.
fn find(root: &Path, base_ref: &str) -> Result<Option<(String, Vec<String>)>> {
    let name = base_ref.strip_prefix("origin/").unwrap_or(base_ref);
    let branch = [format!("refs/remotes/origin/{name}"), format!("refs/heads/{name}")];
    let tag = format!("refs/tags/{}", base_ref.strip_prefix("refs/tags/").unwrap_or(base_ref));
    let is_name = name != "HEAD"
        && name != "@"
        && git::command(root, &["check-ref-format", &branch[1]])
            .status()
            .is_ok_and(|status| status.success());
    let known =
        [(&branch[0], &branch[..]), (&branch[1], &branch[..]), (&tag, std::slice::from_ref(&tag))];
    for (full, names) in known.into_iter().filter(|_| is_name) {
        if let Some(oid) = commit(root, full)? {
            return Ok(Some((oid, names.to_vec())));
        }
    }
    Ok(commit(root, base_ref)?.map(|oid| (oid, vec!["refs/crabbox/base".to_owned()])))
}

/// The commit of this name.
fn commit(root: &Path, name: &str) -> Result<Option<String>> {
    let commit = format!("{name}^{{commit}}");
    ask(root, &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])
}

/// Statuses of the scripts, outside what git uses.
const NO_GIT: i32 = 93;
const FOREIGN: i32 = 94;
const FOREIGN_WORDS: &str =
    "the work directory on the box is a git checkout of somebody else's making";
/// What the receiver says when the pack shall come.
const WANT: &str = "crabbox-want-commits";

/// What a failed script means.
pub(crate) fn judge(code: i32, said: &str) -> Result<()> {
    match code {
        0 => Ok(()),
        NO_GIT => Err(refused("there is no git on the box")
            .hint("install git there, or leave sync.baseRef unset")),
        FOREIGN => {
            Err(refused(FOREIGN_WORDS).hint("remove its .git there, or leave sync.baseRef unset"))
        }
        _ => Err(refused(&format!("git on the box says: {}", said.trim()))),
    }
}

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

/// What a script says, as much of it as an error needs.
#[derive(Default)]
struct Heard {
    said: String,
    out: String,
}

impl Heard {
    /// Listens to the script's end, which is its status; or until it wants the pack, which is nothing.
    async fn listen(
        &mut self,
        output: &mut impl ProcessOutput,
        wants: bool,
    ) -> Result<Option<i32>> {
        loop {
            let (into, data) = match output.next().await? {
                Piece::Data(Stream::Stderr, data) => (&mut self.said, data),
                Piece::Data(Stream::Stdout, data) => (&mut self.out, data),
                Piece::Exited(exit) => return Ok(Some(exit.code)),
            };
            let room = SAID.saturating_sub(into.len()).min(data.len());
            into.push_str(&String::from_utf8_lossy(&data[..room]));
            if wants && self.out.contains(WANT) {
                return Ok(None);
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
