//! The engine, configured the same for compiling and for running, and the clock that bounds what a guest computes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime::{Config, Engine};

/// How often a computing guest is looked at.
const TICK: Duration = Duration::from_millis(10);

/// The one configuration: what was compiled with another one cannot be loaded.
pub fn config(fuel: bool) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .consume_fuel(fuel)
        // Calls that are open at once have instances of their own, and nothing is async.
        .concurrency_support(false);
    config
}

/// Moves an engine's epoch on while guests compute, and sleeps while none does.
#[derive(Clone)]
pub(crate) struct Ticker(Arc<Shared>);

struct Shared {
    busy: Mutex<usize>,
    begun: Condvar,
}

/// A guest computes as long as this lives.
pub(crate) struct Busy<'a>(&'a Ticker);

impl Ticker {
    pub(crate) fn start(engine: Engine) -> Self {
        let ticker = Self(Arc::new(Shared { busy: Mutex::new(0), begun: Condvar::new() }));
        let own = ticker.clone();
        std::thread::spawn(move || {
            loop {
                own.wait();
                std::thread::sleep(TICK);
                engine.increment_epoch();
            }
        });
        ticker
    }

    pub(crate) fn busy(&self) -> Busy<'_> {
        *self.lock() += 1;
        self.0.begun.notify_one();
        Busy(self)
    }

    fn wait(&self) {
        let idle = self.0.begun.wait_while(self.lock(), |busy| *busy == 0);
        drop(idle.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
    }
}
