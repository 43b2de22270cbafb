//! What is written down about a tree: its state, what the last small flight did to it, and what is unfinished.
//!
//! A large state is not written for a small change: the change is noted beside it (`done`), and the next sweep
//! writes both as one.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crabbox_tree::{Delta, Entry, Hash, Manifest, hex};

use crate::tree::fault::Result;
use crate::tree::guard::Doubt;
use crate::tree::place;
use crate::tree::plan::Aim;
use crate::tree::stat::{Look, Record};
use crate::tree::state::{Boot, State};
use crate::tree::{Tree, place::Place};

/// The note that holds the state.
pub(super) const STATE: &str = "state";
/// The note of a change since the state was written: which state, and the delta.
const DONE: &str = "done";
/// The note that names the paths a flight was about to change. While it is there, nothing is believed of them.
pub(super) const UNFINISHED: &str = "unfinished";

/// The notes of a sync without a helper: what it sent, and what it was about to send.
const SHELL: (&str, &str) = ("manifest", "unfinished");

/// Most paths of a change that is noted beside the state.
const SMALL: usize = 256;

/// How the notes' files look; another flight may have replaced them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    state: Option<Look>,
    done: Option<Look>,
    /// Those of a sync without a helper, which came after the last with one.
    shell: Option<Look>,
}

impl Seen {
    pub(super) fn now(place: &Place) -> Self {
        let shell = place
            .shell_notes()
            .and_then(|notes| [SHELL.0, SHELL.1].iter().find_map(|name| place::look(&notes, name)));
        Self { state: place.look(STATE), done: place.look(DONE), shell }
    }
}

impl Tree {
    /// Reads the notes again when their files are others. A state that cannot be read is none. What a sync
    /// without a helper has sent since is managed, too, but nothing is believed of it.
    pub(super) fn reload(&mut self) -> Result<()> {
        let now = Seen::now(&self.place);
        if self.seen == Some(now) {
            return Ok(());
        }
        let read = self.place.read(STATE)?;
        let known = read.and_then(|(bytes, _)| State::from_bytes(&bytes, self.place.boot));
        let (mut state, named) = known.unwrap_or_else(|| {
            let state = State::unseen(Manifest::default());
            let digest = state.digest;
            (state, digest)
        });
        if now.done.is_some()
            && let Some((text, _)) = self.place.read(DONE)?
            && let Some(delta) = text.strip_prefix(ground(&named, now.state).as_bytes())
            && let Ok(delta) = Delta::from_text(delta)
        {
            state = state.after(delta);
        }
        self.state = state;
        if now.shell.is_some() {
            self.state = State::unseen(self.state.manifest.with(&self.shell_manifest()));
        }
        (self.guard, self.doubt) = (None, Doubt::All);
        self.seen = Some(now);
        Ok(())
    }

    /// The words that a change starting now is noted with; `None` when the whole state is to be written.
    pub(super) fn small_change(&self, paths: usize) -> Option<Vec<u8>> {
        let seen = self.seen?;
        let plain = seen.state.is_some() && seen.done.is_none() && seen.shell.is_none();
        (plain && paths <= SMALL).then(|| ground(&self.state.digest, seen.state).into_bytes())
    }

    /// Writes the state down: as a change, when there is a note of it, else whole.
    pub(super) fn save(&mut self, change: Option<&[u8]>) -> Result<()> {
        match change {
            Some(note) => {
                self.place.write(DONE, note)?;
                self.seen = Some(Seen::now(&self.place));
                Ok(())
            }
            None => {
                let fresh = format!("{STATE}.new");
                self.place.write_aside(&fresh, &self.state.to_bytes(self.place.boot))?;
                self.save_from(&fresh)
            }
        }
    }

    /// Makes a file that was written aside the state. All other notes are in it.
    pub(super) fn save_from(&mut self, aside: &str) -> Result<()> {
        self.place.rename(aside, STATE)?;
        self.place.forget(DONE)?;
        self.forget_shell_notes()?;
        self.seen = Some(Seen::now(&self.place));
        Ok(())
    }

    /// Whether notes wait to be written into the state.
    pub(super) fn has_change(&self) -> bool {
        self.seen.is_some_and(|seen| seen.done.is_some() || seen.shell.is_some())
    }

    /// What a sync without a helper noted is in the state now.
    fn forget_shell_notes(&self) -> Result<()> {
        let Some(notes) = self.place.shell_notes() else { return Ok(()) };
        place::forget(&notes, SHELL.0)?;
        place::forget(&notes, SHELL.1)
    }

    /// The paths that a flight which was cut off was about to change.
    pub(super) fn unfinished(&self) -> Result<Option<BTreeSet<PathBuf>>> {
        let Some((text, _)) = self.place.read(UNFINISHED)? else { return Ok(None) };
        // What is not whole was not acted upon: the note is there before anything is done.
        let noted = Delta::from_text(&text).map(|d| d.removed).unwrap_or_default();
        Ok(Some(noted.into_iter().collect()))
    }

    /// What a sync without a helper left here.
    fn shell_manifest(&self) -> Manifest {
        let Some(notes) = self.place.shell_notes() else { return Manifest::default() };
        let read = |name: &str| {
            let bytes = place::read(&notes, name).ok()??.0;
            Manifest::from_text(std::str::from_utf8(&bytes).ok()?)
        };
        let finished = read(SHELL.0).unwrap_or_default();
        finished.with(&read(SHELL.1).unwrap_or_default())
    }
}

/// Which state a change was made on, in the words of the note: its digest and its file.
fn ground(digest: &Hash, state: Option<Look>) -> String {
    let Look { ino, mtime: (secs, nanos), .. } = state.unwrap_or_default();
    format!("{} {ino} {secs} {nanos}\n", hex(digest))
}

/// The entries that the notes of some tree speak of, for what that is worth.
pub(super) fn rumours(notes: &OwnedFd, boot: Boot) -> Option<Vec<Entry>> {
    let (bytes, _) = place::read(notes, STATE).ok()??;
    let mut entries = State::from_bytes(&bytes, boot)?.0.manifest.into_entries();
    if let Ok(Some((text, _))) = place::read(notes, DONE)
        && let Some(line) = text.iter().position(|b| *b == b'\n')
        && let Ok(delta) = Delta::from_text(&text[line + 1..])
    {
        entries.extend(delta.wanted);
    }
    Some(entries)
}

impl State {
    /// The state after a change, of whose entries nothing has been looked at.
    fn after(mut self, delta: Delta) -> Self {
        let aim = Aim::of(&self, &delta);
        let fresh = delta.wanted.into_iter().map(|entry| (entry, Record::default()));
        self.change(&delta.removed, fresh, aim);
        self
    }
}
