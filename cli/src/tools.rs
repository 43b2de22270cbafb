//! Other processes: tools from beside the executable for words that are no commands here, and our own daemon.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;

/// The tool a command line means, when there is one beside `exe`. Never looks along the search path.
pub(crate) fn beside(exe: &Path, words: &[OsString]) -> Option<PathBuf> {
    let name = words.get(1)?.to_str()?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.starts_with(['-', '.']) || !name.chars().all(plain) {
        return None;
    }
    if name.starts_with("provider-") {
        return None;
    }
    let file = format!("crabbox-{name}{}", std::env::consts::EXE_SUFFIX);
    Some(exe.parent()?.join(file)).filter(|tool| tool.is_file())
}

/// Runs a tool with the words after its name; its status.
#[expect(clippy::disallowed_methods, reason = "the one file that starts processes")]
pub(crate) fn run(tool: &Path, words: &[OsString]) -> Result<i32> {
    let status = std::process::Command::new(tool).args(words.get(2..).unwrap_or_default()).status();
    let status = status.map_err(|e| {
        KernelError::new(ErrorCode::Internal, format!("cannot run {}", tool.display())).because(&e)
    })?;
    Ok(status.code().unwrap_or(1))
}

/// Lets our compiler make machine code of a WebAssembly file; the error is for people.
#[expect(clippy::disallowed_methods, reason = "the one file that starts processes")]
pub(crate) fn compile(
    compiler: &Path,
    file: &Path,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<(), String> {
    let mut command = std::process::Command::new(compiler);
    command.arg(file).env_clear().envs(env).stdin(Stdio::null());
    let done = command.output().map_err(|e| format!("cannot start {}: {e}", compiler.display()))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
    }
}

/// Starts a program of ours that goes on by itself: with this environment only, talking to a file.
#[expect(clippy::disallowed_methods, reason = "the one file that starts processes")]
pub(crate) fn leave(
    program: &Path,
    words: &[&str],
    env: impl IntoIterator<Item = (String, String)>,
    log: File,
) -> io::Result<()> {
    let mut command = std::process::Command::new(program);
    command.args(words).env_clear().envs(env).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_found_only_beside_the_executable_and_only_by_a_plain_name() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("crabbox");
        for name in ["crabbox-hello", "crabbox-provider-x", "hello"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let find = |word: &str| beside(&exe, &["crabbox".into(), word.into()]);
        assert_eq!(find("hello"), Some(dir.path().join("crabbox-hello")));
        for word in ["helo", "provider-x", "", "--hello", "../crabbox-hello", "ls"] {
            assert_eq!(find(word), None, "{word}");
        }
        assert_eq!(beside(&exe, &["crabbox".into()]), None);
    }
}
