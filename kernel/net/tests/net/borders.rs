//! Where requests may not go, and how much may come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crabbox_net::Lookup;
use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::HttpParams;

use crate::server::{Server, json, reply};
use crate::stage::{Setup, Stage};

fn get(url: &str) -> HttpParams {
    HttpParams::new("GET", url)
}

/// A name server that gives out these addresses.
fn names(addresses: &'static [&'static str]) -> Lookup {
    Arc::new(move |_| {
        let found = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Box::pin(std::future::ready(Ok(found)))
    })
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_refused_although_its_origin_is_granted() {
    let server = Server::start(|_| json(200, "{}")).await;
    let url = format!("http://localhost:{}", server.port);
    let stage = Stage::new(Setup { origins: vec![url.clone()], ..Setup::default() });
    let (kind, told) = stage.refused(get(&url)).await;
    assert_eq!(kind, ErrorKind::GrantDenied, "{told}");
    assert!(told.contains("localhost is not an address of the public internet"), "{told}");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_name_that_is_rebound_to_a_private_address_is_refused_every_time() {
    let server = Server::start(|_| json(200, "{}")).await;
    let origin = format!("http://rebound.example.dev:{}", server.port);
    for address in
        [["127.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], ["fd00:ec2::254"]]
    {
        let lookup = Some(names(Box::leak(Box::new(address))));
        let stage = Stage::new(Setup { origins: vec![origin.clone()], lookup, ..Setup::default() });
        let (kind, told) = stage.refused(get(&origin)).await;
        assert_eq!(kind, ErrorKind::GrantDenied, "{told}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    let looked = Arc::new(AtomicUsize::new(0));
    let server = Server::start(|_| json(200, "{}")).await;
    let counted = Arc::clone(&looked);
    // The first look is honest, every later one would lead elsewhere.
    let lookup: Lookup = Arc::new(move |_| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        let address = if first { "127.0.0.1" } else { "192.0.2.1" };
        Box::pin(std::future::ready(Ok(vec![address.parse().unwrap()])))
    });
    let url = format!("http://own.example.dev:{}/", server.port);
    let stage =
        Stage::new(Setup { own: vec![url.clone()], lookup: Some(lookup), ..Setup::default() });
    assert_eq!(stage.get(&url).await.unwrap().status, 200);
    assert_eq!(looked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn metadata_loopback_and_disguised_addresses_are_refused_before_anything_is_sent() {
    for host in [
        "169.254.169.254",
        "127.0.0.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "[::ffff:169.254.169.254]",
        "100.100.100.200",
    ] {
        let origin = format!("http://{host}");
        let stage = Stage::new(Setup { origins: vec![origin.clone()], ..Setup::default() });
        let (kind, told) = stage.refused(get(&format!("{origin}/latest/meta-data"))).await;
        assert_eq!(kind, ErrorKind::GrantDenied, "{told}");
    }
}

#[tokio::test]
async fn what_was_not_granted_or_makes_no_sense_is_refused() {
    let server = Server::start(|_| json(200, "{}")).await;
    let stage = Stage::for_server(&server);
    let other = format!("http://127.0.0.1:{}/", server.port ^ 1);
    for (params, kind) in [
        (get(&other), ErrorKind::GrantDenied),
        (get("https://example.dev/"), ErrorKind::GrantDenied),
        (get("file:///etc/passwd"), ErrorKind::InvalidRequest),
        (get("not a url"), ErrorKind::InvalidRequest),
        (get(&server.url("/").replace("http://", "http://me:pw@")), ErrorKind::InvalidRequest),
        (HttpParams::new("CONNECT", &server.url("/")), ErrorKind::InvalidRequest),
        (HttpParams::new("GET /x HTTP/1.1\r\n", &server.url("/")), ErrorKind::InvalidRequest),
    ] {
        assert_eq!(stage.refused(params.clone()).await.0, kind, "{params:?}");
    }
    for name in
        ["Host", "content-length", "Connection", "Transfer-Encoding", "Sec-WebSocket-Key", "a b"]
    {
        let mut params = get(&server.url("/"));
        params.headers.insert(name.to_owned(), "x".to_owned());
        assert_eq!(stage.refused(params).await.0, ErrorKind::InvalidRequest, "{name}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn an_answer_larger_than_asked_for_is_refused_while_it_is_read() {
    let server = Server::start(|asked| match &*asked.path {
        "/honest" => reply(200, "", &"x".repeat(2000)),
        _ => format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(3 << 20)),
    })
    .await;
    let stage = Stage::for_server(&server);
    let mut params = get(&server.url("/honest"));
    params.max_response = Some(1999);
    assert_eq!(stage.refused(params.clone()).await.0, ErrorKind::Quota);
    params.max_response = Some(2000);
    assert_eq!(stage.http(params).await.unwrap().text.unwrap().len(), 2000);
    assert_eq!(stage.refused(get(&server.url("/endless"))).await.0, ErrorKind::Quota);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_in_time_and_one_that_is_not_there_at_once() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let stage = Stage::new(Setup { own: vec![url.clone()], ..Setup::default() });
    let began = Instant::now();
    let mut params = get(&url);
    params.timeout_ms = Some(200);
    assert_eq!(stage.refused(params).await.0, ErrorKind::Timeout);
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(silent);
    let (kind, told) = stage.refused(get(&url)).await;
    assert_eq!(kind, ErrorKind::Transient);
    assert!(told.contains("\"outcome\":\"not-started\""), "{told}");
    let nowhere: Lookup = Arc::new(|_| Box::pin(std::future::ready(Ok(vec![]))));
    let origins = vec!["https://gone.example.dev".to_owned()];
    let stage = Stage::new(Setup { origins, lookup: Some(nowhere), ..Setup::default() });
    let (kind, told) = stage.refused(get("https://gone.example.dev/")).await;
    assert_eq!(kind, ErrorKind::Transient);
    assert!(told.contains("cannot find the address of gone.example.dev"), "{told}");
}

#[tokio::test]
async fn an_origin_that_asks_for_a_pause_gets_it_from_every_later_request() {
    let first = AtomicUsize::new(0);
    let server = Server::start(move |_| match first.fetch_add(1, Ordering::SeqCst) {
        0 => reply(429, "retry-after: 1\r\n", ""),
        _ => json(200, "{}"),
    })
    .await;
    let stage = Stage::for_server(&server);
    assert_eq!(stage.get(&server.url("/")).await.unwrap().status, 429);
    let mut hasty = get(&server.url("/"));
    hasty.timeout_ms = Some(100);
    let (kind, told) = stage.refused(hasty).await;
    assert_eq!(kind, ErrorKind::RateLimited);
    assert!(told.contains("retryAfterMs"), "{told}");
    let began = Instant::now();
    assert_eq!(stage.get(&server.url("/")).await.unwrap().status, 200);
    assert!(began.elapsed() > Duration::from_millis(600), "{:?}", began.elapsed());
    assert_eq!(server.asked().len(), 2);
}
