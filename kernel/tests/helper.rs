//! A helper gets to any box whose shell is a POSIX shell, or the reason is told why it does not.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pipe;

use std::path::Path;

use crabbox_kernel::error::Result;
use crabbox_kernel::event::Event;
use crabbox_kernel::helper::{Binaries, Opened, open};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::{CHANNEL, Hello, note};
use crabbox_wire::{Frame, GREETING, Packet};

use pipe::{PipeBox, Time, program};

/// A program that greets like a helper; it is a shell script of some size, so that it comes in parts.
fn binaries(dir: &Path) -> Binaries {
    let hello = Hello {
        channel: CHANNEL,
        helper: "0".repeat(64),
        os: "linux".into(),
        arch: "x86_64".into(),
        pid: 1,
        now_ms: 0,
    };
    let frame = Frame::notification(note::HELLO, &hello).unwrap();
    let packet = Packet::message(0, &frame).unwrap().to_bytes();
    let said = [GREETING, &packet].concat();
    let octal: String = said.iter().map(|b| format!("\\{b:03o}")).collect();
    let padding = format!("# {}\n", "x".repeat(78)).repeat(4000);
    let script = format!(
        "{padding}umask >\"$HOME/umask\"\n[ \"$1\" = serve ] || exit 9\nprintf '{octal}'\ncat >/dev/null"
    );
    let arch = std::env::consts::ARCH;
    program(&dir.join(format!("crabbox-helper-linux-{arch}")), &script);
    Binaries::in_dir(dir.to_owned())
}

struct Stage {
    to: PipeBox,
    ours: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { to: PipeBox::new(), ours: tempfile::tempdir().unwrap() }
    }

    /// Opens, and says what was told.
    async fn open(&self) -> (Result<Opened>, Vec<String>) {
        let mut events = Vec::new();
        let binaries = binaries(self.ours.path());
        let root = self.to.work_root();
        let opened = open(&self.to, &binaries, &root, &Time, &mut events).await;
        let told = events.into_iter().map(|event| match event {
            Event::Debug { message } => message,
            other => panic!("{other:?}"),
        });
        (opened, told.collect())
    }

    async fn helper(&self) -> Vec<String> {
        match self.open().await {
            (Ok(Opened::Helper(helper)), told) => {
                assert_eq!(helper.hello().channel, CHANNEL);
                told
            }
            other => panic!("{other:?}"),
        }
    }

    async fn why(&self) -> String {
        match self.open().await {
            (Ok(Opened::Shell { why }), _) => why,
            other => panic!("{other:?}"),
        }
    }
}

/// Every login shell this machine has; a POSIX sh is always one of them.
fn shells() -> Vec<Vec<std::ffi::OsString>> {
    let known = ["sh", "dash", "bash", "zsh", "fish", "tcsh", "ksh", "busybox"];
    let here = known.into_iter().filter(|name| find(name).is_some());
    here.map(|name| match name {
        "busybox" => vec![name.into(), "sh".into()],
        _ => vec![name.into()],
    })
    .collect()
}

fn find(name: &str) -> Option<std::path::PathBuf> {
    ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(name)).into_iter().find(|p| p.exists())
}

#[tokio::test]
async fn it_is_sent_once_whatever_the_login_shell_is() {
    for shell in shells() {
        let mut stage = Stage::new();
        stage.to.shell = shell.clone();
        let told = stage.helper().await;
        assert!(
            told.iter().any(|line| line.starts_with("sending the helper")),
            "{shell:?} {told:?}"
        );
        let written = stage.to.wire.written.get();
        assert_eq!(stage.helper().await, Vec::<String>::new(), "{shell:?}: it is cached");
        assert_eq!(stage.to.wire.written.get(), written, "{shell:?}");
        assert_eq!(stage.to.wire.started.get(), 2, "{shell:?}: one process each");
    }
}

