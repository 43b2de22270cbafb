//! Results as the protocol has them.

use crabbox_schemas::plugin::{
    DoctorResult, InitializeResult, LeaseResult, ListResult, ReleaseResult,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Check, must, should};
use crate::bench::Bench;
use crate::peer::{Outcome, fault};

pub(super) const CHECKS: &[Check] = &[
    must(
        "K4",
        "results have the members and types that the schema names",
        "Calls",
        "compare with schemas/plugin-protocol.schema.json",
        fit,
    ),
    should(must(
        "K3",
        "results have no members that the schema does not name",
        "What changed",
        "a newer protocol may give that name another meaning: leave it out",
        closed,
    )),
];

/// A result, and what is left of it when it is read and written again; the error is that it cannot be read.
type Shape = (&'static str, Value, Result<Value, String>);

fn shape<T: Serialize + DeserializeOwned>(method: &'static str, result: Value) -> Shape {
    let read = serde_json::from_value::<T>(result.clone()).and_then(serde_json::to_value);
    (method, result, read.map_err(|e| e.to_string()))
}

/// The results of one life.
fn shapes(bench: &Bench<'_>) -> Outcome<Vec<Shape>> {
    let mut peer = bench.start()?;
    let hello = bench.greet(&mut peer)?;
    let doctor = peer.ask("doctor", json!({}))?;
    let acquired = peer.must(bench.method("acquire"), bench.wanted())?;
    let lease = acquired["lease"].clone();
    let found = bench.resolve(&mut peer, &lease["leaseId"], "use")?;
    let listed = peer.must(bench.method("list"), json!({}))?;
    let expected = json!({"leaseId": lease["leaseId"], "cloudId": lease["cloudId"]});
    let released =
        peer.must(bench.method("release"), json!({"lease": lease, "expected": expected}))?;
    bench.close(peer)?;
    let mut all = vec![
        shape::<InitializeResult>("initialize", hello),
        shape::<LeaseResult>(bench.method("acquire"), acquired),
        shape::<ListResult>(bench.method("list"), listed),
        shape::<ReleaseResult>(bench.method("release"), released),
    ];
    all.extend(doctor.ok().map(|result| shape::<DoctorResult>("doctor", result)));
    all.extend(found.ok().map(|result| shape::<LeaseResult>(bench.method("resolve"), result)));
    Ok(all)
}

fn fit(bench: &Bench<'_>) -> Outcome {
    for (method, result, read) in shapes(bench)? {
        if let Err(why) = read {
            return fault(method, &format!("a result that fits: {why}"), result);
        }
    }
    Ok(())
}

fn closed(bench: &Bench<'_>) -> Outcome {
    for (method, result, read) in shapes(bench)? {
        if let Some(member) = read.ok().and_then(|read| unknown(&result, &read)) {
            return fault(method, "only members of the schema", member);
        }
    }
    Ok(())
}

/// A member with a value that was not kept. What stands for nothing may be left out.
fn unknown(said: &Value, kept: &Value) -> Option<String> {
    match said {
        Value::Object(members) => members.iter().find_map(|(name, value)| match kept.get(name) {
            Some(kept) => unknown(value, kept),
            None if is_nothing(value) => None,
            None => Some(name.clone()),
        }),
        Value::Array(items) => {
            items.iter().zip(kept.as_array()?).find_map(|(one, kept)| unknown(one, kept))
        }
        _ => None,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Number(_) => false,
    }
}
