//! Placeholders: `{{name}}` in words and variables becomes a value; nothing else does, and no shell sees it.

use std::collections::BTreeMap;

use crabbox_plugin_sdk::Failure;
use serde_json::{Map, Value};

/// What placeholders stand for in one operation.
pub(crate) struct Names<'a> {
    pub(crate) plain: BTreeMap<&'static str, String>,
    pub(crate) config: &'a Map<String, Value>,
    pub(crate) variable: fn(&str) -> Option<String>,
}

/// Where a template stands; the command line of a process is no place for what may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Argv,
    Elsewhere,
}

impl Names<'_> {
    /// Fills in one template; `what` names it for errors.
    pub(crate) fn fill(&self, what: &str, template: &str, place: Place) -> Result<String, Failure> {
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after
                .split_once("}}")
                .ok_or_else(|| wrong(what, format!("{template:?} has a {{{{ without its end")))?;
            out.push_str(before);
            out.push_str(&self.value(what, name.trim(), place)?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&self, what: &str, name: &str, place: Place) -> Result<String, Failure> {
        if let Some(variable) = name.strip_prefix("env.") {
            if place == Place::Argv {
                let message = format!("{{{{{name}}}}} would show a variable on a command line");
                return Err(wrong(what, message)
                    .hint("pass it in the operation's `env`, or set its `allowEnvArgv`"));
            }
            return (self.variable)(variable)
                .ok_or_else(|| wrong(what, format!("the variable {variable} is not set")));
        }
        let known = match name.strip_prefix("config.") {
            Some(key) => self.config.get(key).and_then(scalar),
            None => self.plain.get(name).cloned(),
        };
        known.ok_or_else(|| wrong(what, format!("nothing is called {{{{{name}}}}} here")))
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

fn wrong(what: &str, why: String) -> Failure {
    Failure::invalid_config(
        format!("/{}", what.replace('.', "/")),
        format!("external.{what}: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_once_and_unknown_ones_refused() {
        let config = serde_json::from_str(r#"{"cpus": 4, "odd": [1]}"#).unwrap();
        let plain = BTreeMap::from([("slug", "{{name}}".to_owned())]);
        let variable = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
        let names = Names { plain, config: &config, variable };
        let fill = |text: &str, place| names.fill("lifecycle.acquire", text, place);
        assert_eq!(fill("a-{{ slug }}-{{config.cpus}}", Place::Argv).unwrap(), "a-{{name}}-4");
        assert_eq!(fill("{{env.TOKEN}}", Place::Elsewhere).unwrap(), "s3cret");
        for bad in ["{{env.TOKEN}}", "{{other}}", "{{config.odd}}", "{{slug"] {
            assert_eq!(
                fill(bad, Place::Argv).unwrap_err().data().field.as_deref(),
                Some("/lifecycle/acquire")
            );
        }
    }
}
