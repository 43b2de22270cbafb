//! One container runtime, Docker or Podman, by way of its command line.

use std::collections::BTreeMap;
use std::time::Duration;

use crabbox_plugin_sdk::{Call, ExecResult, Failure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::fault;

/// Port of the box's server, inside the box.
pub(crate) const PORT: &str = "2222/tcp";
/// Where the box's server lies in the box.
pub(crate) const SERVER: &str = "/.crabbox-box";
/// Containers looked at in one go; what a tool prints is bounded.
const AT_ONCE: usize = 20;
/// How long looking may take.
const LOOK: Duration = Duration::from_secs(30);

/// What is asked of a container.
const FACTS: &str = concat!(
    r#"{"id":{{json .ID}},"name":{{json .Name}},"status":{{json .State.Status}},"#,
    r#""labels":{{json .Config.Labels}},"ports":{{json .NetworkSettings.Ports}}}"#
);
/// What is asked of an image.
const IMAGE: &str =
    r#"{"os":{{json .Os}},"architecture":{{json .Architecture}},"user":{{json .Config.User}}}"#;

/// A runtime by the name of its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Engine(pub(crate) &'static str);

/// Both of them, Docker first.
pub(crate) const ENGINES: [Engine; 2] = [Engine("docker"), Engine("podman")];

/// A container as its runtime tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    ports: Option<BTreeMap<String, Option<Vec<Published>>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Published {
    host_port: String,
}

impl Container {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
    }

    /// Docker's names begin with a slash.
    pub(crate) fn plain_name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// Where its server is on this machine.
    pub(crate) fn port(&self) -> Option<u16> {
        let published = self.ports.as_ref()?.get(PORT)?.as_ref()?;
        published.iter().find_map(|one| one.host_port.parse().ok())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.status == "running"
    }
}

/// An image as its runtime tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Image {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    pub(crate) user: String,
}

impl Image {
    /// The processor, as programs are named after it.
    pub(crate) fn machine(&self) -> &str {
        match self.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "" => std::env::consts::ARCH,
            other => other,
        }
    }
}

impl Engine {
    /// Runs the runtime and gives what it printed, however it ended.
    pub(crate) fn ask<S: AsRef<str>>(
        self,
        call: &Call,
        args: &[S],
        time: Duration,
    ) -> Result<ExecResult, Failure> {
        call.tool(self.0).args(args).timeout(time.min(call.time_left())).run()
    }

    /// Runs the runtime for something that must succeed: `what` says what.
    pub(crate) fn must<S: AsRef<str>>(
        self,
        call: &Call,
        what: &str,
        args: &[S],
        time: Duration,
    ) -> Result<String, Failure> {
        let result = self.ask(call, args, time)?;
        match result.exit_code {
            0 => Ok(result.stdout),
            _ => Err(fault::of(what, &result)),
        }
    }

    /// Its version, when it can make containers now.
    pub(crate) fn version(self, call: &Call) -> Result<String, Failure> {
        let field = if self.0 == "docker" { "{{.Server.Version}}" } else { "{{.Client.Version}}" };
        let said =
            self.must(call, &format!("use {}", self.0), &["version", "--format", field], LOOK)?;
        match said.trim() {
            "" | "<nil>" | "<no value>" => {
                Err(Failure::transient(format!("{} does not say its version", self.0)))
            }
            version => Ok(version.to_owned()),
        }
    }

    /// An image, if it is on this machine.
    pub(crate) fn image(self, call: &Call, name: &str) -> Result<Option<Image>, Failure> {
        let result = self.ask(call, &["image", "inspect", "--format", IMAGE, name], LOOK)?;
        if result.exit_code == 0 {
            return read(&result.stdout).map(Some);
        }
        let failure = fault::of(&format!("look at the image {name}"), &result);
        match failure.data().field.is_some() {
            true => Ok(None),
            false => Err(failure),
        }
    }

    /// The containers that carry all of these labels.
    pub(crate) fn labelled(
        self,
        call: &Call,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Container>, Failure> {
        let mut args = vec!["ps".to_owned(), "--all".into(), "--quiet".into(), "--no-trunc".into()];
        for (name, value) in labels {
            args.extend(["--filter".into(), format!("label={name}={value}")]);
        }
        let ids = self.must(call, "list containers", &args, LOOK)?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        let mut found = Vec::new();
        for some in ids.chunks(AT_ONCE) {
            found.extend(self.inspect(call, some)?);
        }
        Ok(found)
    }

    /// The container with this id, if there is one.
    pub(crate) fn container(self, call: &Call, id: &str) -> Result<Option<Container>, Failure> {
        Ok(self.inspect(call, &[id])?.into_iter().find(|found| found.id == id))
    }

    /// What is known of some containers; one that is gone meanwhile is left out.
    fn inspect(self, call: &Call, ids: &[&str]) -> Result<Vec<Container>, Failure> {
        let mut args = vec!["container", "inspect", "--format", FACTS];
        args.extend(ids);
        let result = self.ask(call, &args, LOOK)?;
        let gone = || {
            let failure = fault::of("look at the containers", &result);
            let absent = failure.kind() == crabbox_plugin_sdk::ErrorKind::NotFound;
            if absent { Ok(()) } else { Err(failure) }
        };
        if result.exit_code != 0 {
            gone()?;
        }
        result.stdout.lines().filter(|line| !line.trim().is_empty()).map(read).collect()
    }
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_json::from_str(text.trim())
        .map_err(|error| Failure::transient("the runtime's answer cannot be read").because(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_have_the_names_that_programs_have() {
        let machine = |text: &str| read::<Image>(text).unwrap().machine().to_owned();
        assert_eq!(machine(r#"{"os":"linux","architecture":"arm64"}"#), "aarch64");
        assert_eq!(machine(r#"{"architecture":"amd64","user":"node"}"#), "x86_64");
        assert_eq!(machine(r#"{"architecture":"riscv64"}"#), "riscv64");
        assert_eq!(machine("{}"), std::env::consts::ARCH);
    }
}
