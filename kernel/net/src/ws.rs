//! WebSockets: a handshake like any other request, then messages both ways, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{HttpParams, WsMessage, WsOpenParams, WsOpened};
use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, StatusCode};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::blob::Blobs;
use crate::net::Net;
use crate::send::Gate;
use crate::vault::Vault;

/// Most bytes of one message.
const MOST: usize = 512 * 1024;
/// Messages that wait for the plugin before the server has to.
const WAITING: usize = 8;
/// How long a message may take to leave, and a farewell to be heard.
const LEAVE: Duration = Duration::from_secs(30);
const FAREWELL: Duration = Duration::from_secs(2);
/// Close codes for sockets that end without one.
const NONE_GIVEN: u16 = 1005;
const BROKEN: u16 = 1006;
const TOO_LARGE: u16 = 1009;

type Wire = WebSocketStream<reqwest::Upgraded>;
type Sent = oneshot::Sender<Result<(), String>>;

/// An open WebSocket. Dropping it drops the connection.
pub struct Socket {
    out: mpsc::Sender<(Message, Sent)>,
    inbox: Mutex<mpsc::Receiver<WsMessage>>,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks the server for a WebSocket.
pub(crate) async fn open(
    net: &Net,
    params: WsOpenParams,
    blobs: &Blobs,
    deadline: Instant,
) -> Result<(Socket, WsOpened), RpcError> {
    let url = match params.url.split_once(':') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => format!("https:{rest}"),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => format!("http:{rest}"),
        _ => return Err(invalid("a WebSocket's URL begins with wss://")),
    };
    let key = generate_key();
    let handshake = handshake(&key, &params.protocols)?;
    let gate = Gate { blobs, deadline, handshake: Some(&handshake) };
    let request =
        HttpParams { headers: params.headers, auth: params.auth, ..HttpParams::new("GET", &url) };
    let landed = net.send(&request, &gate).await?;
    let (status, headers) = (landed.response.status(), landed.response.headers());
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(status, &landed.origin.to_string()));
    }
    let field = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if field(&SEC_WEBSOCKET_ACCEPT) != Some(derive_accept_key(key.as_bytes()).as_str()) {
        let message = format!("{} did not answer the WebSocket handshake", landed.origin);
        return Err(RpcError::of(ErrorKind::Transient, message));
    }
    let protocol = field(&SEC_WEBSOCKET_PROTOCOL).map(str::to_owned);
    if protocol.as_ref().is_some_and(|chosen| !params.protocols.contains(chosen)) {
        return Err(RpcError::of(
            ErrorKind::Transient,
            "the server chose a subprotocol nobody offered",
        ));
    }
    let origin = landed.origin;
    let upgraded = timeout_at(deadline, landed.response.upgrade()).await;
    let upgraded = upgraded
        .map_err(|_| RpcError::of(ErrorKind::Timeout, format!("{origin} did not answer in time")))?
        .map_err(|error| net.failed(error, &origin))?;
    let config = WebSocketConfig::default().max_message_size(Some(MOST)).max_frame_size(Some(MOST));
    let wire = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
    Ok((Socket::new(wire, Arc::clone(&net.vault)), WsOpened { socket: String::new(), protocol }))
}

fn handshake(key: &str, protocols: &[String]) -> Result<HeaderMap, RpcError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| invalid("a subprotocol is no header field"))
    };
    headers.insert(SEC_WEBSOCKET_KEY, value(key)?);
    if !protocols.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, value(&protocols.join(", "))?);
    }
    Ok(headers)
}

impl Socket {
    fn new(wire: Wire, vault: Arc<Vault>) -> Self {
        let (out, orders) = mpsc::channel(1);
        let (deliver, inbox) = mpsc::channel(WAITING);
        let task = tokio::spawn(serve(wire, orders, deliver, vault));
        Self { out, inbox: Mutex::new(inbox), task }
    }

    /// Sends one message; returns when it has left.
    pub async fn send(&self, text: Option<String>, b64: Option<String>) -> Result<(), RpcError> {
        let message = match (text, b64) {
            (Some(text), None) => Message::text(text),
            (None, Some(b64)) => {
                Message::binary(STANDARD.decode(b64).map_err(|_| invalid("b64 is not base64"))?)
            }
            _ => return Err(invalid("a message has exactly one of text and b64")),
        };
        if message.len() > MOST {
            return Err(RpcError::of(ErrorKind::Quota, "a message may have 512 KiB"));
        }
        self.order(message, LEAVE).await
    }

