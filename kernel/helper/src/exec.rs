//! The exec mode: becomes the command, in a session of its own.
//!
//! `exec PIDFILE AT UMASK LIMITS tty|- WORKDIR words|shell|script WORD...`, with the command's whole environment.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::{login, processes, program, runs};

/// A sentence for the command's standard error, and the status.
struct Refusal(u8, String);

/// Becomes the command; returns only when it cannot.
pub(crate) fn exec(args: &[OsString]) -> ExitCode {
    let [pid_file, at, umask, limits, tty, workdir, how, words @ ..] = args else {
        return ExitCode::from(2);
    };
    let Refusal(status, why) = match prepare([pid_file, at, umask, limits, tty, workdir]) {
        Ok(()) => become_command(how.as_bytes(), words),
        Err(refusal) => refusal,
    };
    let _ = writeln!(io::stderr(), "crabbox: {why}");
    ExitCode::from(status)
}

fn prepare([pid_file, at, umask, limits, tty, workdir]: [&OsString; 6]) -> Result<(), Refusal> {
    let _ = rustix::process::setsid();
    if tty == "tty" {
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    }
    note_start(pid_file, at)
        .map_err(|e| Refusal(126, format!("this run was already started ({e})")))?;
    if !runs::is_kept(Path::new(pid_file).parent().unwrap_or(Path::new("/"))) {
        return Err(Refusal(126, "what keeps this run is gone".to_owned()));
    }
    if let Ok(mode) = u32::from_str_radix(&umask.to_string_lossy(), 8) {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mode));
    }
    login::set_limits(&limits.to_string_lossy());
    rustix::process::chdir(workdir.as_os_str())
        .map_err(|_| Refusal(126, "the work directory is gone".to_owned()))
}

/// Writes down who is starting, before it starts; the file must not exist.
fn note_start(path: &OsStr, at: &OsStr) -> io::Result<()> {
    let own = rustix::process::getpid();
    let born = processes::born(own).unwrap_or_default();
    let text = format!("{} {born} {}\n", own.as_raw_nonzero(), at.to_string_lossy());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

fn become_command(how: &[u8], words: &[OsString]) -> Refusal {
    let Some((first, rest)) = words.split_first() else {
        return Refusal(127, "no command was given".to_owned());
    };
    match how {
        b"shell" => {
            let shell = find(OsStr::new("bash")).unwrap_or_else(|| "/bin/sh".into());
            let mut command = program::program(shell.as_os_str());
            command.arg0(shell_name(&shell)).arg("-c").args(words);
            failed(shell.as_os_str(), &command.exec())
        }
        b"script" => run_script(first, rest),
        _ => run_words(first, rest),
    }
}

fn shell_name(shell: &Path) -> &OsStr {
    if shell.starts_with("/bin/sh") { OsStr::new("sh") } else { shell.as_os_str() }
}

fn run_words(name: &OsStr, rest: &[OsString]) -> Refusal {
    let path = if name.as_bytes().contains(&b'/') { Some(PathBuf::from(name)) } else { find(name) };
    let Some(path) = path else {
        let name = name.to_string_lossy();
        return Refusal(127, format!("{name}: command not found on the box"));
    };
    run_file(name, &path, rest)
}

/// Runs a file; one without `#!` that is no program is a script for the shell, as in every shell.
fn run_file(name: &OsStr, path: &Path, rest: &[OsString]) -> Refusal {
    let mut command = program::program(path.as_os_str());
    command.arg0(name).args(rest);
    let error = retry_while_busy(&mut command);
    if error.raw_os_error() != Some(rustix::io::Errno::NOEXEC.raw_os_error()) {
        return failed(name, &error);
    }
    let shell = find(OsStr::new("bash")).unwrap_or_else(|| "/bin/sh".into());
    let error = program::program(shell.as_os_str()).arg(path).args(rest).exec();
    failed(name, &error)
}

fn run_script(path: &OsStr, rest: &[OsString]) -> Refusal {
    let mut start = [0; 2];
    let read = std::fs::File::open(path).and_then(|mut f| io::Read::read(&mut f, &mut start));
    if read.is_ok() && start == *b"#!" {
        return run_file(path, Path::new(path), rest);
    }
    let shell = find(OsStr::new("sh")).unwrap_or_else(|| "/bin/sh".into());
    failed(path, &program::program(shell.as_os_str()).arg0("sh").arg(path).args(rest).exec())
}

/// Executes; a script that was just written can be "busy" for a moment, while some other child of its writer starts.
fn retry_while_busy(command: &mut Command) -> io::Error {
    let busy = Some(rustix::io::Errno::TXTBSY.raw_os_error());
    let mut error = command.exec();
    for _ in 0..20 {
        if error.raw_os_error() != busy {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        error = command.exec();
    }
    error
}

fn failed(name: &OsStr, error: &io::Error) -> Refusal {
    let name = name.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound => Refusal(127, format!("{name}: no such file on the box")),
        _ => Refusal(126, format!("{name}: cannot be executed on the box ({error})")),
    }
}

/// Where a command is on the search path.
fn find(name: &OsStr) -> Option<PathBuf> {
    let path = program::variable("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    if name.is_empty() {
        return None;
    }
    path.as_bytes()
        .split(|b| *b == b':')
        .map(|dir| {
            let dir = if dir.is_empty() { b"." } else { dir };
            Path::new(OsStr::from_bytes(dir)).join(name)
        })
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}
