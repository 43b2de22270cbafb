//! What differs between the operating systems of instances: image, instance types, and how the first script is told.

use std::borrow::Cow;

use crabbox_plugin_sdk::BoxRequest;
use crabbox_plugin_sdk::cloud::Classes;

use crate::config;

/// What an instance runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    Linux,
    Mac,
    Windows,
    /// Linux inside Windows, which needs an instance that can be a host itself.
    Wsl2,
}

/// Which images are looked through, and how they are called.
pub(crate) struct Kind {
    pub(crate) owner: &'static str,
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) shown: &'static str,
}

const LINUX: Kind = Kind {
    // Canonical's account.
    owner: "099720109477",
    name: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*",
    architecture: "x86_64",
    shown: "of Ubuntu 24.04",
};
const MAC: Kind = Kind {
    owner: "amazon",
    name: "amzn-ec2-macos-14.*-arm64",
    architecture: "arm64_mac",
    shown: "of macOS 14",
};
const WINDOWS: Kind = Kind {
    owner: "amazon",
    name: "Windows_Server-2022-English-Full-Base-*",
    architecture: "x86_64",
    shown: "of Windows Server 2022",
};

const MACS: Classes = Classes(&[
    ("standard", &["mac2.metal"]),
    ("fast", &["mac2.metal"]),
    ("large", &["mac2.metal"]),
    ("beast", &["mac2.metal"]),
]);
const WINDOWS_CLASSES: Classes = Classes(&[
    ("standard", &["m7i.large", "m7a.large", "t3.large"]),
    ("fast", &["m7i.xlarge", "m7a.xlarge", "t3.xlarge"]),
    ("large", &["m7i.2xlarge", "m7a.2xlarge", "t3.2xlarge"]),
    ("beast", &["m7i.4xlarge", "m7a.4xlarge", "m7i.2xlarge"]),
]);
/// The families that can be hosts themselves.
const WSL2_CLASSES: Classes = Classes(&[
    ("standard", &["m8i.large", "m8i-flex.large", "c8i.large", "r8i.large"]),
    ("fast", &["m8i.xlarge", "m8i-flex.xlarge", "c8i.xlarge", "r8i.xlarge"]),
    ("large", &["m8i.2xlarge", "m8i-flex.2xlarge", "c8i.2xlarge", "r8i.2xlarge"]),
    ("beast", &["m8i.4xlarge", "m8i-flex.4xlarge", "c8i.4xlarge", "r8i.4xlarge", "m8i.2xlarge"]),
]);

impl System {
    pub(crate) fn of(request: &BoxRequest) -> Self {
        match &*request.target {
            "macos" => Self::Mac,
            "windows" if request.is_native_windows() => Self::Windows,
            "windows" => Self::Wsl2,
            _ => Self::Linux,
        }
    }

    pub(crate) fn image(self) -> &'static Kind {
        match self {
            Self::Linux => &LINUX,
            Self::Mac => &MAC,
            Self::Windows | Self::Wsl2 => &WINDOWS,
        }
    }

    pub(crate) fn classes(self) -> Classes {
        match self {
            Self::Linux => config::CLASSES,
            Self::Mac => MACS,
            Self::Windows => WINDOWS_CLASSES,
            Self::Wsl2 => WSL2_CLASSES,
        }
    }

    /// What accounts may have that may have nothing of the classes.
    pub(crate) fn small(self) -> Option<&'static str> {
        match self {
            Self::Linux => Some("t3.small"),
            Self::Mac => None,
            Self::Windows => Some("t3.large"),
            Self::Wsl2 => Some("m8i.large"),
        }
    }

    /// Whether the instance must be able to be a host itself.
    pub(crate) fn nests(self) -> bool {
        self == Self::Wsl2
    }

    /// Whether EC2 takes an ed25519 key for it. Its script brings the key in any case.
    pub(crate) fn takes_key(self) -> bool {
        matches!(self, Self::Linux | Self::Mac)
    }

    /// The first script as the image's own agent wants it.
    pub(crate) fn user_data(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Linux | Self::Mac => Cow::Borrowed(text),
            Self::Windows | Self::Wsl2 => {
                Cow::Owned(format!("<powershell>\n{text}</powershell>\n<persist>false</persist>\n"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_decides_image_and_instance_types() {
        for (target, mode, image, machine) in [
            ("", None, "of Ubuntu 24.04", "c7a.8xlarge"),
            ("linux", None, "of Ubuntu 24.04", "c7a.8xlarge"),
            ("macos", None, "of macOS 14", "mac2.metal"),
            ("windows", Some("normal"), "of Windows Server 2022", "m7i.large"),
            ("windows", Some("wsl2"), "of Windows Server 2022", "m8i.large"),
        ] {
            let request = BoxRequest {
                target: target.to_owned(),
                windows_mode: mode.map(str::to_owned),
                class: "standard".to_owned(),
                ..BoxRequest::default()
            };
            let system = System::of(&request);
            let classes = system.classes();
            let first = classes.machines(&request)[0];
            assert_eq!((system.image().shown, first), (image, machine), "{target} {mode:?}");
        }
    }
}
