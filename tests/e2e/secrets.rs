//! A provider's secret, from the user's settings to the service and nowhere else.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crabbox_tests::{Room, binary, holders};

const CANARY: &str = "c4n4ry-77";

/// A service that answers one request with what it was authorised by.
fn service() -> (String, JoinHandle<String>) {
    service_after(|| ())
}

/// The same, which does something before it answers.
fn service_after(what: impl FnOnce() + Send + 'static) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let head: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
        let given =
            head.iter().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
        what();
        let length = given.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{given}").unwrap();
        given.to_owned()
    });
    (url, served)
}

/// A room whose scripted provider asks this service when `doctor` asks how it does.
fn asking(url: &str, settings: &str) -> (Room, PathBuf) {
    let room = Room::new();
    binary("provider-scripted");
    room.plugins(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/scripted"));
    let request =
        format!(r#"ask:http {{"method":"GET","url":"{url}","auth":{{"bearer":"sealed"}}}}"#);
    let calls = room.at("calls.jsonl");
    room.configure(&format!(
        "provider: scripted\nproviders:\n  scripted:\n    endpoint: {url}\n    doctor: '{request}'\n    state-file: {}\n{settings}",
        calls.display()
    ));
    let repo = room.repo("app");
    (room, repo)
}

#[test]
fn a_providers_secret_reaches_its_service_and_nothing_else() {
    for (settings, variable) in [
        ("    sealed: cmd:printf 'c4n4ry-%s' 77\n", ""),
        ("", CANARY),
        ("", "cmd:printf 'c4n4ry-%s' 77"),
    ] {
        let (url, served) = service();
        let (room, repo) = asking(&url, settings);
        let mut call = room.crabbox(&repo, ["doctor", "--json"]);
        if !variable.is_empty() {
            call = call.env("CRABBOX_SCRIPTED_SEALED", variable);
        }
        let ended = call.run();
        assert!(ended.out().contains("Bearer [redacted]"), "{ended}");
        assert_eq!(served.join().unwrap(), format!("Bearer {CANARY}"));
        assert!(!ended.out().contains(CANARY) && !ended.err().contains(CANARY), "{ended}");
        assert_eq!(holders(&room.at("."), CANARY), [] as [PathBuf; 0]);
    }
}

/// What memory has of it, as the system shows it.
#[cfg(target_os = "linux")]
mod memory {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use crabbox_tests::{Call, eventually, memory_holds, minds_below, unproven};
    use rustix::process::Signal;

    use super::*;

    /// A provider that has asked its service, which waits before it answers.
    struct Held {
        room: Room,
        repo: PathBuf,
        asked: Receiver<()>,
        go_on: Sender<()>,
        served: JoinHandle<String>,
    }

    fn held() -> Held {
        let (ask, asked) = channel();
        let (go_on, wait) = channel();
        let (url, served) = service_after(move || {
            ask.send(()).unwrap();
            wait.recv().unwrap();
        });
        let (room, repo) = asking(&url, "    sealed: cmd:printf 'c4n4ry-%s' 77\n");
        Held { room, repo, asked, go_on, served }
    }

    #[test]
    fn a_providers_secret_is_in_no_memory_but_crabboxs_own() {
        let Held { room, repo, asked, go_on, served } = held();
        let running = room.crabbox(&repo, ["doctor", "--json"]).start();
        asked.recv_timeout(Duration::from_secs(20)).unwrap();
        let pid = running.pid().as_raw_nonzero().get().cast_unsigned();
        assert!(memory_holds(pid, CANARY), "it is sending it: the search finds nothing");
        let (knowing, seen) = minds_below(pid, CANARY);
        assert_eq!(knowing, [] as [String; 0]);
        assert!(seen > 0, "the provider runs");
        go_on.send(()).unwrap();
        assert_eq!(served.join().unwrap(), format!("Bearer {CANARY}"));
        let _ = running.wait().expect(0);
    }

    #[test]
    fn a_crash_leaves_no_dump_of_the_memory_with_a_secret() {
        let dumps = |repo: &Path| {
            fs::read_dir(repo)
                .unwrap()
                .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("core"))
        };
        let anywhere = ["-c", "ulimit -c unlimited && exec \"$0\" \"$@\""];
        let Held { room, repo, asked, go_on, served } = held();
        let running = room.crabbox(&repo, ["doctor"]).through("/bin/sh", anywhere).start();
        asked.recv_timeout(Duration::from_secs(20)).unwrap();
        running.signal(Signal::ABORT);
        let ended = running.wait();
        assert_eq!(ended.code, 128 + 6, "{ended}");
        assert!(!dumps(&repo));
        go_on.send(()).unwrap();
        let _ = served.join();
        let other = Call::new("/bin/sleep", &repo).arg("5").through("/bin/sh", anywhere).start();
        eventually("it sleeps", Duration::from_secs(5), || {
            fs::read(format!("/proc/{}/comm", other.pid())).is_ok_and(|name| name == b"sleep\n")
        });
        other.signal(Signal::ABORT);
        let _ = other.wait();
        if !dumps(&repo) {
            unproven("that a crash of crabbox leaves no core dump: nothing leaves one here");
        }
    }
}

#[test]
fn a_repository_may_not_say_where_a_secret_is() {
    let (room, repo) = asking("http://127.0.0.1:9/", "");
    fs::write(repo.join(".crabbox.yaml"), "providers:\n  scripted:\n    sealed: cmd:touch owned\n")
        .unwrap();
    let ended = room.crabbox(&repo, ["run", "--json", "--", "true"]).run();
    assert_eq!(ended.json()["error"]["errorKind"], "config_untrusted", "{ended}");
    assert!(!repo.join("owned").exists() && !room.at("home/owned").exists());
}
