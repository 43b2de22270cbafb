//! Links a component's imports: what was granted goes to the host, everything else answers that it was not.

use crabbox_plugin_sdk::relay::{CALLBACKS, EVENTS};
use crabbox_plugin_sdk::{Call, Channel, Failure};
use serde_json::Value;
use wasmtime::component::{ComponentType, Lift, Linker, Lower};
use wasmtime::{Engine, StoreContextMut};

use crate::Settings;
use crate::guest::{Answer, Refusal, State};

/// Interfaces that need a grant; the others are part of every call.
const POWERS: &[&str] = &["exec", "http", "reveal", "ws"];

/// The enum `channel` of the WIT file.
#[derive(Debug, Clone, Copy, ComponentType, Lift, Lower)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made by lifting")]
enum Ch {
    #[component(name = "stdout")]
    Stdout,
    #[component(name = "stderr")]
    Stderr,
}

/// Everything a guest of these settings can reach.
pub(crate) fn linker(engine: &Engine, settings: &Settings) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
    if settings.command {
        return Ok(linker);
    }
    for (interface, function, callback) in CALLBACKS {
        let mut instance = linker.instance(&full(interface))?;
        match POWERS.contains(interface) && !settings.allows(interface) {
            true => instance
                .func_wrap(function, |_: StoreContextMut<'_, State>, (_,): (String,)| {
                    Ok((denied(interface),))
                })?,
            false => instance.func_wrap(
                function,
                |store: StoreContextMut<'_, State>, (params,): (String,)| {
                    Ok((ask(&store, callback, &params),))
                },
            )?,
        }
    }
    for (interface, function, event) in EVENTS {
        linker.instance(&full(interface))?.func_wrap(
            function,
            |store: StoreContextMut<'_, State>, (params,): (String,)| {
                tell(&store, event, &params);
                Ok(())
            },
        )?;
    }
    linker
        .instance(&full("control"))?
        .func_wrap("cancelled", |store: StoreContextMut<'_, State>, (): ()| {
            Ok((cancelled(&store),))
        })?;
    linker.instance(&full("output"))?.func_wrap(
        "write",
        |store: StoreContextMut<'_, State>, (ch, offset, bytes): (Ch, u64, Vec<u8>)| {
            Ok((write(&store, ch, offset, &bytes).map_err(Refusal::from),))
        },
    )?;
    Ok(linker)
}

fn full(interface: &str) -> String {
    format!("crabbox:plugin/{interface}@1.0.0")
}

fn open<'a>(store: &'a StoreContextMut<'_, State>) -> Result<&'a Call, Failure> {
    let call = store.data().call.as_ref();
    call.ok_or_else(|| Failure::invalid_request("no call is open"))
}

fn ask(store: &StoreContextMut<'_, State>, callback: &str, params: &str) -> Answer {
    let answer = open(store).and_then(|call| call.pass(callback, parsed(params)?))?;
    Ok(answer.to_string())
}

/// What cannot be told is lost, as on a pipe.
fn tell(store: &StoreContextMut<'_, State>, event: &str, params: &str) {
    let _ = open(store).and_then(|call| call.pass_on(event, parsed(params)?));
}

fn parsed(params: &str) -> Result<Value, Failure> {
    serde_json::from_str(params)
        .map_err(|error| Failure::invalid_request("the params are no JSON").because(&error))
}

/// Milliseconds left to clean up, once the call should stop.
fn cancelled(store: &StoreContextMut<'_, State>) -> Option<u64> {
    let call = open(store).ok().filter(|call| call.is_cancelled())?;
    let left = call.last_moment().saturating_duration_since(std::time::Instant::now());
    Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}

fn write(
    store: &StoreContextMut<'_, State>,
    ch: Ch,
    offset: u64,
    bytes: &[u8],
) -> Result<(), Failure> {
    let channel = match ch {
        Ch::Stdout => Channel::Stdout,
        Ch::Stderr => Channel::Stderr,
    };
    open(store)?.print(channel, offset, bytes)
}

fn denied(interface: &str) -> Answer {
    let failure = Failure::grant_denied(format!("it was not granted the power `{interface}`"))
        .hint("ask for it under [grants] in the plugin's manifest");
    Err(failure.into())
}
