//! What all clouds of machines share, on a cloud that exists only in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crabbox_plugin_sdk::cloud::{
    self, At, Candidate, Classes, Cloud, Extra, Look, Machine, Market, Offers, Order, Page, Phase,
    Site,
};
use crabbox_plugin_sdk::testkit::{Cassette, Kernel, desired};
use crabbox_plugin_sdk::*;
use serde_json::{Value, json};

const ID: &str = "cbx_0123456789ab";
const OTHER: &str = "cbx_ba9876543210";

/// What the cloud has, and how it behaves.
#[derive(Default)]
struct Sky {
    machines: Vec<Machine>,
    keys: Vec<Extra>,
    /// Candidates that were asked for.
    asked: Vec<String>,
    /// What is said of a candidate instead: `m4 north` or `m4`. `lost` and `made` stand for an answer that never comes.
    says: BTreeMap<&'static str, &'static str>,
    /// Looks at a machine before it has an address.
    slow: usize,
}

#[derive(Clone, Default)]
struct Toy(Arc<Mutex<Sky>>);

impl Toy {
    fn sky(&self) -> MutexGuard<'_, Sky> {
        self.0.lock().unwrap()
    }

    fn with(says: &[(&'static str, &'static str)]) -> Self {
        let toy = Self::default();
        toy.sky().says = says.iter().copied().collect();
        toy
    }

    fn kernel(&self) -> Kernel {
        let toy = self.clone();
        let plugin = Plugin::ssh_lease(MANIFEST, move |_| Ok(toy.clone()));
        Kernel::start(plugin, "toycloud", json!({}), Cassette::parse("").unwrap()).unwrap()
    }

    /// Names of machines and keys.
    fn names(&self) -> Vec<String> {
        let sky = self.sky();
        let keys = sky.keys.iter().map(|key| key.name.clone());
        sky.machines.iter().map(|one| one.id.clone()).chain(keys).collect()
    }
}

const MANIFEST: &str = r#"
manifest = 1
id = "test/toycloud"
version = "1.0.0"
protocols = ["1"]
description = "A cloud in memory"
license = "MIT"

[[provider]]
name = "toycloud"
kind = "ssh-lease"
features = ["cloud-init"]
targets = ["linux"]

[[artifact]]
runtime = "stdio"
path = "toycloud"
"#;

impl Cloud for Toy {
    const NAME: &'static str = "toycloud";
    const MACHINE: &'static str = "machine";
    const ELSEWHERE: &'static str = "another place";
    const CLASSES: Classes = Classes(&[("standard", &["m4", "m2"])]);

