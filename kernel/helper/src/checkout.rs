//! The script that makes a work tree a git checkout, while the tree is ours.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ExitStatus, Stdio};
use std::time::Duration;

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::helper::FlightParams;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::line::Line;
use crate::serve::Serve;
use crate::{Fault, program};

/// Between two looks whether it has ended, at most.
const PAUSE: Duration = Duration::from_millis(10);
/// How much of what it says is kept for an error.
const SAID: u64 = 4 << 10;

/// What marks a checkout as one that such a script made.
const OURS: &str = ".git/crabbox";

/// Runs the script of a flight, if it has one, to its end or until the flight is called off. A checkout that an earlier
/// one made would grow old with a tree that is sent without: it goes.
pub(crate) fn make(
    serve: &Serve,
    line: &Line,
    params: &FlightParams,
    workdir: &Path,
) -> Result<(), Fault> {
    let Some(script) = &params.checkout else {
        return if params.tree.is_some() { forget(workdir) } else { Ok(()) };
    };
    let login = serve.logins.get();
    let mut child = program::program(OsStr::new("sh"))
        .args(["-c", script])
        .env_clear()
        .envs(login.env.iter().map(|(name, value)| (name, value)))
        .current_dir(workdir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| Fault::io("cannot start sh", e))?;
    let said = child.stderr.take().map(|pipe| std::thread::spawn(move || words(pipe)));
    let status = wait(&mut child, line)?;
    if status.success() {
        return Ok(());
    }
    let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
    Err(Fault::new(ErrorKind::Internal, "cannot make the tree on the box a git checkout")
        .cause(said.trim())
        .hint("see that git on the box works and that .git there is crabbox's own, or leave sync.baseRef unset"))
}

fn forget(workdir: &Path) -> Result<(), Fault> {
    if !workdir.join(OURS).exists() {
        return Ok(());
    }
    let git = workdir.join(".git");
    std::fs::remove_dir_all(&git)
        .map_err(|e| Fault::io(format!("cannot remove {}", git.display()), e))
}

fn wait(child: &mut Child, line: &Line) -> Result<ExitStatus, Fault> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().map_err(|e| Fault::io("cannot wait for sh", e))? {
            return Ok(status);
        }
        if line.is_cancelled() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            return Err(Fault::cancelled());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE);
    }
}

/// The beginning of what it says; the rest is read too, so that it is not held up.
fn words(mut pipe: ChildStderr) -> String {
    let mut said = Vec::new();
    let _ = pipe.by_ref().take(SAID).read_to_end(&mut said);
    let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    String::from_utf8_lossy(&said).into_owned()
}
