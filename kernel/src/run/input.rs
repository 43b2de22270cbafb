//! What was typed for a command and may have to be sent again.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_wire::{MAX_BODY, WINDOW};

use crate::error::{KernelError, Result};
use crate::helper::Helper;

/// What was sent this long ago was taken, or it could not all have been sent: the box grants as it takes.
const SURELY_TAKEN: u64 = WINDOW + MAX_BODY as u64;

/// The input of one command, as far as the command may not have it yet.
#[derive(Debug)]
pub(super) struct Input {
    wanted: bool,
    /// Bytes from `from` on.
    kept: VecDeque<Bytes>,
    from: u64,
    /// How far it was sent on this line.
    sent: u64,
    /// How much was typed; with `ended` there will be no more.
    typed: u64,
    ended: bool,
    /// The end was sent on this line.
    end_sent: bool,
}

impl Input {
    /// Without a wish for it there is no input.
    pub(super) fn new(wanted: bool) -> Self {
        let kept = VecDeque::new();
        Self { wanted, kept, from: 0, sent: 0, typed: 0, ended: false, end_sent: false }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// The command takes no more.
    pub(super) fn close(&mut self) {
        self.wanted = false;
        self.kept.clear();
    }

    /// The first byte that can be sent again.
    pub(super) fn resume_from(&self) -> Option<u64> {
        self.wanted.then_some(self.from)
    }

    /// Whether more should be read from the console.
    pub(super) fn wants(&self) -> bool {
        self.wanted && !self.ended && self.sent == self.typed
    }

    /// Takes what was typed; `None` is its end.
    pub(super) fn push(&mut self, typed: Option<Bytes>) {
        match typed {
            Some(data) => {
                self.typed += data.len() as u64;
                self.kept.push_back(data);
            }
            None => self.ended = true,
        }
    }

    /// Whether something is to be sent.
    pub(super) fn is_waiting(&self) -> bool {
        self.wanted && (self.sent < self.typed || self.ended && !self.end_sent)
    }

    /// Sends the next piece, and lets go of what was surely taken.
    pub(super) fn send(&mut self, helper: &mut Helper, channel: u32) {
        let data = self.next();
        self.sent += data.len() as u64;
        self.end_sent = self.ended && self.sent == self.typed;
        helper.send(channel, data, self.end_sent);
        self.let_go(self.sent.saturating_sub(SURELY_TAKEN));
    }

    fn next(&self) -> Bytes {
        let mut at = self.from;
        for piece in &self.kept {
            let end = at + piece.len() as u64;
            if self.sent < end {
                let skip = usize::try_from(self.sent - at).unwrap_or(usize::MAX);
                let rest = piece.slice(skip.min(piece.len())..);
                return rest.slice(..rest.len().min(MAX_BODY));
            }
            at = end;
        }
        Bytes::new()
    }

    /// Goes back to what the command has taken, for a new line.
    pub(super) fn rewind(&mut self, taken: u64) -> Result<()> {
        if taken < self.from || taken > self.typed {
            let what = "the box does not know which input the command has taken";
            return Err(KernelError::new(ErrorCode::Internal, what).outcome(Outcome::Uncertain));
        }
        self.let_go(taken);
        self.sent = taken;
        self.end_sent = false;
        Ok(())
    }

    fn let_go(&mut self, before: u64) {
        while let Some(piece) = self.kept.front_mut() {
            let len = piece.len() as u64;
            let passed = before.saturating_sub(self.from);
            if passed < len {
                piece.advance(usize::try_from(passed).unwrap_or_default());
                self.from += passed;
                return;
            }
            self.from += len;
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&'static str]) -> Input {
        let mut input = Input::new(true);
        pieces.iter().for_each(|p| input.push(Some(Bytes::from_static(p.as_bytes()))));
        input
    }

    #[test]
    fn a_new_line_begins_where_the_command_stopped_taking() {
        let mut input = typed(&["hello ", "world"]);
        input.sent = 11;
        input.push(None);
        input.rewind(8).unwrap();
        assert_eq!(input.next(), "rld");
        assert!(input.is_waiting());
        input.sent = 11;
        assert!(input.is_waiting(), "its end has to be sent again too");
        assert_eq!(input.next(), "");
    }

    #[test]
    fn what_cannot_be_sent_again_is_an_error_and_not_a_guess() {
        let mut input = typed(&["hello"]);
        input.let_go(3);
        assert_eq!(input.resume_from(), Some(3));
        assert!(input.rewind(2).is_err());
        assert!(input.rewind(6).is_err());
        assert!(input.rewind(3).is_ok());
    }
}
