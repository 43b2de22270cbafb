//! What a command prints, byte for byte, over a stream that is made for lines of text.
//!
//! Daytona's shells mark every line with its channel, lose NUL and end every line. So the command's bytes travel as
//! lines of base64, and a dot says that a channel has ended. The stream begins anew when it is opened again: what was
//! heard is skipped, so that a broken one costs no byte and doubles none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_plugin_sdk::{
    ErrorKind, Failure, Message, Next, Outcome, RemoteCommand, Said, Socket, Woken,
};

use crate::toolbox::Toolbox;

/// Runs a command whose bytes are framed. `env` says that its environment lies beside it.
pub(crate) const FRAMED: &str = r#"c=$1 r=$2 e=$3; shift 3
(umask 077; mkdir -p "$c" && chmod 700 "$c" && rm -f "$c/$r.out" "$c/$r.err" && mkfifo "$c/$r.out" "$c/$r.err") || exit 126
frame() { while b=$(dd bs=49152 count=1 2>/dev/null | base64 -w 3000) && [ -n "$b" ]; do printf '%s\n' "$b"; done; echo .; }
frame <"$c/$r.out" &
frame <"$c/$r.err" >&2 &
( if [ "$e" = env ]; then . "$c/$r.env"; rm -f "$c/$r.env"; fi; exec "$@" ) </dev/null >"$c/$r.out" 2>"$c/$r.err"
s=$?; wait; rm -f "$c/$r.out" "$c/$r.err"; exit $s"#;

/// Longest line that is waited for.
const LINE: usize = 64 * 1024;
/// Between two looks for what must come soon, and how many there are.
const LOOK: Duration = Duration::from_millis(250);
const LOOKS: u32 = 40;
/// How often Daytona is told that the sandbox is used.
const AWAKE: Duration = Duration::from_secs(60);

/// A command that was started.
pub(crate) struct Frames<'t, 'a> {
    toolbox: &'t Toolbox<'a>,
    sandbox: &'t str,
    id: String,
    socket: Option<Socket<'a>>,
    lines: Lines,
    looks: u32,
    awake: Instant,
}

impl<'t, 'a> Frames<'t, 'a> {
    pub(crate) fn new(toolbox: &'t Toolbox<'a>, sandbox: &'t str, id: String) -> Self {
        let (lines, awake) = (Lines::default(), Instant::now());
        Self { toolbox, sandbox, id, socket: None, lines, looks: 0, awake }
    }

    /// Waits a little for what must come soon, and not for ever.
    fn again(&mut self, why: &str) -> Result<(), Failure> {
        self.looks += 1;
        if self.looks > LOOKS {
            return Err(cut(why));
        }
        match self.toolbox.api.call.sleep(LOOK)? {
            Woken::Time => Ok(()),
            Woken::Cancel if self.looks > 1 => Ok(()),
            Woken::Cancel => Err(Failure::cancelled("cancelled", Outcome::Uncertain)),
        }
    }

    /// The socket has no more. When the command has an exit status and nothing more comes, that is its end, although
    /// it did not say so: it was killed with everything around it.
    fn closed(&mut self) -> Result<Option<Said>, Failure> {
        self.socket = None;
        let ended = match self.toolbox.command(&self.id) {
            Ok(command) => command.exit_code,
            Err(failure) if failure.kind() == ErrorKind::Transient => None,
            Err(failure) => return Err(cut(failure.message())),
        };
        if let Some(code) = ended.filter(|_| self.lines.over() || self.looks >= LOOKS / 4) {
            return Ok(Some(Said::Exit(code)));
        }
        self.again("its stream ended")?;
        Ok(None)
    }

