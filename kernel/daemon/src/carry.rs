//! The daemon's end of one process: its bytes and its end to the socket, the socket's bytes and wishes to it.

use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Piece, ProcessInput, ProcessOutput};
use crabbox_schemas::daemon::{Exited, Lost, Resize, Signal, channel, note};
use crabbox_wire::{Frame, Packet};

use crate::line::{Reader, Writer, typed};

/// Carries until the process has ended or its client is gone, which gives the process up.
pub(crate) async fn carry(
    input: impl ProcessInput,
    output: impl ProcessOutput,
    from: Reader,
    to: Writer,
) {
    tokio::select! {
        () = inward(input, from) => {}
        () = outward(output, to) => {}
    }
}

/// What the process does not take is dropped: its output tells why.
async fn inward(mut input: impl ProcessInput, mut from: Reader) {
    while let Ok(packet) = from.next().await {
        let taken = match packet.channel {
            0 => wish(&mut input, &packet).await,
            channel::STDIN => {
                let last = packet.last;
                let wrote =
                    if packet.body.is_empty() { Ok(()) } else { input.write(packet.body).await };
                if last && wrote.is_ok() { input.finish().await } else { wrote }
            }
            _ => return,
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "a process takes no input");
        }
    }
}

async fn wish(input: &mut impl ProcessInput, packet: &Packet) -> crabbox_kernel::error::Result<()> {
    let Ok(Frame::Notification { method, params }) = packet.frame() else { return Ok(()) };
    if method == note::SIGNAL
        && let Ok(signal) = typed::<Signal>(params.clone())
    {
        return input.signal(&signal.name).await;
    }
    if method == note::RESIZE
        && let Ok(size) = typed::<Resize>(params)
    {
        return input.resize(size.columns, size.rows).await;
    }
    Ok(())
}

async fn outward(mut output: impl ProcessOutput, mut to: Writer) {
    let mut offsets = [0_u64; 2];
    loop {
        let sent = match output.next().await {
            Ok(Piece::Data(stream, data)) => {
                let (channel, offset) = match stream {
                    Stream::Stdout => (channel::STDOUT, &mut offsets[0]),
                    Stream::Stderr => (channel::STDERR, &mut offsets[1]),
                };
                let at = *offset;
                *offset += data.len() as u64;
                to.send(&Packet::data(0, channel, at, false, data)).await
            }
            Ok(Piece::Exited(exit)) => {
                let _ =
                    to.note(note::EXITED, &Exited { code: exit.code, signal: exit.signal }).await;
                return;
            }
            Err(error) => {
                let _ = to.note(note::LOST, &Lost { failed: error.to_failure() }).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
