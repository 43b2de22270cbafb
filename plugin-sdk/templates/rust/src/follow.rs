//! Starts a command, sends what it prints, and says how it ended. A cancelled call ends it.

use std::io::{self, ErrorKind, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crabbox_plugin_sdk::{Call, Channel, Failure, Outcome, Output, RunStartResult};

pub fn follow(
    call: &Call,
    mut command: Command,
    output: &Output<'_>,
) -> Result<RunStartResult, Failure> {
    command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            output.write(
                Channel::Stderr,
                format!("{:?}: not found\n", command.get_program()).as_bytes(),
            )?;
            return Ok(RunStartResult {
                exit_code: 127,
                signal: None,
            });
        }
        Err(error) => {
            return Err(Failure::internal("the command cannot be started").because(&error));
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = thread::scope(|scope| {
        scope.spawn(move || relay(stdout, Channel::Stdout, output));
        scope.spawn(move || relay(stderr, Channel::Stderr, output));
        wait(call, &mut child)
    });
    if call.cancelled() {
        return Err(Failure::cancelled(
            "the command was stopped",
            Outcome::RolledBack,
        ));
    }
    let status =
        status.map_err(|e| Failure::internal("the command cannot be waited for").because(&e))?;
    Ok(RunStartResult {
        exit_code: code(status),
        signal: status.signal().map(name),
    })
}

fn wait(call: &Call, child: &mut Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if call.cancelled() {
            kill_group(child.id());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn relay(pipe: Option<impl Read>, channel: Channel, output: &Output<'_>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1 << 16];
    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
        if output.write(channel, &buffer[..n]).is_err() {
            return;
        }
    }
}

/// The command leads a process group of its own; `kill` takes its negative number.
fn kill_group(leader: u32) {
    let _ = Command::new("kill")
        .args(["-KILL", "--", &format!("-{leader}")])
        .status();
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1)
}

fn name(signal: i32) -> String {
    let names = [
        (1, "HUP"),
        (2, "INT"),
        (3, "QUIT"),
        (6, "ABRT"),
        (9, "KILL"),
        (11, "SEGV"),
        (15, "TERM"),
    ];
    names
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or(signal.to_string(), |(_, name)| (*name).to_owned())
}
