//! `plugin new`: a working provider to change into one's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::failed;
use crabbox_schemas::error::ErrorCode;

use crate::context::Context;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox plugin new --lang python ./rack
  crabbox run --plugin-dev ./rack --provider rack -- uname -a")]
pub(super) struct Args {
    /// The folder to make; its name becomes the provider's
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The language to write it in
    #[arg(long, value_name = "LANGUAGE", value_parser = ["python", "node"])]
    lang: String,
    /// Who publishes it, such as a domain of yours
    #[arg(long, value_name = "NAME", default_value = "example.dev")]
    publisher: String,
}

/// A file of a template: its path, its text, whether it is a program.
type Piece = (&'static str, &'static str, bool);

macro_rules! piece {
    ($from:literal, $to:literal, $program:literal) => {
        ($to, include_str!(concat!("../../../../plugin-sdk/", $from)), $program)
    };
}

const PYTHON: &[Piece] = &[
    piece!("templates/python/crabbox-plugin.toml", "crabbox-plugin.toml", false),
    piece!("templates/config.schema.json", "config.schema.json", false),
    piece!("templates/python/provider.py", "provider.py", true),
    piece!("python/crabbox_plugin.py", "crabbox_plugin.py", false),
];

const NODE: &[Piece] = &[
    piece!("templates/node/crabbox-plugin.toml", "crabbox-plugin.toml", false),
    piece!("templates/config.schema.json", "config.schema.json", false),
    piece!("templates/node/provider.mjs", "provider.mjs", true),
    piece!("node/crabbox-plugin.mjs", "crabbox-plugin.mjs", false),
];

pub(super) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let folder = ctx.cwd.join(&args.folder);
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(plain) || name.starts_with('-') {
        return Err(KernelError::new(
            ErrorCode::Usage,
            format!("{name:?} cannot be a provider's name"),
        )
        .hint("use lower-case letters, digits and dashes"));
    }
    if folder.exists() {
        return Err(KernelError::new(
            ErrorCode::Conflict,
            format!("{} exists already", folder.display()),
        )
        .hint("choose another folder; nothing is overwritten"));
    }
    let pieces = if args.lang == "python" { PYTHON } else { NODE };
    let fault = |e: std::io::Error| failed("cannot write to", &folder, &e);
    fs::create_dir_all(&folder).map_err(fault)?;
    for (path, text, program) in pieces {
        let text = text.replace("toy-platform", name).replace("example.dev", &args.publisher);
        let path = folder.join(path);
        fs::write(&path, text).map_err(fault)?;
        let mode = if *program { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(fault)?;
    }
    let at = args.folder.display();
    ctx.terminal.out(&format!("made {at}; it works already:"));
    ctx.terminal.out(&format!("  crabbox run --plugin-dev {at} --provider {name} -- uname -a"));
    ctx.terminal.out(&format!("  crabbox plugin test {at}"));
    Ok(0)
}
