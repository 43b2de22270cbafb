//! Every rule of precedence, place, trust and merging, told with real files.

use std::fs;
use std::path::Path;

use crabbox_schemas::error::ErrorCode;
use serde_json::json;

use super::block::{BlockRequest, Property};
use super::keys::Kind;
use super::*;
use crate::error::KernelError;

/// A user's folder and a repository with a folder two levels down.
struct Room {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("repo/a/b")).unwrap();
        fs::create_dir_all(root.join("user")).unwrap();
        let sources = Sources {
            cwd: root.join("repo/a/b"),
            git_root: Some(root.join("repo")),
            user_config_dir: root.join("user"),
            ..Sources::default()
        };
        Self { dir, sources }
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.dir.path().join(path);
        fs::write(&path, text).unwrap();
        chmod(&path, 0o600);
        self
    }

    fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.sources.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(&mut self, path: &str, value: &str) -> &mut Self {
        self.sources.flags.push((path.to_owned(), value.to_owned()));
        self
    }

    fn load(&self) -> (Settings, Vec<Warning>) {
        load(&self.sources).unwrap()
    }

    fn get(&self, path: &str) -> serde_json::Value {
        self.load().0.get(path).unwrap().value.clone()
    }

    fn fails(&self) -> KernelError {
        load(&self.sources).unwrap_err()
    }

    fn path(&self, path: &str) -> String {
        self.dir.path().canonicalize().unwrap().join(path).display().to_string()
    }
}

