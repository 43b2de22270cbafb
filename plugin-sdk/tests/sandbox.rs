//! What services of sandboxes share, on one that exists only in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crabbox_plugin_sdk::sandbox::{self, Sandboxes, State};
use crabbox_plugin_sdk::testkit::{Cassette, Kernel, desired};
use crabbox_plugin_sdk::*;
use serde_json::{Value, json};

const ID: &str = "cbx_0123456789ab";
const NAME: &str = "crabbox-one-0123456789ab";
const MANIFEST: &str = r#"
manifest = 1
id = "test/pit"
version = "1.0.0"
protocols = ["1"]
description = "Sandboxes in memory"
license = "MIT"

[[provider]]
name = "pit"
kind = "delegated-run"
targets = ["linux"]

[[artifact]]
runtime = "stdio"
path = "pit"
"#;

/// What the service has, and how it behaves.
#[derive(Default)]
struct Ground {
    /// Whose each sandbox is, by its name.
    boxes: BTreeMap<String, String>,
    /// How they are, look by look; the last one stays.
    words: Vec<&'static str>,
    /// Whether it makes one, and what it says of that.
    makes: bool,
    says: Option<ErrorKind>,
    /// Whether what it says is known to have left nothing.
    unsent: bool,
    /// Whether its listing has no end.
    endless: bool,
}

#[derive(Clone, Default)]
struct Pit(Arc<Mutex<Ground>>);

impl Pit {
    fn new(makes: bool, says: Option<ErrorKind>, words: &[&'static str]) -> Self {
        let pit = Self::default();
        let words = words.iter().rev().copied().collect();
        *pit.ground() = Ground { makes, says, words, ..Ground::default() };
        pit
    }

    fn ground(&self) -> MutexGuard<'_, Ground> {
        self.0.lock().unwrap()
    }

    fn kernel(&self) -> Kernel {
        let pit = self.clone();
        let plugin = Plugin::delegated_run(MANIFEST, move |_| Ok(pit.clone()));
        Kernel::start(plugin, "pit", json!({}), Cassette::parse("").unwrap()).unwrap()
    }
}

struct Seen {
    name: String,
    of: String,
    word: &'static str,
}

struct Ours<'a>(&'a Pit, &'a Call);

impl Sandboxes for Ours<'_> {
    type Sandbox = Seen;
    const SERVICE: &'static str = "The pit";

    fn call(&self) -> &Call {
        self.1
    }

    fn find(&self, name: &str) -> Result<Option<Seen>, Failure> {
        let mut ground = self.0.ground();
        let word = match ground.words.len() {
            0 | 1 => ground.words.first().copied().unwrap_or("ready"),
            _ => ground.words.pop().unwrap(),
        };
        let of = ground.boxes.get(name).cloned();
        Ok(of.map(|of| Seen { name: name.to_owned(), of, word }))
    }

    fn all(&self) -> Result<(Vec<Seen>, bool), Failure> {
        let names: Vec<_> = self.0.ground().boxes.keys().cloned().collect();
        let all = names.iter().filter_map(|name| self.find(name).unwrap()).collect();
        Ok((all, !self.0.ground().endless))
    }

    fn delete(&self, name: &str) -> Result<(), Failure> {
        self.0.ground().boxes.remove(name);
        Ok(())
    }

    fn lease(&self, sandbox: &Seen) -> Option<Lease> {
        let lease = json!({"leaseId": sandbox.of, "slug": "one", "name": "crabbox-one", "cloudId": sandbox.name});
        serde_json::from_value(lease).ok()
    }

    fn is_of(&self, sandbox: &Seen, id: &LeaseId) -> bool {
        sandbox.of == id.as_str()
    }

    fn state(&self, sandbox: &Seen) -> State {
        match sandbox.word {
            "ready" => State::Ready,
            "coming" => State::Coming,
            "stopping" | "stopped" => State::Asleep,
            _ => State::Failed,
        }
    }

    fn word<'a>(&self, sandbox: &'a Seen) -> (&'a str, Option<&'a str>) {
        (sandbox.word, None)
    }
}

impl DelegatedRun for Pit {
    fn warmup(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let (ours, id) = (Ours(self, call), &params.desired.lease_id);
        let name = sandbox::name_of(&params.desired)?;
        let made = sandbox::make(&ours, &name, id, Attempt::default(), || {
            let mut ground = self.ground();
            if ground.makes {
                ground.boxes.insert(name.clone(), id.to_string());
            }
            match ground.says {
                Some(kind) if ground.unsent => {
                    Err(Failure::new(kind, "as it is").outcome(Outcome::NotStarted))
                }
                Some(kind) => Err(Failure::new(kind, "as it is")),
                None => Ok(()),
            }
        })?;
        Ok(ours.lease(&made).unwrap())
    }

