//! What is asked for in a location, and the requests that make a machine and what it needs.

use std::cell::RefCell;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_plugin_sdk::cloud::{self, Candidate, Machine, Market, Order, Site};
use crabbox_plugin_sdk::{Failure, Progress};
use serde_json::{Value, json};

use crate::Azure;
use crate::api::{Api, Thing};
use crate::catalog::Size;
use crate::machine::{ADDRESS, INTERFACE, Kind, MACHINE, as_tags};
use crate::site::{self, Network, Seen};
use crate::system::System;

/// A location with its network, what it has, and what the lease has there already.
pub(crate) struct Location<'a> {
    azure: &'a Azure,
    api: Api<'a>,
    order: &'a Order<'a>,
    system: System,
    network: Network<'a>,
    sizes: Option<Arc<[Size]>>,
    /// The id of its interface, and its address.
    door: RefCell<Option<(String, Thing)>>,
}

impl<'a> Location<'a> {
    pub(crate) fn prepare(
        azure: &'a Azure,
        api: Api<'a>,
        order: &'a Order<'a>,
        seen: Seen<'a>,
    ) -> Result<Self, Failure> {
        let sizes = azure.known.at(&api, seen.location);
        let network = seen.prepare(&api, &order.bootstrap.ports)?;
        let system = System::of(&order.params.request);
        Ok(Self { azure, api, order, system, network, sizes, door: RefCell::default() })
    }

    fn id(&self, kind: Kind) -> String {
        kind.id(&self.azure.group, &self.order.params.desired.name)
    }

    /// What is known of a candidate's size; why it is not even asked for.
    fn size(&self, candidate: &Candidate) -> Result<Option<&Size>, Failure> {
        let Some(sizes) = &self.sizes else { return Ok(None) };
        let Candidate { machine, place, market } = candidate;
        match sizes.iter().find(|size| size.is(machine)) {
            None => Err(Failure::capacity(format!("{place} has no size {machine}"))),
            Some(Size { blocked: Some(why), .. }) => Err(Failure::capacity(format!(
                "{machine} is not offered to this subscription in {place} ({why})"
            ))),
            Some(size) if *market == Some(Market::Spot) && !size.spot => {
                Err(Failure::capacity(format!("{machine} cannot be had as spot")))
            }
            known => Ok(known),
        }
    }

    /// Makes a thing of the lease, which is on record before it is asked for. Its name comes from the lease, so that the
    /// same twice is the same once.
    fn put(&self, kind: Kind, more: &[(&str, &str)], mut body: Value) -> Result<Thing, Failure> {
        let (id, location) = (self.id(kind), self.network.location);
        self.order.call.record(&kind.resource(&id, location))?;
        body["location"] = json!(location);
        body["tags"] = json!(as_tags(&self.order.labels(more.iter().copied())));
        self.api.put(&id, &body)
    }

    /// The address and the interface of the lease, which must do for every size that may be tried.
    fn door(&self) -> Result<(String, Thing), Failure> {
        if let Some(door) = &*self.door.borrow() {
            return Ok(door.clone());
        }
        let wanted = self.system.classes().machines(&self.order.params.request);
        let is_wanted = |size: &&Size| wanted.iter().any(|machine| size.is(machine));
        let mut there = self.sizes.iter().flat_map(|all| all.iter()).filter(is_wanted).peekable();
        let fast = there.peek().is_some() && there.all(|size| size.fast_net);
        let address = json!({"sku": {"name": "Standard"}, "properties": {
            "publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4", "deleteOption": "Delete",
        }});
        let address = self.put(ADDRESS, &[], address)?;
        let public = json!({"id": address.id, "properties": {"deleteOption": "Delete"}});
        let interface = json!({"properties": {
            "networkSecurityGroup": {"id": self.network.guard}, "enableAcceleratedNetworking": fast,
            "ipConfigurations": [{"name": "box", "properties": {
                "subnet": {"id": self.network.subnet}, "privateIPAllocationMethod": "Dynamic",
                "publicIPAddress": public,
            }}],
        }});
        let interface = self.put(INTERFACE, &[], interface)?.id;
        if address.host().is_empty() {
            return Err(Failure::bootstrap(format!("{} got no address", address.name)));
        }
        Ok(self.door.borrow_mut().insert((interface, address)).clone())
    }

