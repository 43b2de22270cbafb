//! The command on the box: what the user asked for, as the small sh program that starts it exactly once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::RunId;

use crate::error::{KernelError, Result};
use crate::ports::Pty;
use crate::shell::{quote, quote_bytes, wants_shell};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// These words, passed exactly.
    Exec(Vec<OsString>),
    /// This text, by bash where there is one, else by sh.
    Shell(OsString),
    /// This file, uploaded; run by its `#!` line, else by sh; with these arguments.
    Script {
        /// Its contents.
        body: Vec<u8>,
        /// Its arguments.
        args: Vec<OsString>,
    },
}

/// A command and its surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// What to run.
    pub action: Action,
    /// Values for its environment. They never appear in any process's arguments.
    pub env: BTreeMap<String, OsString>,
    /// A terminal for it.
    pub pty: Option<Pty>,
    /// The words as the user gave them, for people and records.
    pub shown: Vec<String>,
}

/// Chooses how to run the user's words: exactly, or through a shell when they are shell talk.
pub fn choose(words: Vec<OsString>, shell: bool) -> Result<Action> {
    let text: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    if words.is_empty() || words[0].is_empty() {
        return Err(KernelError::new(ErrorCode::Usage, "no command was given")
            .hint("crabbox run -- COMMAND [ARG]..."));
    }
    if words[0].as_bytes().starts_with(b"-") {
        return Err(KernelError::new(
            ErrorCode::Usage,
            format!("a command cannot begin with a dash: {:?}", words[0]),
        )
        .hint("flags of crabbox come before the command; `crabbox run --help` lists them"));
    }
    if let Some(bad) = words.iter().find(|w| w.as_bytes().contains(&0)) {
        return Err(KernelError::new(
            ErrorCode::Usage,
            format!("an argument holds a NUL byte: {bad:?}"),
        ));
    }
    if !shell && !wants_shell(&text) {
        return Ok(Action::Exec(words));
    }
    Ok(Action::Shell(words.join(std::ffi::OsStr::new(" "))))
}

/// Whether a name may stand in an environment: a letter or `_`, then letters, digits and `_`.
pub fn is_env_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Where a lease keeps things on its box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `<workRoot>/<leaseID>`: everything of the lease.
    pub base: String,
    /// `<workRoot>/<leaseID>/<repo>`: the tree, and the command's directory.
    pub workdir: String,
    /// `<workRoot>/<leaseID>/.crabbox/run`: launchers and pid files; never inside the tree.
    pub control: String,
}

impl Places {
    /// The places of one lease and repository.
    pub fn new(work_root: &str, lease_id: &str, repo: &str) -> Self {
        let base = format!("{}/{lease_id}", work_root.trim_end_matches('/'));
        Self { workdir: format!("{base}/{repo}"), control: format!("{base}/.crabbox/run"), base }
    }

    /// The launcher of a run.
    pub fn launcher(&self, run: &RunId) -> String {
        format!("{}/{run}.sh", self.control)
    }

    /// The file that holds the process group of a run from the moment it starts.
    pub fn pid_file(&self, run: &RunId) -> String {
        format!("{}/{run}.pid", self.control)
    }

    /// The uploaded script of a run.
    pub fn script(&self, run: &RunId) -> String {
        format!("{}/{run}.script", self.control)
    }
}

/// The launcher: a program for sh that becomes the command. It removes itself, refuses to start twice, reads
/// the login profiles for their search path with their talk discarded, and sets environment and directory.
pub fn launcher(command: &Command, places: &Places, run: &RunId) -> Vec<u8> {
    let pid_file = quote(&places.pid_file(run));
    let mut text = format!(
        r#"[ -n "${{BASH_VERSION-}}" ] || ! command -v bash >/dev/null 2>&1 || exec bash "$0"
rm -f "$0"
if ! (set -C; echo $$ >{pid_file}) 2>/dev/null; then echo 'crabbox: this run was already started' >&2; exit 126; fi
{{
  [ ! -r /etc/profile ] || . /etc/profile
  for p in "$HOME/.bash_profile" "$HOME/.bash_login" "$HOME/.profile"; do
    if [ -r "$p" ]; then . "$p"; break; fi
  done
  unset p
}} >/dev/null 2>&1 </dev/null
cd {workdir} || {{ echo 'crabbox: the work directory is gone' >&2; exit 126; }}
"#,
        workdir = quote(&places.workdir),
    )
    .into_bytes();
    for (name, value) in &command.env {
        text.extend_from_slice(format!("export {name}=").as_bytes());
        text.extend(quote_bytes(value.as_bytes()));
        text.push(b'\n');
    }
    if let Action::Exec(words) = &command.action {
        text.extend(check_found(words));
    }
    text.extend_from_slice(b"exec");
    let words: Vec<Vec<u8>> = match &command.action {
        Action::Exec(words) => words.iter().map(|w| quote_bytes(w.as_bytes())).collect(),
        Action::Shell(script) => {
            vec![b"\"${BASH:-sh}\" -c".to_vec(), quote_bytes(script.as_bytes())]
        }
        Action::Script { body, args } => {
            let path = quote(&places.script(run));
            let start = if body.starts_with(b"#!") { path } else { format!("sh {path}") };
            std::iter::once(start.into_bytes())
                .chain(args.iter().map(|a| quote_bytes(a.as_bytes())))
                .collect()
        }
    };
    for word in words {
        text.push(b' ');
        text.extend(word);
    }
    text.push(b'\n');
    text
}

