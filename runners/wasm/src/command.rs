//! A WASI command as a plugin: it has our standard streams and speaks for itself.

use crabbox_plugin_sdk::Failure;
use wasmtime::{Engine, Linker, Module, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::bindings::sync::CommandPre;

use crate::cache::{Cache, Compile};
use crate::component::{Code, linked, load, surroundings, unfit};
use crate::guest::{Bounds, State, bounded, broken};
use crate::settings::Settings;

/// Runs a command to its end; its exit status.
pub fn command(settings: &Settings, cache: &Cache, compiler: &impl Compile) -> Result<u8, Failure> {
    let (engine, code) = load(settings, cache, compiler)?;
    let ended = match code {
        Code::Component(component) => {
            let loaded = linked(settings, &engine, &component)?;
            let wasi = surroundings(settings)?.inherit_stdin().build();
            let mut store = bounded(&engine, State::endless(wasi, settings.memory));
            let other = |e: wasmtime::Error| broken("begin", &e);
            let command = CommandPre::new(loaded.pre).map_err(other)?;
            let _busy = loaded.ticker.busy();
            let command = command.instantiate(&mut store).map_err(other)?;
            command.wasi_cli_run().call_run(&mut store).map(|ended| u8::from(ended.is_err()))
        }
        Code::Module(module) => start(settings, &engine, &module)?,
    };
    ended.or_else(|trap| match trap.downcast_ref::<I32Exit>() {
        Some(exit) => Ok(u8::try_from(exit.0).unwrap_or(1)),
        None => Err(broken("run", &trap)),
    })
}

/// Runs a command of the generation before components, which is what compilers without them make.
fn start(
    settings: &Settings,
    engine: &Engine,
    module: &Module,
) -> Result<wasmtime::Result<u8>, Failure> {
    let wasi = surroundings(settings)?.inherit_stdin().build_p1();
    let mut linker: Linker<(WasiP1Ctx, Bounds)> = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, |(wasi, _)| wasi).map_err(|e| unfit(settings, &e))?;
    let pre = linker.instantiate_pre(module).map_err(|e| unfit(settings, &e))?;
    let mut store = Store::new(engine, (wasi, Bounds::new(settings.memory)));
    store.limiter(|(_, bounds)| bounds);
    // Only the host ends it, and nothing moves the epoch on.
    store.set_epoch_deadline(1);
    let other = |e: wasmtime::Error| broken("begin", &e);
    let instance = pre.instantiate(&mut store).map_err(other)?;
    let main = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(other)?;
    Ok(main.call(&mut store, ()).map(|()| 0))
}
