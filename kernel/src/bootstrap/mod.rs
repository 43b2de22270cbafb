//! How a bare Linux machine becomes a box: user data for cloud-init, made once for every provider that only makes machines.
//!
//! It makes a user with the lease's key, gives the SSH server a host key that is known before the first connection,
//! and ends the machine with its lease, whatever becomes of us. JSON is YAML, so nothing here needs a template.

mod other;

pub use other::{Windows, macos, windows};

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::Bootstrap;
use serde_json::{Value, json};

use crate::error::{KernelError, Result};
use crate::ports::HostKey;
use crate::shell::quote;
use crate::time::rfc3339;

/// The manifest feature of providers whose machines start with cloud-init.
pub const CLOUD_INIT: &str = "cloud-init";
/// The status of a ready check that says: never.
pub const NEVER_READY: i32 = 99;
/// Most bytes of user data: what the narrowest cloud takes, unencoded.
const MOST: usize = 16 * 1024;
/// Where boxes work unless somebody chose another place.
const WORK_ROOT: &str = "/work/crabbox";

const READY: &str = "/usr/local/bin/crabbox-ready";
const SETUP: &str = "/usr/local/sbin/crabbox-setup";
const JOIN: &str = "/usr/local/bin/crabbox-tailnet";
const UNITS: &str = "/etc/systemd/system";

/// What joins a box to a tailnet, with the key on its standard input.
pub const TAILNET: &str = "crabbox-tailnet";
/// The feature of boxes that shall join one.
pub const TAILSCALE: &str = "tailscale";

/// What a box can have beside the usual: its word, the part of the setup that makes it, and the words that prove it.
const PARTS: &[(&str, &str, &str)] = &[
    ("desktop", include_str!("desktop.sh"), VNC_LISTENS),
    ("browser", include_str!("browser.sh"), "command -v crabbox-browser"),
    ("code", include_str!("code.sh"), "command -v code-server"),
    (TAILSCALE, include_str!("tailscale.sh"), "command -v tailscale"),
];
const PARTS_FOLDER: &str = "/usr/local/lib/crabbox";
/// A listener on 127.0.0.1:5900, as a little-endian kernel shows it.
const VNC_LISTENS: &str = "grep -q ': 0100007F:170C 00000000:0000 0A ' /proc/net/tcp";

/// What is particular to one box.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// Login name.
    pub user: &'a str,
    /// Ports of the SSH server, the preferred one first.
    pub ports: &'a [u16],
    /// Directory below which work directories are made.
    pub work_root: Option<&'a str>,
    /// Public half of the lease's key.
    pub authorized_key: &'a str,
    /// The host key.
    pub host_key: &'a HostKey,
    /// What it shall have beside the usual.
    pub features: &'a [String],
    /// When the machine ends, milliseconds since 1970.
    pub ends_at_ms: u64,
}

/// User data for a Linux machine, and what is known of the box it will be.
pub fn linux(recipe: &Recipe<'_>) -> Result<Bootstrap> {
    let work_root = recipe.work_root.unwrap_or(WORK_ROOT);
    let words = PARTS.iter().map(|(word, ..)| *word).collect::<Vec<_>>();
    check(recipe, work_root, &words)?;
    let user_data = format!("#cloud-config\n{}\n", cloud_config(recipe, work_root));
    made(recipe, work_root, user_data, "crabbox-ready".to_owned())
}

fn made(
    recipe: &Recipe<'_>,
    work_root: &str,
    user_data: String,
    ready_check: String,
) -> Result<Bootstrap> {
    if user_data.len() > MOST {
        let what = format!("the user data of a box has {} bytes, and {MOST} fit", user_data.len());
        return Err(KernelError::new(ErrorCode::Internal, what));
    }
    Ok(Bootstrap {
        user_data,
        user: recipe.user.to_owned(),
        ports: recipe.ports.to_vec(),
        work_root: work_root.to_owned(),
        host_keys: vec![recipe.host_key.public.clone()],
        ready_check,
    })
}

