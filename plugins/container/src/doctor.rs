//! What `crabbox doctor` sees of containers; it makes none.

use std::path::Path;
use std::time::Duration;

use crabbox_plugin_sdk::{Call, Check, CheckStatus, ErrorKind, Failure};
use serde_json::Value;

use crate::create::server;
use crate::engine::Engine;
use crate::settings::Settings;

/// How long a runtime may take to describe itself.
const LOOK: Duration = Duration::from_secs(30);

/// Both runtimes, what the first that answers can do, and whether the image and its box server are there.
pub(crate) fn checks(
    call: &Call,
    engines: &[Engine],
    settings: &Settings,
    programs: &Path,
) -> Result<Vec<Check>, Failure> {
    let mut checks = Vec::new();
    let mut usable = None;
    for engine in engines {
        match engine.version(call) {
            Ok(version) => {
                let facts = info(call, *engine);
                checks.push(ok(engine.0, format!("{version}, {}", ownership(&facts))));
                usable = usable.or(Some((*engine, facts)));
            }
            Err(failure) => checks.push(absent(*engine, engines.len() == 1, &failure)),
        }
    }
    let Some((engine, facts)) = usable else {
        let hint = "install Docker or Podman and start it".to_owned();
        let message = "no container runtime answers".to_owned();
        checks.push(check("runtime", CheckStatus::Fail, message, Some(hint)));
        return Ok(checks);
    };
    checks.push(ok("runtime", format!("{} makes the boxes", engine.0)));
    checks.extend(far_away(call, engine));
    checks.extend(limits(&facts));
    checks.push(image(call, engine, settings, programs));
    Ok(checks)
}

/// What the runtime says of itself; nothing when that cannot be read.
fn info(call: &Call, engine: Engine) -> Value {
    let said = engine.ask(call, &["info", "--format", "{{json .}}"], LOOK);
    said.ok().and_then(|said| serde_json::from_str(said.stdout.trim()).ok()).unwrap_or_default()
}

fn ownership(facts: &Value) -> &'static str {
    let podman = facts.pointer("/host/security/rootless").and_then(Value::as_bool);
    let docker = facts["SecurityOptions"].as_array().map(|options| {
        options.iter().any(|option| option.as_str().is_some_and(|text| text.contains("rootless")))
    });
    match podman.or(docker) {
        Some(true) => "rootless",
        Some(false) => "with root's rights",
        None => "it does not say with whose rights",
    }
}

/// Limits that the runtime says it cannot keep.
fn limits(facts: &Value) -> Option<Check> {
    let docker = [("MemoryLimit", "memory"), ("CpuCfsQuota", "cpus"), ("PidsLimit", "pids")];
    let lacks = |name: &str| facts.get(name).and_then(Value::as_bool) == Some(false);
    let mut missing: Vec<&str> =
        docker.iter().filter(|(name, _)| lacks(name)).map(|(_, setting)| *setting).collect();
    if let Some(held) = facts.pointer("/host/cgroupControllers").and_then(Value::as_array) {
        let podman = [("memory", "memory"), ("cpu", "cpus"), ("pids", "pids")];
        let lacks = |name: &str| !held.iter().any(|controller| controller.as_str() == Some(name));
        missing.extend(podman.iter().filter(|(name, _)| lacks(name)).map(|(_, setting)| *setting));
    }
    (!missing.is_empty()).then(|| {
        let message = format!("cannot be kept here: {}", missing.join(", "));
        let hint = "the control groups of these are not delegated to you".to_owned();
        check("limits", CheckStatus::Warn, message, Some(hint))
    })
}

/// A Docker on another machine publishes ports there.
fn far_away(call: &Call, engine: Engine) -> Option<Check> {
    let format = "{{.Endpoints.docker.Host}}";
    let said = (engine.0 == "docker")
        .then(|| engine.ask(call, &["context", "inspect", "--format", format], LOOK).ok())??;
    let at = said.stdout.trim();
    let far = ["tcp://", "ssh://"].iter().any(|kind| at.starts_with(kind));
    far.then(|| {
        let message = format!("Docker is at {at}; its boxes are reached only if their ports on 127.0.0.1 are forwarded");
        let hint = "use a Docker on this machine, or the ssh provider for that one".to_owned();
        check("place", CheckStatus::Warn, message, Some(hint))
    })
}

fn image(call: &Call, engine: Engine, settings: &Settings, programs: &Path) -> Check {
    let name = &settings.image;
    match engine.image(call, name) {
        Ok(Some(image)) => match server(programs, &image) {
            Ok(_) => ok("image", format!("{name} is here, for {}", image.machine())),
            Err(failure) => failed("image", &failure),
        },
        Ok(None) => check("image", CheckStatus::Ok, format!("{name} will be pulled"), None),
        Err(failure) => failed("image", &failure),
    }
}

/// One that is not there is only worth a word, unless it was chosen.
fn absent(engine: Engine, chosen: bool, failure: &Failure) -> Check {
    let missing = failure.kind() == ErrorKind::Unsupported;
    match (chosen, missing) {
        (false, true) => check(engine.0, CheckStatus::Skip, "not installed".to_owned(), None),
        (false, false) => Check { status: CheckStatus::Warn, ..failed(engine.0, failure) },
        (true, _) => failed(engine.0, failure),
    }
}

fn failed(id: &str, failure: &Failure) -> Check {
    let cause = failure.data().cause.first().map(|cause| format!(": {cause}")).unwrap_or_default();
    let message = format!("{}{cause}", failure.message());
    check(id, CheckStatus::Fail, message, failure.data().hint.clone())
}

fn ok(id: &str, message: String) -> Check {
    check(id, CheckStatus::Ok, message, None)
}

fn check(id: &str, status: CheckStatus, message: String, hint: Option<String>) -> Check {
    Check { id: format!("container.{id}"), status, message, hint }
}
