//! The settings as the user writes them, and what must be true of them.

use crabbox_plugin_sdk::cloud::{check_networks, distinct};
use crabbox_plugin_sdk::{
    Failure, HttpAuth, Instance, Oauth2Auth, SecretRef, SecretText, settings_with_defaults,
};
use serde::Deserialize;

use crate::system::System;

const TOKEN: &str = "without a client of its own, set azure.token to \"cmd:az account get-access-token --query accessToken -o tsv\"";

/// What the schema says of each; the block `providers.azure`, or `azure`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    subscription_id: String,
    tenant_id: String,
    client_id: String,
    token: Option<SecretRef>,
    pub(crate) location: String,
    locations: Vec<String>,
    pub(crate) fallback: String,
    pub(crate) resource_group: String,
    pub(crate) vnet: String,
    pub(crate) subnet: String,
    pub(crate) nsg: String,
    image: Option<String>,
    pub(crate) os_disk_gb: Option<u32>,
    pub(crate) ssh_cidrs: Vec<String>,
    pub(crate) arm_url: String,
    login_url: String,
    pub(crate) address_url: String,
    pub(crate) prices_url: String,
}

impl Settings {
    /// Reads and checks them: nothing is asked of Azure before they make sense.
    pub(crate) fn read(instance: Instance) -> Result<Self, Failure> {
        let mut all: Self =
            settings_with_defaults(include_str!("../config.schema.json"), instance)?;
        for url in [&mut all.arm_url, &mut all.login_url, &mut all.address_url] {
            url.truncate(url.trim_end_matches('/').len());
        }
        check_networks(&all.ssh_cidrs)?;
        Ok(all)
    }

    /// Who pays, and who asks, must be known before anything can be asked.
    pub(crate) fn complete(&self) -> Result<(), Failure> {
        let (payer, names) =
            (&self.subscription_id, "azure.subscriptionId or AZURE_SUBSCRIPTION_ID");
        let needed = [
            ("subscription-id", payer, names),
            ("tenant-id", &self.tenant_id, "azure.tenantId or AZURE_TENANT_ID"),
            ("client-id", &self.client_id, "azure.clientId or AZURE_CLIENT_ID"),
        ];
        let needed = &needed[..if self.token.is_some() { 1 } else { 3 }];
        let lacking = needed.iter().find(|(_, value, _)| value.is_empty());
        let Some((field, _, names)) = lacking else { return Ok(()) };
        let what = format!("nobody said what {field} is");
        Err(Failure::invalid_config(format!("/{field}"), what)
            .hint(format!("set {names}; {TOKEN}")))
    }

    /// How requests are authorised: by the user's token, else by one the host gets for the client.
    pub(crate) fn auth(&self) -> HttpAuth {
        if let Some(token) = &self.token {
            return HttpAuth::Bearer(token.into());
        }
        HttpAuth::Oauth2(Oauth2Auth {
            token_url: format!("{}/{}/oauth2/v2.0/token", self.login_url, self.tenant_id),
            client_id: SecretText::Plain(self.client_id.clone()),
            client_secret: "client-secret".to_owned(),
            scope: Some(format!("{}/.default", self.arm_url)),
        })
    }

    pub(crate) fn subscription(&self) -> String {
        format!("/subscriptions/{}", self.subscription_id)
    }

    /// The id of the resource group.
    pub(crate) fn group(&self) -> String {
        format!("{}/resourceGroups/{}", self.subscription(), self.resource_group)
    }

    /// What machines start from.
    pub(crate) fn image(&self, system: System) -> &str {
        self.image.as_deref().unwrap_or(system.image())
    }

    /// Where machines are made, in order.
    pub(crate) fn locations(&self) -> Vec<&str> {
        distinct([&self.location].into_iter().chain(&self.locations).map(String::as_str))
    }
}
