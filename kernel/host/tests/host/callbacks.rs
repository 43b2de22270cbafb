//! What a plugin may ask of the host while a call is open.

use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::ports::{Provider, Stop};
use serde_json::{Value, json};

use crate::stage::{Stage, lease};

/// What came back from one callback made inside `doctor`: the result, then the error.
pub(crate) async fn ask(stage: &Stage, method: &str, params: Value) -> String {
    let session = stage.open(json!({"doctor": format!("ask:{method} {params}")})).await.unwrap();
    let checks = session.doctor().await.unwrap();
    session.close().await;
    checks[0].message.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_is_on_disk_before_the_plugin_goes_on() {
    let stage = Stage::new();
    let session = stage.open(json!({"acquire": "record"})).await.unwrap();
    let (mut trail, mut events) = (stage.trail(), Vec::new());
    let journal = stage.dir.path().join("journal").join(format!("{}.jsonl", lease().lease_id));
    let wanted = stage.wanted();
    session.acquire(&wanted, &mut trail, &mut events, &Stop::never()).await.unwrap();
    let calls = stage.calls();
    assert!(calls.iter().any(|call| call["method"] == "answered"), "{calls:?}");
    assert!(std::fs::read_to_string(journal).unwrap().contains("made-1"));
    assert_eq!(trail.resources()[0].cloud_id, "made-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_recorded_before_it_died_is_known_afterwards() {
    let stage = Stage::new();
    let session = stage.open(json!({"acquire": "record-then-die"})).await.unwrap();
    let mut trail = stage.trail();
    session
        .acquire(&stage.wanted(), &mut trail, &mut Vec::new(), &Stop::never())
        .await
        .unwrap_err();
    drop(trail);
    let dir = stage.dir.path().join("journal");
    let trail = Trail::adopt(&dir, &lease().lease_id).unwrap().unwrap();
    assert_eq!(trail.resources()[0].cloud_id, "doomed");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_granted_secrets_are_revealed_and_what_a_plugin_repeats_of_them_is_taken_out() {
    let stage = Stage::new();
    let told = ask(&stage, "secret.reveal", json!({"name": "token"})).await;
    assert!(told.contains("{\"value\":\"[redacted]\"}"), "{told}");
    let told = ask(&stage, "secret.reveal", json!({"name": "other"})).await;
    assert!(told.contains("grant_denied"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_values_outlive_the_session_and_large_ones_are_refused() {
    let stage = Stage::new();
    ask(&stage, "kv.put", json!({"key": "etag", "value": "abc"})).await;
    ask(&stage, "kv.put", json!({"key": "old", "value": "x", "ttlMs": 0})).await;
    assert!(ask(&stage, "kv.get", json!({"key": "etag"})).await.contains("\"abc\""));
    assert!(!ask(&stage, "kv.get", json!({"key": "old"})).await.contains("\"x\""));
    assert!(ask(&stage, "kv.list", json!({"key": "et"})).await.contains("[\"etag\"]"));
    let told = ask(&stage, "kv.put", json!({"key": "big", "value": "v".repeat(65_537)})).await;
    assert!(told.contains("64 KiB"), "{told}");
    ask(&stage, "kv.delete", json!({"key": "etag"})).await;
    assert!(!ask(&stage, "kv.get", json!({"key": "etag"})).await.contains("abc"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_granted_tool_runs_within_its_limits() {
    let stage = Stage::new();
    let script = "cat; echo err >&2; exit 5";
    let params = json!({"tool": "sh", "args": ["-c", script], "stdin": "in", "timeoutMs": 5000});
    let told = ask(&stage, "exec", params).await;
    for part in ["\"exitCode\":5", "\"stdout\":\"in\"", "\"stderr\":\"err\\n\""] {
        assert!(told.contains(part), "{told}");
    }
    let params = json!({"tool": "sh", "args": ["-c", "sleep 300 & sleep 300"], "timeoutMs": 100});
    let told = ask(&stage, "exec", params).await;
    assert!(told.contains("\"kind\":\"timeout\""), "{told}");
    let told = ask(&stage, "exec", json!({"tool": "cat", "timeoutMs": 100})).await;
    assert!(told.contains("grant_denied"), "{told}");
    let told = ask(&stage, "exec", json!({"tool": "no-such-tool", "timeoutMs": 100})).await;
    assert!(told.contains("is not installed"), "{told}");
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_reach_the_person_or_fail_at_once() {
    let mut stage = Stage::new();
    let question = json!({"kind": "text", "message": "who"});
    assert!(ask(&stage, "prompt", question.clone()).await.contains("unsupported"));
    stage.prompt = true;
    assert!(ask(&stage, "prompt", question).await.contains("answer to who"));
    let page = |url: &str| json!({"kind": "open-url", "message": "log\u{1b}[2Jin", "url": url});
    let told = ask(&stage, "prompt", page("https://example.dev/login")).await;
    assert!(told.contains("answer to log [2Jin"), "{told}");
    for url in ["http://example.dev/", "file:///etc/passwd", "https://a.dev/\u{1b}[2J"] {
        assert!(ask(&stage, "prompt", page(url)).await.contains("invalid_request"), "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_refused_and_sleep_ends() {
    let stage = Stage::new();
    assert!(ask(&stage, "teleport", json!({})).await.contains("-32601"));
    assert!(ask(&stage, "sleep", json!({"ms": 20})).await.contains("\"time\""));
    let told =
        ask(&stage, "resource.record", json!({"resource": {"kind": "a", "cloudId": "b"}})).await;
    assert!(told.contains("may not create resources"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_callbacks_is_answered_and_bounded() {
    let stage = Stage::new();
    let session = stage.open(json!({"doctor": "storm"})).await.unwrap();
    assert_eq!(session.doctor().await.unwrap()[0].message, "100 answers, 84 refused");
}
