//! What the journal tells of an event: its type, its phase and the facts that belong to it.

use crabbox_schemas::event::RunEvent;
use serde_json::{Value, json};

use crate::event::Event;

/// The recorded form of an event, without the run's own fields; `None` for what is not recorded.
///
/// An empty phase means that the run stays in the phase it was in. Output is not told here: only a part of
/// it is shown, which needs memory.
pub fn run_event(event: &Event) -> Option<RunEvent> {
    Some(match event {
        Event::RunRecorded { .. }
        | Event::Progress { .. }
        | Event::Output { .. }
        | Event::Gap { .. }
        | Event::Debug { .. } => return None,
        Event::LeasingStarted { desired, class, keep, provider } => told(
            "leasing.started",
            "leasing",
            format!("asking {provider} for a box"),
            json!({"class": class, "name": desired.name, "keep": keep}),
        ),
        Event::LeaseResource { kind, cloud_id } => told(
            "lease.resource",
            "leasing",
            format!("{kind} {cloud_id}"),
            json!({"kind": kind, "cloudId": cloud_id}),
        ),
        Event::LeaseAttempt { message } => {
            told("lease.attempt", "leasing", message.clone(), Value::Null)
        }
        Event::Usage { billed_secs, cost_micros, currency } => told(
            "run.usage",
            "",
            String::new(),
            json!({"billedSecs": billed_secs, "costMicros": cost_micros, "currency": currency}),
        ),
        Event::LeaseCreated { lease, reused, .. } => told(
            "lease.created",
            "leased",
            lease.name.clone(),
            json!({"cloudId": lease.cloud_id, "serverType": lease.server_type, "reused": reused}),
        ),
        Event::BootstrapWaiting { stage, message } => {
            told("bootstrap.waiting", "bootstrap", message.clone(), json!({"stage": stage}))
        }
        Event::TailnetJoined { hostname, address } => {
            told("tailnet.joined", "bootstrap", hostname.clone(), json!({"address": address}))
        }
        Event::Evidence { cause, message, .. } => {
            told("lease.evidence", "", message.clone(), json!({"cause": cause}))
        }
        Event::Waiting { owner } => {
            told("lease.waiting", "", format!("another run uses it: {owner}"), Value::Null)
        }
        Event::Released { outcome, .. } => {
            told("lease.released", "released", outcome.clone(), json!({"outcome": outcome}))
        }
        Event::Kept { reason, .. } => told("lease.kept", "", reason.clone(), Value::Null),
        Event::Warning { message } => told("warning", "", message.clone(), Value::Null),
        Event::Failed { error } => told(
            "run.failed",
            "failed",
            error.to_string(),
            json!({
                "errorKind": error.code,
                "stage": error.stage,
                "hint": error.hint,
                "outcome": error.outcome,
                "retryable": error.code.retryable(),
            }),
        ),
        work => return work_told(work),
    })
}

/// The events between the box being ready and the command's end.
fn work_told(event: &Event) -> Option<RunEvent> {
    Some(match event {
        Event::SyncStarted { root, host, workdir, files, bytes } => told(
            "sync.started",
            "sync",
            format!("{root} -> {host}:{workdir}"),
            json!({"files": files, "bytes": bytes}),
        ),
        Event::SyncFinished { ms, skipped, sent_files, sent_bytes, deleted, drifted, phases } => {
            told(
                "sync.finished",
                "synced",
                String::new(),
                json!({
                    "ms": ms, "skipped": skipped, "sentFiles": sent_files, "sentBytes": sent_bytes,
                    "deleted": deleted, "drifted": drifted, "phases": phases,
                }),
            )
        }
        Event::CommandSent => told("command.sent", "", String::new(), Value::Null),
        Event::CommandStarted { host, workdir, command, acknowledged } => told(
            "command.started",
            "command",
            command.clone(),
            json!({"host": host, "workdir": workdir, "acknowledged": acknowledged}),
        ),
        Event::ConnectionLost { reason, limit } => told(
            "connection.lost",
            "",
            reason.clone(),
            json!({"reconnectMs": u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)}),
        ),
        Event::Reconnected { ms } => {
            told("connection.restored", "", String::new(), json!({"ms": ms}))
        }
        Event::Detached { .. } => told("run.detached", "", String::new(), Value::Null),
        Event::CommandFinished { exit_code, signal, ms } => RunEvent {
            exit_code: Some(*exit_code),
            ..told("command.finished", "", String::new(), json!({"ms": ms, "signal": signal}))
        },
        Event::ResultsCollected { results } => told(
            "results.collected",
            "",
            String::new(),
            json!({
                "files": results.files, "tests": results.tests, "failures": results.failures,
                "errors": results.errors, "skipped": results.skipped,
            }),
        ),
        _ => return None,
    })
}

fn told(kind: &str, phase: &str, message: String, data: Value) -> RunEvent {
    RunEvent {
        kind: kind.to_owned(),
        phase: phase.to_owned(),
        message: (!message.is_empty()).then_some(message),
        data: (!data.is_null()).then_some(data),
        ..RunEvent::default()
    }
}
