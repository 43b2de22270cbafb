//! The original's external provider: adapters written against its version 1 work unchanged.

use std::fs;
use std::path::{Path, PathBuf};

use crabbox_tests::{Call, Room, Sshd};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/external").join(name)
}

/// What the adapter is told: one host for all boxes.
fn shelf(room: &Room, host: &Sshd) -> Value {
    json!({
        "state": room.at("shelf"), "host": host.host, "port": host.port, "user": host.user, "key": host.key,
    })
}

/// The user's configuration; YAML reads JSON.
fn configure(room: &Room, external: Value) {
    room.configure(&json!({"provider": "external", "external": external}).to_string());
}

fn protocol(room: &Room, host: &Sshd, more: Value) {
    let mut config = shelf(room, host);
    let table = config.as_object_mut().unwrap();
    table.extend(more.as_object().unwrap().clone());
    configure(
        room,
        json!({
            "command": fixture("adapter.py"), "args": ["--quiet"], "config": config,
            "workRoot": host.work_root,
        }),
    );
}

fn requests(room: &Room) -> Vec<Value> {
    let log = fs::read_to_string(room.at("shelf/requests.log")).unwrap_or_default();
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn boxes(room: &Room) -> Vec<String> {
    let entries = fs::read_dir(room.at("shelf")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.ends_with(".log")).collect()
}

fn call(room: &Room, repo: &Path, words: &[&str]) -> Call {
    room.crabbox(repo, words.to_vec()).env("ADAPTER_SAYS", "hello").env("SHELF_TOKEN", "t0p")
}

#[test]
fn an_adapter_of_version_1_leases_runs_and_releases() {
    let room = Room::new();
    let host = Sshd::start(&room);
    protocol(
        &room,
        &host,
        json!({"partition": "gpu", "gres": ["a", "b"], "ssh": {"fallbackPorts": ["2"]}}),
    );
    let repo = room.repo("app");
    let ended = call(&room, &repo, &["run", "--", "sh", "-c", "cat hello.txt; exit 7"]).run();
    assert_eq!((ended.code, ended.out().as_str()), (7, "hello\n"), "{ended}");
    assert_eq!(boxes(&room), [""; 0]);
    let asked = requests(&room);
    let find = |what: &str| asked.iter().find(|asked| asked["operation"] == what).unwrap();
    let acquire = find("acquire");
    assert_eq!(acquire["protocolVersion"], 1);
    assert_eq!(acquire["operation"], "acquire");
    assert_eq!(acquire["config"]["gres"], json!(["a", "b"]));
    assert!(acquire["desired"]["leaseId"].as_str().unwrap().starts_with("cbx_"), "{acquire}");
    assert_eq!(acquire.get("keep"), None, "{acquire}");
    let release = find("release");
    let id = &acquire["desired"]["leaseId"];
    assert_eq!(release["expected"]["leaseId"], *id);
    assert_eq!(release["expected"]["cloudId"], json!(format!("host-{}", id.as_str().unwrap())));
    assert_eq!(release["lease"]["labels"]["rack"], "7");
    assert_eq!(release["lease"]["labels"]["lease"], *id, "a reserved label is the kernel's");
}

#[test]
fn boxes_of_an_adapter_stay_are_listed_and_stopped_twice() {
    let room = Room::new();
    let host = Sshd::start(&room);
    protocol(&room, &host, json!({}));
    let repo = room.repo("app");
    let _ = call(&room, &repo, &["warmup", "--slug", "plum"]).run().expect(0);
    let ended =
        call(&room, &repo, &["run", "--id", "plum", "--", "cat", "hello.txt"]).run().expect(0);
    assert_eq!(ended.out(), "hello\n");
    let listed = call(&room, &repo, &["list"]).run().expect(0);
    assert!(listed.out().contains("plum"), "{listed}");
    let _ = call(&room, &repo, &["heartbeat", "--id", "plum"]).run().expect(0);
    for _ in 0..2 {
        let _ = call(&room, &repo, &["stop", "plum"]).run().expect(0);
        assert_eq!(boxes(&room), [""; 0]);
    }
    let doctor = call(&room, &repo, &["doctor"]).run();
    assert!(doctor.out().contains("the shelf is there"), "{doctor}");
}

#[test]
fn what_an_adapter_fails_with_is_said_and_what_cannot_be_used_is_given_back() {
    let room = Room::new();
    let host = Sshd::start(&room);
    let repo = room.repo("app");
    let run = |config: Value| {
        protocol(&room, &host, config);
        let ended = call(&room, &repo, &["run", "--", "true"]).run().expect(5);
        assert_eq!(boxes(&room), [""; 0], "{ended}");
        assert_eq!(room.state_files("claims"), [""; 0], "{ended}");
        ended
    };
    let _ = run(json!({"full": true})).says(&["ended with status 9", "no more hosts on the shelf"]);
    let _ = run(json!({"lies": {"slug": "other"}})).says(&["slug \"other\""]);
    let _ = run(json!({"lies": {"ssh": {"user": "ann"}}})).says(&["ssh.host"]);
    protocol(&room, &host, json!({"ssh": {"proxyCommand": "ssh -W %h:%p hop"}}));
    let ended = call(&room, &repo, &["run", "--", "true"]).run().expect(2);
    let _ = ended.says(&["proxyCommand", "ProxyJump"]);
    assert_eq!(boxes(&room), [""; 0]);
}

#[test]
fn a_repository_can_neither_name_an_adapter_nor_change_what_it_is_told() {
    let room = Room::new();
    let host = Sshd::start(&room);
    protocol(&room, &host, json!({}));
    let repo = room.repo("app");
    for (line, name) in [
        ("command: ./evil", "external.command"),
        ("args: [x]", "external.args"),
        ("config: {state: /tmp}", "external.config.state"),
        ("lifecycle: {acquire: {argv: [./evil]}}", "external.lifecycle.acquire"),
        ("connection: {ssh: {trustProviderOutput: true}}", "external.connection.ssh"),
    ] {
        fs::write(repo.join(".crabbox.yaml"), format!("external:\n  {line}\n")).unwrap();
        let refused = call(&room, &repo, &["run", "--", "true"]).run().expect(2);
        let _ = refused.says(&[name]);
    }
    assert_eq!(requests(&room), [Value::Null; 0]);
    room.configure("provider: external\nexternal:\n  command: ./adapter\n");
    fs::remove_file(repo.join(".crabbox.yaml")).unwrap();
    let refused = call(&room, &repo, &["run", "--", "true"]).run().expect(2);
    let _ = refused.says(&["./adapter is not a program with an absolute path"]);
    room.configure("provider: external\n");
    let refused = call(&room, &repo, &["run", "--", "true"]).run().expect(2);
    let _ = refused.says(&["no adapter is configured", "external.command"]);
}

fn declared(room: &Room, host: &Sshd, acquire: Value) {
    let tool = fixture("shelf.sh");
    let env = json!({"SHELF": "{{config.state}}", "SHELF_TOKEN": "{{env.SHELF_TOKEN}}"});
    configure(
        room,
        json!({
            "config": shelf(room, host),
            "workRoot": host.work_root,
            "lifecycle": {
                "doctor": {"argv": [tool, "check"]},
                "acquire": acquire,
                "list": {"argv": [tool, "names"], "output": "json-name-array", "namePrefix": "shelf-", "env": env},
                "release": {"argv": [tool, "remove", "{{resourceName}}"], "env": env},
            },
            "connection": {
                "resourceName": "shelf-{{leaseIdSlug}}",
                "serverType": "shelf",
                "ssh": {
                    "user": "{{config.user}}", "host": "{{config.host}}", "port": "{{config.port}}", "key": "{{config.key}}",
                },
            },
        }),
    );
}

#[test]
fn commands_in_the_configuration_make_list_and_remove_boxes() {
    let room = Room::new();
    let host = Sshd::start(&room);
    let repo = room.repo("app");
    let env = json!({"SHELF": "{{config.state}}", "SHELF_TOKEN": "{{env.SHELF_TOKEN}}"});
    let make = json!({"argv": [fixture("shelf.sh"), "make", "{{resourceName}}"], "env": env});
    declared(&room, &host, make);
    let ended = call(&room, &repo, &["run", "--", "sh", "-c", "cat hello.txt; exit 4"]).run();
    assert_eq!((ended.code, ended.out().as_str()), (4, "hello\n"), "{ended}");
    assert_eq!(boxes(&room), [""; 0]);
    let _ = call(&room, &repo, &["warmup", "--slug", "plum"]).run().expect(0);
    fs::write(room.at("shelf/shelf-of-somebody-else"), "").unwrap();
    let listed = call(&room, &repo, &["list"]).run().expect(0);
    assert!(listed.out().contains("plum"), "{listed}");
    assert!(!listed.out().contains("somebody"), "{listed}");
    for _ in 0..2 {
        let _ = call(&room, &repo, &["stop", "plum"]).run().expect(0);
        assert_eq!(boxes(&room), ["shelf-of-somebody-else"]);
    }
    let shown = call(&room, &repo, &["config", "show"]).run().expect(0);
    assert!(shown.out().contains("namePrefix"), "{shown}");
}

#[test]
fn a_declared_acquire_that_fails_half_way_is_rolled_back_and_a_secret_stays_off_the_command_line() {
    let room = Room::new();
    let host = Sshd::start(&room);
    let repo = room.repo("app");
    let env = json!({"SHELF": "{{config.state}}", "SHELF_TOKEN": "{{env.SHELF_TOKEN}}"});
    let step = json!({"argv": [fixture("shelf.sh"), "make", "{{resourceName}}", "broken"]});
    let steps = json!({"steps": [step], "env": env, "rollbackOnFailure": true});
    declared(&room, &host, steps);
    let ended = call(&room, &repo, &["run", "--", "true"]).run().expect(5);
    let _ = ended.says(&["ended with status 1"]);
    assert_eq!(boxes(&room), [""; 0]);
    let argv = json!([fixture("shelf.sh"), "make", "{{env.SHELF_TOKEN}}"]);
    declared(&room, &host, json!({"argv": argv, "env": env}));
    let ended = call(&room, &repo, &["run", "--", "true"]).run().expect(2);
    let _ = ended.says(&["allowEnvArgv"]);
    assert_eq!(boxes(&room), [""; 0]);
}

#[test]
fn the_kit_passes_with_an_adapter_in_both_modes() {
    let room = Room::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/external");
    let folder = folder.display().to_string();
    let config = json!({
        "state": room.at("shelf"), "host": "192.0.2.7", "port": 22, "user": "ann", "key": "/nowhere",
    });
    let command = format!("command={}", fixture("adapter.py").display());
    let config = format!("config={config}");
    let words =
        ["plugin", "test", &folder, "--patience", "10", "--set", &command, "--set", &config];
    let _ =
        room.crabbox(room.path(), words).limit(std::time::Duration::from_secs(180)).run().expect(0);
    assert_eq!(boxes(&room), [""; 0]);
    let tool = fixture("shelf.sh");
    let env = json!({"SHELF": room.at("shelf"), "SHELF_TOKEN": "t0p"});
    let lifecycle = json!({
        "acquire": {"argv": [tool, "make", "{{resourceName}}"], "env": env},
        "list": {"argv": [tool, "names"], "env": env},
        "release": {"argv": [tool, "remove", "{{resourceName}}"], "env": env},
    });
    let lifecycle = format!("lifecycle={lifecycle}");
    let connection = "connection={\"ssh\": {\"user\": \"ann\", \"host\": \"192.0.2.7\"}}";
    let words =
        ["plugin", "test", &folder, "--patience", "10", "--set", &lifecycle, "--set", connection];
    let _ =
        room.crabbox(room.path(), words).limit(std::time::Duration::from_secs(180)).run().expect(0);
    assert_eq!(boxes(&room), [""; 0]);
}
