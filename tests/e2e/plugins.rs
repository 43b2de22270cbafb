//! Plugins of one's own: begun, dropped in, agreed to, installed, changed and removed, without rebuilding crabbox.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::{Call, Ended, Room};

/// A room with a checkout and a plugin made from a template.
fn made(lang: &str, name: &str) -> (Room, PathBuf, PathBuf) {
    let room = Room::new();
    let repo = room.repo("app");
    let folder = room.template(lang, name);
    (room, repo, folder)
}

fn run(room: &Room, repo: &Path, words: &[&str]) -> Ended {
    room.crabbox(repo, words.iter().copied()).run()
}

/// Runs to this end, whatever it says.
fn ends(room: &Room, repo: &Path, words: &[&str], code: i32) {
    let ended = run(room, repo, words);
    assert_eq!(ended.code, code, "{ended}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The command that agrees, as the refusal says it.
fn agreement(refused: &Ended) -> Vec<String> {
    let error = refused.json()["error"].clone();
    assert_eq!(error["errorKind"], "plugin_untrusted", "{refused}");
    let hint = error["hint"].as_str().unwrap().to_owned();
    let words = hint.strip_prefix("to agree: crabbox ").unwrap();
    words.split(' ').map(str::to_owned).collect()
}

/// It runs commands, passes the test kit, and says what it is when it is started by hand.
fn a_template_works_unmodified(lang: &str, program: &str) {
    let (room, repo, folder) = made(lang, "rack");
    let dev = format!("--plugin-dev={}", folder.display());
    let story = "cat hello.txt; echo err >&2; exit 7";
    let ended = run(&room, &repo, &["run", &dev, "--provider", "rack", "--", "sh", "-c", story]);
    let ended = ended.expect(7);
    assert_eq!(ended.out(), "hello\n");
    assert!(ended.err().contains("err\n"), "{ended}");
    assert!(ended.err().contains("runs unchecked from"), "{ended}");
    let long = run(&room, &repo, &["run", "-q", &dev, "--provider", "rack", "--", "seq", "300000"]);
    assert_eq!(long.expect(0).out().lines().count(), 300_000);
    let missing = run(&room, &repo, &["run", &dev, "--provider", "rack", "--", "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing}");
    let killed = ["run", &dev, "--provider", "rack", "--", "sh", "-c", "kill -TERM $$"];
    ends(&room, &repo, &killed, 143);
    let by_hand = room.call(folder.join(program)).run().expect(64);
    assert!(by_hand.out().is_empty() && !by_hand.err().is_empty(), "{by_hand}");
    room.assert_no_claims();
    let kit = ["plugin", "test", "--json", "--patience", "10", &folder.display().to_string()];
    let kit = room.crabbox(&repo, kit).limit(Duration::from_secs(180)).run().expect(0);
    let provider = &kit.json()["providers"][0];
    assert_eq!(provider["failed"], 0, "{kit}");
    assert!(provider["passed"].as_u64() >= Some(45), "{kit}");
}

#[test]
fn the_python_template_works_unmodified() {
    a_template_works_unmodified("python", "provider.py");
}

#[test]
fn the_node_template_works_unmodified() {
    a_template_works_unmodified("node", "provider.mjs");
}

#[test]
fn the_go_template_works_once_built() {
    a_template_works_unmodified("go", "provider");
}

#[test]
fn the_rust_template_works_once_built() {
    a_template_works_unmodified("rust", "provider");
}

#[test]
fn a_package_leaves_out_what_a_build_can_make_again() {
    let (room, repo, folder) = made("python", "rack");
    let package = room.at("rack.cbxplugin");
    let pack = |room: &Room| {
        let out = package.display().to_string();
        ends(room, &repo, &["plugin", "pack", &folder.display().to_string(), "--output", &out], 0);
        fs::read(&package).unwrap()
    };
    let before = pack(&room);
    fs::create_dir(folder.join("target")).unwrap();
    fs::write(folder.join("target/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55")
        .unwrap();
    fs::write(folder.join("target/large"), "x").unwrap();
    assert_eq!(pack(&room), before);
    fs::remove_file(folder.join("target/CACHEDIR.TAG")).unwrap();
    assert_ne!(pack(&room), before, "an ordinary folder is part of the plugin");
}

#[test]
fn a_package_made_in_its_own_folder_is_no_part_of_itself() {
    let (room, repo, folder) = made("python", "rack");
    let outside = room.at("rack.cbxplugin").display().to_string();
    let inside = folder.join("rack-0.1.0.cbxplugin");
    ends(&room, &repo, &["plugin", "pack", &folder.display().to_string(), "--output", &outside], 0);
    for _ in 0..2 {
        ends(&room, &folder, &["plugin", "pack"], 0);
        assert!(fs::read(&inside).unwrap() == fs::read(&outside).unwrap());
    }
    let nowhere = ["plugin", "pack", "--output", "no/such/folder.cbxplugin"];
    let refused = run(&room, &folder, &nowhere).expect(1);
    assert!(refused.err().contains("--output"), "{refused}");
}

#[test]
fn what_a_folder_or_a_package_is_can_be_asked_before_it_is_installed() {
    let (room, repo, folder) = made("python", "rack");
    let folder = folder.display().to_string();
    let package = room.at("rack.cbxplugin").display().to_string();
    ends(&room, &repo, &["plugin", "pack", &folder, "--output", &package], 0);
    for path in [&folder, &package] {
        let info = run(&room, &repo, &["plugin", "info", "--json", path]).expect(0).json();
        let said = [&info["id"], &info["place"], &info["standing"], &info["folder"]];
        assert_eq!(said, ["example.dev/rack", "elsewhere", "asks", path.as_str()], "{info}");
    }
    assert!(!run(&room, &repo, &["plugin", "list"]).out().contains("rack"));
    let nowhere = "./no-such-folder";
    for (command, what) in [("info", "folder or package ./no-such"), ("pack", "there is no folder")]
    {
        let refused = run(&room, &repo, &["plugin", command, nowhere]).expect(4);
        assert!(refused.err().contains(what), "{refused}");
        let other = run(&room, &repo, &["plugin", command, "."]).expect(4);
        assert!(other.err().contains("it has no crabbox-plugin.toml"), "{other}");
    }
}

#[test]
fn a_package_that_was_damaged_on_its_way_is_refused() {
    let (room, repo, folder) = made("python", "rack");
    let package = room.at("rack.cbxplugin").display().to_string();
    let folder = folder.display().to_string();
    ends(&room, &repo, &["plugin", "pack", &folder, "--output", &package], 0);
    let good = fs::read(&package).unwrap();
    for at in (20..good.len()).step_by(good.len() / 16) {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        fs::write(&package, damaged).unwrap();
        let refused = run(&room, &repo, &["plugin", "info", &package]).expect(2);
        assert!(refused.err().contains("no usable plugin package"), "byte {at}: {refused}");
    }
}

#[test]
fn of_two_versions_in_one_place_the_one_that_counts_is_named() {
    let (room, repo, folder) = made("python", "rack");
    let shelf = PathBuf::from(run(&room, &repo, &["plugin", "path"]).expect(0).out().trim());
    copy(&folder, &shelf.join("one"));
    copy(&folder, &shelf.join("two"));
    let listed = run(&room, &repo, &["plugin", "list"]).expect(0);
    assert_eq!(listed.out().matches("example.dev/rack").count(), 1, "{listed}");
    let told =
        format!("{} counts, not {}", shelf.join("one").display(), shelf.join("two").display());
    assert!(listed.err().contains(&told), "{listed}");
}

#[test]
fn a_plugin_that_nobody_could_use_is_neither_packed_nor_proposed() {
    let (room, repo, folder) = made("python", "rack");
    let (manifest, settings, program) =
        ("crabbox-plugin.toml", "config.schema.json", folder.join("provider.py"));
    let one_of = r#"{"type": "object", "properties": {"row": {"oneOf": []}}}"#;
    let newer = fs::read_to_string(folder.join(manifest)).unwrap().replace("[\"1\"]", "[\"7\"]");
    let text = folder.display().to_string();
    let refused = |what: &str| {
        for words in [["plugin", "pack"], ["plugin", "install"]] {
            let ended = run(&room, &repo, &[words[0], words[1], &text]);
            assert!(ended.code != 0 && ended.err().contains(what), "{ended}");
            assert!(ended.err().contains("hint: "), "{ended}");
        }
    };
    for (file, bad, what) in [(manifest, &*newer, "protocol 7"), (settings, one_of, "oneOf")] {
        let good = fs::read(folder.join(file)).unwrap();
        fs::write(folder.join(file), bad).unwrap();
        refused(what);
        fs::write(folder.join(file), good).unwrap();
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    refused("provider.py cannot be executed");
    fs::remove_file(&program).unwrap();
    refused("provider.py is not there");
}

#[test]
fn what_the_kit_is_told_wrongly_is_refused_with_what_would_be_right() {
    let (room, repo, folder) = made("python", "rack");
    let folder = folder.display().to_string();
    for (option, value, right) in [
        ("--set", "row=1", "hint: its settings: root, greeting"),
        ("--cassette", "/no/such/file", "with --cassette"),
        ("--junit", "/no/such/file", "with --junit"),
        ("--only", "Z", "names every check"),
    ] {
        let words = ["plugin", "test", &folder, option, value];
        let words =
            words.into_iter().chain(["--only", "M1"].into_iter().filter(|_| option != "--only"));
        let refused = run(&room, &repo, &words.collect::<Vec<_>>());
        assert!(refused.code != 0 && refused.err().contains(right), "{refused}");
    }
}

#[test]
fn a_plugin_is_not_begun_under_a_name_that_its_manifest_could_not_have() {
    let room = Room::new();
    for words in
        [["Rack", "example.dev"], ["rack", "a \"b"], ["rack", "Example.dev"], ["..", "example.dev"]]
    {
        let [folder, publisher] = words;
        let new = ["plugin", "new", "--lang", "python", folder, "--publisher", publisher];
        let refused = run(&room, room.path(), &new).expect(2);
        assert!(refused.err().contains("cannot be a"), "{refused}");
        assert!(!room.at("rack").exists());
    }
}

#[test]
fn a_dropped_in_provider_has_flags_help_and_completions_and_runs_once_agreed_to() {
    let (room, repo, folder) = made("python", "rack");
    let shelf = PathBuf::from(run(&room, &repo, &["plugin", "path"]).expect(0).out().trim());
    let help = ["run", "--provider", "rack", "--help"];
    assert!(!run(&room, &repo, &help).out().contains("--rack-greeting"));
    copy(&folder, &shelf.join("rack"));
    assert!(run(&room, &repo, &help).out().contains("--rack-greeting"));
    let default = run(&room, &repo, &["run", "--help"]);
    let others = "Flags of other providers: crabbox run --provider NAME --help";
    assert!(default.out().contains(others) && !default.out().contains("--rack-"), "{default}");
    assert!(default.out().contains("--local-isolation"), "{default}");
    let slip = run(&room, &repo, &["run", "--rack-greetin", "x", "--", "true"]).expect(2);
    assert!(slip.err().contains("--rack-greeting"), "{slip}");
    assert!(run(&room, &repo, &["completions", "bash"]).out().contains("--rack-greeting"));
    let greet = ["run", "--json", "--provider", "rack", "--rack-greeting", "salut", "--", "pwd"];
    let refused = run(&room, &repo, &greet).expect(2);
    let wants = refused.json()["error"]["cause"].to_string();
    assert!(wants.contains("it is not confined (advisory)"), "{wants}");
    assert!(!room.state().join("plugins/example.dev-rack").exists(), "nothing of it ran");
    let agreed = agreement(&refused);
    ends(&room, &repo, &agreed.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    let ran = run(
        &room,
        &repo,
        &["run", "-q", "--provider", "rack", "--rack-greeting", "salut", "--", "cat", "hello.txt"],
    );
    assert_eq!(ran.expect(0).out(), "salut\nhello\n");

    // Another byte is another plugin.
    fs::write(shelf.join("rack/extra"), "x").unwrap();
    let changed =
        run(&room, &repo, &["run", "--json", "--provider", "rack", "--", "true"]).expect(2);
    assert!(changed.json()["error"]["message"].as_str().unwrap().contains("was changed"));
    std::os::unix::fs::symlink("/etc/passwd", shelf.join("rack/link")).unwrap();
    let list = run(&room, &repo, &["plugin", "list"]).expect(0).out();
    assert!(list.contains("crabbox/local") && list.contains("no: unusable files"), "{list}");
    let nowhere = run(&room, &repo, &["providers", "--plugin-dev", "/no/such/folder"]).expect(0);
    assert!(nowhere.err().contains("/no/such/folder"), "{nowhere}");
}

#[test]
fn leases_of_a_plugin_that_was_removed_can_be_used_and_stopped() {
    let (room, repo, folder) = made("python", "rack");
    let shelf = PathBuf::from(run(&room, &repo, &["plugin", "path"]).expect(0).out().trim());
    copy(&folder, &shelf.join("rack"));
    let refused = run(&room, &repo, &["warmup", "--json", "--provider", "rack"]).expect(2);
    let agreed = agreement(&refused);
    ends(&room, &repo, &agreed.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    ends(&room, &repo, &["warmup", "--provider", "rack", "--slug", "keepsake"], 0);
    fs::remove_dir_all(shelf.join("rack")).unwrap();
    assert!(!run(&room, &repo, &["providers"]).out().contains("rack"));
    ends(&room, &repo, &["plugin", "gc"], 0);
    let claims = run(&room, &repo, &["claims", "list", "--json"]).expect(0).out();
    let digest = claims.split("\"digest\": \"").nth(1).unwrap().split('"').next().unwrap();
    room.configure(&format!("plugins:\n  revoked: [\"{digest}\"]\n"));
    let revoked = run(&room, &repo, &["stop", "--json", "keepsake"]).expect(2);
    assert!(revoked.out().contains("plugin_untrusted"), "{revoked}");
    room.configure("plugins:\n  policy: first-party\n");
    let used = run(&room, &repo, &["run", "-q", "--id", "keepsake", "--", "cat", "hello.txt"]);
    assert_eq!(used.expect(0).out(), "hello\n");
    let stopped = run(&room, &repo, &["stop", "--json", "keepsake"]).expect(0);
    assert!(stopped.out().contains("\"released\""), "{stopped}");
    room.assert_no_claims();
}

#[test]
fn an_installed_package_is_listed_verified_updated_and_removed() {
    let (room, repo, folder) = made("python", "rack");
    let folder_text = folder.display().to_string();
    ends(&room, &repo, &["plugin", "pack", &folder_text], 0);
    let package = repo.join("rack-0.1.0.cbxplugin").display().to_string();
    let refused = run(&room, &repo, &["plugin", "install", "--json", &package]).expect(2);
    let hint = refused.json()["error"]["hint"].as_str().unwrap().to_owned();
    let grants = hint.rsplit(' ').next().unwrap();
    ends(&room, &repo, &["plugin", "install", &package, "--grants", grants], 0);
    let list = run(&room, &repo, &["plugin", "list", "--json"]).expect(0).json();
    let rack = list["plugins"].as_array().unwrap().iter().find(|p| p["id"] == "example.dev/rack");
    assert_eq!(rack.unwrap()["standing"], "yes", "{list}");
    let info = run(&room, &repo, &["plugin", "info", "rack", "--json"]).expect(0).json();
    assert_eq!(info["source"], package.as_str());
    assert_eq!(info["asks"][2]["level"], "advisory");
    ends(&room, &repo, &["plugin", "verify"], 0);
    let ran = run(&room, &repo, &["run", "-q", "--provider", "rack", "--", "echo", "one"]);
    assert_eq!(ran.expect(0).out(), "one\n");
    let whole = run(&room, &repo, &["plugin", "verify", "--json"]).expect(0).json();
    assert_eq!(whole["plugins"][0]["state"], "whole", "running it leaves nothing in it: {whole}");
    ends(&room, &repo, &["plugin", "update", "example.dev/rack"], 0);
    ends(&room, &repo, &["warmup", "--provider", "rack", "--slug", "keepsake"], 0);
    let removed = run(&room, &repo, &["plugin", "remove", "example.dev/rack"]).expect(0);
    assert!(removed.out().contains("gone: keepsake"), "{removed}");
    let new_box = ["run", "--provider", "rack", "--", "true"];
    let _ = run(&room, &repo, &new_box).expect(2).says(&["was removed", "claims list"]);
    let used = run(&room, &repo, &["run", "-q", "--id", "keepsake", "--", "echo", "two"]);
    assert_eq!(used.expect(0).out(), "two\n");
    assert!(!run(&room, &repo, &["plugin", "list"]).out().contains("rack"));
    let others = run(&room, &repo, &["list"]).expect(0);
    assert!(others.err().contains("of other providers: keepsake (rack); "), "{others}");
    let still = run(&room, &repo, &["list", "--provider", "rack"]).expect(0);
    assert!(still.out().contains("keepsake") && !still.err().contains("other"), "{still}");
    ends(&room, &repo, &["stop", "keepsake"], 0);
    ends(&room, &repo, &["list", "--provider", "rack"], 2);
}

#[test]
fn a_policy_a_repository_and_ci_cannot_be_talked_round() {
    let (room, repo, folder) = made("python", "rack");
    let dev = format!("--plugin-dev={}", folder.display());
    let words = ["run", "--json", &dev, "--provider", "rack", "--", "true"];
    room.configure("plugins:\n  policy: first-party\n");
    let refused = run(&room, &repo, &words).expect(2);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("`plugins.policy`"));
    room.configure("");
    fs::write(repo.join(".crabbox.yaml"), "plugins:\n  policy: all\n").unwrap();
    let refused = run(&room, &repo, &words).expect(2);
    assert_eq!(refused.json()["error"]["errorKind"], "config_untrusted", "{refused}");
    fs::remove_file(repo.join(".crabbox.yaml")).unwrap();
    let refused = room.crabbox(&repo, words).env("CI", "true").run().expect(2);
    assert_eq!(refused.json()["error"]["errorKind"], "plugin_untrusted", "{refused}");
}

#[test]
fn a_repository_can_require_a_plugin_and_lock_it_but_not_bring_it() {
    let (room, repo, folder) = made("python", "rack");
    let config = repo.join(".crabbox.yaml");
    fs::write(&config, "provider: rack\nplugins:\n  requires: [example.dev/rack@^0.1]\n").unwrap();
    let go = ["run", "--json", "--", "true"];
    let missing = run(&room, &repo, &go).expect(2);
    let hint = missing.json()["error"]["hint"].to_string();
    assert!(hint.contains("requires example.dev/rack@^0.1"), "{hint}");
    let source = folder.display().to_string();
    let refused = run(&room, &repo, &["plugin", "install", "--json", &source]).expect(2);
    let hint = refused.json()["error"]["hint"].as_str().unwrap().to_owned();
    let grants = hint.rsplit(' ').next().unwrap().to_owned();
    ends(&room, &repo, &["plugin", "install", &source, "--grants", &grants], 0);
    ends(&room, &repo, &go, 0);

    let shelf = PathBuf::from(run(&room, &repo, &["plugin", "path"]).expect(0).out().trim());
    fs::copy(shelf.join("crabbox.lock"), repo.join("crabbox.lock")).unwrap();
    ends(&room, &repo, &go, 0);
    fs::write(folder.join("more"), "x").unwrap();
    ends(&room, &repo, &["plugin", "update", "example.dev/rack"], 0);
    let other = run(&room, &repo, &go).expect(2);
    assert!(other.json()["error"]["message"].to_string().contains("is not the one"), "{other}");
    fs::remove_file(repo.join("crabbox.lock")).unwrap();
    fs::write(&config, "provider: rack\nplugins:\n  requires: [example.dev/rack@^2]\n").unwrap();
    let old = run(&room, &repo, &go).expect(2);
    assert_eq!(old.json()["error"]["errorKind"], "precondition", "{old}");
    let with_local = ["run", "--provider", "local", "--", "true"];
    let warned = run(&room, &repo, &with_local).expect(0);
    let _ = warned.says(&["requires the plugin example.dev/rack@^2, which is not here"]);
    fs::write(&config, "plugins:\n  requires: [nope]\n").unwrap();
    let _ = run(&room, &repo, &with_local).expect(2).says(&["nope names no plugin"]);
}

#[test]
fn a_stored_plugin_that_was_changed_is_neither_run_nor_agreed_to_anew() {
    let (room, repo, folder) = made("python", "rack");
    let source = folder.display().to_string();
    let refused = run(&room, &repo, &["plugin", "install", "--json", &source]).expect(2);
    let grants = agreement(&refused).pop().unwrap();
    ends(&room, &repo, &["plugin", "install", &source, "--grants", &grants], 0);
    let shelf = PathBuf::from(run(&room, &repo, &["plugin", "path"]).expect(0).out().trim());
    let copy = fs::read_dir(shelf.join("store")).unwrap().next().unwrap().unwrap().path();
    fs::create_dir(copy.join("__pycache__")).unwrap();
    fs::write(copy.join("__pycache__/crabbox_plugin.pyc"), "x").unwrap();
    let state = run(&room, &repo, &["plugin", "verify"]).expect(1);
    assert!(state.out().contains("example.dev/rack 0.1.0: changed"), "{state}");
    assert!(state.err().contains("plugin remove ID"), "{state}");
    let told = run(&room, &repo, &["plugin", "verify", "--json"]).expect(1).json();
    assert_eq!(told["plugins"][0]["state"], "changed", "one document, and no other: {told}");
    fs::remove_dir_all(copy.join("__pycache__")).unwrap();
    ends(&room, &repo, &["plugin", "verify"], 0);
    let program = copy.join("provider.py");
    let text = fs::read_to_string(&program).unwrap();
    fs::remove_file(&program).unwrap();
    fs::write(&program, format!("{text}\n# mine\n")).unwrap();
    let words = ["run", "--provider", "rack", "--", "true"];
    let _ = run(&room, &repo, &words).expect(2).says(&["was changed", "install it again"]);
}

#[test]
fn one_question_is_asked_by_hand_and_nothing_can_be_changed_so() {
    let (room, repo, folder) = made("python", "rack");
    let dev = format!("--plugin-dev={}", folder.display());
    let _ = run(&room, &repo, &["warmup", "-q", &dev, "--provider", "rack", "--slug", "blue"])
        .expect(0);
    let listed = run(&room, &repo, &["plugin", &dev, "run", "rack", "run.list"]).expect(0).json();
    let lease = listed["leases"][0].clone();
    let id = format!(r#"{{"id": {}, "purpose": "inspect"}}"#, lease["leaseId"]);
    let found = run(&room, &repo, &["plugin", &dev, "run", "rack", "run.status", &id]).expect(0);
    assert_eq!(found.json()["lease"], lease);
    let refused = run(&room, &repo, &["plugin", &dev, "run", "rack", "run.stop"]).expect(2);
    let _ = refused.says(&["not asked by hand", "run.list"]);
    let typo = run(&room, &repo, &["plugin", &dev, "run", "rack", "run.list", "[1]"]).expect(2);
    let _ = typo.says(&["no JSON object"]);
    let _ = run(&room, &repo, &["stop", &dev, lease["leaseId"].as_str().unwrap()]).expect(0);
}

#[test]
fn a_developers_plugin_is_unchecked_however_it_is_named_and_is_not_for_ci() {
    let (room, repo, folder) = made("python", "rack");
    let folder = folder.display().to_string();
    let go = ["--provider", "rack", "--", "true"];
    let by_name = || {
        let dev = format!("--plugin-dev={folder}");
        let words: Vec<String> =
            ["run".into(), dev].into_iter().chain(go.map(str::to_owned)).collect();
        room.crabbox(&repo, words)
    };
    let by_variable = || {
        let words = ["run"].into_iter().chain(go);
        room.crabbox(&repo, words).env("CRABBOX_PLUGIN_DIR", &folder)
    };
    for call in [&by_name as &dyn Fn() -> Call, &by_variable] {
        let ended = call().ok();
        assert!(ended.err().contains("runs unchecked from"), "{ended}");
        let _ = call().env("CI", "1").run().expect(2).says(&["not for CI"]);
    }
}

#[test]
fn what_a_plugin_prints_on_its_standard_error_is_shown_with_debug_alone() {
    let (room, repo, folder) = made("python", "rack");
    let program = folder.join("provider.py");
    let text = fs::read_to_string(&program).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let text =
        format!("{first}\nimport sys; print('a word from the rack', file=sys.stderr)\n{rest}");
    fs::write(&program, text).unwrap();
    let dev = format!("--plugin-dev={}", folder.display());
    for (more, shown) in [("--debug", true), ("--no-daemon", false)] {
        let ended = run(&room, &repo, &["run", &dev, more, "--provider", "rack", "--", "true"]);
        let ended = ended.expect(0);
        assert_eq!(ended.err().contains("a word from the rack"), shown, "{ended}");
    }
}
