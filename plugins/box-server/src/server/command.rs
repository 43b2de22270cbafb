//! One command in the box: its process, its streams, its signals, its end.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Stdio;

use russh::Sig;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::unix::pipe;

use super::Shared;
use super::terminal;
use crate::program::{self, Start, Streams};
use crate::reaper::Child;
use crate::session::{self, Program};

/// What a channel asked for before it started anything.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    pub(crate) terminal: Option<terminal::Request>,
    pub(crate) env: Vec<(String, String)>,
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) input: pipe::Sender,
    pub(crate) output: pipe::Receiver,
    /// Absent on a terminal, where errors are part of the output.
    pub(crate) errors: Option<pipe::Receiver>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// Starts the command line, or a login shell when there is none.
pub(crate) fn start(shared: &Shared, wish: Wish, line: Option<Vec<u8>>) -> io::Result<Running> {
    let program = program(&shared.setup.shell, line);
    let Wish { terminal, env } = wish;
    let mut full = shared.setup.env.clone();
    full.extend(env);
    match terminal {
        Some(request) => on_terminal(shared, full, &request, &program),
        None => on_pipes(shared, &full, &program),
    }
}

fn on_terminal(
    shared: &Shared,
    mut env: Vec<(String, String)>,
    request: &terminal::Request,
    program: &Program,
) -> io::Result<Running> {
    env.push(("TERM".to_owned(), request.term.clone()));
    let (ours, theirs) = terminal::open(request)?;
    // A terminal reads and writes like a pipe whose other end is gone once nobody holds it.
    let input = pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?;
    let output = pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?;
    let streams = Streams {
        stdin: theirs.try_clone()?.into(),
        stdout: theirs.try_clone()?.into(),
        stderr: theirs.into(),
    };
    let child = spawn(shared, &env, true, program, streams)?;
    Ok(Running { child, input, output, errors: None, terminal: Some(ours) })
}

fn on_pipes(shared: &Shared, env: &[(String, String)], program: &Program) -> io::Result<Running> {
    let (their_input, input) = io::pipe()?;
    let (output, their_output) = io::pipe()?;
    let (errors, their_errors) = io::pipe()?;
    let streams = Streams {
        stdin: Stdio::from(their_input),
        stdout: Stdio::from(their_output),
        stderr: Stdio::from(their_errors),
    };
    let input = pipe::Sender::from_owned_fd(input.into())?;
    let output = pipe::Receiver::from_owned_fd(output.into())?;
    let errors = Some(pipe::Receiver::from_owned_fd(errors.into())?);
    let child = spawn(shared, env, false, program, streams)?;
    Ok(Running { child, input, output, errors, terminal: None })
}

fn program(shell: &str, line: Option<Vec<u8>>) -> Program {
    match line {
        Some(line) => Program {
            file: "/bin/sh".to_owned(),
            name: "sh".to_owned(),
            args: vec!["-c".into(), OsString::from_vec(line)],
        },
        None => {
            let name = shell.rsplit('/').next().unwrap_or(shell);
            Program { file: shell.to_owned(), name: format!("-{name}"), args: Vec::new() }
        }
    }
}

fn spawn(
    shared: &Shared,
    env: &[(String, String)],
    terminal: bool,
    program: &Program,
    streams: Streams,
) -> io::Result<Child> {
    let mut args = vec![OsString::from("--session")];
    args.extend(session::arguments(terminal, &shared.setup.limits, program));
    let (file, dir) = (program::ourselves()?, Path::new(&shared.setup.home));
    shared.reaper.spawn(Start {
        file: &file,
        args: &args,
        env,
        dir,
        streams,
        owner: shared.setup.owner,
    })
}

/// Sends a signal to the command's process group.
pub(crate) fn send(leader: Pid, signal: Signal) {
    if kill_process_group(leader, signal).is_err() {
        // It has not reached its own group yet.
        let _ = kill_process(leader, signal);
    }
}

/// The signals of the protocol.
const SIGNALS: [(&str, Signal); 14] = [
    ("ABRT", Signal::ABORT),
    ("ALRM", Signal::ALARM),
    ("FPE", Signal::FPE),
    ("HUP", Signal::HUP),
    ("ILL", Signal::ILL),
    ("INT", Signal::INT),
    ("KILL", Signal::KILL),
    ("PIPE", Signal::PIPE),
    ("QUIT", Signal::QUIT),
    ("SEGV", Signal::SEGV),
    ("TERM", Signal::TERM),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
];

/// The system's signal for one of the protocol.
pub(crate) fn signal(wanted: &Sig) -> Option<Signal> {
    let wanted = match wanted {
        Sig::Custom(name) => name.clone(),
        plain => format!("{plain:?}"),
    };
    SIGNALS.iter().find(|(name, _)| *name == wanted).map(|&(_, signal)| signal)
}

/// The protocol's signal for one of the system.
pub(crate) fn signal_name(number: i32) -> Sig {
    let known = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    known.map_or_else(|| Sig::Custom("SIG@openssh.com".to_owned()), |(name, _)| named(name))
}

fn named(name: &str) -> Sig {
    match name {
        "ABRT" => Sig::ABRT,
        "ALRM" => Sig::ALRM,
        "FPE" => Sig::FPE,
        "HUP" => Sig::HUP,
        "ILL" => Sig::ILL,
        "INT" => Sig::INT,
        "KILL" => Sig::KILL,
        "PIPE" => Sig::PIPE,
        "QUIT" => Sig::QUIT,
        "SEGV" => Sig::SEGV,
        "TERM" => Sig::TERM,
        "USR1" => Sig::USR1,
        other => Sig::Custom(other.to_owned()),
    }
}
