//! Compiles a WebAssembly plugin to machine code, once, into the cache its runner reads.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crabbox_wasm_runner::{Cache, config, key};
use wasmtime::Engine;

const USAGE: &str = "crabbox-wasm-compile [--fuel] [--cache FOLDER] FILE.wasm";

/// How a core module begins; the version of a component is another.
const CORE: &[u8] = b"\0asm\x01\0\0\0";

fn main() -> ExitCode {
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // Without a standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the compiler reads its environment"
)]
fn compile() -> Result<(), String> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (mut fuel, mut cache, mut file) = (false, None, None);
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--fuel") => fuel = true,
            Some("--cache") => cache = words.next().map(PathBuf::from),
            _ => file = Some(PathBuf::from(word)),
        }
    }
    let cache = match cache {
        Some(folder) => Some(Cache::new(folder)),
        None => Cache::of_user(folder("XDG_CACHE_HOME"), folder("HOME")),
    };
    let (Some(cache), Some(file)) = (cache, file) else { return Err(format!("usage: {USAGE}")) };
    let shown = file.display();
    let wasm = std::fs::read(&file).map_err(|e| format!("cannot read {shown}: {e}"))?;
    let key = key(&wasm, fuel);
    if cache.load(&key).is_some() {
        return Ok(());
    }
    let engine = Engine::new(&config(fuel)).map_err(|e| format!("no compiler here: {e:#}"))?;
    if !wasm.starts_with(b"\0asm") {
        return Err(format!("{shown} is no WebAssembly"));
    }
    let code = match wasm.starts_with(CORE) {
        true => engine.precompile_module(&wasm),
        false => engine.precompile_component(&wasm),
    };
    let code = code.map_err(|e| format!("{shown} cannot be compiled: {e:#}"))?;
    let folder = cache.folder().display();
    cache.store(&key, &code).map_err(|e| format!("cannot keep what was compiled in {folder}: {e}"))
}
