//! Says what is not so.

use serde_json::{Value, json};

/// Lies of an answer: where, and what.
const LIES: &[(&str, &str, &str)] = &[
    ("another-lease-id", "/lease/leaseId", "\"cbx_0123456789ab\""),
    ("a-lease-id-with-a-path", "/lease/leaseId", "\"cbx_../../../etc\""),
    ("another-slug", "/lease/slug", "\"other-prawn\""),
    ("another-name", "/lease/name", "\"--flag\""),
    ("no-cloud-id", "/lease/cloudId", "\"\""),
    ("another-cloud-id", "/lease/cloudId", "\"box-of-somebody-else\""),
    ("a-host-that-is-a-flag", "/lease/ssh/host", "\"-oProxyCommand=touch owned\""),
    ("a-host-with-a-line-end", "/lease/ssh/host", "\"127.0.0.1\\nProxyCommand touch owned\""),
    ("a-user-that-is-a-flag", "/lease/ssh/user", "\"-oProxyCommand=touch owned\""),
    ("no-address", "/lease/ssh", "null"),
    ("no-exit-code", "/exitCode", "null"),
    ("an-impossible-exit-code", "/exitCode", "999"),
    ("an-exit-code-of-words", "/exitCode", "\"0\""),
    ("an-outcome-nobody-knows", "/outcome", "\"sold\""),
    ("a-page-without-end", "/nextCursor", "\"again\""),
    ("a-path-for-a-work-root", "/lease/workRoot", "\"../../etc\""),
];

pub(crate) fn known(word: &str) -> bool {
    LIES.iter().any(|(lie, ..)| *lie == word)
}

/// Makes an honest answer a lie.
pub(crate) fn change(word: &str, result: &mut Value) {
    let Some((_, place, value)) = LIES.iter().find(|(lie, ..)| *lie == word) else { return };
    let (parent, name) = place.rsplit_once('/').unwrap_or(("", place));
    let value: Value = serde_json::from_str(value).unwrap_or_default();
    if let Some(members) = result.pointer_mut(parent).and_then(Value::as_object_mut) {
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.to_owned(), value)),
        }
    }
}

/// Lies of `initialize`; whether the word is one.
pub(crate) fn about_itself(word: &str, result: &mut Value) -> bool {
    match word {
        "another-version-of-the-protocol" => result["protocol"] = json!("7.1"),
        "another-plugin" => result["plugin"]["id"] = json!("example.dev/other"),
        "another-version" => result["plugin"]["version"] = json!("9.9.9"),
        "another-kind" => result["provider"]["kind"] = json!("ssh-lease"),
        "needs-what-nobody-has" => result["requires"] = json!(["secret", "teleport"]),
        "no-methods-at-all" => *result = json!({"protocol": "1.0"}),
        _ => return false,
    }
    true
}
