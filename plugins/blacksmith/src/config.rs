//! The user's settings.

use crabbox_plugin_sdk::{Call, Failure, Instance, Tool, settings};
use serde::Deserialize;

/// The program, when nobody names another.
const CLI: &str = "blacksmith";

/// `blacksmith:` in the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Config {
    cli: Option<String>,
    org: Option<String>,
    workflow: Option<String>,
    job: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    idle_timeout: Option<String>,
    pub(crate) debug: bool,
}

impl Config {
    pub(crate) fn read(instance: &Instance) -> Result<Self, Failure> {
        let config: Self = settings(instance)?;
        let words = [
            ("/org", &config.org),
            ("/job", &config.job),
            ("/ref", &config.reference),
            ("/workflow", &config.workflow),
        ];
        for (field, value) in words {
            if value.as_deref().is_some_and(|word| word.starts_with('-')) {
                let what = "a value that begins with - would be read as an option";
                return Err(Failure::invalid_config(field, what));
            }
        }
        if config.idle_timeout.as_deref().is_some_and(|text| seconds(text).is_none()) {
            return Err(Failure::invalid_config("/idle-timeout", "no time such as 90m"));
        }
        Ok(config)
    }

    /// Blacksmith's command line with its first words, in the user's checkout: it finds the repository there.
    pub(crate) fn testbox<'a>(&self, call: &'a Call, action: &str) -> Tool<'a> {
        let org = set(&self.org).map(|org| ["--org", org]);
        let cli = set(&self.cli).unwrap_or(CLI);
        call.tool(cli).args(org.into_iter().flatten()).args(["testbox", action]).in_checkout()
    }

    /// Without a workflow no box can be made.
    pub(crate) fn workflow(&self) -> Result<&str, Failure> {
        set(&self.workflow).ok_or_else(|| {
            Failure::invalid_config("/workflow", "no workflow says what testbox to make").hint(
                "set blacksmith.workflow, actions.workflow or --blacksmith-workflow to a workflow with a testbox job",
            )
        })
    }

    pub(crate) fn job(&self) -> Option<&str> {
        set(&self.job)
    }

    pub(crate) fn reference(&self) -> Option<&str> {
        set(&self.reference)
    }

    /// Whole minutes, never fewer than were asked for.
    pub(crate) fn idle_minutes(&self, asked_secs: u64) -> u64 {
        let secs = self.idle_timeout.as_deref().and_then(seconds).unwrap_or(asked_secs);
        secs.div_ceil(60).max(1)
    }
}

fn set(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|value| !value.is_empty())
}

/// The seconds in a time such as `1h30m`.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0_u64, String::new());
    for c in text.trim().chars() {
        let unit = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    (number.is_empty() && total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_timeout_is_whole_minutes_and_never_shorter_than_asked() {
        let own = |text: &str| Config { idle_timeout: Some(text.to_owned()), ..Config::default() };
        for (config, asked, minutes) in [
            (Config::default(), 1800, 30),
            (Config::default(), 1801, 31),
            (Config::default(), 1, 1),
            (own("90m"), 1800, 90),
            (own("1h30m1s"), 1800, 91),
        ] {
            assert_eq!(config.idle_minutes(asked), minutes, "{config:?} {asked}");
        }
        assert_eq!([seconds("90"), seconds("m"), seconds("1d"), seconds("0m")], [None; 4]);
    }
}
