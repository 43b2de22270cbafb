//! Golden transcripts, in process and against the real program; and failures, with a recorded service.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crabbox_plugin_sdk::ErrorKind;
use crabbox_plugin_sdk::testkit::{Cassette, Kernel, replay, replay_binary};
use serde_json::{Value, json};

const URL: &str = "https://api.hetzner.cloud/v1";

fn both(transcript: &str) {
    for session in transcript.split("\n\n") {
        let program = Path::new(env!("CARGO_BIN_EXE_crabbox-provider-hetzner"));
        replay(crabbox_provider_hetzner::plugin(), session)
            .unwrap_or_else(|e| panic!("{e}\n{session}"));
        replay_binary(program, session).unwrap();
    }
}

#[test]
fn a_server_lives_through_every_method() {
    both(include_str!("transcripts/server.jsonl"));
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_asked() {
    both(include_str!("transcripts/refused.jsonl"));
}

/// A kernel for the provider, with these exchanges.
fn kernel(exchanges: &[Value]) -> Kernel {
    let lines: Vec<String> = exchanges.iter().map(Value::to_string).collect();
    let cassette = Cassette::parse(&lines.join("\n")).unwrap();
    Kernel::start(crabbox_provider_hetzner::plugin(), "hetzner", json!({}), cassette).unwrap()
}

fn list(status: u16, headers: &Value, body: &Value) -> Value {
    let url = format!("{URL}/servers?label_selector=crabbox%3Dtrue&page=1&per_page=50");
    json!({"request": {"method": "GET", "url": url}, "response": {"status": status, "headers": headers, "json": body}, "repeat": true})
}

#[test]
fn every_error_of_the_service_becomes_its_kind() {
    let table = [
        (401, "unauthorized", ErrorKind::Auth),
        (403, "forbidden", ErrorKind::Permission),
        (403, "token_readonly", ErrorKind::Permission),
        (402, "payment_required", ErrorKind::Billing),
        (403, "resource_limit_exceeded", ErrorKind::Quota),
        (412, "resource_unavailable", ErrorKind::Capacity),
        (409, "uniqueness_error", ErrorKind::Conflict),
        (409, "conflict", ErrorKind::Transient),
        (423, "locked", ErrorKind::Transient),
        (422, "invalid_input", ErrorKind::InvalidRequest),
        (429, "rate_limit_exceeded", ErrorKind::RateLimited),
        (500, "server_error", ErrorKind::Transient),
        (503, "maintenance", ErrorKind::Transient),
        (504, "timeout", ErrorKind::Timeout),
        (599, "something new", ErrorKind::Transient),
    ];
    for (status, code, kind) in table {
        let body = json!({"error": {"code": code, "message": "so it is", "details": null}});
        let mut kernel = kernel(&[list(status, &json!({}), &body)]);
        let failure = kernel.call("lease.list", json!({})).unwrap_err();
        assert_eq!(failure.data.unwrap().kind, kind, "{status} {code}");
        kernel.finish().unwrap();
    }
}

#[test]
fn a_limit_told_only_in_words_is_a_limit() {
    for (words, kind) in [
        ("dedicated_core_limit exceeded", ErrorKind::Quota),
        ("unsupported location for server type", ErrorKind::Capacity),
    ] {
        let body = json!({"error": {"code": "invalid_input", "message": words, "details": null}});
        let mut kernel = kernel(&[list(422, &json!({}), &body)]);
        assert_eq!(kernel.call("lease.list", json!({})).unwrap_err().data.unwrap().kind, kind);
    }
}

#[test]
fn who_asked_too_often_is_told_when_to_come_again() {
    let body =
        json!({"error": {"code": "rate_limit_exceeded", "message": "slow down", "details": null}});
    let date = "Thu, 01 Jan 2026 00:00:00 GMT";
    for (headers, wait) in [
        (json!({"retry-after": "7"}), 7),
        (json!({"ratelimit-reset": "1767225630", "date": date}), 30),
        (json!({"ratelimit-reset": "1767229200", "date": date}), 60),
        (json!({}), 5),
    ] {
        let mut kernel = kernel(&[list(429, &headers, &body)]);
        let failure = kernel.call("lease.list", json!({})).unwrap_err();
        assert_eq!(failure.data.unwrap().retry_after_ms, Some(wait * 1000), "{headers}");
        assert_eq!(kernel.slept().as_secs(), 2 * wait, "it came again twice");
    }
}

#[test]
fn every_page_is_read_when_a_name_is_looked_up() {
    let page = |number: u32, next: Option<u32>, slug: &str| {
        let url = format!("{URL}/servers?label_selector=crabbox%3Dtrue&page={number}&per_page=50");
        let server = json!({"id": number, "name": format!("crabbox-{slug}"), "status": "running", "server_type": {"name": "cx53"},
            "labels": {"crabbox": "true", "lease": format!("cbx_00000000000{number}"), "slug": slug},
            "public_net": {"ipv4": null, "ipv6": {"ip": "2001:db8:7::/64"}}});
        let body = json!({"servers": [server], "meta": {"pagination": {"next_page": next}}});
        json!({"request": {"method": "GET", "url": url}, "response": {"json": body}})
    };
    let mut kernel =
        kernel(&[page(1, Some(2), "one"), page(2, Some(3), "two"), page(3, None, "three")]);
    let found = kernel.call("lease.resolve", json!({"id": "three", "purpose": "use"})).unwrap();
    assert_eq!(found["lease"]["cloudId"], "3");
    assert_eq!(found["lease"]["ssh"]["host"], "2001:db8:7::1");
    kernel.finish().unwrap();
}

#[test]
fn a_server_that_was_switched_off_after_its_time_died_of_that() {
    let labels = json!({"crabbox": "true", "lease": "cbx_0123456789ab", "created_at": "1767225600", "ttl_secs": "3600"});
    let server = json!({"id": 7, "name": "x", "status": "off", "labels": labels, "server_type": {"name": "cx53"}});
    for (date, cause) in
        [("Thu, 01 Jan 2026 01:00:00 GMT", "expired"), ("Thu, 01 Jan 2026 00:30:00 GMT", "unknown")]
    {
        let url = format!("{URL}/servers/7");
        let answer = json!({"headers": {"date": date}, "json": {"server": server}});
        let mut kernel =
            kernel(&[json!({"request": {"method": "GET", "url": url}, "response": answer})]);
        let lease = json!({"leaseId": "cbx_0123456789ab", "cloudId": "7"});
        let told = kernel.call("evidence.collect", json!({"lease": lease})).unwrap();
        assert_eq!(told["cause"], cause, "{told}");
        kernel.finish().unwrap();
    }
}

#[test]
fn a_number_of_a_server_that_is_not_ours_means_nothing() {
    let empty = json!({"servers": [], "meta": {"pagination": {"next_page": null}}});
    let mut kernel = kernel(&[list(200, &json!({}), &empty)]);
    let failure =
        kernel.call("lease.resolve", json!({"id": "4711", "purpose": "release"})).unwrap_err();
    assert_eq!(failure.data.unwrap().kind, ErrorKind::NotFound);
}
