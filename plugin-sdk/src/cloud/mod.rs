//! Clouds whose machines become boxes: a provider makes, finds and deletes machines, and everything else about their
//! leases is here, the same for all of them.
//!
//! A provider says what is its own in [`Cloud`], [`Look`] and [`Site`], and is an [`SshLease`] by that. Machines and what
//! is made beside them carry the labels of their lease from the request on that makes them, so that they are found
//! whatever was lost; nothing that is labelled for another lease is touched.

mod acquire;
mod catalog;
mod class;
mod codes;
mod find;
mod machine;
mod market;
mod network;
mod remove;

pub use acquire::Order;
pub use catalog::{Offers, arch, check_places, price, whole};
pub use class::{Classes, distinct};
pub use codes::Codes;
pub use machine::{Extra, Machine, Phase, Reached, is_of, key_name, short};
pub use market::Market;
pub use network::{admitted, check_networks, is_network};
pub use remove::remove;

use std::collections::BTreeMap;

use crate::{
    AcquireParams, BoxRequest, Call, CatalogParams, CatalogResult, Check, ErrorKind,
    EvidenceParams, EvidenceResult, Failure, Lease, LeaseId, ListParams, ListResult, Offer, Price,
    QuoteParams, QuoteResult, ReleaseOutcome, ReleaseParams, ResolveParams, SshLease, TouchParams,
};

/// One part of a cloud, as one call sees it.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The call.
    pub call: &'a Call,
    /// A region, say; the same text for everything where a cloud has no parts.
    pub place: &'a str,
}

/// A page of machines, and how to ask for the next one.
pub type Page = (Vec<Machine>, Option<String>);

