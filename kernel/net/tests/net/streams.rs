//! Answers that are read bit by bit.

use std::time::Duration;

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{HttpAuth, HttpParams};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::server::request;
use crate::stage::{CANARY, Setup, Stage};

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(10);

/// A server that writes these pieces, a moment apart, and then ends or stays open.
async fn trickle(pieces: Vec<Vec<u8>>, stays: bool) -> (Stage, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream, &mut Vec::new()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            .await
            .unwrap();
        for piece in pieces {
            if stream.write_all(&piece).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if stays {
            std::future::pending::<()>().await;
        }
    });
    (Stage::new(Setup { own: vec![url.clone()], ..Setup::default() }), url)
}

fn get(url: &str) -> HttpParams {
    HttpParams { auth: Some(HttpAuth::Bearer("token".into())), ..HttpParams::new("GET", url) }
}

#[tokio::test]
async fn events_come_as_they_are_sent_and_silence_is_an_empty_result() {
    let text = format!("retry: 50\n\nid: 7\nevent: log\ndata: one\ndata: {CANARY}\n\n");
    let pieces = text.bytes().map(|byte| vec![byte]).collect();
    let (stage, url) = trickle(pieces, true).await;
    let (mut stream, opened) = stage.net.open(get(&url), &stage.blobs).await.unwrap();
    assert_eq!((opened.status, &*opened.headers["content-type"]), (200, "text/event-stream"));
    let read = stream.read(&stage.net, true, LONG).await.unwrap();
    assert_eq!((read.events.len(), read.retry_ms, read.end), (1, Some(50), false));
    let event = &read.events[0];
    assert_eq!((&*event.event, &*event.data, &*event.id), ("log", "one\n[redacted]", "7"));
    let read = stream.read(&stage.net, true, SHORT).await.unwrap();
    assert!(read.events.is_empty() && !read.end);
    let error = stream.read(&stage.net, false, SHORT).await.unwrap_err();
    assert_eq!(error.data.unwrap().kind, ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn bytes_come_in_pieces_until_the_end_with_a_secret_cut_in_two_taken_out() {
    let (head, tail) = CANARY.split_at(6);
    let pieces = vec![b"a".to_vec(), head.into(), [tail.as_bytes(), b"b\xff"].concat()];
    let (stage, url) = trickle(pieces, false).await;
    let (mut stream, _) = stage.net.open(get(&url), &stage.blobs).await.unwrap();
    let mut all = Vec::new();
    loop {
        let read = stream.read(&stage.net, false, LONG).await.unwrap();
        if read.text.is_some() || read.b64.is_some() {
            all.extend(crabbox_wire::payload::unpack(read.text, read.b64).unwrap());
        }
        if read.end {
            break;
        }
    }
    assert_eq!(all, b"a[redacted]b\xff");
}

#[tokio::test]
async fn a_reader_that_does_not_read_makes_the_server_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&sent);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream, &mut Vec::new()).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let piece = vec![b'x'; 64 * 1024];
        while stream.write_all(&piece).await.is_ok() {
            counted.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
        }
    });
    let stage = Stage::new(Setup { own: vec![url.clone()], ..Setup::default() });
    let (mut stream, _) = stage.net.open(get(&url), &stage.blobs).await.unwrap();
    let mut before = usize::MAX;
    loop {
        tokio::time::sleep(SHORT).await;
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    // What the two ends of a loopback connection buffer, and little more.
    assert!(before < 16 << 20, "{before} bytes were taken from the server");
    let read = stream.read(&stage.net, false, LONG).await.unwrap();
    assert!(read.text.unwrap().bytes().all(|byte| byte == b'x'));
    drop(stream);
}
