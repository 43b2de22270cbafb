//! Planning the way to a box: which hosts, ports, users, keys and trust, jump hosts first, the box last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::Address;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::{SshAuth, SshEndpoint};
use russh::keys::PublicKey;

use crate::hostkey::Trust;
use crate::identity::{Ask, Login};
use crate::proxy;
use crate::ssh_config::{HostConfig, Proxy, read};

/// How many hosts a way may have.
const HOPS: usize = 8;
/// Whom a leased box knows when its provider does not say.
const DEFAULT_USER: &str = "crabbox";
/// Keys OpenSSH tries by itself.
const DEFAULT_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];
/// The machine's own known hosts.
const GLOBAL_KNOWN_HOSTS: &str = "/etc/ssh/ssh_known_hosts";

/// The user's own SSH facts; whoever makes a dialer has read them from the environment.
#[derive(Clone)]
pub struct UserSsh {
    /// The home directory.
    pub home: PathBuf,
    /// The name the user is logged in with here.
    pub login: String,
    /// The SSH agent's socket.
    pub agent_socket: Option<PathBuf>,
    /// Asks for passphrases.
    pub ask: Option<Ask>,
    /// OpenSSH configuration files, most important first.
    pub config_files: Vec<PathBuf>,
    /// The environment of programs that the configuration names.
    pub env: BTreeMap<String, String>,
}

impl UserSsh {
    /// The usual configuration files below `home` and `/etc`, no agent and nobody to ask.
    pub fn new(home: impl Into<PathBuf>, login: impl Into<String>) -> Self {
        let home = home.into();
        let config_files = vec![home.join(".ssh/config"), PathBuf::from("/etc/ssh/ssh_config")];
        let env = BTreeMap::new();
        Self { home, login: login.into(), agent_socket: None, ask: None, config_files, env }
    }
}

/// One SSH server on the way.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    pub(crate) host: String,
    pub(crate) ports: Vec<u16>,
    /// The program that leads to it; tokens are replaced.
    pub(crate) program: Option<String>,
    pub(crate) trust: Trust,
    pub(crate) login: Login,
}

/// The hops to a box.
pub(crate) fn route(address: &Address, user: &UserSsh) -> Result<Vec<Hop>> {
    let end = &address.endpoint;
    let given = given_keys(&end.host_keys)?;
    if end.auth == SshAuth::KernelKey {
        return Ok(vec![leased(address, given)]);
    }
    let planner = Planner { user, pins: &address.known_hosts };
    let config = planner.config(&end.host);
    let mut route = Vec::new();
    planner.jumps(&end.host, &config, &mut route, 1)?;
    let mut hop = planner.hop(&end.host, &config, Some(end));
    hop.program = planner.program(&end.host, &config, &hop)?;
    hop.trust.given = given;
    if let (SshAuth::KeyFile, Some(file)) = (end.auth, &end.key_file) {
        hop.login.files = vec![expand(file, user, &end.host, &hop.host, &hop.login.user)];
        hop.login.only_files = true;
    }
    route.push(hop);
    Ok(route)
}

/// What the user's configuration says of a host of their own, and the hop it makes.
pub(crate) fn own_host(end: &SshEndpoint, user: &UserSsh) -> (HostConfig, Hop) {
    let planner = Planner { user, pins: Path::new("") };
    let config = planner.config(&end.host);
    let hop = planner.hop(&end.host, &config, Some(end));
    (config, hop)
}

/// A box reached with the lease's own key.
fn leased(address: &Address, given: Vec<PublicKey>) -> Hop {
    let end = &address.endpoint;
    let ports = ports(end, 22);
    let user = if end.user.is_empty() { DEFAULT_USER } else { &end.user };
    Hop {
        host: end.host.clone(),
        trust: Trust {
            name: end.host.clone(),
            ports: ports.clone(),
            port: ports[0],
            given,
            files: Vec::new(),
            pins: address.known_hosts.clone(),
        },
        login: Login {
            user: user.to_owned(),
            secret: end.user_secret,
            files: vec![address.key.clone()],
            agent: None,
            only_files: true,
            again: true,
        },
        program: None,
        ports,
    }
}

fn given_keys(lines: &[String]) -> Result<Vec<PublicKey>> {
    let read = |line: &String| {
        PublicKey::from_openssh(line.trim()).map_err(|e| {
            KernelError::new(
                ErrorCode::SshHostKey,
                "the provider announced a host key that cannot be read",
            )
            .at("host-key")
            .because(&e)
        })
    };
    lines.iter().map(read).collect()
}

/// The first port and its fallbacks, each once.
fn ports(end: &SshEndpoint, default: u16) -> Vec<u16> {
    let first = if end.port == 0 { default } else { end.port };
    let mut ports = vec![first];
    for port in end.fallback_ports.iter().filter(|port| **port != 0) {
        if !ports.contains(port) {
            ports.push(*port);
        }
    }
    ports
}

struct Planner<'a> {
    user: &'a UserSsh,
    pins: &'a Path,
}

