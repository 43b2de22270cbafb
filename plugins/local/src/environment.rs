//! The environment of a box's commands: nothing is inherited, everything is listed here.

use std::path::{Path, PathBuf};

use crabbox_plugin_sdk::UserFacts;

use crate::record::BoxDir;

/// Marks every process of a box with the box's directory, so that the last one can be found.
pub(crate) const MARK: &str = "CRABBOX_BOX";

/// Search path of users without one.
const PLAIN_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Toolchains that live with the user: the variable that says where, and the place in the home when
/// it does not.
const TOOLCHAINS: [(&str, &str); 5] = [
    ("RUSTUP_HOME", ".rustup"),
    ("PYENV_ROOT", ".pyenv"),
    ("NVM_DIR", ".nvm"),
    ("VOLTA_HOME", ".volta"),
    ("SDKMAN_DIR", ".sdkman"),
];

/// Shells for people, best first.
const SHELLS: [&str; 4] = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/bin/sh"];

pub(crate) fn shell() -> &'static str {
    SHELLS.into_iter().find(|shell| Path::new(shell).exists()).unwrap_or("/bin/sh")
}

pub(crate) fn login(user: &UserFacts) -> &str {
    if user.login.is_empty() { "crabbox" } else { &user.login }
}

/// The box's login profile: the user's search path again, since the system's profile sets its own.
pub(crate) fn profile(user: &UserFacts) -> String {
    format!("PATH='{}'\nexport PATH\n", search_path(user).replace('\'', r"'\''"))
}

fn search_path(user: &UserFacts) -> &str {
    if user.path.is_empty() { PLAIN_PATH } else { &user.path }
}

pub(crate) fn environment(
    dir: &BoxDir,
    user: &UserFacts,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<(String, String)> {
    let part = |name| dir.part(name).to_string_lossy().into_owned();
    let login = login(user).to_owned();
    let path = search_path(user);
    let mut env = vec![
        ("HOME", part("home")),
        ("USER", login.clone()),
        ("LOGNAME", login),
        ("SHELL", shell().to_owned()),
        ("PATH", path.to_owned()),
        ("TMPDIR", part("tmp")),
        (MARK, dir.path().to_string_lossy().into_owned()),
    ];
    env.extend(variable("LANG").map(|lang| ("LANG", lang)));
    for (name, folder) in TOOLCHAINS {
        let folder = variable(name).map_or(Path::new(&user.home).join(folder), PathBuf::from);
        if folder.is_absolute() && folder.is_dir() {
            env.push((name, folder.to_string_lossy().into_owned()));
        }
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
