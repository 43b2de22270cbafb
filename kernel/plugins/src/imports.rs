//! What a WebAssembly file imports: a list of powers that can be read without running it.

use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::state::failed;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::{Grants, Manifest};
use wasmparser::{ComponentTypeRef, Parser, Payload};

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
    let bytes = std::fs::read(path).map_err(|e| failed("cannot read", path, &e))?;
    let names = names(&bytes).map_err(|e| {
        let what = format!("{} is no WebAssembly component", path.display());
        // The parser says in many lines which bytes it saw.
        let why = e.message().split(" - ").next().unwrap_or_default().to_owned();
        KernelError::new(ErrorCode::Config, what)
            .because(&std::io::Error::other(why))
            .hint("a component is built for wasm32-wasip2; a core module is none")
    })?;
    let mut imports: Vec<_> =
        names.into_iter().map(|name| Import { power: power(&name), name }).collect();
    imports.sort_by(|a, b| a.name.cmp(&b.name));
    imports.dedup();
    Ok(imports)
}

/// The imports of the outermost component; those of what is nested in it are satisfied inside.
fn names(bytes: &[u8]) -> std::result::Result<Vec<String>, wasmparser::BinaryReaderError> {
    let (mut names, mut depth) = (Vec::new(), 0_u32);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
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
    Ok(names)
}

fn power(name: &str) -> Power {
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
    let files = guests.map(|artifact| folder.join(&artifact.path));
    files
        .filter(|file| file.is_file())
        .try_for_each(|file| check(&manifest.id, &manifest.grants, &file))
}

fn check(id: &str, grants: &Grants, file: &Path) -> Result<()> {
    let asked = powers(grants);
    let refused = |import: &Import| match &import.power {
        Power::Granted(power) => !asked.contains(&&**power),
        power => *power == Power::Unknown,
    };
    let Some(import) = imports(file)?.into_iter().find(refused) else { return Ok(()) };
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