    /// One that was accepted first and had no room then is still there, and everything else with it goes.
    fn clear(&self) -> Result<(), Failure> {
        let (id, call, group) = (self.id(MACHINE), self.order.call, &*self.azure.group);
        if self.api.get::<Thing>(&id)?.is_none() {
            return call.forget(&MACHINE.resource(&id, self.network.location));
        }
        self.door.take();
        cloud::remove(self.azure, call, self.order.lease_id(), &[group]).map(drop)
    }

    fn disk(&self, size: Option<&Size>) -> Value {
        let name = format!("{}-osdisk", self.order.params.desired.name);
        let mut disk = json!({"name": name, "createOption": "FromImage", "deleteOption": "Delete"});
        match (self.api.settings.os_disk_gb, size.and_then(|size| size.local.as_deref())) {
            (None, Some(place)) => {
                disk["caching"] = json!("ReadOnly");
                disk["diffDiskSettings"] = json!({"option": "Local"});
                if !place.is_empty() {
                    disk["diffDiskSettings"]["placement"] = json!(place);
                }
            }
            (wanted, _) => {
                disk["caching"] = json!("ReadWrite");
                disk["managedDisk"] = json!({"storageAccountType": "StandardSSD_LRS"});
                if let Some(wanted) = wanted {
                    disk["diskSizeGB"] = json!(wanted);
                }
            }
        }
        disk
    }

    /// Has the first script run where the image does not do so itself, and waits until it is done.
    fn start(&self, machine: &Thing, more: &[(&str, &str)]) -> Result<(), Failure> {
        let Some(properties) = self.system.starter() else { return Ok(()) };
        let message = Some(machine.name.as_str());
        self.order.call.progress(&Progress { phase: "setting-up", message, ..Progress::default() });
        let tags = as_tags(&self.order.labels(more.iter().copied()));
        let body = json!({"location": machine.location, "tags": tags, "properties": properties});
        let asked = self.api.put(&format!("{}/extensions/crabbox-bootstrap", machine.id), &body);
        asked.map(drop).map_err(|failure| match failure.is_lost() || failure.is_miss() {
            // The machine is there, so asking for one again, or for another one, does not help.
            true => {
                Failure::bootstrap(format!("{} was not set up", machine.name)).because(&failure)
            }
            false => failure,
        })
    }

    fn body(&self, interface: &str, candidate: &Candidate, size: Option<&Size>) -> Value {
        let mut login = self.system.login(self.order.params);
        login["customData"] = json!(STANDARD.encode(&self.order.bootstrap.user_data));
        let image = site::reference(self.api.settings.image(self.system));
        let mut properties = json!({
            "hardwareProfile": {"vmSize": candidate.machine},
            "storageProfile": {"imageReference": image, "osDisk": self.disk(size)},
            "osProfile": login,
            "networkProfile": {"networkInterfaces": [
                {"id": interface, "properties": {"primary": true, "deleteOption": "Delete"}},
            ]},
        });
        if size.is_some_and(|size| size.only_nvme) {
            properties["storageProfile"]["diskControllerType"] = json!("NVMe");
        }
        if candidate.market == Some(Market::Spot) {
            properties["priority"] = json!("Spot");
            properties["evictionPolicy"] = json!("Delete");
            properties["billingProfile"] = json!({"maxPrice": -1});
        }
        json!({ "properties": properties })
    }
}

impl Site for Location<'_> {
    fn candidates(&self) -> Vec<Candidate> {
        let request = &self.order.params.request;
        let markets = Market::order_of(request, &self.api.settings.fallback).iter();
        let markets: Vec<_> = markets.copied().map(Some).collect();
        Candidate::all(&markets, &self.system.classes().machines(request), &[self.network.location])
    }

    fn make(&self, candidate: &Candidate) -> Result<Machine, Failure> {
        let size = self.size(candidate)?;
        let (interface, address) = self.door()?;
        let message = format!("{} in {}", candidate.machine, candidate.place);
        let message = Some(message.as_str());
        self.order.call.progress(&Progress { phase: "starting", message, ..Progress::default() });
        let market = candidate.market.map_or("", Market::word);
        let more = [("server_type", &*candidate.machine), ("market", market)];
        let made = self.put(MACHINE, &more, self.body(&interface, candidate, size));
        match made {
            Err(failure) if failure.is_miss() => self.clear().and(Err(failure)),
            made => {
                let made = made?;
                self.start(&made, &more)?;
                Ok(made.machine(Some(&address)))
            }
        }
    }
}
