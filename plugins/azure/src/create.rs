//! Making a machine: candidate after candidate, and nothing left behind when none can be had.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_plugin_sdk::cloud::Reached;
use crabbox_plugin_sdk::{
    AcquireParams, Attempt, Bootstrap, ErrorKind, Failure, Lease, Outcome, Progress, ReleaseOutcome,
};
use serde_json::{Value, json};

use crate::api::{Api, Thing, is_same};
use crate::catalog::{self, Size};
use crate::config::{Market, machines};
use crate::machine::{Kind, tags};
use crate::site::{self, Look, Site};

/// Who Azure thinks will log in; the box has a user of its own instead.
const ADMIN: &str = "crabadmin";

/// One acquire.
pub(crate) struct Order<'a> {
    pub(crate) api: Api<'a>,
    pub(crate) params: &'a AcquireParams,
    pub(crate) bootstrap: &'a Bootstrap,
}

/// A size, how it is paid for, and where.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    machine: &'a str,
    market: Market,
    location: &'a str,
}

/// Where candidates are tried, what it has, and what the lease has there already.
struct Spot<'a> {
    site: Site<'a>,
    sizes: Option<Vec<Size>>,
    /// The id of the interface, and its address.
    door: Option<(String, String)>,
}

type Misses<'a> = Vec<(Candidate<'a>, Failure)>;

