//! Following a run: its output out of the spool to the laptop, as fast as that takes it, and its end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use crabbox_schemas::helper::{Exited, Gap, Grant, Role, RunExit, Stalled, note};
use crabbox_wire::{Credit, Packet};
use rustix::event::{PollFd, PollFlags, poll};

use crate::line::Line;
use crate::link::{Heard, Link, News, Order, place};
use crate::out::Out;
use crate::runs::{RunDir, Standing};
use crate::spool::{Read, Reader};

/// Largest body of a packet of output.
const PIECE: usize = 64 << 10;

const ROLES: [Role; 2] = [Role::Stdout, Role::Stderr];

/// One stream on its way.
struct Stream {
    role: Role,
    reader: Reader,
    /// How long it is, as far as we know.
    end: u64,
    credit: Credit,
    needed: u64,
}

/// What is known about the end.
enum End {
    NotYet,
    Exited(RunExit),
    Lost,
}

/// Somebody follows a run.
pub(crate) struct Follow<'a> {
    out: &'a Out,
    line: Arc<Line>,
    run: RunDir,
    streams: [Stream; 2],
    end: End,
    stdin_taken: u64,
    buffer: Vec<u8>,
    /// The client went away: the end is waited for, but nothing is sent.
    quiet: bool,
    /// Keeps the spool where it is.
    reading: Option<File>,
}

impl<'a> Follow<'a> {
    /// Follows from these offsets on.
    pub(crate) fn new(out: &'a Out, line: Arc<Line>, run: RunDir, from: [u64; 2]) -> Self {
        let limit = run.meta().map(|meta| meta.spool_bytes).unwrap_or_default();
        let stream = |role: Role, name, at| Stream {
            role,
            reader: Reader::new(run.path(), name, limit, at),
            end: 0,
            credit: Credit::growing(role.first_window(), role.window()),
            needed: 0,
        };
        let streams = [stream(Role::Stdout, "out", from[0]), stream(Role::Stderr, "err", from[1])];
        let (buffer, reading) = (vec![0; PIECE], run.reading());
        let (end, stdin_taken, quiet) = (End::NotYet, 0, false);
        Self { out, line, run, streams, end, stdin_taken, buffer, quiet, reading }
    }

    /// Standard input was taken up to here before.
    pub(crate) fn stdin_from(mut self, taken: u64) -> Self {
        self.stdin_taken = taken;
        self
    }

    /// Follows a run that is over, or whose worker is not ours to ask.
    pub(crate) fn rest(mut self) -> io::Result<()> {
        self.is_over();
        self.keep_on(&mut None, false)
    }

    /// Follows a running one. With `stay` it is followed to its end also when the client goes away.
    pub(crate) fn live(mut self, link: &mut Option<Link>, stay: bool) -> io::Result<()> {
        self.keep_on(link, stay)
    }

    fn keep_on(&mut self, link: &mut Option<Link>, stay: bool) -> io::Result<()> {
        // The first news may have come together with the answer that was waited for.
        self.understand(link)?;
        loop {
            for index in 0..ROLES.len() {
                self.pump(index, link)?;
            }
            if self.is_done() {
                return self.say_end();
            }
            self.wait(link)?;
            if !self.take_turn(link, stay)? {
                return Ok(());
            }
            self.take_news(link)?;
        }
    }

