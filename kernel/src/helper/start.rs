//! Getting a helper to run on the box: one that is kept, the cached one, or the one we bring along.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use crabbox_schemas::helper::CHANNEL;
use crabbox_wire::{GREETING, PacketReader};

use crate::error::{KernelError, Result};
use crate::event::{Event, Stream};
use crate::helper::binaries::Binary;
use crate::helper::{Binaries, Helper};
use crate::ports::{Clock, EventSink, Piece, ProcessInput, ProcessOutput, Remote};
use crate::shell::quote;

/// How long the box may take for each word it says.
const WORD: Duration = Duration::from_secs(30);
/// How long it may take to receive the program.
const UPLOAD: Duration = Duration::from_secs(300);
/// How much talk before the first word is skipped.
const MAX_NOISE: usize = 64 << 10;
/// How much of what it complained about is kept.
const COMPLAINT: usize = 4 << 10;

/// What it prints when it needs the program, and when nothing can be done.
const WANT: &[u8] = b"crabbox-want ";
const NONE: &[u8] = b"crabbox-none ";

/// What a box is worked with.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of them in a run")]
pub enum Opened {
    /// A helper runs there.
    Helper(Helper),
    /// sh and tar must do.
    Shell {
        /// Why, for people.
        why: String,
    },
}

/// Finds or starts the helper on a box. An error means that the connection is of no use; whatever keeps a
/// helper from running there is not an error.
pub async fn open<R: Remote>(
    remote: &R,
    binaries: &Binaries,
    work_root: &str,
    clock: &impl Clock,
    events: &mut dyn EventSink,
) -> Result<Opened> {
    if let Some(helper) = kept(remote, work_root, clock, events).await {
        return Ok(Opened::Helper(helper));
    }
    let brought = match bring(remote, binaries, work_root, clock, events).await? {
        Brought::Running(brought) => brought,
        Brought::Nothing { why } => return Ok(Opened::Shell { why }),
    };
    let mut reader = PacketReader::new();
    reader.feed(&brought.said);
    let hello = Helper::over(brought.input, brought.output, reader, remote.starter());
    let why = match within(clock, WORD, hello).await {
        None => "it greeted and said no more".to_owned(),
        // It greeted, so it runs there: the line was cut, or somebody killed it. Another line may do.
        Some(Err(error)) => return Err(error),
        Some(Ok(helper)) if helper.hello().channel == CHANNEL => {
            return Ok(Opened::Helper(helper));
        }
        Some(Ok(helper)) => format!("it speaks version {}", helper.hello().channel),
    };
    Ok(Opened::Shell { why: format!("the helper is of no use: {why}") })
}

/// The helper somebody keeps, if it is one of this version and answers.
async fn kept<R: Remote>(
    remote: &R,
    work_root: &str,
    clock: &impl Clock,
    events: &mut dyn EventSink,
) -> Option<Helper> {
    let asked = async {
        let Some((input, output)) = remote.kept_helper(work_root).await? else { return Ok(None) };
        Helper::over(input, output, PacketReader::new(), remote.starter()).await.map(Some)
    };
    let why = match within(clock, WORD, asked).await {
        None => "it does not answer".to_owned(),
        Some(Ok(None)) => return None,
        Some(Ok(Some(helper))) if helper.hello().channel == CHANNEL => return Some(helper),
        Some(Ok(Some(helper))) => format!("it speaks version {}", helper.hello().channel),
        Some(Err(error)) => error.to_string(),
    };
    debug(events, format!("the kept helper is of no use: {why}"));
    None
}

fn debug(events: &mut dyn EventSink, message: String) {
    events.emit(Event::Debug { message });
}

/// What came of bringing a helper to a box.
#[derive(Debug)]
pub enum Brought<I, O> {
    /// It runs and has greeted.
    Running(Running<I, O>),
    /// None can run there.
    Nothing {
        /// Why, for people.
        why: String,
    },
}

/// A helper that has greeted, as a pair of byte streams.
#[derive(Debug)]
pub struct Running<I, O> {
    /// Its standard input; nothing of the channel was written yet.
    pub input: I,
    /// What follows on its standard output.
    pub output: O,
    /// What was read already: the greeting, with whatever came before and after it.
    pub said: Bytes,
}

