//! With recorded exchanges: what the plugin makes of answers, refusals and crashes.

use crabbox_net::Pattern;
use crabbox_schemas::error::{ErrorKind, RpcError};
use serde_json::{Value, json};

use super::{Check, must_recorded, should};
use crate::bench::Bench;
use crate::host::Answer;
use crate::peer::{Outcome, WORK, fault};

const ERRORS: &str = "Errors";
const ACQUIRE: &str = "lease.acquire: a box";

pub(super) const CHECKS: &[Check] = &[
    must_recorded(
        "I10",
        "killed after any answer of the service in an acquire, nothing is left that cannot be found and released",
        ACQUIRE,
        "label what you create in the request that creates it, and find by label when reconciling",
        crash_after_each,
    ),
    must_recorded("E1", "401 is `auth`, and 403 `permission`", ERRORS, "look at the status", |b| {
        told(b, &status(401), &["auth"])?;
        told(b, &status(403), &["permission", "auth"])
    }),
    should(must_recorded(
        "E2",
        "404, 409 and 422 of what creates are no passing faults",
        ERRORS,
        "look at the status",
        |b| {
            let kinds =
                ["not_found", "invalid_config", "invalid_request", "conflict", "capacity", "quota"];
            [404, 409, 422].into_iter().try_for_each(|code| acquire_told(b, &status(code), &kinds))
        },
    )),
    must_recorded(
        "E3",
        "429 is `rate_limited`, with the time the service asked for",
        ERRORS,
        "pass Retry-After on as retryAfterMs",
        slowed,
    ),
    must_recorded("E4", "500 and 503 are `transient`", ERRORS, "look at the status", |b| {
        told(b, &status(500), &["transient"])?;
        told(b, &status(503), &["transient", "capacity"])
    }),
    must_recorded(
        "E5",
        "a connection that breaks is `transient`",
        ERRORS,
        "pass the failure on",
        |b| told(b, &Err(RpcError::of(ErrorKind::Transient, "connection reset")), &["transient"]),
    ),
    must_recorded(
        "E6",
        "an answer that is no JSON is an error, and not shown",
        ERRORS,
        "expect proxies and error pages",
        nonsense,
    ),
    must_recorded(
        "S3",
        "a denied origin is `grant_denied`, and nothing else is tried",
        "Requests",
        "pass the failure on",
        |b| told(b, &Err(RpcError::of(ErrorKind::GrantDenied, "not granted")), &["grant_denied"]),
    ),
    must_recorded("S4", "a dry run creates nothing", "Calls", "look at ctx.dryRun first", dry_run),
    should(must_recorded(
        "M5",
        "every grant is used",
        "The manifest",
        "ask for no more than the provider needs",
        minimal,
    )),
];

fn status(code: u16) -> Answer {
    Ok(json!({"status": code, "json": {"error": {"message": "as the kit says"}}}))
}

/// Acquires with every request answered like this; the error that comes of it.
fn refused(
    bench: &Bench<'_>,
    method: &str,
    params: Value,
    instead: &Answer,
) -> Outcome<Option<Value>> {
    let mut peer = bench.open()?;
    peer.host.service.instead = Some(instead.clone());
    let answer = peer.ask(method, params)?;
    let asked = !peer.host.service.asked.is_empty();
    drop(peer);
    match answer {
        Err(error) => Ok(Some(error)),
        // It asked nobody, or owns up to not knowing.
        Ok(result) if !asked || result["complete"] == false => Ok(None),
        Ok(result) => fault(&shown(method, instead), "an error", result),
    }
}

fn shown(method: &str, instead: &Answer) -> String {
    match instead {
        Ok(answer) => format!("{method}, every request of it answered {answer}"),
        Err(error) => format!("{method}, every request of it failing: {}", error.message),
    }
}

fn is_one_of(method: &str, instead: &Answer, kinds: &[&str], error: Option<Value>) -> Outcome {
    match error {
        Some(error) if !kinds.iter().any(|kind| error["data"]["kind"] == *kind) => {
            fault(&shown(method, instead), &format!("kind {}", kinds.join(" or ")), error)
        }
        _ => Ok(()),
    }
}

fn acquire_told(bench: &Bench<'_>, instead: &Answer, kinds: &[&str]) -> Outcome {
    let bench = bench.anew()?;
    let method = bench.method("acquire");
    let error = refused(&bench, method, bench.wanted(), instead)?;
    is_one_of(method, instead, kinds, error)
}

/// Both a listing and an acquire must say so.
fn told(bench: &Bench<'_>, instead: &Answer, kinds: &[&str]) -> Outcome {
    let method = bench.method("list");
    let error = refused(bench, method, json!({}), instead)?;
    is_one_of(method, instead, kinds, error)?;
    acquire_told(bench, instead, kinds)
}

