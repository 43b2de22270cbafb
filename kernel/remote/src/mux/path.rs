//! Where a master would listen: `ControlPath` of the user's own OpenSSH configuration, and nobody else's.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crabbox_kernel::ports::Address;
use crabbox_schemas::lease::SshAuth;
use sha1::{Digest, Sha1};

use crate::hop::{UserSsh, own_host, tokens};
use crate::ssh_config::Proxy;

/// Sockets the configuration names for a host, most likely first, and the host and port for people.
pub(crate) struct Named {
    pub(crate) sockets: Vec<PathBuf>,
    pub(crate) peer: String,
}

/// The sockets that may lead to a box: none unless the box is a host of the user's own whose configuration names
/// one. Where somebody announced the host's keys, only our own handshake can prove them.
pub(crate) fn candidates(address: &Address, user: &UserSsh) -> Option<Named> {
    let end = &address.endpoint;
    if end.auth == SshAuth::KernelKey || !end.host_keys.is_empty() {
        return None;
    }
    let (config, hop) = own_host(end, user);
    let text = config.control_path.filter(|text| !text.eq_ignore_ascii_case("none"))?;
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let short = name.split('.').next().unwrap_or_default();
    let host = hop.host.to_lowercase();
    let alias = config.host_key_alias.unwrap_or_else(|| host.clone());
    let (port, login) = (hop.ports[0].to_string(), &hop.login.user);
    let uid = rustix::process::geteuid().as_raw().to_string();
    let jump = match config.proxy {
        Some(Proxy::Jump(list)) => list.join(","),
        _ => String::new(),
    };
    // Older releases leave the jump hosts out of the hash.
    let hash = |jump: &str| hex(&Sha1::digest([&name, &host, &port, login, jump].concat()));
    let path = |hash: &str| {
        let table = [
            ('C', hash),
            ('L', short),
            ('d', &user.home.to_string_lossy()),
            ('h', &host),
            ('i', &uid),
            ('j', &jump),
            ('k', &alias),
            ('l', &name),
            ('n', &end.host),
            ('p', &port),
            ('r', login),
            ('u', &user.login),
        ];
        let text = match text.strip_prefix("~/") {
            Some(rest) => format!("{}/{rest}", user.home.display()),
            None => text.clone(),
        };
        PathBuf::from(tokens(&text, &table))
    };
    let mut sockets = vec![path(&hash(&jump)), path(&hash(""))];
    sockets.dedup();
    sockets.retain(|path| path.is_absolute());
    let peer = format!("{}:{port}", hop.host);
    (!sockets.is_empty()).then_some(Named { sockets, peer })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether what stands there is a socket that only this user can use; if not, why.
pub(super) fn is_ours(path: &Path) -> Result<(), String> {
    let meta = path.symlink_metadata().map_err(|e| e.to_string())?;
    if !meta.file_type().is_socket() {
        return Err("it is no socket".to_owned());
    }
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err("it belongs to another user".to_owned());
    }
    match meta.mode() & 0o077 {
        0 => Ok(()),
        _ => Err("others may use it, too".to_owned()),
    }
}
