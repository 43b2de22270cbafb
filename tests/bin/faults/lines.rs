//! Lines that are no frames.

use serde_json::json;

use crate::call::{Call, Played};

const LINE: usize = 1 << 20;

pub(crate) fn play(call: &Call, word: &str) -> Option<Played> {
    let wire = &call.plugin.wire;
    match word {
        "garbage" => wire.raw(b"Segmentation fault?\n"),
        "escapes" => wire.raw(b"\x1b]0;owned\x07\x1b[2Jhello\n"),
        "empty-object" => wire.raw(b"{}\n"),
        "bom" => wire.raw("\u{feff}{}\n".as_bytes()),
        "nul" => wire.raw(b"\0\n"),
        "not-utf8" => wire.raw(b"{\"a\":\"\xff\"}\n"),
        "batch" => wire.raw(b"[{\"jsonrpc\":\"2.0\"}]\n"),
        "deep" => wire.raw(format!("{{\"a\":{}\n", "[".repeat(70)).as_bytes()),
        "list-of-params" => wire.send(json!({"method": "event/log", "params": [1]})),
        "one-byte-too-long" => wire.raw(&[vec![b'x'; LINE], b"\n".to_vec()].concat()),
        "endless-line" => loop {
            wire.raw(&[b'x'; 64 * 1024]);
        },
        "half-a-line" => wire.raw(b"{\"jsonrpc\":\"2.0\",\"id\":"),
        "newlines" => loop {
            wire.raw(&[b'\n'; 64 * 1024]);
        },
        _ => return None,
    }
    Some(Played::Silent)
}
