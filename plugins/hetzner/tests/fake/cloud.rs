//! What the cloud has, and how it answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::answer::{self, Facts, LOCATIONS, TYPES};
use crate::http::{Reply, Request};
use crate::machine::Machine;
use crate::rules::Rule;

/// What the service gives at most on a page.
const LARGEST_PAGE: u64 = 50;
/// How long a server takes to go.
const GOING: Duration = Duration::from_millis(60);
/// What the service takes of user data.
const USER_DATA: usize = 32 * 1024;

pub(crate) struct Cloud {
    folder: PathBuf,
    token: String,
    servers: Vec<Server>,
    keys: Vec<Key>,
    next: u64,
    pub(crate) rules: Vec<Rule>,
    pub(crate) requests: Vec<String>,
    /// Bodies of what was refused by a rule.
    pub(crate) refused: Vec<String>,
    pub(crate) page: u64,
    pub(crate) boot_ms: u64,
    /// Servers are set up in vain.
    pub(crate) broken: bool,
    /// Servers are switched off before they ever ran.
    pub(crate) off: bool,
    /// Somebody else answers at the addresses of servers.
    pub(crate) impostor: bool,
}

struct Server {
    id: u64,
    name: String,
    status: &'static str,
    labels: BTreeMap<String, String>,
    machine: String,
    location: String,
    image: String,
    ipv4: Option<String>,
    ipv6: bool,
    runs: Option<Machine>,
}

struct Key {
    id: u64,
    name: String,
    public: String,
    labels: BTreeMap<String, String>,
}

pub(crate) fn refuse(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, json!({"error": {"code": code, "message": message, "details": null}}))
}

fn invalid(what: &str) -> Reply {
    refuse(422, "invalid_input", what)
}

fn gone(what: &str) -> Reply {
    refuse(404, "not_found", &format!("{what} not found"))
}

/// The members of an object, unless one is not known.
fn members(body: &Value, known: &[&str]) -> Result<(), Reply> {
    let object = body.as_object().ok_or_else(|| refuse(400, "json_error", "not an object"))?;
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(invalid(&format!("unknown field {key}"))),
        None => Ok(()),
    }
}

fn labels(body: &Value) -> Result<BTreeMap<String, String>, Reply> {
    let Some(labels) = body.get("labels") else { return Ok(BTreeMap::new()) };
    let labels: BTreeMap<String, String> =
        serde_json::from_value(labels.clone()).map_err(|_| invalid("invalid labels"))?;
    let plain = |text: &str| {
        let edge = |c: char| c.is_ascii_alphanumeric();
        text.len() <= 63
            && text.chars().all(|c| edge(c) || "_.-".contains(c))
            && (text.is_empty() || (text.starts_with(edge) && text.ends_with(edge)))
    };
    match labels.iter().find(|(key, value)| key.is_empty() || !plain(key) || !plain(value)) {
        Some((key, _)) => Err(invalid(&format!("invalid label {key}"))),
        None => Ok(labels),
    }
}

impl Server {
    fn shown(&self) -> Value {
        answer::server(&Facts {
            id: self.id,
            name: &self.name,
            status: self.status,
            labels: &self.labels,
            machine: &self.machine,
            location: &self.location,
            image: &self.image,
            ipv4: self.ipv4.as_deref(),
            ipv6: self.ipv6,
        })
    }
}

impl Key {
    fn shown(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "public_key": self.public, "labels": self.labels,
            "fingerprint": "b7:2f:30:a0:2f:6c:58:6c:21:04:58:61:ba:06:3b:2f", "created": answer::NOW,
        })
    }
}

impl Cloud {
    pub(crate) fn new(folder: PathBuf, token: String) -> Self {
        let (servers, keys, rules, requests) = (vec![], vec![], vec![], vec![]);
        Self {
            folder,
            token,
            servers,
            keys,
            next: 1000,
            rules,
            requests,
            refused: vec![],
            page: LARGEST_PAGE,
            boot_ms: 100,
            broken: false,
            off: false,
            impostor: false,
        }
    }

