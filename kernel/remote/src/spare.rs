//! A channel opened ahead of need, so that a process starts in one round trip instead of two.

use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, Error};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::session::Line;

/// What a server takes to forget a session that has just ended.
const MOMENT: Duration = Duration::from_millis(100);

/// A channel on its way.
type Opening = oneshot::Receiver<Result<Channel<Msg>, Error>>;

/// The channel the next process gets.
#[derive(Default)]
pub(crate) struct Spare(Mutex<Option<Opening>>);

impl Spare {
    /// Opens a channel in the background, unless one is there.
    pub(crate) fn lay_by(&self, line: &Arc<Line>) {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.get_or_insert_with(|| open(line));
    }

    /// A channel for a process. A server that closed the spare one, or had no room for it, is asked again.
    pub(crate) async fn channel(&self, line: &Arc<Line>) -> Result<Channel<Msg>, Error> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spare) = spare
            && let Ok(Ok(mut channel)) = spare.await
            && unused(&mut channel).await
        {
            return Ok(channel);
        }
        match open(line).await.unwrap_or(Err(Error::Disconnect)) {
            Err(Error::ChannelOpenFailure(_)) => {
                sleep(MOMENT).await;
                open(line).await.unwrap_or(Err(Error::Disconnect))
            }
            opened => opened,
        }
    }
}

/// Opens a channel; one that nobody waits for any more is closed again.
fn open(line: &Arc<Line>) -> Opening {
    let (give, take) = oneshot::channel();
    let line = line.clone();
    tokio::spawn(async move {
        let opened = line.handle.channel_open_session().await;
        if let Err(Ok(unwanted)) = give.send(opened) {
            let _ = unwanted.close().await;
        }
    });
    take
}

/// Whether nothing has been said on the channel since it was opened.
async fn unused(channel: &mut Channel<Msg>) -> bool {
    tokio::select! {
        biased;
        _ = channel.wait() => false,
        () = ready(()) => true,
    }
}
