//! A plugin with every frame written down on its way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::{Room, binary};

/// A folder with a provider's plugin, whose frames go to `frames.in` and `frames.out` of the room.
pub fn tapped(room: &Room, provider: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(provider);
    let folder = room.at("tapped");
    fs::create_dir(&folder).expect("a folder");
    fs::copy(from.join("config.schema.json"), folder.join("config.schema.json")).expect("a schema");
    let manifest = fs::read_to_string(from.join("crabbox-plugin.toml")).expect("a manifest");
    let (head, grants) = (manifest.split("[[artifact]]").next(), manifest.split("[grants]").nth(1));
    let grants = grants.expect("grants");
    // Writing the frames down is a power of its own.
    let grants = match grants.contains("powers = [") {
        true => grants.replace("powers = [", "powers = [\"write\", "),
        false => format!("\npowers = [\"write\"]{grants}"),
    };
    let artifact = "[[artifact]]\nruntime = \"stdio\"\npath = \"tap\"\n\n[grants]";
    let text = format!("{}{artifact}{grants}", head.expect("a head"));
    fs::write(folder.join("crabbox-plugin.toml"), text).expect("a manifest");
    let (program, frames) = (binary(&format!("crabbox-provider-{provider}")), room.at("frames"));
    let tap = format!(
        "#!/bin/sh\ntee -a {frames}.in | {} | tee -a {frames}.out\n",
        program.display(),
        frames = frames.display()
    );
    fs::write(folder.join("tap"), tap).expect("a program");
    fs::set_permissions(folder.join("tap"), PermissionsExt::from_mode(0o755)).expect("its mode");
    folder
}