    fn run(
        &self,
        _call: &Call,
        _params: RunStartParams,
        _output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        Err(Failure::unsupported("nothing runs here"))
    }

    fn list(&self, call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        sandbox::list(&Ours(self, call))
    }

    fn status(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        sandbox::status(&Ours(self, call), &params)
    }

    fn stop(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        sandbox::stop(&Ours(self, call), &params)
    }
}

/// Makes a box; how that ended, and how many boxes there are and are on record.
fn warmed(pit: &Pit) -> (String, usize, usize) {
    let mut kernel = pit.kernel();
    let params =
        json!({"desired": desired(ID, "one"), "request": {"target": "linux"}, "sshPublicKey": ""});
    let ended = match kernel.call("run.warmup", params) {
        Ok(_) => "made".to_owned(),
        Err(error) => {
            let data = error.data.unwrap();
            format!("{} {:?}", data.kind.word(), data.outcome.unwrap())
        }
    };
    (ended, pit.ground().boxes.len(), kernel.resources().len())
}

#[test]
fn whatever_became_of_the_request_the_name_says_whether_there_is_a_sandbox() {
    let lost = Some(ErrorKind::Transient);
    for (makes, says, words, ended) in [
        (true, None, &["coming", "ready"][..], ("made", 1, 1)),
        (true, None, &["stopping", "ready"], ("made", 1, 1)),
        (true, lost, &["ready"], ("made", 1, 1)),
        (true, Some(ErrorKind::Conflict), &["ready"], ("made", 1, 1)),
        (false, lost, &["ready"], ("transient Uncertain", 0, 1)),
        (false, Some(ErrorKind::Quota), &["ready"], ("quota NotStarted", 0, 0)),
        (true, None, &["broken"], ("bootstrap RolledBack", 0, 0)),
        (true, None, &["stopped"], ("bootstrap RolledBack", 0, 0)),
    ] {
        let (how, boxes, recorded) = warmed(&Pit::new(makes, says, words));
        assert_eq!((&*how, boxes, recorded), ended, "{says:?} {words:?}");
    }
}

#[test]
fn a_request_that_was_never_sent_leaves_nothing_to_look_for() {
    let pit = Pit::new(false, Some(ErrorKind::Transient), &["ready"]);
    pit.ground().unsent = true;
    assert_eq!(warmed(&pit), ("transient NotStarted".to_owned(), 0, 0));
}

#[test]
fn what_is_there_by_that_name_and_is_anothers_is_not_taken_and_not_touched() {
    let pit = Pit::new(false, Some(ErrorKind::Conflict), &["ready"]);
    pit.ground().boxes.insert(NAME.to_owned(), "cbx_ffffffffffff".to_owned());
    let (how, boxes, _) = warmed(&pit);
    assert_eq!((&*how, boxes), ("conflict Uncertain", 1));
}

#[test]
fn a_sandbox_is_found_by_every_name_of_its_lease_and_given_back_once() {
    let pit = Pit::new(true, None, &["ready"]);
    assert_eq!(warmed(&pit).0, "made");
    let mut kernel = pit.kernel();
    let mut find = |id: &str| kernel.call("run.status", json!({"id": id, "purpose": "status"}));
    for id in [ID, "one", "crabbox-one", NAME] {
        assert_eq!(find(id).unwrap()["lease"]["leaseId"], ID, "{id}");
    }
    let kind = |error: crabbox_schemas::error::RpcError| error.data.unwrap().kind;
    assert_eq!(kind(find("two").unwrap_err()), ErrorKind::NotFound);
    pit.ground().endless = true;
    assert_eq!(kind(find("two").unwrap_err()), ErrorKind::Transient, "it may be there");
    let lease = find(ID).unwrap()["lease"].clone();
    let mut stop = |lease: &Value, id: &str| {
        let expected = json!({"leaseId": id, "cloudId": NAME});
        kernel.call("run.stop", json!({"lease": lease, "expected": expected}))
    };
    assert_eq!(kind(stop(&lease, "cbx_ffffffffffff").unwrap_err()), ErrorKind::Precondition);
    assert_eq!(stop(&lease, ID).unwrap()["outcome"], "released");
    assert_eq!(stop(&lease, ID).unwrap()["outcome"], "already_gone");
}
