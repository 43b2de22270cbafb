//! The settings as the user writes them, what must be true of them, and which machines a class means.

use crabbox_plugin_sdk::cloud::{Classes, check_networks, distinct};
use crabbox_plugin_sdk::{
    Failure, HttpAuth, Instance, Oauth2Auth, SecretRef, SecretText, settings_with_defaults,
};
use serde::Deserialize;

const TOKEN: &str = "without a client of its own, set azure.token to \"cmd:az account get-access-token --query accessToken -o tsv\"";

macro_rules! sizes {
    ($($size:literal)*) => { &[$(concat!("Standard_", $size)),*] };
}

/// Sizes of each class, the best first.
pub(crate) const CLASSES: Classes = Classes(&[
    (
        "standard",
        sizes!["D32ads_v6" "D32ds_v6" "F32s_v2" "D32ads_v5" "D32ds_v5" "D16ads_v6" "D16ds_v6" "F16s_v2"],
    ),
    (
        "fast",
        sizes!["D64ads_v6" "D64ds_v6" "F64s_v2" "D64ads_v5" "D64ds_v5" "D48ads_v6" "D48ds_v6" "F48s_v2"
               "D32ads_v6" "D32ds_v6" "F32s_v2"],
    ),
    (
        "large",
        sizes!["D96ads_v6" "D96ds_v6" "D96ads_v5" "D96ds_v5" "D64ads_v6" "D64ds_v6" "F64s_v2" "D48ads_v6"
               "D48ds_v6" "F48s_v2"],
    ),
    (
        "beast",
        sizes!["D192ds_v6" "D128ds_v6" "D96ads_v6" "D96ds_v6" "D96ads_v5" "D96ds_v5" "D64ads_v6" "D64ds_v6"
               "F64s_v2"],
    ),
]);

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
    pub(crate) image: String,
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

    /// Where machines are made, in order.
    pub(crate) fn locations(&self) -> Vec<&str> {
        distinct([&self.location].into_iter().chain(&self.locations).map(String::as_str))
    }
}
