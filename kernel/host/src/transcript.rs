//! What kernel and plugin say to each other, written down so that it can be replayed.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use crabbox_net::Redactor;
use crabbox_wire::Frame;
use serde_json::{Value, json};

use crate::spawn::lock;

/// Stands for content that is nobody's business: bytes of files and of the user's output, values of variables.
const LEFT_OUT: &str = "[left out]";
/// The same where bytes are expected, in base64.
const LEFT_OUT_BYTES: &str = "W2xlZnQgb3V0XQ==";

/// How every transcript begins.
const HEAD: &str = "# What crabbox and a plugin said, in turn.\n";

/// A file of steps, one a line, as docs/plugins.md describes them. Sessions are parted by blank lines.
#[derive(Debug)]
pub struct Transcript(Mutex<File>);

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Kernel,
    Plugin,
}

impl Transcript {
    /// Makes the file, in place of an older transcript and of nothing else; only its owner can read it.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Err(_) => {}
            Ok(facts) if facts.is_file() && is_older(path)? => std::fs::remove_file(path)?,
            Ok(_) => {
                let what = "it is there already, and is no transcript";
                return Err(Error::new(ErrorKind::AlreadyExists, what));
            }
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        (&file).write_all(HEAD.as_bytes())?;
        Ok(Self(Mutex::new(file)))
    }

    /// Begins the steps of a session.
    pub(crate) fn begin(&self, provider: &str) {
        let mut file = lock(&self.0);
        let _ = writeln!(file, "\n# {provider}");
    }

    /// Writes a step down, without secrets. A transcript that cannot be written stops nobody's work.
    pub(crate) fn note(&self, side: Side, frame: &Frame, redactor: &Redactor) {
        let mut said = said(frame);
        redactor.json(&mut said);
        leave_out(side, &mut said);
        let step = match side {
            Side::Kernel => json!({"d": ">", "m": said}),
            Side::Plugin => json!({"d": "<", "match": said}),
        };
        let _ = lock(&self.0).write_all(format!("{step}\n").as_bytes());
    }
}

/// Whether a file is empty, or begins as transcripts do.
fn is_older(path: &Path) -> std::io::Result<bool> {
    let mut head = vec![0; HEAD.len()];
    let mut file = File::open(path)?;
    Ok(file.metadata()?.len() == 0 || file.read_exact(&mut head).is_ok() && head == HEAD.as_bytes())
}

/// A frame as a transcript has it.
fn said(frame: &Frame) -> Value {
    match frame {
        Frame::Request { id, method, params } => {
            json!({"id": id, "method": method, "params": params})
        }
        Frame::Notification { method, params } => json!({"method": method, "params": params}),
        Frame::Response { id, result: Ok(result) } => json!({"id": id, "result": result}),
        Frame::Response { id, result: Err(error) } => json!({"id": id, "error": error}),
    }
}

/// Takes contents and values of variables out, wherever they stand: `b64`, and as `text` and `data` what streams carry.
fn leave_out(side: Side, value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match (&**name, side, &mut *value) {
                    ("b64", Side::Kernel, Value::String(bytes)) => *bytes = LEFT_OUT_BYTES.into(),
                    ("text" | "data", Side::Kernel, Value::String(text)) => *text = LEFT_OUT.into(),
                    ("b64" | "text" | "data", Side::Plugin, Value::String(content)) => {
                        *content = "$any".into();
                    }
                    ("env", _, Value::Object(variables)) => {
                        variables.values_mut().for_each(|value| *value = LEFT_OUT.into());
                    }
                    _ => leave_out(side, value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| leave_out(side, item)),
        _ => {}
    }
}
