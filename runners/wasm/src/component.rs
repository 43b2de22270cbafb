//! A component as a plugin: one instance answers one call, and calls that are open at once have one each.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crabbox_plugin_sdk::relay::Relay;
use crabbox_plugin_sdk::{Call, Failure, Plugin};
use crabbox_schemas::plugin::InitializeResult;
use serde_json::Value;
use wasmtime::component::{self, InstancePre};
use wasmtime::{Engine, Module, Precompiled};
use wasmtime_wasi::{FsPerms, WasiCtx};

use crate::cache::{Cache, Compile, MOST, key};
use crate::doors::linker;
use crate::engine::{Ticker, config};
use crate::guest::{Guest, State, flat};
use crate::settings::Settings;

/// Instances that are kept for the next call.
const KEPT: usize = 8;

/// What was compiled.
pub(crate) enum Code {
    Component(component::Component),
    /// Of the generation before components; it can only be a command.
    Module(Module),
}

/// A component and what it is linked to.
pub(crate) struct Loaded {
    pub(crate) pre: InstancePre<State>,
    pub(crate) ticker: Ticker,
}

/// A component that runs.
pub struct Component {
    loaded: Loaded,
    settings: Settings,
    /// The params of `initialize`, which every instance is given.
    hello: String,
    idle: Mutex<Vec<Guest>>,
}

impl Component {
    /// The plugin of a component, which is loaded once it is greeted.
    pub fn plugin(
        settings: Settings,
        cache: Cache,
        compiler: impl Compile + Send + 'static,
    ) -> Plugin {
        Plugin::relay(move |params| {
            let loaded = match load(&settings, &cache, &compiler)? {
                (engine, Code::Component(component)) => linked(&settings, &engine, &component)?,
                (_, Code::Module(_)) => {
                    let what = format!("{} is no component", settings.file.display());
                    return Err(Failure::unsupported(what)
                        .hint("a core module can only be a command: `runtime = \"wasi-stdio\"`"));
                }
            };
            let hello = params.to_string();
            let component = Self { loaded, settings, hello, idle: Mutex::default() };
            let mut guest = component.guest()?;
            let said = guest.initialize(&component.hello, &component.loaded.ticker)?;
            let said: InitializeResult = serde_json::from_value(said)
                .map_err(|error| Failure::internal("its hello cannot be read").because(&error))?;
            component.idle().push(guest);
            Ok((component, said))
        })
    }

    fn guest(&self) -> Result<Guest, Failure> {
        let state = State::new(surroundings(&self.settings)?.build(), self.settings.memory);
        Guest::new(&self.loaded.pre, state, self.settings.fuel, &self.loaded.ticker)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Guest>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay for Component {
    fn answer(&self, call: &Call, method: &str, params: Value) -> Result<Value, Failure> {
        let ready = self.idle().pop();
        let mut guest = match ready {
            Some(guest) => guest,
            None => {
                let mut guest = self.guest()?;
                guest.initialize(&self.hello, &self.loaded.ticker)?;
                guest
            }
        };
        // What trapped is dropped here and never used again.
        let answer = guest.handle(call, method, params.to_string(), &self.loaded.ticker)?;
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(guest);
        }
        answer
    }
}

/// Loads a guest from the cache, compiling it first when it is not there.
pub(crate) fn load(
    settings: &Settings,
    cache: &Cache,
    compiler: &impl Compile,
) -> Result<(Engine, Code), Failure> {
    let unusable = |what: String| Failure::unsupported(what);
    let fuel = settings.fuel.is_some();
    let engine = Engine::new(&config(fuel))
        .map_err(|e| unusable("no engine for WebAssembly here".to_owned()).because(&*flat(&e)))?;
    let file = &settings.file;
    let wasm = read(file)
        .map_err(|error| unusable(format!("cannot read {}", file.display())).because(&error))?;
    let key = key(&wasm, fuel);
    if let Some(code) = code(&engine, cache, &key) {
        return Ok((engine, code));
    }
    cache.remove(&key);
    compiler.compile(file, cache, fuel).map_err(unusable)?;
    let code = code(&engine, cache, &key).ok_or_else(|| {
        let folder = cache.folder().display();
        unusable(format!("what was compiled into {folder} cannot be loaded"))
            .hint("crabbox-wasm-compile and crabbox-wasm-runner must be of one release, and the folder the user's own")
    })?;
    Ok((engine, code))
}

/// Links a component to what it may reach.
pub(crate) fn linked(
    settings: &Settings,
    engine: &Engine,
    component: &component::Component,
) -> Result<Loaded, Failure> {
    let linker = linker(engine, settings);
    let pre = linker
        .and_then(|linker| linker.instantiate_pre(component))
        .map_err(|e| unfit(settings, &e))?;
    Ok(Loaded { pre, ticker: Ticker::start(engine.clone()) })
}

/// It wants what nobody has.
pub(crate) fn unfit(settings: &Settings, error: &wasmtime::Error) -> Failure {
    let what = format!("{} does not fit this crabbox", settings.file.display());
    Failure::unsupported(what).because(&*flat(error))
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut wasm = Vec::new();
    File::open(file)?.take(MOST).read_to_end(&mut wasm)?;
    Ok(wasm)
}

#[expect(unsafe_code, reason = "wasmtime cannot know where compiled code comes from; we do")]
fn code(engine: &Engine, cache: &Cache, key: &str) -> Option<Code> {
    let code = cache.load(key)?;
    // SAFETY: these are bytes that the compiler wrote for this user, in a folder and a file that only this user can
    // write, and they are whole: their digest was compared. Code for another engine is refused by the function itself.
    unsafe {
        match Engine::detect_precompiled(&code)? {
            Precompiled::Component => {
                component::Component::deserialize(engine, &code).ok().map(Code::Component)
            }
            Precompiled::Module => Module::deserialize(engine, &code).ok().map(Code::Module),
        }
    }
}

/// What a guest finds around it: the mark of a plugin, what was granted, and a log.
pub(crate) fn surroundings(settings: &Settings) -> Result<wasmtime_wasi::WasiCtxBuilder, Failure> {
    let mut wasi = WasiCtx::builder();
    wasi.env("CRABBOX_PLUGIN", "1").env("CRABBOX_PROTOCOLS", "1");
    wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
    wasi.inherit_stdout().inherit_stderr();
    if settings.allows("files") {
        let place = |e: wasmtime::Error| {
            Failure::internal("cannot make the plugin's folder").because(&*flat(&e))
        };
        // The host starts a plugin in its private folder.
        std::fs::create_dir_all("files").map_err(|e| place(e.into()))?;
        wasi.preopened_dir("files", "/", FsPerms::ReadWrite).map_err(place)?;
        wasi.env("CRABBOX_STATE_DIR", "/");
    }
    wasi.envs(&settings.env);
    Ok(wasi)
}
