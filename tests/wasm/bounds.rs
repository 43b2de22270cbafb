//! A guest that computes for ever, wants too much or breaks down ends its own call and nothing else.

use crate::guest::{ECHO, Guest, Stage, asking, call, doctored};

/// A call that breaks down with these words, and one that works after it.
fn ends(stage: &Stage, deadline: u64, why: &str) {
    let (broken, good) = (call(2, "doctor", deadline, ""), call(3, "lease.list", 60_000, ""));
    stage.plays(&format!(
        r#"{broken}{{"d":"<","match":{{"id":2,"error":{{"code":1090,"message":{{"$contains":"{why}"}},"data":{{"kind":"provider_bug","outcome":"uncertain"}}}}}}}}
{good}{{"d":"<","match":{{"id":3,"result":{{}}}}}}
"#
    ));
}

#[test]
fn a_trap_is_told_and_the_next_call_has_a_new_instance() {
    ends(&Stage::new(&doctored("(unreachable)")), 60_000, "unreachable");
}

#[test]
fn more_memory_than_allowed_is_a_trap() {
    let grows = "(drop (memory.grow (i32.const 15)))";
    ends(&Stage::new(&doctored(grows)).with(&["--memory-mib", "1"]), 60_000, "more memory");
    // One MiB is sixteen pages, and two are there from the beginning.
    let stage = Stage::new(&doctored("(drop (memory.grow (i32.const 14)))"));
    let good = call(2, "doctor", 60_000, "");
    stage
        .with(&["--memory-mib", "1"])
        .plays(&format!("{good}{}\n", r#"{"d":"<","match":{"id":2,"result":{}}}"#));
}

#[test]
fn endless_recursion_is_a_trap() {
    ends(
        &Stage::new(&doctored(
            "(drop (call $handle (local.get $method) (i32.const 0) (i32.const 0) (i32.const 0)))",
        )),
        60_000,
        "",
    );
}

#[test]
fn an_endless_loop_is_ended_after_deadline_and_grace_and_holds_nobody_up() {
    let stage = Stage::new(&doctored("(loop $on (br $on))"));
    ends(&stage, 100, "did not stop in time");
    let (endless, good) = (call(2, "doctor", 2_000, ""), call(3, "lease.list", 60_000, ""));
    stage.plays(&format!(
        r#"{endless}{{"d":">","m":{{"id":7,"method":"ping","params":{{}}}}}}
{{"d":"<","match":{{"id":7,"result":{{}}}}}}
{good}{{"d":"<","match":{{"id":3,"result":{{}}}}}}
{{"d":">","m":{{"method":"$/cancel","params":{{"id":2,"reason":"user","graceMs":50}}}}}}
{{"d":"<","match":{{"id":2,"error":{{"code":1090,"message":{{"$contains":"did not stop in time"}}}}}}}}
"#
    ));
}

#[test]
fn a_guest_that_looks_sees_that_its_call_was_cancelled() {
    let body = "(loop $on (call $cancelled (i32.const 1056))
                  (br_if $on (i32.eqz (i32.load8_u (i32.const 1056)))))";
    let guest = Guest { looks: true, body: format!("{body} {}", ECHO.body).leak(), ..ECHO };
    let waits = call(2, "lease.list", 60_000, "");
    Stage::new(&guest).plays(&format!(
        r#"{waits}{{"d":">","m":{{"method":"$/cancel","params":{{"id":2,"reason":"user","graceMs":5000}}}}}}
{{"d":"<","match":{{"id":2,"result":{{}}}}}}
"#
    ));
}

#[test]
fn calls_that_are_open_at_once_have_instances_of_their_own() {
    // It asks, counts its calls, and answers with the count.
    let body = "(call $ask (local.get $ptr) (local.get $len) (i32.const 1024))
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (i32.store8 (i32.const 4101) (i32.add (i32.const 48) (global.get $count)))
        (i32.store8 (i32.const 1024) (i32.const 0))
        (i32.store (i32.const 1028) (i32.const 4096)) (i32.store (i32.const 1032) (i32.const 7))";
    let guest = Guest { body, ..asking("kv", "get") };
    let (one, two) = (call(2, "lease.list", 60_000, ""), call(3, "lease.list", 60_000, ""));
    let three = call(4, "lease.list", 60_000, "");
    let asked = |call: u64, name: &str| {
        format!(
            r#"{{"id":{{"$bind":"{name}"}},"method":"host/kv.get","params":{{"call":{call}}}}}"#
        )
    };
    let answers = |name: &str, call: u64, count: u64| {
        format!(
            r#"{{"d":">","m":{{"id":{{"$ref":"{name}"}},"result":{{}}}}}}
{{"d":"<","match":{{"id":{call},"result":{{"n":{count}}}}}}}
"#
        )
    };
    Stage::new(&guest).plays(&format!(
        r#"{one}{{"d":"<","match":{}}}
{two}{{"d":"<","match":{}}}
{}{}{three}{{"d":"<","match":{}}}
{}"#,
        asked(2, "a"),
        asked(3, "b"),
        answers("b", 3, 1),
        answers("a", 2, 1),
        asked(4, "c"),
        answers("c", 4, 2),
    ));
}

#[test]
fn with_fuel_the_same_work_ends_at_the_same_place() {
    let stage = Stage::new(&doctored("(loop $on (br $on))")).with(&["--fuel", "100000"]);
    ends(&stage, 60_000, "fuel");
}