#[tokio::test]
async fn sh_on_the_box_may_be_busybox_dash_or_bash() {
    for name in ["busybox", "dash", "bash"] {
        let Some(real) = find(name) else { continue };
        let mut stage = Stage::new();
        let bin = stage.to.at("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(real, bin.join("sh")).unwrap();
        stage.to.set("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        stage.helper().await;
        assert_eq!(stage.helper().await, Vec::<String>::new(), "{name}: it is cached");
    }
}

#[tokio::test]
async fn what_profiles_print_and_what_they_set_does_no_harm() {
    let mut stage = Stage::new();
    let login = stage.to.at("login");
    program(&login, "umask 027; printf 'welcome\\nyou have mail'; echo oops >&2; exec sh \"$@\"");
    stage.to.shell = vec![login.into()];
    for _ in 0..2 {
        stage.helper().await;
        let umask = std::fs::read_to_string(stage.to.at("home/umask")).unwrap();
        assert_eq!(umask.trim().trim_start_matches('0'), "27", "the user's umask is left alone");
    }
}

#[tokio::test]
async fn a_full_home_is_no_reason_to_give_up() {
    let mut stage = Stage::new();
    std::fs::write(stage.to.at("home/.cache"), "in the way").unwrap();
    stage.helper().await;
    assert_eq!(std::fs::read_dir(stage.to.at("work/.crabbox/helper")).unwrap().count(), 1);
    assert_eq!(stage.helper().await, Vec::<String>::new());
    std::fs::remove_dir_all(stage.to.at("work")).unwrap();
    std::fs::write(stage.to.at("work"), "in the way").unwrap();
    stage.helper().await;
    assert_eq!(std::fs::read_dir(stage.to.at("tmp")).unwrap().count(), 1);
    assert_eq!(stage.helper().await, Vec::<String>::new());
    stage.to.set("TMPDIR", stage.to.at("work"));
    assert_eq!(stage.why().await, "no folder there takes and executes a program");
}

#[tokio::test]
async fn a_box_we_have_no_program_for_is_worked_with_its_shell() {
    let mut stage = Stage::new();
    stage.to.fake("uname", "case $1 in -s) echo Linux;; *) echo riscv64;; esac");
    assert_eq!(stage.why().await, "there is no helper for linux-riscv64 here");
    let (opened, _) = {
        let mut events = Vec::new();
        let root = stage.to.work_root();
        (open(&stage.to, &Binaries::none(), &root, &Time, &mut events).await, events)
    };
    assert!(matches!(opened, Ok(Opened::Shell { .. })));
}

#[tokio::test]
async fn a_damaged_copy_is_replaced() {
    let stage = Stage::new();
    stage.helper().await;
    let cache = stage.to.at("home/.cache/crabbox/helper");
    let cached = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&cached, "#!/nowhere/at/all\n").unwrap();
    let told = stage.helper().await;
    assert!(told[0].starts_with("the helper does not start there"), "{told:?}");
    assert_eq!(stage.helper().await, Vec::<String>::new(), "the fresh copy is the cached one now");
}

#[tokio::test]
async fn a_program_that_arrives_damaged_is_never_started() {
    let mut stage = Stage::new();
    stage.to.fake("head", "/usr/bin/head \"$@\" | tr x y");
    assert_eq!(stage.why().await, "the helper arrived damaged");
    stage.to.fake("head", "/usr/bin/head -c 1000; /usr/bin/head -c $(($2 - 1000)) >/dev/null");
    assert_eq!(stage.why().await, "the helper could not be stored there");
    let cache = stage.to.at("home/.cache/crabbox/helper");
    assert_eq!(std::fs::read_dir(cache).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn a_cut_while_it_is_sent_is_a_lost_connection_and_the_next_try_works() {
    for after in [0, 1, 40, 5000, 200_000] {
        let stage = Stage::new();
        stage.to.wire.cut_after.set(Some(after));
        match stage.open().await {
            (Err(error), _) => assert_eq!(error.code, ErrorCode::ConnectionLost, "{after}"),
            other => panic!("{after}: {other:?}"),
        }
        stage.to.wire.cut_after.set(None);
        stage.helper().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_says_nothing_is_not_waited_for() {
    let mut stage = Stage::new();
    let login = stage.to.at("login");
    program(&login, "exec sleep 600");
    stage.to.shell = vec![login.into()];
    assert_eq!(stage.why().await, "the box said nothing for 30 s");
}

#[tokio::test]
async fn old_programs_do_not_pile_up() {
    let stage = Stage::new();
    let cache = stage.to.at("home/.cache/crabbox/helper");
    for n in 0..12 {
        program(&cache.join(format!("{n:064}")), "exit 1");
    }
    stage.helper().await;
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 5);
    assert_eq!(stage.helper().await, Vec::<String>::new());
}
