//! The kinds of credentials, made and renewed by the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{
    BasicAuth, HeaderAuth, HttpAuth, HttpBody, HttpParams, Oauth2Auth, SecretText, Sigv4Auth,
};
use serde_json::json;

use crate::server::{Server, json as answer};
use crate::stage::{CANARY, Stage};

fn with(url: &str, auth: HttpAuth) -> HttpParams {
    HttpParams { auth: Some(auth), ..HttpParams::new("GET", url) }
}

#[tokio::test]
async fn basic_and_header_credentials_arrive_as_their_services_want_them() {
    let server = Server::start(|asked| {
        answer(200, &json!({"echo": asked.header("authorization")}).to_string())
    })
    .await;
    let stage = Stage::for_server(&server);
    let username = SecretText::Plain("me".into());
    let basic = HttpAuth::Basic(BasicAuth { username, password: "token".into() });
    let result = stage.http(with(&server.url("/"), basic)).await.unwrap();
    assert_eq!(server.last().header("authorization"), "Basic bWU6Y2FuYXJ5LTdmM2EvOSt4");
    assert_eq!(result.json.unwrap()["echo"], "Basic [redacted]");
    let header = HttpAuth::Header(HeaderAuth {
        name: "X-Api-Key".into(),
        prefix: "Key ".into(),
        secret: "token".into(),
    });
    stage.http(with(&server.url("/"), header)).await.unwrap();
    assert_eq!(server.last().header("x-api-key"), format!("Key {CANARY}"));
    for name in ["Host", "Transfer-Encoding", "no name"] {
        let (name, prefix, secret) = (name.into(), String::new(), "token".into());
        let header = HttpAuth::Header(HeaderAuth { name, prefix, secret });
        let refused = stage.refused(with(&server.url("/"), header)).await;
        assert_eq!(refused.0, ErrorKind::InvalidRequest);
    }
}

#[tokio::test]
async fn a_signature_covers_method_query_body_and_time() {
    let server = Server::start(|_| answer(200, "{}")).await;
    let stage = Stage::for_server(&server);
    let mut params = with(
        &server.url("/?Action=DescribeInstances"),
        HttpAuth::Sigv4(Sigv4Auth {
            access_key: "id".into(),
            secret_key: "token".into(),
            service: "ec2".into(),
            region: "eu-central-1".into(),
            ..Sigv4Auth::default()
        }),
    );
    params.method = "POST".into();
    params.body = Some(HttpBody::Form([("a".to_owned(), SecretText::Plain("b".into()))].into()));
    stage.http(params).await.unwrap();
    let asked = server.last();
    let authorization = asked.header("authorization");
    assert!(authorization.starts_with(
        "AWS4-HMAC-SHA256 Credential=client-one/20150830/eu-central-1/ec2/aws4_request"
    ));
    assert!(
        authorization.contains("SignedHeaders=content-type;host;x-amz-date"),
        "{authorization}"
    );
    assert_eq!(asked.header("x-amz-date"), "20150830T123600Z");
}

/// A service whose tokens are `access-1`, `access-2` …, and which accepts those from `valid` on.
async fn service(valid: Arc<AtomicUsize>, life: u64) -> Server {
    let issued = AtomicUsize::new(0);
    Server::start(move |asked| match &*asked.path {
        "/token" if asked.text().contains("client_secret=canary-7f3a%2F9%2Bx") => {
            let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
            answer(
                200,
                &json!({"access_token": format!("access-{n}"), "expires_in": life}).to_string(),
            )
        }
        "/token" => answer(
            401,
            r#"{"error":"invalid_client","error_description":"E7: it is wrong.\r\nTrace: x"}"#,
        ),
        _ => {
            let n = asked
                .header("authorization")
                .strip_prefix("Bearer access-")
                .map(|n| n.parse::<usize>());
            match n {
                Some(Ok(n)) if n >= valid.load(Ordering::SeqCst) => {
                    answer(200, &json!({"echo": asked.header("authorization")}).to_string())
                }
                _ => answer(401, "{}"),
            }
        }
    })
    .await
}

fn oauth(server: &Server, secret: &str) -> HttpParams {
    with(
        &server.url("/api"),
        HttpAuth::Oauth2(Oauth2Auth {
            token_url: server.url("/token"),
            client_id: SecretText::Secret("id".into()),
            client_secret: secret.into(),
            scope: Some("all of it".into()),
        }),
    )
}

fn tokens_asked(server: &Server) -> usize {
    server.asked().iter().filter(|asked| asked.path == "/token").count()
}

#[tokio::test]
async fn an_oauth2_token_is_fetched_once_kept_and_renewed_when_it_is_refused() {
    let valid = Arc::new(AtomicUsize::new(1));
    let server = service(Arc::clone(&valid), 3600).await;
    let stage = Stage::for_server(&server);
    let result = stage.http(oauth(&server, "token")).await.unwrap();
    assert_eq!(result.json.unwrap()["echo"], "Bearer [redacted]");
    let form = server.asked()[0].text();
    assert!(
        form.contains("grant_type=client_credentials") && form.contains("scope=all%20of%20it"),
        "{form}"
    );
    let (first, second) =
        tokio::join!(stage.http(oauth(&server, "token")), stage.http(oauth(&server, "token")));
    assert_eq!((first.unwrap().status, second.unwrap().status), (200, 200));
    assert_eq!(tokens_asked(&server), 1);
    valid.store(2, Ordering::SeqCst);
    assert_eq!(stage.http(oauth(&server, "token")).await.unwrap().status, 200);
    assert_eq!(tokens_asked(&server), 2);
    // A fresh token that is refused is an answer like any other.
    valid.store(9, Ordering::SeqCst);
    assert_eq!(stage.http(oauth(&server, "token")).await.unwrap().status, 401);
    assert_eq!(tokens_asked(&server), 3);
}

#[tokio::test]
async fn a_clients_secret_is_judged_by_the_server_of_its_tokens() {
    let server = service(Arc::default(), 3600).await;
    let stage = Stage::for_server(&server);
    let (_, secrets) = stage.net.judge(&oauth(&server, "token")).await.unwrap();
    assert_eq!(secrets, ["id", "token"]);
    let mut elsewhere = oauth(&server, "token");
    let Some(HttpAuth::Oauth2(oauth)) = &mut elsewhere.auth else { panic!("it was made so") };
    oauth.token_url = "https://elsewhere.example.dev/token".to_owned();
    let refused = stage.net.judge(&elsewhere).await.unwrap_err();
    assert_eq!(refused.data.unwrap().kind, ErrorKind::GrantDenied);
}

#[tokio::test]
async fn a_token_past_its_time_is_fetched_again_and_a_wrong_client_is_an_auth_failure() {
    let server = service(Arc::default(), 0).await;
    let stage = Stage::for_server(&server);
    stage.http(oauth(&server, "token")).await.unwrap();
    stage.http(oauth(&server, "token")).await.unwrap();
    assert_eq!(tokens_asked(&server), 2);
    let (kind, told) = stage.refused(oauth(&server, "id")).await;
    assert_eq!(kind, ErrorKind::Auth);
    assert!(told.contains("401 (invalid_client) E7: it is wrong.\""), "{told}");
}
