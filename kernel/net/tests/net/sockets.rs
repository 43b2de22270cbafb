//! WebSockets against a real server.

use std::time::Duration;

use base64::Engine;
use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{HttpAuth, WsOpenParams};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};

use crate::server::{Server, json};
use crate::stage::{CANARY, Setup, Stage};

const LONG: Duration = Duration::from_secs(10);

/// A server for one socket, played by the closure.
async fn server<F>(
    play: impl FnOnce(WebSocketStream<TcpStream>, String) -> F + Send + 'static,
) -> (Stage, String)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut given = String::new();
        let look = |request: &Request, mut response: Response| {
            let auth = request.headers().get("authorization");
            given = auth.map_or("", |v| v.to_str().unwrap()).to_owned();
            if request.headers().contains_key("sec-websocket-protocol") {
                response.headers_mut().insert("sec-websocket-protocol", "v2.log".parse().unwrap());
            }
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, look).await.unwrap();
        play(socket, given).await;
    });
    let own = vec![format!("http://{address}/")];
    (Stage::new(Setup { own, ..Setup::default() }), format!("ws://{address}/logs"))
}

fn open(url: &str) -> WsOpenParams {
    WsOpenParams {
        call: 0,
        url: url.to_owned(),
        headers: Default::default(),
        auth: Some(HttpAuth::Bearer("token".into())),
        protocols: vec!["v1.log".into(), "v2.log".into()],
        timeout_ms: None,
    }
}

#[tokio::test]
async fn messages_go_both_ways_pings_are_answered_and_the_end_has_its_code() {
    let (stage, url) = server(|mut socket, given| async move {
        assert_eq!(given, format!("Bearer {CANARY}"));
        socket.send(Message::Ping(vec![1].into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(vec![1].into()));
        let said = socket.next().await.unwrap().unwrap();
        socket.send(Message::text(format!("{said} {CANARY}"))).await.unwrap();
        socket.send(Message::binary(vec![0xff, 0])).await.unwrap();
        let frame = CloseFrame { code: CloseCode::Library(4001), reason: "done".into() };
        socket.close(Some(frame)).await.unwrap();
        while socket.next().await.is_some_and(|m| m.is_ok()) {}
    })
    .await;
    let (socket, opened) = stage.net.websocket(open(&url), &stage.blobs).await.unwrap();
    assert_eq!(opened.protocol.as_deref(), Some("v2.log"));
    assert_eq!(socket.recv(Duration::from_millis(50)).await, Default::default());
    socket.send(Some("hello".into()), None).await.unwrap();
    assert_eq!(socket.recv(LONG).await.text.as_deref(), Some("hello [redacted]"));
    let bytes = base64::engine::general_purpose::STANDARD.encode([0xff, 0]);
    assert_eq!(socket.recv(LONG).await.b64, Some(bytes));
    assert_eq!(socket.recv(LONG).await.closed, Some(4001));
    assert_eq!(socket.recv(LONG).await.closed, Some(1006));
    assert!(socket.send(Some("late".into()), None).await.is_err());
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_socket_and_is_not_kept() {
    let (stage, url) = server(|mut socket, _| async move {
        let _ = socket.send(Message::binary(vec![0; 600 * 1024])).await;
        while socket.next().await.is_some_and(|m| m.is_ok()) {}
    })
    .await;
    let (socket, _) = stage.net.websocket(open(&url), &stage.blobs).await.unwrap();
    assert_eq!(socket.recv(LONG).await.closed, Some(1009));
    let error = socket.send(Some("x".repeat(600 * 1024)), None).await.unwrap_err();
    assert_eq!(error.data.unwrap().kind, ErrorKind::Quota);
}

#[tokio::test]
async fn a_plugin_that_does_not_listen_makes_the_server_wait() {
    let (told, mut heard) = tokio::sync::watch::channel(0usize);
    let (stage, url) = server(move |mut socket, _| async move {
        let message = Message::binary(vec![0; 100 * 1024]);
        while socket.send(message.clone()).await.is_ok() {
            told.send_modify(|n| *n += 1);
        }
    })
    .await;
    let (socket, _) = stage.net.websocket(open(&url), &stage.blobs).await.unwrap();
    while tokio::time::timeout(Duration::from_millis(200), heard.changed()).await.is_ok() {}
    let sent = *heard.borrow();
    assert!(sent < 200, "{sent} messages of 100 KiB were taken");
    for _ in 0..sent {
        assert!(socket.recv(LONG).await.b64.is_some());
    }
    drop(socket);
}

#[tokio::test]
async fn a_server_that_opens_no_socket_is_refused_with_what_it_said() {
    let plain = Server::start(|_| json(401, "{}")).await;
    let stage = Stage::for_server(&plain);
    let url = plain.url("/").replace("http", "ws");
    let error = stage.net.websocket(open(&url), &stage.blobs).await.err().unwrap();
    assert_eq!(error.data.unwrap().kind, ErrorKind::Auth);
    let error =
        stage.net.websocket(open("wss://evil.example.dev/"), &stage.blobs).await.err().unwrap();
    assert_eq!(error.data.unwrap().kind, ErrorKind::GrantDenied);
}
