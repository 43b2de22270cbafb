//! The lockfile's budget: how many packages, and which never.

use std::collections::BTreeMap;
use std::fs;

/// Some eighty of them are the WebAssembly engine and compiler, and twenty the layout checks of libraries: only the
/// runners link them.
const BUDGET: usize = 612;

/// Package, and why it must not come in by a side door.
const NEVER: &[(&str, &str)] = &[
    ("aws-lc-sys", "needs cmake and a C compiler; ring does the same work"),
    ("openssl-sys", "needs a system library; rustls does the same work"),
    ("native-tls", "rustls does the same work"),
];

/// Packages that must not be there twice.
const ONCE: &[&str] =
    &["hyper", "reqwest", "russh", "rustls", "serde", "serde_json", "tokio", "clap"];

fn packages() -> Vec<String> {
    let text =
        fs::read_to_string(crate::root().join("Cargo.lock")).expect("Cargo.lock is committed");
    let names = text.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    names.map(str::to_owned).collect()
}

#[test]
fn the_lockfile_stays_within_its_budget() {
    let count = packages().len();
    assert!(
        count <= BUDGET,
        "{count} packages are locked, at most {BUDGET}; which new one can go?"
    );
}

#[test]
fn unwanted_and_double_packages_stay_out() {
    let mut times = BTreeMap::new();
    packages().into_iter().for_each(|name| *times.entry(name).or_insert(0) += 1);
    let never = NEVER
        .iter()
        .filter(|(name, _)| times.contains_key(*name))
        .map(|(n, why)| format!("{n}: {why}"));
    let twice = ONCE
        .iter()
        .filter(|name| times.get(**name) > Some(&1))
        .map(|n| format!("{n} is locked twice"));
    crate::report(
        &never.chain(twice).collect::<Vec<_>>(),
        "`cargo tree -i NAME` says who asks for it",
    );
}

#[test]
fn every_shared_dependency_says_why_it_is_there() {
    let text =
        fs::read_to_string(crate::root().join("Cargo.toml")).expect("the workspace manifest");
    let table = text
        .split("[workspace.dependencies]")
        .nth(1)
        .and_then(|t| t.split("\n[").next())
        .expect("the table");
    let ours = |line: &str| line.starts_with("crabbox-");
    let lines = table.lines().filter(|line| line.contains(" = ") && !ours(line));
    let silent: Vec<String> =
        lines.filter(|line| !line.contains("# ")).map(str::to_owned).collect();
    crate::report(&silent, "add `# why` at the end of the line");
}
