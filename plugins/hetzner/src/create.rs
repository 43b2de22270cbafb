//! Making a server: candidate after candidate, and nothing left behind when none can be had.

use std::io;
use std::time::Duration;

use crabbox_plugin_sdk::{
    AcquireParams, Attempt, Bootstrap, Call, ErrorKind, Failure, Lease, Outcome, Progress,
};
use serde_json::{Value, json};

use crate::api::{Api, IMAGE, MachineType, Server, SshKey};
use crate::config::{Settings, machines};
use crate::server::{
    OURS, Reached, is_of, key_name, key_resource, labels, selector, server_resource,
};

/// Between two looks at a server that is being made, and how many there are: five minutes together.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 600;
/// Looks for something whose answer was lost, and the pause before each.
const SEARCHES: usize = 3;
const SEARCH: Duration = Duration::from_secs(1);
/// Most other machine types that are suggested.
const SUGGESTIONS: usize = 8;

/// One acquire.
pub(crate) struct Order<'a> {
    pub(crate) api: Api<'a>,
    pub(crate) settings: &'a Settings,
    pub(crate) params: &'a AcquireParams,
    pub(crate) bootstrap: &'a Bootstrap,
}

/// A machine type in a location.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    machine: &'a str,
    location: &'a str,
}

impl Order<'_> {
    /// Makes a server, or gives back the one an earlier attempt with the same id made.
    pub(crate) fn fill(&self) -> Result<Lease, Failure> {
        let not_started = |failure: Failure| failure.outcome(Outcome::NotStarted);
        self.call().check().map_err(not_started)?;
        if let Some(server) = self.earlier().map_err(not_started)? {
            self.call().record(&server_resource(&server))?;
            return self.wait(server).map_err(|failure| self.roll_back(failure));
        }
        self.image_exists().map_err(not_started)?;
        let made = self.key().and_then(|key| self.walk(&key));
        made.and_then(|server| self.wait(server)).map_err(|failure| self.roll_back(failure))
    }

    fn call(&self) -> &Call {
        self.api.call
    }

    fn earlier(&self) -> Result<Option<Server>, Failure> {
        let id = &self.params.desired.lease_id;
        let found: Vec<Server> = self.api.all("servers", &[("label_selector", &selector(id))])?;
        Ok(found.into_iter().find(|server| is_of(&server.labels, id)))
    }

    /// A wrong image is found before anything is made.
    fn image_exists(&self) -> Result<(), Failure> {
        let image = &self.settings.image;
        if self.api.has_image(image)? {
            return Ok(());
        }
        Err(Failure::invalid_config("/image", format!("there is no image {image}")).hint(IMAGE))
    }

    /// The lease's key in the project: the one that is there already, else a new one.
    fn key(&self) -> Result<SshKey, Failure> {
        let name = key_name(&self.params.desired.lease_id);
        if let Some(key) = self.key_called(&name)? {
            self.call().record(&key_resource(&key))?;
            return Ok(key);
        }
        let (labels, key) = (labels(self.params, None), &self.params.ssh_public_key);
        let body = json!({"name": name, "public_key": key, "labels": labels});
        let made = match self.api.create_key(&body) {
            Ok(made) => made,
            // The project has this key under another name.
            Err(failure) if failure.kind() == ErrorKind::Conflict => {
                let keys: Vec<SshKey> = self.api.all("ssh_keys", &[])?;
                return keys.into_iter().find(|known| self.is_ours(known)).ok_or(failure);
            }
            Err(failure) if is_lost(&failure) => {
                self.search(|| self.key_called(&name))?.ok_or(failure)?
            }
            Err(failure) => return Err(failure),
        };
        self.call().record(&key_resource(&made))?;
        Ok(made)
    }

    fn key_called(&self, name: &str) -> Result<Option<SshKey>, Failure> {
        let found: Vec<SshKey> = self.api.all("ssh_keys", &[("name", name)])?;
        match found.into_iter().find(|key| key.name == name) {
            Some(key) if !self.is_ours(&key) => {
                Err(Failure::conflict(format!("{name} is another key in this project")))
            }
            found => Ok(found),
        }
    }

    fn is_ours(&self, key: &SshKey) -> bool {
        let bare =
            |text: &str| text.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
        bare(&key.public_key) == bare(&self.params.ssh_public_key)
    }

    /// Tries one candidate after the other, and tells of each.
    fn walk(&self, key: &SshKey) -> Result<Server, Failure> {
        let mut misses: Vec<(Candidate<'_>, Failure)> = Vec::new();
        for machine in machines(&self.params.request) {
            for location in self.settings.locations() {
                let candidate = Candidate { machine, location };
                self.call().check()?;
                let failure = match self.create(candidate, key) {
                    Ok(server) => {
                        self.call().record(&server_resource(&server))?;
                        self.tell(candidate, None, "made");
                        return Ok(server);
                    }
                    Err(failure) => failure,
                };
                let kind = failure.kind();
                self.tell(candidate, Some(kind), failure.message());
                if !matches!(kind, ErrorKind::Capacity | ErrorKind::Quota) {
                    return Err(failure);
                }
                misses.push((candidate, failure));
                // A limit of the project is the same everywhere.
                if kind == ErrorKind::Quota {
                    break;
                }
            }
        }
        Err(self.nothing(&misses))
    }

    fn tell(&self, candidate: Candidate<'_>, category: Option<ErrorKind>, message: &str) {
        let Candidate { machine, location } = candidate;
        let (region, server_type) = (Some(location), Some(machine));
        self.call().attempt(&Attempt { region, server_type, market: None, category, message });
    }

    /// Makes one server. A name exists once in a project, so that asking again after a lost answer makes no second one.
    fn create(&self, candidate: Candidate<'_>, key: &SshKey) -> Result<Server, Failure> {
        let body = self.body(candidate, key);
        for _ in 0..2 {
            let failure = match self.api.create_server(&body) {
                Ok(server) => return Ok(server),
                Err(failure) => failure,
            };
            let taken = failure.kind() == ErrorKind::Conflict;
            if !taken && !is_lost(&failure) {
                return Err(failure);
            }
            match self.search(|| self.earlier())? {
                Some(server) => return Ok(server),
                None if taken => return Err(failure),
                None => self.call().check()?,
            }
        }
        Err(Failure::transient("hetzner does not say whether it made a server"))
    }

    fn body(&self, candidate: Candidate<'_>, key: &SshKey) -> Value {
        let mut keys = vec![key.name.clone()];
        keys.extend(self.settings.ssh_key.clone());
        json!({
            "name": self.params.desired.name,
            "server_type": candidate.machine,
            "image": self.settings.image,
            "location": candidate.location,
            "labels": labels(self.params, Some(candidate.machine)),
            "ssh_keys": keys,
            "user_data": self.bootstrap.user_data,
            "start_after_create": true,
            "public_net": {"enable_ipv4": self.settings.ipv4, "enable_ipv6": self.settings.ipv6},
        })
    }

    /// Looks a few times for what may have been made although nobody heard of it.
    fn search<T>(
        &self,
        look: impl Fn() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let mut last = Ok(None);
        for _ in 0..SEARCHES {
            self.call().sleep(SEARCH)?;
            last = look();
            match &last {
                Ok(None) => {}
                Err(failure) if is_lost(failure) => {}
                _ => return last,
            }
        }
        last
    }

    /// Waits until the server has an address and is about to run; from there on the kernel knocks.
    fn wait(&self, mut server: Server) -> Result<Lease, Failure> {
        let message = format!("server {} in {}", server.id, self.settings.location);
        let message = Some(message.as_str());
        self.call().progress(&Progress { phase: "starting", message, ..Progress::default() });
        for _ in 0..LOOKS {
            if !server.is_alive() {
                let what = format!("server {} is {} before it ever ran", server.id, server.status);
                return Err(Failure::bootstrap(what));
            }
            if server.status != "initializing" && server.public_net.host().is_some() {
                return server.lease(&Reached::Made(self.bootstrap));
            }
            self.call().check()?;
            self.call().sleep(LOOK)?;
            match self.api.server(server.id) {
                Ok(Some((now, _))) => server = now,
                Ok(None) => {
                    return Err(Failure::bootstrap(format!("server {} is gone again", server.id)));
                }
                Err(failure) if is_lost(&failure) || failure.kind() == ErrorKind::RateLimited => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::bootstrap(format!("server {} did not start in five minutes", server.id)))
    }

    /// Every candidate was tried: what was said of each, and what could be had instead.
    fn nothing(&self, misses: &[(Candidate<'_>, Failure)]) -> Failure {
        let quota = misses.iter().all(|(_, failure)| failure.kind() == ErrorKind::Quota);
        let what = match misses {
            [(Candidate { machine, location }, _)] => {
                format!("{machine} cannot be had in {location}")
            }
            all => {
                let request = &self.params.request;
                let wanted = request.machine_type.as_ref().unwrap_or(&request.class);
                format!("{wanted} cannot be had: {} tries", all.len())
            }
        };
        let failure = if quota { Failure::quota(what) } else { Failure::capacity(what) };
        let failure = misses.iter().fold(failure, |failure, (candidate, why)| {
            let Candidate { machine, location } = candidate;
            let line = format!("{machine} in {location}: {}: {why}", why.kind().word());
            failure.because(&io::Error::other(line))
        });
        let tried: Vec<&str> = misses.iter().map(|(candidate, _)| candidate.machine).collect();
        let others = self.alternatives(&tried).unwrap_or_default();
        let hint = match others.first() {
            Some(first) => format!("try --type {first}, or another hetzner.location"),
            None => "try another --class or hetzner.location".to_owned(),
        };
        failure.hint(hint).alternatives(others)
    }

    /// Machine types that the service says it has where we look, the largest first.
    fn alternatives(&self, tried: &[&str]) -> Result<Vec<String>, Failure> {
        let mut all: Vec<MachineType> = self.api.all("server_types", &[])?;
        let places = self.settings.locations();
        all.retain(|machine| {
            machine.architecture != "arm"
                && !tried.contains(&machine.name.as_str())
                && places.iter().any(|place| machine.is_at(place))
        });
        all.sort_by(|a, b| b.cores.cmp(&a.cores).then_with(|| a.name.cmp(&b.name)));
        Ok(all.into_iter().take(SUGGESTIONS).map(|machine| machine.name).collect())
    }

    /// Removes what a failed acquire made; only then it says so.
    fn roll_back(&self, failure: Failure) -> Failure {
        match crate::remove(&self.api, &self.params.desired.lease_id) {
            Ok(removed) if removed.is_done() => failure.outcome(Outcome::RolledBack),
            _ => failure.outcome(Outcome::Uncertain),
        }
    }
}

/// Whether nobody knows what became of a request.
fn is_lost(failure: &Failure) -> bool {
    matches!(failure.kind(), ErrorKind::Transient | ErrorKind::Timeout)
}

/// Every server of ours.
pub(crate) fn ours(api: &Api<'_>) -> Result<Vec<Server>, Failure> {
    api.all("servers", &[("label_selector", OURS)])
}
