//! Bytes of the operating system in JSON.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_schemas::helper::Blob;

use crate::Fault;

/// The JSON form of bytes.
pub(crate) fn blob(bytes: &OsStr) -> Blob {
    match bytes.to_str() {
        Some(text) => Blob::Text(text.to_owned()),
        None => Blob::Bytes { b64: STANDARD.encode(bytes.as_bytes()) },
    }
}

/// The bytes of their JSON form; none of them may be NUL.
pub(crate) fn os_string(blob: &Blob) -> Result<OsString, Fault> {
    let bytes = match blob {
        Blob::Text(text) => text.clone().into_bytes(),
        Blob::Bytes { b64 } => {
            STANDARD.decode(b64).map_err(|e| Fault::request("bad base64").cause(e))?
        }
    };
    if bytes.contains(&0) {
        return Err(Fault::request("a word holds a NUL byte"));
    }
    Ok(OsString::from_vec(bytes))
}
