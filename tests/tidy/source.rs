//! How a source file looks: a first sentence, and no tail.

use std::fs;

use crate::{is_test, report, root, rust_files, without_tests};

const FILE_LINES: usize = 600;
const TEST_FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 80;
const HELPER_LINES: usize = 200;
const HELPER_WIDTH: usize = 124;

#[test]
fn every_file_begins_with_a_sentence() {
    let lacking = |text: &str| !text.starts_with("//! ");
    let broken: Vec<String> =
        rust_files().into_iter().filter(|(_, text)| lacking(text)).map(|(path, _)| path).collect();
    report(&broken, "the first line of a file says what it is: `//! …`");
}

#[test]
fn no_file_grows_a_tail() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        let (lines, limit) = match is_test(&path) {
            true => (text.lines().count(), TEST_FILE_LINES),
            false => (without_tests(&text).lines().count(), FILE_LINES),
        };
        if lines > limit {
            broken.push(format!("{path}: {lines} lines, at most {limit}"));
        }
    }
    report(&broken, "split by purpose");
}

#[test]
fn no_function_grows_a_tail() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (name, lines) in functions(&text) {
            if lines > FUNCTION_LINES {
                broken.push(format!("{path}: {name}: {lines} lines, at most {FUNCTION_LINES}"));
            }
        }
    }
    report(&broken, "give the steps names");
}

/// What a provider's author copies and can read in one sitting, in each language.
#[test]
fn the_helper_of_each_language_is_one_short_file() {
    let helpers = ["python/crabbox_plugin.py", "node/crabbox-plugin.mjs", "go/crabbox_plugin.go"];
    let mut broken = Vec::new();
    for helper in helpers {
        let text = fs::read_to_string(root().join("plugin-sdk").join(helper)).expect(helper);
        let lines = text.lines().count();
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        if lines > HELPER_LINES || widest > HELPER_WIDTH {
            broken.push(format!("{helper}: {lines} lines, the longest of {widest} characters"));
        }
    }
    report(&broken, &format!("at most {HELPER_LINES} lines of {HELPER_WIDTH} characters"));
}

/// Name and body length of each function, relying on rustfmt: the closing brace stands alone under the `fn`.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(name) = name_of(code) else { continue };
        let indent = &line[..line.len() - code.len()];
        let rest = &lines[first..];
        let Some(open) =
            rest.iter().position(|l| l.ends_with('{') || l.ends_with('}') || l.ends_with(';'))
        else {
            continue;
        };
        if !rest[open].ends_with('{') {
            continue;
        }
        let close = rest[open..].iter().position(|l| l.strip_prefix(indent) == Some("}"));
        found.push((name, close.map_or(0, |lines| lines.saturating_sub(1))));
    }
    found
}

fn name_of(code: &str) -> Option<&str> {
    let mut rest = code;
    if rest.starts_with("pub(") {
        rest = rest.split_once(") ")?.1;
    }
    for word in ["pub ", "const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    rest.strip_prefix("fn ")?.split(['(', '<']).next()
}

#[test]
fn the_length_of_a_function_is_that_of_its_body() {
    let text = "fn a() {}\n\npub(crate) async fn b(\n    x: u8,\n) -> u8 {\n    x;\n    x\n}\n\nimpl T {\n    fn c();\n    fn d() {\n        1\n    }\n}\n";
    assert_eq!(functions(text), [("b", 2), ("d", 1)]);
}
