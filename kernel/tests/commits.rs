//! The tree on the box becomes a git checkout that knows what changed; the box asks nobody else.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

#[expect(dead_code, reason = "each test program uses its part of the fakes")]
mod fakes;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::{ProcessInput, Pty, Remote};
use crabbox_kernel::run::process::capture;
use crabbox_kernel::sync::commits::Commits;
use crabbox_schemas::error::ErrorCode;
use fakes::shell::{Input, Output, Shell};

fn git(dir: &Path, args: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the repositories of these tests are real")]
    let out = std::process::Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn commit(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join(file), text).unwrap();
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "-m", file]);
}

/// Five commits on main, two on a branch that left it two commits ago.
fn repository(dir: &Path) {
    git(dir, &["init", "-q", "-b", "main"]);
    (0..5).for_each(|n| commit(dir, &format!("f{n}"), "main"));
    git(dir, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
    git(dir, &["checkout", "-q", "-b", "topic", "HEAD~2"]);
    commit(dir, "f0", "changed on the branch");
    commit(dir, "new", "added on the branch");
}

async fn on_box(shell: &Shell, command: &str) -> String {
    let got = capture(shell, command, bytes::Bytes::new()).await.unwrap();
    assert_eq!(got.code, 0, "{}", String::from_utf8_lossy(&got.stderr));
    String::from_utf8_lossy(&got.stdout).trim().to_owned()
}

/// A repository here, a box with its tree, and where the box keeps commits.
struct Rig {
    dir: tempfile::TempDir,
    shell: Shell,
    workdir: PathBuf,
    store: String,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir(at("repo")).unwrap();
        repository(&at("repo"));
        let (shell, workdir) = (Shell::new(at("box")), at("box/it's a tree"));
        std::fs::create_dir_all(&workdir).unwrap();
        let store = at("box/it's/a store").to_str().unwrap().to_owned();
        std::fs::create_dir(at("box/it's")).unwrap();
        Self { dir, shell, workdir, store }
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn commits(&self) -> Commits {
        Commits::look(&self.repo(), "main").unwrap()
    }

    async fn deliver(&self, commits: &Commits) -> bool {
        commits.deliver(&self.shell, &self.repo(), &self.store).await.unwrap()
    }

    /// A line of shell in the tree, which is made the checkout first.
    async fn checkout(&self, commits: &Commits) {
        on_box(
            &self.shell,
            &format!("cd \"$HOME/it's a tree\"\n{}", commits.checkout(&self.store)),
        )
        .await;
    }

    async fn git(&self, line: &str) -> String {
        on_box(&self.shell, &format!("cd \"$HOME/it's a tree\" && git {line}")).await
    }
}

#[test]
fn a_checkout_that_lacks_files_on_purpose_is_refused() {
    let rig = Rig::new();
    git(&rig.repo(), &["config", "core.sparseCheckout", "true"]);
    let refused = Commits::look(&rig.repo(), "main").unwrap_err();
    assert!(refused.message.contains("sparse") && refused.hint.is_some(), "{refused}");
}

#[tokio::test]
async fn the_box_can_ask_what_changed_and_what_it_holds_is_not_sent_again() {
    let rig = Rig::new();
    let commits = rig.commits();
    assert_eq!((commits.branch.as_deref(), commits.edge.len()), (Some("topic"), 1));
    // The sync brings the files; here they are copied, with one of them changed since the last commit.
    for file in ["f0", "f1", "f2", "new"] {
        std::fs::copy(rig.repo().join(file), rig.workdir.join(file)).unwrap();
    }
    std::fs::write(rig.workdir.join("f1"), "not committed").unwrap();
    assert!(rig.deliver(&commits).await);
    rig.checkout(&commits).await;
    assert_eq!(rig.git("diff --name-only origin/main...HEAD").await, "f0\nnew");
    assert_eq!(rig.git("status --porcelain").await, "M f1");
    let both = format!("{}\n{}", commits.head, commits.base);
    assert_eq!(rig.git("rev-parse HEAD main").await, both);
    assert_eq!(rig.git("branch --show-current").await, "topic");
    assert_eq!(rig.git("fsck --no-dangling && git rev-list --count main").await, "3");

    assert!(!rig.deliver(&commits).await, "what is held is not sent");
    commit(&rig.repo(), "newer", "one more");
    let commits = rig.commits();
    assert!(rig.deliver(&commits).await);
    rig.checkout(&commits).await;
    assert_eq!(rig.git("rev-parse HEAD").await, commits.head);
}

#[tokio::test]
async fn whatever_a_command_did_to_the_checkout_the_next_one_finds_it_right() {
    let rig = Rig::new();
    let commits = rig.commits();
    rig.deliver(&commits).await;
    for harm in [
        "true",
        "rm -rf .git",
        "rm .git/HEAD",
        "echo nonsense >.git/index",
        "git checkout -q -b other",
        "git checkout -q -f --detach main",
        "git branch -f main HEAD && git update-ref refs/remotes/origin/main HEAD",
        "git add -A && git -c user.name=t -c user.email=t@t commit -q --allow-empty -m theirs",
        "touch .git/index.lock .git/HEAD.lock",
        "git rm -q --cached f0",
        "git branch -D -q main; git update-ref -d refs/remotes/origin/main",
    ] {
        rig.checkout(&commits).await;
        for file in ["f0", "f1", "f2", "new"] {
            std::fs::copy(rig.repo().join(file), rig.workdir.join(file)).unwrap();
        }
        on_box(&rig.shell, &format!("cd \"$HOME/it's a tree\" && {harm}")).await;
        rig.checkout(&commits).await;
        for file in ["f3", "f4"] {
            let _ = std::fs::remove_file(rig.workdir.join(file));
        }
        for file in ["f0", "f1", "f2", "new"] {
            std::fs::copy(rig.repo().join(file), rig.workdir.join(file)).unwrap();
        }
        assert_eq!(rig.git("diff --name-only main").await, "f0\nf3\nf4\nnew", "after {harm}");
        assert_eq!(rig.git("symbolic-ref HEAD").await, "refs/heads/topic", "after {harm}");
        assert_eq!(rig.git("status --porcelain").await, "", "after {harm}");
        assert_eq!(rig.git("rev-parse origin/main").await, commits.base, "after {harm}");
    }
}

#[tokio::test]
async fn another_branch_here_is_another_branch_there() {
    let rig = Rig::new();
    let first = rig.commits();
    rig.deliver(&first).await;
    rig.checkout(&first).await;
    // Its name is a folder of names on the box, and it left main elsewhere.
    git(&rig.repo(), &["checkout", "-q", "-b", "fix", "main~1"]);
    git(&rig.repo(), &["branch", "-D", "topic"]);
    git(&rig.repo(), &["checkout", "-q", "-b", "topic/more"]);
    commit(&rig.repo(), "other", "on another branch");
    let second = rig.commits();
    assert_ne!(first.edge, second.edge);
    assert!(rig.deliver(&second).await);
    rig.checkout(&second).await;
    for file in ["f0", "f1", "f2", "f3", "other"] {
        std::fs::copy(rig.repo().join(file), rig.workdir.join(file)).unwrap();
    }
    assert_eq!(rig.git("diff --name-only main...HEAD").await, "other");
    assert_eq!(rig.git("rev-parse --abbrev-ref HEAD").await, "topic/more");
    assert_eq!(rig.git("fsck --no-dangling && git rev-list --count HEAD").await, "2");
}

#[tokio::test]
async fn a_checkout_of_somebody_elses_is_left_alone() {
    let rig = Rig::new();
    git(&rig.workdir, &["init", "-q"]);
    let commits = rig.commits();
    rig.deliver(&commits).await;
    let script = format!("cd \"$HOME/it's a tree\"\n{}", commits.checkout(&rig.store));
    let got = capture(&rig.shell, &script, bytes::Bytes::new()).await.unwrap();
    assert_eq!(got.code, 94);
    assert!(String::from_utf8_lossy(&got.stderr).contains("somebody else"));
    git(&rig.workdir, &["rev-parse", "--git-dir"]);
}

#[test]
fn an_unknown_base_says_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    repository(dir.path());
    let error = Commits::look(dir.path(), "nowhere").unwrap_err();
    assert!(error.message.contains("nowhere") && error.hint.unwrap().contains("git fetch origin"));
    for odd in ["--upload-pack=x", "-x", "two words", "a\tb"] {
        let error = Commits::look(dir.path(), odd).unwrap_err();
        assert_eq!(error.code, ErrorCode::Config, "{odd}");
        assert!(!error.hint.unwrap().contains("fetch"), "{odd}");
    }
}

