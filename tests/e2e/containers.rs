//! Boxes in containers: Podman is real, and so is everything in them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crabbox_tests::{Podman, Room, eventually};

/// On this machine's own network: it needs no bridge, which other tests could see.
const HOST: [&str; 2] = ["--container-network", "host"];

fn line<'a>(more: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let words = HOST.iter().chain(more).copied();
    words.chain(["--"]).chain(command.iter().copied()).collect()
}

#[test]
fn an_image_without_a_server_or_accounts_runs_the_dirty_checkout_and_leaves_nothing() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let repo = room.repo("app");
    fs::write(repo.join("hello.txt"), "changed\n").unwrap();
    let script = "cat hello.txt; id -u; echo bad >&2; [ ! -e /usr/sbin/sshd ] && exit 37";
    let words = line(&[], &["sh", "-c", script]);
    let ended = podman.crabbox(&repo, "run", Podman::TINY, &words).run();
    assert_eq!((ended.code, ended.out().as_str()), (37, "changed\n0\n"), "{ended}");
    let _ = ended.says(&["bad\n", "provisioned lease=", "deleted lease="]);
    assert_eq!(podman.containers(), [""; 0]);
    assert_eq!(room.state_files("claims"), [""; 0]);
}

#[test]
fn an_images_own_account_variables_and_limits_are_those_of_the_command() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let repo = room.repo("app");
    let limits = [
        "--container-pids",
        "100",
        "--container-env",
        "SIZE=big",
        "--container-work-root",
        "/srv/work",
    ];
    let script = "id -u; id -g; echo $FLAVOUR $SIZE $HOME $USER; case $PWD in /srv/work/*) touch made && echo mine;; esac; \
                  cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true";
    let words = line(&limits, &["bash", "-c", script]);
    let ended = podman.crabbox(&repo, "run", Podman::ROOMY, &words).run().expect(0);
    let expected = "1500\n1501\nplum big /home/dev dev\nmine\n100\n";
    assert_eq!(ended.out(), expected, "{ended}");
    let words = line(&["--container-user", "0"], &["sh", "-c", "id -u; echo $HOME"]);
    let ended = podman.crabbox(&repo, "run", Podman::ROOMY, &words).run().expect(0);
    assert_eq!(ended.out(), "0\n/root\n", "{ended}");
}

#[test]
fn a_box_that_stays_is_used_listed_touched_and_stopped_twice() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let repo = room.repo("app");
    let slug = "plum";
    let warm = [&HOST[..], &["--slug", slug]].concat();
    let _ = podman.crabbox(&repo, "warmup", Podman::TINY, &warm).run().expect(0);
    let call = |words: &[&str]| podman.surround(room.crabbox(&repo, words.to_vec()));
    for text in ["one", "two"] {
        let words = [
            "run",
            "--id",
            slug,
            "--",
            "sh",
            "-c",
            "cat /tmp/kept 2>/dev/null; echo $0 >> /tmp/kept",
            text,
        ];
        let ended = call(&words).run().expect(0);
        assert_eq!(ended.out(), if text == "one" { "" } else { "one\n" }, "{ended}");
    }
    let listed = podman.crabbox(&repo, "list", Podman::TINY, &["--json"]).run().expect(0);
    assert!(listed.out().contains(slug), "{listed}");
    let _ = call(&["heartbeat", "--id", slug]).run().expect(0);
    let names = podman.containers();
    assert_eq!(names.len(), 1, "{names:?}");
    for _ in 0..2 {
        let _ = call(&["stop", slug]).run().expect(0);
        assert_eq!(podman.containers(), [""; 0]);
    }
}

#[test]
fn a_box_that_nobody_uses_ends_by_itself_and_one_in_use_does_not() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let repo = room.repo("app");
    let idle = ["--idle-timeout", "3s"];
    let words = line(&idle, &["sh", "-c", "sleep 6; echo done"]);
    let ended = podman.crabbox(&repo, "run", Podman::TINY, &words).run().expect(0);
    assert_eq!(ended.out(), "done\n", "{ended}");
    let warm = [&HOST[..], &idle, &["--slug", "plum"]].concat();
    let _ = podman.crabbox(&repo, "warmup", Podman::TINY, &warm).run().expect(0);
    eventually("the container removes itself", Duration::from_secs(20), || {
        podman.containers().is_empty()
    });
    let stopped = podman.surround(room.crabbox(&repo, ["stop", "plum"])).run().expect(0);
    let _ = stopped.says(&["already gone"]);
}

#[test]
fn a_box_on_a_bridge_is_reached_by_a_port_of_this_machine_alone() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let repo = room.repo("app");
    // The bridge and its rules are made in a network of the test's own.
    let alone = |call: crabbox_tests::Call| {
        let script = "ip link set lo up && exec \"$@\"";
        call.through("sh", ["-c", script, "sh"]).through("unshare", ["--net"])
    };
    let words = ["--", "sh", "-c", "grep -c : /proc/net/dev; hostname"];
    let ended = alone(podman.crabbox(&repo, "run", Podman::TINY, &words)).run().expect(0);
    let said = ended.out();
    let (links, name) = said.trim().split_once('\n').unwrap();
    assert_eq!(links, "2", "{ended}");
    assert!(name.starts_with("crabbox-"), "{ended}");
    assert_eq!(podman.containers(), [""; 0]);
}

#[test]
fn what_cannot_be_a_box_is_said_and_nothing_is_left_of_it() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let repo = room.repo("app");
    let words = line(&["--container-user", "stranger"], &["true"]);
    let refused = podman.crabbox(&repo, "run", Podman::ROOMY, &words).run();
    assert_ne!(refused.code, 0, "{refused}");
    let _ = refused.says(&["the box did not start", "the image has no user \"stranger\""]);
    let refused = podman.crabbox(&repo, "run", "localhost/none:1", &line(&[], &["true"])).run();
    assert_ne!(refused.code, 0, "{refused}");
    let _ = refused
        .says(&["localhost/none:1", "set container.image to an image that is on this machine"]);
    assert_eq!(podman.containers(), [""; 0]);
    assert_eq!(room.state_files("claims"), [""; 0]);
    let repo_config = repo.join(".crabbox.yaml");
    fs::write(repo_config, "provider: container\nlocalContainer:\n  network: host\n").unwrap();
    let refused = podman.surround(room.crabbox(&repo, ["run", "--", "true"])).run().expect(2);
    let _ = refused.says(&["localContainer.network"]);
}

#[test]
fn the_kit_passes_on_real_containers() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/container");
    let folder = folder.display().to_string();
    let image = format!("image={}", Podman::TINY);
    let words = [
        "plugin",
        "test",
        &folder,
        "--patience",
        "10",
        "--set",
        "runtime=podman",
        "--set",
        "network=host",
        "--set",
        &image,
    ];
    let tested = podman.surround(room.crabbox(room.path(), words)).limit(Duration::from_secs(180));
    let _ = tested.run().expect(0);
    assert_eq!(podman.containers(), [""; 0]);
}

#[test]
fn doctor_names_the_runtime_that_makes_the_boxes() {
    let room = Room::new();
    let Some(podman) = Podman::start(&room) else { return };
    let repo = room.repo("app");
    let said = podman.crabbox(&repo, "doctor", Podman::TINY, &[]).run();
    for words in ["container.podman", "podman makes the boxes", "is here, for"] {
        assert!(said.out().contains(words), "no {words:?} in {said}");
    }
}
