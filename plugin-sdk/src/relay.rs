//! For runners: a plugin whose calls are answered by something else, such as a component.

use crabbox_schemas::plugin::InitializeResult;
use serde_json::Value;

use crate::behaviour::{Behaviour, pack};
use crate::plugin::{Opened, Plugin};
use crate::{Call, Channel, Failure};

pub use crate::doors::{CALLBACKS, EVENTS};
pub use crate::serve::serve_process;

/// What answers calls.
pub trait Relay: Send + Sync + 'static {
    /// Answers a call of one of the methods that were offered; it runs on a thread of its own.
    fn answer(&self, call: &Call, method: &str, params: Value) -> Result<Value, Failure>;
}

struct Relayed<R>(R);

impl<R: Relay> Behaviour for Relayed<R> {
    fn answer(&self, call: &Call, name: &str, params: Value) -> Result<Value, Failure> {
        self.0.answer(call, name, params)
    }
}

impl Plugin {
    /// A plugin whose `initialize` and calls are passed on as they are.
    pub fn relay<R: Relay>(
        open: impl FnOnce(Value) -> Result<(R, InitializeResult), Failure> + Send + 'static,
    ) -> Self {
        Self::new(|params| {
            let (relay, hello) = open(params)?;
            let methods = hello.methods.clone();
            Ok(Opened {
                provider: std::sync::Arc::new(Relayed(relay)),
                methods,
                hello: pack(hello)?,
            })
        })
    }

    /// A plugin that refuses whoever greets it.
    pub fn refusing(failure: Failure) -> Self {
        Self::new(|_| Err(failure))
    }
}

impl Call {
    /// Whether the kernel cancelled the call.
    pub fn is_cancelled(&self) -> bool {
        self.host().cancelled().is_some()
    }

    /// Asks the host by name; `call` is added to the params.
    pub fn pass(&self, callback: &str, params: Value) -> Result<Value, Failure> {
        self.host().pass(callback, params, self.last_moment())
    }

    /// Tells the host by name; `call` is added to the params.
    pub fn pass_on(&self, event: &str, params: Value) -> Result<(), Failure> {
        self.host().pass_on(event, params)
    }

    /// Sends output from this offset on; waits while the kernel has no room.
    pub fn print(&self, channel: Channel, mut offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        self.host().print(channel, &mut offset, bytes, self.last_moment())
    }
}
