//! Golden transcripts: a recorded exchange, replayed against a provider by playing the kernel.
//!
//! A transcript is JSON lines. `{"d":">","m":{…}}` is sent to the plugin; `{"d":"<","match":{…}}`
//! must come next from it. `"jsonrpc":"2.0"` is added to what is sent and required of what comes.
//! Empty lines and lines beginning with `#` are skipped. In a pattern, members that are not named may
//! be anything, lists have their exact length, and these stand for more than themselves:
//!
//! | Pattern | Matches |
//! |---|---|
//! | `"$any"` | anything that is there |
//! | `"$absent"` | nothing: the member must be missing |
//! | `{"$starts":"…"}`, `{"$ends":"…"}`, `{"$contains":"…"}` | a string that does |
//! | `{"$bind":"name"}` | anything, remembered under the name |
//! | `{"$ref":"name"}` | what was remembered; in what is sent, it is put in |
//! | `{"$set":[…]}` | a list in any order; as the whole pattern, as many frames in any order |

mod kernel;
mod pattern;
mod peer;

pub use crabbox_cassette::Cassette;
pub use kernel::{Kernel, desired};

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::Plugin;
use pattern::Bindings;
use peer::Peer;

/// How long one frame may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// One line of a transcript.
#[derive(Deserialize)]
struct Step {
    d: String,
    #[serde(default)]
    m: Option<Value>,
    #[serde(default, rename = "match")]
    pattern: Option<Value>,
}

/// Where the exchange left the transcript; prints as expected against received.
pub struct Mismatch {
    line: usize,
    reason: String,
}

impl fmt::Debug for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the transcript: {}", self.line, self.reason)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::error::Error for Mismatch {}

/// Replays a transcript against a plugin in this process, then closes the wire and waits for its end.
pub fn replay(plugin: Plugin, transcript: &str) -> Result<(), Mismatch> {
    play(Peer::in_process(plugin), transcript)
}

/// Replays a transcript against a plugin's executable, as the kernel would run it; it must exit with 0.
pub fn replay_binary(program: &Path, transcript: &str) -> Result<(), Mismatch> {
    play(Peer::spawned(program), transcript)
}

/// Replays a transcript against a plugin that takes arguments or surroundings of its own.
pub fn replay_command(command: Command, transcript: &str) -> Result<(), Mismatch> {
    play(Peer::started(command), transcript)
}

fn play(peer: Result<Peer, String>, transcript: &str) -> Result<(), Mismatch> {
    let mut peer = peer.map_err(|reason| Mismatch { line: 0, reason })?;
    let mut bindings = Bindings::default();
    let mut last = 0;
    for (index, text) in transcript.lines().enumerate() {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        last = index + 1;
        step(&mut peer, &mut bindings, text).map_err(|reason| Mismatch { line: last, reason })?;
    }
    peer.finish(PATIENCE).map_err(|reason| Mismatch { line: last + 1, reason })
}

fn step(peer: &mut Peer, bindings: &mut Bindings, text: &str) -> Result<(), String> {
    let step: Step = serde_json::from_str(text).map_err(|e| format!("not a step: {e}"))?;
    match (&*step.d, step.m, step.pattern) {
        (">", Some(mut frame), None) => {
            bindings.fill(&mut frame)?;
            if let Some(object) = frame.as_object_mut() {
                object.insert("jsonrpc".to_owned(), "2.0".into());
            }
            peer.send(&frame)
        }
        ("<", None, Some(pattern)) => expect(peer, bindings, &pattern),
        _ => Err("a step is {\"d\":\">\",\"m\":…} or {\"d\":\"<\",\"match\":…}".to_owned()),
    }
}

fn expect(peer: &mut Peer, bindings: &mut Bindings, pattern: &Value) -> Result<(), String> {
    let Some(set) = pattern.get("$set").and_then(Value::as_array) else {
        let frame = peer.receive(PATIENCE)?;
        return bindings
            .matches(pattern, &frame)
            .map_err(|reason| format!("{reason}\n  expected {pattern}\n  received {frame}"));
    };
    let mut left: Vec<&Value> = set.iter().collect();
    while !left.is_empty() {
        let frame = peer.receive(PATIENCE)?;
        let found = left.iter().position(|one| bindings.try_match(one, &frame));
        let Some(found) = found else {
            let left: Vec<String> = left.iter().map(|one| format!("\n  expected {one}")).collect();
            return Err(format!("nothing fits{}\n  received {frame}", left.concat()));
        };
        left.remove(found);
    }
    Ok(())
}
