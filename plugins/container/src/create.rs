//! Making a box and removing it, step by step.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_plugin_sdk::{AcquireParams, Call, ErrorKind, Failure, Lease, Outcome, Progress};
use serde_json::json;

use crate::container::{KEY, lease, resource};
use crate::engine::{Container, Engine, Image, SERVER};
use crate::notes;
use crate::settings::Settings;

/// How long a step that fetches nothing may take.
const STEP: Duration = Duration::from_secs(120);
/// How long fetching an image may take; its call ends earlier.
const PULL: Duration = Duration::from_secs(3600);

/// Refuses what a container cannot be.
pub(crate) fn check_request(params: &AcquireParams) -> Result<(), Failure> {
    let request = &params.request;
    if !matches!(request.target.as_str(), "" | "linux") {
        let message = format!("a container is a linux box, not {}", request.target);
        return Err(Failure::unsupported(message));
    }
    if let Some(wanted) = &request.machine_type {
        return Err(Failure::unsupported(format!("a container has no machine type {wanted}"))
            .hint("container.cpus and container.memory limit a box"));
    }
    Ok(())
}

/// Makes a box, or gives back the one an earlier attempt with the same id made.
pub(crate) fn acquire(
    call: &Call,
    engine: Engine,
    settings: &Settings,
    programs: &Path,
    params: AcquireParams,
) -> Result<Lease, Failure> {
    let not_started = |failure: Failure| failure.outcome(Outcome::NotStarted);
    if let Some(lease) = earlier(call, engine, &params).map_err(not_started)? {
        return Ok(lease);
    }
    let image = image(call, engine, &settings.image).map_err(not_started)?;
    let server = server(programs, &image).map_err(not_started)?;
    let args = arguments(engine, settings, &image, &params);
    let made = engine.must(call, "create the container", &args, STEP);
    let id = match made.map(|said| said.lines().last().unwrap_or_default().trim().to_owned()) {
        Ok(id) if !id.is_empty() => id,
        Ok(_) => return Err(Failure::transient("the runtime made a container and named none")),
        // It may have been made although nobody heard of it.
        Err(failure) => return Err(roll_back(call, engine, None, &params, failure)),
    };
    let made = call.record(&resource(&id)).and_then(|()| start(call, engine, &id, &server));
    made.map_err(|failure| roll_back(call, engine, Some(&id), &params, failure))
}

/// The box of an earlier attempt when it lives; what else carries the lease's label is removed.
fn earlier(call: &Call, engine: Engine, params: &AcquireParams) -> Result<Option<Lease>, Failure> {
    let id = params.desired.lease_id.as_str();
    for found in engine.labelled(call, &[("crabbox", "true"), ("lease", id)])? {
        if found.label(KEY) != params.ssh_public_key {
            return Err(Failure::conflict(format!("{id} exists already, with another key")));
        }
        if found.is_running()
            && let Some(notes) = notes::seen(call, engine, &found)?
        {
            return lease(engine, &found, Some(&notes)).map(Some);
        }
        remove(call, engine, &found.id)?;
    }
    Ok(None)
}

/// The image, fetched when it is not here.
fn image(call: &Call, engine: Engine, name: &str) -> Result<Image, Failure> {
    let image = match engine.image(call, name)? {
        Some(image) => image,
        None => {
            call.progress(&Progress { phase: "pull", message: Some(name), ..Progress::default() });
            engine.must(
                call,
                &format!("pull the image {name}"),
                &["pull", "--quiet", name],
                PULL,
            )?;
            engine.image(call, name)?.ok_or_else(|| {
                Failure::invalid_config("/image", format!("{name} was pulled and is not there"))
            })?
        }
    };
    match image.os.as_str() {
        "" | "linux" => Ok(image),
        other => Err(Failure::unsupported(format!("{name} is an image for {other}, not linux"))),
    }
}

/// The program that becomes the box's first process.
pub(crate) fn server(programs: &Path, image: &Image) -> Result<PathBuf, Failure> {
    let file = programs.join(format!("crabbox-box-server-linux-{}", image.machine()));
    if file.is_file() {
        return Ok(file);
    }
    let message = format!("there is no box server for {}: {}", image.machine(), file.display());
    Err(Failure::unsupported(message)
        .hint("use an image for this machine's processor, or build it with ./build-helper.sh"))
}

