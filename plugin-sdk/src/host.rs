//! The host at the other end of a pipe, as one call sees it.

use std::sync::Arc;
use std::time::Instant;

use crabbox_schemas::error::Outcome;
use crabbox_schemas::plugin::{OutputEvent, event};
use crabbox_wire::payload::{self, MAX_CHUNK};
use serde_json::Value;

use crate::control::Control;
use crate::doors::{Door, Event};
use crate::link::Link;
use crate::{Channel, Failure};

/// One open call's way to the host.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    call: u64,
    control: Arc<Control>,
    link: Arc<Link>,
}

impl Host {
    pub(crate) fn new(call: u64, control: Arc<Control>, link: Arc<Link>) -> Self {
        Self { call, control, link }
    }

    /// The number the kernel gave the call.
    pub(crate) fn id(&self) -> u64 {
        self.call
    }

    /// When the clean-up must be over, once the call is cancelled.
    pub(crate) fn cancelled(&self) -> Option<Instant> {
        self.control.cancelled()
    }

    /// Asks and waits, until `until` at most.
    pub(crate) fn ask<D: Door>(
        &self,
        params: &D::Params,
        until: Instant,
    ) -> Result<Value, Failure> {
        self.link.request(D::NAME, params, until)
    }

    pub(crate) fn tell<E: Event>(&self, event: &E) {
        self.link.notify(E::NAME, event);
    }

    /// Sends bytes from this offset on, which moves with what was sent; waits while the kernel has no room.
    pub(crate) fn print(
        &self,
        channel: Channel,
        offset: &mut u64,
        mut bytes: &[u8],
        until: Instant,
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(piece(bytes));
            if !self.control.take(now.len(), until) {
                let message = "cancelled while output was waiting";
                return Err(Failure::cancelled(message, Outcome::Uncertain));
            }
            let (text, b64) = payload::pack(now);
            let (call, ch) = (self.call, channel.word().to_owned());
            self.link.notify(event::OUTPUT, &OutputEvent { call, ch, off: *offset, text, b64 });
            *offset += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Asks by name, with params that are JSON already.
    #[cfg(feature = "relay")]
    pub(crate) fn pass(
        &self,
        method: &str,
        params: Value,
        until: Instant,
    ) -> Result<Value, Failure> {
        self.link.request(method, &self.ours(params)?, until)
    }

    /// Tells by name, with params that are JSON already.
    #[cfg(feature = "relay")]
    pub(crate) fn pass_on(&self, event: &str, params: Value) -> Result<(), Failure> {
        self.link.notify(event, &self.ours(params)?);
        Ok(())
    }

    /// The params with this call's number: no other call's can be named.
    #[cfg(feature = "relay")]
    fn ours(&self, mut params: Value) -> Result<Value, Failure> {
        let members = params.as_object_mut();
        let members =
            members.ok_or_else(|| Failure::invalid_request("params are no JSON object"))?;
        members.insert("call".to_owned(), self.call.into());
        Ok(params)
    }
}

/// How much of `bytes` goes into the next chunk: at most a chunk, and whole characters if possible.
fn piece(bytes: &[u8]) -> usize {
    let most = bytes.len().min(MAX_CHUNK);
    match std::str::from_utf8(&bytes[..most]) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        _ => most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_ends_between_characters_when_it_can() {
        let text = "é".repeat(MAX_CHUNK);
        assert_eq!(piece(format!("x{text}").as_bytes()), MAX_CHUNK - 1);
        assert_eq!(piece(&[0xff; 100_000]), MAX_CHUNK);
        assert_eq!(piece(&[0xc3]), 1);
    }
}
