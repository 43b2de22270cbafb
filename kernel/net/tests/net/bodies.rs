//! What is sent, and how answers come back.

use crabbox_schemas::plugin::{HttpBody, HttpParams, Part, SecretText};
use serde_json::json;

use crate::server::{Server, json as answer, reply};
use crate::stage::{CANARY, Stage};

async fn sent(body: HttpBody) -> crate::server::Asked {
    let server = Server::start(|_| answer(200, "{}")).await;
    let stage = Stage::for_server(&server);
    let params = HttpParams { body: Some(body), ..HttpParams::new("POST", &server.url("/x?y=1")) };
    stage.http(params).await.unwrap();
    server.last()
}

#[tokio::test]
async fn every_kind_of_body_arrives_with_its_media_type() {
    let asked = sent(HttpBody::Text("hé".into())).await;
    assert_eq!(
        (asked.text(), asked.header("content-type")),
        ("hé".into(), "text/plain; charset=utf-8")
    );
    assert_eq!((&*asked.method, &*asked.path), ("POST", "/x?y=1"));
    assert!(asked.header("user-agent").starts_with("crabbox/"));
    let asked = sent(HttpBody::B64("/wA=".into())).await;
    assert_eq!(
        (asked.body.as_slice(), asked.header("content-type")),
        (&[0xff, 0][..], "application/octet-stream")
    );
    let asked = sent(HttpBody::Json(json!({"a": [1, {"deep": {"$secret": "token"}}]}))).await;
    assert_eq!(asked.text(), format!(r#"{{"a":[1,{{"deep":"{CANARY}"}}]}}"#));
    assert_eq!(asked.header("content-type"), "application/json");
    let form = [
        ("a b".to_owned(), SecretText::Plain("c&d=é".into())),
        ("t".to_owned(), SecretText::Secret("token".into())),
    ];
    let asked = sent(HttpBody::Form(form.into())).await;
    assert_eq!(asked.text(), "a%20b=c%26d%3D%C3%A9&t=canary-7f3a%2F9%2Bx");
    assert_eq!(asked.header("content-type"), "application/x-www-form-urlencoded");
}

#[tokio::test]
async fn a_blob_is_sent_whole_alone_or_as_a_part_and_takes_a_large_answer() {
    let server = Server::start(|asked| reply(200, "", &"z".repeat(asked.body.len()))).await;
    let stage = Stage::for_server(&server);
    let name = stage.blobs.create().unwrap();
    for _ in 0..30 {
        stage.blobs.write(&name, &vec![b'q'; 48 * 1024]).unwrap();
    }
    let mut params = HttpParams::new("PUT", &server.url("/"));
    params.body = Some(HttpBody::Blob(name.clone()));
    assert!(stage.http(params.clone()).await.is_err(), "it is not sealed yet");
    stage.blobs.seal(&name).await.unwrap();
    params.into_blob = true;
    let result = stage.http(params).await.unwrap();
    assert_eq!(server.last().body, vec![b'q'; 30 * 48 * 1024]);
    assert_eq!(server.last().header("content-length"), "1474560");
    let facts = stage.blobs.seal(&result.blob.unwrap()).await.unwrap();
    assert_eq!(facts.size, 1_474_560);
    let part = |name: &str| Part {
        name: name.into(),
        text: None,
        blob: None,
        file_name: None,
        content_type: None,
    };
    let parts = vec![
        Part { text: Some("v".into()), ..part("field") },
        Part {
            blob: Some(name),
            file_name: Some("tree.tar".into()),
            content_type: Some("application/x-tar".into()),
            ..part("file")
        },
    ];
    let mut params = HttpParams::new("POST", &server.url("/"));
    params.body = Some(HttpBody::Multipart(parts));
    params.max_response = Some(4 << 20);
    stage.http(params).await.unwrap();
    let asked = server.last();
    assert!(asked.header("content-type").starts_with("multipart/form-data; boundary="));
    let text = asked.text();
    for part in ["name=\"field\"\r\n\r\nv\r\n", "filename=\"tree.tar\"", "application/x-tar"] {
        assert!(text.contains(part), "{}", &text[..400]);
    }
}

#[tokio::test]
async fn an_answer_comes_as_json_text_or_bytes_without_its_cookies() {
    let server = Server::start(|asked| match &*asked.path {
        "/json" => reply(404, "content-type: application/problem+json; charset=utf-8\r\nset-cookie: a=b\r\nx-a: 1\r\nX-A: 2\r\n", "{\"e\":1}"),
        "/broken" => answer(200, "{"),
        _ => reply(204, "", ""),
    })
    .await;
    let stage = Stage::for_server(&server);
    let result = stage.get(&server.url("/json")).await.unwrap();
    assert_eq!((result.status, result.json), (404, Some(json!({"e": 1}))));
    assert_eq!(result.headers["x-a"], "1, 2");
    assert!(!result.headers.contains_key("set-cookie"));
    assert_eq!(stage.get(&server.url("/broken")).await.unwrap().text.as_deref(), Some("{"));
    assert_eq!(stage.get(&server.url("/none")).await.unwrap().text.as_deref(), Some(""));
}
