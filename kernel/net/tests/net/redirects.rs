//! Redirects: every hop is judged anew, and credentials stay at home.

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{HttpAuth, HttpBody, HttpParams, SecretText};
use serde_json::json;

use crate::server::{Server, json as answer, reply};
use crate::stage::{CANARY, Setup, Stage};

/// A server that redirects with the status and to the place its path names: `/307/http://…`.
async fn redirector() -> Server {
    Server::start(|asked| match asked.path.trim_start_matches('/').split_once('/') {
        Some((status, to)) if status.len() == 3 => {
            let line = format!("location: {to}\r\n");
            reply(status.parse().unwrap(), &line, "")
        }
        _ => answer(200, "{}"),
    })
    .await
}

fn post(url: &str) -> HttpParams {
    HttpParams {
        body: Some(HttpBody::Json(json!({"a": 1}))),
        auth: Some(HttpAuth::Bearer("token".into())),
        headers: [("x-mine".to_owned(), "1".to_owned()), ("accept".to_owned(), "a/b".to_owned())]
            .into(),
        ..HttpParams::new("POST", url)
    }
}

#[tokio::test]
async fn a_redirect_within_the_origin_keeps_credentials_and_changes_the_method_as_browsers_do() {
    let server = redirector().await;
    let stage = Stage::for_server(&server);
    for (status, method, body) in [
        (301, "GET", ""),
        (302, "GET", ""),
        (303, "GET", ""),
        (307, "POST", "{\"a\":1}"),
        (308, "POST", "{\"a\":1}"),
    ] {
        stage.http(post(&server.url(&format!("/{status}//end")))).await.unwrap();
        let asked = server.last();
        assert_eq!(
            (&*asked.path, &*asked.method, &*asked.text()),
            ("/end", method, body),
            "{status}"
        );
        assert_eq!(asked.header("authorization"), format!("Bearer {CANARY}"));
        assert_eq!(asked.header("x-mine"), "1");
        assert_eq!(asked.headers.contains_key("content-type"), !body.is_empty(), "{status}");
    }
    let mut put = post(&server.url("/302//end"));
    put.method = "PUT".into();
    stage.http(put).await.unwrap();
    assert_eq!(server.last().method, "PUT");
}

#[tokio::test]
async fn credentials_and_private_headers_do_not_follow_to_another_origin() {
    let (first, second) = (redirector().await, redirector().await);
    let own = vec![first.url("/"), second.url("/")];
    let stage = Stage::new(Setup { own, ..Setup::default() });
    let away = format!("/307/{}", second.url("/end"));
    stage.http(post(&first.url(&away))).await.unwrap();
    let asked = second.last();
    assert_eq!(asked.text(), "{\"a\":1}");
    assert_eq!(asked.header("accept"), "a/b");
    for name in ["authorization", "x-mine"] {
        assert!(!asked.headers.contains_key(name), "{asked:?}");
    }
    // Nor do they come back once they were left behind.
    let round = format!("/307/{}", second.url(&format!("/307/{}", first.url("/end"))));
    stage.http(post(&first.url(&round))).await.unwrap();
    assert!(!first.last().headers.contains_key("authorization"));
    let mut secret = post(&first.url(&away));
    secret.body = Some(HttpBody::Json(json!({"a": {"$secret": "token"}})));
    let (kind, told) = stage.refused(secret).await;
    assert_eq!(kind, ErrorKind::GrantDenied, "{told}");
    assert_eq!(second.asked().len(), 2);
}

#[tokio::test]
async fn a_secret_in_the_query_goes_to_its_origin_and_nowhere_else() {
    let away = Server::start(|_| answer(200, "{}")).await;
    let there = away.url("/there");
    let home = Server::start(move |asked| match asked.path.starts_with("/moved") {
        true => reply(307, &format!("location: {there}\r\n"), ""),
        false => answer(200, "{}"),
    })
    .await;
    let own = vec![home.url("/"), away.url("/")];
    let stage = Stage::new(Setup { own, to: vec!["{own0}".into()], ..Setup::default() });
    let with_secret = |url: &str| {
        let mut params = HttpParams::new("GET", url);
        params.query.insert("token".into(), SecretText::Secret("token".into()));
        params
    };
    stage.http(with_secret(&home.url("/end?a=1"))).await.unwrap();
    let asked = home.last().path;
    assert!(asked.starts_with("/end?a=1&token=") && asked.len() > 20, "{asked}");
    stage.http(with_secret(&home.url("/moved"))).await.unwrap();
    assert_eq!(away.last().path, "/there");
    let (kind, told) = stage.refused(with_secret(&away.url("/"))).await;
    assert_eq!((kind, away.asked().len()), (ErrorKind::GrantDenied, 1), "{told}");
}

#[tokio::test]
async fn a_redirect_to_a_forbidden_place_is_refused_and_says_where_it_led() {
    let server = redirector().await;
    let stage = Stage::for_server(&server);
    for to in [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:1/",
        "https://evil.example.dev/",
        "//evil.example.dev/",
        "file:///etc/passwd",
        "http://user:pw@127.0.0.1/",
    ] {
        let (kind, told) =
            stage.refused(HttpParams::new("GET", &server.url(&format!("/302/{to}")))).await;
        assert!(matches!(kind, ErrorKind::GrantDenied | ErrorKind::InvalidRequest), "{to}: {told}");
    }
}

#[tokio::test]
async fn a_circle_of_redirects_ends_and_one_without_a_place_is_an_answer() {
    let server = Server::start(|asked| match &*asked.path {
        "/nowhere" => reply(302, "", "gone"),
        _ => reply(302, "location: /again\r\n", ""),
    })
    .await;
    let stage = Stage::for_server(&server);
    let (_, told) = stage.refused(HttpParams::new("GET", &server.url("/"))).await;
    assert!(told.contains("more than 5 redirects"), "{told}");
    assert_eq!(server.asked().len(), 6);
    assert_eq!(stage.get(&server.url("/nowhere")).await.unwrap().status, 302);
}
