//! What happened, in process: emitted at every step of a run, rendered and recorded by others, never read back.

use std::time::Duration;

use bytes::Bytes;
use crabbox_schemas::lease::{Desired, Lease};
use crabbox_schemas::run::{SyncPhase, TestResults};

use crate::error::KernelError;

/// Which output stream of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn word(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A run got its id.
    RunRecorded {
        /// `run_` and 12 hex digits.
        run_id: String,
    },
    /// A box is being asked for.
    LeasingStarted {
        /// The identity it will have.
        desired: Desired,
        /// From whom.
        provider: String,
        /// Size class.
        class: String,
        /// Whether it outlives the command.
        keep: bool,
    },
    /// The provider makes something, which is on the lease's trail first.
    LeaseResource {
        /// What it is, in the provider's words.
        kind: String,
        /// Its id there.
        cloud_id: String,
    },
    /// The provider tried one candidate.
    LeaseAttempt {
        /// One line for people.
        message: String,
    },
    /// The provider says what the run costs.
    Usage {
        /// Seconds it bills.
        billed_secs: Option<u64>,
        /// Millionths of the currency.
        cost_micros: Option<u64>,
        /// ISO 4217 code of the currency.
        currency: Option<String>,
    },
    /// The provider, or a step, is busy.
    Progress {
        /// What is going on.
        phase: String,
        /// How much is done.
        done: Option<u64>,
        /// Out of how much.
        total: Option<u64>,
        /// `bytes`, `files` or empty.
        unit: &'static str,
        /// One line for people.
        message: Option<String>,
    },
    /// The box exists.
    LeaseCreated {
        /// The box.
        lease: Lease,
        /// Its provider.
        provider: String,
        /// An existing lease is used.
        reused: bool,
    },
    /// Waiting until the box answers.
    BootstrapWaiting {
        /// `dns`, `tcp`, `banner`, `auth` or `ready`.
        stage: String,
        /// What was seen last.
        message: String,
    },
    /// The box joined the user's tailnet.
    TailnetJoined {
        /// Its name there.
        hostname: String,
        /// Its address there.
        address: String,
    },
    /// The box seems to have died, and its provider says why.
    Evidence {
        /// Who says so.
        provider: String,
        /// `oom`, `disk`, `preempted`, `expired`, `gone` or `unknown`.
        cause: String,
        /// One line for people.
        message: String,
    },
    /// Another run holds the work directory.
    Waiting {
        /// Who holds it.
        owner: String,
    },
    /// The sync began.
    SyncStarted {
        /// Directory that is sent.
        root: String,
        /// Host it goes to.
        host: String,
        /// Directory on the box.
        workdir: String,
        /// Entries in the manifest.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The box holds exactly the manifest.
    SyncFinished {
        /// Milliseconds it took.
        ms: u64,
        /// Nothing had to be sent.
        skipped: bool,
        /// Entries sent.
        sent_files: u64,
        /// Bytes sent, before compression.
        sent_bytes: u64,
        /// Entries deleted on the box.
        deleted: u64,
        /// Paths an earlier command had changed on the box, now repaired.
        drifted: u64,
        /// Its steps.
        phases: Vec<SyncPhase>,
    },
    /// The command is on its way to the box: from here on it may be started.
    CommandSent,
    /// The command was started, or is about to be.
    CommandStarted {
        /// Host it runs on.
        host: String,
        /// Directory on the box.
        workdir: String,
        /// The command for people.
        command: String,
        /// The box said so.
        acknowledged: bool,
    },
    /// The connection to the box broke; what runs there goes on.
    ConnectionLost {
        /// What was seen.
        reason: String,
        /// How long it will be tried to reach the box again.
        limit: Duration,
    },
    /// The connection stands again.
    Reconnected {
        /// Milliseconds without one.
        ms: u64,
    },
    /// The box could not keep all output while nobody took it.
    Gap {
        /// Where.
        stream: Stream,
        /// First missing byte.
        from: u64,
        /// First byte that follows.
        to: u64,
    },
    /// The command goes on and we do not wait for it.
    Detached {
        /// The run.
        run_id: String,
        /// The box.
        lease: Lease,
    },
    /// The command printed something.
    Output {
        /// Where.
        stream: Stream,
        /// Offset of the first byte in its stream.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// The command ended.
    CommandFinished {
        /// Its status, 128 + number for a signal.
        exit_code: i32,
        /// The signal's name without `SIG`.
        signal: Option<String>,
        /// Milliseconds it took.
        ms: u64,
    },
    /// JUnit reports were read.
    ResultsCollected {
        /// Their summary.
        results: TestResults,
    },
    /// The box was given back.
    Released {
        /// The box.
        lease: Lease,
        /// Its provider.
        provider: String,
        /// `released`, `already_gone`, `pending` or `retained`.
        outcome: String,
    },
    /// The box stays.
    Kept {
        /// The box.
        lease: Lease,
        /// Why, for people.
        reason: String,
    },
    /// Something went wrong that does not end the run.
    Warning {
        /// One line for people.
        message: String,
    },
    /// crabbox could not do what was asked.
    Failed {
        /// Why.
        error: KernelError,
    },
    /// A detail for `--debug`.
    Debug {
        /// One line.
        message: String,
    },
}
