//! The lines people read and scripts parse: events, errors and summaries as text.

use crabbox_schemas::claim::Claim;
use crabbox_schemas::lease::Lease;
use crabbox_schemas::run::{SyncPhase, TestResults, Timing};
use std::time::Duration;

use super::text::{count, plain, plain_lines, size, took, user};
use crate::error::KernelError;
use crate::event::{Event, Stream};
use crate::time::{format_duration, parse_instant, rfc3339};

/// The lines an event prints to stderr; none for events that are shown in another way.
pub fn lines(event: &Event) -> Vec<String> {
    match event {
        Event::RunRecorded { run_id } => vec![format!("recording run {run_id}")],
        Event::LeaseAttempt { message } => vec![plain(message)],
        Event::Usage { billed_secs, cost_micros, currency } => {
            vec![usage(*billed_secs, *cost_micros, currency.as_deref())]
        }
        Event::BootstrapWaiting { stage, message } => {
            vec![format!("waiting for {}: {}", plain(stage), plain(message))]
        }
        Event::TailnetJoined { hostname, address } => {
            vec![format!("joined the tailnet as {} ({})", plain(hostname), plain(address))]
        }
        Event::Evidence { provider, cause, message } => {
            let [provider, cause, message] = [provider, cause, message].map(|text| plain(text));
            vec![format!("{provider} says of the box: {message} ({cause})")]
        }
        Event::Waiting { owner } => {
            vec![format!("waiting: another run uses this work tree ({})", plain(owner))]
        }
        Event::SyncStarted { .. } | Event::SyncFinished { .. } => sync_lines(event),
        Event::CommandStarted { host, command, .. } => {
            vec![format!("running on {} {}", plain(host), plain(command))]
        }
        Event::ConnectionLost { .. } | Event::Reconnected { .. } => vec![connection_line(event)],
        Event::Gap { stream, from, to } => {
            vec![format!("warning: {}", missing(*stream, *from, *to))]
        }
        Event::Detached { run_id, lease } => detached(run_id, lease),
        Event::ResultsCollected { results } => vec![test_results(results)],
        Event::Warning { message } => vec![format!("warning: {}", plain(message))],
        Event::LeasingStarted { .. }
        | Event::LeaseCreated { .. }
        | Event::Released { .. }
        | Event::Kept { .. } => vec![lease_line(event)],
        Event::LeaseResource { .. }
        | Event::Progress { .. }
        | Event::Output { .. }
        | Event::CommandSent
        | Event::CommandFinished { .. }
        | Event::Failed { .. }
        | Event::Debug { .. } => Vec::new(),
    }
}

/// What a run costs, as far as its provider says.
fn usage(secs: Option<u64>, micros: Option<u64>, currency: Option<&str>) -> String {
    let secs = secs.map(|secs| format!("{secs} s"));
    let cost = micros.map(|micros| {
        let (whole, rest) = (micros / 1_000_000, micros % 1_000_000);
        format!("{whole}.{rest:06} {}", plain(currency.unwrap_or_default())).trim_end().to_owned()
    });
    let said: Vec<_> = secs.into_iter().chain(cost).collect();
    format!("the provider bills {}", said.join(", "))
}

/// Bytes that will never come.
pub fn missing(stream: Stream, from: u64, to: u64) -> String {
    let (size, stream) = (size(to - from), stream.word());
    format!("{size} of {stream} are missing: the box could not keep them")
}

fn connection_line(event: &Event) -> String {
    match event {
        Event::ConnectionLost { reason, limit } => format!(
            "connection lost ({}); trying for {} to reach the box again and to go on there",
            plain(reason),
            format_duration(*limit)
        ),
        Event::Reconnected { ms } => format!("connected again after {}", took(*ms)),
        _ => String::new(),
    }
}

/// What to do with a run that goes on by itself.
fn detached(run_id: &str, lease: &Lease) -> Vec<String> {
    let name = plain(if lease.slug.is_empty() { lease.lease_id.as_str() } else { &lease.slug });
    let mut lines = vec![
        format!("{run_id} runs on {name} without us"),
        format!("`crabbox attach {run_id}` follows it, `crabbox stop {run_id}` ends it"),
    ];
    let idle = lease.labels.get("idle_timeout_secs").and_then(|secs| secs.parse().ok());
    if let Some(idle) = idle.map(Duration::from_secs).map(format_duration) {
        lines.push(format!(
            "{name} may end {idle} after it was last used, whatever runs there; `crabbox heartbeat {name}` counts as use"
        ));
    }
    lines
}