fn chmod(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn each_layer_beats_the_ones_below_it_and_is_remembered() {
    let mut room = Room::new();
    let (settings, _) = room.load();
    assert_eq!(settings.get("class").unwrap().from, Origin::default_value());
    for (file, layer) in [
        ("user/config.yaml", Layer::User),
        ("repo/crabbox.yaml", Layer::Repository),
        ("repo/.crabbox.yaml", Layer::RepositoryHidden),
    ] {
        room.write(file, &format!("ttl: 1h\nclass: {layer:?}\n"));
        let setting = room.load().0.get("class").unwrap().clone();
        assert_eq!(setting.value, format!("{layer:?}"));
        assert_eq!(setting.from.layer, layer);
        assert_eq!(setting.from.place, room.path(file) + ":2");
    }
    room.env("CRABBOX_DEFAULT_CLASS", "from-env");
    assert_eq!(room.get("class"), "from-env");
    assert_eq!(room.load().0.origin("class").place, "env CRABBOX_DEFAULT_CLASS");
    room.flag("class", "from-flag");
    assert_eq!(room.get("class"), "from-flag");
    assert_eq!(room.load().0.origin("class").place, "--class");
}

#[test]
fn the_nearest_file_counts_and_the_search_ends_at_the_work_tree() {
    let mut room = Room::new();
    room.write("crabbox.yaml", "class: outside\n");
    assert_eq!(room.get("class"), "beast");
    room.write("repo/crabbox.yaml", "class: root\nttl: 2h\n");
    assert_eq!(room.get("class"), "root");
    room.write("repo/a/crabbox.yaml", "class: near\n");
    assert_eq!(room.get("class"), "near");
    assert_eq!(room.get("ttl"), "1h30m0s", "one file per name");
    room.sources.git_root = None;
    assert_eq!(room.get("class"), "beast", "without git only the folder itself counts");
    room.write("repo/a/b/.crabbox.yaml", "class: here\n");
    assert_eq!(room.get("class"), "here");
}

#[test]
fn crabbox_config_replaces_every_file() {
    let mut room = Room::new();
    room.write("user/config.yaml", "class: user\nttl: 2h\n");
    room.write("repo/crabbox.yaml", "class: repo\n");
    room.write("only.yaml", "class: only\nssh:\n  user: me\n");
    let only = room.path("only.yaml");
    room.env("CRABBOX_CONFIG", &only);
    assert_eq!(room.get("class"), "only");
    assert_eq!(room.get("ttl"), "1h30m0s");
    assert_eq!(room.get("ssh.user"), "me");
    room.env("CRABBOX_CONFIG", "/nowhere/at/all.yaml");
    assert_eq!(room.fails().code, ErrorCode::Config);
}

#[test]
fn bad_values_are_passed_over_with_file_and_line() {
    let mut room = Room::new();
    room.write("user/config.yaml", "ttl: 2h\n");
    room.write(
        "repo/crabbox.yaml",
        "# comment\nttl: soon\nsync:\n  warnFiles: many\n  delete: perhaps\nclass: [a]\nenv: 3\n",
    );
    room.env("CRABBOX_CAPACITY_MARKET", "flea");
    let (settings, warnings) = room.load();
    assert_eq!(settings.get("ttl").unwrap().value, "2h0m0s");
    assert_eq!(settings.get("sync.warnFiles").unwrap().value, 50_000);
    let file = room.path("repo/crabbox.yaml");
    let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    for (line, part) in [(2, "soon"), (4, "many"), (5, "perhaps"), (6, "not a list"), (7, "`env`")]
    {
        let place = format!("{file}:{line}: ");
        assert!(
            said.iter().any(|w| w.starts_with(&place) && w.contains(part)),
            "{part}: {said:#?}"
        );
    }
    assert!(said.iter().any(|w| w.contains("env CRABBOX_CAPACITY_MARKET")), "{said:#?}");
    assert_eq!(warnings.len(), 6);
}

#[test]
fn broken_files_impossible_targets_and_bad_flags_are_errors() {
    let mut room = Room::new();
    room.write("repo/crabbox.yaml", "ttl: 1h\ntarget: plan9\n");
    let error = room.fails();
    assert_eq!(error.code, ErrorCode::Config);
    assert!(error.message.contains("crabbox.yaml:2"), "{error}");
    room.write("repo/crabbox.yaml", "network: pigeon\n");
    assert_eq!(room.fails().code, ErrorCode::Config);
    room.write("repo/crabbox.yaml", "a: 1\n  b: ]\n");
    let error = room.fails();
    assert_eq!(error.code, ErrorCode::Config);
    assert!(error.message.contains("crabbox.yaml:2"), "{error}");
    room.write("repo/crabbox.yaml", &format!("a: {}\n", "x".repeat(1 << 20)));
    assert!(room.fails().to_string().contains("1 MiB"));
    room.write("repo/crabbox.yaml", "");
    room.flag("ttl", "soon");
    let error = room.fails();
    assert_eq!(error.code, ErrorCode::Usage);
    assert!(error.message.contains("--ttl"), "{error}");
}

#[test]
fn empty_values_are_not_set_and_empty_lists_are() {
    let mut room = Room::new();
    room.write("user/config.yaml", "class: \"\"\nttl:\nssh:\n  fallbackPorts: []\nsync:\n");
    room.env("CRABBOX_PROFILE", "");
    let (settings, warnings) = room.load();
    assert_eq!(settings.get("class").unwrap().value, "beast");
    assert_eq!(settings.get("ttl").unwrap().value, "1h30m0s");
    assert_eq!(settings.get("profile").unwrap().value, "default");
    assert_eq!(settings.get("ssh.fallbackPorts").unwrap().value, json!([]));
    assert_eq!(warnings, []);
}

#[test]
fn a_repository_names_variables_one_by_one_and_none_that_sounds_like_a_secret() {
    let room = Room::new();
    room.write("repo/crabbox.yaml", "env:\n  allow: [CI, RUST_LOG]\n");
    assert_eq!(room.get("env.allow"), json!(["CI", "RUST_LOG"]));
    for named in ["'*'", "NODE_*", "GITHUB_TOKEN", "aws_secret_access_key", "DEPLOY_PASSWORD"] {
        room.write("repo/crabbox.yaml", &format!("env:\n  allow: [CI, {named}]\n"));
        assert_eq!(room.fails().code, ErrorCode::ConfigUntrusted, "{named}");
    }
    room.write("repo/crabbox.yaml", "");
    room.write("user/config.yaml", "env:\n  allow: ['*']\n");
    assert_eq!(room.get("env.allow"), json!(["*"]), "the user may");
}

#[test]
fn excludes_add_up_and_other_lists_are_replaced() {
    let room = Room::new();
    room.write(
        "user/config.yaml",
        "sync:\n  excludes: [a, b]\nenv:\n  allow: [CI, X]\nresults:\n  junit: one.xml\n",
    );
    room.write("repo/crabbox.yaml", "sync:\n  exclude: [b, c]\nenv:\n  allow: [Y]\n");
    room.write("repo/.crabbox.yaml", "sync:\n  exclude: d\n  excludes: [e]\n");
    let (settings, _) = room.load();
    let mut excludes = settings.values().sync.exclude;
    excludes.sort();
    assert_eq!(excludes, ["a", "b", "c", "d", "e"]);
    assert_eq!(settings.values().env_allow, ["Y"]);
    assert_eq!(settings.values().results_junit, ["one.xml"]);
}

#[test]
fn other_spellings_mean_the_same_and_the_own_path_wins() {
    let mut room = Room::new();
    room.write(
        "repo/crabbox.yaml",
        "targetOS: Darwin\ntailscale:\n  network: public\nlease:\n  ttl: 2h\n",
    );
    assert_eq!(room.get("target"), "macos");
    assert_eq!(room.get("network"), "public");
    assert_eq!(room.get("lease.ttl"), "2h0m0s");
    room.write("repo/crabbox.yaml", "ttl: 3h\nlease:\n  ttl: 2h\n");
    assert_eq!(room.get("ttl"), "3h0m0s");
    room.env("CRABBOX_TARGET_OS", "linux").env("CRABBOX_ENV_ALLOW", "A, B");
    assert_eq!(room.get("target"), "linux");
    assert_eq!(room.get("env.allow"), json!(["A", "B"]));
    room.flag("results.junit", "a.xml").flag("results.junit", "b.xml");
    assert_eq!(room.get("results.junit"), json!(["a.xml", "b.xml"]));
}

#[test]
fn a_profile_lies_above_its_own_file_and_below_the_environment() {
    let mut room = Room::new();
    room.write(
        "repo/crabbox.yaml",
        "class: plain\nprofiles:\n  ci:\n    class: big\n    ttl: 4h\n  default:\n    class: usual\n",
    );
    assert_eq!(room.get("class"), "usual");
    room.flag("profile", "ci");
    assert_eq!(room.get("class"), "big");
    assert_eq!(room.load().0.origin("class").profile.as_deref(), Some("ci"));
    room.write("repo/.crabbox.yaml", "class: higher-file\n");
    assert_eq!(room.get("class"), "higher-file");
    room.env("CRABBOX_TTL", "5h");
    assert_eq!(room.get("ttl"), "5h0m0s");
    room.sources.flags.clear();
    room.write("user/config.yaml", "profile: ci\n");
    room.sources.env.clear();
    assert_eq!(room.get("ttl"), "4h0m0s");
    room.env("CRABBOX_PROFILE", "other");
    assert_eq!(room.get("ttl"), "1h30m0s");
}

#[test]
fn a_repository_may_not_set_what_is_the_users_unless_trusted() {
    let mut room = Room::new();
    let text = "ssh:\n  user: mallory\ncoordinator: https://evil.example\nclass: fine\n";
    room.write("repo/.crabbox.yaml", text);
    let error = room.fails();
    assert_eq!(error.code, ErrorCode::ConfigUntrusted);
    for part in ["`ssh.user`", ".crabbox.yaml:2", "`coordinator`", ".crabbox.yaml:3"] {
        assert!(error.message.contains(part), "{error}");
    }
    assert!(error.hint.unwrap().contains("trust.repositories"));
    room.write(
        "repo/.crabbox.yaml",
        &format!("trust:\n  repositories: [{}]\n{text}", room.path("repo")),
    );
    assert_eq!(room.fails().code, ErrorCode::ConfigUntrusted, "it cannot vouch for itself");
    room.write(
        "repo/.crabbox.yaml",
        &format!("profiles:\n  default:\n    {}", text.lines().last().unwrap()),
    );
    assert_eq!(room.get("class"), "fine");
    room.write("repo/.crabbox.yaml", "profiles:\n  default:\n    plugins:\n      path: [/tmp]\n");
    assert_eq!(room.fails().code, ErrorCode::ConfigUntrusted, "nor through a profile");
    room.write("repo/.crabbox.yaml", text);
    room.write("user/config.yaml", "trust:\n  repositories: [/elsewhere, ~/repo]\n");
    assert_eq!(room.fails().code, ErrorCode::ConfigUntrusted);
    let home = room.path("");
    room.env("HOME", &home);
    assert_eq!(room.get("ssh.user"), "mallory");
}

#[test]
fn unknown_settings_are_kept_and_never_refused() {
    let room = Room::new();
    room.write("repo/crabbox.yaml", "wibble: 3\nsync:\n  wobble: 1\nacme:\n  region: north\n");
    let (settings, warnings) = room.load();
    assert_eq!(warnings, []);
    let unknown: Vec<&str> = settings.unknown.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(unknown, ["wibble", "sync.wobble"]);
    assert_eq!(settings.entries()[0].path, "acme.region");
    assert_eq!(settings.entries()[0].value, "north");
}

#[test]
fn a_users_file_others_can_read_is_warned_of() {
    let room = Room::new();
    room.write("user/config.yaml", "class: x\n");
    assert_eq!(room.load().1, []);
    chmod(&room.dir.path().join("user/config.yaml"), 0o644);
    let (settings, warnings) = room.load();
    assert!(warnings[0].message.contains("chmod 600"), "{warnings:?}");
    assert!(settings.files[0].is_exposed());
    assert_eq!(settings.files[0].mode, Some(0o644));
}

fn property(name: &str, kind: Kind, env: &[&str], user_only: bool) -> Property {
    let env = env.iter().map(|name| (*name).to_owned()).collect();
    let flag = Some(format!("acme-{name}"));
    Property { name: name.to_owned(), kind, flag, env, user_only, secret: false, fallback: None }
}

#[test]
fn a_general_setting_counts_where_the_provider_has_none_of_its_own() {
    let mut room = Room::new();
    room.write("user/config.yaml", "ssh:\n  user: me\nacme:\n  port: \"7\"\n");
    room.env("CRABBOX_SSH_PORT", "2200");
    let mut properties =
        [property("user", Kind::Text, &[], true), property("port", Kind::Integer, &[], true)];
    properties[0].fallback = Some("ssh.user".to_owned());
    properties[1].fallback = Some("ssh.port".to_owned());
    let block = |room: &Room, names: &[&str]| {
        let request =
            BlockRequest { names, properties: &properties, env: &room.sources.env, flags: &[] };
        json!(room.load().0.provider_block(&request).unwrap().values)
    };
    assert_eq!(block(&room, &["acme"]), json!({"user": "me", "port": 7}));
    assert_eq!(block(&room, &["other"]), json!({"user": "me", "port": 2200}));
    let quiet = Room::new();
    assert_eq!(block(&quiet, &["acme"]), json!({}), "a default is nobody's word");
}

#[test]
fn a_variable_that_holds_a_secret_is_named_and_never_copied() {
    let mut room = Room::new();
    room.env("ACME_TOKEN", "t0p-secret").env("ACME_KEY", "file:/keys/acme");
    let secret = |name: &str, env: &str| Property {
        secret: true,
        ..property(name, Kind::Text, &[env], true)
    };
    let properties = [secret("token", "ACME_TOKEN"), secret("key", "ACME_KEY")];
    let request = BlockRequest {
        names: &["acme"],
        properties: &properties,
        env: &room.sources.env,
        flags: &[],
    };
    let block = room.load().0.provider_block(&request).unwrap();
    assert_eq!(json!(block.values), json!({"token": "env:ACME_TOKEN", "key": "file:/keys/acme"}));
}

#[test]
fn a_providers_block_is_merged_from_every_layer_and_spelling() {
    let mut room = Room::new();
    room.write(
        "user/config.yaml",
        "old-acme:\n  region: north\n  size: 2\n  host: h\n  disk:\n    gb: 5\n    kind: ssd\n",
    );
    room.env("ACME_DISK", "7");
    room.write(
        "repo/crabbox.yaml",
        "providers:\n  acme:\n    size: 3\n    mystery: 1\nacme:\n  size: 4\n",
    );
    room.env("ACME_ZONES", "a,b").env("CRABBOX_ACME_SIZE", "");
    let properties = [
        property("region", Kind::Text, &[], false),
        property("size", Kind::Integer, &["CRABBOX_ACME_SIZE"], false),
        property("zones", Kind::List, &["CRABBOX_ACME_ZONES", "ACME_ZONES"], false),
        property("work-root", Kind::Text, &[], false),
        property("host", Kind::Text, &[], true),
        property("disk.gb", Kind::Integer, &["ACME_DISK"], false),
        property("disk.kind", Kind::Text, &[], false),
    ];
    let ask = |room: &Room, flags: &[(String, String)]| {
        room.load().0.provider_block(&BlockRequest {
            names: &["acme", "old-acme"],
            properties: &properties,
            env: &room.sources.env,
            flags,
        })
    };
    let block = ask(&room, &[]).unwrap();
    assert_eq!(
        json!(block.values),
        json!({"region": "north", "size": 3, "host": "h",
        "disk": {"gb": 7, "kind": "ssd"}, "zones": ["a", "b"]})
    );
    assert_eq!(block.origins["size"].place, room.path("repo/crabbox.yaml") + ":3");
    assert_eq!(block.origins["zones"].place, "env ACME_ZONES");
    assert_eq!(block.unknown[0].path, "providers.acme.mystery");
    assert_eq!(block.unknown[0].why, "the provider has no such setting");
    room.env("ACME_DISK", "much").write("repo/crabbox.yaml", "acme:\n  sise: 4\n");
    let block = ask(&room, &[]).unwrap();
    let told = [&block.unknown[0], &block.wrong[0]].map(ToString::to_string);
    let place = room.path("repo/crabbox.yaml");
    assert_eq!(
        told,
        [
            format!(
                "{place}:2: `acme.sise`: the provider has no such setting; perhaps `size` was meant"
            ),
            "env ACME_DISK: `disk.gb`: \"much\" is not a whole number".to_owned(),
        ]
    );
    let block =
        ask(&room, &[("size".into(), "9".into()), ("work-root".into(), "/w".into())]).unwrap();
    assert_eq!((&block.values["size"], &block.values["work-root"]), (&json!(9), &json!("/w")));
    assert_eq!(block.origins["size"].place, "--acme-size");
    room.write("repo/crabbox.yaml", "acme:\n  workRoot: /r\n  host: evil.example\n");
    let error = ask(&room, &[]).unwrap_err();
    assert_eq!(error.code, ErrorCode::ConfigUntrusted);
    assert!(error.message.contains("`acme.host`") && error.message.contains(":3"), "{error}");
    room.write("repo/crabbox.yaml", "acme:\n  workRoot: /r\n");
    assert_eq!(ask(&room, &[]).unwrap().values["work-root"], "/r");
}

#[test]
fn a_table_keeps_its_names_is_merged_by_them_and_is_the_users_when_it_says_so() {
    let mut room = Room::new();
    room.write("user/config.yaml", "acme:\n  config:\n    Time-Limit: 2h\n    deep: {a: [1]}\n");
    let properties = [
        property("config", Kind::Table, &["ACME_CONFIG"], true),
        property("notes", Kind::Table, &[], false),
    ];
    let ask = |room: &Room, flags: &[(String, String)]| {
        let names = &["acme"];
        room.load().0.provider_block(&BlockRequest {
            names,
            properties: &properties,
            env: &room.sources.env,
            flags,
        })
    };
    room.write("repo/crabbox.yaml", "acme:\n  notes:\n    by: us\n");
    let block = ask(&room, &[]).unwrap();
    let config = json!({"Time-Limit": "2h", "deep": {"a": [1]}});
    assert_eq!(json!(block.values), json!({"config": config, "notes": {"by": "us"}}));
    assert_eq!(block.unknown, []);
    room.env("ACME_CONFIG", r#"{"x": 1}"#);
    assert_eq!(ask(&room, &[]).unwrap().values["config"], json!({"x": 1}));
    let flag = |text: &str| [("config".to_owned(), text.to_owned())];
    assert_eq!(ask(&room, &flag("{}")).unwrap().values["config"], json!({}));
    assert_eq!(ask(&room, &flag("[1]")).unwrap_err().code, ErrorCode::Usage);
    room.write("repo/crabbox.yaml", "acme:\n  config:\n    x: 1\n");
    let error = ask(&room, &[]).unwrap_err();
    assert_eq!(error.code, ErrorCode::ConfigUntrusted);
    assert!(error.message.contains("`acme.config.x`"), "{error}");
}

#[test]
fn the_plain_values_are_the_documented_defaults() {
    let values = Settings::defaults().values();
    assert_eq!(values.provider, None);
    assert_eq!((values.target.as_str(), values.class.as_str()), ("linux", "beast"));
    assert_eq!((values.ttl.as_secs(), values.idle_timeout.as_secs()), (5400, 1800));
    assert_eq!((values.ssh.port, values.ssh.fallback_ports), (2222, vec![22]));
    assert_eq!(values.env_allow, ["CI", "NODE_OPTIONS"]);
    assert_eq!((values.sync.warn_files, values.sync.fail_bytes), (50_000, 20 << 30));
    assert_eq!((values.history.max_runs, values.history.max_bytes), (200, 64 << 20));
    assert_eq!(values.history.max_age.as_secs(), 30 * 86_400);
}
