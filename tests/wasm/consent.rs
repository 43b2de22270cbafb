//! What a component could ever reach is read before anybody agrees to it.

use std::fs;
use std::path::{Path, PathBuf};

use crabbox_tests::{Ended, Room, Sshd};

use crate::guest::{Guest, asking, our_component, shared_cache};
use crate::provider::only_component;

/// A plugin whose component is this guest.
fn plugin(room: &Room, guest: &Guest, grants: &str) -> PathBuf {
    let folder = room.at("toy");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("toy.wasm"), guest.wasm()).unwrap();
    let manifest = format!(
        r#"manifest = 1
id = "example.dev/toy"
version = "1.0.0"
protocols = ["1"]
description = "A toy"
license = "MIT"

[[provider]]
name = "toy"
kind = "ssh-lease"
targets = ["linux"]

[[artifact]]
runtime = "wasm"
path = "toy.wasm"

[grants]
{grants}
"#
    );
    fs::write(folder.join("crabbox-plugin.toml"), manifest).unwrap();
    folder
}

fn install(room: &Room, folder: &Path) -> Ended {
    let folder = folder.display().to_string();
    room.crabbox(room.path(), ["plugin", "install", &folder]).run()
}

#[test]
fn importing_a_power_that_was_not_asked_for_is_refused() {
    let room = Room::new();
    let granted = [
        ("http", "send", r#"http = [{ origin = "https://api.example.dev" }]"#),
        ("ws", "open", r#"http = [{ origin = "https://api.example.dev" }]"#),
        ("exec", "run", r#"exec = ["toyctl"]"#),
        ("reveal", "reveal", r#"secrets = [{ name = "token", env = ["TOY_TOKEN"] }]"#),
    ];
    for (interface, function, grant) in granted {
        let folder = plugin(&room, &asking(interface, function), "");
        let ended = install(&room, &folder).expect(2);
        let says = format!(
            "imports crabbox:plugin/{interface}@1.0.0, which its manifest does not ask for"
        );
        assert!(ended.err().contains(&says), "{ended}");
        // With the grant nobody stands in the way but the user, who is told how strongly it binds.
        let folder = plugin(&room, &asking(interface, function), grant);
        let ended = install(&room, &folder).expect(2);
        assert!(ended.err().contains("(enforced)"), "{ended}");
        assert!(!ended.err().contains("advisory"), "{ended}");
        assert!(ended.err().contains("--grants sha256:"), "{ended}");
    }
    let folder = plugin(&room, &asking("teleport", "go"), "");
    let ended = install(&room, &folder).expect(2);
    assert!(ended.err().contains("teleport@1.0.0, which crabbox does not have"), "{ended}");
}

#[test]
fn installing_compiles_and_what_was_installed_is_what_runs() {
    let room = Room::new();
    let folder = plugin(&room, &asking("kv", "get"), "").display().to_string();
    let ended = room.crabbox(room.path(), ["plugin", "install", &folder]).run().expect(2);
    let agreed = ended.err().split("--grants ").nth(1).unwrap().trim().to_owned();
    let agreed = agreed.split_whitespace().next().unwrap().to_owned();
    let cache = room.at("cache");
    let words = ["plugin", "install", &folder, "--grants", &agreed];
    let cached = cache.display().to_string();
    let _ = room.crabbox(room.path(), words).env("XDG_CACHE_HOME", cached).ok();
    assert_eq!(fs::read_dir(cache.join("crabbox/wasm")).unwrap().count(), 1);
    let info = room.crabbox(room.path(), ["plugin", "info", "example.dev/toy"]).ok();
    for says in ["runs as: wasm", "may run: yes", "crabbox:plugin/kv@1.0.0 (part of every call)"] {
        assert!(info.out().contains(says), "{info}");
    }
}

#[test]
fn what_a_component_imports_can_be_listed() {
    let room = Room::new();
    let folder = plugin(&room, &asking("kv", "get"), "");
    let file = folder.join("toy.wasm").display().to_string();
    let shown = room.crabbox(room.path(), ["plugin", "info", &file]).ok();
    let lines = [
        "  - crabbox:plugin/kv@1.0.0 (part of every call)",
        "  - crabbox:plugin/types@1.0.0 (part of every call)",
    ];
    assert!(lines.iter().all(|line| shown.out().contains(line)), "{shown}");
    fs::write(folder.join("toy.wasm"), "not so").unwrap();
    let ended = room.crabbox(room.path(), ["plugin", "info", &file]).run();
    assert!(ended.err().contains("is no WebAssembly"), "{ended}");
}

#[test]
fn our_component_imports_no_power_at_all() {
    let Some(component) = our_component("ssh") else { return };
    let room = Room::new();
    let file = component.display().to_string();
    let shown = room.crabbox(room.path(), ["plugin", "info", "--json", &file]).ok().json();
    let imports = shown["imports"].as_array().unwrap();
    let names: Vec<_> = imports.iter().map(|import| import["name"].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with("wasi:sockets")), "{names:?}");
    let powers = ["http", "ws", "exec", "reveal"].map(|power| format!("crabbox:plugin/{power}@"));
    assert!(!names.iter().any(|n| powers.iter().any(|p| n.starts_with(p.as_str()))), "{names:?}");
    let unknown = imports.iter().any(|import| import["power"] == "unknown");
    assert!(!unknown, "{shown}");
}

#[test]
fn a_component_of_the_sdk_is_installed_like_any_other() {
    let room = Room::new();
    let Some(folder) = only_component(&room, "ssh") else { return };
    let manifest = folder.join("crabbox-plugin.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let text = text.replace("crabbox/ssh", "example.dev/myssh").replace("\"ssh\"", "\"myssh\"");
    let text = text.replace("\"static\", \"static-ssh\"", "");
    fs::write(&manifest, text).unwrap();
    let away = room.at("away");
    fs::rename(&folder, &away).unwrap();
    let ended = install(&room, &away).expect(2);
    let agreed = ended.err().split("--grants ").nth(1).unwrap().trim().to_owned();
    let words = ["plugin", "install", &away.display().to_string(), "--grants", &agreed];
    let _ = room.crabbox(room.path(), words).ok();
    let info = room.crabbox(room.path(), ["plugin", "info", "example.dev/myssh"]).ok();
    assert!(info.out().contains("may run: yes"), "{info}");
}

#[test]
fn a_setting_swaps_the_program_for_the_component() {
    if our_component("ssh").is_none() {
        return;
    }
    let room = Room::new();
    let sshd = Sshd::start(&room);
    room.configure(&format!("{}plugins:\n  runtime: [ssh=wasm]\n", sshd.config()));
    let info = room.crabbox(room.path(), ["plugin", "info", "ssh"]).ok();
    assert!(info.out().contains("runs as: wasm"), "{info}");
    let repo = room.repo("app");
    let ran = room
        .crabbox(&repo, ["run", "--", "cat", "hello.txt"])
        .env("XDG_CACHE_HOME", shared_cache().display().to_string())
        .ok();
    assert_eq!(ran.out(), "hello\n");
    room.configure(&format!("{}plugins:\n  runtime: [ssh=jet]\n", sshd.config()));
    let ended = room.crabbox(&repo, ["run", "--", "true"]).run().expect(2);
    assert!(ended.err().contains("ssh=wasm") || ended.err().contains("provider=wasm"), "{ended}");
}
