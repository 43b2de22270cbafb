//! A line between client and server that is as long as wanted and can go dead without a word.

#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made fails the test")]

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// A port that leads to another one.
pub(crate) struct Relay {
    pub(crate) port: u16,
    alive: watch::Sender<bool>,
}

/// One direction of the line.
#[derive(Clone)]
struct Way {
    delay: Duration,
    alive: watch::Receiver<bool>,
}

impl Relay {
    /// Leads to the port `server`; what goes in comes out after `delay`.
    pub(crate) async fn to(server: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let alive = watch::Sender::new(true);
        let way = Way { delay, alive: alive.subscribe() };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near_from, near_to) = near.into_split();
                let (far_from, far_to) = far.into_split();
                tokio::spawn(way.clone().carry(near_from, far_to));
                tokio::spawn(way.clone().carry(far_from, near_to));
            }
        });
        Self { port, alive }
    }

    /// From now on nothing passes, and nobody is told.
    pub(crate) fn die(&self) {
        self.alive.send_replace(false);
    }
}

impl Way {
    async fn carry(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin + Send + 'static,
    ) {
        let (put, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(64);
        tokio::spawn(async move {
            while let Some((due, data)) = under_way.recv().await {
                sleep_until(due).await;
                if to.write_all(&data).await.is_err() {
                    return;
                }
            }
        });
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => Some(read.unwrap_or(0)),
                _ = self.alive.wait_for(|alive| !alive) => None,
            };
            let Some(count) = read else {
                // Both ends stay open, and silent, until the test is over.
                std::future::pending::<()>().await;
                return drop(put);
            };
            let due = Instant::now() + self.delay;
            if count == 0 || put.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    }
}
