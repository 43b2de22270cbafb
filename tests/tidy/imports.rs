//! Who may import whom. The most heavily reviewed lines of a change are the ones that move this table.

use std::process::Command;

use serde_json::Value;

/// Crate, and the crates of ours it may import.
const TABLE: &[(&str, &[&str])] = &[
    ("crabbox-schemas", &[]),
    ("crabbox-wire", &["crabbox-schemas"]),
    ("crabbox-tree", &[]),
    ("crabbox-cassette", &["crabbox-schemas"]),
    ("crabbox-kernel", &["crabbox-schemas", "crabbox-tree", "crabbox-wire"]),
    ("crabbox-helper", &["crabbox-schemas", "crabbox-tree", "crabbox-wire"]),
    ("crabbox-daemon", &["crabbox-schemas", "crabbox-wire", "crabbox-kernel"]),
    ("crabbox-fetch", &["crabbox-schemas", "crabbox-kernel"]),
    ("crabbox-net", &["crabbox-schemas", "crabbox-wire"]),
    (
        "crabbox-kit",
        &["crabbox-schemas", "crabbox-cassette", "crabbox-wire", "crabbox-net", "crabbox-plugins"],
    ),
    ("crabbox-plugins", &["crabbox-schemas", "crabbox-kernel"]),
    (
        "crabbox-host",
        &["crabbox-schemas", "crabbox-wire", "crabbox-kernel", "crabbox-net", "crabbox-plugins"],
    ),
    ("crabbox-remote", &["crabbox-schemas", "crabbox-wire", "crabbox-kernel"]),
    ("crabbox-native", &[]),
    (
        "crabbox-plugin-sdk",
        &["crabbox-schemas", "crabbox-cassette", "crabbox-native", "crabbox-wire"],
    ),
    ("crabbox-box-server", &[]),
    ("crabbox-provider-aws", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-azure", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-container", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-daytona", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-external", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-hetzner", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-blacksmith", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-islo", &["crabbox-plugin-sdk"]),
    ("crabbox-provider-local", &["crabbox-box-server", "crabbox-plugin-sdk"]),
    ("crabbox-provider-ssh", &["crabbox-plugin-sdk"]),
    ("crabbox-native-runner", &["crabbox-native", "crabbox-plugin-sdk"]),
    ("crabbox-wasm-runner", &["crabbox-schemas", "crabbox-plugin-sdk"]),
    ("crabbox-wasm-compile", &["crabbox-wasm-runner"]),
    (
        "crabbox-cli",
        &[
            "crabbox-schemas",
            "crabbox-kernel",
            "crabbox-plugins",
            "crabbox-fetch",
            "crabbox-host",
            "crabbox-kit",
            "crabbox-remote",
            "crabbox-daemon",
        ],
    ),
    (
        "crabbox-tests",
        &[
            "crabbox-schemas",
            "crabbox-wire",
            "crabbox-plugin-sdk",
            "crabbox-cli",
            "crabbox-box-server",
        ],
    ),
    ("crabbox-bench", &["crabbox-tests", "crabbox-kernel", "crabbox-plugin-sdk"]),
];

/// Crate, and what it must never pull in directly.
const NEVER: &[(&str, &[&str])] = &[
    ("crabbox-schemas", &["tokio", "clap", "russh", "reqwest"]),
    ("crabbox-wire", &["tokio", "clap", "russh", "reqwest"]),
    ("crabbox-net", &["clap", "russh", "crabbox-kernel"]),
    (
        "crabbox-kernel",
        &[
            "clap",
            "reqwest",
            "hyper",
            "russh",
            "wasmtime",
            "jsonschema",
            "sqlx",
            "rusqlite",
            "indicatif",
        ],
    ),
    ("crabbox-plugin-sdk", &["clap", "russh", "reqwest", "wasmtime"]),
    ("crabbox-plugins", &["wasmtime"]),
    ("crabbox-host", &["wasmtime"]),
    ("crabbox-cli", &["wasmtime"]),
];

#[expect(clippy::disallowed_methods, reason = "asks cargo what the workspace holds")]
fn packages() -> Vec<Value> {
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(crate::root())
        .output()
        .expect("cargo runs");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let document: Value = serde_json::from_slice(&asked.stdout).expect("cargo metadata is JSON");
    document["packages"].as_array().expect("packages").clone()
}

/// Names a package depends on, its tests' own dependencies left out.
fn dependencies(package: &Value) -> Vec<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|d| d["kind"] != "dev")
        .filter_map(|d| Some(d["name"].as_str()?.to_owned()))
        .collect()
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for package in packages() {
        let name = package["name"].as_str().expect("a name").to_owned();
        let Some((_, allowed)) = TABLE.iter().find(|row| row.0 == name) else {
            broken.push(format!("{name} is not in the import table"));
            continue;
        };
        let never = NEVER.iter().find(|row| row.0 == name).map_or(&[][..], |row| row.1);
        for import in dependencies(&package) {
            if import.starts_with("crabbox-") && !allowed.contains(&import.as_str()) {
                broken.push(format!("{name} imports {import}"));
            }
            if never.contains(&import.as_str()) {
                broken.push(format!("{name} imports {import}, which does not belong there"));
            }
        }
    }
    crate::report(&broken, "see the table in tests/tidy/imports.rs and docs/architecture.md");
}

#[test]
fn a_plugin_never_imports_the_kernel() {
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        if name.starts_with("crabbox-provider-") || name == "crabbox-plugin-sdk" {
            let kernel = ["crabbox-kernel", "crabbox-host", "crabbox-remote", "crabbox-cli"];
            let found = dependencies(&package).into_iter().find(|d| kernel.contains(&d.as_str()));
            assert_eq!(found, None, "{name} stands on the other side of the pipe");
        }
    }
}
