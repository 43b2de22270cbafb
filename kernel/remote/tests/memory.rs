//! Output nobody reads, measured in a process of its own.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod sshd;

use std::fs;
use std::time::{Duration, Instant};

use crabbox_kernel::ports::{Dialer, Piece, ProcessOutput, Remote, Stop};
use crabbox_remote::{SshDialer, SshOutput, SshRemote, UserSsh};
use sshd::Sshd;
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(120);

async fn status(remote: &SshRemote, command: &str) -> i32 {
    let (_input, mut output) = remote.start(command, None).await.unwrap();
    loop {
        if let Piece::Exited(exit) = timeout(LONG, output.next()).await.unwrap().unwrap() {
            return exit.code;
        }
    }
}

/// The most memory this process has used since the last look, in MiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// Reads until the end and compares with `block`, repeated.
async fn compare(output: &mut SshOutput, block: &[u8]) -> (usize, i32) {
    let mut total = 0;
    loop {
        match timeout(LONG, output.next()).await.expect("in time").unwrap() {
            Piece::Data(_, mut data) => {
                while !data.is_empty() {
                    let at = total % block.len();
                    let here = data.split_to(data.len().min(block.len() - at));
                    assert!(here[..] == block[at..at + here.len()], "differs near {total}");
                    total += here.len();
                }
            }
            Piece::Exited(exit) => return (total, exit.code),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_for_a_reader_that_sleeps_costs_little_memory_holds_nobody_and_is_not_lost() {
    const TIMES: usize = 1024;
    let server = Sshd::start();
    let block: Vec<u8> = (0..1_048_573u32).map(|n| ((n * 31) >> 7) as u8).collect();
    fs::write(server.path("block"), &block).unwrap();
    let dialer = SshDialer::new(UserSsh::new("/nonexistent", "nobody"));
    let dialled = dialer.dial(&server.address(), &mut Vec::new(), &Stop::never()).await;
    let remote = dialled.unwrap();
    memory();
    let before = memory();
    let dir = server.dir.path().display();
    let command = format!(
        "cd {dir}; i=0; while [ $i -lt {TIMES} ]; do cat block; i=$((i+1)); done; touch done; exit 9"
    );
    let (_input, mut output) = remote.start(&command, None).await.unwrap();
    let begun = Instant::now();
    while status(&remote, &format!("test -e {dir}/done")).await != 0 {
        assert!(begun.elapsed() < LONG, "the command is held up");
        sleep(Duration::from_millis(50)).await;
    }
    let used = memory() - before;
    assert!(used < 32, "{used} MiB for output nobody reads");
    assert_eq!(compare(&mut output, &block).await, (block.len() * TIMES, 9));
    let used = memory() - before;
    assert!(used < 32, "{used} MiB for reading it");
}