impl Planner<'_> {
    fn config(&self, host: &str) -> HostConfig {
        read(&self.user.config_files, &self.user.home, host)
    }

    /// Adds the hosts that lead to `host`.
    fn jumps(
        &self,
        host: &str,
        config: &HostConfig,
        route: &mut Vec<Hop>,
        depth: usize,
    ) -> Result<()> {
        let list = match &config.proxy {
            None | Some(Proxy::Direct | Proxy::Command(_)) => return Ok(()),
            Some(Proxy::Jump(list)) => list,
        };
        for (at, jump) in list.iter().enumerate() {
            if depth > HOPS || route.len() >= HOPS {
                let message = format!("the way to {host} has more than {HOPS} jump hosts");
                return Err(KernelError::new(ErrorCode::Config, message)
                    .at("config")
                    .hint("look for a ProxyJump that leads back to itself"));
            }
            let end = jump_end(jump)?;
            let config = self.config(&end.host);
            let mut hop = self.hop(&end.host, &config, Some(&end));
            if at == 0 {
                self.jumps(&end.host, &config, route, depth + 1)?;
                hop.program = self.program(&end.host, &config, &hop)?;
            }
            route.push(hop);
        }
        Ok(())
    }

    /// The program that leads to a host, when it is the first on the way.
    fn program(&self, alias: &str, config: &HostConfig, hop: &Hop) -> Result<Option<String>> {
        let Some(Proxy::Command(text)) = &config.proxy else { return Ok(None) };
        let port = hop.ports[0].to_string();
        proxy::command(text, [&hop.host, alias, &port, &hop.login.user]).map(Some)
    }

    fn hop(&self, alias: &str, config: &HostConfig, end: Option<&SshEndpoint>) -> Hop {
        let user = end
            .map(|end| end.user.clone())
            .filter(|user| !user.is_empty())
            .or_else(|| config.user.clone())
            .unwrap_or_else(|| self.user.login.clone());
        let host = config
            .host_name
            .as_deref()
            .map_or(alias.to_owned(), |name| tokens(name, &[('h', alias)]));
        let path = |text: &String| expand(text, self.user, alias, &host, &user);
        let ports = ports(end.unwrap_or(&SshEndpoint::default()), config.port.unwrap_or(22));
        let named = config.known_hosts.clone().unwrap_or_else(|| {
            vec!["~/.ssh/known_hosts".to_owned(), "~/.ssh/known_hosts2".to_owned()]
        });
        let mut files: Vec<PathBuf> =
            named.iter().filter(|name| *name != "none").map(path).collect();
        files.push(PathBuf::from(GLOBAL_KNOWN_HOSTS));
        let configured: Vec<PathBuf> =
            config.identity_files.iter().filter(|name| *name != "none").map(path).collect();
        let by_default = DEFAULT_KEYS.iter().map(|name| self.user.home.join(".ssh").join(name));
        let keys = match config.identity_files.is_empty() {
            true => by_default.filter(|key| key.exists()).collect(),
            false => configured,
        };
        let agent = match config.identity_agent.as_deref() {
            None | Some("SSH_AUTH_SOCK") => self.user.agent_socket.clone(),
            Some("none") => None,
            Some(socket) => Some(path(&socket.to_owned())),
        };
        Hop {
            trust: Trust {
                name: config.host_key_alias.clone().unwrap_or_else(|| host.clone()),
                ports: ports.clone(),
                port: ports[0],
                given: Vec::new(),
                files,
                pins: self.pins.to_owned(),
            },
            login: Login {
                secret: end.is_some_and(|end| end.user_secret),
                user,
                files: keys,
                agent,
                only_files: config.identities_only.unwrap_or(false),
                again: false,
            },
            program: None,
            ports,
            host,
        }
    }
}

/// `[user@]host[:port]`, also as `ssh://` and with an IPv6 address in brackets.
fn jump_end(text: &str) -> Result<SshEndpoint> {
    let rest = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (host, port) = match place.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, after)) => (host, after.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (place, None),
        },
    };
    let port = port.map_or(Ok(0), str::parse).map_err(|e| {
        KernelError::new(ErrorCode::Config, format!("ProxyJump {text:?} has a bad port"))
            .at("config")
            .because(&e)
    })?;
    Ok(SshEndpoint { user: user.to_owned(), host: host.to_owned(), port, ..SshEndpoint::default() })
}

/// A path of the SSH configuration: `~` and the tokens OpenSSH allows there.
fn expand(text: &str, user: &UserSsh, alias: &str, host: &str, login: &str) -> PathBuf {
    let home = user.home.to_string_lossy();
    let text =
        tokens(text, &[('d', &home), ('h', host), ('n', alias), ('r', login), ('u', &user.login)]);
    match text.strip_prefix("~/") {
        Some(rest) => user.home.join(rest),
        None => user.home.join(text),
    }
}

/// Replaces `%x`; what is not in the table stays.
pub(crate) fn tokens(text: &str, table: &[(char, &str)]) -> String {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, rest.clone().next()) {
            ('%', Some('%')) => {
                out.push('%');
                rest.next();
            }
            ('%', Some(letter)) => match table.iter().find(|row| row.0 == letter) {
                Some(row) => {
                    out.push_str(row.1);
                    rest.next();
                }
                None => out.push('%'),
            },
            _ => out.push(c),
        }
    }
    out
}