/// Starts the helper that the box has cached, or brings one there and starts that. An error means that the
/// connection is of no use.
pub async fn bring<R: Remote>(
    remote: &R,
    binaries: &Binaries,
    work_root: &str,
    clock: &impl Clock,
    events: &mut dyn EventSink,
) -> Result<Brought<R::Input, R::Output>> {
    let binaries = binaries.read();
    if binaries.is_empty() {
        return Ok(Brought::Nothing { why: "this crabbox came without helpers".to_owned() });
    }
    let mut why = String::new();
    for fresh in [false, true] {
        let command = command(&binaries, work_root, fresh);
        match start(remote, &binaries, &command, clock, events).await? {
            Try::Running(running) => return Ok(Brought::Running(running)),
            Try::Never(why) => return Ok(Brought::Nothing { why }),
            Try::Died(said) => why = format!("the helper does not start there: {said}"),
        }
        debug(events, why.clone());
    }
    Ok(Brought::Nothing { why })
}

/// What came of one start.
enum Try<I, O> {
    Running(Running<I, O>),
    /// Trying again changes nothing.
    Never(String),
    /// A program was started and did not greet: a fresh copy may.
    Died(String),
}

async fn start<R: Remote>(
    remote: &R,
    binaries: &[Binary],
    command: &str,
    clock: &impl Clock,
    events: &mut dyn EventSink,
) -> Result<Try<R::Input, R::Output>> {
    let starting = async {
        let (input, output) = remote.start(command, None).await?;
        let mut ear = Ear { output, seen: BytesMut::new(), complaint: Vec::new() };
        let heard = ear.listen().await?;
        Ok::<_, KernelError>((input, ear, heard))
    };
    let Some(started) = within(clock, WORD, starting).await else {
        return Ok(Try::Never(format!("the box said nothing for {} s", WORD.as_secs())));
    };
    let (mut input, mut ear, mut heard) = started?;
    if let Heard::Want(target) = heard {
        let Some(binary) = binaries.iter().find(|b| b.target == target) else {
            return Ok(Try::Never(format!("there is no helper for {target} here")));
        };
        debug(events, format!("sending the helper ({} bytes)", binary.program.len()));
        let sending = upload(&mut input, &mut ear, binary);
        heard = match within(clock, UPLOAD, sending).await {
            Some(heard) => heard?,
            None => return Ok(Try::Never("the helper took too long to send".to_owned())),
        };
    }
    Ok(match heard {
        Heard::Greeting => {
            Try::Running(Running { input, output: ear.output, said: ear.seen.freeze() })
        }
        Heard::None(why) => Try::Never(why),
        Heard::Ended(why) => Try::Died(why),
        Heard::Want(_) => Try::Never("the box asked for the helper twice".to_owned()),
    })
}

/// `None` when the time is over first.
async fn within<T>(
    clock: &impl Clock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}

/// The first word of the box.
enum Heard {
    /// A helper is there.
    Greeting,
    /// It needs the program of this target.
    Want(String),
    /// No helper can run there.
    None(String),
    /// The shell or the helper ended without a word.
    Ended(String),
}

/// Listens for words among whatever else a login shell prints.
struct Ear<O> {
    output: O,
    seen: BytesMut,
    complaint: Vec<u8>,
}

impl<O: ProcessOutput> Ear<O> {
    async fn listen(&mut self) -> Result<Heard> {
        loop {
            if let Some(heard) = self.word() {
                return Ok(heard);
            }
            if self.seen.len() > MAX_NOISE {
                return Ok(Heard::None("the box prints too much before it answers".to_owned()));
            }
            match self.output.next().await? {
                Piece::Data(Stream::Stdout, data) => self.seen.extend_from_slice(&data),
                Piece::Data(Stream::Stderr, data) => {
                    let room = COMPLAINT.saturating_sub(self.complaint.len());
                    self.complaint.extend_from_slice(&data[..data.len().min(room)]);
                }
                Piece::Exited(exit) => return Ok(Heard::Ended(self.last_words(exit.code))),
            }
        }
    }

    fn word(&mut self) -> Option<Heard> {
        if position(&self.seen, GREETING).is_some() {
            return Some(Heard::Greeting);
        }
        if let Some(target) = self.line(WANT) {
            let (os, arch) = target.split_once(' ').unwrap_or((&target, ""));
            let os = os.to_lowercase();
            let arch = match arch {
                "arm64" => "aarch64",
                "amd64" => "x86_64",
                other => other,
            };
            return Some(Heard::Want(format!("{os}-{arch}")));
        }
        self.line(NONE).map(Heard::None)
    }

