//! What a plugin asks for, in words, each with how strongly it is kept to.

use crabbox_schemas::manifest::{Grants, Runtime, SecretChain, SecretGrant, SecretMode};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::catalog::{Entry, Place};
use crate::walls::{self, Confined};

/// How strongly a grant binds the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It can do no more than this.
    Enforced,
    /// Part of it is enforced.
    Partial,
    /// It says so itself; as a program of its own it could do more.
    Advisory,
}

impl Level {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Partial => "partial",
            Self::Advisory => "advisory",
        }
    }
}

/// One grant in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it may do.
    pub text: String,
    /// How strongly that is kept to.
    pub level: Level,
}

/// In place of a variable's name: all of them.
pub(crate) const EVERY: &str = "*";

/// The setting that a grant in braces stands for.
fn setting(tool: &str) -> Option<&str> {
    tool.strip_prefix('{')?.strip_suffix('}')
}

/// The programs a plugin may run: those its grants name, and those the user's settings name where a grant is a
/// setting in braces. What a repository may set names none.
pub fn programs(entry: &Entry, config: &Map<String, Value>) -> Vec<String> {
    let mut programs = Vec::new();
    for tool in &entry.manifest.grants.exec {
        let Some(name) = setting(tool) else {
            programs.extend(Some(tool).filter(|tool| !tool.contains('/')).cloned());
            continue;
        };
        let own = entry.flags().iter().any(|flag| flag.config_key == name && flag.user_only);
        match config.get(name).filter(|_| own) {
            Some(Value::String(program)) => programs.push(program.clone()),
            Some(table) => named(table, &mut programs),
            None => {}
        }
    }
    programs
}

/// In a table, whatever an `argv` begins with.
fn named(value: &Value, programs: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| named(item, programs)),
        Value::Object(table) => {
            let argv = table.get("argv").and_then(Value::as_array);
            let first = argv.and_then(|argv| argv.first()).and_then(Value::as_str);
            programs.extend(first.map(str::to_owned));
            table.values().for_each(|inner| named(inner, programs));
        }
        _ => {}
    }
}

/// Whether a plugin with these grants gets the variable of this name.
pub fn passes(grants: &Grants, variable: &str) -> bool {
    grants.env.iter().any(|granted| granted == EVERY || granted == variable)
}

/// Everything a plugin asks for, in words, and at the end what the runtime itself allows.
pub fn lines(entry: &Entry) -> Vec<Line> {
    lines_of(entry, &entry.manifest.grants)
}

/// The same of other grants than its manifest's.
pub(crate) fn lines_of(entry: &Entry, grants: &Grants) -> Vec<Line> {
    let runtime = entry.runtime.unwrap_or(Runtime::Stdio);
    let mut lines = told(grants, runtime, entry.confined_with(grants));
    if entry.place == Place::Bundled && !runtime.is_sandboxed() {
        lines.pop();
        let text = "do whatever crabbox itself can: it came with it, and is trusted as it is";
        lines.push(Line { text: text.to_owned(), level: Level::Advisory });
    }
    lines
}

fn told(grants: &Grants, runtime: Runtime, confined: Confined) -> Vec<Line> {
    let sandboxed = runtime.is_sandboxed();
    let by_host = |text: String| Line { text, level: Level::Enforced };
    let own = if sandboxed { Level::Enforced } else { Level::Advisory };
    let requests = match confined.network {
        true => Level::Partial, // TCP only
        false => own,
    };
    let mut lines = Vec::new();
    for grant in &grants.http {
        let to = match (&grant.origin, &grant.setting) {
            (Some(origin), _) => origin.clone(),
            (None, Some(setting)) => format!("the address in its setting `{setting}`"),
            (None, None) => continue,
        };
        let how = match grant.methods.is_empty() {
            true => String::new(),
            false => format!(" ({})", grant.methods.join(", ")),
        };
        let why = if grant.why.is_empty() { String::new() } else { format!(": {}", grant.why) };
        lines.push(Line { text: format!("send requests to {to}{how}{why}"), level: requests });
    }
    for grant in &grants.secrets {
        let name = format!("`{}`{}", grant.name, source(grant));
        let to = if grant.to.is_empty() {
            "addresses it may reach".to_owned()
        } else {
            grant.to.join(", ")
        };
        lines.push(by_host(match grant.mode {
            SecretMode::Inject => {
                format!("have the secret {name} sent to {to}, without seeing it")
            }
            SecretMode::Reveal => format!("read the secret {name}"),
            SecretMode::Exec => {
                format!("have the secret {name} given to its tools, without seeing it")
            }
        }));
    }
    lines.extend(grants.exec.iter().map(|tool| {
        let text = match setting(tool) {
            Some(name) => format!("run what its setting `{name}` names as you"),
            None => format!("run the program `{tool}` as you"),
        };
        Line { text, level: own }
    }));
    lines.extend(grants.env.iter().map(|name| {
        by_host(match name.as_str() {
            EVERY => "read all of your environment".to_owned(),
            name => format!("read the variable {name}"),
        })
    }));
    lines.extend(grants.powers.iter().map(|power| {
        by_host(match power.as_str() {
            "files" => "keep files in a folder of its own".to_owned(),
            walls::WRITE => "write files wherever you can".to_owned(),
            walls::NETWORK => "open connections of its own, to anywhere".to_owned(),
            "checkout" => "run its tools in your checkout".to_owned(),
            "lease-key" => "name the private keys of its boxes to its tools".to_owned(),
            "key-file" => "name private key files that crabbox uses for SSH".to_owned(),
            other => format!("use the power `{other}`"),
        })
    }));
    if !sandboxed {
        lines.push(own_program(confined));
    }
    lines
}