fn lease_line(event: &Event) -> String {
    match event {
        Event::LeasingStarted { desired, provider, class, keep } => format!(
            "provisioning provider={} lease={} slug={} class={} preferred_type={} keep={keep}",
            plain(provider),
            desired.lease_id,
            plain(&desired.slug),
            plain(class),
            plain(class),
        ),
        Event::LeaseCreated { lease, reused: false, .. } => format!(
            "provisioned lease={} server={} type={}",
            lease.lease_id,
            server(lease),
            plain(&lease.server_type)
        ),
        Event::LeaseCreated { lease, provider, .. } => format!(
            "using lease={} slug={} provider={}",
            lease.lease_id,
            plain(&lease.slug),
            plain(provider)
        ),
        Event::Released { lease, outcome, .. } => released(lease, outcome),
        Event::Kept { lease, reason } => {
            let name = if lease.slug.is_empty() { lease.lease_id.as_str() } else { &lease.slug };
            let name = plain(name);
            format!(
                "kept lease={} slug={name} ({}); `crabbox stop {name}` gives it back",
                lease.lease_id,
                plain(reason)
            )
        }
        _ => String::new(),
    }
}

fn sync_lines(event: &Event) -> Vec<String> {
    match event {
        Event::SyncStarted { root, host, workdir, files, bytes } => vec![
            format!("syncing {} -> {}:{}", plain(root), plain(host), plain(workdir)),
            format!("sync candidate: {files} files, {}", size(*bytes)),
        ],
        Event::SyncFinished { ms, skipped: true, .. } => {
            vec![format!("No changes detected, skipping sync ({})", took(*ms))]
        }
        Event::SyncFinished { ms, drifted, .. } => {
            let mut lines = Vec::new();
            if *drifted > 0 {
                let paths = count(*drifted, "path");
                lines.push(format!(
                    "repaired {paths} that an earlier command had changed on the box"
                ));
            }
            lines.push(format!("sync complete in {}", took(*ms)));
            lines
        }
        _ => Vec::new(),
    }
}

/// What is going on, for the line at the bottom of a terminal.
pub fn progress(event: &Event) -> Option<String> {
    let Event::Progress { phase, done, total, unit, message } = event else { return None };
    let amount = |n: u64| if *unit == "bytes" { size(n) } else { n.to_string() };
    let unit = if *unit == "bytes" || unit.is_empty() { String::new() } else { format!(" {unit}") };
    let mut text = plain(phase);
    match (done, total) {
        (Some(done), Some(total)) => {
            text.push_str(&format!(" {}/{}{unit}", amount(*done), amount(*total)));
        }
        (Some(done), None) => text.push_str(&format!(" {}{unit}", amount(*done))),
        _ => {}
    }
    if let Some(message) = message {
        text.push_str(&format!(" {}", plain(message)));
    }
    Some(text)
}

/// The line that says a sync is alive, for logs: every 15 seconds.
pub fn still_syncing(ms: u64) -> String {
    format!("still syncing after {}", took(ms))
}

/// The line `warmup` prints for a box one can connect to, or for a delegated one.
pub fn leased(lease: &Lease, provider: &str, claim: &Claim) -> String {
    let start = format!(
        "leased {} slug={} provider={}",
        lease.lease_id,
        plain(&lease.slug),
        plain(provider)
    );
    let Some(ssh) = &lease.ssh else {
        return format!("{start} sandbox={}", server(lease));
    };
    let idle = format_duration(Duration::from_secs(claim.idle_timeout_seconds));
    let mut line = format!(
        "{start} server={} type={} ip={} idle_timeout={idle}",
        server(lease),
        plain(&lease.server_type),
        plain(&ssh.host)
    );
    if let Some(expires) = expires(claim) {
        line.push_str(&format!(" expires={expires}"));
    }
    line
}

/// The earlier of the claim's two ends; RFC 3339.
fn expires(claim: &Claim) -> Option<String> {
    let end = |from: &str, secs: u64| {
        (secs > 0)
            .then_some(())
            .and_then(|()| parse_instant(from)?.checked_add(secs.checked_mul(1000)?))
    };
    let begun = if claim.created_at.is_empty() { &claim.claimed_at } else { &claim.created_at };
    let ends =
        [end(begun, claim.ttl_seconds), end(&claim.last_used_at, claim.idle_timeout_seconds)];
    ends.into_iter().flatten().min().map(rfc3339)
}

