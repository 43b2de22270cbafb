//! Making a machine: candidate after candidate, and nothing left behind when none can be had.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::machine::{Reached, planned, short};
use super::remove::{remove, remove_extras};
use super::{
    At, Candidate, Cloud, Extra, Look, Machine, Market, Miss, Phase, Site, is_of, key_name,
};
use crate::label::own_labels;
use crate::{
    AcquireParams, Attempt, Bootstrap, Call, ErrorKind, Failure, Lease, LeaseId, Outcome, Progress,
    ReleaseOutcome,
};

/// Between two looks at a machine that starts, and how many there are: ten minutes together. What was just made may not
/// be known everywhere at first.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 1200;
const UNKNOWN: usize = 40;
/// Looks for something whose answer was lost, and the pause before each.
const SEARCHES: usize = 3;
const SEARCH: Duration = Duration::from_secs(1);
/// Most other machine types that are suggested.
const SUGGESTIONS: usize = 8;
/// How often one candidate is asked for while nobody knows what became of it.
const TRIES: usize = 2;

/// One acquire.
#[derive(Debug)]
pub struct Order<'a> {
    /// The call.
    pub call: &'a Call,
    /// What is wanted.
    pub params: &'a AcquireParams,
    /// How a machine becomes a box.
    pub bootstrap: &'a Bootstrap,
    provider: &'static str,
}

/// Makes a machine, or gives back the one that an earlier attempt with the same id made.
pub(super) fn acquire<C: Cloud>(
    cloud: &C,
    call: &Call,
    params: AcquireParams,
) -> Result<Lease, Failure> {
    cloud.check(&params.request)?;
    let bootstrap = params.bootstrap.as_ref().ok_or_else(|| {
        let what = format!("this crabbox does not say how a {} becomes a box", C::MACHINE);
        Failure::unsupported(what).hint("use a newer crabbox")
    })?;
    let order = Order { call, params: &params, bootstrap, provider: C::NAME };
    if call.dry_run() {
        let classes = C::classes(&params.request);
        let machines = classes.machines(&params.request);
        let machine = machines.first().copied().unwrap_or_default();
        return Ok(planned(&params, machine, order.labels([("server_type", machine)])));
    }
    let not_started = |failure: Failure| failure.outcome(Outcome::NotStarted);
    call.check().map_err(not_started)?;
    let walk = Walk { cloud, order: &order };
    let made = match walk.earlier().map_err(not_started)? {
        Some(found) => call.record(&found.resource(C::MACHINE)).map(|()| found),
        None => {
            let tour = cloud.tour(&order);
            walk.check_type(&tour).map_err(not_started)?;
            let first = tour.first().copied().unwrap_or_default();
            let look = cloud.look(&order, first).map_err(not_started)?;
            walk.through(look, &tour)
        }
    };
    made.and_then(|machine| walk.wait(machine)).map_err(|failure| walk.roll_back(failure))
}

impl Order<'_> {
    /// The lease it is for.
    pub fn lease_id(&self) -> &LeaseId {
        &self.params.desired.lease_id
    }

    /// The labels of everything that is made for it: what the kernel wants, what we search by, and these.
    pub fn labels<'l>(
        &self,
        more: impl IntoIterator<Item = (&'l str, &'l str)>,
    ) -> BTreeMap<String, String> {
        let mut labels = own_labels(self.params, self.provider);
        labels.extend(
            more.into_iter().map(|(name, value)| (name.to_owned(), crate::label_value(value))),
        );
        labels
    }

    /// The lease's key at a place: the one that is there already, else a new one.
    pub fn key(
        &self,
        look: impl Fn(&str) -> Result<Option<Extra>, Failure>,
        add: impl FnOnce(&str) -> Result<Extra, Failure>,
    ) -> Result<Extra, Failure> {
        let name = key_name(self.lease_id());
        let key = match look(&name)? {
            Some(known) => known,
            None => match add(&name) {
                Err(failure) if failure.is_lost() || failure.kind() == ErrorKind::Conflict => {
                    self.search(|| look(&name))?.ok_or(failure)?
                }
                added => added?,
            },
        };
        if !is_of(&key.labels, self.lease_id()) {
            return Err(Failure::conflict(format!("{name} is the key of something else")));
        }
        self.call.record(&key.resource)?;
        Ok(key)
    }

    /// Looks a few times for what may have been made although nobody heard of it.
    pub fn search<T>(
        &self,
        look: impl Fn() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let mut last = Ok(None);
        for _ in 0..SEARCHES {
            self.call.sleep(SEARCH)?;
            last = look();
            match &last {
                Ok(None) => {}
                Err(failure) if failure.is_lost() => {}
                _ => return last,
            }
        }
        last
    }
}