/// Where a secret is looked for besides its setting.
fn source(grant: &SecretGrant) -> String {
    let variables = grant.env.iter().map(|name| format!("your variable {name}"));
    let file = grant.file.iter().map(|file| format!("{} of its vendor's tool", file.path));
    let chain = match grant.chain {
        Some(SecretChain::Aws) => {
            Some("your AWS profiles and what they run, or the role of this machine".to_owned())
        }
        Some(SecretChain::MadeUp) => return " (crabbox makes it up)".to_owned(),
        None => None,
    };
    let all: Vec<_> = variables.chain(file).chain(chain).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!(" (also from {})", all.join(", or ")),
    }
}

/// What a program of its own may do without asking.
fn own_program(confined: Confined) -> Line {
    let text = match (confined.files, confined.network) {
        (true, true) => {
            "read what you can read; it is kept from writing elsewhere and from TCP connections"
        }
        (true, false) => "do whatever a program of yours can, except write outside its own folder",
        (false, true) => "do whatever a program of yours can, except open TCP connections",
        (false, false) => "do whatever a program of yours can: it is not confined",
    };
    let level = if confined.is_needed() { Level::Partial } else { Level::Advisory };
    Line { text: text.to_owned(), level }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walls::Walls;
    use crabbox_schemas::manifest::{HttpGrant, SecretFile};

    fn said(powers: &[&str], walls: Walls) -> Vec<String> {
        let http =
            vec![HttpGrant { origin: Some("https://a.dev".to_owned()), ..HttpGrant::default() }];
        let powers = powers.iter().map(|&power| power.to_owned()).collect();
        let grants = Grants { http, powers, ..Grants::default() };
        let lines = told(&grants, Runtime::Stdio, Confined::of(&grants.powers, walls));
        lines.into_iter().map(|line| format!("{}: {}", line.level.word(), line.text)).collect()
    }

    #[test]
    fn what_the_system_stops_is_said_and_no_more() {
        let all = said(&[], Walls::FilesAndNetwork);
        assert_eq!(all[0], "partial: send requests to https://a.dev");
        assert!(all[1].starts_with("partial: read what you can read;"), "{all:?}");
        let files = said(&[], Walls::Files);
        assert_eq!(files[0], "advisory: send requests to https://a.dev");
        assert!(files[1].contains("except write outside"), "{files:?}");
        let asked = said(&["network", "write"], Walls::FilesAndNetwork);
        assert_eq!(asked[1], "enforced: open connections of its own, to anywhere");
        assert!(asked[3].starts_with("advisory: do whatever"), "{asked:?}");
        assert!(said(&[], Walls::None)[1].starts_with("advisory: do whatever"));
    }

    #[test]
    fn where_a_secret_comes_from_is_said() {
        let grant = |more: SecretGrant| {
            let to = vec!["https://a.dev".to_owned()];
            let secret = SecretGrant { name: "d".into(), to, mode: SecretMode::Inject, ..more };
            let grants = Grants { secrets: vec![secret], ..Grants::default() };
            let walls = Confined::of(&[], Walls::None);
            told(&grants, Runtime::Wasm, walls).remove(0).text
        };
        let file = SecretFile { path: "islo/creds.json".into(), value: "key".into() };
        for (more, says) in [
            (SecretGrant::default(), "secret `d` sent to"),
            (
                SecretGrant { env: vec!["GITHUB_TOKEN".into()], ..SecretGrant::default() },
                "`d` (also from your variable GITHUB_TOKEN) sent to https://a.dev",
            ),
            (SecretGrant { file: Some(file), ..SecretGrant::default() }, "islo/creds.json of"),
            (
                SecretGrant { chain: Some(SecretChain::Aws), ..SecretGrant::default() },
                "role of this",
            ),
            (
                SecretGrant { chain: Some(SecretChain::MadeUp), ..SecretGrant::default() },
                "crabbox makes it up",
            ),
        ] {
            let text = grant(more);
            assert!(text.contains(says), "{text}");
        }
    }
}
