//! Output, paid for and not.

use std::sync::PoisonError;

use serde_json::json;

use crate::{Answer, CHUNK, STALL, Scene, lock};

impl Scene {
    pub(crate) fn output(&self, channel: &str, offset: u64, bytes: &[u8]) {
        let mut params = json!({"call": self.id, "ch": channel, "off": offset});
        match std::str::from_utf8(bytes) {
            Ok(text) => params["text"] = json!(text),
            Err(_) => params["b64"] = json!(base64(bytes)),
        }
        self.plugin.send(json!({"method": "event/output", "params": params}));
    }

    /// Waits for credit, then sends.
    pub(crate) fn paid_output(&self, channel: &str, offset: u64, bytes: &[u8]) {
        let state = lock(&self.call.state);
        let (mut state, _) = self
            .call
            .changed
            .wait_timeout_while(state, STALL, |state| state.1 <= 0 && !state.0)
            .unwrap_or_else(PoisonError::into_inner);
        state.1 -= i64::try_from(bytes.len()).unwrap_or_default();
        drop(state);
        self.output(channel, offset, bytes);
    }

    pub(crate) fn overdraft(&self) {
        let chunk = vec![b'x'; CHUNK];
        let flood = (8u64 << 20) / CHUNK as u64;
        (0..flood).for_each(|n| self.output("stdout", n * CHUNK as u64, &chunk));
    }

    /// That many MiB of bytes 0..=255 over and over, as credit allows.
    pub(crate) fn flood_output(&self, mib: u64) -> Answer {
        let chunk: Vec<u8> = (0..CHUNK).map(|n| (n % 256) as u8).collect();
        let total = mib.max(1) << 20;
        let mut sent = 0;
        while sent < total {
            let len = (total - sent).min(CHUNK as u64);
            self.paid_output("stdout", sent, &chunk[..usize::try_from(len).unwrap_or(CHUNK)]);
            sent += len;
        }
        Ok(json!({"exitCode": 0}))
    }

    /// Repeats what it sent, overlaps, leaves a hole, and owns up to another.
    pub(crate) fn odd_offsets(&self) -> Answer {
        self.output("stdout", 0, b"hello ");
        self.output("stdout", 0, b"hello ");
        self.output("stdout", 3, b"lo world");
        self.output("stdout", 20, b"after");
        let gap =
            json!({"call": self.id, "ch": "stdout", "from": 25, "to": 30, "reason": "rotated"});
        self.plugin.send(json!({"method": "event/gap", "params": gap}));
        self.output("stdout", 30, b"end\xff");
        Ok(json!({"exitCode": 0}))
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte))
            << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * n) & 63) as usize];
            text.push(if n > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}
