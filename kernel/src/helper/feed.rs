//! Further ways for a flight's blocks: feeders, each on an SSH channel of its own with a window of its own. On a long
//! link the window is what one channel waits for.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::helper::{Feed, Role};
use crabbox_wire::GREETING;

use crate::error::{KernelError, Result};
use crate::event::Stream;
use crate::helper::link::{Line, lost};
use crate::ports::{Piece, ProcessInput, ProcessOutput, Starter};
use crate::shell::quote;

/// How much talk before the greeting is skipped.
const MAX_NOISE: usize = 64 << 10;

/// What may take other ways, and how those are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wide {
    channel: u32,
    command: String,
}

impl Wide {
    pub(super) fn new(base: u32, feed: &Feed) -> Self {
        let command = format!("exec {} feed {}", quote(&feed.program), quote(&feed.socket));
        Self { channel: Role::Blocks.of(base), command }
    }
}

/// Opens further ways whenever they are wished for, and uses them until they are not. An error is a way that broke while
/// it was in use: what went there may be lost.
pub(super) async fn feed<I: ProcessInput, O: ProcessOutput>(
    starter: Option<Starter<I, O>>,
    line: &RefCell<Line>,
) -> KernelError {
    let Some(starter) = starter else { return pending().await };
    loop {
        // Whoever wishes polls us afterwards, here and below: no waker is needed.
        let wide = poll_fn(|_| line.borrow().wide.clone().map_or(Poll::Pending, Poll::Ready)).await;
        let over = poll_fn(|_| match line.borrow().wide.as_ref() == Some(&wide) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        });
        tokio::select! {
            biased;
            () = over => {}
            error = lane(&starter, &wide, line) => return error,
            error = lane(&starter, &wide, line) => return error,
            error = lane(&starter, &wide, line) => return error,
        }
    }
}

/// One further way. One that does not open is done without.
async fn lane<I: ProcessInput, O: ProcessOutput>(
    starter: &Starter<I, O>,
    wide: &Wide,
    line: &RefCell<Line>,
) -> KernelError {
    let opened = async {
        let (input, mut output) = starter(wide.command.clone()).await?;
        greeted(&mut output).await.map(|()| (input, output))
    };
    let Ok((mut input, mut output)) = opened.await else { return pending().await };
    let writing = async {
        loop {
            let next = poll_fn(|_| {
                line.borrow_mut().next_of(wide.channel).map_or(Poll::Pending, Poll::Ready)
            });
            let packet = InHand::of(next.await, line);
            if let Err(error) = input.write(packet.bytes.clone()).await {
                return lost(error);
            }
        }
    };
    let listening = async {
        loop {
            match output.next().await {
                Ok(Piece::Data(..)) => {}
                Ok(Piece::Exited(_)) => return broken("a feeder on the box ended"),
                Err(error) => return lost(error),
            }
        }
    };
    tokio::select! {
        biased;
        error = listening => error,
        error = writing => error,
    }
}

/// A packet on its way, which counts as queued until it is handed over or given up.
struct InHand<'a> {
    bytes: Bytes,
    line: &'a RefCell<Line>,
}

impl<'a> InHand<'a> {
    fn of(bytes: Bytes, line: &'a RefCell<Line>) -> Self {
        Self { bytes, line }
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.line.borrow_mut().handed_over(self.bytes.len());
    }
}

/// Waits for the greeting among whatever else a login shell prints.
async fn greeted(output: &mut impl ProcessOutput) -> Result<()> {
    let mut said = BytesMut::new();
    while said.len() <= MAX_NOISE {
        match output.next().await? {
            Piece::Data(Stream::Stdout, data) => said.extend_from_slice(&data),
            Piece::Data(Stream::Stderr, _) => {}
            Piece::Exited(_) => break,
        }
        if said.windows(GREETING.len()).any(|words| words == GREETING) {
            return Ok(());
        }
    }
    Err(broken("a feeder did not greet"))
}

fn broken(what: &str) -> KernelError {
    KernelError::new(ErrorCode::ConnectionLost, what)
}
