//! Clouds whose machines become boxes: a provider makes, finds and deletes machines, and everything else about their
//! leases is here, the same for all of them.
//!
//! A provider says what is its own in [`Cloud`] and [`Site`], and its [`SshLease`](crate::SshLease) passes on to
//! [`acquire()`], [`resolve`], [`list`], [`release`] and [`touch`]. Machines and what is made beside them carry the
//! labels of their lease from the request on that makes them, so that they are found whatever was lost; nothing that
//! is labelled for another lease is touched.

mod acquire;
mod class;
mod find;
mod machine;
mod network;
mod remove;

pub use acquire::{Order, acquire};
pub use class::{Classes, distinct};
pub use find::{list, resolve, touch};
pub use machine::{Extra, Machine, Phase, Reached, is_of, key_name};
pub use network::is_network;
pub use remove::release;

use std::collections::BTreeMap;

use crate::{BoxRequest, Call, ErrorKind, Failure, LeaseId};

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
    /// The operating systems its machines can run.
    const TARGETS: &'static [&'static str] = &["linux"];

    /// Which machine types a class means for a request.
    fn classes(_request: &BoxRequest) -> Classes {
        Self::CLASSES
    }

    /// Everywhere something of ours may be. What is known of a lease names the likely ones, which go first.
    fn places<'a>(&'a self, likely: &[&'a str]) -> Vec<&'a str>;

    /// The machines that are labelled for a lease and still there. It may lag behind.
    fn machines_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Machine>, Failure>;

    /// One page of all machines that are ours; the cursor is what the last page came with.
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

    /// Lets machines go; those that are gone, or on their way, are as good.
    fn delete(&self, at: At<'_>, machines: &[Machine]) -> Result<(), Failure>;

    /// What was made for a lease beside its machine and goes after it.
    fn extras_of(&self, at: At<'_>, id: &LeaseId) -> Result<Vec<Extra>, Failure>;

    /// Deletes it.
    fn delete_extra(&self, at: At<'_>, extra: &Extra) -> Result<(), Failure>;

    /// Looks at what would be wrong for every machine, before anything is made.
    fn precheck(&self, order: &Order<'_>) -> Result<(), Failure>;

    /// Where to look for room, in order.
    fn tour<'a>(&'a self, _order: &Order<'_>) -> Vec<&'a str> {
        self.places(&[])
    }

    /// Makes one place ready for machines of an order.
    fn site<'a>(&'a self, order: &'a Order<'a>, place: &'a str) -> Result<impl Site + 'a, Failure>;

    /// Machine types that could probably be had and were not tried, the largest first.
    fn others(&self, order: &Order<'_>, tried: &[&str]) -> Result<Vec<String>, Failure>;

    /// Refuses what a machine cannot be.
    fn check(&self, request: &BoxRequest) -> Result<(), Failure> {
        let target = if request.target.is_empty() { "linux" } else { &request.target };
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
    /// `spot` or `on-demand`.
    pub market: Option<&'static str>,
}

impl Candidate {
    /// Whether no limit was told of the same machine here. A limit of the account is the same wherever a machine stands.
    pub fn is_within_limits(&self, misses: &[Miss]) -> bool {
        let same = |one: &Self| (&one.machine, one.market) == (&self.machine, self.market);
        !misses.iter().any(|(one, why)| why.kind() == ErrorKind::Quota && same(one))
    }
}

/// A candidate that could not be had, and why.
pub type Miss = (Candidate, Failure);
