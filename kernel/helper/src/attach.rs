//! Coming back to a run that was started before, by whomever.

use std::sync::Arc;

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::helper::{AttachParams, RunState};
use crabbox_wire::Id;

use crate::Fault;
use crate::follow::Follow;
use crate::line::Line;
use crate::link::{Link, News, Order};
use crate::runs::{RunDir, Standing};
use crate::serve::Serve;

/// Answers with the state of the run; its output and its end follow.
pub(crate) fn attach(serve: &Arc<Serve>, line: &Arc<Line>, id: Id, params: &AttachParams) {
    let found = find(params);
    serve.answered(line, &id);
    let known = found.as_ref().is_ok_and(|found| found.state.state != "unknown");
    if !known {
        line.finish();
    }
    let answer = found.as_ref().map(|found| &found.state).map_err(Clone::clone);
    let sent = serve.out.answer(line.session, id, answer);
    if let (Ok(()), Ok(found), true) = (sent, found, known) {
        serve.has_terminal(line, &params.run_id);
        let from = [params.stdout, params.stderr];
        let follow = Follow::new(&serve.out, line.clone(), found.run, from)
            .stdin_from(found.state.stdin_taken);
        let _ = match found.link {
            Some(link) => follow.live(&mut Some(link), false),
            None => follow.rest(),
        };
    }
    serve.close(line);
}

/// A run, and a line to its worker while it runs.
struct Found {
    run: RunDir,
    state: RunState,
    link: Option<Link>,
}

fn find(params: &AttachParams) -> Result<Found, Fault> {
    let run = RunDir::of(&params.base_dir, &params.run_id)?;
    let mut link = match run.standing() {
        Standing::Running => run.call(),
        _ => None,
    };
    let mut taken = 0;
    if let Some(open) = &mut link {
        match join(open, params) {
            Ok(stdin_taken) => taken = stdin_taken,
            // It ended just now.
            Err(_) => link = None,
        }
    }
    if link.is_none() && matches!(run.settled(), Standing::Running) {
        return Err(Fault::new(ErrorKind::Internal, "the run's worker cannot be reached"));
    }
    let mut state = run.state();
    state.stdin_taken = taken;
    Ok(Found { run, state, link })
}

fn join(link: &mut Link, params: &AttachParams) -> std::io::Result<u64> {
    link.tell(&Order::Attach {
        stdout: params.stdout,
        stderr: params.stderr,
        stdin: params.stdin.is_some(),
    })?;
    match link.answer()? {
        News::Attached { stdin_taken } => Ok(stdin_taken),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// Ends a running command; true once all its processes are gone.
pub(crate) fn end(run: &RunDir, now: bool) -> bool {
    let answer = run.call().map(|mut link| {
        link.tell(&Order::Signal { now })?;
        loop {
            match link.answer()? {
                News::Signalled { gone } => return Ok(gone),
                News::Exited(_) => return Ok(true),
                _ => {}
            }
        }
    });
    match answer {
        Some(std::io::Result::Ok(gone)) => gone,
        // Its worker went away meanwhile: because it is over, or because it was killed.
        _ => match run.settled() {
            Standing::Running => false,
            Standing::Lost => run.end_leftovers(now),
            Standing::Unknown | Standing::Exited(_) => true,
        },
    }
}
