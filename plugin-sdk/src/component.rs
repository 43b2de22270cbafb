//! The host around a component: every function is an import, and nothing else can be reached.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crabbox_schemas::error::{ErrorData, RpcError as WireError};
use serde::Serialize;
use serde_json::Value;

use crate::behaviour::Behaviour;
use crate::doors::{Door, Event};
use crate::plugin::Plugin;
use crate::{Call, Channel, Failure};

#[allow(missing_docs, unsafe_code, clippy::all, reason = "made from the WIT file")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "provider",
        pub_export_macro: true,
        default_bindings_module: "crabbox_plugin_sdk::component::bindings",
    });
}

pub(crate) use bindings::crabbox::plugin as host;
pub use bindings::{Guest, RpcError};

/// The call this instance answers; it answers one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Host;

impl Host {
    /// The runner knows the number.
    pub(crate) fn id(&self) -> u64 {
        0
    }

    pub(crate) fn cancelled(&self) -> Option<Instant> {
        host::control::cancelled().map(|left| Instant::now() + Duration::from_millis(left))
    }

    pub(crate) fn ask<D: Door>(
        &self,
        params: &D::Params,
        _until: Instant,
    ) -> Result<Value, Failure> {
        let answer = D::import(&text(params)?).map_err(|error| Failure::from(wire(error)))?;
        serde_json::from_str(&answer)
            .map_err(|error| Failure::internal("the host's answer is no JSON").because(&error))
    }

    /// An event that cannot be encoded is lost, as on the pipe.
    pub(crate) fn tell<E: Event>(&self, event: &E) {
        if let Ok(event) = text(event) {
            E::import(&event);
        }
    }

    pub(crate) fn print(
        &self,
        channel: Channel,
        offset: &mut u64,
        bytes: &[u8],
        _until: Instant,
    ) -> Result<(), Failure> {
        let ch = match channel {
            Channel::Stdout => host::types::Channel::Stdout,
            Channel::Stderr => host::types::Channel::Stderr,
        };
        host::output::write(ch, *offset, bytes).map_err(|error| Failure::from(wire(error)))?;
        *offset += bytes.len() as u64;
        Ok(())
    }
}

/// The provider, once it was opened.
static OPEN: Mutex<Option<Arc<dyn Behaviour>>> = Mutex::new(None);

/// The export `initialize`.
pub fn initialize(plugin: Plugin, params: &str) -> Result<String, RpcError> {
    let opened = parsed(params).and_then(|params| (plugin.open)(params)).map_err(told)?;
    *OPEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened.provider);
    text(&opened.hello).map_err(told)
}

/// The export `handle`.
pub fn handle(method: &str, params: &str) -> Result<String, RpcError> {
    answer(method, params).and_then(|result| text(&result)).map_err(told)
}

fn answer(method: &str, params: &str) -> Result<Value, Failure> {
    let params = parsed(params)?;
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let provider = open.ok_or_else(|| Failure::invalid_request("initialize comes first"))?;
    let context = params.get("ctx").cloned().unwrap_or_default();
    let context = serde_json::from_value(context)
        .map_err(|error| Failure::invalid_request("the params do not fit").because(&error))?;
    let call = Call::new(context, Host);
    call.begin()?;
    provider.answer(&call, method, params)
}

fn parsed(params: &str) -> Result<Value, Failure> {
    serde_json::from_str(params)
        .map_err(|error| Failure::invalid_request("the params are no JSON").because(&error))
}

fn text(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::internal("cannot encode a message").because(&error))
}

fn told(failure: Failure) -> RpcError {
    let WireError { code, message, data } = failure.into();
    RpcError { code, message, data: data.and_then(|data| serde_json::to_string(&data).ok()) }
}

fn wire(error: RpcError) -> WireError {
    let data = error.data.as_deref().and_then(|data| serde_json::from_str::<ErrorData>(data).ok());
    WireError { code: error.code, message: error.message, data }
}
