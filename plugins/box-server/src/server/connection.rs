//! One SSH connection: who may come in, and what each kind of channel leads to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh::keys::PublicKey;
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, Pty};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{Shared, channel, forward};

/// Most remote forwards of one connection.
const MOST_FORWARDS: usize = 64;

/// Speaks with one client until it is gone, or does not prove who it is in time.
pub(crate) async fn serve(
    config: Arc<Config>,
    socket: TcpStream,
    shared: Arc<Shared>,
    login_grace: Duration,
) {
    let _ = socket.set_nodelay(true);
    let known = Arc::new(AtomicBool::new(false));
    let handler = Connection { shared, known: known.clone(), listeners: HashMap::new() };
    let until = tokio::time::Instant::now() + login_grace;
    let started = russh::server::run_stream(config, socket, handler);
    let Ok(Ok(session)) = tokio::time::timeout_at(until, started).await else { return };
    let handle = session.handle();
    tokio::pin!(session);
    tokio::select! {
        _ = &mut session => return,
        () = tokio::time::sleep_until(until) => {}
    }
    if known.load(Ordering::Relaxed) {
        let _ = session.await;
    } else {
        let reason = "no login in time".to_owned();
        let _ = handle.disconnect(russh::Disconnect::ByApplication, reason, String::new()).await;
        let _ = tokio::time::timeout(login_grace, session).await;
    }
}

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    known: Arc<AtomicBool>,
    listeners: HashMap<(String, u32), JoinHandle<()>>,
}

impl Connection {
    /// Where bytes may wait.
    fn folder(&self) -> PathBuf {
        self.shared.setup.home.clone().into()
    }

    fn verdict(&self, key: &PublicKey) -> Auth {
        if key.key_data() == self.shared.key.key_data() { Auth::Accept } else { Auth::reject() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        for listener in self.listeners.values() {
            listener.abort();
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        let known = self.shared.setup.token.as_deref() == Some(user);
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.verdict(offer.public_key))
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(self.verdict(key.public_key))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.known.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        tokio::spawn(channel::serve(channel, session.handle(), self.shared.clone()));
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _from_host: &str,
        _from_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        tokio::spawn(forward::connect(channel, host.to_owned(), port, reply, self.folder()));
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        if self.listeners.len() >= MOST_FORWARDS {
            return Ok(false);
        }
        let asked = u16::try_from(*port).unwrap_or_default();
        let Ok((bound, listener)) =
            forward::listen(address, asked, session.handle(), self.folder()).await
        else {
            return Ok(false);
        };
        *port = u32::from(bound);
        self.listeners.insert((address.to_owned(), *port), listener);
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let listener = self.listeners.remove(&(address.to_owned(), port));
        Ok(listener.inspect(JoinHandle::abort).is_some())
    }

    // The requests themselves reach the channel's own task; only the answers are given here, at once,
    // because the protocol wants them in order.

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        _value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn shell_request(
        &mut self,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        _command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
