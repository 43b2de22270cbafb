//! One flight: the tree as wanted, then the command, then what it prints.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crabbox_schemas::error::{ErrorKind, Outcome};
use crabbox_schemas::helper::{
    Action, Applied, Blob, FlightParams, FlightResult, Role, RunSpec, Started, note,
};
use crabbox_wire::Id;

use crate::blob::{blob, os_string};
use crate::follow::Follow;
use crate::line::Line;
use crate::link::{News, Order, Start};
use crate::pool::Hand;
use crate::runs::{self, Meta, RunDir};
use crate::serve::Serve;
use crate::{Fault, clock};

/// Largest script.
const LARGEST_SCRIPT: usize = 64 << 20;

/// A command that was started by us.
struct Running {
    hand: Hand,
    run: RunDir,
    started: Started,
}

/// Answers a flight, and follows the command it started.
pub(crate) fn fly(serve: &Arc<Serve>, line: &Arc<Line>, id: Id, params: FlightParams) {
    match land(serve, line, &params) {
        Ok((result, running)) => {
            let told = match &running {
                Some(running) => serve.out.note(line.session, note::STARTED, &running.started),
                None => Ok(()),
            };
            serve.answered(line, &id);
            let told = told.and_then(|()| serve.out.answer(line.session, id, Ok(result)));
            if let Some(running) = running {
                follow(serve, line, running, told.is_err());
            }
        }
        Err(fault) => {
            serve.answered(line, &id);
            let _ = serve.out.answer(line.session, id, Err::<(), _>(fault));
        }
    }
    serve.close(line);
}

fn land(
    serve: &Arc<Serve>,
    line: &Arc<Line>,
    params: &FlightParams,
) -> Result<(FlightResult, Option<Running>), Fault> {
    check(params)?;
    let workdir = Path::new(&params.base_dir).join(&params.repo);
    let Some(spec) = &params.run else {
        return Ok((FlightResult::Applied(Applied::default()), None));
    };
    let run = RunDir::of(&params.base_dir, &spec.run_id)?;
    run.refuse_twice()?;
    let script = match &spec.action {
        Action::Script(_) => Some(receive_script(serve, line)?),
        _ => None,
    };
    make_folder(&workdir)?;
    let running = start(serve, line, spec, run, &workdir, script.as_deref(), None)?;
    Ok((FlightResult::Applied(Applied::default()), Some(running)))
}

fn check(params: &FlightParams) -> Result<(), Fault> {
    let one = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    if !one(&params.repo) || params.repo == ".crabbox" {
        return Err(Fault::request("the tree's name is not one path component"));
    }
    if !params.base_dir.starts_with('/') || params.base_dir.contains('\0') {
        return Err(Fault::request("the lease's folder is not absolute"));
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Fault> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Fault::io(format!("cannot make {}", path.display()), e))
}

/// Takes the script's bytes, all of them.
fn receive_script(serve: &Serve, line: &Line) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    loop {
        let piece = line.next(Role::Script)?;
        if body.len() + piece.bytes.len() > LARGEST_SCRIPT {
            return Err(Fault::request("the script is too large"));
        }
        body.extend_from_slice(&piece.bytes);
        if piece.last {
            return Ok(body);
        }
        serve.grant(line, Role::Script, piece.bytes.len() as u64)?;
    }
}

/// Starts the command: exactly once, since its folder can be made only once.
fn start(
    serve: &Arc<Serve>,
    line: &Line,
    spec: &RunSpec,
    run: RunDir,
    workdir: &Path,
    script: Option<&[u8]>,
    lock: Option<OwnedFd>,
) -> Result<Running, Fault> {
    let start = plan(serve, spec, &run, workdir)?;
    let mut hand = serve.pool.take()?;
    if line.is_cancelled() {
        serve.pool.give(hand);
        return Err(Fault::cancelled());
    }
    let meta = Meta {
        command: runs::shown(&spec.action),
        spool_bytes: spec.spool_bytes,
        boot: serve.boot.clone(),
        made_ms: clock::now_ms(),
    };
    let keeper = run.create(&meta, script)?;
    let mut files = vec![keeper.as_fd()];
    files.extend(lock.as_ref().map(AsFd::as_fd));
    let news = hand.link.as_mut().map(|link| {
        link.tell_with(&Order::Start(Box::new(start)), &files)?;
        link.answer()
    });
    match news {
        Some(Ok(News::Started { pid, at_ms })) => {
            let workdir = workdir.to_string_lossy().into_owned();
            let started = Started { run_id: spec.run_id.clone(), pid, workdir, at_ms };
            Ok(Running { hand, run, started })
        }
        Some(Ok(News::Failed(why))) => {
            serve.pool.give(hand);
            Err(Fault::new(ErrorKind::Internal, "the command could not be started")
                .cause(why)
                .outcome(Outcome::NotStarted))
        }
        _ => Err(Fault::new(ErrorKind::Internal, "the worker died when the command was started")
            .outcome(Outcome::Uncertain)),
    }
}

/// Everything a worker needs to know.
fn plan(serve: &Serve, spec: &RunSpec, run: &RunDir, workdir: &Path) -> Result<Start, Fault> {
    let login = serve.logins.get();
    let mut env: BTreeMap<OsString, OsString> = login.env.iter().cloned().collect();
    env.remove(&OsString::from("OLDPWD"));
    env.insert("PWD".into(), workdir.into());
    if let Some(terminal) = &spec.pty {
        env.insert("TERM".into(), (&terminal.term).into());
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Fault::request("not a name for the environment"));
        }
        env.insert(name.into(), os_string(value)?);
    }
    let words = words(&spec.action, run)?;
    words.iter().try_for_each(|word| os_string(word).map(drop))?;
    Ok(Start {
        dir: run.path().to_string_lossy().into_owned(),
        workdir: workdir.to_string_lossy().into_owned(),
        words,
        env: env.iter().map(|(name, value)| (blob(name), blob(value))).collect(),
        umask: login.umask,
        pty: spec.pty.clone(),
        stdin: spec.stdin,
        timeout_ms: spec.timeout_ms,
        spool_bytes: spec.spool_bytes,
        attached: true,
    })
}

/// How the exec mode shall start it, and what.
fn words(action: &Action, run: &RunDir) -> Result<Vec<Blob>, Fault> {
    let how = |word: &str| Blob::Text(word.to_owned());
    let path = |path: PathBuf| blob(path.as_os_str());
    Ok(match action {
        Action::Exec(words) if words.is_empty() => {
            return Err(Fault::request("no command was given"));
        }
        Action::Exec(words) => [&[how("words")], &words[..]].concat(),
        Action::Shell(line) => vec![how("shell"), line.clone()],
        Action::Script(args) => [&[how("script"), path(run.file("script"))], &args[..]].concat(),
    })
}

/// Sends the run's output and end, and stays until the end also when nobody listens.
fn follow(serve: &Arc<Serve>, line: &Arc<Line>, running: Running, alone: bool) {
    let Running { mut hand, run, started } = running;
    serve.has_terminal(line, &started.run_id);
    if alone {
        line.leave();
    }
    let followed = Follow::new(&serve.out, line.clone(), run, [0, 0]).live(&mut hand.link, true);
    if followed.is_ok() && hand.link.is_some() {
        serve.pool.give(hand);
    }
}
