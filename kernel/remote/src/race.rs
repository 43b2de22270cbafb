//! Finding the port that speaks SSH: names resolved, ports and addresses raced in order, banner awaited.

use std::net::SocketAddr;
use std::time::Duration;

use crabbox_kernel::error::KernelError;
use crabbox_schemas::error::ErrorCode;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::wire;

/// How long a candidate has the field to itself before the next one starts.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long a server that says something else first may take to come to its SSH greeting.
const PREAMBLE: Duration = Duration::from_secs(2);
/// Between two looks at a greeting that is not complete.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// More than the preamble and greeting lines any server sends.
const GREETING: usize = 4096;

/// Why a stage failed, and whether trying again may help.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) stage: &'static str,
    pub(crate) again: bool,
    pub(crate) error: KernelError,
}

impl Fault {
    pub(crate) fn new(stage: &'static str, error: KernelError) -> Self {
        Self { stage, again: true, error: error.at(stage) }
    }

    pub(crate) fn final_(self) -> Self {
        Self { again: false, ..self }
    }
}

/// How one candidate failed.
struct Miss {
    answered: bool,
    port: u16,
    why: String,
}

/// A connection to a port that greets like an SSH server.
pub(crate) struct Won {
    pub(crate) tcp: TcpStream,
    pub(crate) port: u16,
    /// Bytes of our own greeting sent to it.
    pub(crate) greeted: usize,
}

/// Connects to the first port, in order, that greets like an SSH server.
pub(crate) async fn connect(host: &str, ports: &[u16], limit: Duration) -> Result<Won, Fault> {
    let candidates = resolve(host, ports, limit).await?;
    let mut racing = JoinSet::new();
    let mut waiting = candidates.into_iter();
    let mut misses = Vec::new();
    loop {
        let more = match waiting.next() {
            Some(address) => {
                racing.spawn(greet(address, limit));
                true
            }
            None => false,
        };
        let head_start = Instant::now() + HEAD_START;
        let landed = tokio::select! {
            landed = racing.join_next() => landed,
            () = tokio::time::sleep_until(head_start), if more => continue,
        };
        match landed {
            Some(Ok(Ok(won))) => return Ok(won),
            Some(Ok(Err(miss))) => misses.push(miss),
            Some(Err(_)) => {}
            None => return Err(missed(host, ports, misses)),
        }
    }
}

async fn resolve(host: &str, ports: &[u16], limit: Duration) -> Result<Vec<SocketAddr>, Fault> {
    let unknown = |why: &dyn std::error::Error| {
        let mut error = KernelError::new(ErrorCode::SshDns, format!("cannot resolve {host}"))
            .hint("check the host name and this machine's name resolution");
        error.causes.push(why.to_string());
        Fault::new("dns", error)
    };
    let found = timeout(limit, lookup_host((host, 0))).await.map_err(|e| unknown(&e))?;
    let addresses: Vec<SocketAddr> = found.map_err(|e| unknown(&e))?.collect();
    if addresses.is_empty() {
        return Err(unknown(&std::io::Error::other("the name has no address")));
    }
    let with_port =
        |port: u16| addresses.iter().map(move |address| SocketAddr::new(address.ip(), port));
    Ok(ports.iter().flat_map(|port| with_port(*port)).collect())
}

async fn greet(address: SocketAddr, limit: Duration) -> Result<Won, Miss> {
    let port = address.port();
    let miss = |answered, why: String| Miss { answered, port, why };
    let late = || miss(false, format!("no answer within {} s", limit.as_secs_f32().round()));
    let tcp = timeout(limit, TcpStream::connect(address)).await.map_err(|_| late())?;
    let tcp = tcp.map_err(|e| miss(false, e.to_string()))?;
    let greeted = wire::greet(&tcp).map_err(|e| miss(false, e.to_string()))?;
    await_greeting(&tcp, limit).await.map_err(|why| miss(true, why))?;
    Ok(Won { tcp, port, greeted })
}

/// Looks at what the server says without taking it from the stream.
async fn await_greeting(stream: &TcpStream, limit: Duration) -> Result<(), String> {
    let mut deadline = Instant::now() + limit;
    let mut seen = 0;
    let mut buffer = vec![0; GREETING];
    loop {
        let Ok(peeked) = timeout_at(deadline, stream.peek(&mut buffer)).await else {
            return Err("it accepted the connection but said nothing".to_owned());
        };
        let count = peeked.map_err(|e| e.to_string())?;
        let lines = || buffer[..count].split(|byte| *byte == b'\n');
        if count == 0 {
            return Err("it closed the connection at once".to_owned());
        }
        if lines().any(|line| line.starts_with(b"SSH-")) {
            return Ok(());
        }
        if seen == 0 {
            deadline = deadline.min(Instant::now() + PREAMBLE);
        }
        if count == buffer.len() || Instant::now() >= deadline {
            let first = String::from_utf8_lossy(lines().next().unwrap_or_default());
            return Err(format!("it said {:?}, which is not SSH", first.trim_end()));
        }
        seen = count;
        sleep(LOOK_AGAIN).await;
    }
}

fn missed(host: &str, ports: &[u16], misses: Vec<Miss>) -> Fault {
    let answered = misses.iter().any(|miss| miss.answered);
    let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let plural = if ports.len() == 1 { "port" } else { "ports" };
    let (stage, code, message) = match answered {
        true => (
            "banner",
            ErrorCode::SshBanner,
            format!("{host} does not speak SSH on {plural} {list}"),
        ),
        false => ("tcp", ErrorCode::SshTcp, format!("cannot connect to {host} on {plural} {list}")),
    };
    let mut error = KernelError::new(code, message).hint(match answered {
        true => {
            "check that the port is the SSH server's; a server that is just starting needs a moment"
        }
        false => "check the address, the port and any firewall; is the SSH server running?",
    });
    error.causes.extend(misses.iter().map(|miss| format!("port {}: {}", miss.port, miss.why)));
    Fault::new(stage, error)
}