impl Order<'_> {
    /// Makes a machine, or gives back the one an earlier attempt with the same id made.
    pub(crate) fn fill(&self) -> Result<Lease, Failure> {
        let not_started = |failure: Failure| failure.outcome(Outcome::NotStarted);
        self.api.call.check().map_err(not_started)?;
        let made = match self.earlier().map_err(not_started)? {
            Some(found) => Ok(found),
            None => {
                let home = &self.api.settings.location;
                let look = site::look(&self.api, home).map_err(not_started)?;
                self.walk(look)
            }
        };
        made.map_err(|failure| self.roll_back(failure))
    }

    fn group(&self) -> String {
        self.api.settings.group()
    }

    fn id(&self, kind: Kind) -> String {
        kind.id(&self.group(), &self.params.desired.name)
    }

    /// What an earlier attempt left: a machine that is fine is taken, anything else is removed.
    fn earlier(&self) -> Result<Option<Lease>, Failure> {
        let (id, group) = (&self.params.desired.lease_id, self.group());
        let all = self.api.ours(&group, Kind::Machine)?;
        let Some(one) = all.into_iter().find(|one| one.is_of(id)) else { return Ok(None) };
        self.api.call.record(&Kind::Machine.resource(&one.id))?;
        match self.api.settled(&one.id)? {
            Some(machine) if machine.is_up() => {
                let host = self.api.address_of(&machine)?;
                Ok(machine.lease(&Reached::Made(self.bootstrap), Some(&host)))
            }
            _ => self.api.remove(&group, id).map(|_| None),
        }
    }

    /// Tries one candidate after the other, location by location, and tells of each.
    fn walk(&self, first: Look<'_>) -> Result<Lease, Failure> {
        let (mut misses, mut first) = (Misses::new(), Some(first));
        for location in self.api.settings.locations() {
            let look = match first.take() {
                Some(look) => look,
                None => site::look(&self.api, location)?,
            };
            let sizes = catalog::known(&self.api, location);
            let site = look.prepare(&self.api, &self.bootstrap.ports)?;
            let mut spot = Spot { site, sizes, door: None };
            if let Some(lease) = self.walk_in(&mut spot, location, &mut misses)? {
                return Ok(lease);
            }
            self.api.remove(&self.group(), &self.params.desired.lease_id)?;
        }
        Err(self.nothing(&misses))
    }

    fn walk_in<'a>(
        &'a self,
        spot: &mut Spot<'_>,
        location: &'a str,
        misses: &mut Misses<'a>,
    ) -> Result<Option<Lease>, Failure> {
        let request = &self.params.request;
        for &market in self.api.settings.markets(request) {
            for machine in machines(request) {
                let candidate = Candidate { machine, market, location };
                if let Some(lease) = self.attempt(spot, candidate, misses)? {
                    return Ok(Some(lease));
                }
            }
        }
        Ok(None)
    }

    /// Tries one candidate; what only says that another one may do is a miss.
    fn attempt<'a>(
        &self,
        spot: &mut Spot<'_>,
        candidate: Candidate<'a>,
        misses: &mut Misses<'a>,
    ) -> Result<Option<Lease>, Failure> {
        self.api.call.check()?;
        let asked = match spot.size(candidate) {
            Ok(size) => self.create(spot, candidate, size.cloned().as_ref()),
            Err(failure) => Err(failure),
        };
        let failure = match asked {
            Ok(lease) => {
                self.tell(candidate, None, "made");
                return Ok(Some(lease));
            }
            Err(failure) => failure,
        };
        self.tell(candidate, Some(failure.kind()), failure.message());
        if !matches!(failure.kind(), ErrorKind::Capacity | ErrorKind::Quota) {
            return Err(failure);
        }
        // One that was accepted first and had no room then is still there, and everything else with it goes.
        if spot.door.is_some() && self.api.get::<Thing>(&self.id(Kind::Machine))?.is_some() {
            self.api.remove(&self.group(), &self.params.desired.lease_id)?;
            spot.door = None;
        }
        misses.push((candidate, failure));
        Ok(None)
    }

    fn tell(&self, candidate: Candidate<'_>, category: Option<ErrorKind>, message: &str) {
        self.api.call.attempt(&Attempt {
            region: Some(candidate.location),
            server_type: Some(candidate.machine),
            market: Some(candidate.market.word()),
            category,
            message,
        });
    }

    /// Makes one machine with what it needs. Every name comes from the lease, so that the same twice is the same once;
    /// and each is on record before it is asked for.
    fn create(
        &self,
        spot: &mut Spot<'_>,
        candidate: Candidate<'_>,
        size: Option<&Size>,
    ) -> Result<Lease, Failure> {
        let (interface, host) = match &spot.door {
            Some(door) => door.clone(),
            None => spot.door.insert(self.door(spot)?).clone(),
        };
        let id = self.id(Kind::Machine);
        self.record(Kind::Machine)?;
        let message = format!("{} in {}", candidate.machine, candidate.location);
        let message = Some(message.as_str());
        self.api.call.progress(&Progress { phase: "starting", message, ..Progress::default() });
        let machine = self.api.put(&id, &self.body(&interface, candidate, size))?;
        machine.lease(&Reached::Made(self.bootstrap), Some(&host)).ok_or_else(|| {
            Failure::conflict(format!("{} is not the machine of this lease", machine.name))
        })
    }

    fn record(&self, kind: Kind) -> Result<(), Failure> {
        self.api.call.record(&kind.resource(&self.id(kind)))
    }

    /// The address and the interface of a lease, which must do for every size that may be tried.
    fn door(&self, Spot { site, sizes, .. }: &Spot<'_>) -> Result<(String, String), Failure> {
        let wanted = machines(&self.params.request);
        let is_wanted = |size: &&Size| wanted.iter().any(|machine| is_same(&size.name, machine));
        let mut there = sizes.iter().flatten().filter(is_wanted).peekable();
        let fast = there.peek().is_some() && there.all(|size| size.fast_net);
        let tags = tags(self.params, None, None);
        let make = |kind: Kind, body: Value| {
            self.record(kind)?;
            let all = json!({"location": site.location, "tags": tags});
            self.api.put(&self.id(kind), &merged(all, body))
        };
        let address = make(
            Kind::Address,
            json!({"sku": {"name": "Standard"}, "properties": {
                "publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4", "deleteOption": "Delete",
            }}),
        )?;
        let public = json!({"id": address.id, "properties": {"deleteOption": "Delete"}});
        let interface = make(
            Kind::Interface,
            json!({"properties": {
                "networkSecurityGroup": {"id": site.guard}, "enableAcceleratedNetworking": fast,
                "ipConfigurations": [{"name": "box", "properties": {
                    "subnet": {"id": site.subnet}, "privateIPAllocationMethod": "Dynamic",
                    "publicIPAddress": public,
                }}],
            }}),
        )?;
        let host = address.host().to_owned();
        if host.is_empty() {
            return Err(Failure::bootstrap(format!("{} got no address", address.name)));
        }
        Ok((interface.id, host))
    }

    fn body(&self, interface: &str, candidate: Candidate<'_>, size: Option<&Size>) -> Value {
        let (settings, name) = (self.api.settings, &self.params.desired.name);
        let disk = json!({
            "name": format!("{name}-osdisk"), "createOption": "FromImage", "deleteOption": "Delete",
        });
        let local =
            size.and_then(|size| size.local.as_deref()).filter(|_| settings.os_disk_gb.is_none());
        let disk = match local {
            Some(place) => {
                let mut how = json!({"option": "Local"});
                if !place.is_empty() {
                    how["placement"] = json!(place);
                }
                merged(disk, json!({"diffDiskSettings": how, "caching": "ReadOnly"}))
            }
            None => {
                let rented = json!({"storageAccountType": "StandardSSD_LRS"});
                let disk = merged(disk, json!({"managedDisk": rented, "caching": "ReadWrite"}));
                match settings.os_disk_gb {
                    Some(size) => merged(disk, json!({ "diskSizeGB": size })),
                    None => disk,
                }
            }
        };
        let key = json!({
            "path": format!("/home/{ADMIN}/.ssh/authorized_keys"), "keyData": self.params.ssh_public_key,
        });
        let login = json!({"disablePasswordAuthentication": true, "ssh": {"publicKeys": [key]}});
        let mut storage =
            json!({"imageReference": site::reference(&settings.image), "osDisk": disk});
        if size.is_some_and(|size| size.only_nvme) {
            storage["diskControllerType"] = json!("NVMe");
        }
        let properties = json!({
            "hardwareProfile": {"vmSize": candidate.machine},
            "storageProfile": storage,
            "osProfile": {
                "computerName": name, "adminUsername": ADMIN, "linuxConfiguration": login,
                "customData": STANDARD.encode(&self.bootstrap.user_data),
            },
            "networkProfile": {"networkInterfaces": [
                {"id": interface, "properties": {"primary": true, "deleteOption": "Delete"}},
            ]},
        });
        let properties = match candidate.market {
            Market::OnDemand => properties,
            Market::Spot => merged(
                properties,
                json!({"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}),
            ),
        };
        let tags = tags(self.params, Some(candidate.machine), Some(candidate.market));
        json!({"location": candidate.location, "tags": tags, "properties": properties})
    }

    /// Every candidate was tried: what was said of each, and what could be had instead.
    fn nothing(&self, misses: &Misses<'_>) -> Failure {
        let quota = misses.iter().all(|(_, failure)| failure.kind() == ErrorKind::Quota);
        let what = match misses.as_slice() {
            [(one, _)] => format!("{} cannot be had in {}", one.machine, one.location),
            all => {
                let request = &self.params.request;
                let wanted = request.machine_type.as_ref().unwrap_or(&request.class);
                format!("{wanted} cannot be had: {} tries", all.len())
            }
        };
        let failure = if quota { Failure::quota(what) } else { Failure::capacity(what) };
        let failure = misses.iter().fold(failure, |failure, (candidate, why)| {
            let Candidate { machine, market, location } = candidate;
            let (market, kind) = (market.word(), why.kind().word());
            failure.because(&io::Error::other(format!(
                "{machine} {market} in {location}: {kind}: {why}"
            )))
        });
        let tried: Vec<&str> = misses.iter().map(|(candidate, _)| candidate.machine).collect();
        let others = catalog::others(&self.api, &tried);
        let hint = match others.first() {
            Some(first) => format!("try --type {first}, or more of capacity.regions"),
            None => "try another --class, or more of capacity.regions".to_owned(),
        };
        failure.hint(hint).alternatives(others)
    }

    /// Removes what a failed acquire made; only when it is gone it says so.
    fn roll_back(&self, failure: Failure) -> Failure {
        match self.api.remove(&self.group(), &self.params.desired.lease_id) {
            Ok(ReleaseOutcome::Released | ReleaseOutcome::AlreadyGone) => {
                for kind in Kind::ALL {
                    let _ = self.api.call.forget(&kind.resource(&self.id(kind)));
                }
                failure.outcome(Outcome::RolledBack)
            }
            _ => failure.outcome(Outcome::Uncertain),
        }
    }
}

impl Spot<'_> {
    /// What is known of a candidate's size; why it is not even asked for.
    fn size(&self, candidate: Candidate<'_>) -> Result<Option<&Size>, Failure> {
        let Some(sizes) = &self.sizes else { return Ok(None) };
        let Candidate { machine, location, market } = candidate;
        let known = sizes.iter().find(|size| is_same(&size.name, machine));
        match known {
            None => Err(Failure::capacity(format!("{location} has no size {machine}"))),
            Some(Size { blocked: Some(why), .. }) => Err(Failure::capacity(format!(
                "{machine} is not offered to this subscription in {location} ({why})"
            ))),
            Some(size) if market == Market::Spot && !size.spot => {
                Err(Failure::capacity(format!("{machine} cannot be had as spot")))
            }
            known => Ok(known),
        }
    }
}

/// One object with the members of both.
fn merged(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}
