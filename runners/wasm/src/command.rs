//! A WASI command as a plugin: it has our standard streams and speaks for itself.

use crabbox_plugin_sdk::Failure;
use wasmtime_wasi::p2::bindings::sync::CommandPre;

use crate::cache::{Cache, Compile};
use crate::component::{load, surroundings};
use crate::guest::{State, bounded, broken};
use crate::settings::Settings;

/// Runs a command to its end; its exit status.
pub fn command(settings: &Settings, cache: &Cache, compiler: &impl Compile) -> Result<u8, Failure> {
    let loaded = load(settings, cache, compiler)?;
    let wasi = surroundings(settings)?.inherit_stdin().build();
    let engine = loaded.pre.engine().clone();
    let mut store = bounded(&engine, State::endless(wasi, settings.memory));
    let other = |e: wasmtime::Error| broken("begin", &e);
    let command = CommandPre::new(loaded.pre).map_err(other)?;
    let _busy = loaded.ticker.busy();
    let command = command.instantiate(&mut store).map_err(other)?;
    match command.wasi_cli_run().call_run(&mut store) {
        Ok(ended) => Ok(u8::from(ended.is_err())),
        Err(trap) => match trap.downcast_ref::<wasmtime_wasi::I32Exit>() {
            Some(exit) => Ok(u8::try_from(exit.0).unwrap_or(1)),
            None => Err(broken("run", &trap)),
        },
    }
}