    /// Sleeps until the laptop or the worker says something.
    fn wait(&self, link: &Option<Link>) -> io::Result<()> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.line.bell(), PollFlags::IN)];
        if let (Some(link), End::NotYet) = (link, &self.end) {
            fds.push(PollFd::from_borrowed_fd(link.stream().as_fd(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends what is there of a stream, as far as the laptop's credit goes.
    fn pump(&mut self, index: usize, link: &mut Option<Link>) -> io::Result<()> {
        let stream = &mut self.streams[index];
        let channel = stream.role.of(self.line.base);
        while !self.quiet && stream.reader.at() < stream.end && stream.credit.may_send() {
            let from = stream.reader.at();
            let got = stream.reader.read(&mut self.buffer)?;
            match got {
                Read::Bytes(n) => {
                    stream.credit.take(n as u64);
                    self.out.bytes(self.line.session, channel, from, false, &self.buffer[..n])?;
                }
                Read::Gap(to) => {
                    self.out.note(self.line.session, note::GAP, &Gap { channel, from, to })?;
                }
                Read::Nothing if matches!(self.end, End::Lost) => stream.end = from,
                // Somebody removed the folder: what was written is not there any more.
                Read::Nothing => {
                    let to = stream.end;
                    stream.reader.pass_over(to);
                    self.out.note(self.line.session, note::GAP, &Gap { channel, from, to })?;
                }
            }
            if stream.reader.needed() > stream.needed
                && let Some(link) = link
            {
                stream.needed = stream.reader.needed();
                let _ = link.send(&place(stream.role, stream.needed));
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let sent = self.streams.iter().all(|s| s.reader.at() >= s.end);
        !matches!(self.end, End::NotYet) && (self.quiet || sent)
    }

    /// The last words: every stream's end, and how the command ended.
    fn say_end(&mut self) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        let Line { session, base, .. } = *self.line;
        for stream in &self.streams {
            let at = stream.reader.at();
            self.out.bytes(session, stream.role.of(base), at, true, &[])?;
        }
        let exit = match &self.end {
            End::Exited(exit) => Some(exit.clone()),
            _ => None,
        };
        let run_id = self.run.run_id().to_owned();
        // Who hears of the end may have the run forgotten at once.
        self.reading = None;
        self.line.finish();
        self.out.note(session, note::EXITED, &Exited { channels: base, run_id, exit })
    }

    /// What the laptop said. False when there is nobody to follow for.
    fn take_turn(&mut self, link: &mut Option<Link>, stay: bool) -> io::Result<bool> {
        let turn = self.line.turn();
        for (stream, granted) in self.streams.iter_mut().zip(turn.granted) {
            stream.credit.grant(granted);
        }
        let Some(link) = link else { return Ok(!turn.gone) };
        // A worker that is gone is noticed when it is listened to.
        for piece in turn.stdin {
            let channel = Role::Stdin.of(1);
            let packet = Packet::data(0, channel, piece.offset, piece.last, piece.bytes);
            let _ = link.send(&packet);
        }
        if let Some((columns, rows)) = turn.size {
            let _ = link.tell(&Order::Resize { columns, rows });
        }
        if turn.gone && !self.quiet {
            self.quiet = true;
            let _ = link.tell(&Order::Detach);
        }
        Ok(stay || !turn.gone)
    }

    /// What the worker says; each stream is sent as soon as it is known to have grown, so that they stay in order.
    fn take_news(&mut self, link: &mut Option<Link>) -> io::Result<()> {
        let Some(open) = link else { return Ok(()) };
        if !matches!(self.end, End::NotYet) || !is_readable(open)? {
            return Ok(());
        }
        let here = open.fill().unwrap_or(false);
        self.understand(link)?;
        if !here {
            *link = None;
            if matches!(self.end, End::NotYet) {
                self.is_over();
            }
        }
        Ok(())
    }

    fn understand(&mut self, link: &mut Option<Link>) -> io::Result<()> {
        while let Some(Ok(Some(heard))) = link.as_mut().map(Link::next) {
            match heard {
                Heard::Said(News::Exited(exit)) => self.ended(*exit),
                Heard::Said(News::Stalled) => self.stalled()?,
                Heard::Said(_) => {}
                Heard::Stream(Role::Stdin, packet) => self.stdin_taken(packet.offset)?,
                Heard::Stream(role, packet) => {
                    let index = usize::from(role == Role::Stderr);
                    self.streams[index].end = packet.offset;
                    self.pump(index, link)?;
                }
            }
        }
        Ok(())
    }

    fn stdin_taken(&mut self, taken: u64) -> io::Result<()> {
        let more = taken.saturating_sub(self.stdin_taken);
        self.stdin_taken = self.stdin_taken.max(taken);
        match self.line.used(Role::Stdin, more) {
            Some(bytes) if !self.quiet => {
                let grant = Grant { channel: Role::Stdin.of(self.line.base), bytes };
                self.out.note(self.line.session, note::CREDIT, &grant)
            }
            _ => Ok(()),
        }
    }

    fn stalled(&mut self) -> io::Result<()> {
        if self.quiet {
            return Ok(());
        }
        let (channels, run_id) = (self.line.base, self.run.run_id().to_owned());
        self.out.note(self.line.session, note::STALLED, &Stalled { channels, run_id })
    }

    fn ended(&mut self, exit: RunExit) {
        self.streams[0].end = exit.stdout;
        self.streams[1].end = exit.stderr;
        self.end = End::Exited(exit);
    }

    /// Nobody tells any more: the folder says how it ended, or that nobody knows. Then nothing of it may go on.
    fn is_over(&mut self) {
        match self.run.settled() {
            Standing::Exited(exit) => return self.ended(exit),
            Standing::Lost => drop(self.run.end_leftovers(false)),
            Standing::Running | Standing::Unknown => {}
        }
        self.streams.iter_mut().for_each(|stream| stream.end = u64::MAX);
        self.end = End::Lost;
    }
}

fn is_readable(link: &Link) -> io::Result<bool> {
    let mut fds = [PollFd::new(link.stream(), PollFlags::IN)];
    Ok(poll(&mut fds, Some(&rustix::event::Timespec::default()))? > 0)
}