/// A cloud whose machines become boxes.
pub trait Cloud: Send + Sync + 'static {
    /// The provider's name, as the label `provider` has it.
    const NAME: &'static str;
    /// What the service calls a machine; the trail calls it so too.
    const MACHINE: &'static str;
    /// Where else the user may let it look for room: `another hetzner.location`.
    const ELSEWHERE: &'static str;
    /// Which machine types a class means on Linux.
    const CLASSES: Classes;
    /// The operating systems its machines can run; `wsl2` is Linux inside Windows.
    const TARGETS: &'static [&'static str] = &["linux"];

    /// Which machine types a class means for a request.
    fn classes(_request: &BoxRequest) -> Classes {
        Self::CLASSES
    }
    /// What may have become of a machine that is gone, behind the words that say so.
    const GONE: &'static str = "";
    /// Whether a listing says all there is to know of a machine; else one that is meant is asked for by its id as well.
    const LISTS_ALL: bool = true;

    /// Everywhere something of ours may be. What is known of a lease names the likely ones, which go first.
    fn places<'a>(&'a self, likely: &[&'a str]) -> Vec<&'a str>;

    /// The place that an id of the service names, where ids do.
    fn place_of<'a>(&self, _id: &'a str) -> Option<&'a str> {
        None
    }

    /// The machines that are labelled for a lease and still there; others among them are left out. It may lag behind.
    fn machines_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Machine>, Failure>;

    /// One page of all machines that are ours, the cursor is what the last page came with; behind them may be what is left
    /// of one.
    fn page(&self, at: At<'_>, cursor: Option<&str>) -> Result<Page, Failure>;

    /// A machine by the service's id, and the service's clock in seconds since 1970; nothing when it does not exist.
    fn machine(&self, at: At<'_>, id: &str) -> Result<Option<(Machine, Option<u64>)>, Failure>;

    /// Replaces a machine's labels.
    fn label(
        &self,
        at: At<'_>,
        machine: &Machine,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), Failure>;

    /// Lets machines go; those that are gone, or on their way, are as good. What waits for the end of that is cancelled
    /// when somebody is in a hurry.
    fn delete(&self, at: At<'_>, machines: &[Machine]) -> Result<(), Failure>;

    /// What was made for a lease beside its machine and goes after it; others among it are left out.
    fn extras_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Extra>, Failure>;

    /// Deletes it, with the same exception.
    fn delete_extra(&self, at: At<'_>, extra: &Extra) -> Result<(), Failure>;

    /// Whether a place has a machine type at all, free or not; also where nobody here may know.
    fn has(&self, at: At<'_>, machine: &str) -> Result<bool, Failure>;

    /// Where to look for room, in order.
    fn tour<'a>(&'a self, _order: &Order<'_>) -> Vec<&'a str> {
        self.places(&[])
    }

    /// Looks at one place: what would be wrong there for every machine is found before anything is made.
    fn look<'a>(&'a self, order: &'a Order<'a>, place: &'a str) -> Result<impl Look + 'a, Failure>;

    /// Machine types that could probably be had for such a request, the largest first.
    fn others(&self, call: &Call, request: &BoxRequest) -> Result<Vec<String>, Failure>;

    /// Machine types that can be asked for; classes are put in.
    fn sizes(&self, call: &Call, params: &CatalogParams) -> Result<Offers, Failure>;

    /// Places that can be asked for.
    fn regions(&self, call: &Call) -> Result<Vec<Offer>, Failure>;

    /// What a machine type costs.
    fn price(&self, call: &Call, request: &BoxRequest, machine: &str) -> Result<Price, Failure>;

    /// Looks at credentials and prerequisites; creates nothing.
    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure>;

    /// Refuses what a machine cannot be.
    fn check(&self, request: &BoxRequest) -> Result<(), Failure> {
        let target = match &*request.target {
            "" => "linux",
            "windows" if !request.is_native_windows() => "wsl2",
            target => target,
        };
        if !Self::TARGETS.contains(&target) {
            let offered = Self::TARGETS.join(" or ");
            let what = format!("boxes of {} run {offered} here, not {target}", Self::NAME);
            return Err(Failure::unsupported(what)
                .hint("a host that exists can be used with the ssh provider"));
        }
        if Self::classes(request).machines(request).iter().any(|machine| machine.is_empty()) {
            return Err(Failure::invalid_request(
                "neither a class nor a machine type was asked for",
            ));
        }
        Ok(())
    }
}

impl<C: Cloud> SshLease for C {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        acquire::acquire(self, call, params)
    }

    fn resolve(&self, call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        find::resolve(self, call, params)
    }

    fn list(&self, call: &Call, params: ListParams) -> Result<ListResult, Failure> {
        find::list(self, call, params)
    }

    fn release(&self, call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        remove::release(self, call, params)
    }

    fn touch(&self, call: &Call, params: TouchParams) -> Result<Lease, Failure> {
        find::touch(self, call, params)
    }

    fn facts(&self) -> &'static [&'static str] {
        &["catalog.sizes", "catalog.regions", "pricing.quote", "evidence.collect"]
    }

    fn sizes(&self, call: &Call, params: CatalogParams) -> Result<CatalogResult, Failure> {
        catalog::sizes(self, call, &params)
    }

    fn regions(&self, call: &Call, _params: CatalogParams) -> Result<CatalogResult, Failure> {
        catalog::regions(self, call)
    }

    fn quote(&self, call: &Call, params: QuoteParams) -> Result<QuoteResult, Failure> {
        catalog::quote(self, call, &params)
    }

    fn evidence(&self, call: &Call, params: EvidenceParams) -> Result<EvidenceResult, Failure> {
        catalog::evidence(self, call, &params)
    }

    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        Cloud::doctor(self, call)
    }
}

/// A place that was looked at. A closure that makes it ready is one.
pub trait Look {
    /// The place, once it is ready.
    type Site: Site;

    /// Makes what all machines of an order need there.
    fn prepare(self) -> Result<Self::Site, Failure>;
}

impl<S: Site, F: FnOnce() -> Result<S, Failure>> Look for F {
    type Site = S;

    fn prepare(self) -> Result<S, Failure> {
        self()
    }
}

/// A place that is ready for the machines of an order.
pub trait Site {
    /// What may be asked for here, the best first.
    fn candidates(&self) -> Vec<Candidate>;

    /// Makes one. Asked again for the same candidate it makes no second machine: by its name, or by a token.
    fn make(&self, candidate: &Candidate) -> Result<Machine, Failure>;

    /// Whether a candidate is worth asking for after what was said of others here.
    fn is_worth(&self, candidate: &Candidate, misses: &[Miss]) -> bool {
        candidate.is_within_limits(misses)
    }
}

/// A machine type, where it shall stand, and how it is paid for where that can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The machine type.
    pub machine: String,
    /// The region, location or zone.
    pub place: String,
    /// How it is paid for.
    pub market: Option<Market>,
}

impl Candidate {
    /// Every machine type at every place, paid for in every way: first by the way, then by the machine.
    pub fn all(markets: &[Option<Market>], machines: &[&str], places: &[&str]) -> Vec<Self> {
        let mut all = Vec::new();
        for &market in markets {
            for machine in machines.iter().map(|&machine| machine.to_owned()) {
                let at = |place: &&str| Self {
                    machine: machine.clone(),
                    place: (*place).to_owned(),
                    market,
                };
                all.extend(places.iter().map(at));
            }
        }
        all
    }

    /// Whether no limit was told of the same machine here. A limit of the account is the same wherever a machine stands.
    pub fn is_within_limits(&self, misses: &[Miss]) -> bool {
        let same = |one: &Self| (&one.machine, one.market) == (&self.machine, self.market);
        !misses.iter().any(|(one, why)| why.kind() == ErrorKind::Quota && same(one))
    }
}

/// A candidate that could not be had, and why.
pub type Miss = (Candidate, Failure);
