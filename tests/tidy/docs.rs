//! Documents that must not drift: the exit-code table and the invariants' tests. `BLESS=1` writes what is generated.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::exit::TABLE;

use crate::{report, root, rust_files};

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "BLESS is how a person asks for the page to be written"
)]
fn the_exit_code_page_is_current_and_names_every_error_code() {
    let path = root().join("docs/exit-codes.md");
    let page = exit_codes();
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        committed, page,
        "docs/exit-codes.md has drifted: BLESS=1 cargo test -p crabbox-tests --test tidy"
    );
}

fn exit_codes() -> String {
    let mut page = String::from(
        "<!-- Generated from schemas/src/exit.rs and schemas/src/error.rs: BLESS=1 cargo test -p crabbox-tests --test tidy -->\n\
         # Exit codes\n\n\
         A run exits with the status of its command, unchanged (128 + number when a signal ended it). When crabbox itself fails it \
         exits with one of the statuses below. A command may use the same numbers, so programs should read `by` \
         (`remote` or `crabbox`) and `errorKind` of the JSON documents rather than guess from the number.\n\n\
         | Status | Meaning |\n|---:|---|\n",
    );
    for (status, meaning) in TABLE {
        let _ = writeln!(page, "| {status} | {meaning} |");
    }
    page.push_str("\n## Error kinds\n\n`errorKind` is one of these words.\n\n");
    page.push_str("| `errorKind` | Status | May work when tried again | What happened |\n|---|---:|---|---|\n");
    let sentences = sentences();
    for code in ErrorCode::all() {
        let sentence = sentences.get(&format!("{code:?}")).map(String::as_str).unwrap_or_default();
        assert!(!sentence.is_empty(), "{code:?} has no doc comment");
        let again = if code.retryable() { "yes" } else { "" };
        let _ =
            writeln!(page, "| `{}` | {} | {again} | {sentence} |", code.word(), code.exit_status());
    }
    page
}

/// The doc comment of each variant of `ErrorCode`, read from its source.
fn sentences() -> BTreeMap<String, String> {
    let text =
        fs::read_to_string(root().join("schemas/src/error.rs")).expect("the error codes' source");
    let body = text
        .split("pub enum ErrorCode {")
        .nth(1)
        .and_then(|t| t.split("\n}").next())
        .expect("the enum");
    let mut found = BTreeMap::new();
    let mut doc = String::new();
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("/// ") {
            doc = format!("{doc} {words}").trim().to_owned();
        } else if let Some(name) = line.strip_suffix(',') {
            found.insert(name.to_owned(), std::mem::take(&mut doc));
        }
    }
    found
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let page =
        fs::read_to_string(root().join("docs/architecture.md")).expect("the architecture page");
    let section = page
        .split("## Invariants")
        .nth(1)
        .and_then(|t| t.split("\n## ").next())
        .expect("an invariants section");
    let items: Vec<&str> = section.split("\n**").skip(1).collect();
    assert_eq!(items.len(), 14, "fourteen invariants");
    let source: String = rust_files().into_iter().map(|(_, text)| text).collect();
    let mut broken = Vec::new();
    for item in items {
        let title = item.lines().next().unwrap_or_default();
        let tests: Vec<&str> = item
            .split("Guarded by")
            .nth(1)
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2)
            .collect();
        if tests.is_empty() {
            broken.push(format!("no test is named for: {title}"));
        }
        let missing = tests.iter().filter(|name| !source.contains(&format!("fn {name}(")));
        broken.extend(missing.map(|name| format!("there is no test `{name}` (for: {title})")));
    }
    report(&broken, "an invariant without a test is a wish");
}

#[test]
fn the_readme_and_its_neighbours_link_only_to_files_that_exist() {
    let pages = ["README.md", "AGENTS.md", "CHANGELOG.md"].map(|p| root().join(p)).into_iter();
    let docs = fs::read_dir(root().join("docs")).expect("docs").flatten().map(|e| e.path());
    let mut broken = Vec::new();
    for page in pages.chain(docs).filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(&page).unwrap_or_else(|e| panic!("{}: {e}", page.display()));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let local = !file.is_empty() && !file.contains("://");
            if local && !page.parent().is_some_and(|dir| dir.join(file).exists()) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    report(&broken, "links point at files of this repository");
}