/// Refuses what would be read as something else on the machine.
fn check(recipe: &Recipe<'_>, work_root: &str, features: &[&str]) -> Result<()> {
    let wrong = |what: String, key: &str| {
        Err(KernelError::new(ErrorCode::Config, what).hint(format!("set {key}")))
    };
    let user = recipe.user;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let begins = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if !begins || user.len() > 32 || !user.chars().all(plain) {
        return wrong(format!("{user:?} cannot be a login name on a box"), "ssh.user");
    }
    let odd = |c: char| c.is_control() || c == '\'';
    let climbs = work_root.split('/').any(|part| part == "..");
    if !work_root.starts_with('/') || climbs || work_root.contains(odd) {
        return wrong(format!("{work_root:?} cannot be the work root of a box"), "workRoot");
    }
    let known = |feature: &String| features.iter().any(|word| word == feature);
    if let Some(unknown) = recipe.features.iter().find(|feature| !known(feature)) {
        return wrong(format!("no box can be made with {unknown:?}"), "other features");
    }
    if recipe.ports.is_empty() || recipe.ports.contains(&0) {
        return wrong("a box needs a port for its SSH server".to_owned(), "ssh.port");
    }
    Ok(())
}

fn cloud_config(recipe: &Recipe<'_>, work_root: &str) -> Value {
    let user = json!({
        "name": recipe.user,
        "shell": "/bin/bash",
        "lock_passwd": true,
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "ssh_authorized_keys": [recipe.authorized_key],
    });
    json!({
        "package_update": false,
        "package_upgrade": false,
        "ssh_pwauth": false,
        "disable_root": recipe.user != "root",
        "users": [user],
        "ssh_keys": {
            "ed25519_private": recipe.host_key.private,
            "ed25519_public": recipe.host_key.public,
        },
        "write_files": files(recipe, work_root),
        "runcmd": [[SETUP]],
    })
}

fn files(recipe: &Recipe<'_>, work_root: &str) -> Value {
    let asked = |word: &str| recipe.features.iter().any(|feature| feature == word);
    let parts: Vec<_> = PARTS.iter().filter(|(word, ..)| asked(word)).collect();
    let place = |word: &str| format!("{PARTS_FOLDER}/{word}.sh");
    let paths: Vec<String> = parts.iter().map(|(word, ..)| place(word)).collect();
    let proof = |(word, _, proof): &&(&str, &str, &str)| format!("prove {word} {proof}\n");
    let proofs: String = parts.iter().map(proof).collect();
    let fill = |text: &str| {
        let text = text.replace("@PARTS@", &paths.join(" ")).replace("@PROOFS@\n", &proofs);
        text.replace("@USER@", &quote(recipe.user)).replace("@ROOT@", &quote(work_root))
    };
    let file = |path: &str, permissions: &str, content: String| json!({"path": path, "permissions": permissions, "content": content});
    let plain = |path: &str, content: String| file(path, "0644", content);
    let script = |path: &str, text: &str| file(path, "0755", fill(text));
    let usual = [
        // Of two values the server believes the first it reads, and images bring files of their own.
        plain("/etc/ssh/sshd_config.d/01-crabbox.conf", sshd(recipe.ports)),
        plain(&format!("{UNITS}/crabbox-expiry.service"), EXPIRY_SERVICE.to_owned()),
        plain(&format!("{UNITS}/crabbox-expiry.timer"), expiry_timer(recipe.ends_at_ms)),
        script(READY, include_str!("ready.sh")),
        script(SETUP, include_str!("setup.sh")),
    ];
    let more = parts.iter().map(|(word, text, _)| plain(&place(word), fill(text)));
    let join = asked(TAILSCALE).then(|| script(JOIN, include_str!("join.sh")));
    usual.into_iter().chain(more).chain(join).collect()
}

fn sshd(ports: &[u16]) -> String {
    let ports: String = ports.iter().map(|port| format!("Port {port}\n")).collect();
    format!("{ports}PasswordAuthentication no\nKbdInteractiveAuthentication no\n")
}

const EXPIRY_SERVICE: &str = "[Unit]\nDescription=End the machine with its crabbox lease\n\n\
    [Service]\nType=oneshot\nExecStart=/usr/bin/env systemctl poweroff\n";

/// A moment that passed while the machine was off counts at its next start.
fn expiry_timer(ends_at_ms: u64) -> String {
    let at = rfc3339(ends_at_ms);
    let (day, rest) = at.split_once('T').unwrap_or((&at, "00:00:00"));
    let time = rest.get(..8).unwrap_or("00:00:00");
    format!(
        "[Unit]\nDescription=The end of the crabbox lease\n\n[Timer]\nOnCalendar={day} {time} UTC\n\
         AccuracySec=1s\nPersistent=true\n\n[Install]\nWantedBy=timers.target\n"
    )
}

#[cfg(test)]
mod tests;
