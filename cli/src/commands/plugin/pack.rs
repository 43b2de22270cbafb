//! `plugin pack`: a folder as one file, the same bytes wherever it is packed.

use std::fs::File;
use std::path::PathBuf;

use crabbox_kernel::error::Result;
use crabbox_kernel::state::failed;
use crabbox_plugins::{EXTENSION, MANIFEST_FILE, digest_of_file, pack, read_manifest};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::PluginPackView;

use crate::context::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The plugin's folder
    #[arg(value_name = "FOLDER", default_value = ".")]
    folder: PathBuf,
    /// Where to write the package; without, NAME-VERSION.cbxplugin here
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(ctx: &Context, args: &Args) -> Result<i32> {
    let folder = ctx.cwd.join(&args.folder);
    let manifest = read_manifest(&folder.join(MANIFEST_FILE))?;
    let name = manifest.id.rsplit('/').next().unwrap_or("plugin");
    let output = match &args.output {
        Some(output) => ctx.cwd.join(output),
        None => ctx.cwd.join(format!("{name}-{}.{EXTENSION}", manifest.version)),
    };
    let dir = output.parent().unwrap_or(&ctx.cwd);
    let fault = |e: std::io::Error| {
        failed("cannot write", &output, &e)
            .hint("name a file, in a folder that is there, with --output")
    };
    // Its name ends like a package's: in the folder that is packed it is no part of it.
    let suffix = format!(".{EXTENSION}");
    let mut file = tempfile::Builder::new().suffix(&suffix).tempfile_in(dir).map_err(fault)?;
    pack(&folder, &mut file)?;
    let bytes = file.as_file().metadata().map_err(fault)?.len();
    file.persist(&output).map_err(|e| fault(e.error))?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    File::open(&output).and_then(|f| f.set_permissions(open)).map_err(fault)?;
    let digest = digest_of_file(&output).map_err(fault)?;
    match ctx.global.json {
        true => {
            let (schema_version, path) = (SCHEMA_VERSION, output.display().to_string());
            ctx.terminal.out_json(&PluginPackView { schema_version, path, bytes, digest });
        }
        false => {
            ctx.terminal.out(&format!("packed {} ({bytes} bytes)\n{digest}", output.display()));
        }
    }
    Ok(0)
}