/// Says in plain words that a command is not on the box's search path; with a path in it the shell says enough.
fn check_found(words: &[OsString]) -> Vec<u8> {
    let name = words.first().map(|word| word.as_bytes()).unwrap_or_default();
    if name.contains(&b'/') {
        return Vec::new();
    }
    let name = String::from_utf8_lossy(&quote_bytes(name)).into_owned();
    format!(
        "command -v {name} >/dev/null 2>&1 || {{ printf 'crabbox: %s: command not found on the box\\n' {name} >&2; exit 127; }}\n"
    )
    .into_bytes()
}

/// Stores standard input as a private file in the control folder.
pub fn upload(places: &Places, path: &str) -> String {
    format!(
        "exec sh -c 'umask 077 && mkdir -p \"$0\" \"$1\" && cat >\"$2\" && chmod 700 \"$2\"' {} {} {}",
        quote(&places.control),
        quote(&places.workdir),
        quote(path)
    )
}

/// Becomes the launcher.
pub fn start(places: &Places, run: &RunId) -> String {
    format!("exec sh {}", quote(&places.launcher(run)))
}

/// Ends the run's process group: interrupt, terminate, kill, within two seconds; or kill at once.
pub fn kill(places: &Places, run: &RunId, at_once: bool) -> String {
    let steps = if at_once { "KILL" } else { "INT TERM KILL" };
    format!(
        "exec sh -c 'n=0; until [ -s \"$0\" ] || [ $n -ge 10 ]; do sleep 0.1 2>/dev/null || sleep 1; n=$((n+1)); done; \
         p=$(cat \"$0\" 2>/dev/null) || exit 0; for s in {steps}; do kill -s $s -- \"-$p\" 2>/dev/null || exit 0; \
         n=0; while [ $n -lt 6 ] && kill -s 0 -- \"-$p\" 2>/dev/null; do sleep 0.1 2>/dev/null || sleep 1; n=$((n+1)); done; \
         done' {}",
        quote(&places.pid_file(run))
    )
}

/// Removes what the run left in the control folder.
pub fn tidy(places: &Places, run: &RunId) -> String {
    format!(
        "exec rm -f {} {} {}",
        quote(&places.launcher(run)),
        quote(&places.pid_file(run)),
        quote(&places.script(run))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn places(dir: &std::path::Path) -> Places {
        let places = Places::new(dir.to_str().unwrap(), "cbx_000000000000", "it's a repo");
        std::fs::create_dir_all(&places.workdir).unwrap();
        std::fs::create_dir_all(&places.control).unwrap();
        places
    }

    #[expect(clippy::disallowed_methods, reason = "a real shell runs the launcher")]
    fn run(places: &Places, command: &Command) -> std::process::Output {
        let id = RunId::mint([7; 6]);
        std::fs::write(places.launcher(&id), launcher(command, places, &id)).unwrap();
        std::process::Command::new("sh")
            .args(["-c", &start(places, &id)])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &places.control)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn exec(words: &[&str]) -> Command {
        Command {
            action: Action::Exec(words.iter().map(Into::into).collect()),
            env: BTreeMap::new(),
            pty: None,
            shown: Vec::new(),
        }
    }

    #[test]
    fn words_and_values_arrive_exactly_and_the_profile_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        std::fs::write(
            format!("{}/.profile", places.control),
            "echo noise; export FROM_PROFILE=yes\n",
        )
        .unwrap();
        let mut command = exec(&[
            "sh",
            "-c",
            r#"printf '%s|' "$@" "$V" "$FROM_PROFILE" "$(basename "$PWD")""#,
            "sh",
            "a b",
            "",
            "new\nline",
            "q'\"$x",
        ]);
        command.env.insert("V".into(), "tab\tnl\nend".into());
        let out = run(&places, &command);
        assert_eq!(
            String::from_utf8_lossy(&out.stdout),
            "a b||new\nline|q'\"$x|tab\tnl\nend|yes|it's a repo|"
        );
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    #[test]
    fn a_run_starts_at_most_once() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let command = exec(&["touch", "started"]);
        assert!(run(&places, &command).status.success());
        std::fs::remove_file(format!("{}/started", places.workdir)).unwrap();
        assert_eq!(run(&places, &command).status.code(), Some(126));
        assert!(!std::path::Path::new(&format!("{}/started", places.workdir)).exists());
    }

    #[test]
    fn shell_talk_runs_in_a_shell_and_the_rest_does_not() {
        let words = |w: &[&str]| w.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(
            matches!(choose(words(&["a", "&&", "b"]), false).unwrap(), Action::Shell(t) if t == "a && b")
        );
        assert!(matches!(choose(words(&["echo", "a;b"]), false).unwrap(), Action::Exec(_)));
        assert!(matches!(choose(words(&["echo", "hi"]), true).unwrap(), Action::Shell(_)));
        assert_eq!(choose(Vec::new(), false).unwrap_err().code, ErrorCode::Usage);
    }

    #[test]
    fn only_proper_names_reach_an_environment() {
        assert!(is_env_name("A_1") && is_env_name("_x"));
        assert!(
            !is_env_name("1A")
                && !is_env_name("A-B")
                && !is_env_name("")
                && !is_env_name("X=$(id)")
        );
    }
}
