//! One session channel: wishes, then a command, then its end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use rustix::process::{Pid, Signal, WaitStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::Shared;
use super::command::{self, Running, Wish};
use super::inflow::{self, Inflow, Outflow};
use super::terminal;

/// The protocol's code for standard error.
const STDERR: u32 = 1;
/// Bytes read from a command at once.
const CHUNK: usize = 32 * 1024;
/// How long output may still come after a command on a terminal has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long the exit status waits for output that something in the background still holds open.
const STATUS_WAITS: Duration = Duration::from_millis(500);
/// Most variables a client may set, as with OpenSSH.
const MOST_VARIABLES: usize = 128;
/// What a command that could not be started ends with.
const NOT_STARTED: u32 = 126;

/// Serves a channel until either side is done with it.
pub(crate) async fn serve(channel: Channel<Msg>, client: Handle, shared: Arc<Shared>) {
    let _busy = shared.busy.begin();
    let (mut from, to) = channel.split();
    let Some((wish, line)) = wishes(&mut from).await else { return };
    match command::start(&shared, wish, line) {
        Ok(running) => run(running, shared.setup.home.clone().into(), from, &to, &client).await,
        Err(error) => refuse(&to, &error).await,
    }
    let _ = to.close().await;
}

/// Collects what the client wants until it asks for a command; `None` when it never does.
async fn wishes(from: &mut ChannelReadHalf) -> Option<(Wish, Option<Vec<u8>>)> {
    let mut wish = Wish::default();
    loop {
        match from.wait().await? {
            ChannelMsg::RequestPty {
                term,
                col_width,
                row_height,
                pix_width,
                pix_height,
                terminal_modes,
                ..
            } => {
                let size = terminal::size(col_width, row_height, pix_width, pix_height);
                wish.terminal = Some(terminal::Request { term, size, modes: terminal_modes });
            }
            ChannelMsg::SetEnv { variable_name, variable_value, .. } => {
                let fits = wish.env.len() < MOST_VARIABLES
                    && !variable_name.is_empty()
                    && !variable_name.contains(['=', '\0'])
                    && !variable_value.contains('\0');
                if fits {
                    wish.env.push((variable_name, variable_value));
                }
            }
            ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height } => {
                if let Some(request) = &mut wish.terminal {
                    request.size = terminal::size(col_width, row_height, pix_width, pix_height);
                }
            }
            ChannelMsg::Exec { command, .. } => return Some((wish, Some(command))),
            ChannelMsg::RequestShell { .. } => return Some((wish, None)),
            ChannelMsg::Close => return None,
            _ => {}
        }
    }
}

async fn refuse(to: &ChannelWriteHalf<Msg>, error: &io::Error) {
    let text = format!("crabbox: cannot start the command: {error}\n");
    let _ = to.extended_data_bytes(STDERR, text).await;
    let _ = to.exit_status(NOT_STARTED).await;
}

/// Passes bytes and signals until the command has ended and said its last words, or the client is
/// gone. A client that goes away hangs up a terminal; without one the command runs on, and notices
/// when it next reads or writes.
async fn run(
    running: Running,
    folder: PathBuf,
    from: ChannelReadHalf,
    to: &ChannelWriteHalf<Msg>,
    client: &Handle,
) {
    let Running { child, input, output, errors, terminal } = running;
    let (queue, queued) = inflow::queue(folder);
    let leader = child.pid;
    let ended = async { child.ended.await.ok() };
    let output = async {
        tokio::join!(pump(output, to, None), async {
            if let Some(errors) = errors {
                pump(errors, to, Some(STDERR)).await;
            }
        });
    };
    let talk = async {
        tokio::select! {
            () = conclude(ended, output, terminal.is_some(), to, client) => {}
            () = feed(input, queued) => {}
        }
    };
    tokio::select! {
        () = talk => {}
        () = listen(from, queue, leader, terminal.as_ref()) => {
            if terminal.is_some() {
                command::send(leader, Signal::HUP);
            }
        }
    }
}

/// Waits for the command and its output, and says how it ended.
async fn conclude(
    ended: impl Future<Output = Option<WaitStatus>>,
    output: impl Future<Output = ()>,
    terminal: bool,
    to: &ChannelWriteHalf<Msg>,
    client: &Handle,
) {
    tokio::pin!(ended, output);
    let mut drained = false;
    let status = tokio::select! {
        status = &mut ended => status,
        () = &mut output => {
            drained = true;
            ended.await
        }
    };
    if !drained {
        let patience = if terminal { LAST_WORDS } else { STATUS_WAITS };
        drained = tokio::time::timeout(patience, &mut output).await.is_ok();
    }
    if let Some(status) = status {
        tell(status, to, client).await;
    }
    if !drained && !terminal {
        output.await;
    }
    let _ = to.eof().await;
}

async fn tell(status: WaitStatus, to: &ChannelWriteHalf<Msg>, client: &Handle) {
    if let Some(signal) = status.terminating_signal() {
        let core = status.as_raw() & 0x80 != 0;
        let name = command::signal_name(signal);
        let _ = client.exit_signal_request(to.id(), name, core, String::new(), String::new()).await;
        return;
    }
    let code = status.exit_status().and_then(|code| u32::try_from(code).ok());
    let _ = to.exit_status(code.unwrap_or(NOT_STARTED)).await;
}

/// Sends everything a command prints to the client, as fast as the client takes it.
async fn pump(mut output: pipe::Receiver, to: &ChannelWriteHalf<Msg>, kind: Option<u32>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        let data = Bytes::copy_from_slice(&buffer[..count]);
        let sent = match kind {
            Some(kind) => to.extended_data_bytes(kind, data).await,
            None => to.data_bytes(data).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Gives the client's bytes to the command; ends its input when the client does. Never returns, for
/// a command that reads no more goes on nevertheless.
async fn feed(mut input: pipe::Sender, mut queued: Outflow) {
    while let Some(data) = queued.pop().await {
        if input.write_all(&data).await.is_err() {
            break;
        }
    }
    drop(input);
    // What still comes has no taker.
    while queued.pop().await.is_some() {}
    std::future::pending().await
}

/// Takes what the client sends until it closes the channel or the connection.
async fn listen(mut from: ChannelReadHalf, queue: Inflow, leader: Pid, terminal: Option<&OwnedFd>) {
    let mut queue = Some(queue);
    while let Some(message) = from.wait().await {
        match message {
            ChannelMsg::Data { data } => {
                let lost = queue.as_ref().is_some_and(|queue| queue.push(data).is_err());
                if lost {
                    return;
                }
            }
            ChannelMsg::Eof => queue = None,
            ChannelMsg::Signal { signal } => {
                if let Some(signal) = command::signal(&signal) {
                    command::send(leader, signal);
                }
            }
            ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height } => {
                if let Some(terminal) = terminal {
                    let size = terminal::size(col_width, row_height, pix_width, pix_height);
                    terminal::resize(terminal, size);
                }
            }
            ChannelMsg::Close => return,
            _ => {}
        }
    }
}
