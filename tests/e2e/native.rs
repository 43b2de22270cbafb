//! Our own provider as a library: the same transcripts, the same kit, a real run, and off unless the user wants it.

#![expect(clippy::disallowed_methods, reason = "starts the runner as the host would")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crabbox_plugin_sdk::testkit::replay_command;
use crabbox_tests::{Room, Sshd, binary};

fn plugin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/ssh")
}

/// The library that `./build-native.sh` makes.
fn library() -> PathBuf {
    binary("crabbox-provider-ssh.native")
}

#[test]
fn the_transcripts_of_the_program_hold_for_the_library() {
    let mut count = 0;
    for file in fs::read_dir(plugin().join("tests/transcripts")).unwrap().flatten() {
        let text = fs::read_to_string(file.path()).unwrap();
        let parted = file.file_name() == "refused.jsonl";
        let sessions: Vec<&str> = if parted { text.split("\n\n").collect() } else { vec![&text] };
        for session in sessions {
            let mut runner = Command::new(binary("crabbox-native-runner"));
            runner.env_clear().arg(library());
            replay_command(runner, session)
                .unwrap_or_else(|e| panic!("{}: {e}\n{session}", file.path().display()));
            count += 1;
        }
    }
    assert!(count >= 12, "{count}");
}

#[test]
fn a_library_runs_only_when_the_user_lets_it() {
    library();
    let room = Room::new();
    let sshd = Sshd::start(&room);
    let repo = room.repo("app");
    let words = ["run", "--", "sh", "-c", "cat hello.txt; exit 3"];
    let configured = |plugins: &str| room.configure(&format!("{}\n{plugins}", sshd.config()));

    configured("plugins:\n  runtime: [ssh=native]\n");
    let refused = room.crabbox(&repo, words).run().expect(2);
    assert!(refused.err().contains("`plugins.native` is off"), "{refused}");
    let other = room.crabbox(&repo, ["run", "--provider", "local", "--", "true"]);
    let _ = other.run().expect(0);

    configured("plugins:\n  runtime: [ssh=native]\n  native: first-party\n");
    let ran = room.crabbox(&repo, words).run().expect(3);
    assert_eq!(ran.out(), "hello\n", "{ran}");
    let info = room.crabbox(&repo, ["plugin", "info", "crabbox/ssh"]).run().expect(0);
    assert!(info.out().contains("native"), "{info}");
}

#[test]
fn a_library_of_somebody_else_is_refused_and_so_is_a_repository_that_wants_one() {
    let room = Room::new();
    let repo = room.repo("app");
    let folder = room.at("data/plugins/rack");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(library(), folder.join("rack.native")).unwrap();
    let manifest = "manifest = 1\nid = \"example.dev/rack\"\nversion = \"0.1.0\"\nprotocols = [\"1\"]\n\
        [[provider]]\nname = \"rack\"\nkind = \"ssh-lease\"\ntargets = [\"linux\"]\n\
        [[artifact]]\nruntime = \"native\"\npath = \"rack.native\"\n";
    fs::write(folder.join("crabbox-plugin.toml"), manifest).unwrap();
    let dev = folder.display().to_string();
    let words = ["run", "--plugin-dev", &dev, "--provider", "rack", "--", "true"];
    room.configure("plugins:\n  runtime: [rack=native]\n  native: first-party\n");
    let refused = room.crabbox(&repo, words).run().expect(2);
    assert!(refused.err().contains("not of this crabbox"), "{refused}");

    room.configure("plugins:\n  runtime: [rack=native]\n");
    fs::write(repo.join(".crabbox.yaml"), "plugins:\n  native: allow\n").unwrap();
    let refused = room.crabbox(&repo, words).run();
    assert!(refused.code != 0 && refused.err().contains("plugins.native"), "{refused}");
}

#[test]
fn a_file_that_is_no_such_library_is_refused_in_words() {
    let room = Room::new();
    let file = room.at("not.native");
    fs::write(&file, "no library").unwrap();
    let done = Command::new(binary("crabbox-native-runner"))
        .env("CRABBOX_PLUGIN", "1")
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && said.contains("cannot be loaded"), "{said}");
}

#[test]
fn the_library_passes_the_kit() {
    library();
    let room = Room::new();
    room.configure("plugins:\n  native: allow\n");
    let folder = plugin().display().to_string();
    let words = ["plugin", "test", &folder, "--runtime", "native", "--patience", "10"];
    let ended = room
        .crabbox(room.path(), words)
        .args(["--set", "host=127.0.0.1"])
        .limit(Duration::from_secs(300))
        .run();
    assert_eq!(ended.code, 0, "{ended}");
}