    fn places<'a>(&'a self, _likely: &[&'a str]) -> Vec<&'a str> {
        vec!["north", "south"]
    }

    fn machines_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Machine>, Failure> {
        let sky = self.sky();
        let there = |one: &&Machine| one.place == at.place && cloud::is_of(&one.labels, id);
        Ok(sky.machines.iter().filter(there).cloned().collect())
    }

    fn page(&self, at: At<'_>, cursor: Option<&str>) -> Result<Page, Failure> {
        let sky = self.sky();
        let all: Vec<_> = sky.machines.iter().filter(|one| one.place == at.place).collect();
        let from: usize = cursor.unwrap_or("0").parse().unwrap();
        let next = (all.len() > from + 1).then(|| (from + 1).to_string());
        Ok((all.into_iter().skip(from).take(1).cloned().collect(), next))
    }

    fn machine(&self, at: At<'_>, id: &str) -> Result<Option<(Machine, Option<u64>)>, Failure> {
        let mut sky = self.sky();
        let slow = sky.slow;
        sky.slow = slow.saturating_sub(1);
        let found = sky.machines.iter_mut().find(|one| one.id == id && one.place == at.place);
        Ok(found.map(|one| {
            if slow == 0 {
                one.host = Some("192.0.2.7".to_owned());
            }
            (one.clone(), Some(5000))
        }))
    }

    fn label(
        &self,
        _at: At<'_>,
        machine: &Machine,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Failure> {
        let mut sky = self.sky();
        let found = sky.machines.iter_mut().find(|one| one.id == machine.id);
        found.unwrap().labels = labels.clone();
        Ok(())
    }

    fn delete(&self, _at: At<'_>, machines: &[Machine]) -> Result<(), Failure> {
        self.sky().machines.retain(|one| machines.iter().all(|gone| gone.id != one.id));
        Ok(())
    }

    fn extras_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Extra>, Failure> {
        let name = format!("{} {}", at.place, cloud::key_name(id));
        Ok(self.sky().keys.iter().filter(|key| key.name == name).cloned().collect())
    }

    fn delete_extra(&self, _at: At<'_>, extra: &Extra) -> Result<(), Failure> {
        self.sky().keys.retain(|key| key.name != extra.name);
        Ok(())
    }

    fn look<'a>(&'a self, order: &'a Order<'a>, place: &'a str) -> Result<impl Look + 'a, Failure> {
        Ok(move || self.ground(order, place))
    }

    fn has(&self, at: At<'_>, machine: &str) -> Result<bool, Failure> {
        Ok(machine.starts_with('m') || at.place == "south" && machine == "s1")
    }

    fn others(&self, _call: &Call, _request: &BoxRequest) -> Result<Vec<String>, Failure> {
        Ok(Self::CLASSES.all().into_iter().chain(["m1"]).map(str::to_owned).collect())
    }

    fn sizes(&self, _call: &Call, _params: &CatalogParams) -> Result<Offers, Failure> {
        let names = ["m4", "m1"].map(str::to_owned);
        Ok((names.map(|name| Offer { name, ..Offer::default() }).into(), None))
    }

    fn regions(&self, _call: &Call) -> Result<Vec<Offer>, Failure> {
        Ok(Vec::new())
    }

    fn price(&self, _call: &Call, _request: &BoxRequest, _machine: &str) -> Result<Price, Failure> {
        Ok(cloud::price(1.25, "EUR", "list"))
    }

    fn doctor(&self, _call: &Call) -> Result<Vec<Check>, Failure> {
        Ok(Vec::new())
    }
}

impl Toy {
    fn ground<'a>(&'a self, order: &'a Order<'a>, place: &'a str) -> Result<Ground<'a>, Failure> {
        let look = |name: &str| {
            let name = format!("{place} {name}");
            Ok(self.sky().keys.iter().find(|key| key.name == name).cloned())
        };
        let add = |name: &str| {
            let (kind, name) = ("key".to_owned(), format!("{place} {name}"));
            let region = Some(place.to_owned());
            let resource = Resource { kind, cloud_id: name.clone(), region, billable: false };
            self.sky().keys.push(Extra { resource, name, labels: order.labels([]) });
            // The answer is lost: it must be looked for.
            Err(Failure::transient("no answer"))
        };
        order.key(look, add)?;
        Ok(Ground { toy: self, order, place })
    }
}

struct Ground<'a> {
    toy: &'a Toy,
    order: &'a Order<'a>,
    place: &'a str,
}

impl Site for Ground<'_> {
    fn candidates(&self) -> Vec<Candidate> {
        let machines = Toy::CLASSES.machines(&self.order.params.request);
        let at = |machine: &str, place: &str| {
            let (machine, place) = (machine.to_owned(), format!("{}{place}", self.place));
            Candidate { machine, place, market: Some(Market::Spot) }
        };
        machines
            .into_iter()
            .flat_map(|machine| ["-a", "-b"].map(|place| at(machine, place)))
            .collect()
    }

