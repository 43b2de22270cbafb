//! What a process on a box says, whichever way it was started.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::time::Duration;

use crabbox_kernel::error::Result;
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Exit, Piece, ProcessInput, ProcessOutput, Remote};
use crabbox_remote::{SshOutput, SshRemote};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

/// Everything a process printed and how it ended.
pub(crate) async fn collect(output: &mut SshOutput) -> Result<(Vec<u8>, Vec<u8>, Exit)> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match output.next().await? {
            Piece::Data(Stream::Stdout, data) => out.extend_from_slice(&data),
            Piece::Data(Stream::Stderr, data) => err.extend_from_slice(&data),
            Piece::Exited(exit) => return Ok((out, err, exit)),
        }
    }
}

/// Runs a command to its end, without input.
pub(crate) async fn run(remote: &SshRemote, command: &str) -> (Vec<u8>, Vec<u8>, Exit) {
    let (mut input, mut output) = remote.start(command, None).await.unwrap();
    input.finish().await.unwrap();
    timeout(LONG, collect(&mut output)).await.expect("in time").unwrap()
}