fn slowed(bench: &Bench<'_>) -> Outcome {
    let instead = Ok(json!({"status": 429, "headers": {"retry-after": "7"}, "json": {}}));
    told(bench, &instead, &["rate_limited"])?;
    let method = bench.method("list");
    match refused(bench, method, json!({}), &instead)? {
        Some(error) if error["data"]["retryAfterMs"] != 7000 => {
            fault(&shown(method, &instead), "retryAfterMs 7000", error)
        }
        _ => Ok(()),
    }
}

fn nonsense(bench: &Bench<'_>) -> Outcome {
    for text in ["{\"servers\": [", "<html><body>502 Bad Gateway</body></html>"] {
        let instead = Ok(json!({"status": 200, "text": text}));
        for (method, params) in
            [(bench.method("list"), json!({})), (bench.method("acquire"), bench.wanted())]
        {
            let bench = bench.anew()?;
            let error = refused(&bench, method, params, &instead)?.unwrap_or_default();
            if error.to_string().contains("<html>") {
                return fault(&shown(method, &instead), "an error without the page", error);
            }
        }
    }
    Ok(())
}

fn dry_run(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let mut wanted = bench.wanted();
    wanted["ctx"] =
        json!({"deadlineMs": 60_000, "graceMs": 5_000, "idem": "kit-dry", "dryRun": true});
    let _ = peer.ask(bench.method("acquire"), wanted)?;
    let sent = "acquire with dryRun";
    if let Some(asked) = peer.host.service.changes.first() {
        return fault(sent, "only requests that read", asked);
    }
    match peer.host.journal.is_empty() {
        true => bench.close(peer),
        false => fault(sent, "no host/resource.record", "one"),
    }
}

/// Counts the answers of a whole acquire, then kills the plugin after each of them.
fn crash_after_each(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let lease = bench.acquire(&mut peer)?;
    let answers = peer.host.service.turns.clone();
    bench.release(&mut peer, &lease)?;
    if let [thing, ..] = &bench.standing()[..] {
        return fault("acquire and release", "nothing left at the service", thing);
    }
    bench.close(peer)?;
    (1..=answers.len()).try_for_each(|n| crash_after(&bench.anew()?, n, &answers[n - 1]))
}

fn crash_after(bench: &Bench<'_>, count: usize, asked: &str) -> Outcome {
    let mut peer = bench.open()?;
    peer.request(bench.method("acquire"), bench.wanted())?;
    peer.until("acquire", WORK, |peer| {
        peer.host.service.turns.len() >= count || peer.has_answer()
    })?;
    let resources: Vec<Value> = peer.host.journal.values().cloned().collect();
    drop(peer);
    let mut peer = bench.open()?;
    let sent =
        format!("SIGKILL after answer {count} of an acquire ({asked}), then resolve to reconcile");
    let desired = bench.desired();
    let params = json!({"id": desired["leaseId"], "resources": resources, "purpose": "reconcile"});
    match peer.ask(bench.method("resolve"), params)? {
        Ok(found) => drop(bench.release(&mut peer, &found["lease"])?),
        Err(error) if error["data"]["kind"] == "not_found" => {}
        Err(error) => return fault(&sent, "the box, or not_found", error),
    }
    match bench.standing().first() {
        None => bench.close(peer),
        Some(thing) => fault(
            &sent,
            "the box, to be released",
            format!("not_found, and the service has a {thing}"),
        ),
    }
}

/// Plays a whole life, and compares what was used with what was asked for.
fn minimal(bench: &Bench<'_>) -> Outcome {
    let mut peer = bench.open()?;
    let lease = bench.acquire(&mut peer)?;
    let _ = bench.resolve(&mut peer, &lease["leaseId"], "use")?;
    let _ = peer.ask(bench.method("list"), json!({}))?;
    let _ = match bench.delegates() {
        true => peer.ask(
            "run.start",
            json!({"runId": "run_0123456789ab", "lease": lease, "env": {}, "command": ["true"]}),
        )?,
        false => peer.ask("lease.touch", json!({"lease": lease, "state": "running"}))?,
    };
    let _ = peer.ask("doctor", json!({}))?;
    bench.release(&mut peer, &lease)?;
    let grants = &bench.subject.entry.manifest.grants;
    let used = &peer.host.service.used;
    let origin = |text: &String| {
        Pattern::parse(text).is_ok_and(|pattern| used.origins.iter().any(|at| pattern.matches(at)))
    };
    let origins = grants.http.iter().filter_map(|grant| grant.origin.as_ref());
    let unused = origins.filter(|text| !origin(text)).map(|text| format!("origin {text}"));
    // What a setting names may be named by nobody.
    let own = grants.exec.iter().filter(|tool| !tool.starts_with('{'));
    let tools = own.filter(|tool| !used.tools.contains(*tool));
    let secrets = grants.secrets.iter().filter(|secret| !used.secrets.contains(&secret.name));
    let mut unused = unused
        .chain(tools.map(|tool| format!("tool {tool}")))
        .chain(secrets.map(|secret| format!("secret {}", secret.name)));
    match unused.next() {
        None => Ok(()),
        Some(grant) => fault(
            "acquire, resolve, list, doctor, release",
            "every grant is used",
            format!("{grant} never was"),
        ),
    }
}