    fn make(&self, candidate: &Candidate) -> Result<Machine, Failure> {
        let mut sky = self.toy.sky();
        let asked = format!("{} {}", candidate.machine, candidate.place);
        let said = [&*asked, &candidate.machine].into_iter().find_map(|key| sky.says.get(key));
        let said = said.copied();
        sky.asked.push(asked);
        match said {
            Some("full") => return Err(Failure::capacity("no room")),
            Some("limit") => return Err(Failure::quota("your limit")),
            Some("auth") => return Err(Failure::auth("who are you")),
            Some("lost") => return Err(Failure::transient("no answer")),
            _ => {}
        }
        let machine = Machine {
            id: format!("i-{}-{}", self.place, candidate.machine),
            name: self.order.params.desired.name.clone(),
            machine: candidate.machine.clone(),
            place: self.place.to_owned(),
            labels: self.order.labels([("region", self.place)]),
            host: None,
            state: "up".to_owned(),
            phase: Phase::Up,
            ended: None,
        };
        sky.machines.retain(|one| one.id != machine.id);
        sky.machines.push(machine.clone());
        match said {
            Some("made") => Err(Failure::timeout("no answer")),
            _ => Ok(machine),
        }
    }
}

fn wanted(id: &str, slug: &str) -> Value {
    json!({
        "desired": desired(id, slug),
        "request": {"target": "linux", "class": "standard", "ttlSecs": 5400, "idleTimeoutSecs": 1800},
        "sshPublicKey": "ssh-ed25519 AAAA crabbox",
        "labels": {"crabbox": "true", "lease": id, "slug": slug, "created_at": "1000", "ttl_secs": "5400",
            "idle_timeout_secs": "1800"},
        "bootstrap": {"userData": "#cloud-config", "user": "me", "ports": [2222, 22], "workRoot": "/work",
            "hostKeys": ["ssh-ed25519 BBBB"], "readyCheck": "true"},
    })
}

fn acquire(kernel: &mut Kernel) -> Value {
    kernel.call("lease.acquire", wanted(ID, "one")).unwrap()["lease"].clone()
}

fn given_back(kernel: &mut Kernel, lease: &Value, id: &str) -> Value {
    let expected = json!({"leaseId": id, "cloudId": lease["cloudId"]});
    let params = json!({"lease": lease, "expected": expected});
    match kernel.call("lease.release", params) {
        Ok(result) => result["outcome"].clone(),
        Err(error) => json!(error.data.unwrap().kind.word()),
    }
}

#[test]
fn a_machine_is_made_waited_for_used_and_given_back_with_its_key() {
    let toy = Toy::default();
    toy.sky().slow = 3;
    let mut kernel = toy.kernel();
    let lease = acquire(&mut kernel);
    assert_eq!(lease["ssh"]["host"], "192.0.2.7");
    assert_eq!(lease["ssh"]["port"], 2222);
    assert_eq!(lease["labels"]["provider"], "toycloud");
    assert_eq!(kernel.resources().len(), 2, "the key and the machine are on record");
    let again = acquire(&mut kernel);
    assert_eq!((&again["cloudId"], toy.sky().asked.len()), (&lease["cloudId"], 1));
    let touched = json!({"lease": lease, "state": "running"});
    let touched = kernel.call("lease.touch", touched).unwrap()["lease"].clone();
    assert_eq!(
        (&touched["status"], &touched["labels"]["expires_at"]),
        (&json!("running"), &json!("6400"))
    );
    assert_eq!(given_back(&mut kernel, &lease, OTHER), "precondition");
    assert_eq!(toy.names().len(), 2);
    assert_eq!(given_back(&mut kernel, &lease, ID), "released");
    assert_eq!(given_back(&mut kernel, &lease, ID), "already_gone");
    assert_eq!((toy.names(), kernel.resources().len()), (vec![], 0));
}

#[test]
fn the_next_candidate_is_tried_where_one_is_full_and_a_limit_is_met_once() {
    let toy = Toy::with(&[("m4", "limit"), ("m2 north-a", "full"), ("m2 north-b", "full")]);
    let mut kernel = toy.kernel();
    let lease = acquire(&mut kernel);
    let asked = ["m4 north-a", "m2 north-a", "m2 north-b", "m4 south-a", "m2 south-a"];
    assert_eq!(toy.sky().asked, asked);
    assert_eq!(lease["labels"]["region"], "south");
    let told = kernel.events().iter().filter(|(name, _)| name == "event/attempt").count();
    assert_eq!(told, asked.len());
    assert_eq!(toy.names().len(), 2, "no key is left where there was no room");
}