fn arguments(
    engine: Engine,
    settings: &Settings,
    image: &Image,
    params: &AcquireParams,
) -> Vec<String> {
    let work_root = settings.work_root(params.request.work_root.as_deref());
    let user = if settings.user.is_empty() { &image.user } else { &settings.user };
    let mut args: Vec<String> =
        ["create", "--rm", "--name", &params.desired.name, "--user", "0"].map(str::to_owned).into();
    let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
    add("--network", settings.network.clone());
    if !settings.on_host() {
        add("--hostname", params.desired.name.clone());
        add("--publish", "127.0.0.1::2222".to_owned());
    }
    let own = [
        ("crabbox", "true"),
        ("provider", "container"),
        ("lease", params.desired.lease_id.as_str()),
        ("slug", &params.desired.slug),
        ("runtime", engine.0),
        ("image", &settings.image),
        ("ssh_user", user),
        ("work_root", &work_root),
        (KEY, &params.ssh_public_key),
    ];
    let own = own.iter().map(|(name, value)| (*name, *value));
    let given = params.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // Ours come last: of two values of one label the last counts.
    for (name, value) in given.chain(own) {
        add("--label", format!("{name}={value}"));
    }
    limits(settings, &mut add);
    settings.env.iter().for_each(|pair| add("--env", pair.clone()));
    settings.volumes.iter().for_each(|volume| add("--volume", volume.clone()));
    if settings.docker_socket {
        add("--volume", "/var/run/docker.sock:/var/run/docker.sock".to_owned());
    }
    add("--entrypoint", SERVER.to_owned());
    args.push(settings.image.clone());
    let wanted = json!({
        "authorizedKey": params.ssh_public_key,
        "listen": if settings.on_host() { "127.0.0.1:0" } else { "0.0.0.0:2222" },
        "user": user,
        "workRoot": work_root,
        "ttlSecs": params.request.ttl_secs,
        "idleTimeoutSecs": params.request.idle_timeout_secs,
    });
    args.extend(["--contain".to_owned(), wanted.to_string()]);
    args
}

fn limits(settings: &Settings, add: &mut impl FnMut(&str, String)) {
    if let Some(cpus) = settings.cpus {
        add("--cpus", cpus.to_string());
    }
    if !settings.memory.is_empty() {
        add("--memory", settings.memory.clone());
    }
    if let Some(pids) = settings.pids {
        add("--pids-limit", pids.to_string());
    }
}

/// Puts the server in, starts it, and waits until it listens.
fn start(call: &Call, engine: Engine, id: &str, server: &Path) -> Result<Lease, Failure> {
    let (from, to) = (server.to_string_lossy(), format!("{id}:{SERVER}"));
    engine.must(call, "copy the box's server into the container", &["cp", &from, &to], STEP)?;
    engine.must(call, "start the container", &["start", id], STEP)?;
    let ended = || Failure::bootstrap("the container ended at once");
    let found = engine.container(call, id)?.ok_or_else(ended)?;
    let notes = notes::ask(call, engine, &found)?;
    let lease = lease(engine, &found, Some(&notes))?;
    match lease.ssh {
        Some(_) => Ok(lease),
        None => Err(Failure::bootstrap("the runtime does not publish the port of the box")
            .hint("set container.network to `bridge`, or to a network that can publish ports")),
    }
}

/// Removes what a failed acquire made; only then it says so.
fn roll_back(
    call: &Call,
    engine: Engine,
    id: Option<&str>,
    params: &AcquireParams,
    failure: Failure,
) -> Failure {
    let lease_id = params.desired.lease_id.as_str();
    let ours = [("crabbox", "true"), ("lease", lease_id)];
    let removed = match id {
        Some(id) => remove(call, engine, id),
        None => engine.labelled(call, &ours).and_then(|all: Vec<Container>| {
            all.iter().try_for_each(|found| remove(call, engine, &found.id))
        }),
    };
    let left = id.map(resource);
    match (removed, left) {
        (Ok(()), left) => {
            left.iter().for_each(|left| drop(call.forget(left)));
            failure.outcome(Outcome::RolledBack)
        }
        (Err(_), Some(left)) => failure.outcome(Outcome::Uncertain).left_behind(left),
        (Err(_), None) => failure.outcome(Outcome::Uncertain),
    }
}

/// Removes a container with everything in it; one that is gone meanwhile is as good.
pub(crate) fn remove(call: &Call, engine: Engine, id: &str) -> Result<(), Failure> {
    let args = ["rm", "--force", "--volumes", id];
    match engine.must(call, "remove the container", &args, STEP) {
        Ok(_) => Ok(()),
        Err(failure) if failure.kind() == ErrorKind::NotFound => Ok(()),
        // One that ends removes itself, and the runtime may trip over that.
        Err(failure) => match engine.container(call, id) {
            Ok(None) => Ok(()),
            _ => Err(failure),
        },
    }
}