#[tokio::test]
async fn a_base_has_its_name_on_the_box_or_is_what_git_makes_of_the_words() {
    let rig = Rig::new();
    git(&rig.repo(), &["tag", "-a", "-m", "a tag", "v1", "HEAD~1"]);
    // As in a clone, where the origin's HEAD is a name too.
    git(&rig.repo(), &["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]);
    let parent = git(&rig.repo(), &["rev-parse", "HEAD~1"]);
    for (base, name) in [
        ("v1", "v1"),
        ("refs/tags/v1", "refs/tags/v1"),
        ("HEAD~1", "HEAD~1"),
        (parent.as_str(), parent.as_str()),
        ("topic~1", "refs/crabbox/base"),
    ] {
        let commits = Commits::look(&rig.repo(), base).unwrap();
        assert_eq!(commits.base, parent, "{base}");
        rig.deliver(&commits).await;
        rig.checkout(&commits).await;
        assert_eq!(rig.git(&format!("rev-parse {name}^{{commit}}")).await, parent, "{base}");
        assert_eq!(rig.git(&format!("diff --name-only {name} HEAD")).await, "new", "{base}");
    }
}

#[tokio::test]
async fn a_repository_of_sha256_objects_is_one_on_the_box() {
    let rig = Rig::new();
    std::fs::remove_dir_all(rig.repo().join(".git")).unwrap();
    git(&rig.repo(), &["init", "-q", "-b", "main", "--object-format=sha256"]);
    commit(&rig.repo(), "a", "one");
    git(&rig.repo(), &["checkout", "-q", "-b", "topic"]);
    commit(&rig.repo(), "b", "two");
    let commits = rig.commits();
    assert_eq!(commits.head.len(), 64);
    assert!(rig.deliver(&commits).await);
    rig.checkout(&commits).await;
    assert_eq!(rig.git("diff --name-only main HEAD").await, "b");
    assert_ne!(commits.store("/l", "r"), "/l/.crabbox/git/r", "beside one of the other kind");
}

#[tokio::test]
async fn a_box_keeps_the_commits_that_were_used_last_and_no_more() {
    let rig = Rig::new();
    let first = rig.commits();
    assert!(rig.deliver(&first).await);
    for n in 0..40 {
        commit(&rig.repo(), "new", &format!("{n}"));
        assert!(rig.deliver(&rig.commits()).await);
        assert!(!rig.deliver(&first).await, "what is used again and again stays");
    }
    let count = |what: &str| format!("ls \"$HOME/it's/a store/{what}\" | wc -l");
    assert_eq!(on_box(&rig.shell, &count("held")).await, "32");
    assert_eq!(on_box(&rig.shell, &count("objects/pack\"/*.\"pack")).await, "32");
    for commits in [&first, &rig.commits()] {
        rig.checkout(commits).await;
        assert_eq!(rig.git("rev-parse HEAD").await, commits.head);
        assert_eq!(rig.git("fsck --connectivity-only --no-dangling").await, "");
    }
}

/// What happens to a line after so many bytes.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Cut,
    Held,
}

/// A box at the end of such a line.
struct Frail(Shell, usize, End);

struct FrailInput(Option<Input>, usize, End);

impl Remote for Frail {
    type Input = FrailInput;
    type Output = Output;

    async fn start(&self, command: &str, pty: Option<&Pty>) -> Result<(FrailInput, Output)> {
        let (input, output) = self.0.start(command, pty).await?;
        Ok((FrailInput(Some(input), self.1, self.2), output))
    }

    fn peer(&self) -> &str {
        self.0.peer()
    }

    async fn close(self) {}
}

impl ProcessInput for FrailInput {
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        let lost = || KernelError::new(ErrorCode::ConnectionLost, "the line was cut");
        let input = self.0.as_mut().ok_or_else(lost)?;
        if data.len() <= self.1 {
            self.1 -= data.len();
            return input.write(data).await;
        }
        data.truncate(self.1);
        input.write(data).await?;
        match self.2 {
            End::Cut => self.0 = None,
            End::Held => std::future::pending().await,
        }
        Err(lost())
    }

    async fn finish(&mut self) -> Result<()> {
        self.0 = None;
        Ok(())
    }

    async fn signal(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn resize(&mut self, _: u32, _: u32) -> Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_delivery_that_is_cut_or_interrupted_anywhere_leaves_nothing_and_the_next_one_is_whole() {
    for (bytes, end) in [0, 1, 30, 200, 700]
        .into_iter()
        .flat_map(|bytes| [End::Cut, End::Held].map(|end| (bytes, end)))
    {
        let rig = Rig::new();
        let commits = rig.commits();
        let (frail, repo) = (Frail(rig.shell.clone(), bytes, end), rig.repo());
        let delivery = commits.deliver(&frail, &repo, &rig.store);
        let patience =
            std::time::Duration::from_millis(if end == End::Held { 300 } else { 20_000 });
        match tokio::time::timeout(patience, delivery).await {
            Ok(done) => assert!(done.is_err() && end == End::Cut, "{bytes} bytes"),
            Err(_) => assert!(end == End::Held, "{bytes} bytes"),
        }
        let held = "ls \"$HOME/it's/a store/held\" 2>/dev/null | wc -l";
        assert_eq!(on_box(&rig.shell, held).await, "0", "{bytes} bytes");
        assert!(rig.deliver(&commits).await, "{bytes} bytes");
        rig.checkout(&commits).await;
        assert_eq!(rig.git("rev-parse HEAD").await, commits.head);
        assert_eq!(rig.git("fsck --no-dangling").await, "");
    }
}
