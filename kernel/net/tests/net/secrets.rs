//! No secret ever comes back, and captured ones stay where they belong.

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{Capture, HttpAuth, HttpParams};
use serde_json::json;

use crate::server::{Server, json as answer, reply};
use crate::stage::{CANARY, Setup, Stage};

fn bearer(url: &str, handle: &str) -> HttpParams {
    HttpParams { auth: Some(HttpAuth::Bearer(handle.to_owned())), ..HttpParams::new("GET", url) }
}

#[tokio::test]
async fn what_a_server_echoes_of_a_secret_is_taken_out_in_every_form() {
    let server = Server::start(|asked| {
        let given = asked.header("authorization").replace("Bearer ", "");
        let encoded = given.replace('/', "%2F").replace('+', "%2B");
        match &*asked.path {
            "/json" => answer(
                200,
                &json!({"headers": {"auth": given, given.clone(): 1}, "q": encoded}).to_string(),
            ),
            "/header" => reply(200, &format!("x-echo: {given}\r\nlocation: /?t={encoded}\r\n"), ""),
            _ => reply(200, "", &format!("you said {given} and {encoded}")),
        }
    })
    .await;
    let stage = Stage::for_server(&server);
    for path in ["/json", "/header", "/text"] {
        let result = stage.http(bearer(&server.url(path), "token")).await.unwrap();
        let shown = serde_json::to_string(&result).unwrap();
        assert!(shown.contains("[redacted]"), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("7f3a"), "{shown}");
        assert!(!format!("{result:?}").contains("7f3a"));
        assert!(server.last().header("authorization").contains(CANARY), "it did arrive");
    }
    let mut params = bearer(&server.url("/text"), "token");
    params.into_blob = true;
    let blob = stage.http(params).await.unwrap().blob.unwrap();
    let bytes = stage.blobs.read(&blob, 0, 1000).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), "you said [redacted] and [redacted]");
}

#[tokio::test]
async fn a_secret_is_sent_only_where_its_grant_says() {
    let (home, away) =
        (Server::start(|_| answer(200, "{}")).await, Server::start(|_| answer(200, "{}")).await);
    let own = vec![home.url("/"), away.url("/")];
    let stage = Stage::new(Setup { own, to: vec!["{own0}".into()], ..Setup::default() });
    stage.http(bearer(&home.url("/"), "token")).await.unwrap();
    assert_eq!(stage.refused(bearer(&away.url("/"), "token")).await.0, ErrorKind::GrantDenied);
    assert_eq!(stage.refused(bearer(&home.url("/"), "unknown")).await.0, ErrorKind::GrantDenied);
    assert!(away.asked().is_empty());
}

#[tokio::test]
async fn a_captured_token_becomes_a_handle_that_works_at_its_origin_only() {
    let server = Server::start(|asked| match &*asked.path {
        // Some servers forget to say that it is JSON.
        "/login" => reply(
            200,
            "content-type: text/plain\r\nx-token: fresh-token-1\r\n",
            r#"{"a":{"session":"fresh-token-1","n":5},"again":"fresh-token-1"}"#,
        ),
        "/html" => reply(200, "content-type: text/html\r\n", "fresh-token-1"),
        "/denied" => reply(401, "content-type: text/html\r\n", "<p>no</p>"),
        _ => answer(200, &json!({"auth": asked.header("authorization")}).to_string()),
    })
    .await;
    let other = Server::start(|_| answer(200, "{}")).await;
    let stage =
        Stage::new(Setup { own: vec![server.url("/"), other.url("/")], ..Setup::default() });
    let login = |path: &str| {
        let capture = |pointer: &str| Capture { pointer: pointer.into(), to: vec![], ttl_ms: None };
        let mut params = HttpParams::new("POST", &server.url(path));
        params.capture = vec![capture("/a/session"), capture("/a/n"), capture("/missing")];
        params
    };
    let result = stage.http(login("/login")).await.unwrap();
    assert!(!serde_json::to_string(&result).unwrap().contains("fresh-token-1"));
    let document = result.json.unwrap();
    let handle = document["a"]["session"]["$secret"].as_str().unwrap();
    assert_eq!((&document["a"]["n"], &document["again"]), (&json!(5), &json!("[redacted]")));
    stage.http(bearer(&server.url("/use"), handle)).await.unwrap();
    assert_eq!(server.last().header("authorization"), "Bearer fresh-token-1");
    assert_eq!(stage.refused(bearer(&other.url("/"), handle)).await.0, ErrorKind::GrantDenied);
    assert!(other.asked().is_empty());
    assert_eq!(stage.refused(login("/html")).await.0, ErrorKind::Internal);
    assert_eq!(stage.http(login("/denied")).await.unwrap().text.unwrap(), "<p>no</p>");
}
