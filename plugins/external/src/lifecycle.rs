//! Declarative mode: a command for each operation, and templates that say how a box is called and reached.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Call, Desired, Failure, Lease, Outcome, Purpose, ReleaseParams, ResolveParams,
    TouchParams,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::template::{Names, Place};
use crate::v1::{Base, V1Lease, V1Ssh};
use crate::{Backend, answers_to};

/// The label that holds the name of the platform's own thing.
const RESOURCE: &str = "externalResourceName";
/// How long rolling back may take.
const ROLL_BACK: Duration = Duration::from_secs(30);

/// `external.lifecycle`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Operations {
    doctor: Option<Operation>,
    acquire: Option<Operation>,
    resolve: Option<Operation>,
    list: Option<Operation>,
    release: Option<Operation>,
    touch: Option<Operation>,
    /// Checked and not run: what is left behind is found by the list.
    cleanup: Option<Operation>,
}

/// What one operation runs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Operation {
    argv: Vec<String>,
    steps: Vec<Step>,
    output: String,
    name_prefix: String,
    env: BTreeMap<String, String>,
    allow_env_argv: bool,
    rollback_on_failure: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Step {
    argv: Vec<String>,
    env: BTreeMap<String, String>,
}

/// `external.connection`: templates.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Connection {
    resource_name: String,
    cloud_id: String,
    server_type: String,
    labels: BTreeMap<String, String>,
    ssh: V1Ssh,
}

/// The commands of the user's settings.
pub(crate) struct Lifecycle {
    operations: Operations,
    connection: Connection,
    config: Map<String, Value>,
    variable: fn(&str) -> Option<String>,
}

impl Lifecycle {
    pub(crate) fn new(
        operations: Operations,
        connection: Connection,
        config: Map<String, Value>,
        variable: fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let required = [
            ("lifecycle.acquire", operations.acquire.is_some()),
            ("lifecycle.list", operations.list.is_some()),
            ("lifecycle.release", operations.release.is_some()),
            ("connection.ssh.user", !connection.ssh.user.is_empty()),
        ];
        if let Some((name, _)) = required.iter().find(|(_, there)| !there) {
            let field = format!("/{}", name.replace('.', "/"));
            return Err(Failure::invalid_config(field, format!("external.{name} is missing")));
        }
        let all = [
            ("doctor", &operations.doctor),
            ("acquire", &operations.acquire),
            ("resolve", &operations.resolve),
            ("list", &operations.list),
            ("release", &operations.release),
            ("touch", &operations.touch),
            ("cleanup", &operations.cleanup),
        ];
        for (name, operation) in all {
            operation.iter().try_for_each(|operation| operation.check(name))?;
        }
        Ok(Self { operations, connection, config, variable })
    }