    /// The next message, or nothing when none comes in time.
    pub async fn recv(&self, wait: Duration) -> WsMessage {
        let next = async { self.inbox.lock().await.recv().await };
        match timeout(wait, next).await {
            Ok(Some(message)) => message,
            Ok(None) => WsMessage { closed: Some(BROKEN), ..WsMessage::default() },
            Err(_) => WsMessage::default(),
        }
    }

    /// Says goodbye, when the server still listens.
    pub async fn close(&self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = self.order(Message::Close(Some(frame)), FAREWELL).await;
    }

    async fn order(&self, message: Message, patience: Duration) -> Result<(), RpcError> {
        let (sent, done) = oneshot::channel();
        let gone = || RpcError::of(ErrorKind::Transient, "the WebSocket is closed");
        let way = async {
            self.out.send((message, sent)).await.map_err(|_| gone())?;
            let done = done.await.map_err(|_| gone())?;
            done.map_err(|why| {
                RpcError::of(ErrorKind::Transient, format!("the WebSocket broke: {why}"))
            })
        };
        timeout(patience, way).await.unwrap_or_else(|_| {
            Err(RpcError::of(ErrorKind::Timeout, "the server does not read the WebSocket"))
        })
    }
}

/// Moves messages until either side has enough. What is not taken makes the server wait, pings included.
async fn serve(
    mut wire: Wire,
    mut orders: mpsc::Receiver<(Message, Sent)>,
    deliver: mpsc::Sender<WsMessage>,
    vault: Arc<Vault>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some((message, sent)) = order else { return };
                let left = wire.send(message).await;
                let _ = sent.send(left.map_err(|e| vault.redactor().text(&e.to_string()).into_owned()));
            }
            (room, next) = next(&mut wire, &deliver) => {
                let Some(room) = room else { return };
                let message = match next {
                    Some(Ok(Message::Text(text))) => {
                        WsMessage { text: Some(vault.redactor().text(&text).into_owned()), ..WsMessage::default() }
                    }
                    Some(Ok(Message::Binary(bytes))) => {
                        let clean = vault.redactor().bytes(bytes.into());
                        WsMessage { b64: Some(STANDARD.encode(clean)), ..WsMessage::default() }
                    }
                    Some(Ok(Message::Close(frame))) => end(frame.map_or(NONE_GIVEN, |f| f.code.into())),
                    Some(Ok(_)) => continue, // pings were answered below us
                    Some(Err(WsError::Capacity(_))) => end(TOO_LARGE),
                    Some(Err(_)) | None => end(BROKEN),
                };
                let over = message.closed.is_some();
                room.send(message);
                if over {
                    // The close is answered while the rest is read; a server that goes on has had its chance.
                    let _ = timeout(FAREWELL, async { while wire.next().await.is_some_and(|r| r.is_ok()) {} }).await;
                    return;
                }
            }
        }
    }
}

/// The next message, taken only when there is room for it.
async fn next<'a>(
    wire: &mut Wire,
    deliver: &'a mpsc::Sender<WsMessage>,
) -> (Option<mpsc::Permit<'a, WsMessage>>, Option<Result<Message, WsError>>) {
    match deliver.reserve().await {
        Ok(room) => (Some(room), wire.next().await),
        Err(_) => (None, None),
    }
}

fn end(code: u16) -> WsMessage {
    WsMessage { closed: Some(code), ..WsMessage::default() }
}

fn refused(status: StatusCode, origin: &str) -> RpcError {
    let kind = match status.as_u16() {
        401 => ErrorKind::Auth,
        403 => ErrorKind::Permission,
        404 | 410 => ErrorKind::NotFound,
        429 => ErrorKind::RateLimited,
        500.. => ErrorKind::Transient,
        _ => ErrorKind::InvalidRequest,
    };
    RpcError::of(kind, format!("{origin} opened no WebSocket (status {})", status.as_u16()))
}

fn invalid(message: &str) -> RpcError {
    RpcError::of(ErrorKind::InvalidRequest, message)
}
