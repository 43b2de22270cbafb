//! Making an instance: candidate after candidate, and nothing left behind when none can be had.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_plugin_sdk::{
    AcquireParams, Attempt, Bootstrap, Call, ErrorKind, Failure, Lease, Outcome, Progress,
};

use crate::Aws;
use crate::api::{Api, Query, is, is_lost};
use crate::catalog;
use crate::config::{self, Market, SMALL, machines, vcpus};
use crate::instance::{Instance, KeyPair, Made, Reached, key_name, tags};
use crate::site::{self, Image};

/// Between two looks at an instance that starts, and how many there are: ten minutes together.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS: usize = 600;
/// Looks for something whose answer was lost, and the pause before each.
const SEARCHES: usize = 3;
const SEARCH: Duration = Duration::from_secs(1);

/// Longest name of a request.
const TOKEN: usize = 64;

/// One acquire.
pub(crate) struct Order<'a> {
    pub(crate) aws: &'a Aws,
    pub(crate) call: &'a Call,
    pub(crate) params: &'a AcquireParams,
    pub(crate) bootstrap: &'a Bootstrap,
}

/// An instance type, how it is paid for, and where.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    machine: &'a str,
    market: Market,
    region: &'a str,
    zone: Option<&'a str>,
}

/// What everything in a region is made with.
struct Site<'a> {
    api: Api<'a>,
    image: Image,
    group: String,
    key: KeyPair,
}

type Misses<'a> = Vec<(Candidate<'a>, Failure)>;

