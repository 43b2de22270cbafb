//! What comes back from the box after a command: test reports and named files.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::run::TestResults;

use crate::error::{KernelError, Result};
use crate::event::{Event, Stream};
use crate::plan::Plan;
use crate::ports::{Clock, EventSink, Piece, ProcessInput, ProcessOutput, Remote, Stop, Urgency};
use crate::run::process::capture;
use crate::run::results;
use crate::shell::quote;

/// One `--download REMOTE=LOCAL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Path on the box, relative to the work directory.
    pub remote: String,
    /// Path here.
    pub local: PathBuf,
}

/// Prints one file. Nothing else is opened: a pipe may never end.
const DOWNLOAD: &str = r#"cd "$0" || exit; if [ -e "$1" ] && [ ! -f "$1" ]; then echo "it is not a regular file" >&2; exit 1; fi; exec cat -- "$1""#;
/// How long evidence may take to come back.
const COLLECT_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How much of a complaint is kept.
const STDERR_LIMIT: usize = 4096;

/// Brings evidence back, unless the user is in a hurry.
pub(super) async fn bring_back<R: Remote>(
    clock: &impl Clock,
    plan: &Plan,
    workdir: &str,
    remote: &R,
    events: &mut dyn EventSink,
    stop: &Stop,
) {
    let missing = tokio::select! {
        biased;
        () = stop.reaches(Urgency::Gentle) => Some("interrupted"),
        () = clock.sleep(COLLECT_LIMIT) => Some("it took too long"),
        () = collect(plan, workdir, remote, events) => None,
    };
    if let Some(why) = missing.filter(|_| !(plan.junit.is_empty() && plan.downloads.is_empty())) {
        let message = format!("test reports and downloads may be missing: {why}");
        events.emit(Event::Warning { message });
    }
}

/// Test reports and downloads, also after a failed command; what cannot be had is a warning.
async fn collect<R: Remote>(plan: &Plan, workdir: &str, remote: &R, events: &mut dyn EventSink) {
    if let Err(error) = junit(remote, workdir, &plan.junit, events).await {
        events.emit(Event::Warning { message: error.to_string() });
    }
    for wanted in &plan.downloads {
        let told = match download(remote, workdir, wanted).await {
            Ok(size) => Event::Debug {
                message: format!("downloaded {} ({size} bytes)", wanted.local.display()),
            },
            Err(error) => Event::Warning { message: error.to_string() },
        };
        events.emit(told);
    }
}

/// Reads the JUnit files that match the patterns, relative to the work directory.
pub async fn junit<R: Remote>(
    remote: &R,
    workdir: &str,
    patterns: &[String],
    events: &mut dyn EventSink,
) -> Result<Option<TestResults>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let script = format!(
        "cd {} || exit 1\nIFS='\n'\nset --\nwhile read -r pattern; do for f in $pattern; do [ -f \"$f\" ] && set -- \"$@\" \"./$f\"; done; done <<'CRABBOX_PATTERNS'\n{}\nCRABBOX_PATTERNS\n[ $# -gt 0 ] || exit 0\nexec tar -cf - \"$@\"\n",
        quote(workdir),
        patterns.join("\n")
    );
    let got = capture(remote, "exec sh -s", Bytes::from(script)).await?;
    let files = untar(&got.stdout)?;
    if files.is_empty() {
        events.emit(Event::Warning {
            message: format!("no test report matches {}", patterns.join(", ")),
        });
        return Ok(None);
    }
    let (results, problems) =
        results::summarise(files.iter().map(|(name, body)| (name.as_str(), body.as_slice())));
    for problem in problems {
        events.emit(Event::Warning { message: problem });
    }
    events.emit(Event::ResultsCollected { results: results.clone() });
    Ok(Some(results))
}

fn untar(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let broken = |e: std::io::Error| {
        KernelError::new(ErrorCode::SyncRead, "the box sent test reports that cannot be read")
            .because(&e)
    };
    let mut files = Vec::new();
    for entry in tar::Archive::new(bytes).entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let mut body = Vec::new();
        entry.read_to_end(&mut body).map_err(broken)?;
        files.push((name, body));
    }
    Ok(files)
}

/// Copies one file from the box; it appears here whole or not at all.
pub async fn download<R: Remote>(remote: &R, workdir: &str, wanted: &Download) -> Result<u64> {
    let command =
        format!("exec sh -c {} {} {}", quote(DOWNLOAD), quote(workdir), quote(&wanted.remote));
    let (mut input, mut output) = remote.start(&command, None).await?;
    input.finish().await?;
    let dir = wanted
        .local
        .parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(std::path::Path::new("."));
    let here = |e: &std::io::Error| {
        KernelError::new(ErrorCode::State, format!("cannot write {}", wanted.local.display()))
            .because(e)
    };
    std::fs::create_dir_all(dir).map_err(|e| here(&e))?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(|e| here(&e))?;
    let mut stderr = Vec::new();
    let mut size = 0;
    loop {
        match output.next().await? {
            Piece::Data(Stream::Stdout, data) => {
                size += data.len() as u64;
                std::io::Write::write_all(&mut file, &data).map_err(|e| here(&e))?;
            }
            Piece::Data(Stream::Stderr, data) => {
                let room = STDERR_LIMIT.saturating_sub(stderr.len());
                stderr.extend_from_slice(&data[..data.len().min(room)]);
            }
            Piece::Exited(exit) if exit.code == 0 => break,
            Piece::Exited(_) => {
                let said = String::from_utf8_lossy(&stderr).trim().to_owned();
                return Err(KernelError::new(
                    ErrorCode::NotFound,
                    format!("cannot download {}: {said}", wanted.remote),
                ));
            }
        }
    }
    file.persist(&wanted.local).map_err(|e| here(&e.error))?;
    Ok(size)
}
