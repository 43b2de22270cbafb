//! What differs between Linux and Windows: image, sizes, who may log in, and what runs the first script.

use crabbox_plugin_sdk::cloud::Classes;
use crabbox_plugin_sdk::{AcquireParams, BoxRequest};
use serde_json::{Value, json};

/// Who Azure thinks will log in; the box has a user of its own instead.
const ADMIN: &str = "crabadmin";
/// The handle of that user's password on Windows. The host makes it up, and nobody ever knows it.
const PASSWORD: &str = "admin-password";
/// What Windows makes of custom data by itself: a file that nothing runs. Its text is taken out of the file before it
/// runs, since there is a private key in it.
const COMMAND: &str = r#"powershell.exe -NoProfile -NonInteractive -Command "$ErrorActionPreference = 'Stop'; $file = 'C:\AzureData\CustomData.bin'; $text = [IO.File]::ReadAllText($file); Remove-Item -Force $file; & ([ScriptBlock]::Create($text))""#;

macro_rules! sizes {
    ($($size:literal)*) => { &[$(concat!("Standard_", $size)),*] };
}

/// Sizes of each class, the best first.
pub(crate) const LINUX: Classes = Classes(&[
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
const WINDOWS: Classes = Classes(&[
    ("standard", sizes!["D2ads_v6" "D2ds_v6" "D2ads_v5" "D2ds_v5" "D2as_v6"]),
    ("fast", sizes!["D4ads_v6" "D4ds_v6" "D4ads_v5" "D4ds_v5" "D4as_v6"]),
    ("large", sizes!["D8ads_v6" "D8ds_v6" "D8ads_v5" "D8ds_v5" "D8as_v6"]),
    ("beast", sizes!["D16ads_v6" "D16ds_v6" "D16ads_v5" "D16ds_v5" "D16as_v6" "D8ads_v6"]),
]);

/// What a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Linux,
    Windows,
}

impl System {
    pub(crate) fn of(request: &BoxRequest) -> Self {
        if request.target == "windows" { Self::Windows } else { Self::Linux }
    }

    pub(crate) fn classes(self) -> Classes {
        match self {
            Self::Linux => LINUX,
            Self::Windows => WINDOWS,
        }
    }

    pub(crate) fn image(self) -> &'static str {
        match self {
            Self::Linux => "Canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2:latest",
            Self::Windows => {
                "MicrosoftWindowsServer:windowsserver2022:2022-datacenter-smalldisk-g2:latest"
            }
        }
    }

    /// The machine's name and Azure's own account, which nobody uses.
    pub(crate) fn login(self, params: &AcquireParams) -> Value {
        match self {
            Self::Linux => {
                let path = format!("/home/{ADMIN}/.ssh/authorized_keys");
                let key = json!({"path": path, "keyData": params.ssh_public_key});
                json!({
                    "computerName": params.desired.name, "adminUsername": ADMIN,
                    "linuxConfiguration": {"disablePasswordAuthentication": true, "ssh": {"publicKeys": [key]}},
                })
            }
            Self::Windows => json!({
                // At most 15 characters.
                "computerName": params.desired.lease_id.as_str().replace('_', ""),
                "adminUsername": ADMIN, "adminPassword": {"$secret": PASSWORD},
                "windowsConfiguration": {
                    "provisionVMAgent": true, "enableAutomaticUpdates": false,
                    "patchSettings": {"patchMode": "Manual"},
                },
            }),
        }
    }

    /// The extension that runs the first script, where the image does not do so itself.
    pub(crate) fn starter(self) -> Option<Value> {
        (self == Self::Windows).then(|| {
            json!({
                "publisher": "Microsoft.Compute", "type": "CustomScriptExtension",
                "typeHandlerVersion": "1.10", "autoUpgradeMinorVersion": true,
                "protectedSettings": {"commandToExecute": COMMAND},
            })
        })
    }
}
