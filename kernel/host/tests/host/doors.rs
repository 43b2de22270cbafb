//! What a plugin asks of the network, of tools and of blobs, seen from the plugin.

use std::time::{Duration, Instant};

use crabbox_kernel::ports::{DelegatedRun, Provider, Stop, Workspace};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::callbacks::ask;
use crate::server::{self, Server};
use crate::stage::{LENT, SEALED, Stage, lease};

/// Makes several callbacks in one call; gives back what came of each.
async fn chain(stage: &Stage, endpoint: &str, steps: Value) -> Vec<Value> {
    let config = json!({"endpoint": endpoint, "doctor": format!("chain:{steps}")});
    let session = stage.open(config).await.unwrap();
    let checks = session.doctor().await.unwrap();
    session.close().await;
    let shown = &checks[0].message;
    assert!(!shown.contains(SEALED) && !shown.contains(LENT), "{shown}");
    serde_json::from_str(shown).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_uses_a_secret_it_never_sees_where_the_users_setting_leads() {
    let server = Server::start(|asked| {
        server::json(200, &json!({"echo": asked.header("authorization")}).to_string())
    })
    .await;
    let stage = Stage::new();
    let request = json!({"method": "POST", "url": server.url("/v1"), "auth": {"bearer": "sealed"}, "body": {"json": {"key": {"$secret": "sealed"}}}});
    let elsewhere =
        json!({"method": "GET", "url": "https://example.dev/", "auth": {"bearer": "sealed"}});
    let answers = chain(
        &stage,
        &server.url("/"),
        json!([
            ["http", request],
            ["http", elsewhere],
            ["http", {"method": "GET", "url": "http://localhost:9/"}],
            ["http", {"method": "GET", "url": server.url("/"), "auth": {"bearer": "lent"}}],
            ["secret.reveal", {"name": "sealed"}],
        ]),
    )
    .await;
    assert_eq!(answers[0]["json"]["echo"], "Bearer [redacted]");
    for refused in &answers[1..] {
        assert_eq!(refused["data"]["kind"], "grant_denied", "{refused}");
    }
    let asked = server.last();
    assert_eq!(asked.header("authorization"), format!("Bearer {SEALED}"));
    assert_eq!(asked.text(), format!(r#"{{"key":"{SEALED}"}}"#));
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_wakes_a_request_that_nobody_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let mut stage = Stage::new();
    stage.timeouts.read = Duration::from_millis(300);
    let request = json!({"method": "GET", "url": url});
    for steps in [json!([["http", request]]), json!([["http.open", request]])] {
        let began = Instant::now();
        let answers = chain(&stage, &url, steps).await;
        assert_eq!(answers[0]["data"]["kind"], "cancelled", "{answers:?}");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_in_its_call_and_closed_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let closed = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        server::request(&mut stream, &mut Vec::new()).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
        stream.write_all(format!("{head}data: one\n\ndata: two").as_bytes()).await.unwrap();
        stream.read(&mut [0; 1]).await.unwrap_or(0)
    });
    let stage = Stage::new();
    let steps = json!([
        ["http.open", {"method": "GET", "url": url}],
        ["http.read", {"stream": "$stream", "events": true}],
        ["http.read", {"stream": "$stream", "events": true, "timeoutMs": 50}],
        ["http.read", {"stream": "s9", "events": true}],
    ]);
    let answers = chain(&stage, &url, steps).await;
    assert_eq!((&answers[0]["stream"], &answers[0]["status"]), (&json!("s1"), &json!(200)));
    assert_eq!(answers[1], json!({"events": [{"event": "message", "data": "one"}]}));
    assert_eq!(answers[2], json!({}));
    assert_eq!(answers[3]["data"]["kind"], "not_found");
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_kept_for_the_plugin() {
    use futures_util::{SinkExt, StreamExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let stage = Stage::new();
    let steps = json!([
        ["ws.open", {"url": format!("ws://{address}/"), "auth": {"bearer": "sealed"}}],
        ["ws.send", {"socket": "$socket", "text": "hello"}],
        ["ws.recv", {"socket": "$socket"}],
        ["ws.recv", {"socket": "$socket", "timeoutMs": 20}],
        ["ws.close", {"socket": "$socket"}],
        ["ws.send", {"socket": "w1", "text": "late"}],
    ]);
    let answers = chain(&stage, &format!("http://{address}/"), steps).await;
    assert_eq!(answers[0]["socket"], "w1");
    assert_eq!((&answers[2], &answers[3]), (&json!({"text": "hello"}), &json!({})));
    assert_eq!(answers[5]["data"]["kind"], "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_talked_with_and_its_output_holds_no_secret() {
    let stage = Stage::new();
    let script = "read first; read line; echo got $line, $KEY; echo oops >&2; exit 4";
    let steps = json!([
        ["exec.open", {"tool": "sh", "args": ["-c", script], "stdin": "first\n", "timeoutMs": 10_000, "env": {"KEY": {"$secret": "lent"}}}],
        ["exec.read", {"process": "$process", "timeoutMs": 50}],
        ["exec.write", {"process": "$process", "text": "it\n", "end": true}],
        ["exec.read", {"process": "$process"}],
        ["exec.read", {"process": "$process"}],
        ["exec.read", {"process": "$process"}],
        ["exec", {"tool": "sh", "args": ["-c", "echo $KEY $PLAIN"], "timeoutMs": 5000, "env": {"KEY": {"$secret": "lent"}, "PLAIN": "p"}}],
        ["exec", {"tool": "sh", "timeoutMs": 5000, "env": {"KEY": {"$secret": "sealed"}}}],
        ["exec", {"tool": "sh", "timeoutMs": 5000, "env": {"LD_PRELOAD": "/x.so"}}],
    ]);
    let answers = chain(&stage, "http://127.0.0.1:9", steps).await;
    assert_eq!(answers[1], json!({}));
    let mut said = answers[3..5].to_vec();
    said.sort_by_key(|said| said["ch"].to_string());
    assert_eq!(said[0], json!({"ch": "stderr", "text": "oops\n"}));
    assert_eq!(said[1], json!({"ch": "stdout", "text": "got it, [redacted]\n"}));
    assert_eq!(answers[5], json!({"exitCode": 4}));
    assert_eq!(answers[6]["stdout"], "[redacted] p\n");
    assert_eq!(answers[7]["data"]["kind"], "grant_denied");
    assert_eq!(answers[8]["data"]["kind"], "grant_denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_tool_ends_when_it_is_told_when_its_time_is_over_and_with_its_call() {
    let stage = Stage::new();
    let open = |script: &str, ms: u64| json!(["exec.open", {"tool": "sh", "args": ["-c", script], "timeoutMs": ms}]);
    let steps = json!([
        open("exec 2>/dev/null; trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done", 10_000),
        ["exec.read", {"process": "$process"}],
        ["exec.kill", {"process": "$process", "graceMs": 5000}],
        ["exec.read", {"process": "$process"}],
        open("exec sleep 300", 100),
        ["exec.read", {"process": "$process"}],
        open("trap 'exit 8' INT; echo up; while :; do sleep 0.05; done", 10_000),
        ["exec.read", {"process": "$process"}],
        ["exec.kill", {"process": "$process", "graceMs": 5000, "interrupt": true}],
        ["exec.read", {"process": "$process"}],
        ["exec.open", {"tool": "sh", "args": ["-c", "true"], "checkout": true, "timeoutMs": 1000}],
        open("sleep 300 & exec sleep 300", 600_000),
    ]);
    let answers = chain(&stage, "http://127.0.0.1:9", steps).await;
    assert_eq!(answers[3], json!({"exitCode": 9}));
    assert_eq!(answers[5], json!({"exitCode": 137, "signal": 9}));
    assert_eq!(answers[9], json!({"exitCode": 8}));
    assert_eq!(answers[10]["data"]["kind"], "grant_denied", "a power that was not asked for");
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_talks_without_end_waits_for_its_reader() {
    let stage = Stage::new();
    let mut steps = vec![
        json!(["exec.open", {"tool": "sh", "args": ["-c", "yes"], "timeoutMs": 60_000}]),
        json!(["sleep", {"ms": 300}]),
    ];
    steps.extend((0..20).map(|_| json!(["exec.read", {"process": "$process"}])));
    let answers = chain(&stage, "http://127.0.0.1:9", steps.into()).await;
    assert!(answers[2..].iter().all(|a| a["text"].as_str().unwrap().len() <= 48 * 1024));
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_carries_what_is_too_large_for_a_line() {
    let server = Server::start(|asked| match &*asked.method {
        "GET" => server::reply(200, "", &"large ".repeat(300_000)),
        _ => server::json(200, &json!({"got": asked.text(), "at": asked.path}).to_string()),
    })
    .await;
    let stage = Stage::new();
    let url = server.url("/");
    let steps = json!([
        ["blob.create", {}],
        ["blob.write", {"blob": "$blob", "text": "hello "}],
        ["blob.write", {"blob": "$blob", "b64": "d29ybGQ="}],
        ["blob.seal", {"blob": "$blob"}],
        ["http", {"method": "PUT", "url": url, "body": {"blob": "b1"}}],
        ["blob.read", {"blob": "b1", "off": 6, "max": 100}],
        ["http", {"method": "GET", "url": url}],
        ["http", {"method": "GET", "url": url, "maxResponse": 4_000_000}],
        ["http", {"method": "GET", "url": url, "intoBlob": true}],
        ["blob.seal", {"blob": "$blob"}],
        ["blob.drop", {"blob": "b1"}],
        ["blob.read", {"blob": "b1", "off": 0, "max": 1}],
    ]);
    let answers = chain(&stage, &url, steps).await;
    assert_eq!(
        answers[3]["sha256"],
        "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
    );
    assert_eq!(answers[4]["json"]["got"], "hello world");
    assert_eq!(answers[5], json!({"text": "world"}));
    assert_eq!(answers[6]["data"]["kind"], "quota", "{}", answers[6]);
    assert!(answers[7]["data"]["hint"].as_str().unwrap().contains("blob"), "{}", answers[7]);
    assert_eq!(answers[9]["size"], 1_800_000);
    assert_eq!(answers[11]["data"]["kind"], "not_found");
    let folder = stage.dir.path().join("plugins");
    let left = std::fs::read_dir(folder.join("example.dev-scripted")).unwrap().count();
    assert_eq!(left, 0, "nothing of a session's blobs outlives it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegated_run_is_offered_its_tree_as_a_blob_too() {
    let stage = Stage::delegated();
    let archive = stage.dir.path().join("tree.tar");
    std::fs::write(&archive, "tree").unwrap();
    let session = stage.open(json!({"run": "exit:0"})).await.unwrap();
    let run = DelegatedRun {
        run_id: "run_0123456789ab".into(),
        lease: lease(),
        command: vec!["true".into()],
        env: Default::default(),
        workspace: Some(Workspace {
            archive: archive.clone(),
            digest: Some("d1".into()),
            keeps: false,
            limit: std::time::Duration::from_secs(60),
        }),
        timeout_secs: None,
    };
    session.run(&run, &mut Vec::new(), &Stop::never()).await.unwrap();
    session.close().await;
    let calls = stage.calls();
    let start = calls.iter().find(|call| call["method"] == "run.start").unwrap();
    assert_eq!(start["params"]["workspaceBlob"], "b1");
    assert_eq!(start["params"]["workspaceDigest"], "d1");
    assert!(archive.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_no_url_is_said_before_the_plugin_is_started() {
    let stage = Stage::new();
    let error = stage.refused(json!({"endpoint": "not a url"})).await;
    assert!(error.to_string().contains("grants make no sense"), "{error}");
    assert!(stage.calls().is_empty());
    let told = ask(&stage, "http", json!({"method": "GET", "url": "http://127.0.0.1:9/"})).await;
    assert!(told.contains("grant_denied"), "{told}");
}
