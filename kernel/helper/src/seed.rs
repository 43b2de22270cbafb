//! Content that the box fetches from the repository's origin by itself, while the laptop sends: a source of pieces, each
//! proved like any other. Nothing waits for it, and nothing depends on it.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_schemas::helper::{Origin, Seeded, note};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, kill_process_group, nice, set_parent_process_death_signal,
    setrlimit, setsid,
};

use crate::line::Line;
use crate::program;
use crate::serve::Serve;
use crate::tree::{Lack, Offers};

/// How long a fetch may take, and between two looks whether it is over.
const LIMIT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(20);
/// A fetch may take twice the bytes that are missing and this; without as much space again it does not begin.
const SPARE: u64 = 64 << 20;
/// How many contents are brought between two notes.
const NOTED: usize = 256;
/// Most bytes of its complaint that are told.
const COMPLAINT: u64 = 300;
/// What git is told besides its words: no credentials, no hooks, no other protocol, nothing in the background.
const CONFIG: &[&str] = &[
    "credential.helper=",
    "core.askPass=",
    "core.hooksPath=/dev/null",
    "http.followRedirects=initial",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
    "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=1",
    "gc.auto=0",
    "maintenance.auto=false",
];
/// What of our environment it sees: the way out of the box.
const SEEN: &[&str] = &["PATH", "http_proxy", "https_proxy", "all_proxy", "no_proxy"];

/// A seed under way. Dropping it ends it: afterwards it brings and tells nothing.
#[derive(Debug)]
pub(crate) struct Seed(Arc<Gate>);

/// Open while the flight takes pieces.
type Gate = Mutex<Option<Offers>>;

