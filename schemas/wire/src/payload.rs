//! Output bytes inside JSON: `text` when they are UTF-8, `b64` otherwise.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Most raw bytes one `event/output` may carry: 64 KiB of base64.
pub const MAX_CHUNK: usize = 48 * 1024;

/// The bytes as `(text, b64)`, exactly one of them set.
pub fn pack(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

/// Bytes in base64, whether or not they are UTF-8.
pub fn b64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of base64.
pub fn from_b64(text: &str) -> Result<Vec<u8>, &'static str> {
    STANDARD.decode(text).map_err(|_| "b64 is not base64")
}

/// The bytes back; the error says what is wrong.
pub fn unpack(text: Option<String>, b64: Option<String>) -> Result<Vec<u8>, &'static str> {
    let bytes = match (text, b64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(b64)) => from_b64(&b64)?,
        _ => return Err("not exactly one of text and b64"),
    };
    if bytes.len() > MAX_CHUNK { Err("a chunk is larger than 48 KiB") } else { Ok(bytes) }
}