    fn heard(&mut self, wait: Duration) -> Result<Option<Said>, Failure> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => match self.toolbox.follow(&self.id) {
                Ok(socket) => {
                    self.lines.rewind();
                    none.insert(socket)
                }
                Err(failure) if failure.kind() == ErrorKind::Cancelled => return Err(failure),
                Err(failure) => {
                    self.again(failure.message())?;
                    return Ok(Some(Said::Nothing));
                }
            },
        };
        match socket.recv(wait)? {
            Next::Item(message) => {
                let bytes = match message {
                    Message::Text(text) => text.into_bytes(),
                    Message::Binary(bytes) => bytes,
                };
                if self.lines.feed(&bytes)? {
                    self.looks = 0;
                }
                Ok(Some(Said::Nothing))
            }
            Next::Quiet => Ok(None),
            Next::End => self.closed().map(|said| said.or(Some(Said::Nothing))),
        }
    }
}

impl RemoteCommand for Frames<'_, '_> {
    fn next(&mut self, wait: Duration) -> Result<Option<Said>, Failure> {
        if let Some(said) = self.lines.ready.pop_front() {
            return Ok(Some(said));
        }
        if self.awake.elapsed() >= AWAKE {
            self.awake = Instant::now();
            self.toolbox.api.stay_awake(self.sandbox);
        }
        match self.lines.over() {
            true => self.closed(),
            false => self.heard(wait),
        }
    }
}

fn cut(why: &str) -> Failure {
    Failure::transient(format!("Daytona gave no exit status of the command: {why}"))
        .outcome(Outcome::Uncertain)
        .hint("the command may have ended or may go on; it is not started again")
}

/// Marked lines, taken apart.
#[derive(Default)]
struct Lines {
    /// What was said and not yet taken.
    ready: VecDeque<Said>,
    /// The line that is being read, and of which channel it is.
    line: Vec<u8>,
    channel: usize,
    /// Lines heard of each channel, those of them that come once more, and whether it has ended.
    heard: [usize; 2],
    known: [usize; 2],
    ended: [bool; 2],
}

impl Lines {
    /// The stream begins anew.
    fn rewind(&mut self) {
        self.line.clear();
        self.known = self.heard;
    }

    fn over(&self) -> bool {
        self.ended == [true; 2]
    }

    /// Takes a piece of the stream; whether there was news in it.
    fn feed(&mut self, bytes: &[u8]) -> Result<bool, Failure> {
        let mut news = false;
        for &byte in bytes {
            match byte {
                1 | 2 => self.channel = usize::from(byte - 1),
                b'\n' => news |= self.line_ended()?,
                _ if self.line.len() >= LINE => return Err(cut("a line without an end")),
                _ => self.line.push(byte),
            }
        }
        Ok(news)
    }

    fn line_ended(&mut self) -> Result<bool, Failure> {
        let (line, channel) = (std::mem::take(&mut self.line), self.channel);
        if self.known[channel] > 0 {
            self.known[channel] -= 1;
            return Ok(false);
        }
        self.heard[channel] += 1;
        if line == b"." {
            self.ended[channel] = true;
            return Ok(true);
        }
        // What is said before the frames is a complaint about them.
        let bytes = STANDARD.decode(&line).unwrap_or_else(|_| [line, b"\n".to_vec()].concat());
        self.ready.push_back(match channel {
            0 => Said::Stdout(bytes),
            _ => Said::Stderr(bytes),
        });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_begins_anew_at_any_byte_costs_none_and_doubles_none() {
        let whole =
            b"\x01\x01\x01/wD+\n\x02\x02\x02ZXJy\n\x01\x01\x01b2s=\n\x01\x01\x01.\n\x02\x02\x02.\n";
        for cut in 0..whole.len() {
            let mut lines = Lines::default();
            let _ = lines.feed(&whole[..cut]).unwrap();
            lines.rewind();
            let _ = lines.feed(whole).unwrap();
            assert!(lines.over());
            let said: Vec<_> = lines.ready.into_iter().collect();
            let expected = [
                Said::Stdout(vec![0xff, 0, 0xfe]),
                Said::Stderr(b"err".to_vec()),
                Said::Stdout(b"ok".to_vec()),
            ];
            assert_eq!(said, expected, "cut at {cut}");
        }
    }
}
