//! The login environment: what the account's profiles make of it, found out once and kept while they stay the same.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};

use crate::program;

/// How long the profiles may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes an environment may have.
const MOST: u64 = 4 << 20;

/// Reads the profiles as a login shell does, their talk discarded, and becomes us to tell what came of it.
const SCRIPT: &str = r#"{
  [ ! -r /etc/profile ] || . /etc/profile
  for p in "$HOME/.bash_profile" "$HOME/.bash_login" "$HOME/.profile"; do
    if [ -r "$p" ]; then . "$p"; break; fi
  done
  unset p
} >/dev/null 2>&1 </dev/null
exec "$0" environ
"#;

/// What the profiles make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) umask: u32,
    /// The limits of resources they changed: `number=soft,hard` each, a blank between.
    pub(crate) limits: String,
}

/// A file's identity: it is the same while this is.
type Stamp = (PathBuf, Option<(u64, u64, i64, i64)>);

/// The account's login environment.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    known: Mutex<Option<(Vec<Stamp>, Arc<Login>)>>,
}

impl Logins {
    /// The environment; runs the profiles when they were not, or changed.
    pub(crate) fn get(&self) -> Arc<Login> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps();
        if let Some((then, login)) = &*known
            && *then == stamps
        {
            return login.clone();
        }
        let login = Arc::new(capture().unwrap_or_else(own));
        *known = Some((stamps, login.clone()));
        login
    }
}

/// The resources that have limits.
const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// Our limits, a word each.
fn limits() -> Vec<String> {
    let number = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
    let word = |(index, resource): (usize, &Resource)| {
        let limit = getrlimit(*resource);
        format!("{index}={},{}", number(limit.current), number(limit.maximum))
    };
    RESOURCES.iter().enumerate().map(word).collect()
}

/// Takes over limits that the profiles set; what cannot be had stays as it is.
pub(crate) fn set_limits(words: &str) {
    for word in words.split(' ').filter(|word| !word.is_empty()) {
        let limit = word.split_once('=').and_then(|(index, values)| {
            let (soft, hard) = values.split_once(',')?;
            let limit = Rlimit { current: soft.parse().ok(), maximum: hard.parse().ok() };
            Some((RESOURCES.get(index.parse::<usize>().ok()?)?, limit))
        });
        if let Some((resource, limit)) = limit {
            let _ = setrlimit(*resource, limit);
        }
    }
}

/// The environ mode: prints our umask, limits and environment, each ended by NUL.
pub(crate) fn environ() -> ExitCode {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    let mut text = format!("{:o}\0{}\0", mask.as_raw_mode(), limits().join(" ")).into_bytes();
    for (name, value) in program::environment() {
        text.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    let done = std::io::stdout().write_all(&text);
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The environment we were started with, when the profiles make none.
fn own() -> Login {
    let mask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(mask);
    Login { env: program::environment(), umask: mask.as_raw_mode(), limits: String::new() }
}

fn capture() -> Option<Login> {
    let shell = if on_path("bash") { "bash" } else { "sh" };
    let mut child = program::program(OsStr::new(shell))
        .args(["-c", SCRIPT, &exe()?])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw)?;
    let pipe = child.stdout.take()?;
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = pipe.take(MOST).read_to_end(&mut text);
        let _ = tell.send(read.is_ok().then_some(text));
    });
    let until = Instant::now() + PATIENCE;
    let text = told.recv_timeout(until.saturating_duration_since(Instant::now())).ok().flatten();
    if text.is_none() {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let fine = child.wait().is_ok_and(|status| status.success());
    text.filter(|_| fine).and_then(|text| parse(&text))
}

/// Our own file: the shell's `$0` becomes it, so that nobody needs a tool of the box to tell an environment.
fn exe() -> Option<String> {
    std::fs::read_link(program::SELF).ok()?.into_os_string().into_string().ok()
}

fn parse(text: &[u8]) -> Option<Login> {
    let mut words = text.strip_suffix(b"\0")?.split(|b| *b == 0);
    let umask = u32::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 8).ok()?;
    let ours = limits();
    let theirs = std::str::from_utf8(words.next()?).ok()?.split(' ');
    let limits: Vec<&str> = theirs.filter(|word| !ours.iter().any(|own| own == word)).collect();
    let env = words.filter_map(|word| {
        let at = word.iter().position(|b| *b == b'=')?;
        let own = |part: &[u8]| OsString::from_vec(part.to_vec());
        Some((own(&word[..at]), own(&word[at + 1..])))
    });
    Some(Login { env: env.collect(), umask, limits: limits.join(" ") })
}

fn on_path(name: &str) -> bool {
    let path = program::variable("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.as_bytes()
        .split(|b| *b == b':')
        .any(|dir| Path::new(OsStr::from_bytes(dir)).join(name).is_file())
}

/// The files profiles are made of, as they are now.
fn stamps() -> Vec<Stamp> {
    let mut files: Vec<PathBuf> =
        vec!["/etc/profile".into(), "/etc/profile.d".into(), "/etc/bash.bashrc".into()];
    let parts = std::fs::read_dir("/etc/profile.d").into_iter().flatten();
    files.extend(parts.filter_map(|entry| Some(entry.ok()?.path())));
    if let Some(home) = program::variable("HOME") {
        let names = [".bash_profile", ".bash_login", ".profile", ".bashrc"];
        files.extend(names.map(|name| Path::new(&home).join(name)));
    }
    files.sort();
    let stamp = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
    };
    files.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}
