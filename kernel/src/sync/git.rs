//! Starts `git`: the kernel's only child process.

use std::path::Path;
use std::process::{Command, Stdio};

/// Variables that would point git at another repository; set inside hooks.
const VARIABLES: &[&str] = &[
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
];

/// Git in a directory: it asks nobody, takes no optional lock, fetches nothing and speaks English.
pub(super) fn command(dir: &Path, args: &[&str]) -> Command {
    #[cfg(test)]
    STARTED.with(|count| count.set(count.get() + 1));
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel's one place that starts a process: git"
    )]
    let mut command = Command::new("git");
    for name in VARIABLES {
        command.env_remove(name);
    }
    command
        .arg("-C")
        .arg(dir)
        .args(args)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

#[cfg(test)]
std::thread_local! {
    static STARTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How often this thread started git.
#[cfg(test)]
pub(super) fn started() -> usize {
    STARTED.with(std::cell::Cell::get)
}
