//! The shared files of AWS's tools: sections of names and values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::aws::{Chain, document};

/// Most bytes of such a file.
const MOST: u64 = 1 << 20;

/// What both files say of one profile.
pub(super) struct Profile {
    pub(super) name: String,
    values: BTreeMap<String, String>,
}

impl Profile {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The keys that are written down in it.
    pub(super) fn keys(&self) -> Option<Value> {
        let (access, secret) = (self.get("aws_access_key_id")?, self.get("aws_secret_access_key")?);
        Some(document(access, secret, self.get("aws_session_token"), None))
    }
}

/// Reads a profile; none when neither file has it. What the file of keys says goes before what the other one says.
pub(super) fn profile(chain: &Chain, name: &str) -> Result<Option<Profile>, String> {
    let config = read(&place(chain, "AWS_CONFIG_FILE", "config"))?;
    let keys = read(&place(chain, "AWS_SHARED_CREDENTIALS_FILE", "credentials"))?;
    let titles = match name {
        "default" => vec!["default".to_owned(), "profile default".to_owned()],
        name => vec![format!("profile {name}")],
    };
    let mut values = BTreeMap::new();
    let mut known = false;
    for (text, title) in titles.iter().map(|t| (&config, t.as_str())).chain([(&keys, name)]) {
        if let Some(found) = section(text, title) {
            known = true;
            values.extend(found);
        }
    }
    // A session that several profiles share is a section of its own.
    if let Some(session) = values.get("sso_session") {
        let shared = section(&config, &format!("sso-session {session}")).unwrap_or_default();
        values = shared.into_iter().chain(values).collect();
    }
    Ok(known.then(|| Profile { name: name.to_owned(), values }))
}

fn place(chain: &Chain, variable: &str, file: &str) -> PathBuf {
    match chain.var(variable) {
        Some(path) => match path.strip_prefix("~/") {
            Some(rest) => chain.home.join(rest),
            None => PathBuf::from(path),
        },
        None => chain.home.join(".aws").join(file),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let shown = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(shown(error)),
    };
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(shown)?;
    Ok(text)
}

/// The lines `name = value` below `[title]`; indented ones belong to a value that is of no use here.
fn section(text: &str, title: &str) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines().filter(|line| !line.starts_with(['#', ';', ' ', '\t'])) {
        if let Some(head) = line.strip_prefix('[') {
            let head = head.split(']').next().unwrap_or_default();
            inside = head.split_whitespace().eq(title.split_whitespace());
            if inside {
                found.get_or_insert_default();
            }
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            let value = value.split(" #").next().unwrap_or_default().trim().to_owned();
            found.get_or_insert_default().insert(name.trim().to_ascii_lowercase(), value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read_as_the_vendors_tools_write_it() {
        let text = "# mine\n[default]\nregion = eu-west-1\n[profile  ci]\naws_access_key_id=A=B # old\ns3 =\n  addressing_style = path\n\n[other]\nx=1\n";
        let found = section(text, "profile ci").unwrap();
        assert_eq!(found["aws_access_key_id"], "A=B");
        assert_eq!((found.len(), found.get("addressing_style")), (2, None));
        assert_eq!(section(text, "profile x"), None);
    }
}
