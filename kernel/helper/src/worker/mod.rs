//! The work mode: supervises one command at a time, and outlives the serve that asked for it.

mod command;
mod input;
mod peer;
mod run;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crabbox_schemas::helper::Role;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::link::{Heard, News, Order, Start};
use crate::{clock, processes};
use peer::Peer;
use run::{Door, Run};

/// Most readers of one run.
const MOST_PEERS: usize = 64;

#[derive(Debug)]
struct Worker {
    peers: Vec<Peer>,
    /// How many peers there were.
    counted: u64,
    /// Files that came from the serve; held until the command has ended.
    held: Vec<OwnedFd>,
    run: Option<Run>,
    listener: Option<UnixListener>,
    endings: Vec<Ending>,
}

/// A thread that ends processes, who asked for it, and where it shows that it is done.
#[derive(Debug)]
struct Ending {
    peer: Option<u64>,
    thread: std::thread::JoinHandle<bool>,
    done: OwnedFd,
}

/// What woke us.
#[derive(Debug, Clone, Copy)]
enum Woken {
    Peer(usize),
    Listener,
    Ending,
    Run(Door),
}

/// Works until the serve is gone and nothing runs.
pub(crate) fn work() -> ExitCode {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let control = rustix::stdio::stdin().try_clone_to_owned().map(UnixStream::from);
    let Ok(Ok(control)) = control.map(|stream| Peer::new(stream, 0, true)) else {
        return ExitCode::FAILURE;
    };
    let mut worker = Worker {
        peers: vec![control],
        counted: 1,
        held: Vec::new(),
        run: None,
        listener: None,
        endings: Vec::new(),
    };
    while worker.run.is_some() || worker.peers.iter().any(|peer| peer.is_serve) {
        if worker.turn().is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

impl Worker {
    /// What the readers still need of each stream.
    fn needs(&self) -> [u64; 2] {
        let least = |index: usize| {
            self.peers.iter().filter_map(|p| Some(p.needs?[index])).min().unwrap_or(u64::MAX)
        };
        [least(0), least(1)]
    }

    /// Waits for something, and does what it means.
    fn turn(&mut self) -> io::Result<()> {
        let needs = self.needs();
        for woken in self.wait(needs)? {
            match (woken, &mut self.run) {
                (Woken::Peer(index), _) => self.hear(index),
                (Woken::Listener, _) => self.accept(),
                (Woken::Ending, _) => self.answer_endings(),
                // A run whose end cannot be told is lost, with us.
                (Woken::Run(door), Some(run)) => run.enter(door, needs)?,
                (Woken::Run(_), None) => {}
            }
        }
        self.peers.retain(|peer| !peer.is_gone);
        self.look_at_run();
        Ok(())
    }

    /// Sleeps until something happens; there is no other reason to wake.
    fn wait(&mut self, needs: [u64; 2]) -> io::Result<Vec<Woken>> {
        let alarm = self.run.as_ref().and_then(Run::alarm);
        let mut woken = Vec::new();
        let mut fds = Vec::new();
        for (index, peer) in self.peers.iter().enumerate() {
            woken.push(Woken::Peer(index));
            fds.push(PollFd::from_borrowed_fd(peer.fd(), peer.interest()));
        }
        for ending in &self.endings {
            woken.push(Woken::Ending);
            fds.push(PollFd::new(&ending.done, PollFlags::IN));
        }
        if let Some(listener) = &self.listener {
            woken.push(Woken::Listener);
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        for (door, fd) in self.run.as_mut().map(|run| run.doors(needs)).unwrap_or_default() {
            let what = if door == Door::Input { PollFlags::OUT } else { PollFlags::IN };
            woken.push(Woken::Run(door));
            fds.push(PollFd::from_borrowed_fd(fd, what));
        }
        match poll(&mut fds, timeout(alarm).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let happened = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>();
        Ok(woken.into_iter().zip(happened).filter(|(_, yes)| *yes).map(|(w, _)| w).collect())
    }

    /// Looks after the run: its time, the readers' news, its end.
    fn look_at_run(&mut self) {
        let needs = self.needs();
        let Some(run) = &mut self.run else { return };
        run.save(needs);
        let late = run.is_out_of_time();
        if run.is_newly_stuck() {
            let readers = self.peers.iter_mut().filter(|peer| peer.needs.is_some());
            readers.for_each(|peer| peer.tell(&News::Stalled));
        }
        let (now, exit) = (run.progress(), run.exit());
        self.peers.iter_mut().for_each(|peer| peer.progress(now));
        if late {
            self.end(None, false);
        }
        if let Some(exit) = exit {
            self.finish(exit);
        }
    }

    fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else {
            return;
        };
        if self.peers.len() < MOST_PEERS
            && let Ok(peer) = Peer::new(stream, self.counted, false)
        {
            self.counted += 1;
            self.peers.push(peer);
        }
    }

    /// Does what a peer asks.
    fn hear(&mut self, index: usize) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.flush();
        let mut files = Vec::new();
        peer.is_gone = !peer.fill(&mut files);
        if peer.is_serve {
            self.held.extend(files);
        }
        loop {
            let Some(peer) = self.peers.get_mut(index) else { return };
            match peer.next() {
                Ok(Some(Heard::Said(order))) => self.obey(index, order),
                Ok(Some(Heard::Stream(role, packet))) => match (role, &mut self.run) {
                    (Role::Stdin, Some(run)) if peer.writes => run.input.push(packet),
                    (Role::Stdout, _) => peer.read_until(0, packet.offset),
                    (Role::Stderr, _) => peer.read_until(1, packet.offset),
                    _ => {}
                },
                Ok(None) => return,
                Err(_) => {
                    peer.is_gone = true;
                    return;
                }
            }
        }
    }

    fn obey(&mut self, index: usize, order: Order) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        match order {
            Order::Start(start) if peer.is_serve && self.run.is_none() => {
                let news = self.start(&start).unwrap_or_else(|e| News::Failed(e.to_string()));
                if self.run.is_none() {
                    self.held.clear();
                }
                self.peers[index].tell(&news);
            }
            Order::Start(_) => peer.tell(&News::Failed("the worker is not free".to_owned())),
            Order::Attach { stdout, stderr, stdin } => self.attach(index, [stdout, stderr], stdin),
            Order::Detach => peer.detach(),
            Order::Signal { now } => {
                let id = peer.id;
                self.end(Some(id), now);
            }
            Order::Resize { columns, rows } => {
                if let Some(run) = &self.run {
                    run.resize(columns, rows);
                }
            }
        }
    }

    /// Starts a command, with the socket in its folder that others find it by.
    fn start(&mut self, start: &Start) -> io::Result<News> {
        if self.held.len() != start.files {
            return Err(io::Error::other(
                "what should be held did not arrive: too many open files",
            ));
        }
        // A socket's path must be short, a folder's need not: so go there and name the socket alone.
        rustix::process::chdir(Path::new(&start.unnamed))?;
        let listener = UnixListener::bind("sock");
        rustix::process::chdir("/")?;
        let listener = listener?;
        listener.set_nonblocking(true)?;
        // A folder is not renamed onto one that has something in it: this is where the second start fails.
        if let Err(e) = std::fs::rename(&start.unnamed, &start.dir) {
            return if Path::new(&start.dir).exists() { Ok(News::Twice) } else { Err(e) };
        }
        let at_ms = clock::now_ms();
        let run = Run::start(start, at_ms).inspect_err(|_| {
            // It never began, so it may begin another time.
            let _ = std::fs::rename(&start.dir, &start.unnamed);
        })?;
        let pid = run.pid().as_raw_nonzero().get().unsigned_abs();
        self.listener = Some(listener);
        self.run = Some(run);
        if start.attached {
            self.peers[0].attach([0, 0], start.stdin || start.pty.is_some(), 0);
        }
        Ok(News::Started { pid, at_ms })
    }

    fn attach(&mut self, index: usize, from: [u64; 2], stdin: bool) {
        let mut stdin_taken = 0;
        if let Some(run) = &mut self.run {
            if stdin {
                // Who wrote until now is the same client on a line that was cut; it reads no more either.
                self.peers.iter_mut().filter(|peer| peer.writes).for_each(Peer::detach);
                run.input.begin_again();
            }
            stdin_taken = run.input.taken();
        }
        let Some(peer) = self.peers.get_mut(index) else { return };
        peer.attach(from, stdin, stdin_taken);
        peer.tell(&News::Attached { stdin_taken });
    }

    /// Begins to end the command's processes; output is read on meanwhile.
    fn end(&mut self, peer: Option<u64>, now: bool) {
        let Some(pid) = self.run.as_ref().map(Run::pid) else { return };
        let Ok((done, tell)) = pipe_with(PipeFlags::CLOEXEC) else { return };
        let thread = std::thread::spawn(move || {
            let gone = processes::end(pid, now);
            drop(tell);
            gone
        });
        self.endings.push(Ending { peer, thread, done });
    }

    /// Tells those who asked whether everything is gone.
    fn answer_endings(&mut self) {
        for ending in std::mem::take(&mut self.endings) {
            if !is_readable(&ending.done) {
                self.endings.push(ending);
                continue;
            }
            let gone = ending.thread.join().unwrap_or(false);
            if let Some(peer) = self.peers.iter_mut().find(|p| Some(p.id) == ending.peer) {
                peer.tell(&News::Signalled { gone });
            }
        }
    }

    /// The command ended: writes it down, gives back what was held, tells everybody, and is free again. Who waits for
    /// processes to be gone learns it when the connection ends.
    fn finish(&mut self, exit: crabbox_schemas::helper::RunExit) {
        self.finish_endings();
        let needs = self.needs();
        if let Some(mut run) = self.run.take()
            && run.record(&exit, needs).is_err()
        {
            // A full disk: as long as nobody can read how it ended, it has not.
            std::thread::sleep(Duration::from_millis(200));
            self.run = Some(run);
            return;
        }
        self.listener = None;
        self.held.clear();
        let news = News::Exited(Box::new(exit));
        for mut peer in std::mem::take(&mut self.peers) {
            peer.tell(&news);
            peer.detach();
            if peer.is_serve { self.peers.push(peer) } else { peer.part() }
        }
    }

    /// Those who asked for the end hear of it before they hear of the exit.
    fn finish_endings(&mut self) {
        if !self.endings.is_empty() {
            let until = Instant::now() + Duration::from_secs(2);
            while self.endings.iter().any(|e| !is_readable(&e.done)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.answer_endings();
        }
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|n| n > 0)
}

fn timeout(alarm: Option<Instant>) -> Option<Timespec> {
    let left = alarm?.saturating_duration_since(Instant::now());
    Timespec::try_from(left + Duration::from_millis(1)).ok()
}