impl Drop for Seed {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close(gate: &Gate) {
    *gate.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

fn is_open(gate: &Gate) -> bool {
    gate.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Begins to fetch what is missing, beside everything else; the folder is made below `base_dir`.
pub(crate) fn begin(
    serve: &Arc<Serve>,
    line: &Arc<Line>,
    base_dir: &Path,
    origin: &Origin,
    offers: Offers,
) -> Seed {
    let gate = Arc::new(Mutex::new(Some(offers)));
    let job = Job {
        serve: serve.clone(),
        line: line.clone(),
        gate: gate.clone(),
        origin: origin.clone(),
        seeds: base_dir.join(".crabbox/seed"),
    };
    // Without a thread there is no seed.
    let _ = std::thread::Builder::new().spawn(move || {
        let serve = job.serve.clone();
        serve.whole(|| job.run());
    });
    Seed(gate)
}

struct Job {
    serve: Arc<Serve>,
    line: Arc<Line>,
    gate: Arc<Gate>,
    origin: Origin,
    /// The folder with one folder a seed.
    seeds: PathBuf,
}

impl Job {
    fn run(self) {
        let said = match self.fetch_and_bring() {
            Ok(0) => "nothing that is missing came from the origin".to_owned(),
            Ok(pieces) => format!("{pieces} pieces came from the origin"),
            Err(why) => format!("nothing more comes from the origin: {why}"),
        };
        self.tell(Vec::new(), Some(said));
        close(&self.gate);
    }

    fn fetch_and_bring(&self) -> Result<u64, String> {
        check(&self.origin)?;
        let (lacks, bytes) = {
            let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            let offers = gate.as_ref().ok_or("the flight is over")?;
            let lacks = offers.lacks().to_vec();
            let bytes = lacks.iter().map(|lack| lack.size).sum::<u64>();
            (lacks, bytes)
        };
        let folder = Folder::make(&self.seeds)?;
        let most = bytes.saturating_mul(2).saturating_add(SPARE);
        if folder.free() < most.saturating_mul(2) {
            return Err("there is too little space for it".to_owned());
        }
        let git = Git { dir: folder.0.clone(), most };
        self.wait(git.start(&["init", "-q", "--bare", "."]))?;
        // Not every server gives a commit by its name.
        let Origin { url, commit, reference } = &self.origin;
        let fetch = |what: &str| {
            let words = ["fetch", "-q", "--depth=1", "--no-tags", "--no-auto-gc", "--", url, what];
            self.wait(git.start(&words))
        };
        fetch(commit).or_else(|_| fetch(reference))?;
        self.bring(&git, lacks)
    }

    /// Waits for a git, as long as there is somebody to wait for it.
    fn wait(&self, started: io::Result<Running>) -> Result<(), String> {
        let mut running = started.map_err(|e| e.to_string())?;
        let until = Instant::now() + LIMIT;
        loop {
            match running.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(running.why(status.code())),
                Err(error) => return Err(error.to_string()),
                Ok(None) if !is_open(&self.gate) => return Err("the flight is over".to_owned()),
                Ok(None) if Instant::now() >= until => return Err("it took too long".to_owned()),
                Ok(None) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Reads what is missing, the last first: the laptop sends from the other end.
    fn bring(&self, git: &Git, mut lacks: Vec<Lack>) -> Result<u64, String> {
        let mut reader = git.start(&["cat-file", "--batch"]).map_err(|e| e.to_string())?;
        let (Some(mut ask), Some(answers)) =
            (reader.child.stdin.take(), reader.child.stdout.take())
        else {
            return Err("git takes no questions".to_owned());
        };
        let mut answers = BufReader::with_capacity(256 << 10, answers);
        let (mut sum, mut brought) = (0, Vec::new());
        lacks.reverse();
        for (at, lack) in lacks.iter().enumerate() {
            let mut question = b"FETCH_HEAD:".to_vec();
            question.extend_from_slice(lack.path.as_os_str().as_encoded_bytes());
            if question.contains(&b'\n') {
                continue;
            }
            question.push(b'\n');
            ask.write_all(&question).map_err(|e| e.to_string())?;
            self.take(&mut answers, lack, &mut brought).map_err(|e| e.to_string())?;
            if at % NOTED == NOTED - 1 || at + 1 == lacks.len() {
                brought.sort_unstable();
                sum += brought.len() as u64;
                self.tell(std::mem::take(&mut brought), None);
            }
            if !is_open(&self.gate) {
                break;
            }
        }
        Ok(sum)
    }

    /// One answer: a line, then the content when there is one.
    fn take(
        &self,
        answers: &mut BufReader<ChildStdout>,
        lack: &Lack,
        brought: &mut Vec<u64>,
    ) -> io::Result<()> {
        let mut head = String::new();
        if answers.by_ref().take(1 << 16).read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let words: Vec<&str> = head.split_ascii_whitespace().collect();
        let [_, kind, size] = words[..] else { return Ok(()) };
        let Ok(size) = size.parse::<u64>() else { return Ok(()) };
        let mut content = answers.by_ref().take(size);
        if kind == "blob" && size == lack.size {
            let mut at = 0;
            for piece in &lack.pieces {
                io::copy(&mut content.by_ref().take(piece.at - at), &mut io::sink())?;
                let mut bytes = vec![0; piece.len as usize];
                content.read_exact(&mut bytes)?;
                at = piece.at + u64::from(piece.len);
                let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
                if gate.as_ref().is_some_and(|offers| offers.offer(piece.number, &bytes)) {
                    brought.push(piece.number as u64);
                }
            }
        }
        io::copy(&mut content, &mut io::sink())?;
        answers.read_exact(&mut [0])
    }

    /// Tells the laptop what it need not send; nothing once the flight is over.
    fn tell(&self, pieces: Vec<u64>, said: Option<String>) {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if gate.is_some() && (said.is_some() || !pieces.is_empty()) {
            let seeded = Seeded { channels: self.line.base, pieces: ranges(&pieces), said };
            let _ = self.serve.tell(&self.line, note::SEEDED, &seeded);
        }
    }
}

/// Numbers in order as ranges: the first, and how many.
fn ranges(numbers: &[u64]) -> Vec<[u64; 2]> {
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some([first, count]) if *first + *count == *number => *count += 1,
            _ => ranges.push([*number, 1]),
        }
    }
    ranges
}

/// The laptop looked at it, too; but it becomes words of a command here.
fn check(origin: &Origin) -> Result<(), String> {
    let Origin { url, commit, reference } = origin;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let schemes = ["https://", "http://", "git://"];
    let hex = |text: &str| text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match schemes.iter().any(|s| url.starts_with(s)) && plain(url) && !url.contains('@') {
        true if hex(commit) && reference.starts_with("refs/") && plain(reference) => Ok(()),
        _ => Err("that is no public origin".to_owned()),
    }
}

/// A seed's own folder, removed with it.
struct Folder(PathBuf);

impl Folder {
    /// Makes one, and removes those of helpers that are gone.
    fn make(seeds: &Path) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let own = std::process::id();
        for entry in std::fs::read_dir(seeds).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.split('.').next().unwrap_or_default();
            if pid != own.to_string() && !Path::new("/proc").join(pid).exists() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let path = seeds.join(format!("{own}.{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map(|()| Self(path)).map_err(|e| e.to_string())
    }

    fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.0).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The box's git, in a folder of our own.
struct Git {
    dir: PathBuf,
    /// Largest file it may make.
    most: u64,
}

/// A git that runs. Dropping it ends it, with all it started.
struct Running {
    child: Child,
    complaint: PathBuf,
}

impl Git {
    fn start(&self, words: &[&str]) -> io::Result<Running> {
        let complaint = self.dir.join("complaint");
        let mut command = program::another("seed");
        command.arg(self.most.to_string());
        command.args(CONFIG.iter().flat_map(|value| ["-c", value])).args(words);
        command.current_dir(&self.dir).env_clear();
        command.envs(SEEN.iter().filter_map(|name| Some((*name, program::variable(name)?))));
        for (name, value) in [
            ("GIT_ALLOW_PROTOCOL", "http:https:git"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS", ""),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("LC_ALL", "C"),
        ] {
            command.env(name, value);
        }
        // No `.netrc` either.
        command.env("HOME", &self.dir).env("GIT_CEILING_DIRECTORIES", &self.dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&complaint)?);
        Ok(Running { child: command.spawn()?, complaint })
    }
}

impl Running {
    fn why(&self, code: Option<i32>) -> String {
        let mut said = String::new();
        let file = File::open(&self.complaint);
        let _ = file.and_then(|file| file.take(COMPLAINT).read_to_string(&mut said));
        match (code, said.lines().next()) {
            (Some(127), _) => "there is no git on the box".to_owned(),
            (_, Some(line)) => line.to_owned(),
            (code, None) => format!("git ended with {code:?}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The seed mode: becomes git, as a process that stands back, makes no file beyond the limit, and does not outlive us.
pub(crate) fn become_git(args: &[OsString]) -> ExitCode {
    let Some((most, words)) = args.split_first() else { return ExitCode::from(64) };
    let Some(most) = most.to_str().and_then(|text| text.parse().ok()) else {
        return ExitCode::from(64);
    };
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    let bounded = setsid().is_ok()
        && set_parent_process_death_signal(Some(Signal::KILL)).is_ok()
        && setrlimit(Resource::Fsize, limit).is_ok();
    if !bounded {
        return ExitCode::from(126);
    }
    let _ = nice(19);
    let mut git: Command = program::program("git".as_ref());
    match git.args(words).exec().kind() {
        io::ErrorKind::NotFound => ExitCode::from(127),
        _ => ExitCode::from(126),
    }
}