/// The way through everything that may be asked for.
struct Walk<'a, C> {
    cloud: &'a C,
    order: &'a Order<'a>,
}

impl<C: Cloud> Walk<'_, C> {
    fn at<'a>(&'a self, place: &'a str) -> At<'a> {
        At { call: self.order.call, place }
    }

    /// What an earlier attempt made. Where that never will run it is removed, and another one can be made.
    fn earlier(&self) -> Result<Option<Machine>, Failure> {
        for place in self.cloud.places(&[]) {
            match self.earlier_at(place)? {
                Some(found) if found.phase == Phase::Failed => {
                    remove(self.cloud, self.order.call, self.order.lease_id(), &[place])?;
                }
                None => {}
                found => return Ok(found),
            }
        }
        Ok(None)
    }

    fn earlier_at(&self, place: &str) -> Result<Option<Machine>, Failure> {
        let id = self.order.lease_id();
        let found = self.cloud.machines_of(self.at(place), id)?;
        Ok(found.into_iter().find(|machine| machine.is_of(id)))
    }

    /// Refuses a machine type that no place has. Those of classes are tried: some are in few places.
    fn check_type(&self, tour: &[&str]) -> Result<(), Failure> {
        let request = &self.order.params.request;
        let classes = C::classes(request);
        if classes.is_class(request) {
            return Ok(());
        }
        let machine = classes.machines(request).first().copied().unwrap_or_default();
        for place in tour {
            if self.cloud.has(self.at(place), machine)? {
                return Ok(());
            }
        }
        let what = match &request.machine_type {
            Some(_) => format!("there is no machine type {machine}"),
            None => format!("{machine} is neither a class nor a machine type"),
        };
        let places: Vec<_> = tour.iter().copied().filter(|place| !place.is_empty()).collect();
        let what =
            if places.is_empty() { what } else { format!("{what} in {}", places.join(", ")) };
        let mut others = self.cloud.others(self.order.call, request).unwrap_or_default();
        others.truncate(SUGGESTIONS);
        let such = others.first().map(|one| format!(", such as {one}")).unwrap_or_default();
        let hint = format!("`crabbox sizes --provider {}` lists what there is{such}", C::NAME);
        Err(Failure::new(ErrorKind::InvalidConfig, what).hint(hint).alternatives(others))
    }

    /// Tries one candidate after the other, place by place; at the first one was looked already.
    fn through(&self, first: impl Look, tour: &[&str]) -> Result<Machine, Failure> {
        let (mut misses, start) = (Vec::new(), tour.first().copied().unwrap_or_default());
        if let Some(machine) = self.here(&first.prepare()?, start, &mut misses)? {
            return Ok(machine);
        }
        for (last, next) in tour.iter().zip(tour.iter().skip(1)) {
            remove_extras(self.cloud, self.at(last), self.order.lease_id())?;
            let site = self.cloud.look(self.order, next)?.prepare()?;
            if let Some(machine) = self.here(&site, next, &mut misses)? {
                return Ok(machine);
            }
        }
        Err(self.nothing(&misses))
    }

    /// Tries the candidates of one place; what only says that another one may do is a miss.
    fn here(
        &self,
        site: &impl Site,
        place: &str,
        misses: &mut Vec<Miss>,
    ) -> Result<Option<Machine>, Failure> {
        let from = misses.len();
        for candidate in site.candidates() {
            if !site.is_worth(&candidate, &misses[from..]) {
                continue;
            }
            match self.attempt(site, &candidate, place) {
                Err(failure) if failure.is_miss() => misses.push((candidate, failure)),
                made => return made.map(Some),
            }
        }
        Ok(None)
    }

    /// Tries one candidate, and tells of it.
    fn attempt(
        &self,
        site: &impl Site,
        candidate: &Candidate,
        place: &str,
    ) -> Result<Machine, Failure> {
        let call = self.order.call;
        call.check()?;
        let made = self.make(site, candidate, place);
        if let Ok(machine) = &made {
            call.record(&machine.resource(C::MACHINE))?;
        }
        call.attempt(&Attempt {
            region: Some(&candidate.place),
            server_type: Some(&candidate.machine),
            market: candidate.market.map(Market::word),
            category: made.as_ref().err().map(Failure::kind),
            message: made.as_ref().err().map_or("made", Failure::message),
        });
        made
    }

    /// Makes one machine. Asking again after a lost answer makes no second one.
    fn make(
        &self,
        site: &impl Site,
        candidate: &Candidate,
        place: &str,
    ) -> Result<Machine, Failure> {
        let mut last = Failure::internal("no machine was asked for");
        for _ in 0..TRIES {
            last = match site.make(candidate) {
                Ok(machine) => return Ok(machine),
                Err(failure) => failure,
            };
            let taken = last.kind() == ErrorKind::Conflict;
            if !taken && !last.is_lost() {
                break;
            }
            if let Some(machine) = self.order.search(|| self.earlier_at(place))? {
                return Ok(machine);
            }
            if taken {
                break;
            }
            self.order.call.check()?;
        }
        Err(last)
    }

    /// Waits until the machine has an address; from there on the kernel knocks.
    fn wait(&self, mut machine: Machine) -> Result<Lease, Failure> {
        let (call, id) = (self.order.call, machine.id.clone());
        let what = format!("{} {}", C::MACHINE, short(&id));
        let message = format!("{what} in {}", machine.place);
        let message = Some(if machine.place.is_empty() { &*what } else { &*message });
        call.progress(&Progress { phase: "starting", message, ..Progress::default() });
        let mut unknown = 0;
        for _ in 0..LOOKS {
            if !machine.is_up() {
                let state = &machine.state;
                return Err(Failure::bootstrap(format!("{what} is {state} before it ever ran")));
            }
            if machine.host.is_some() {
                return machine.leased(&Reached::Made(self.order.bootstrap));
            }
            call.check()?;
            call.sleep(LOOK)?;
            match self.cloud.machine(self.at(&machine.place), &id) {
                Ok(Some((now, _))) => machine = now,
                Ok(None) if unknown < UNKNOWN => unknown += 1,
                Ok(None) => {
                    return Err(Failure::bootstrap(format!("{what} is gone again{}", C::GONE)));
                }
                Err(failure) if failure.is_lost() || failure.kind() == ErrorKind::RateLimited => {}
                Err(failure) => return Err(failure),
            }
        }
        let state = &machine.state;
        Err(Failure::bootstrap(format!("{what} got no address in ten minutes; it is {state}")))
    }

    /// Every candidate was tried: what was said of each, and what could be had instead.
    fn nothing(&self, misses: &[Miss]) -> Failure {
        let quota = misses.iter().all(|(_, why)| why.kind() == ErrorKind::Quota);
        let what = match misses {
            [(one, _)] => format!("{} cannot be had in {}", one.machine, one.place),
            all => {
                let request = &self.order.params.request;
                let wanted = request.machine_type.as_ref().unwrap_or(&request.class);
                format!("{wanted} cannot be had: {} tries", all.len())
            }
        };
        let failure = if quota { Failure::quota(what) } else { Failure::capacity(what) };
        let failure = misses.iter().fold(failure, |failure, (candidate, why)| {
            let Candidate { machine, place, market } = candidate;
            let market = market.map(|market| format!(" {}", market.word())).unwrap_or_default();
            let line = format!("{machine}{market} in {place}: {}: {why}", why.kind().word());
            failure.because(&io::Error::other(line))
        });
        let is_new = |machine: &String| misses.iter().all(|(one, _)| one.machine != *machine);
        let others = self
            .cloud
            .others(self.order.call, &self.order.params.request)
            .unwrap_or_default()
            .into_iter();
        let others: Vec<_> = others.filter(is_new).take(SUGGESTIONS).collect();
        // Of a limit of the account the service's own advice is the better one.
        let limit = misses.iter().filter(|_| quota).find_map(|(_, why)| why.data().hint.clone());
        let hint = limit.unwrap_or_else(|| match others.first() {
            Some(first) => format!("try --type {first}, or {}", C::ELSEWHERE),
            None => format!("try another --class, or {}", C::ELSEWHERE),
        });
        failure.hint(hint).alternatives(others)
    }

    /// Removes what a failed acquire made; only then it says so.
    fn roll_back(&self, failure: Failure) -> Failure {
        let (order, places) = (self.order, self.cloud.places(&[]));
        match remove(self.cloud, order.call, order.lease_id(), &places) {
            Ok(ReleaseOutcome::Released | ReleaseOutcome::AlreadyGone) => {
                failure.outcome(Outcome::RolledBack)
            }
            _ => failure.outcome(Outcome::Uncertain),
        }
    }
}
