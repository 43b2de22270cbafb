//! The original's external protocol, version 1: one request, one response, one process.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::{Desired, Expected, Failure, Lease, LeaseId, SshAuth, SshEndpoint};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version both sides speak.
pub(crate) const VERSION: u64 = 1;

/// Labels that an adapter does not decide.
const RESERVED: &[&str] =
    &["lease", "slug", "name", "externalResourceName", "externalResourceNameFromEnv"];

/// What an adapter is asked. Members that do not apply are left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request<'a> {
    pub(crate) protocol_version: u64,
    pub(crate) operation: &'static str,
    pub(crate) config: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) desired: Option<&'a Desired>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<V1Lease>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<V1Expected<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) keep: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) release_only: bool,
}

/// What must be true before a box is ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct V1Expected<'a> {
    lease_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    slug: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cloud_id: Option<&'a str>,
}

impl<'a> V1Expected<'a> {
    pub(crate) fn of(expected: &'a Expected, lease: &'a Lease) -> Self {
        let cloud_id = expected.cloud_id.as_deref();
        Self { lease_id: expected.lease_id.as_str(), slug: &lease.slug, cloud_id }
    }
}

/// What an adapter answers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Response {
    pub(crate) protocol_version: Option<u64>,
    pub(crate) lease: Option<V1Lease>,
    pub(crate) leases: Option<Vec<V1Lease>>,
    pub(crate) message: Option<String>,
    pub(crate) error: Option<String>,
}

/// A box in version 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct V1Lease {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) lease_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) slug: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cloud_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) server_type: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ssh: Option<V1Ssh>,
}

/// How a box is reached in version 1. Ports are numbers or texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct V1Ssh {
    pub(crate) user: String,
    pub(crate) host: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) key: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub(crate) port: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fallback_ports: Vec<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) ready_check: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) auth_secret: bool,
    #[serde(skip_serializing)]
    pub(crate) proxy_command: String,
}

/// What counts where an adapter says nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Base {
    pub(crate) identity: Option<Desired>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) target: String,
    pub(crate) work_root: Option<String>,
}

impl Base {
    /// What is known of a lease.
    pub(crate) fn known(lease: &Lease) -> Self {
        let identity = Desired {
            lease_id: lease.lease_id.clone(),
            slug: lease.slug.clone(),
            name: lease.name.clone(),
        };
        let target = lease.labels.get("target").cloned().unwrap_or_default();
        let work_root = lease.work_root.clone();
        Self { identity: Some(identity), labels: lease.labels.clone(), target, work_root }
    }
}

impl V1Lease {
    /// A lease of ours as an adapter knows it.
    pub(crate) fn of(lease: &Lease) -> Self {
        Self {
            lease_id: lease.lease_id.to_string(),
            slug: lease.slug.clone(),
            name: lease.name.clone(),
            cloud_id: lease.cloud_id.clone(),
            status: lease.status.clone(),
            server_type: lease.server_type.clone(),
            labels: lease.labels.clone(),
            ssh: lease.ssh.as_ref().map(V1Ssh::of),
        }
    }

    /// The lease, completed with what was known before.
    pub(crate) fn lease(self, base: &Base) -> Result<Lease, Failure> {
        let or = |said: String, known: Option<&str>| match said.is_empty() {
            true => known.unwrap_or_default().to_owned(),
            false => said,
        };
        let known = base.identity.as_ref();
        let id = or(self.lease_id, known.map(|known| known.lease_id.as_str()));
        let lease_id = LeaseId::parse(&id).ok_or_else(|| {
            Failure::internal(format!("the adapter named a lease {id:?}, which is no lease id"))
        })?;
        let slug = or(self.slug, known.map(|known| &*known.slug));
        let name = or(self.name, known.map(|known| &*known.name));
        let mut labels = base.labels.clone();
        labels.extend(self.labels.into_iter().filter(|(name, _)| !RESERVED.contains(&&**name)));
        let own = [
            ("crabbox", "true"),
            ("provider", "external"),
            ("lease", lease_id.as_str()),
            ("slug", &slug),
            ("target", &base.target),
            ("work_root", base.work_root.as_deref().unwrap_or_default()),
        ];
        labels.extend(
            own.iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        Ok(Lease {
            cloud_id: or(self.cloud_id, Some(if name.is_empty() { &id } else { &name })),
            status: or(self.status, Some("ready")),
            server_type: or(self.server_type, Some("external")),
            work_root: base.work_root.clone(),
            ssh: self.ssh.map(V1Ssh::endpoint).transpose()?,
            lease_id,
            slug,
            name,
            labels,
        })
    }
}

impl V1Ssh {
    fn of(ssh: &SshEndpoint) -> Self {
        Self {
            user: ssh.user.clone(),
            host: ssh.host.clone(),
            key: ssh.key_file.clone().unwrap_or_default(),
            port: ssh.port.into(),
            fallback_ports: ssh.fallback_ports.iter().map(|port| (*port).into()).collect(),
            ready_check: ssh.ready_check.clone().unwrap_or_default(),
            auth_secret: ssh.user_secret,
            proxy_command: String::new(),
        }
    }

    fn endpoint(self) -> Result<SshEndpoint, Failure> {
        if !self.proxy_command.is_empty() {
            let message = "the adapter's box is behind a proxyCommand, which crabbox does not run";
            return Err(Failure::unsupported(message).hint(
                "give the box a Host entry with ProxyJump or ProxyCommand in your SSH configuration, and name that as its host",
            ));
        }
        let key = Some(self.key).filter(|key| !key.is_empty());
        Ok(SshEndpoint {
            user: self.user,
            user_secret: self.auth_secret,
            host: self.host,
            port: port(&self.port)?.unwrap_or(22),
            fallback_ports: self
                .fallback_ports
                .iter()
                .filter_map(|one| port(one).transpose())
                .collect::<Result<_, _>>()?,
            auth: if key.is_some() { SshAuth::KeyFile } else { SshAuth::User },
            key_file: key,
            ready_check: Some(self.ready_check).filter(|check| !check.is_empty()),
            ..SshEndpoint::default()
        })
    }
}

/// A port as a number or a text; none for nothing.
fn port(value: &Value) -> Result<Option<u16>, Failure> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.is_empty() => return Ok(None),
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    number.map(Some).ok_or_else(|| Failure::internal(format!("the adapter named a port {value}")))
}
