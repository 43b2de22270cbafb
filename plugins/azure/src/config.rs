//! The settings as the user writes them, what must be true of them, and which machines a class means.

use crabbox_plugin_sdk::cloud::is_network;
use crabbox_plugin_sdk::{
    BoxRequest, Failure, HttpAuth, Oauth2Auth, SecretRef, SecretText, settings,
};
use serde::Deserialize;

macro_rules! sizes {
    ($($size:literal)*) => { &[$(concat!("Standard_", $size)),*] };
}

/// Sizes of each class, the best first.
const CLASSES: &[(&str, &[&str])] = &[
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
];

/// The block `providers.azure`, or `azure`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Settings {
    subscription_id: String,
    tenant_id: String,
    client_id: String,
    token: Option<SecretRef>,
    pub(crate) location: String,
    locations: Vec<String>,
    fallback: String,
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

impl Default for Settings {
    fn default() -> Self {
        Self {
            subscription_id: String::new(),
            tenant_id: String::new(),
            client_id: String::new(),
            token: None,
            location: "eastus".to_owned(),
            locations: Vec::new(),
            fallback: "on-demand-after-120s".to_owned(),
            resource_group: "crabbox-leases".to_owned(),
            vnet: "crabbox-vnet".to_owned(),
            subnet: "crabbox-subnet".to_owned(),
            nsg: "crabbox-nsg".to_owned(),
            image: "Canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2:latest".to_owned(),
            os_disk_gb: None,
            ssh_cidrs: Vec::new(),
            arm_url: "https://management.azure.com".to_owned(),
            login_url: "https://login.microsoftonline.com".to_owned(),
            address_url: "https://checkip.amazonaws.com".to_owned(),
            prices_url: "https://prices.azure.com/api/retail/prices".to_owned(),
        }
    }
}

/// How a machine is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Market {
    Spot,
    OnDemand,
}

impl Market {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        }
    }
}

impl Settings {
    /// Reads and checks them: nothing is asked of Azure before they make sense.
    pub(crate) fn read(instance: &crabbox_plugin_sdk::Instance) -> Result<Self, Failure> {
        let mut all: Self = settings(instance)?;
        for url in [&mut all.arm_url, &mut all.login_url, &mut all.address_url] {
            url.truncate(url.trim_end_matches('/').len());
        }
        match all.ssh_cidrs.iter().find(|cidr| !is_network(cidr)) {
            Some(cidr) => {
                Err(Failure::invalid_config("/ssh-cidrs", format!("{cidr} is no network"))
                    .hint("write 203.0.113.7/32, or 0.0.0.0/0 for everybody"))
            }
            None => Ok(all),
        }
    }

    /// Who pays, and who asks, must be known before anything can be asked.
    pub(crate) fn complete(&self) -> Result<(), Failure> {
        let client = [
            ("/tenant-id", &self.tenant_id, "azure.tenantId or AZURE_TENANT_ID"),
            ("/client-id", &self.client_id, "azure.clientId or AZURE_CLIENT_ID"),
        ];
        let payer = (
            "/subscription-id",
            &self.subscription_id,
            "azure.subscriptionId or AZURE_SUBSCRIPTION_ID",
        );
        let needed = client.into_iter().filter(|_| self.token.is_none());
        match std::iter::once(payer).chain(needed).find(|(_, value, _)| value.is_empty()) {
            Some((field, _, names)) => {
                let what = format!("nobody said what {} is", field.trim_start_matches('/'));
                Err(Failure::invalid_config(field, what)
                    .hint(format!("set {names}; without a client of its own, set azure.token to \"cmd:az account get-access-token --query accessToken -o tsv\"")))
            }
            None => Ok(()),
        }
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
        let mut all = vec![self.location.as_str()];
        for other in &self.locations {
            if !all.contains(&other.as_str()) {
                all.push(other);
            }
        }
        all
    }

    /// How to pay, the preferred way first.
    pub(crate) fn markets(&self, request: &BoxRequest) -> &'static [Market] {
        let spot = request.market.as_deref() == Some("spot");
        match (spot, self.fallback.starts_with("on-demand")) {
            (false, _) => &[Market::OnDemand],
            (true, false) => &[Market::Spot],
            (true, true) => &[Market::Spot, Market::OnDemand],
        }
    }
}

/// The sizes a request may be met with, the best first. An exact one is the only one.
pub(crate) fn machines(request: &BoxRequest) -> Vec<&str> {
    if let Some(exact) = &request.machine_type {
        return vec![exact];
    }
    match CLASSES.iter().find(|(name, _)| *name == request.class) {
        Some((_, machines)) => machines.to_vec(),
        None => vec![request.class.as_str()],
    }
}

/// The class that begins with a size.
pub(crate) fn class_of(machine: &str) -> Option<&'static str> {
    let begins = |row: &&(&str, &[&str])| row.1.first() == Some(&machine);
    CLASSES.iter().find(begins).map(|(name, _)| *name)
}

/// Every size of any class, once, the largest class first.
pub(crate) fn all_machines() -> Vec<&'static str> {
    let mut all = Vec::new();
    for &machine in CLASSES.iter().rev().flat_map(|(_, machines)| *machines) {
        if !all.contains(&machine) {
            all.push(machine);
        }
    }
    all
}

/// Refuses what a machine here cannot be.
pub(crate) fn check_request(request: &BoxRequest) -> Result<(), Failure> {
    if !matches!(request.target.as_str(), "" | "linux") {
        let what = format!("boxes of azure run linux here, not {}", request.target);
        return Err(Failure::unsupported(what).hint(
            "this version sets up no Windows; a host that exists can be used with the ssh provider",
        ));
    }
    if machines(request).iter().any(|machine| machine.is_empty()) {
        return Err(Failure::invalid_request("neither a class nor a size was asked for"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_size_is_the_only_one_and_an_unknown_class_is_a_size() {
        let mut request = BoxRequest { class: "standard".to_owned(), ..BoxRequest::default() };
        assert_eq!(machines(&request).first(), Some(&"Standard_D32ads_v6"));
        request.class = "Standard_B2s".to_owned();
        assert_eq!(machines(&request), ["Standard_B2s"]);
        request.machine_type = Some("Standard_D2s_v5".to_owned());
        assert_eq!(machines(&request), ["Standard_D2s_v5"]);
    }
}
