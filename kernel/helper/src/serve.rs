//! The serve mode: packets in, each request on a thread of its own, and the end with the channel.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::helper::{
    CHANNEL, CancelParams, Grant, Hello, ResizeParams, Role, RunsParams, RunsResult, SignalParams,
    SignalResult, method, note,
};
use crabbox_wire::{Credit, Frame, Id, Packet, PacketReader, WireError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::line::{Line, Piece};
use crate::login::Logins;
use crate::out::Out;
use crate::pool::Pool;
use crate::runs::{self, RunDir, Standing};
use crate::trees::Trees;
use crate::{Fault, attach, clock, feed, flight, program, stat};

/// Most requests under way at once.
const MOST: usize = 256;
/// How long what is being written may take once the channel is gone.
const LAST_WORK: Duration = Duration::from_secs(2);

/// Everything the threads of a serve share.
pub(crate) struct Serve {
    pub(crate) out: Out,
    pub(crate) pool: Pool,
    pub(crate) logins: Logins,
    pub(crate) trees: Trees,
    /// Which start of the box this is.
    pub(crate) boot: String,
    lines: Mutex<Lines>,
    /// How many threads are at something that should be finished before the process ends.
    busy: Mutex<usize>,
    idle: Condvar,
}

#[derive(Default)]
struct Lines {
    /// By session and base number.
    by_base: HashMap<(u32, u32), Arc<Line>>,
    /// By session and the number of the request, until it is answered.
    by_request: HashMap<(u32, u64), Arc<Line>>,
    /// Which line a run's terminal is on.
    by_run: HashMap<(u32, String), Arc<Line>>,
    requests: usize,
}

/// Serves the laptop on standard input and output until that ends.
pub(crate) fn serve(args: &[OsString]) -> ExitCode {
    let stdin = rustix::stdio::stdin().try_clone_to_owned().map(File::from);
    let stdout = rustix::stdio::stdout().try_clone_to_owned().map(File::from);
    let (Ok(stdin), Ok(stdout)) = (stdin, stdout) else { return ExitCode::FAILURE };
    let _ = rustix::pipe::fcntl_setpipe_size(&stdout, 1 << 20);
    let serve = Arc::new(Serve {
        out: Out::new(stdout),
        pool: Pool::default(),
        logins: Logins::default(),
        trees: Trees::default(),
        boot: runs::boot(),
        lines: Mutex::default(),
        busy: Mutex::new(0),
        idle: Condvar::new(),
    });
    if serve.hello(args).is_err() {
        return ExitCode::FAILURE;
    }
    let background = serve.clone();
    std::thread::spawn(move || {
        background.pool.prepare();
        background.logins.get();
    });
    let end = serve.listen(stdin);
    serve.leave();
    end
}

impl Serve {
    fn hello(&self, args: &[OsString]) -> io::Result<()> {
        let helper = match args {
            [flag, hash] if flag == "--hash" => hash.to_string_lossy().into_owned(),
            _ => own_hash()?,
        };
        let hello = Hello {
            channel: CHANNEL,
            helper,
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            pid: std::process::id(),
            now_ms: clock::now_ms(),
        };
        self.out.greet()?;
        self.out.note(0, note::HELLO, &hello)
    }

    /// Takes packets until the channel ends, or one cannot be understood.
    fn listen(self: &Arc<Self>, mut stdin: File) -> ExitCode {
        let mut reader = PacketReader::without_greeting();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return ExitCode::SUCCESS,
                Ok(n) => reader.feed(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return ExitCode::SUCCESS,
            }
            while let Some(packet) = reader.next_packet() {
                let session = packet.as_ref().map(|p| p.session).unwrap_or_default();
                if let Err(fault) = packet.map_err(not_a_packet).and_then(|p| self.take(p)) {
                    let _ = self.out.answer(session, Id::Number(0), Err::<(), _>(fault));
                    return ExitCode::FAILURE;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, packet: Packet) -> Result<(), Fault> {
        if packet.channel != 0 {
            return self.take_bytes(packet);
        }
        let session = packet.session;
        match packet.frame().map_err(not_a_packet)? {
            Frame::Request { id: Id::Number(id), method, params } => {
                self.request(session, id, &method, params)
            }
            Frame::Notification { method, params } => self.notification(session, &method, params),
            Frame::Request { .. } => Err(Fault::request("the id of a request is not a number")),
            Frame::Response { .. } => Err(Fault::request("an answer to nothing")),
        }
    }

    fn take_bytes(&self, packet: Packet) -> Result<(), Fault> {
        let (base, role) = match Role::from_channel(packet.channel) {
            Some((base, role @ (Role::Delta | Role::Blocks | Role::Stdin | Role::Script))) => {
                (base, role)
            }
            _ => return Err(Fault::request("bytes on a channel that takes none")),
        };
        if packet.body.is_empty() && !packet.last {
            return Err(Fault::request("a packet with nothing in it"));
        }
        // Bytes for a line that is over were under way when it ended.
        let Some(line) = self.line(packet.session, base) else { return Ok(()) };
        let piece = Piece { offset: packet.offset, last: packet.last, bytes: packet.body };
        match line.push(role, piece) {
            true => Ok(()),
            false => Err(Fault::request("more bytes than were granted")),
        }
    }

    fn notification(&self, session: u32, name: &str, params: Value) -> Result<(), Fault> {
        match name {
            note::CREDIT => {
                let grant: Grant = read(params)?;
                let place = Role::from_channel(grant.channel);
                let line =
                    place.and_then(|(b, _)| self.lines().by_base.get(&(session, b)).cloned());
                if let (Some(line), Some((_, role))) = (line, place) {
                    line.granted(role, grant.bytes);
                }
            }
            note::CANCEL => {
                let cancel: CancelParams = read(params)?;
                if let Some(line) = self.lines().by_request.get(&(session, cancel.id)) {
                    line.cancel();
                }
            }
            note::RESIZE => {
                let size: ResizeParams = read(params)?;
                if let Some(line) = self.lines().by_run.get(&(session, size.run_id)) {
                    line.resized(size.columns, size.rows);
                }
            }
            note::SESSION_END => {
                let lines = self.lines();
                let ours = lines.by_base.iter().filter(|((of, _), _)| *of == session);
                ours.for_each(|(_, line)| line.leave());
            }
            _ => {}
        }
        Ok(())
    }

    fn request(
        self: &Arc<Self>,
        session: u32,
        id: u64,
        name: &str,
        params: Value,
    ) -> Result<(), Fault> {
        let job = match self.job(session, id, name, params) {
            Ok(job) => job,
            Err(fault) => {
                let answer = self.out.answer(session, Id::Number(id), Err::<(), _>(fault));
                return answer.map_err(|e| Fault::io("the channel is gone", e));
            }
        };
        let serve = self.clone();
        let work = move || {
            job(&serve);
            serve.lines().requests -= 1;
        };
        self.lines().requests += 1;
        let started = std::thread::Builder::new().stack_size(8 << 20).spawn(work);
        started.map(drop).map_err(|e| Fault::io("cannot start a thread", e))
    }

    fn job(&self, session: u32, id: u64, name: &str, params: Value) -> Result<Job, Fault> {
        if self.lines().requests >= MOST {
            return Err(Fault::new(ErrorKind::RateLimited, "too many requests at once"));
        }
        let id = Id::Number(id);
        Ok(match name {
            method::FLIGHT => {
                let params: crabbox_schemas::helper::FlightParams = read(params)?;
                let line = self.open(session, params.channels, &id)?;
                Box::new(move |serve| flight::fly(serve, &line, id, params))
            }
            method::RUN_ATTACH => {
                let params: crabbox_schemas::helper::AttachParams = read(params)?;
                let line = self.open(session, params.channels, &id)?;
                Box::new(move |serve| attach::attach(serve, &line, id, &params))
            }
            method::FEED => {
                let params: crabbox_schemas::helper::FeedParams = read(params)?;
                Box::new(move |serve| {
                    let feed = feed::open(serve, session, params.channels);
                    let _ = serve.out.answer(session, id, feed);
                })
            }
            method::RUN_LIST => answer_with(session, id, params, list),
            method::RUN_FORGET => answer_with(session, id, params, forget),
            method::RUN_SIGNAL => answer_with(session, id, params, signal),
            method::BOX_STAT => answer_with(session, id, params, |place: StatPlace| {
                Ok(stat::stat(place.base_dir.as_deref().map(Path::new)))
            }),
            _ => return Err(Fault::new(ErrorKind::Unsupported, format!("no method {name:?}"))),
        })
    }

    /// Opens a line; its base number must not be in use.
    fn open(&self, session: u32, base: u32, id: &Id) -> Result<Arc<Line>, Fault> {
        if base == 0 || base > u32::MAX / 16 {
            return Err(Fault::request("not a base number for channels"));
        }
        let mut lines = self.lines();
        if lines.by_base.get(&(session, base)).is_some_and(|line| !line.is_over()) {
            return Err(Fault::request("the base number is in use"));
        }
        let line = Arc::new(Line::new(session, base)?);
        lines.by_base.insert((session, base), line.clone());
        if let Id::Number(id) = id {
            lines.by_request.insert((session, *id), line.clone());
        }
        Ok(line)
    }

    /// The line of a flight or attachment that is not over.
    pub(crate) fn line(&self, session: u32, base: u32) -> Option<Arc<Line>> {
        self.lines().by_base.get(&(session, base)).cloned()
    }

    /// The request of a line was answered.
    pub(crate) fn answered(&self, line: &Line, id: &Id) {
        if let Id::Number(id) = id {
            self.lines().by_request.remove(&(line.session, *id));
        }
    }

    /// The terminal of a run is on this line.
    pub(crate) fn has_terminal(&self, line: &Arc<Line>, run_id: &str) {
        self.lines().by_run.insert((line.session, run_id.to_owned()), line.clone());
    }

    /// A line is over.
    pub(crate) fn close(&self, line: &Arc<Line>) {
        let mut lines = self.lines();
        lines.by_base.retain(|_, other| !Arc::ptr_eq(other, line));
        lines.by_request.retain(|_, other| !Arc::ptr_eq(other, line));
        lines.by_run.retain(|_, other| !Arc::ptr_eq(other, line));
    }

    /// Bytes of a channel were used up; lets more come when it is time.
    pub(crate) fn grant(&self, line: &Line, role: Role, bytes: u64) -> Result<(), Fault> {
        let Some(bytes) = line.used(role, bytes) else { return Ok(()) };
        self.tell(line, note::CREDIT, &Grant { channel: role.of(line.base), bytes })
    }

    /// A notification for the client of a line.
    pub(crate) fn tell(
        &self,
        line: &Line,
        name: &str,
        params: &impl serde::Serialize,
    ) -> Result<(), Fault> {
        let told = self.out.note(line.session, name, params);
        told.map_err(|e| Fault::io("the channel is gone", e))
    }

    /// Takes all bytes of a channel, at most so many.
    pub(crate) fn receive(&self, line: &Line, role: Role, most: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        loop {
            let piece = line.next(role)?;
            if bytes.len() + piece.bytes.len() > most {
                return Err(Fault::request("more bytes than anybody should send"));
            }
            bytes.extend_from_slice(&piece.bytes);
            if piece.last {
                return Ok(bytes);
            }
            self.grant(line, role, piece.bytes.len() as u64)?;
        }
    }

    /// Sends all bytes of a channel, as the client's credit goes.
    pub(crate) fn send(&self, line: &Line, role: Role, bytes: &[u8]) -> Result<(), Fault> {
        let channel = role.of(line.base);
        let mut credit = Credit::new(role.window());
        let mut offset = 0;
        loop {
            let piece = &bytes[offset..bytes.len().min(offset + (64 << 10))];
            let (at, last) = (offset as u64, offset + piece.len() == bytes.len());
            let sent = self.out.bytes(line.session, channel, at, last, piece);
            sent.map_err(|e| Fault::io("the channel is gone", e))?;
            if last {
                return Ok(());
            }
            offset += piece.len();
            credit.take(piece.len() as u64);
            while !credit.may_send() {
                credit.grant(line.next_grant(role)?);
            }
        }
    }

    /// Does something that should not be cut off by the end of the channel.
    pub(crate) fn whole<T>(&self, work: impl FnOnce() -> T) -> T {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let result = work();
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.idle.notify_all();
        result
    }

    /// Nobody is there any more: cancels everything, and lets what is half done be finished.
    fn leave(&self) {
        self.lines().by_base.values().for_each(|line| line.leave());
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.idle.wait_timeout_while(busy, LAST_WORK, |busy| *busy > 0);
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Job = Box<dyn FnOnce(&Arc<Serve>) + Send>;

/// Where `box.stat` measures disk and store.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatPlace {
    base_dir: Option<String>,
}

/// A request that needs no line: params in, result out.
fn answer_with<P, R>(
    session: u32,
    id: Id,
    params: Value,
    work: impl FnOnce(P) -> Result<R, Fault> + Send + 'static,
) -> Job
where
    P: DeserializeOwned,
    R: serde::Serialize,
{
    Box::new(move |serve| {
        let result = read(params).and_then(work);
        let _ = serve.out.answer(session, id, result);
    })
}

fn list(params: RunsParams) -> Result<RunsResult, Fault> {
    Ok(RunsResult { runs: runs::list(&params.base_dir)?.iter().map(RunDir::state).collect() })
}

fn forget(params: RunsParams) -> Result<Value, Fault> {
    let run_id = params.run_id.ok_or_else(|| Fault::request("no run was named"))?;
    RunDir::of(&params.base_dir, &run_id)?.forget()?;
    Ok(serde_json::json!({}))
}

fn signal(params: SignalParams) -> Result<SignalResult, Fault> {
    let run = RunDir::of(&params.base_dir, &params.run_id)?;
    let gone = match run.standing() {
        Standing::Running => attach::end(&run, params.now),
        Standing::Unknown | Standing::Exited(_) => true,
        Standing::Lost => run.end_leftovers(params.now),
    };
    Ok(SignalResult { gone })
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, Fault> {
    serde_json::from_value(params).map_err(|e| Fault::request("bad params").cause(e))
}

fn not_a_packet(error: WireError) -> Fault {
    Fault::request("what came is not a packet").cause(error)
}

fn own_hash() -> io::Result<String> {
    let digest = Sha256::digest(std::fs::read(program::SELF)?);
    Ok(digest.iter().map(|b| format!("{b:02x}")).collect())
}