/// How to reach the box; a secret user name is not shown.
pub fn ready(lease: &Lease) -> String {
    let at = lease.ssh.as_ref().map_or_else(String::new, |ssh| {
        let user = user(&ssh.user, ssh.user_secret);
        let user = if user.is_empty() { user } else { format!("{user}@") };
        let port = if ssh.port == 0 { String::new() } else { format!(":{}", ssh.port) };
        format!("{user}{}{port}", plain(&ssh.host))
    });
    let network = lease.labels.get("network").map_or("public", String::as_str);
    let root = lease.work_root.as_deref().unwrap_or_default();
    format!("ready ssh={at} network={} workroot={}", plain(network), plain(root))
}

/// The last line of a `warmup`.
pub fn warmup_complete(total_ms: u64) -> String {
    format!("warmup complete total={}", took(total_ms))
}

/// What `run --sync-only` prints to stdout.
pub fn synced(workdir: &str) -> String {
    format!("synced {}", plain(workdir))
}

/// The line after a command.
pub fn command_complete(timing: &Timing) -> String {
    format!("command complete in {} total={}", took(timing.command_ms), took(timing.total_ms))
}

/// The last line of a run: where the time went.
pub fn run_summary(timing: &Timing) -> String {
    format!(
        "run summary sync={} command={} total={} sync_skipped={} exit={}{}",
        took(timing.sync_ms),
        took(timing.command_ms),
        took(timing.total_ms),
        timing.sync_skipped,
        timing.exit_code,
        steps(timing)
    )
}

/// The last line of a run at a provider that runs commands itself.
pub fn delegated_summary(timing: &Timing) -> String {
    let sync = if timing.sync_ms == 0 { "delegated".to_owned() } else { took(timing.sync_ms) };
    format!(
        "{} run summary sync={sync} command={} total={} exit={}{}{}",
        plain(&timing.provider),
        took(timing.command_ms),
        took(timing.total_ms),
        timing.exit_code,
        if timing.sync_skipped { " sync_skipped=true" } else { "" },
        steps(timing)
    )
}

fn steps(timing: &Timing) -> String {
    let steps: Vec<_> = timing.sync_phases.iter().map(step).collect();
    if steps.is_empty() { String::new() } else { format!(" sync_steps={}", steps.join(",")) }
}

fn step(phase: &SyncPhase) -> String {
    let name = plain(&phase.name);
    match (phase.skipped, &phase.reason) {
        (true, Some(reason)) => format!("{name}:skipped_{}", plain(reason)),
        (true, None) => format!("{name}:skipped"),
        (false, _) => format!("{name}:{}", took(phase.ms.unwrap_or(0))),
    }
}

/// The summary of JUnit reports.
pub fn test_results(results: &TestResults) -> String {
    format!(
        "test results files={} tests={} failures={} errors={} skipped={}",
        results.files.len(),
        results.tests,
        results.failures,
        results.errors,
        results.skipped
    )
}

/// The line for a box that was given back, by how that ended.
pub fn released(lease: &Lease, outcome: &str) -> String {
    let id = &lease.lease_id;
    match outcome {
        "retained" => {
            let host =
                lease.ssh.as_ref().map_or_else(|| plain(&lease.name), |ssh| plain(&ssh.host));
            format!("released static lease={id} host={host}")
        }
        "already_gone" => format!("already gone lease={id} server={}", server(lease)),
        "pending" => {
            format!("deleting lease={id} server={} name={}", server(lease), plain(&lease.name))
        }
        _ => format!("deleted lease={id} server={} name={}", server(lease), plain(&lease.name)),
    }
}

fn server(lease: &Lease) -> String {
    plain(if lease.cloud_id.is_empty() { &lease.name } else { &lease.cloud_id })
}

/// A failure: sentence, causes, hint. Colour only repeats what the words say.
pub fn failure(error: &KernelError, colour: bool) -> String {
    let mut text = format!("{} {}", paint("error:", "1;31", colour), plain_lines(&error.message));
    for cause in &error.causes {
        text.push_str(&format!("\n  caused by: {}", plain_lines(cause)));
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("\n{} {}", paint("hint:", "1;36", colour), plain_lines(hint)));
    }
    text
}

/// A warning's line.
pub fn warning(message: &str, colour: bool) -> String {
    format!("{} {}", paint("warning:", "1;33", colour), plain(message))
}

fn paint(word: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

#[cfg(test)]
#[path = "human_tests.rs"]
mod tests;
