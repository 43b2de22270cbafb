//! What an instance needs in a region before it can be made: an image, a network that lets the user in, and how much may run.

use crabbox_plugin_sdk::cloud::{Market, admitted};
use crabbox_plugin_sdk::{Failure, Level, found};
use serde::Deserialize;

use crate::api::{Api, Page, Query, is};
use crate::config::Settings;
use crate::instance::{Set, Tag, by_name};
use crate::system::System;

/// The security group that is made where the user names none.
const GROUP: &str = "crabbox-runners";
/// The limits of vCPUs of standard instances.
const SPOT_QUOTA: &str = "L-34B43A08";
const ON_DEMAND_QUOTA: &str = "L-1216C47A";

/// An image, and the name its disk has.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Image {
    pub(crate) image_id: String,
    #[serde(default)]
    creation_date: String,
    #[serde(default)]
    root_device_name: String,
}

impl Image {
    pub(crate) fn disk(&self) -> &str {
        if self.root_device_name.is_empty() { "/dev/sda1" } else { &self.root_device_name }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Images {
    #[serde(default)]
    images_set: Set<Image>,
}

/// The user's image, else the newest of its kind.
pub(crate) fn image(api: &Api<'_>, settings: &Settings, system: System) -> Result<Image, Failure> {
    let kind = system.image();
    let query = match &settings.ami {
        Some(ami) => Query::new("DescribeImages").with("ImageId.1", ami),
        None => Query::new("DescribeImages")
            .with("Owner.1", kind.owner)
            .filter("name", &[kind.name])
            .filter("architecture", &[kind.architecture])
            .filter("root-device-type", &["ebs"])
            .filter("virtualization-type", &["hvm"]),
    };
    let all = found(api.ask::<Images>(&query))?;
    let newest = all.and_then(|all| {
        all.images_set.item.into_iter().max_by(|a, b| a.creation_date.cmp(&b.creation_date))
    });
    newest.ok_or_else(|| {
        let wanted = settings.ami.as_deref().unwrap_or(kind.shown);
        let what = format!("there is no image {wanted} in {}", api.region);
        Failure::invalid_config("/ami", what)
            .hint("set aws.ami to an image of this region that starts with cloud-init")
    })
}

#[derive(Deserialize)]
struct Group {
    #[serde(rename = "groupId")]
    id: String,
    #[serde(rename = "vpcId", default)]
    vpc: String,
    #[serde(rename = "ipPermissions", default)]
    rules: Set<Rule>,
    #[serde(rename = "tagSet", default)]
    tags: Set<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    ip_protocol: String,
    #[serde(default)]
    from_port: Option<i32>,
    #[serde(default)]
    to_port: Option<i32>,
    #[serde(default)]
    ip_ranges: Set<Range>,
    #[serde(default)]
    ipv6_ranges: Set<Range>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    #[serde(alias = "cidrIpv6")]
    cidr_ip: String,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(rename = "securityGroupInfo", default)]
    groups: Set<Group>,
}

#[derive(Deserialize)]
struct Created {
    #[serde(rename = "groupId")]
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vpc {
    vpc_id: String,
}

#[derive(Deserialize)]
struct Vpcs {
    #[serde(rename = "vpcSet", alias = "subnetSet", default)]
    all: Set<Vpc>,
}

/// What boxes are put into: a VPC, and the user's own security group where they named one.
pub(crate) struct Network {
    vpc: String,
    group: Option<String>,
}

/// Looks for what the settings name; nothing is made.
pub(crate) fn network(api: &Api<'_>, settings: &Settings) -> Result<Network, Failure> {
    let Some(id) = &settings.security_group_id else {
        return Ok(Network { vpc: vpc(api, settings)?, group: None });
    };
    let query = Query::new("DescribeSecurityGroups").with("GroupId.1", id);
    let group =
        found(api.ask::<Groups>(&query))?.and_then(|all| all.groups.item.into_iter().next());
    let wrong = |what: String| {
        Failure::invalid_config("/security-group-id", what).hint(format!(
            "`aws ec2 describe-security-groups --region {}` lists the groups and their VPCs",
            api.region
        ))
    };
    let group =
        group.ok_or_else(|| wrong(format!("there is no security group {id} in {}", api.region)))?;
    let vpc = if settings.subnet_id.is_some() { vpc(api, settings)? } else { group.vpc.clone() };
    if vpc != group.vpc {
        return Err(wrong(format!("the security group {id} is not in the subnet's VPC, {vpc}")));
    }
    Ok(Network { vpc, group: Some(group.id) })
}

impl Network {
    /// The security group of boxes; made where there is none, and opened for who may log in.
    pub(crate) fn group(
        &self,
        api: &Api<'_>,
        settings: &Settings,
        ports: &[u16],
    ) -> Result<String, Failure> {
        if let Some(chosen) = &self.group {
            return Ok(chosen.clone());
        }
        let cidrs = admitted(api.call, "aws", &settings.ssh_cidrs, &settings.address_url)?;
        let look = || {
            let query = Query::new("DescribeSecurityGroups")
                .filter("group-name", &[GROUP])
                .filter("vpc-id", &[&self.vpc]);
            Ok(api.ask::<Groups>(&query)?.groups.item.into_iter().next())
        };
        let group = match look()? {
            Some(group) => group,
            None => make(api, &self.vpc, look)?,
        };
        if by_name(&group.tags).get("crabbox").map(String::as_str) != Some("true") {
            let what =
                format!("the security group {GROUP} in {} was not made by crabbox", api.region);
            return Err(Failure::precondition(what).hint(
                "tag it crabbox=true, or set aws.securityGroupId to one that lets you log in",
            ));
        }
        open(api, &group, ports, &cidrs)?;
        Ok(group.id)
    }
}

fn make(
    api: &Api<'_>,
    vpc: &str,
    look: impl Fn() -> Result<Option<Group>, Failure>,
) -> Result<Group, Failure> {
    let tags = [("crabbox", "true"), ("Name", GROUP)];
    let tags = tags.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let query = Query::new("CreateSecurityGroup")
        .with("GroupName", GROUP)
        .with("GroupDescription", "SSH to boxes of crabbox")
        .with("VpcId", vpc)
        .tags(&["security-group"], &tags);
    match api.ask::<Created>(&query) {
        Ok(Created { id }) => {
            let tag =
                |(key, value): (&String, &String)| Tag { key: key.clone(), value: value.clone() };
            let tags = Set { item: tags.iter().map(tag).collect() };
            Ok(Group { id, vpc: vpc.to_owned(), rules: Set::default(), tags })
        }
        // Somebody else was faster, or it was us and the answer was lost.
        Err(failure) if is(&failure, "InvalidGroup.Duplicate") => look()?.ok_or(failure),
        Err(failure) => Err(failure),
    }
}

/// Lets networks in that are not let in yet.
fn open(api: &Api<'_>, group: &Group, ports: &[u16], cidrs: &[String]) -> Result<(), Failure> {
    let open = |port: u16, cidr: &str| {
        let port = Some(i32::from(port));
        let tcp = group.rules.item.iter().filter(|rule| {
            rule.ip_protocol == "tcp" && rule.from_port <= port && port <= rule.to_port
        });
        tcp.flat_map(|rule| rule.ip_ranges.item.iter().chain(&rule.ipv6_ranges.item))
            .any(|range| range.cidr_ip == cidr)
    };
    let mut query = Query::new("AuthorizeSecurityGroupIngress").with("GroupId", &group.id);
    let mut missing = 0;
    for (port, cidr) in ports.iter().flat_map(|port| cidrs.iter().map(move |cidr| (*port, cidr))) {
        if open(port, cidr) {
            continue;
        }
        missing += 1;
        let place = format!("IpPermissions.{missing}");
        let range = match cidr.contains(':') {
            true => format!("{place}.Ipv6Ranges.1.CidrIpv6"),
            false => format!("{place}.IpRanges.1.CidrIp"),
        };
        query = query
            .with(format!("{place}.IpProtocol"), "tcp")
            .with(format!("{place}.FromPort"), port)
            .with(format!("{place}.ToPort"), port)
            .with(range, cidr);
    }
    if missing == 0 {
        return Ok(());
    }
    match api.tell(&query) {
        Err(failure) if is(&failure, "InvalidPermission.Duplicate") => Ok(()),
        answer => answer,
    }
}

fn vpc(api: &Api<'_>, settings: &Settings) -> Result<String, Failure> {
    let query = match &settings.subnet_id {
        Some(subnet) => Query::new("DescribeSubnets").with("SubnetId.1", subnet),
        None => Query::new("DescribeVpcs").filter("is-default", &["true"]),
    };
    let first = found(api.ask::<Vpcs>(&query))?.and_then(|all| all.all.item.into_iter().next());
    first.map(|vpc| vpc.vpc_id).ok_or_else(|| match &settings.subnet_id {
        Some(subnet) => {
            let what = format!("there is no subnet {subnet} in {}", api.region);
            Failure::invalid_config("/subnet-id", what)
                .hint(format!("`aws ec2 describe-subnets --region {}` lists them", api.region))
        }
        None => {
            let what = format!("there is no default VPC in {}", api.region);
            Failure::invalid_config("/subnet-id", what).hint("set aws.subnetId")
        }
    })
}

/// How many vCPUs may run at most; unknown where nobody may ask.
pub(crate) fn limit(api: &Api<'_>, market: Market) -> Option<f64> {
    let code = match market {
        Market::Spot => SPOT_QUOTA,
        Market::OnDemand => ON_DEMAND_QUOTA,
    };
    let told = |failure: Failure| api.call.log(Level::Debug, &format!("no quota: {failure}"));
    api.quota(code).map_err(told).ok()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Score {
    region: String,
    score: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scores {
    #[serde(default)]
    spot_placement_score_set: Set<Score>,
    #[serde(default)]
    next_token: Option<String>,
}

impl Page for Scores {
    type Item = Score;
    const SIZE: u32 = 100;
    fn open(self) -> (Vec<Score>, Option<String>) {
        (self.spot_placement_score_set.item, self.next_token)
    }
}

/// The region where spot instances are likeliest comes first; the others stay as they are.
pub(crate) fn likeliest_first<'a>(
    api: &Api<'_>,
    regions: Vec<&'a str>,
    machines: &[&str],
) -> Vec<&'a str> {
    let query = || {
        Query::new("GetSpotPlacementScores")
            .with("TargetCapacity", 1)
            .each("InstanceType", machines)
            .each("RegionName", &regions)
    };
    let scores = api.all::<Scores>(query).unwrap_or_else(|failure| {
        api.call.log(Level::Debug, &format!("no placement scores: {failure}"));
        Vec::new()
    });
    let score = |region: &str| scores.iter().find(|one| one.region == region).map(|one| one.score);
    // The first one of equals.
    let best = regions.iter().copied().rev().max_by_key(|region| score(region));
    let best = best.filter(|best| score(best).is_some());
    let rest = regions.iter().copied().filter(|region| Some(*region) != best);
    best.into_iter().chain(rest).collect()
}
