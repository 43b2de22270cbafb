//! What is tested, and the same plugin made ready for a check again and again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crabbox_cassette::Cassette;
use crabbox_plugins::{Entry, hide_secrets};
use crabbox_schemas::plugin::{ProviderKind, UserFacts};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::host::Host;
use crate::peer::{Outcome, PROMPT, Peer, WORK, fault};

/// The provider that is tested.
#[derive(Debug)]
pub struct Subject {
    /// Its plugin, and how that is run.
    pub entry: Entry,
    /// Its settings.
    pub config: Map<String, Value>,
    /// Facts that a kernel tells.
    pub user: UserFacts,
    /// The same provider as a program, when this is WebAssembly and the plugin has one for this machine.
    pub twin: Option<Entry>,
    /// What of the user's environment the plugin and its tools get: the names in its grants.
    pub env: BTreeMap<String, String>,
    /// The plugin's private folder; one for the whole test, as a real one lasts.
    pub state: TempDir,
    /// The user's `XDG_CACHE_HOME`, where runners keep what they compiled.
    pub cache: Option<String>,
    /// Recorded exchanges that answer what it asks of the network, its tools and people.
    pub cassette: Option<String>,
    /// How many times longer than usual everything may take: more than 1 for slow or busy machines.
    pub patience: u32,
}

/// A check's way to the plugin.
#[derive(Debug)]
pub struct Bench<'a> {
    /// What is tested.
    pub subject: &'a Subject,
    /// Which check it is, so that boxes of different checks are not mixed up.
    pub check: &'static str,
    /// The recorded service, from the beginning of the check on.
    pub(crate) tape: Option<Tape>,
}

/// A recorded service; every plugin of a check talks with the same one.
pub(crate) type Tape = Rc<RefCell<Cassette>>;

impl<'a> Bench<'a> {
    /// The way for one check; the error is that the cassette cannot be read.
    pub(crate) fn new(subject: &'a Subject, check: &'static str) -> Result<Self, String> {
        let mut bench = Self { subject, check, tape: None };
        let Some(text) = &subject.cassette else { return Ok(bench) };
        let desired = bench.desired();
        let named = |name: &str| desired[name].as_str().unwrap_or_default();
        let hex = named("leaseId").trim_start_matches("cbx_");
        let all = ["leaseId", "slug", "name"].map(|name| (name, named(name)));
        let text = all
            .into_iter()
            .chain([("leaseHex", hex)])
            .fold(text.clone(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
        bench.tape = Some(Rc::new(RefCell::new(Cassette::parse(&text)?)));
        Ok(bench)
    }
}

impl Bench<'_> {
    /// The same check with the service as it was at first.
    pub(crate) fn anew(&self) -> Outcome<Self> {
        match Bench::new(self.subject, self.check) {
            Ok(bench) => Ok(bench),
            Err(why) => fault("the cassette", "recorded exchanges", why),
        }
    }

    /// What the recorded service has now.
    pub(crate) fn standing(&self) -> Vec<String> {
        let tape = self.tape.as_ref().map(|tape| tape.borrow());
        tape.iter().flat_map(|tape| tape.standing().map(str::to_owned)).collect()
    }

    /// A plugin that has been greeted.
    pub(crate) fn open(&self) -> Outcome<Peer> {
        let mut peer = self.start()?;
        self.greet(&mut peer)?;
        Ok(peer)
    }

    /// A plugin that was started and told nothing.
    pub(crate) fn start(&self) -> Outcome<Peer> {
        Peer::start(self.subject, Host::new(self)?)
    }

    /// Greets a plugin; what it says of itself.
    pub(crate) fn greet(&self, peer: &mut Peer) -> Outcome<Value> {
        let id = peer.request("initialize", self.hello(&["1.0"]))?;
        match peer.answer(id, WORK)? {
            Ok(result) => Ok(result),
            Err(error) => fault("initialize", "a result", error),
        }
    }

    /// The params of `initialize`.
    pub(crate) fn hello(&self, protocols: &[&str]) -> Value {
        let entry = &self.subject.entry;
        json!({
            "protocols": protocols,
            "kernel": {"name": "crabbox", "version": env!("CARGO_PKG_VERSION")},
            "interactive": false,
            "limits": {"maxLine": 1 << 20, "outputWindow": 1 << 20, "maxInflight": 8},
            "callbacks": ["resource", "secret", "kv", "sleep", "exec", "exec.open", "http", "http.open", "ws", "blob"],
            "instance": {
                "provider": entry.provider.name,
                "config": hide_secrets(entry.flags(), &self.subject.config),
                "user": self.subject.user,
            },
        })
    }

    /// Whether it runs commands itself.
    pub(crate) fn delegates(&self) -> bool {
        self.subject.entry.provider.kind == ProviderKind::DelegatedRun
    }

    /// The provider's name for one of `acquire`, `resolve`, `list`, `release`.
    pub(crate) fn method(&self, what: &str) -> &'static str {
        match (self.delegates(), what) {
            (true, "acquire") => "run.warmup",
            (true, "resolve") => "run.status",
            (true, "list") => "run.list",
            (true, _) => "run.stop",
            (false, "acquire") => "lease.acquire",
            (false, "resolve") => "lease.resolve",
            (false, "list") => "lease.list",
            (false, _) => "lease.release",
        }
    }

