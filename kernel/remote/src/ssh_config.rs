//! The user's own OpenSSH configuration, as far as it says where a host is and how to log in.

use std::fs;
use std::path::{Path, PathBuf};

use crate::pattern::{any_fits, fits};

/// How deep files may include each other.
const INCLUDES: usize = 16;

/// What the configuration says about one host; the first value of each keyword wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostConfig {
    pub(crate) host_name: Option<String>,
    pub(crate) host_key_alias: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) identity_files: Vec<String>,
    pub(crate) identities_only: Option<bool>,
    pub(crate) identity_agent: Option<String>,
    pub(crate) known_hosts: Option<Vec<String>>,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) control_path: Option<String>,
}

/// How to get to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// `none`: straight.
    Direct,
    /// Through these hosts, nearest first.
    Jump(Vec<String>),
    /// Through a program.
    Command(String),
}

/// Reads the files in order for one host name as the user typed it.
pub(crate) fn read(files: &[PathBuf], home: &Path, host: &str) -> HostConfig {
    let mut reader = Reader { home, host, found: HostConfig::default() };
    for file in files {
        reader.file(file, 0);
    }
    reader.found
}

struct Reader<'a> {
    home: &'a Path,
    host: &'a str,
    found: HostConfig,
}

/// The text of a file; one that cannot be read says nothing.
fn text(path: &Path) -> Option<String> {
    match fs::read(path) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            tracing::debug!(file = %path.display(), %error, "ssh configuration not read");
            None
        }
    }
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, depth: usize) {
        let Some(text) = text(path) else { return };
        let mut active = true;
        for line in text.lines() {
            let Some((keyword, rest)) = split(line) else { continue };
            let arguments = words(rest);
            let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
            match keyword.as_str() {
                "host" => active = any_fits(words, self.host),
                "match" => {
                    active = matches!(words[..], ["all"]);
                    if !active {
                        tracing::debug!(file = %path.display(), line, "Match is not evaluated");
                    }
                }
                "include" if active && depth < INCLUDES => {
                    words
                        .iter()
                        .flat_map(|word| self.included(word, path))
                        .collect::<Vec<_>>()
                        .iter()
                        .for_each(|file| self.file(file, depth + 1));
                }
                // A shell reads it, with all its quotes.
                "proxycommand" if active => self.found.pass_through(rest),
                _ if active => self.found.take(&keyword, &arguments),
                _ => {}
            }
        }
    }

    /// The files an Include names; patterns in the last part of the path only.
    fn included(&self, word: &str, from: &Path) -> Vec<PathBuf> {
        let path = match word.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None => from.parent().unwrap_or(Path::new("/")).join(word),
        };
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.contains(['*', '?']) {
            return vec![path];
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut found: Vec<PathBuf> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let entry = entry.file_name().to_string_lossy().into_owned();
                fits(&name, &entry) && !entry.starts_with('.')
            })
            .map(|entry| entry.path())
            .collect();
        found.sort();
        found
    }
}

impl HostConfig {
    fn take(&mut self, keyword: &str, arguments: &[String]) {
        let Some(first) = arguments.first().cloned() else { return };
        let yes = first.eq_ignore_ascii_case("yes") || first.eq_ignore_ascii_case("true");
        match keyword {
            "hostname" => set(&mut self.host_name, first),
            "hostkeyalias" => set(&mut self.host_key_alias, first),
            "user" => set(&mut self.user, first),
            "port" => match first.parse() {
                Ok(port) => set(&mut self.port, port),
                Err(_) => tracing::debug!(port = first, "not a port"),
            },
            "identityfile" => self.identity_files.push(first),
            "identitiesonly" => set(&mut self.identities_only, yes),
            "identityagent" => set(&mut self.identity_agent, first),
            "controlpath" => set(&mut self.control_path, first),
            "userknownhostsfile" => set(&mut self.known_hosts, arguments.to_vec()),
            "proxyjump" => set(
                &mut self.proxy,
                match first.as_str() {
                    none if none.eq_ignore_ascii_case("none") => Proxy::Direct,
                    list => Proxy::Jump(list.split(',').map(|hop| hop.trim().to_owned()).collect()),
                },
            ),
            _ => {}
        }
    }
}

impl HostConfig {
    /// The program that leads to the host.
    fn pass_through(&mut self, command: &str) {
        match command {
            "" => {}
            none if none.eq_ignore_ascii_case("none") => set(&mut self.proxy, Proxy::Direct),
            _ => set(&mut self.proxy, Proxy::Command(command.to_owned())),
        }
    }
}

fn set<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

/// Keyword in lower case and what follows it; `None` for blank lines and comments.
fn split(line: &str) -> Option<(String, &str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Some((line[..end].to_ascii_lowercase(), rest))
}

/// Words with double quotes taken off; a `#` at the start of a word ends the line.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = home.path().join(".ssh").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        home
    }

    fn ask(home: &tempfile::TempDir, host: &str) -> HostConfig {
        read(&[home.path().join(".ssh/config")], home.path(), host)
    }

    #[test]
    fn the_first_value_wins_and_identity_files_add_up() {
        let home = home_with(&[(
            "config",
            "# mine\nHost build* !build-old\n  HostName=%h.example.com\n  Port = 2222\n  IdentityFile ~/.ssh/a\n\n\
             Host *\n  Port 22\n  User \"deploy me\"\n  IdentityFile ~/.ssh/b # not a word\n  IdentitiesOnly yes\n",
        )]);
        let found = ask(&home, "build7");
        assert_eq!(found.host_name.as_deref(), Some("%h.example.com"));
        assert_eq!(found.port, Some(2222));
        assert_eq!(found.user.as_deref(), Some("deploy me"));
        assert_eq!(found.identity_files, ["~/.ssh/a", "~/.ssh/b"]);
        assert_eq!(found.identities_only, Some(true));
        assert_eq!(ask(&home, "build-old").port, Some(22));
    }

    #[test]
    fn included_files_count_where_they_stand_and_only_for_their_host() {
        let home = home_with(&[
            ("config", "Host a\n  Include parts/*\nHost *\n  Port 1\nMatch all\n  User u\n"),
            ("parts/10", "Port 10\n"),
            ("parts/20", "Host b\n  User never\nHost a\n  ProxyJump none\n"),
        ]);
        let found = ask(&home, "a");
        assert_eq!((found.port, found.proxy), (Some(10), Some(Proxy::Direct)));
        let other = ask(&home, "b");
        assert_eq!((other.port, other.user.as_deref()), (Some(1), Some("u")));
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let home = home_with(&[("config", "Port 7\nInclude config\n")]);
        assert_eq!(ask(&home, "x").port, Some(7));
    }

    #[test]
    fn a_match_that_is_not_evaluated_says_nothing() {
        let home = home_with(&[(
            "config",
            "Match exec \"true\"\n  Port 9\nHost x\n  ProxyCommand = sh -c \"nc %h %p\"\n",
        )]);
        let found = ask(&home, "x");
        assert_eq!(found.port, None);
        assert_eq!(found.proxy, Some(Proxy::Command("sh -c \"nc %h %p\"".into())));
    }
}