    /// The rest of the line that begins with a word, which is taken out with all before it.
    fn line(&mut self, word: &[u8]) -> Option<String> {
        let from = position(&self.seen, word)? + word.len();
        let len = self.seen[from..].iter().position(|b| *b == b'\n')?;
        let line = String::from_utf8_lossy(&self.seen[from..from + len]).trim().to_owned();
        self.seen.advance(from + len + 1);
        Some(line)
    }

    fn last_words(&self, code: i32) -> String {
        let said = String::from_utf8_lossy(&self.complaint);
        match said.lines().rev().find(|l| !l.trim().is_empty()) {
            Some(line) => format!("status {code}: {}", line.trim()),
            None => format!("status {code}"),
        }
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Sends the program; the box may find that it cannot take it while it comes.
async fn upload<I: ProcessInput, O: ProcessOutput>(
    input: &mut I,
    ear: &mut Ear<O>,
    binary: &Binary,
) -> Result<Heard> {
    let send = async {
        let head = format!("{} {}\n", binary.hash, binary.program.len());
        input.write(Bytes::from(head)).await?;
        input.write(binary.program.clone()).await
    };
    let listen = ear.listen();
    tokio::pin!(send, listen);
    let sent: Result<(), KernelError> = tokio::select! {
        biased;
        heard = &mut listen => return heard,
        sent = &mut send => sent,
    };
    // Its own words explain more than that it takes no more.
    match listen.await {
        Ok(heard) => Ok(heard),
        Err(error) => Err(sent.err().unwrap_or(error)),
    }
}

/// What the box's shell does: start what is cached, or ask for the program and start that. It is one line
/// without quotes, so that the login shell, whichever it is, only sees the words of an `exec`.
const PROGRAM: &str = concat!(
    r#"p="${XDG_CACHE_HOME:-${HOME:-$1}/.cache}/crabbox/helper"; q="$1/.crabbox/helper"; "#,
    r#"s() { for x in $h; do if [ -O "$1/$x" ] && [ -x "$1/$x" ]; then exec "$1/$x" serve; fi; done; }; "#,
    r#"if [ -z "$2" ]; then s "$p"; s "$q"; fi; "#,
    r#"r="${TMPDIR:-/tmp}/crabbox-$(id -u)"; "#,
    r#"if [ -z "$2" ] && [ -O "$r" ] && [ ! -h "$r" ]; then s "$r"; fi; "#,
    r#"u=$(umask); umask 077; m=; "#,
    r#"for d in "$p" "$q" "$r"; do mkdir -p "$d" 2>/dev/null; "#,
    r#"if [ -O "$d" ] && [ ! -h "$d" ]; then t="$d/.try.$$"; "#,
    // An empty program is a shell script to every shell, unless nothing may be executed there.
    r#"if { echo >"$t"; } 2>/dev/null && chmod 700 "$t" && "$t" </dev/null 2>/dev/null; then m=$d; fi; "#,
    r#"rm -f "$t"; fi; if [ -n "$m" ]; then break; fi; done; "#,
    r#"if [ -z "$m" ]; then echo "crabbox-none no folder there takes and executes a program"; exit 0; fi; "#,
    r#"echo "crabbox-want $(uname -s) $(uname -m)"; "#,
    r#"read -r x n || exit 0; t="$m/.$x.$$"; head -c "$n" >"$t"; "#,
    r#"if [ "$(wc -c <"$t")" -ne "$n" ]; then rm -f "$t"; echo "crabbox-none the helper could not be stored there"; exit 0; fi; "#,
    r#"case "$(sha256sum <"$t" 2>/dev/null)" in "$x"*|"") ;; *) rm -f "$t"; echo "crabbox-none the helper arrived damaged"; exit 0;; esac; "#,
    r#"chmod 700 "$t" && mv -f "$t" "$m/$x"; "#,
    // The newest five stay.
    r#"ls -t "$m" | tail -n +6 | while read -r f; do rm -f "$m/$f"; done; "#,
    r#"umask "$u"; exec "$m/$x" serve"#,
);

fn command(binaries: &[Binary], work_root: &str, fresh: bool) -> String {
    let hashes: Vec<&str> = binaries.iter().map(|b| b.hash.as_str()).collect();
    let fresh = if fresh { " fresh" } else { "" };
    format!(
        "exec sh -c 'h=\"{}\"; {PROGRAM}' crabbox-helper {}{fresh}",
        hashes.join(" "),
        quote(work_root)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_one_line_without_quotes_or_backslashes() {
        assert!(PROGRAM.bytes().all(|b| !b"'\\\n".contains(&b)), "{PROGRAM}");
    }
}
