//! What a WebAssembly file imports: a list of powers that can be read without running it.

use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::failed;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::{Artifact, Grants, Manifest, Runtime};
use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload};

use crate::artifact::powers;

/// One import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its whole name, such as `crabbox:plugin/http@1.0.0`.
    pub name: String,
    /// What it means.
    pub power: Power,
}

/// What an import opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// A part of every call: its log, its journal, its own small values.
    Call,
    /// Something a grant must open; the runner's word for it.
    Granted(String),
    /// A part of WASI that is there and leads nowhere.
    Empty,
    /// Sockets, which are there and refuse everything.
    Sockets,
    /// Nothing that crabbox has.
    Unknown,
}

impl Power {
    /// In words.
    pub fn text(&self) -> &'static str {
        match self {
            Self::Call => "part of every call",
            Self::Granted(_) => "needs a grant",
            Self::Empty => "there, but leads nowhere",
            Self::Sockets => "there, but every connection is refused",
            Self::Unknown => "unknown to crabbox",
        }
    }
}

/// The imports of a file, in name order.
pub fn imports(path: &Path) -> Result<Vec<Import>> {
    read(path).map(|guest| guest.imports)
}

/// What a file says of itself.
struct Guest {
    imports: Vec<Import>,
    /// Of the generation before components; it can only be a command.
    is_module: bool,
}

fn read(path: &Path) -> Result<Guest> {
    let bytes = std::fs::read(path).map_err(|e| failed("cannot read", path, &e))?;
    let (names, encoding) = names(&bytes).map_err(|e| {
        let what = format!("{} is no WebAssembly", path.display());
        // The parser says in many lines which bytes it saw.
        let why = e.message().split(" - ").next().unwrap_or_default().to_owned();
        KernelError::new(ErrorCode::Config, what)
            .because(&std::io::Error::other(why))
            .hint("a component is built for wasm32-wasip2, a command for that or wasip1")
    })?;
    let mut imports: Vec<_> =
        names.into_iter().map(|name| Import { power: power(&name), name }).collect();
    imports.sort_by(|a, b| a.name.cmp(&b.name));
    imports.dedup();
    Ok(Guest { imports, is_module: encoding == Encoding::Module })
}

/// The imports of a module or of the outermost component; those of what is nested in it are satisfied inside.
fn names(
    bytes: &[u8],
) -> std::result::Result<(Vec<String>, Encoding), wasmparser::BinaryReaderError> {
    let (mut names, mut depth, mut outermost) = (Vec::new(), 0_u32, None);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding, .. } => {
                outermost.get_or_insert(encoding);
            }
            Payload::ImportSection(section) if depth == 0 => {
                for import in section.into_imports() {
                    names.push(import?.module.to_owned());
                }
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import?;
                    // A name for a type opens nothing.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        names.push(import.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Ok((names, outermost.unwrap_or(Encoding::Module)))
}

/// The one module that commands of the generation before components import from. It opens no connection.
const FIRST_WASI: &str = "wasi_snapshot_preview1";

fn power(name: &str) -> Power {
    if name == FIRST_WASI {
        return Power::Empty;
    }
    let (interface, _version) = name.split_once('@').unwrap_or((name, ""));
    match interface.split_once('/') {
        Some(("crabbox:plugin", power @ ("exec" | "http" | "reveal" | "ws"))) => {
            Power::Granted(power.to_owned())
        }
        Some((
            "crabbox:plugin",
            "blob" | "control" | "journal" | "kv" | "log" | "output" | "progress" | "prompt"
            | "types",
        )) => Power::Call,
        Some(("wasi:sockets", _)) => Power::Sockets,
        Some(("wasi:cli" | "wasi:clocks" | "wasi:filesystem" | "wasi:io" | "wasi:random", _)) => {
            Power::Empty
        }
        _ => Power::Unknown,
    }
}

/// Refuses a plugin whose WebAssembly imports what its manifest does not ask for. `folder` is the manifest's.
pub fn check_imports(manifest: &Manifest, folder: &Path) -> Result<()> {
    let guests = manifest.artifacts.iter().filter(|artifact| artifact.runtime.is_sandboxed());
    let files = guests.map(|artifact| (artifact, folder.join(&artifact.path)));
    files
        .filter(|(_, file)| file.is_file())
        .try_for_each(|(artifact, file)| check(&manifest.id, &manifest.grants, artifact, &file))
}

fn check(id: &str, grants: &Grants, artifact: &Artifact, file: &Path) -> Result<()> {
    let guest = read(file)?;
    if guest.is_module && artifact.runtime == Runtime::Wasm {
        let what = format!("{} of plugin {id} is no component but a core module", artifact.path);
        return Err(KernelError::new(ErrorCode::Config, what).hint(
            "build it for wasm32-wasip2; a core module can only be a command, `runtime = \"wasi-stdio\"`",
        ));
    }
    let asked = powers(grants);
    let refused = |import: &Import| match &import.power {
        Power::Granted(power) => !asked.contains(&&**power),
        power => *power == Power::Unknown,
    };
    let Some(import) = guest.imports.into_iter().find(refused) else { return Ok(()) };
    let (why, hint) = match import.power {
        Power::Unknown => {
            ("which crabbox does not have", "build it for the world crabbox:plugin/provider@1.0.0")
        }
        _ => (
            "which its manifest does not ask for",
            "its publisher must ask for it under [grants], or not use it",
        ),
    };
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let what = format!("{file} of plugin {id} imports {}, {why}", import.name);
    Err(KernelError::new(ErrorCode::PluginUntrusted, what).hint(hint))
}