    fn names(&self, lease: &Desired, more: &[(&'static str, &str)]) -> Result<Names<'_>, Failure> {
        let id = lease.lease_id.as_str();
        let mut plain: BTreeMap<_, _> = [
            ("leaseId", id.to_owned()),
            ("leaseIdSlug", id.replace('_', "-")),
            ("slug", lease.slug.clone()),
            ("name", lease.name.clone()),
            ("id", id.to_owned()),
        ]
        .into();
        for flag in ["keep", "reclaim", "releaseOnly", "force", "all", "refresh", "dryRun"] {
            plain.insert(flag, "false".to_owned());
        }
        plain.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut names = Names { plain, config: &self.config, variable: self.variable };
        let templates = [
            ("resourceName", &self.connection.resource_name, "{{name}}"),
            ("cloudId", &self.connection.cloud_id, "{{resourceName}}"),
        ];
        for (name, template, usual) in templates {
            if !names.plain.contains_key(name) {
                let template = if template.is_empty() { usual } else { template };
                let value =
                    names.fill(&format!("connection.{name}"), template, Place::Elsewhere)?;
                names.plain.insert(name, value);
            }
        }
        Ok(names)
    }

    /// What placeholders stand for when a lease is known.
    fn names_of(&self, lease: &Lease, more: &[(&'static str, &str)]) -> Result<Names<'_>, Failure> {
        let identity = Desired {
            lease_id: lease.lease_id.clone(),
            slug: lease.slug.clone(),
            name: lease.name.clone(),
        };
        let mut all = vec![("cloudId", lease.cloud_id.as_str())];
        all.extend(lease.labels.get(RESOURCE).map(|name| ("resourceName", name.as_str())));
        all.extend(more);
        self.names(&identity, &all)
    }

    /// The box as the templates say, completed by what a command printed.
    fn lease(&self, names: &Names<'_>, said: V1Lease, base: &Base) -> Result<Lease, Failure> {
        let Connection { server_type, labels, ssh, .. } = &self.connection;
        let fill = |what: &str, text: &str| {
            names.fill(&format!("connection.{what}"), text, Place::Elsewhere)
        };
        let or = |said: String, what: &str, text: &str| match said.is_empty() {
            true => fill(what, text),
            false => Ok(said),
        };
        let one = |value: &Value| match value {
            Value::String(text) => fill("ssh.port", text).map(Value::from),
            other => Ok(other.clone()),
        };
        let there = said.ssh.unwrap_or_default();
        let mut all = BTreeMap::new();
        for (name, text) in labels {
            all.insert(name.clone(), fill("labels", text)?);
        }
        all.extend(said.labels);
        let known = |name: &str| names.plain.get(name).cloned().unwrap_or_default();
        let ssh = V1Ssh {
            user: or(there.user, "ssh.user", &ssh.user)?,
            host: or(there.host, "ssh.host", &ssh.host)?,
            key: or(there.key, "ssh.key", &ssh.key)?,
            port: if there.port.is_null() { one(&ssh.port)? } else { there.port },
            fallback_ports: match there.fallback_ports.is_empty() {
                true => ssh.fallback_ports.iter().map(one).collect::<Result<_, _>>()?,
                false => there.fallback_ports,
            },
            ready_check: or(there.ready_check, "ssh.readyCheck", &ssh.ready_check)?,
            auth_secret: there.auth_secret || ssh.auth_secret,
            proxy_command: or(there.proxy_command, "ssh.proxyCommand", &ssh.proxy_command)?,
        };
        let lease = V1Lease {
            cloud_id: if said.cloud_id.is_empty() { known("cloudId") } else { said.cloud_id },
            server_type: or(said.server_type, "serverType", server_type)?,
            labels: all,
            ssh: Some(ssh).filter(|ssh| !ssh.host.is_empty()),
            ..said
        };
        let mut lease = lease.lease(base)?;
        lease.labels.insert(RESOURCE.to_owned(), known("resourceName"));
        Ok(lease)
    }

    /// The boxes that are noted here. The platform knows only names; whose they are is known here.
    fn noted(&self, call: &Call) -> Result<Vec<Lease>, Failure> {
        let mut noted = Vec::new();
        for key in call.kv_list("lease/")? {
            let text = call.kv_get(&key)?;
            noted.extend(text.and_then(|text| serde_json::from_str::<Lease>(&text).ok()));
        }
        Ok(noted)
    }

    fn note(&self, call: &Call, lease: &Lease) -> Result<(), Failure> {
        let text = serde_json::to_string(lease)
            .map_err(|error| Failure::internal("cannot encode a lease").because(&error))?;
        call.kv_put(&format!("lease/{}", lease.lease_id), &text, None)
    }

    /// Whether the platform still has a box.
    fn is_there(&self, call: &Call, lease: &Lease) -> Result<bool, Failure> {
        Ok(self.list(call)?.iter().any(|listed| listed.lease_id == lease.lease_id))
    }

    fn run_release(&self, call: &Call, lease: &Lease, time: Duration) -> Result<(), Failure> {
        let names = self.names_of(lease, &[])?;
        self.operations
            .release
            .iter()
            .try_for_each(|release| release.run(call, "release", &names, time).map(drop))
    }
}

impl Operation {
    fn check(&self, name: &str) -> Result<(), Failure> {
        let steps = self.all();
        let wrong = |why: &str| {
            let field = format!("/lifecycle/{name}");
            Err(Failure::invalid_config(field, format!("external.lifecycle.{name} {why}")))
        };
        if self.argv.is_empty() == self.steps.is_empty() {
            return wrong("needs either `argv` or `steps`");
        }
        if steps.iter().any(|step| {
            step.argv.first().is_none_or(|program| program.is_empty() || program.contains("{{"))
        }) {
            return wrong("must begin with the plain name of a program");
        }
        let allowed: &[&str] = match name {
            "acquire" | "resolve" => &["", "json-lease"],
            "list" => &["", "json-name-array", "json-lease-array"],
            _ => &[""],
        };
        match allowed.contains(&&*self.output) {
            true => Ok(()),
            false => wrong(&format!("cannot have output {:?}", self.output)),
        }
    }

    fn all(&self) -> Vec<Step> {
        match self.argv.is_empty() {
            true => self.steps.clone(),
            false => vec![Step { argv: self.argv.clone(), env: BTreeMap::new() }],
        }
    }

    /// Runs every step until one fails; what the last printed.
    fn run(
        &self,
        call: &Call,
        name: &str,
        names: &Names<'_>,
        time: Duration,
    ) -> Result<String, Failure> {
        let place = if self.allow_env_argv { Place::Elsewhere } else { Place::Argv };
        let what = format!("lifecycle.{name}");
        let mut printed = String::new();
        for step in self.all() {
            let words = step.argv.iter().map(|word| names.fill(&what, word, place));
            let words: Vec<String> = words.collect::<Result<_, _>>()?;
            let Some((program, args)) = words.split_first() else { continue };
            let mut tool = call.tool(program).args(args).timeout(time.min(call.time_left()));
            for (variable, text) in self.env.iter().chain(&step.env) {
                tool = tool.env(variable, names.fill(&what, text, Place::Elsewhere)?);
            }
            let said = tool.run()?;
            if said.exit_code != 0 {
                let last = said.stderr.lines().rev().find(|line| !line.trim().is_empty());
                let message =
                    format!("{program} of external.{what} ended with status {}", said.exit_code);
                let cause = io::Error::other(last.unwrap_or("it said nothing").trim().to_owned());
                return Err(match name {
                    "acquire" => Failure::bootstrap(message).because(&cause),
                    _ => Failure::transient(message).because(&cause),
                });
            }
            printed = said.stdout;
        }
        Ok(printed)
    }

    /// The lease that was printed, when the operation prints one.
    fn printed(&self, name: &str, text: &str) -> Result<V1Lease, Failure> {
        if self.output.is_empty() {
            return Ok(V1Lease::default());
        }
        let value: Value = parse(name, text)?;
        parse(name, &value.get("lease").unwrap_or(&value).to_string())
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_str(text.trim()).map_err(|error| {
        Failure::bootstrap(format!("what external.lifecycle.{name} printed cannot be read"))
            .because(&error)
    })
}

impl Backend for Lifecycle {
    fn idempotent(&self) -> bool {
        false
    }

    fn acquire(&self, call: &Call, params: &AcquireParams, base: &Base) -> Result<Lease, Failure> {
        let Some(acquire) = &self.operations.acquire else {
            return Err(Failure::internal("no acquire is configured"));
        };
        let keep = if params.request.keep { "true" } else { "false" };
        let names = self.names(&params.desired, &[("keep", keep)])?;
        let planned = self.lease(&names, V1Lease::default(), base)?;
        // Before anything is made: without this nobody would know whose the name is.
        self.note(call, &planned)?;
        let made = acquire
            .run(call, "acquire", &names, call.time_left())
            .and_then(|text| acquire.printed("acquire", &text))
            .and_then(|said| self.lease(&names, said, base))
            .and_then(|lease| match &lease.ssh {
                Some(_) => self.note(call, &lease).map(|()| lease),
                None => Err(Failure::bootstrap("nothing says where the box is").hint(
                    "set external.connection.ssh.host, or print a lease with output `json-lease`",
                )),
            });
        made.map_err(|failure| match acquire.rollback_on_failure {
            true => match self.run_release(call, &planned, ROLL_BACK) {
                Ok(()) => {
                    let _ = call.kv_delete(&format!("lease/{}", planned.lease_id));
                    failure.outcome(Outcome::RolledBack)
                }
                Err(_) => failure.outcome(Outcome::Uncertain),
            },
            false => failure.outcome(Outcome::Uncertain),
        })
    }

    fn resolve(&self, call: &Call, params: &ResolveParams) -> Result<Option<Lease>, Failure> {
        let noted = self.noted(call)?.into_iter().find(|lease| answers_to(lease, &params.id));
        let Some(lease) = noted.or_else(|| params.known.clone()) else { return Ok(None) };
        let Some(resolve) = &self.operations.resolve else {
            return Ok(self.is_there(call, &lease)?.then_some(lease));
        };
        let releasing = params.purpose == Purpose::Release;
        let only = if releasing { "true" } else { "false" };
        let names = self.names_of(&lease, &[("id", &params.id), ("releaseOnly", only)])?;
        let said = resolve
            .run(call, "resolve", &names, call.time_left())
            .and_then(|text| resolve.printed("resolve", &text));
        match said {
            Ok(said) => self.lease(&names, said, &Base::known(&lease)).map(Some),
            Err(failure) => match self.is_there(call, &lease)? {
                true => Err(failure),
                false => Ok(None),
            },
        }
    }

    fn list(&self, call: &Call) -> Result<Vec<Lease>, Failure> {
        let Some(list) = &self.operations.list else { return Ok(Vec::new()) };
        let names = Names { plain: BTreeMap::new(), config: &self.config, variable: self.variable };
        let text = list.run(call, "list", &names, call.time_left())?;
        let listed: Vec<V1Lease> = match list.output.as_str() {
            "json-lease-array" => parse("list", &text)?,
            _ => {
                let names: Vec<String> = parse("list", &text)?;
                names.into_iter().map(|name| V1Lease { name, ..V1Lease::default() }).collect()
            }
        };
        let ours = |said: &V1Lease, lease: &Lease| {
            let resource = lease.labels.get(RESOURCE).is_some_and(|name| *name == said.name);
            let id = !said.cloud_id.is_empty() && said.cloud_id == lease.cloud_id;
            resource || id || said.lease_id == lease.lease_id.as_str()
        };
        let prefixed = |said: &&V1Lease| said.name.starts_with(&list.name_prefix);
        let listed: Vec<_> = listed.iter().filter(prefixed).collect();
        let noted = self.noted(call)?;
        Ok(noted.into_iter().filter(|lease| listed.iter().any(|said| ours(said, lease))).collect())
    }

    fn release(&self, call: &Call, params: &ReleaseParams) -> Result<(), Failure> {
        self.run_release(call, &params.lease, call.time_left())?;
        let _ = call.kv_delete(&format!("lease/{}", params.lease.lease_id));
        Ok(())
    }

    fn touch(&self, call: &Call, params: &TouchParams) -> Result<Option<Lease>, Failure> {
        let Some(touch) = &self.operations.touch else { return Ok(None) };
        let names = self.names_of(&params.lease, &[("state", &params.state)])?;
        touch.run(call, "touch", &names, call.time_left()).map(|_| None)
    }

    fn doctor(&self, call: &Call) -> Result<String, Failure> {
        let Some(doctor) = &self.operations.doctor else {
            return Ok("no doctor is configured; nothing was asked".to_owned());
        };
        let names = Names { plain: BTreeMap::new(), config: &self.config, variable: self.variable };
        let said = doctor.run(call, "doctor", &names, call.time_left())?;
        Ok(said.lines().next().unwrap_or("the platform answers").to_owned())
    }
}