    /// The identity of this check's box.
    pub(crate) fn desired(&self) -> Value {
        let digest = self.check.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let hex = format!("{digest:016x}");
        let slug = format!("kit-{}", self.check.to_lowercase());
        json!({
            "leaseId": format!("cbx_{}", &hex[..12]),
            "slug": slug,
            "name": format!("crabbox-{slug}-{}", &hex[..8]),
        })
    }

    /// The params of an acquire.
    pub(crate) fn wanted(&self) -> Value {
        let desired = self.desired();
        let target = self.subject.entry.provider.targets.first().cloned().unwrap_or_default();
        let mut wanted = json!({
            "desired": desired,
            "request": {"target": target, "class": "standard", "ttlSecs": 900, "idleTimeoutSecs": 600, "keep": false},
            "sshPublicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIDAeYK4kYaTT4Wz5xjWAFBUBZbbmCCS1TwF5ioYwYtU kit",
            "labels": {"crabbox": "true", "lease": desired["leaseId"], "slug": desired["slug"]},
        });
        if self.subject.entry.provider.features.iter().any(|feature| feature == "cloud-init") {
            wanted["bootstrap"] = json!({
                "userData": "#cloud-config\n{}\n", "user": "crabbox", "ports": [2222, 22], "workRoot": "/work/crabbox",
                "hostKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIDAeYK4kYaTT4Wz5xjWAFBUBZbbmCCS1TwF5ioYwYtU host"],
                "readyCheck": "true",
            });
        }
        wanted
    }

    /// Acquires this check's box.
    pub(crate) fn acquire(&self, peer: &mut Peer) -> Outcome<Value> {
        let result = peer.must(self.method("acquire"), self.wanted())?;
        match result.get("lease") {
            Some(lease) => Ok(lease.clone()),
            None => fault(self.method("acquire"), "`lease` in the result", result),
        }
    }

    /// Gives a box back; how it ended.
    pub(crate) fn release(&self, peer: &mut Peer, lease: &Value) -> Outcome<String> {
        let expected = json!({"leaseId": lease["leaseId"], "cloudId": lease["cloudId"]});
        let params = json!({"lease": lease, "expected": expected});
        let result = peer.must(self.method("release"), params)?;
        Ok(result["outcome"].as_str().unwrap_or_default().to_owned())
    }

    /// Looks a box up.
    pub(crate) fn resolve(
        &self,
        peer: &mut Peer,
        id: &Value,
        purpose: &str,
    ) -> Outcome<Result<Value, Value>> {
        peer.ask(self.method("resolve"), json!({"id": id, "purpose": purpose}))
    }

    /// Gives back whatever there is of this check's box.
    pub(crate) fn give_back(&self, peer: &mut Peer) -> Outcome {
        let id = self.desired()["leaseId"].clone();
        match self.resolve(peer, &id, "reconcile")? {
            Ok(found) => self.release(peer, &found["lease"]).map(drop),
            Err(_) => Ok(()),
        }
    }

    /// A plugin with a box; the box is given back when the check is done, whatever came of it.
    pub(crate) fn with_box<T>(
        &self,
        check: impl FnOnce(&mut Peer, &Value) -> Outcome<T>,
    ) -> Outcome<T> {
        let mut peer = self.open()?;
        let lease = self.acquire(&mut peer)?;
        let checked = check(&mut peer, &lease);
        if checked.is_err() {
            drop(peer);
            let _ = self.open().and_then(|mut peer| self.release(&mut peer, &lease));
            return checked;
        }
        self.release(&mut peer, &lease)?;
        checked
    }

    /// Ends a plugin politely.
    pub(crate) fn close(&self, mut peer: Peer) -> Outcome {
        let id = peer.request("shutdown", json!({}))?;
        if let Err(error) = peer.answer(id, PROMPT)? {
            return fault("shutdown", "an empty result", error);
        }
        peer.hang_up();
        match peer.ended(PROMPT) {
            Some(_) => Ok(()),
            None => {
                fault("shutdown, then the end of standard input", "the process ends", "it lives")
            }
        }
    }
}
