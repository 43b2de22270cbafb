//! What a plugin asks for, in words, each with how strongly it is kept to.

use crabbox_schemas::manifest::{Grants, Runtime, SecretMode};
use serde::Serialize;

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

/// Every grant in words, and at the end what the runtime itself allows.
pub fn lines(grants: &Grants, runtime: Runtime) -> Vec<Line> {
    let sandboxed = runtime.is_sandboxed();
    let by_host = |text: String| Line { text, level: Level::Enforced };
    let own = if sandboxed { Level::Enforced } else { Level::Advisory };
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
        lines.push(Line { text: format!("send requests to {to}{how}{why}"), level: own });
    }
    for grant in &grants.secrets {
        let name = &grant.name;
        let to = if grant.to.is_empty() {
            "addresses it may reach".to_owned()
        } else {
            grant.to.join(", ")
        };
        lines.push(by_host(match grant.mode {
            SecretMode::Inject => {
                format!("have the secret `{name}` sent to {to}, without seeing it")
            }
            SecretMode::Reveal => format!("read the secret `{name}`"),
            SecretMode::Exec => {
                format!("have the secret `{name}` given to its tools, without seeing it")
            }
        }));
    }
    lines.extend(
        grants
            .exec
            .iter()
            .map(|tool| Line { text: format!("run the program `{tool}` as you"), level: own }),
    );
    lines.extend(grants.env.iter().map(|name| by_host(format!("read the variable {name}"))));
    lines.extend(grants.powers.iter().map(|power| {
        by_host(match power.as_str() {
            "files" => "keep files in a folder of its own".to_owned(),
            "key-file" => "name private key files that crabbox uses for SSH".to_owned(),
            other => format!("use the power `{other}`"),
        })
    }));
    if !sandboxed {
        lines.push(Line {
            text: "do whatever a program of yours can: it is not confined".to_owned(),
            level: Level::Advisory,
        });
    }
    lines
}