#[test]
fn when_nothing_can_be_had_all_that_was_said_is_told_and_nothing_is_left() {
    let toy = Toy::with(&[("m4", "full"), ("m2", "full")]);
    let mut kernel = toy.kernel();
    let error = kernel.call("lease.acquire", wanted(ID, "one")).unwrap_err();
    let data = error.data.unwrap();
    assert_eq!((data.kind, data.outcome), (ErrorKind::Capacity, Some(Outcome::RolledBack)));
    assert_eq!(data.cause.len(), 8);
    assert_eq!(data.cause[0], "m4 spot in north-a: capacity: no room");
    assert_eq!(
        (data.alternatives, data.hint.unwrap()),
        (vec!["m1".to_owned()], "try --type m1, or another place".to_owned())
    );
    assert_eq!((toy.names(), kernel.resources().len()), (vec![], 0));
}

#[test]
fn a_machine_type_that_no_place_has_is_refused_before_anything_is_made() {
    let toy = Toy::default();
    let mut kernel = toy.kernel();
    let mut ask = |request: Value| {
        let mut wanted = wanted(ID, "one");
        wanted["request"] = request;
        kernel.call("lease.acquire", wanted)
    };
    for (request, what) in [
        (json!({"class": "standard", "machineType": "x9"}), "there is no machine type x9"),
        (json!({"class": "huge"}), "huge is neither a class nor a machine type"),
    ] {
        let error = ask(request).unwrap_err();
        assert_eq!(error.message, format!("{what} in north, south"));
        let data = error.data.unwrap();
        assert_eq!(
            (data.kind, data.outcome),
            (ErrorKind::InvalidConfig, Some(Outcome::NotStarted))
        );
        assert!(data.hint.unwrap().contains("crabbox sizes"));
        assert_eq!(data.alternatives, ["m4", "m2", "m1"]);
    }
    assert_eq!((toy.names(), toy.sky().asked.len()), (vec![], 0));
    ask(json!({"class": "s1"})).unwrap();
}

#[test]
fn what_was_made_although_nobody_heard_of_it_is_found_and_not_made_twice() {
    let toy = Toy::with(&[("m4", "made")]);
    let mut kernel = toy.kernel();
    assert_eq!(acquire(&mut kernel)["cloudId"], "i-north-m4");
    assert_eq!(toy.sky().asked.len(), 1);
    let toy = Toy::with(&[("m4", "lost")]);
    let mut kernel = toy.kernel();
    let data = kernel.call("lease.acquire", wanted(ID, "one")).unwrap_err().data.unwrap();
    assert_eq!((data.kind, data.outcome), (ErrorKind::Transient, Some(Outcome::RolledBack)));
    assert_eq!(toy.sky().asked.len(), 2, "it is asked for once more, and never another candidate");
    assert_eq!(toy.names(), [""; 0]);
}

#[test]
fn what_is_no_lack_of_room_ends_the_walk() {
    let toy = Toy::with(&[("m4", "auth")]);
    let data = toy.kernel().call("lease.acquire", wanted(ID, "one")).unwrap_err().data.unwrap();
    assert_eq!((data.kind, toy.sky().asked.len()), (ErrorKind::Auth, 1));
    assert_eq!(toy.names(), [""; 0]);
}

