//! What is asked for in a region, and the request that makes an instance.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_plugin_sdk::Failure;
use crabbox_plugin_sdk::cloud::{Candidate, Extra, Machine, Market, Miss, Order, Site};

use crate::api::{Api, Query};
use crate::config::{Settings, vcpus};
use crate::instance::{Made, key};
use crate::site::{self, Image, Network};
use crate::system::System;

/// Longest name of a request.
const TOKEN: usize = 64;

/// A region with everything that an instance is made with.
pub(crate) struct Region<'a> {
    api: Api<'a>,
    settings: &'a Settings,
    order: &'a Order<'a>,
    system: System,
    /// The dedicated host of a Mac.
    host: Option<&'a str>,
    image: Image,
    group: String,
    key: Extra,
    /// How to pay, and how many vCPUs may run so.
    markets: Vec<(Market, Option<f64>)>,
}

impl<'a> Region<'a> {
    pub(crate) fn prepare(
        api: Api<'a>,
        settings: &'a Settings,
        order: &'a Order<'a>,
        image: Image,
        network: &Network,
    ) -> Result<Self, Failure> {
        let system = System::of(&order.params.request);
        let host = settings.host(system)?;
        let group = network.group(&api, settings, &order.bootstrap.ports)?;
        let add = |name: &str| {
            let labels =
                order.labels([("region", api.region), ("Name", &order.params.desired.name)]);
            let query = Query::new("ImportKeyPair")
                .with("KeyName", name)
                .with("PublicKeyMaterial", STANDARD.encode(&order.params.ssh_public_key))
                .tags(&["key-pair"], &labels);
            api.tell(&query).map(|()| key(name, labels, api.region))
        };
        let key = order.key(|name| api.key(name), add)?;
        let markets = settings.markets(&order.params.request).iter();
        let markets = markets.map(|&market| (market, site::limit(&api, market))).collect();
        Ok(Self { api, settings, order, system, host, image, group, key, markets })
    }

    fn query(&self, candidate: &Candidate) -> Query {
        let settings = self.settings;
        let market = word(candidate);
        let zone = Some(&*candidate.place).filter(|zone| *zone != self.api.region);
        let tags = self.order.labels([
            ("region", self.api.region),
            ("Name", &self.order.params.desired.name),
            ("server_type", &candidate.machine),
            ("market", market),
        ]);
        let disk = "BlockDeviceMapping.1";
        let query = Query::new("RunInstances")
            .with("ClientToken", self.token(candidate))
            .with("ImageId", &self.image.image_id)
            .with("InstanceType", &candidate.machine)
            .maybe("KeyName", self.system.takes_key().then_some(&*self.key.name))
            .with("MinCount", 1)
            .with("MaxCount", 1)
            .with(
                "UserData",
                STANDARD.encode(&*self.system.user_data(&self.order.bootstrap.user_data)),
            )
            .with("InstanceInitiatedShutdownBehavior", "terminate")
            .with("MetadataOptions.HttpTokens", "required")
            .with("MetadataOptions.HttpEndpoint", "enabled")
            .with(format!("{disk}.DeviceName"), self.image.disk())
            .with(format!("{disk}.Ebs.VolumeSize"), settings.root_gb)
            .with(format!("{disk}.Ebs.VolumeType"), "gp3")
            .with(format!("{disk}.Ebs.Encrypted"), true)
            .with(format!("{disk}.Ebs.DeleteOnTermination"), true)
            .maybe("IamInstanceProfile.Name", settings.instance_profile.as_deref())
            .maybe("Placement.AvailabilityZone", zone)
            .maybe("Placement.HostId", self.host)
            .maybe("Placement.Tenancy", self.host.map(|_| "host"))
            .maybe("CpuOptions.NestedVirtualization", self.system.nests().then_some("enabled"));
        let query = match &settings.subnet_id {
            Some(subnet) => query
                .with("NetworkInterface.1.DeviceIndex", 0)
                .with("NetworkInterface.1.SubnetId", subnet)
                .with("NetworkInterface.1.SecurityGroupId.1", &self.group)
                .with("NetworkInterface.1.AssociatePublicIpAddress", true)
                .with("NetworkInterface.1.DeleteOnTermination", true),
            None => query.with("SecurityGroupId.1", &self.group),
        };
        if candidate.market != Some(Market::Spot) {
            return query.tags(&["instance", "volume"], &tags);
        }
        query
            .with("InstanceMarketOptions.MarketType", "spot")
            .with("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time")
            .with("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate")
            .tags(&["instance", "volume", "spot-instances-request"], &tags)
    }

    /// Another one for each candidate, and the same one whenever a candidate is asked for again.
    fn token(&self, candidate: &Candidate) -> String {
        let (Candidate { machine, place, .. }, market) = (candidate, &word(candidate)[..2]);
        let token = format!("{}-{place}-{market}-{machine}", self.order.lease_id());
        token.chars().take(TOKEN).collect()
    }

    /// What accounts may have that may have nothing of the class.
    fn small(&self) -> Option<&'static str> {
        let is_class = self.system.classes().is_class(&self.order.params.request);
        self.system.small().filter(|_| is_class)
    }

    /// What is more than may run is not even asked for.
    fn too_large(&self, candidate: &Candidate) -> Result<(), Failure> {
        let limit = self.markets.iter().find(|(m, _)| Some(*m) == candidate.market);
        match (vcpus(&candidate.machine), limit) {
            (Some(vcpus), Some((market, Some(limit)))) if f64::from(vcpus) > *limit => {
                let market = market.word();
                let what = format!("it has {vcpus} vCPUs, and {limit} {market} ones may run");
                Err(Failure::quota(what))
            }
            _ => Ok(()),
        }
    }
}

impl Site for Region<'_> {
    fn candidates(&self) -> Vec<Candidate> {
        let (request, region) = (&self.order.params.request, self.api.region);
        let markets: Vec<_> = self.markets.iter().map(|(market, _)| Some(*market)).collect();
        let (classes, zones) = (self.system.classes(), self.settings.zones(region));
        let mut all = Candidate::all(&markets, &classes.machines(request), &zones);
        // An account of the free tier may have none of the classes, and says so of each.
        if let Some(small) = self.small() {
            all.extend(Candidate::all(&[Some(Market::OnDemand)], &[small], &[region]));
        }
        all
    }

    fn is_worth(&self, candidate: &Candidate, misses: &[Miss]) -> bool {
        match self.small() == Some(&candidate.machine) {
            true => misses.iter().all(|(_, why)| of_the_free_tier(why)),
            false => candidate.is_within_limits(misses),
        }
    }

    /// Makes one instance. The same token means the same instance, however often it is asked for.
    fn make(&self, candidate: &Candidate) -> Result<Machine, Failure> {
        self.too_large(candidate)?;
        let made: Made = self.api.ask(&self.query(candidate))?;
        let first = made.instances.item.into_iter().next();
        let first = first.ok_or_else(|| Failure::transient("RunInstances made nothing"))?;
        Ok(first.machine(self.api.region))
    }
}

fn word(candidate: &Candidate) -> &'static str {
    candidate.market.unwrap_or(Market::OnDemand).word()
}

fn of_the_free_tier(failure: &Failure) -> bool {
    let said = failure.message().to_lowercase();
    said.contains("free tier") || said.contains("eligible")
}
