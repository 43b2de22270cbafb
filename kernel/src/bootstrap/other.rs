//! Macs and Windows machines: the scripts that make them boxes. They follow their vendors' documents and never ran on one.

use crabbox_schemas::lease::Bootstrap;

use super::{Recipe, check, made};
use crate::error::Result;
use crate::shell::quote;

/// The account of a Mac's image; crabbox makes none there.
const MAC_USER: &str = "ec2-user";
const MAC_ROOT: &str = "/Users/ec2-user/crabbox";
/// The server of a Mac is started by the system, on this port alone.
const MAC_PORT: u16 = 22;
const WINDOWS_ROOT: &str = "C:\\crabbox";
const LINUX_ROOT: &str = "/work/crabbox";

/// What commands on a Windows machine run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// Windows itself. There is no shell that crabbox could run commands with.
    Native,
    /// A Linux distribution inside it.
    Wsl2,
}

/// User data for a Mac: a script for root.
pub fn macos(recipe: &Recipe<'_>) -> Result<Bootstrap> {
    let root = recipe.work_root.unwrap_or(MAC_ROOT);
    let recipe = Recipe { user: MAC_USER, ports: &[MAC_PORT], ..*recipe };
    check(&recipe, root, &[])?;
    let text = filled(include_str!("macos.sh"), &recipe, root);
    made(&recipe, root, text, "/usr/local/bin/crabbox-ready".to_owned())
}

/// User data for a Windows machine: a PowerShell script for an administrator.
pub fn windows(recipe: &Recipe<'_>, mode: Windows) -> Result<Bootstrap> {
    let (root, finish, ready) = match mode {
        Windows::Native => {
            let ready = "cmd.exe /c dir C:\\ProgramData\\crabbox\\setup-complete";
            (WINDOWS_ROOT, include_str!("native.ps1"), ready.to_owned())
        }
        Windows::Wsl2 => {
            let root = recipe.work_root.unwrap_or(LINUX_ROOT);
            check(recipe, root, &[])?;
            let there = "/mnt/c/ProgramData/crabbox";
            let ready = format!(
                "[ ! -e {there}/failed ] || {{ cat {there}/failed; exit 99; }}; [ -e {there}/setup-complete ]"
            );
            (root, include_str!("wsl.ps1"), ready)
        }
    };
    check(recipe, LINUX_ROOT, &[])?;
    let text = include_str!("windows.ps1").replace("@FINISH@\n", finish);
    made(recipe, root, filled(&text, recipe, root), ready)
}

fn filled(text: &str, recipe: &Recipe<'_>, root: &str) -> String {
    let ports: String = recipe.ports.iter().map(|port| format!("Port {port}\n")).collect();
    let list = recipe.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let is_sh = text.starts_with("#!");
    let word = |word: &str| if is_sh { quote(word) } else { word.to_owned() };
    text.replace("@USER@", recipe.user)
        .replace("@ROOT@", &quote(root))
        .replace("@ENDS_AT@", &(recipe.ends_at_ms / 1000).to_string())
        .replace("@HOST_KEY@", &recipe.host_key.private)
        .replace("@HOST_KEY_PUBLIC@", &word(&recipe.host_key.public))
        .replace("@AUTHORIZED_KEY@", &word(recipe.authorized_key))
        .replace("@PORTS@", &ports)
        .replace("@PORT_LIST@", &list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::HostKey;

    fn recipe<'a>(host_key: &'a HostKey) -> Recipe<'a> {
        Recipe {
            user: "crabbox",
            ports: &[2222, 22],
            work_root: None,
            authorized_key: "ssh-ed25519 AAAA crabbox cbx_0123456789ab",
            host_key,
            features: &[],
            ends_at_ms: 1_780_000_000_000,
        }
    }

    fn host_key() -> HostKey {
        let private = "-----BEGIN KEY-----\nxxxx\n-----END KEY-----\n".to_owned();
        HostKey { private, public: "ssh-ed25519 BBBB crabbox".to_owned() }
    }

    /// Everything that is filled in is there, at the beginning of its line where that matters, and nothing is left open.
    fn holds(made: &Bootstrap, parts: &[&str]) {
        let text = &made.user_data;
        for part in
            parts.iter().chain(&["\n-----BEGIN KEY-----\nxxxx\n-----END KEY-----\n", "1780000000"])
        {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        let left = ["@USER@", "@ROOT@", "@PORT", "@HOST", "@AUTH", "@ENDS", "@FINISH"];
        assert!(!left.iter().any(|open| text.contains(open)), "{text}");
        assert_eq!(made.host_keys, ["ssh-ed25519 BBBB crabbox"]);
        assert!(text.len() < 8 * 1024, "{}", text.len());
    }

    #[test]
    fn a_mac_shows_the_key_we_know_at_the_port_its_system_serves() {
        let key = host_key();
        let made = macos(&recipe(&key)).unwrap();
        holds(
            &made,
            &[
                "'ssh-ed25519 AAAA crabbox cbx_0123456789ab'",
                "touch \"$state/bootstrapped\"",
                "shutdown -h",
            ],
        );
        assert_eq!((&*made.user, &made.ports[..]), ("ec2-user", &[22][..]));
        assert_eq!(made.work_root, "/Users/ec2-user/crabbox");
    }

    #[test]
    fn the_scripts_of_a_mac_are_plain_shell() {
        let key = host_key();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        std::fs::write(&path, macos(&recipe(&key)).unwrap().user_data).unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "the shell itself says whether it can read it"
        )]
        let checked = std::process::Command::new("bash").arg("-n").arg(&path).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }

    #[test]
    fn windows_serves_our_ports_with_our_key_and_a_password_nobody_knows() {
        let key = host_key();
        let native = windows(&recipe(&key), Windows::Native).unwrap();
        holds(
            &native,
            &[
                "\nPort 2222\nPort 22\n",
                "in 2222, 22)",
                "-Name 'crabbox'",
                "\\setup-complete\"",
                "PasswordAuthentication no",
            ],
        );
        assert_eq!((&*native.user, &*native.work_root), ("crabbox", "C:\\crabbox"));
        assert!(!native.user_data.contains("wsl.exe"), "{}", native.user_data);
    }

    #[test]
    fn commands_for_wsl2_go_to_the_linux_inside() {
        let key = host_key();
        let made = windows(&recipe(&key), Windows::Wsl2).unwrap();
        holds(
            &made,
            &[
                "--import Crabbox",
                "System32\\bash.exe",
                "mkdir -p /work/crabbox",
                "\\setup-complete\"",
            ],
        );
        assert_eq!(made.work_root, "/work/crabbox");
        assert!(made.ready_check.contains("/mnt/c/ProgramData/crabbox/setup-complete"));
        // A text in a text may not end the outer one.
        let ends = made.user_data.lines().filter(|line| line.starts_with("'@")).count();
        assert_eq!(ends, made.user_data.matches("@'\n").count());
    }

    #[test]
    fn what_only_a_linux_box_can_have_is_refused() {
        let key = host_key();
        let features = ["desktop".to_owned()];
        let recipe = Recipe { features: &features, ..recipe(&key) };
        assert!(macos(&recipe).is_err() && windows(&recipe, Windows::Wsl2).is_err());
    }
}
