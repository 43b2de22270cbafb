//! Replays every exchange printed in docs/protocol.md against the toy providers.

mod toy;

use crabbox_plugin_sdk::testkit::replay;

/// Exchanges that do not show their beginning start like this.
fn beginning(provider: &str) -> String {
    format!(
        r#"{{"d":">","m":{{"id":1,"method":"initialize","params":{{"protocols":["1.0"],"kernel":{{"name":"crabbox","version":"0.1.0"}},"instance":{{"provider":"{provider}"}}}}}}}}
{{"d":"<","match":{{"id":1,"result":{{"protocol":"1.0"}}}}}}
"#
    )
}

/// The fenced `jsonl` blocks and the line each begins at.
fn exchanges(page: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (index, line) in page.lines().enumerate() {
        match line.trim_end() {
            "```jsonl" => {
                inside = true;
                found.push((index + 2, String::new()));
            }
            "```" => inside = false,
            line if inside => {
                if let Some((_, text)) = found.last_mut() {
                    text.push_str(line);
                    text.push('\n');
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_exchange_in_the_protocol_page_is_what_really_happens() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let page = std::fs::read_to_string(path).unwrap();
    let exchanges = exchanges(&page);
    assert!(exchanges.len() >= 10, "the page has examples");
    for (line, exchange) in exchanges {
        let (plugin, provider) = match exchange.lines().next() {
            Some("# runner") => (toy::runner(), "runner"),
            _ => (toy::boxes(), "toy"),
        };
        let whole = exchange.contains("\"initialize\"") || exchange.contains("not initialized");
        let text = if whole { exchange } else { beginning(provider) + &exchange };
        if let Err(mismatch) = replay(plugin, &text) {
            panic!("docs/protocol.md:{line}: {mismatch}\nin\n{text}");
        }
    }
}

#[test]
fn the_page_lists_every_error_kind_with_its_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md");
    let page = std::fs::read_to_string(path).unwrap();
    for kind in crabbox_plugin_sdk::ErrorKind::all() {
        let row = format!("| `{}` | {} |", kind.word(), kind.rpc_code());
        assert!(page.contains(&row), "no row {row}");
    }
}