#[test]
fn a_name_means_a_machine_of_ours_wherever_it_is_and_only_what_is_left_is_given_back() {
    let toy = Toy::default();
    let mut kernel = toy.kernel();
    let first = acquire(&mut kernel);
    toy.sky().says = [("m4 north-a", "full"), ("m4 north-b", "full"), ("m2", "full")].into();
    let second = kernel.call("lease.acquire", wanted(OTHER, "two")).unwrap()["lease"].clone();
    assert_eq!(second["labels"]["region"], "south");
    let resolve = |kernel: &mut Kernel, id: &Value, purpose: &str| {
        kernel.call("lease.resolve", json!({"id": id, "purpose": purpose}))
    };
    for name in [&second["leaseId"], &second["slug"], &second["name"]] {
        let found = resolve(&mut kernel, name, "use").unwrap();
        assert_eq!(found["lease"]["leaseId"], OTHER, "{name}");
    }
    let (mut listed, mut cursor) = (Vec::new(), None::<Value>);
    for _ in 0..4 {
        let page = kernel.call("lease.list", json!({ "cursor": cursor })).unwrap();
        listed.extend(page["leases"].as_array().unwrap().iter().map(|l| l["slug"].clone()));
        cursor = page.get("nextCursor").cloned();
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, ["one", "two"]);
    toy.sky().machines.retain_mut(|machine| {
        machine.phase = Phase::Down;
        machine.machine != "m4" || machine.place == "south"
    });
    let dead = resolve(&mut kernel, &second["leaseId"], "use").unwrap_err();
    assert_eq!(dead.data.unwrap().kind, ErrorKind::Expired);
    assert!(resolve(&mut kernel, &first["leaseId"], "use").is_err());
    let left = resolve(&mut kernel, &first["leaseId"], "reconcile").unwrap()["lease"].clone();
    assert_eq!((&left["status"], &left["slug"]), (&json!("failed"), &json!("one")), "only its key");
    assert_eq!(given_back(&mut kernel, &left, ID), "released");
    assert_eq!(toy.names().len(), 2, "the other lease is untouched");
}

#[test]
fn a_machine_that_never_will_run_is_removed_and_another_one_is_made() {
    let toy = Toy::default();
    let mut kernel = toy.kernel();
    let first = acquire(&mut kernel);
    assert_eq!(acquire(&mut kernel)["cloudId"], first["cloudId"]);
    assert_eq!(toy.sky().asked.len(), 1);
    toy.sky().machines[0].phase = Phase::Failed;
    acquire(&mut kernel);
    assert_eq!(toy.sky().asked.len(), 2);
    assert_eq!(toy.names().len(), 2, "a machine and its key");
    toy.sky().machines[0].phase = Phase::Failed;
    let asked = json!({"id": ID, "purpose": "use"});
    let dead = kernel.call("lease.resolve", asked).unwrap_err();
    assert_eq!(dead.data.unwrap().kind, ErrorKind::Expired);
}

#[test]
fn what_can_be_had_and_how_a_machine_ended_is_told() {
    let toy = Toy::default();
    let mut kernel = toy.kernel();
    let sizes = kernel.call("catalog.sizes", json!({})).unwrap();
    let classes = [&sizes["offers"][0]["class"], &sizes["offers"][1]["class"]];
    assert_eq!(classes, [&json!("standard"), &Value::Null]);
    let quote = kernel.call("pricing.quote", json!({"request": {"class": "standard"}})).unwrap();
    assert_eq!(
        (&quote["serverType"], &quote["price"]["hourlyMicros"]),
        (&json!("m4"), &json!(1_250_000))
    );
    let lease = acquire(&mut kernel);
    let cause = |kernel: &mut Kernel| {
        kernel.call("evidence.collect", json!({ "lease": lease })).unwrap()["cause"].clone()
    };
    assert_eq!(cause(&mut kernel), "unknown");
    toy.sky().machines[0].phase = Phase::Leaving;
    assert_eq!(cause(&mut kernel), "gone");
    // Its end, by the service's clock, which shows 5000.
    toy.sky().machines[0].labels.insert("ttl_secs".to_owned(), "4000".to_owned());
    assert_eq!(cause(&mut kernel), "expired");
    toy.sky().machines[0].ended = Some("preempted");
    assert_eq!(cause(&mut kernel), "preempted");
    toy.sky().machines[0].labels.insert("lease".to_owned(), OTHER.to_owned());
    assert_eq!(cause(&mut kernel), "gone", "another's says nothing of this one");
}