    /// Everything there is.
    pub(crate) fn state(&self) -> Value {
        let servers: Vec<Value> = self.servers.iter().map(Server::shown).collect();
        let keys: Vec<Value> = self.keys.iter().map(Key::shown).collect();
        json!({"servers": servers, "ssh_keys": keys, "requests": self.requests, "refused": self.refused})
    }

    /// A server and a key that crabbox did not make.
    pub(crate) fn foreign(&mut self, body: &Value) {
        let labels = labels(body).unwrap_or_default();
        let name = body["name"].as_str().unwrap_or("theirs").to_owned();
        let id = self.id();
        self.keys.push(Key {
            id,
            name: name.clone(),
            public: format!("ssh-rsa {name}"),
            labels: labels.clone(),
        });
        let (machine, location, image) = ("cx23".into(), "fsn1".into(), "debian-13".into());
        let ipv4 = Some("192.0.2.1".to_owned());
        let id = self.id();
        self.servers.push(Server {
            id,
            name,
            status: "running",
            labels,
            machine,
            location,
            image,
            ipv4,
            ipv6: false,
            runs: None,
        });
    }

    /// Ends every server.
    pub(crate) fn end(&mut self) {
        self.servers.clear();
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Answers one request.
    pub(crate) fn answer(cloud: &Arc<Mutex<Self>>, request: &Request) -> Reply {
        let mut this = cloud.lock().unwrap_or_else(PoisonError::into_inner);
        let write = request.method != "GET";
        if request.token != this.token {
            let reading = request.token == format!("{}-readonly", this.token);
            match (reading, write) {
                (true, false) => {}
                (true, true) => {
                    return refuse(
                        403,
                        "token_readonly",
                        "the token is only allowed to perform GET requests",
                    );
                }
                _ => return refuse(401, "unauthorized", "unable to authenticate"),
            }
        }
        let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        let number = parts.get(1).and_then(|part| part.parse::<u64>().ok());
        let answered = match (&*request.method, parts[0], number) {
            ("GET", "servers", None) => {
                let all = this.servers.iter().map(Server::shown).collect();
                this.list("servers", all, request)
            }
            ("POST", "servers", None) => this.create(&request.body, cloud),
            ("GET", "servers", Some(id)) => {
                let found = this.servers.iter().find(|server| server.id == id);
                found.map_or_else(
                    || Err(gone("server")),
                    |one| Ok(Reply::json(200, json!({"server": one.shown()}))),
                )
            }
            ("PUT", "servers", Some(id)) => this.label(id, &request.body),
            ("DELETE", "servers", Some(id)) => this.delete(id, cloud),
            ("GET", "ssh_keys", None) => {
                let all = this.keys.iter().map(Key::shown).collect();
                this.list("ssh_keys", all, request)
            }
            ("POST", "ssh_keys", None) => this.add_key(&request.body),
            ("DELETE", "ssh_keys", Some(id)) => {
                let before = this.keys.len();
                this.keys.retain(|key| key.id != id);
                if this.keys.len() < before { Ok(Reply::nothing()) } else { Err(gone("SSH key")) }
            }
            ("GET", "locations", None) => this.list(
                "locations",
                LOCATIONS.iter().filter_map(|name| answer::location(name)).collect(),
                request,
            ),
            ("GET", "server_types", None) => this.list(
                "server_types",
                TYPES.iter().filter_map(|row| answer::machine_type(row.0)).collect(),
                request,
            ),
            ("GET", "images", None) => {
                let names = ["ubuntu-24.04", "debian-13", "4711"];
                this.list(
                    "images",
                    names.iter().filter_map(|name| answer::image(name)).collect(),
                    request,
                )
            }
            ("GET", "images", Some(id)) => {
                let image = answer::image(&id.to_string());
                image.map_or_else(
                    || Err(gone("image")),
                    |image| Ok(Reply::json(200, json!({"image": image}))),
                )
            }
            ("GET", "actions", Some(id)) => {
                Ok(Reply::json(200, json!({"action": answer::action(id, "create_server", 1)})))
            }
            ("GET", "actions", None) => {
                let id = request.query.get("id").and_then(|id| id.parse().ok()).unwrap_or(1);
                this.list("actions", vec![answer::action(id, "create_server", 1)], request)
            }
            _ => Err(gone("page")),
        };
        answered.unwrap_or_else(|refused| refused)
    }

    /// One page of what the query selects.
    fn list(&self, key: &str, all: Vec<Value>, request: &Request) -> Result<Reply, Reply> {
        let query = |name: &str| request.query.get(name).map(String::as_str);
        let number = |name: &str, usual: u64| {
            query(name).map_or(Ok(usual), |text| text.parse().map_err(|_| invalid(name)))
        };
        let (page, per_page) = (number("page", 1)?, number("per_page", 25)?);
        if page == 0 || per_page == 0 || per_page > LARGEST_PAGE {
            return Err(invalid("page or per_page is out of range"));
        }
        let per_page = per_page.min(self.page);
        let fits = |one: &Value| {
            let named = query("name").is_none_or(|name| one["name"] == name);
            let pairs = query("label_selector")
                .unwrap_or_default()
                .split(',')
                .filter(|pair| !pair.is_empty());
            let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
            named && pairs.all(|(name, value)| one["labels"][name] == value.trim_start_matches('='))
        };
        let all: Vec<Value> = all.into_iter().filter(fits).collect();
        let total = all.len() as u64;
        let last = total.div_ceil(per_page).max(1);
        let skip = usize::try_from((page - 1) * per_page).unwrap_or(usize::MAX);
        let take = usize::try_from(per_page).unwrap_or(usize::MAX);
        let items: Vec<Value> = all.into_iter().skip(skip).take(take).collect();
        let next = (page < last).then_some(page + 1);
        let previous = (page > 1).then(|| page - 1);
        Ok(Reply::json(
            200,
            json!({
                key: items,
                "meta": {"pagination": {
                    "page": page, "per_page": per_page, "previous_page": previous, "next_page": next, "last_page": last,
                    "total_entries": total,
                }},
            }),
        ))
    }

    fn add_key(&mut self, body: &Value) -> Result<Reply, Reply> {
        members(body, &["name", "public_key", "labels"])?;
        let text = |name: &str| {
            body[name].as_str().filter(|text| !text.is_empty()).ok_or_else(|| invalid(name))
        };
        let (name, public, labels) =
            (text("name")?.to_owned(), text("public_key")?.to_owned(), labels(body)?);
        if !public.starts_with("ssh-") {
            return Err(invalid("invalid public key"));
        }
        let bare = |key: &str| key.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
        if self.keys.iter().any(|key| key.name == name || bare(&key.public) == bare(&public)) {
            return Err(refuse(409, "uniqueness_error", "SSH key not unique"));
        }
        let key = Key { id: self.id(), name, public, labels };
        let shown = key.shown();
        self.keys.push(key);
        Ok(Reply::json(201, json!({"ssh_key": shown})))
    }

    fn create(&mut self, body: &Value, cloud: &Arc<Mutex<Self>>) -> Result<Reply, Reply> {
        members(
            body,
            &[
                "name",
                "server_type",
                "image",
                "location",
                "labels",
                "ssh_keys",
                "user_data",
                "start_after_create",
                "public_net",
            ],
        )?;
        let text = |name: &str| {
            body[name].as_str().filter(|text| !text.is_empty()).ok_or_else(|| invalid(name))
        };
        let (name, machine, image) = (text("name")?, text("server_type")?, text("image")?);
        let location = body["location"].as_str().unwrap_or("fsn1");
        let labels = labels(body)?;
        let kind = answer::machine_type(machine).ok_or_else(|| invalid("unknown server type"))?;
        answer::image(image).ok_or_else(|| invalid("image not found"))?;
        answer::location(location).ok_or_else(|| invalid("unknown location"))?;
        if !kind["locations"].as_array().unwrap().iter().any(|place| place["name"] == location) {
            return Err(invalid("unsupported location for server type"));
        }
        let wanted = body["ssh_keys"].as_array().into_iter().flatten();
        let known = |key: &Value| self.keys.iter().any(|one| *key == one.name || *key == one.id);
        if wanted.clone().any(|key| !known(key)) {
            return Err(refuse(404, "not_found", "ssh_key not found"));
        }
        let data = body["user_data"].as_str().unwrap_or_default();
        if data.len() > USER_DATA {
            return Err(invalid("user_data is too long"));
        }
        if self.servers.iter().any(|server| server.name == name) {
            return Err(refuse(409, "uniqueness_error", "server name is already used"));
        }
        let net = |name: &str| body["public_net"][name].as_bool().unwrap_or(true);
        let id = self.id();
        let ipv4 = net("enable_ipv4").then(|| self.free_address());
        let (name, machine, location, image) =
            (name.to_owned(), machine.to_owned(), location.to_owned(), image.to_owned());
        let address = ipv4.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
        let server = Server {
            id,
            name,
            status: "initializing",
            labels,
            machine,
            location,
            image,
            ipv4,
            ipv6: net("enable_ipv6"),
            runs: None,
        };
        let shown = server.shown();
        self.servers.push(server);
        self.boot(id, data.to_owned(), address, cloud);
        let password = if wanted.count() == 0 { json!("a-root-password") } else { Value::Null };
        let action = answer::action(id, "create_server", id);
        Ok(Reply::json(
            201,
            json!({"server": shown, "action": action, "next_actions": [], "root_password": password}),
        ))
    }

    /// A loopback address that no server of this cloud has; clouds of other tests have other ones.
    fn free_address(&self) -> String {
        let pid = std::process::id();
        let (high, low) = (64 + (pid >> 8) % 128, pid % 256);
        let mut all = (2..255).map(|n| format!("127.{high}.{low}.{n}"));
        let free =
            |address: &String| !self.servers.iter().any(|one| one.ipv4.as_ref() == Some(address));
        all.find(free).expect("fewer than 253 servers")
    }

    fn boot(&self, id: u64, data: String, address: String, cloud: &Arc<Mutex<Self>>) {
        let (cloud, folder, delay) =
            (Arc::clone(cloud), self.folder.join(id.to_string()), self.boot_ms);
        let impostor = self.impostor;
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            let machine = Machine::boot(&folder, &data, &address, impostor);
            let mut this = cloud.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(machine) = machine.as_ref().filter(|_| this.broken) {
                machine.break_it();
            }
            let status = if this.off { "off" } else { "running" };
            // One that was deleted meanwhile ends when it is dropped.
            if let Some(server) = this.servers.iter_mut().find(|server| server.id == id) {
                server.runs = machine;
                server.status = status;
            }
        });
    }

    fn label(&mut self, id: u64, body: &Value) -> Result<Reply, Reply> {
        let server =
            self.servers.iter_mut().find(|server| server.id == id).ok_or_else(|| gone("server"))?;
        members(body, &["name", "labels"])?;
        if body.get("labels").is_some() {
            server.labels = labels(body)?;
        }
        Ok(Reply::json(200, json!({"server": server.shown()})))
    }

    fn delete(&mut self, id: u64, cloud: &Arc<Mutex<Self>>) -> Result<Reply, Reply> {
        let server =
            self.servers.iter_mut().find(|server| server.id == id).ok_or_else(|| gone("server"))?;
        if server.status == "deleting" {
            return Err(refuse(423, "locked", "server is locked"));
        }
        server.status = "deleting";
        let ends = server.runs.take();
        let cloud = Arc::clone(cloud);
        std::thread::spawn(move || {
            drop(ends);
            std::thread::sleep(GOING);
            let mut this = cloud.lock().unwrap_or_else(PoisonError::into_inner);
            this.servers.retain(|server| server.id != id);
        });
        Ok(Reply::json(200, json!({"action": answer::action(id, "delete_server", id)})))
    }
}
