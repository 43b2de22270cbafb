//! Golden transcripts, in process and against the real program; and failures, with a recorded service.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use crabbox_plugin_sdk::ErrorKind;
use crabbox_plugin_sdk::testkit::{Cassette, Kernel, replay, replay_binary};
use serde_json::{Value, json};

const URL: &str = "https://management.azure.com/subscriptions/s/resourceGroups/crabbox-leases/providers/Microsoft.Network/publicIPAddresses?api-version=2024-05-01";

fn both(transcript: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_crabbox-provider-azure"));
    for session in transcript.split("\n\n") {
        replay(crabbox_provider_azure::plugin(), session)
            .unwrap_or_else(|e| panic!("{e}\n{session}"));
        replay_binary(program, session).unwrap();
    }
}

#[test]
fn a_machine_is_made_after_two_that_could_not_be_touched_and_given_back() {
    both(include_str!("transcripts/machine.jsonl"));
}

#[test]
fn a_machine_with_windows_has_a_password_of_the_hosts_and_an_extension_that_runs_its_script() {
    both(include_str!("transcripts/windows.jsonl"));
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_asked() {
    both(include_str!("transcripts/refused.jsonl"));
}

/// A kernel for the provider, with these exchanges.
fn kernel(exchanges: &[Value]) -> Kernel {
    let lines: Vec<String> = exchanges.iter().map(Value::to_string).collect();
    let cassette = Cassette::parse(&lines.join("\n")).unwrap();
    let config = json!({"subscription-id": "s", "tenant-id": "t", "client-id": "c"});
    Kernel::start(crabbox_provider_azure::plugin(), "azure", config, cassette).unwrap()
}

fn listing(status: u16, headers: &Value, body: &Value) -> Value {
    json!({"request": {"method": "GET", "url": URL}, "response": {"status": status, "headers": headers, "json": body}, "repeat": true})
}

#[test]
fn every_error_of_the_service_becomes_its_kind() {
    for (status, code, message, kind) in [
        (401, "InvalidAuthenticationToken", "", ErrorKind::Auth),
        (401, "ExpiredAuthenticationToken", "", ErrorKind::Auth),
        (403, "AuthorizationFailed", "", ErrorKind::Permission),
        (403, "RequestDisallowedByPolicy", "", ErrorKind::Permission),
        (409, "MissingSubscriptionRegistration", "", ErrorKind::Permission),
        (409, "ReadOnlyDisabledSubscription", "", ErrorKind::Billing),
        (404, "SubscriptionNotFound", "", ErrorKind::InvalidConfig),
        (409, "SkuNotAvailable", "", ErrorKind::Capacity),
        (409, "ZonalAllocationFailed", "", ErrorKind::Capacity),
        (409, "OverconstrainedAllocationRequest", "", ErrorKind::Capacity),
        (400, "InvalidParameter", "The value of parameter vmSize is invalid", ErrorKind::Capacity),
        (400, "InvalidParameter", "The value of parameter x is invalid", ErrorKind::InvalidRequest),
        (409, "OperationNotAllowed", "exceeding approved cores quota", ErrorKind::Quota),
        (409, "OperationNotAllowed", "the disk is attached", ErrorKind::Conflict),
        (400, "PublicIPCountLimitReached", "", ErrorKind::Quota),
        (400, "NicReservedForAnotherVm", "", ErrorKind::Conflict),
        (409, "AnotherOperationInProgress", "", ErrorKind::Conflict),
        (429, "TooManyRequests", "", ErrorKind::RateLimited),
        (409, "ScopeLocked", "", ErrorKind::Precondition),
        (500, "InternalServerError", "", ErrorKind::Transient),
        (503, "something new", "", ErrorKind::Transient),
    ] {
        let body = json!({"error": {"code": code, "message": message}});
        let mut kernel = kernel(&[listing(status, &json!({}), &body)]);
        let failure = kernel.call("lease.list", json!({})).unwrap_err();
        assert_eq!(failure.data.unwrap().kind, kind, "{status} {code} {message}");
    }
}

#[test]
fn who_asked_too_often_is_told_when_to_come_again() {
    let body = json!({"error": {"code": "TooManyRequests", "message": "slow down"}});
    let mut kernel = kernel(&[listing(429, &json!({"retry-after": "7"}), &body)]);
    let failure = kernel.call("lease.list", json!({})).unwrap_err();
    assert_eq!(failure.data.unwrap().retry_after_ms, Some(7000));
    assert_eq!(kernel.slept().as_secs(), 3 * 7, "it came again three times");
}

#[test]
fn a_machine_of_somebody_else_is_not_given_back() {
    let id = "/subscriptions/s/resourceGroups/theirs/providers/Microsoft.Compute/virtualMachines/m";
    let url =
        format!("https://management.azure.com{id}?$expand=instanceView&api-version=2024-07-01");
    let machine = json!({"id": id, "name": "m", "location": "eastus", "tags": {"team": "other"}});
    let mut kernel =
        kernel(&[json!({"request": {"method": "GET", "url": url}, "response": {"json": machine}})]);
    let lease = json!({"leaseId": "cbx_0123456789ab", "cloudId": id});
    let expected = json!({"leaseId": "cbx_0123456789ab", "cloudId": id});
    let failure =
        kernel.call("lease.release", json!({"lease": lease, "expected": expected})).unwrap_err();
    assert_eq!(failure.data.unwrap().kind, ErrorKind::Precondition);
    kernel.finish().unwrap();
}
