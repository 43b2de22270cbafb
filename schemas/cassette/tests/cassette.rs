//! A cassette answers what it holds, when it holds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use crabbox_cassette::Cassette;
use crabbox_schemas::plugin::{ExecParams, HttpParams, PromptParams};
use serde_json::json;

const TAPE: &str = r#"
# a service with one server at most
{"request":{"method":"POST","url":"https://a.dev/s","body":{"json":{"name":"x","tags":["$any"]}}},"response":{"status":201},"unless":"server","sets":"server","repeat":true}
{"request":{"method":"GET","url":"https://a.dev/s","body":"$any"},"response":{"json":[1]},"when":"server","repeat":true}
{"request":{"method":"GET","url":"https://a.dev/s"},"response":{"json":[]},"unless":"server","repeat":true}
{"request":{"method":"DELETE","url":"https://a.dev/s"},"response":{"status":204},"when":"server","clears":"server"}
{"request":{"method":"POST","url":"https://a.dev/s","body":{"json":{"look":"x","$any":"$any"}}},"response":{"json":[]},"reads":true,"repeat":true}
{"exec":{"tool":"toyctl","args":["ls"]},"result":{"exitCode":3,"stdout":"one"}}
{"exec":{"tool":"toyctl"},"result":{},"repeat":true}
{"prompt":{"kind":"text"},"answer":"north"}
{"ws":"wss://a.dev/log","messages":[{"text":"hello"}]}
"#;

fn ask(tape: &mut Cassette, method: &str, body: Option<serde_json::Value>) -> serde_json::Value {
    let mut params = serde_json::to_value(HttpParams::new(method, "https://a.dev/s")).unwrap();
    if let Some(body) = body {
        params["body"] = json!({ "json": body });
    }
    match tape.http(&serde_json::from_value(params).unwrap()) {
        Ok(answer) => answer.json.unwrap_or_else(|| json!(answer.status)),
        Err(error) => json!(error.message),
    }
}

#[test]
fn a_recorded_service_remembers_what_it_has() {
    let mut tape = Cassette::parse(TAPE).unwrap();
    let make = || Some(json!({"name": "x", "tags": ["anything"]}));
    assert_eq!(ask(&mut tape, "GET", None), json!([]));
    assert_eq!(ask(&mut tape, "POST", make()), json!(201));
    assert_eq!(tape.standing().collect::<Vec<_>>(), ["server"]);
    assert_eq!(ask(&mut tape, "GET", None), json!([1]));
    let again = ask(&mut tape, "POST", make());
    assert!(again.as_str().unwrap().starts_with("not in the cassette: POST"), "{again}");
    assert_eq!(ask(&mut tape, "DELETE", None), json!(204));
    assert_eq!(tape.standing().count(), 0);
    assert_eq!(ask(&mut tape, "GET", None), json!([]));
    let other = ask(&mut tape, "POST", Some(json!({"name": "x", "tags": []})));
    assert!(other.is_string(), "a list has its length: {other}");
}

#[test]
fn what_is_asked_for_by_one_method_only_says_itself_that_it_reads() {
    let mut tape = Cassette::parse(TAPE).unwrap();
    for more in [json!({"look": "x"}), json!({"look": "x", "limit": 7, "after": null})] {
        assert_eq!(ask(&mut tape, "POST", Some(more)), json!([]));
        assert!(tape.only_read());
    }
    assert!(ask(&mut tape, "POST", Some(json!({"limit": 7}))).is_string(), "it names no look");
    assert!(!tape.only_read(), "nobody knows what it does");
    assert_eq!(ask(&mut tape, "POST", Some(json!({"name": "x", "tags": [1]}))), json!(201));
    assert!(!tape.only_read());
}

#[test]
fn tools_questions_and_sockets_are_answered_too() {
    let mut tape = Cassette::parse(TAPE).unwrap();
    let run = |args: &[&str]| -> ExecParams {
        serde_json::from_value(json!({"call": 1, "tool": "toyctl", "args": args, "timeoutMs": 1}))
            .unwrap()
    };
    let told = tape.exec(&run(&["ls"])).unwrap();
    assert_eq!((told.exit_code, &*told.stdout), (3, "one"));
    assert_eq!(tape.exec(&run(&["rm", "x"])).unwrap().exit_code, 0);
    let question: PromptParams =
        serde_json::from_value(json!({"call": 1, "kind": "text", "message": "where"})).unwrap();
    assert_eq!(tape.prompt(&question).unwrap(), "north");
    assert!(tape.prompt(&question).unwrap_err().message.contains("where"), "once");
    let socket = tape.socket("wss://a.dev/log").unwrap();
    assert_eq!(tape.receive(&socket).unwrap().text.as_deref(), Some("hello"));
    assert_eq!(tape.receive(&socket).unwrap().closed, Some(1000));
    assert!(tape.receive("w9").is_err());
    let mut left = tape.unused();
    left.sort();
    assert_eq!(left, ["DELETE https://a.dev/s"]);
}

#[test]
fn a_line_that_is_no_exchange_is_named() {
    for (line, why) in [
        ("{}", "exactly one of request, exec, prompt and ws"),
        (r#"{"request":{"method":"GET","url":"x"}}"#, "no response"),
        (r#"{"ws":"x","prompt":{"kind":"text"},"answer":"y"}"#, "exactly one"),
        (r#"{"prompt":{"kind":"text"}}"#, "no answer"),
        (r#"{"exec":{"tool":"x","arguments":[]}}"#, "arguments"),
    ] {
        let error = Cassette::parse(&format!("\n{line}")).unwrap_err();
        assert!(error.starts_with("line 2: ") && error.contains(why), "{error}");
    }
}
