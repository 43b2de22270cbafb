//! One flight: the tree as wanted, then the command, then what it prints.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crabbox_schemas::error::{ErrorKind, Outcome};
use crabbox_schemas::helper::{
    Action, Applied, Blob, FlightParams, FlightResult, Role, RunSpec, Started, note,
};
use crabbox_wire::Id;

use crate::blob::{blob, os_string};
use crate::checkout;
use crate::follow::Follow;
use crate::line::Line;
use crate::link::{News, Order, Start};
use crate::pool::Hand;
use crate::runs::{self, Meta, Prepared, RunDir};
use crate::serve::Serve;
use crate::tree::Tree;
use crate::trees::{self, Ground, Stop};
use crate::{Fault, clock};

/// Largest script.
const LARGEST_SCRIPT: usize = 64 << 20;

/// A command that was started by us.
struct Running {
    hand: Hand,
    run: RunDir,
    /// The work tree it may change.
    tree: Option<Arc<Mutex<Tree>>>,
    started: Started,
}

/// Answers a flight, and follows the command it started.
pub(crate) fn fly(serve: &Arc<Serve>, line: &Arc<Line>, id: Id, params: FlightParams) {
    match land(serve, line, &params) {
        Ok(Landed { applied, running }) => {
            let told = match &running {
                Some(running) => serve.out.note(line.session, note::STARTED, &running.started),
                None => Ok(()),
            };
            serve.answered(line, &id);
            if running.is_none() {
                line.finish();
            }
            let result = Ok(FlightResult::Applied(applied));
            let told = told.and_then(|()| serve.out.answer(line.session, id, result));
            if let Some(running) = running {
                follow(serve, line, &params.base_dir, running, told.is_err());
            }
        }
        Err(stop) => {
            serve.answered(line, &id);
            line.finish();
            let _ = serve.out.answer(line.session, id, trees::answer(stop));
        }
    }
    serve.close(line);
}

/// What came of a flight.
struct Landed {
    applied: Applied,
    running: Option<Running>,
}

fn land(serve: &Arc<Serve>, line: &Arc<Line>, params: &FlightParams) -> Result<Landed, Stop> {
    check(params)?;
    let run = match &params.run {
        Some(spec) => Some((spec, RunDir::of(&params.base_dir, &spec.run_id)?)),
        None => None,
    };
    let begun = || run.as_ref().map_or(Ok(()), |(_, run)| run.refuse_twice());
    begun()?;
    let ground = trees::lock(serve, line, params, &begun)?;
    let applied = match &params.tree {
        Some(change) => trees::change(serve, line, &ground, change)?,
        None => Applied::default(),
    };
    let Some((spec, run)) = run else {
        checkout::make(serve, line, params, &Path::new(&params.base_dir).join(&params.repo))?;
        return Ok(Landed { applied, running: None });
    };
    let script = match &spec.action {
        Action::Script(_) => Some(serve.receive(line, Role::Script, LARGEST_SCRIPT)?),
        _ => None,
    };
    line.clear();
    let place = place(params, ground, &spec.run_id)?;
    checkout::make(serve, line, params, &place.workdir)?;
    let running = start(serve, line, spec, run, place, script.as_deref())?;
    Ok(Landed { applied, running: Some(running) })
}

/// Where a command runs.
struct Place {
    workdir: PathBuf,
    /// The work tree, unless it is a private copy.
    ground: Option<Ground>,
}

fn place(params: &FlightParams, ground: Ground, run_id: &str) -> Result<Place, Stop> {
    if params.isolate {
        return Ok(Place { workdir: trees::isolate(ground, run_id)?, ground: None });
    }
    let workdir = Path::new(&params.base_dir).join(&params.repo);
    make_folder(&workdir)?;
    Ok(Place { workdir, ground: Some(ground) })
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

/// Starts the command: exactly once, since its folder can be made only once.
fn start(
    serve: &Arc<Serve>,
    line: &Line,
    spec: &RunSpec,
    run: RunDir,
    place: Place,
    script: Option<&[u8]>,
) -> Result<Running, Fault> {
    let Place { workdir, ground } = place;
    let mut start = plan(serve, spec, &run, &workdir)?;
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
    let prepared = run.prepare(&meta, script)?;
    start.unnamed = prepared.dir.to_string_lossy().into_owned();
    let mut files = vec![prepared.keeper.as_fd()];
    files.extend(ground.as_ref().map(|ground| ground.lock.fd()));
    start.files = files.len();
    let order = Order::Start(Box::new(start));
    let told = hand.link.as_mut().map(|link| link.tell_with(&order, &files));
    let Prepared { dir, keeper } = prepared;
    // Whether the run is kept is for its worker alone to show.
    drop(keeper);
    let news = hand.link.as_mut().zip(told).map(|(link, told)| told.and_then(|()| link.answer()));
    match news {
        Some(Ok(News::Started { pid, at_ms })) => {
            let workdir = workdir.to_string_lossy().into_owned();
            let started = Started { run_id: spec.run_id.clone(), pid, workdir, at_ms };
            // The worker holds the lock from now on.
            let tree = ground.map(|ground| ground.tree);
            Ok(Running { hand, run, tree, started })
        }
        Some(Ok(News::Twice)) => {
            serve.pool.give(hand);
            let _ = std::fs::remove_dir_all(&dir);
            Err(RunDir::twice())
        }
        Some(Ok(News::Failed(why))) => {
            serve.pool.give(hand);
            Err(not_started(&dir, &why))
        }
        Some(Err(e)) if e.kind() == std::io::ErrorKind::ArgumentListTooLong => {
            serve.pool.give(hand);
            Err(not_started(&dir, &e))
        }
        // The worker is gone. Who attaches to a run that was begun learns that it is lost.
        _ if run.exists() => Err(RunDir::twice()),
        _ => Err(not_started(&dir, &"the worker died before it began")),
    }
}

/// The command never began: then there is no run.
fn not_started(unnamed: &Path, why: &dyn std::fmt::Display) -> Fault {
    let _ = std::fs::remove_dir_all(unnamed);
    Fault::new(ErrorKind::Internal, "the command could not be started")
        .cause(why)
        .outcome(Outcome::NotStarted)
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
        unnamed: String::new(),
        dir: run.path().to_string_lossy().into_owned(),
        workdir: workdir.to_string_lossy().into_owned(),
        words,
        env: env.iter().map(|(name, value)| (blob(name), blob(value))).collect(),
        umask: login.umask,
        limits: login.limits.clone(),
        pty: spec.pty.clone(),
        stdin: spec.stdin,
        timeout_ms: spec.timeout_ms,
        spool_bytes: spec.spool_bytes,
        files: 0,
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

/// Sends the run's output and end, and stays until the end also when nobody listens. Then the tree is looked after,
/// and old runs are forgotten.
fn follow(serve: &Arc<Serve>, line: &Arc<Line>, base_dir: &str, running: Running, alone: bool) {
    let Running { mut hand, run, tree, started } = running;
    serve.has_terminal(line, &started.run_id);
    if alone {
        line.leave();
    }
    let followed = Follow::new(&serve.out, line.clone(), run, [0, 0]).live(&mut hand.link, true);
    serve.close(line);
    if followed.is_ok() && hand.link.is_some() {
        serve.pool.give(hand);
    }
    if let Some(tree) = tree {
        trees::look_after(&tree);
    }
    runs::prune(base_dir, clock::now_ms());
}
