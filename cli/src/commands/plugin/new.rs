//! `plugin new`: a working provider to change into one's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::failed;
use crabbox_plugins::is_id;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::PluginNewView;
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
    #[arg(long, value_name = "LANGUAGE", value_parser = ["rust", "python", "node", "go"])]
    lang: String,
    /// Where the Rust SDK is, for a source checkout of crabbox; without it Cargo looks for a release
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
    /// Who publishes it, such as a domain of yours
    #[arg(long, value_name = "NAME", default_value = "example.dev")]
    publisher: String,
}

/// A provider to begin with.
struct Template {
    pieces: &'static [Piece],
    /// What makes a program of it, for languages that need it.
    build: Option<&'static str>,
}

/// A file of a template: its path, its text, whether it is a program.
type Piece = (&'static str, &'static str, bool);

macro_rules! piece {
    ($from:literal, $to:literal, $program:literal) => {
        ($to, include_str!(concat!("../../../../plugin-sdk/", $from)), $program)
    };
}

const SETTINGS: Piece = piece!("templates/config.schema.json", "config.schema.json", false);

const PYTHON: Template = Template {
    pieces: &[
        piece!("templates/python/crabbox-plugin.toml", "crabbox-plugin.toml", false),
        SETTINGS,
        piece!("templates/python/provider.py", "provider.py", true),
        piece!("python/crabbox_plugin.py", "crabbox_plugin.py", false),
    ],
    build: None,
};

const NODE: Template = Template {
    pieces: &[
        piece!("templates/node/crabbox-plugin.toml", "crabbox-plugin.toml", false),
        SETTINGS,
        piece!("templates/node/provider.mjs", "provider.mjs", true),
        piece!("node/crabbox-plugin.mjs", "crabbox-plugin.mjs", false),
    ],
    build: None,
};

const GO: Template = Template {
    pieces: &[
        piece!("templates/go/crabbox-plugin.toml", "crabbox-plugin.toml", false),
        SETTINGS,
        piece!("templates/go/go.mod", "go.mod", false),
        piece!("templates/go/provider.go", "provider.go", false),
        piece!("go/crabbox_plugin.go", "crabbox_plugin.go", false),
        piece!("go/crabbox_plugin_wasip1.go", "crabbox_plugin_wasip1.go", false),
    ],
    build: Some("go build -o provider ."),
};

const RUST: Template = Template {
    pieces: &[
        piece!("templates/rust/crabbox-plugin.toml", "crabbox-plugin.toml", false),
        SETTINGS,
        piece!("templates/rust/Cargo.toml.template", "Cargo.toml", false),
        piece!("templates/rust/build", "build", true),
        piece!("templates/rust/src/main.rs", "src/main.rs", false),
        piece!("templates/rust/src/follow.rs", "src/follow.rs", false),
    ],
    build: Some("./build"),
};

/// The dependency in the Rust template, as it is for a released crabbox.
const RELEASED_SDK: &str = "crabbox-plugin-sdk = \"0.1\"";

pub(super) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let folder = ctx.cwd.join(&args.folder);
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    for (what, id) in [
        (format!("{name:?} cannot be a provider's name"), format!("a/{name}")),
        (
            format!("{:?} cannot be a publisher's name", args.publisher),
            format!("{}/a", args.publisher),
        ),
    ] {
        if !is_id(&id) {
            return Err(KernelError::new(ErrorCode::Usage, what)
                .hint("use lower-case letters, digits and dashes; a publisher may have dots"));
        }
    }
    if folder.exists() {
        return Err(KernelError::new(
            ErrorCode::Conflict,
            format!("{} exists already", folder.display()),
        )
        .hint("choose another folder; nothing is overwritten"));
    }
    let template = match args.lang.as_str() {
        "rust" => RUST,
        "go" => GO,
        "node" => NODE,
        _ => PYTHON,
    };
    let sdk = args.sdk.as_deref().map(|sdk| sdk_in(&ctx.cwd.join(sdk))).transpose()?;
    for (path, text, program) in template.pieces {
        let mut text = text.replace("toy-platform", name).replace("example.dev", &args.publisher);
        if let Some(sdk) = &sdk {
            text = text.replace(RELEASED_SDK, sdk);
        }
        write(&folder.join(path), &text, *program)?;
    }
    let at = args.folder.display();
    if ctx.global.json {
        ctx.terminal.out_json(&PluginNewView {
            schema_version: SCHEMA_VERSION,
            folder: folder.display().to_string(),
            provider: name.to_owned(),
            build: template.build.map(str::to_owned),
        });
        return Ok(0);
    }
    match template.build {
        None => ctx.terminal.out(&format!("made {at}; it works already:")),
        Some(build) => {
            ctx.terminal.out(&format!("made {at}; build it, and it works:"));
            ctx.terminal.out(&format!("  (cd {at} && {build})"));
        }
    }
    ctx.terminal.out(&format!("  crabbox run --plugin-dev {at} --provider {name} -- uname -a"));
    ctx.terminal.out(&format!("  crabbox plugin test {at}"));
    Ok(0)
}

/// The dependency on the SDK of a source checkout.
fn sdk_in(folder: &Path) -> Result<String> {
    let fault = |e: std::io::Error| {
        let what = format!("there is no SDK in {}", folder.display());
        KernelError::new(ErrorCode::NotFound, what)
            .because(&e)
            .hint("name the folder plugin-sdk of a source checkout of crabbox")
    };
    folder.join("Cargo.toml").metadata().map_err(fault)?;
    let folder = folder.canonicalize().map_err(fault)?;
    Ok(format!("crabbox-plugin-sdk = {{ path = {:?} }}", folder.display().to_string()))
}

fn write(path: &Path, text: &str, program: bool) -> Result<()> {
    let fault = |e: std::io::Error| {
        failed("cannot write to", path, &e).hint("choose a folder where you may make one")
    };
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(fault)?;
    fs::write(path, text).map_err(fault)?;
    let mode = if program { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fault)
}