impl Order<'_> {
    /// Makes an instance, or gives back the one an earlier attempt with the same id made.
    pub(crate) fn fill(&self) -> Result<Lease, Failure> {
        let not_started = |failure: Failure| failure.outcome(Outcome::NotStarted);
        self.call.check().map_err(not_started)?;
        let made = match self.earlier().map_err(not_started)? {
            Some(found) => Ok(found),
            None => {
                // A wrong image is found before anything is made.
                site::image(&self.api(&self.aws.settings.region), &self.aws.settings)
                    .map_err(not_started)?;
                self.walk()
            }
        };
        made.and_then(|(instance, region)| self.wait(instance, region))
            .map_err(|failure| self.roll_back(failure))
    }

    fn api<'a>(&'a self, region: &'a str) -> Api<'a> {
        self.aws.api(self.call, region)
    }

    fn earlier(&self) -> Result<Option<(Instance, &str)>, Failure> {
        for region in self.aws.settings.regions() {
            let found = self.earlier_in(region)?;
            if let Some(instance) = found {
                self.call.record(&instance.resource(region))?;
                return Ok(Some((instance, region)));
            }
        }
        Ok(None)
    }

    fn earlier_in(&self, region: &str) -> Result<Option<Instance>, Failure> {
        let found = self.api(region).instances_of(&self.params.desired.lease_id)?;
        Ok(found.into_iter().next())
    }

    /// Tries one candidate after the other, region by region, and tells of each.
    fn walk(&self) -> Result<(Instance, &str), Failure> {
        let mut misses = Misses::new();
        for region in self.regions() {
            let site = self.prepare(region)?;
            if let Some(instance) = self.walk_in(&site, region, &mut misses)? {
                return Ok((instance, region));
            }
            crate::drop_key(&site.api, &self.params.desired.lease_id)?;
        }
        Err(self.nothing(&misses))
    }

    /// Where to look for room, in order.
    fn regions(&self) -> Vec<&str> {
        let settings = &self.aws.settings;
        let all = settings.regions();
        if settings.is_bound() {
            return vec![&settings.region];
        }
        let request = &self.params.request;
        let spot = settings.markets(request).contains(&Market::Spot);
        if all.len() < 2 || !spot {
            return all;
        }
        site::likeliest_first(&self.api(&settings.region), all, &machines(request))
    }

    fn prepare<'a>(&'a self, region: &'a str) -> Result<Site<'a>, Failure> {
        let api = self.api(region);
        let settings = &self.aws.settings;
        let image = site::image(&api, settings)?;
        let group = site::group(&api, settings, &self.bootstrap.ports)?;
        let key = self.key(&api)?;
        Ok(Site { api, image, group, key })
    }

    /// The lease's key in a region: the one that is there already, else a new one.
    fn key(&self, api: &Api<'_>) -> Result<KeyPair, Failure> {
        let id = &self.params.desired.lease_id;
        let name = key_name(id);
        let known = api.key(&name)?;
        if known.is_none() {
            let query = Query::new("ImportKeyPair")
                .with("KeyName", &name)
                .with("PublicKeyMaterial", STANDARD.encode(&self.params.ssh_public_key))
                .tags(&["key-pair"], &tags(self.params, api.region, None));
            match api.ask::<KeyPair>(&query) {
                // A lost answer was asked for again.
                Err(failure) if !is(&failure, "InvalidKeyPair.Duplicate") => return Err(failure),
                _ => {}
            }
        }
        let found = known.map_or_else(|| api.key(&name), |known| Ok(Some(known)))?;
        match found {
            Some(key) if key.is_of(id) => {
                self.call.record(&key.resource(api.region))?;
                Ok(key)
            }
            Some(_) => Err(Failure::conflict(format!("{name} is another key in {}", api.region))),
            None => Err(Failure::transient(format!("{name} is not in {} yet", api.region))),
        }
    }

    fn walk_in<'a>(
        &'a self,
        site: &Site<'_>,
        region: &'a str,
        misses: &mut Misses<'a>,
    ) -> Result<Option<Instance>, Failure> {
        let (settings, request) = (&self.aws.settings, &self.params.request);
        for &market in settings.markets(request) {
            let limit = site::limit(&site.api, market);
            for machine in machines(request) {
                for zone in settings.zones(region) {
                    let candidate = Candidate { machine, market, region, zone };
                    if let Some(made) = self.attempt(site, candidate, limit, misses)? {
                        return Ok(Some(made));
                    }
                    // A limit of the account is the same in every zone.
                    if misses.last().is_some_and(|(_, why)| why.kind() == ErrorKind::Quota) {
                        break;
                    }
                }
            }
        }
        // An account of the free tier may have none of the classes, and says so of each.
        let policy = |(_, failure): &(_, Failure)| of_the_free_tier(failure);
        if !config::is_class(request) || !misses.iter().all(policy) {
            return Ok(None);
        }
        let candidate = Candidate { machine: SMALL, market: Market::OnDemand, region, zone: None };
        self.attempt(site, candidate, None, misses)
    }

    /// Tries one candidate; what only says that another one may do is a miss.
    fn attempt<'a>(
        &self,
        site: &Site<'_>,
        candidate: Candidate<'a>,
        limit: Option<f64>,
        misses: &mut Misses<'a>,
    ) -> Result<Option<Instance>, Failure> {
        self.call.check()?;
        let made = match too_large(candidate, limit) {
            Some(failure) => Err(failure),
            None => self.create(site, candidate),
        };
        let failure = match made {
            Ok(instance) => {
                self.call.record(&instance.resource(candidate.region))?;
                self.tell(candidate, None, "made");
                return Ok(Some(instance));
            }
            Err(failure) => failure,
        };
        self.tell(candidate, Some(failure.kind()), failure.message());
        if !matches!(failure.kind(), ErrorKind::Capacity | ErrorKind::Quota) {
            return Err(failure);
        }
        misses.push((candidate, failure));
        Ok(None)
    }

    fn tell(&self, candidate: Candidate<'_>, category: Option<ErrorKind>, message: &str) {
        let place = candidate.zone.unwrap_or(candidate.region);
        self.call.attempt(&Attempt {
            region: Some(place),
            server_type: Some(candidate.machine),
            market: Some(candidate.market.word()),
            category,
            message,
        });
    }

    /// Makes one instance. The same token means the same instance, however often it is asked for.
    fn create(&self, site: &Site<'_>, candidate: Candidate<'_>) -> Result<Instance, Failure> {
        let query = self.query(site, candidate);
        let failure = match site.api.ask::<Made>(&query) {
            Ok(made) => {
                let first = made.instances.item.into_iter().next();
                return first.ok_or_else(|| Failure::transient("RunInstances made nothing"));
            }
            Err(failure) => failure,
        };
        if !is_lost(&failure) && !is(&failure, "IdempotentParameterMismatch") {
            return Err(failure);
        }
        self.search(candidate.region)?.ok_or(failure)
    }

    fn query(&self, site: &Site<'_>, candidate: Candidate<'_>) -> Query {
        let settings = &self.aws.settings;
        let tags = tags(self.params, candidate.region, Some((candidate.machine, candidate.market)));
        let disk = "BlockDeviceMapping.1";
        let query = Query::new("RunInstances")
            .with("ClientToken", self.token(candidate))
            .with("ImageId", &site.image.image_id)
            .with("InstanceType", candidate.machine)
            .with("KeyName", &site.key.key_name)
            .with("MinCount", 1)
            .with("MaxCount", 1)
            .with("UserData", STANDARD.encode(&self.bootstrap.user_data))
            .with("InstanceInitiatedShutdownBehavior", "terminate")
            .with("MetadataOptions.HttpTokens", "required")
            .with("MetadataOptions.HttpEndpoint", "enabled")
            .with(format!("{disk}.DeviceName"), site.image.disk())
            .with(format!("{disk}.Ebs.VolumeSize"), settings.root_gb)
            .with(format!("{disk}.Ebs.VolumeType"), "gp3")
            .with(format!("{disk}.Ebs.Encrypted"), true)
            .with(format!("{disk}.Ebs.DeleteOnTermination"), true)
            .maybe("IamInstanceProfile.Name", settings.instance_profile.as_deref())
            .maybe("Placement.AvailabilityZone", candidate.zone);
        let query = match &settings.subnet_id {
            Some(subnet) => query
                .with("NetworkInterface.1.DeviceIndex", 0)
                .with("NetworkInterface.1.SubnetId", subnet)
                .with("NetworkInterface.1.SecurityGroupId.1", &site.group)
                .with("NetworkInterface.1.AssociatePublicIpAddress", true)
                .with("NetworkInterface.1.DeleteOnTermination", true),
            None => query.with("SecurityGroupId.1", &site.group),
        };
        match candidate.market {
            Market::OnDemand => query.tags(&["instance", "volume"], &tags),
            Market::Spot => query
                .with("InstanceMarketOptions.MarketType", "spot")
                .with("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time")
                .with("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate")
                .tags(&["instance", "volume", "spot-instances-request"], &tags),
        }
    }

    /// Another one for each candidate, and the same one whenever a candidate is asked for again.
    fn token(&self, candidate: Candidate<'_>) -> String {
        let Candidate { machine, region, market, zone } = candidate;
        let place = zone.unwrap_or(region);
        let token =
            format!("{}-{place}-{}-{machine}", self.params.desired.lease_id, &market.word()[..2]);
        token.chars().take(TOKEN).collect()
    }

    /// Looks a few times for what may have been made although nobody heard of it.
    fn search(&self, region: &str) -> Result<Option<Instance>, Failure> {
        let mut last = Ok(None);
        for _ in 0..SEARCHES {
            self.call.sleep(SEARCH)?;
            last = self.earlier_in(region);
            match &last {
                Ok(None) => {}
                Err(failure) if is_lost(failure) => {}
                _ => return last,
            }
        }
        last
    }

    /// Waits until the instance has an address; from there on the kernel knocks.
    fn wait(&self, mut instance: Instance, region: &str) -> Result<Lease, Failure> {
        let id = instance.instance_id.clone();
        let message = format!("instance {id} in {region}");
        let message = Some(message.as_str());
        self.call.progress(&Progress { phase: "starting", message, ..Progress::default() });
        for _ in 0..LOOKS {
            if !instance.is_up() {
                let why = &instance.state_reason.message;
                let what =
                    format!("instance {id} is {} before it ever ran: {why}", instance.state());
                return Err(Failure::bootstrap(what));
            }
            if instance.host().is_some() {
                return instance.lease(&Reached::Made(self.bootstrap), region);
            }
            self.call.check()?;
            self.call.sleep(LOOK)?;
            match self.api(region).instance(&id) {
                Ok(Some((now, _))) => instance = now,
                // What was just made is not known everywhere yet.
                Ok(None) => {}
                Err(failure) if is_lost(&failure) || failure.kind() == ErrorKind::RateLimited => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::bootstrap(format!("instance {id} got no address in ten minutes")))
    }

    /// Every candidate was tried: what was said of each, and what could be had instead.
    fn nothing(&self, misses: &Misses<'_>) -> Failure {
        let quota = misses.iter().all(|(_, failure)| failure.kind() == ErrorKind::Quota);
        let what = match misses.as_slice() {
            [(one, _)] => format!("{} cannot be had in {}", one.machine, one.region),
            all => {
                let request = &self.params.request;
                let wanted = request.machine_type.as_ref().unwrap_or(&request.class);
                format!("{wanted} cannot be had: {} tries", all.len())
            }
        };
        let failure = if quota { Failure::quota(what) } else { Failure::capacity(what) };
        let failure = misses.iter().fold(failure, |failure, (candidate, why)| {
            let Candidate { machine, market, region, zone, .. } = candidate;
            let (place, market) = (zone.unwrap_or(region), market.word());
            let line = format!("{machine} {market} in {place}: {}: {why}", why.kind().word());
            failure.because(&io::Error::other(line))
        });
        let tried: Vec<&str> = misses.iter().map(|(candidate, _)| candidate.machine).collect();
        let api = self.api(&self.aws.settings.region);
        let others = catalog::others(&api, &tried).unwrap_or_default();
        let hint = match others.first() {
            Some(first) => format!("try --type {first}, or more of capacity.regions"),
            None => "try another --class, or more of capacity.regions".to_owned(),
        };
        failure.hint(hint).alternatives(others)
    }

    /// Removes what a failed acquire made; only then it says so.
    fn roll_back(&self, failure: Failure) -> Failure {
        let id = &self.params.desired.lease_id;
        match self.aws.remove(self.call, id, &self.aws.settings.regions()) {
            Ok(_) => failure.outcome(Outcome::RolledBack),
            Err(_) => failure.outcome(Outcome::Uncertain),
        }
    }
}

/// Why a candidate is not even asked for.
fn too_large(candidate: Candidate<'_>, limit: Option<f64>) -> Option<Failure> {
    let (vcpus, limit) = (vcpus(candidate.machine)?, limit?);
    (f64::from(vcpus) > limit).then(|| {
        let market = candidate.market.word();
        Failure::quota(format!("it has {vcpus} vCPUs, and {limit} {market} ones may run"))
    })
}

fn of_the_free_tier(failure: &Failure) -> bool {
    let said = failure.message().to_lowercase();
    said.contains("free tier") || said.contains("eligible")
}
