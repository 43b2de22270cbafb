//! A line between client and server that is as long as wanted, counts turns, and can go dead without a word.

#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// A port that leads to another one.
pub(crate) struct Relay {
    pub(crate) port: u16,
    alive: watch::Sender<bool>,
    turns: Arc<Turns>,
}

/// How often the client spoke after it had heard something, or first.
#[derive(Default)]
struct Turns {
    count: AtomicUsize,
    client_spoke: AtomicBool,
}

/// One direction of the line.
#[derive(Clone)]
struct Way {
    delay: Duration,
    alive: watch::Receiver<bool>,
    turns: Arc<Turns>,
    from_client: bool,
}

impl Relay {
    /// Leads to the port `server`; what goes in comes out after `delay`.
    pub(crate) async fn to(server: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (alive, turns) = (watch::Sender::new(true), Arc::new(Turns::default()));
        let up = Way { delay, alive: alive.subscribe(), turns: turns.clone(), from_client: true };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near_from, near_to) = near.into_split();
                let (far_from, far_to) = far.into_split();
                let down = Way { from_client: false, ..up.clone() };
                tokio::spawn(up.clone().carry(near_from, far_to));
                tokio::spawn(down.carry(far_from, near_to));
            }
        });
        Self { port, alive, turns }
    }

    /// How often the client spoke after it had heard something, or first.
    pub(crate) fn turns(&self) -> usize {
        self.turns.count.load(Ordering::SeqCst)
    }

    /// From now on nothing passes, and nobody is told.
    pub(crate) fn die(&self) {
        self.alive.send_replace(false);
    }
}

impl Turns {
    fn note(&self, client: bool) {
        if !self.client_spoke.swap(client, Ordering::SeqCst) && client {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Way {
    async fn carry(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin + Send + 'static,
    ) {
        let (put, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(64);
        let (turns, from_client) = (self.turns.clone(), self.from_client);
        tokio::spawn(async move {
            while let Some((due, data)) = under_way.recv().await {
                sleep_until(due).await;
                if !from_client {
                    turns.note(false);
                }
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
            if self.from_client {
                self.turns.note(true);
            }
            let due = Instant::now() + self.delay;
            if count == 0 || put.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    }
}
