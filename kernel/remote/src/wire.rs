//! The stream below SSH: greets early, reads ahead, acknowledges at once while it matters, gives up stuck writes.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use russh::ChannelStream;
use russh::client::Msg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

/// How we introduce ourselves.
pub(crate) const GREETING: &str = concat!("SSH-2.0-crabbox_", env!("CARGO_PKG_VERSION"));
/// More than any SSH packet: what arrived together is read together.
const AHEAD: usize = 128 << 10;
/// Reads answered with an acknowledgement at once: a handshake, a log-in and a first command need fewer.
const QUICK: u32 = 64;

/// What SSH may run over.
pub(crate) trait Below: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Sends the acknowledgement that is due now, not 40 ms later: a server that gathers small writes waits for it.
    fn acknowledge(&self) {}
}

impl Below for TcpStream {
    #[cfg(target_os = "linux")]
    fn acknowledge(&self) {
        let _ = rustix::net::sockopt::set_tcp_quickack(self, true);
    }
}

/// A stream through a jump host.
impl Below for ChannelStream<Msg> {}

/// One stream to an SSH server.
pub(crate) struct Wire<S> {
    below: S,
    /// Bytes of our greeting that are on their way already.
    greeted: usize,
    ahead: Box<[u8]>,
    /// Where in `ahead` the bytes nobody took yet are.
    from: usize,
    to: usize,
    quick: u32,
    /// How long a write may make no progress.
    patience: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
    leash: Option<oneshot::Receiver<()>>,
}

/// Ends the connection when it is dropped before the connection is of use: its reader may wait for ever then.
#[derive(Debug)]
pub(crate) struct Leash(oneshot::Sender<()>);

impl Leash {
    /// From now on the connection looks after itself.
    pub(crate) fn loose(self) {
        let _ = self.0.send(());
    }
}

/// Greets over a fresh connection, before the server has: that saves waiting for its greeting.
pub(crate) fn greet(tcp: &TcpStream) -> Result<usize> {
    tcp.acknowledge();
    tcp.set_nodelay(true)?;
    // A fresh connection has room for a line; one without is greeted again by the handshake.
    let line = format!("{GREETING}\r\n");
    match tcp.try_write(line.as_bytes()) {
        Ok(count) if count == line.len() => Ok(count),
        Ok(_) => Err(Error::other("a fresh connection takes no line")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}

impl<S: Below> Wire<S> {
    /// A connection over which `greeted` bytes of the greeting were sent.
    pub(crate) fn new(below: S, greeted: usize, patience: Duration) -> (Self, Leash) {
        let (hold, leash) = oneshot::channel();
        let wire = Self {
            below,
            greeted,
            ahead: vec![0; AHEAD].into_boxed_slice(),
            from: 0,
            to: 0,
            quick: QUICK,
            patience,
            stuck: None,
            leash: Some(leash),
        };
        (wire, Leash(hold))
    }

    /// An error once the attempt this connection belongs to has been given up.
    fn poll_leash(&mut self, cx: &mut Context<'_>) -> Result<()> {
        let Some(leash) = &mut self.leash else { return Ok(()) };
        match Pin::new(leash).poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.leash = None;
                Ok(())
            }
            Poll::Ready(Err(_)) => Err(Error::other("the attempt to connect was given up")),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut space = ReadBuf::new(&mut self.ahead);
        ready!(Pin::new(&mut self.below).poll_read(cx, &mut space))?;
        (self.from, self.to) = (0, space.filled().len());
        if self.quick > 0 {
            self.quick -= 1;
            self.below.acknowledge();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Below> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let wire = &mut *self;
        if wire.from == wire.to {
            wire.poll_leash(cx)?;
            ready!(wire.poll_fill(cx))?;
        }
        let count = (wire.to - wire.from).min(to.remaining());
        to.put_slice(&wire.ahead[wire.from..wire.from + count]);
        wire.from += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: Below> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize>> {
        let wire = &mut *self;
        if wire.greeted > 0 {
            let count = wire.greeted.min(data.len());
            wire.greeted -= count;
            return Poll::Ready(Ok(count));
        }
        if let Poll::Ready(written) = Pin::new(&mut wire.below).poll_write(cx, data) {
            wire.stuck = None;
            return Poll::Ready(written);
        }
        let patience = wire.patience;
        let stuck =
            wire.stuck.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        ready!(stuck.as_mut().poll(cx));
        let why = format!("the box took nothing for {} s", patience.as_secs_f32().round());
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, why)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.below).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A wire whose writes may be stuck for a second, and the far end of it.
    async fn pair() -> (Wire<TcpStream>, Leash, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let greeted = greet(&near).unwrap();
        let (wire, leash) = Wire::new(near, greeted, Duration::from_secs(1));
        (wire, leash, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_write_nobody_takes_is_given_up_and_a_slow_reader_is_waited_for() {
        let (mut wire, _leash, mut far) = pair().await;
        let slow = tokio::spawn(async move {
            let mut buffer = vec![0; 4 << 20];
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                far.read_exact(&mut buffer).await.unwrap();
            }
            far
        });
        wire.write_all(&vec![7; 32 << 20]).await.expect("the reader is slow, not gone");
        let _far = slow.await.unwrap();
        let stuck = timeout(LONG, wire.write_all(&vec![7; 64 << 20])).await.expect("in time");
        assert_eq!(stuck.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_greeting_goes_ahead_once() {
        let (mut wire, _leash, mut far) = pair().await;
        let line = format!("{GREETING}\r\n");
        wire.write_all(format!("{line}more").as_bytes()).await.unwrap();
        wire.shutdown().await.unwrap();
        let mut heard = String::new();
        timeout(LONG, far.read_to_string(&mut heard)).await.expect("in time").unwrap();
        assert_eq!(heard, format!("{line}more"));
    }

    #[tokio::test]
    async fn a_leash_ends_the_reading_unless_it_is_let_loose() {
        let (mut wire, leash, mut far) = pair().await;
        leash.loose();
        far.write_all(b"x").await.unwrap();
        assert_eq!(timeout(LONG, wire.read_u8()).await.expect("in time").unwrap(), b'x');
        let (mut wire, leash, _far) = pair().await;
        drop(leash);
        assert!(timeout(LONG, wire.read_u8()).await.expect("in time").is_err());
    }
}
