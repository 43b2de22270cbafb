//! Labels that every provider accepts, and what becomes of them when a box is used.

use std::collections::BTreeMap;

use crate::AcquireParams;

/// Longest label value.
const LONGEST: usize = 63;

/// Makes a text fit for a label: `[A-Za-z0-9_.-]`, at most 63 long, trimmed of `_.-`, never empty.
pub fn label_value(text: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let safe: String = text.chars().map(|c| if keep(c) { c } else { '_' }).take(LONGEST).collect();
    match safe.trim_matches(|c| "_.-".contains(c)) {
        "" => "unknown".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// What a label says; nothing when it is not there.
pub(crate) fn labelled<'a>(labels: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    labels.get(name).map(String::as_str).unwrap_or_default()
}

/// The labels of everything that is made for a lease: what the kernel wants, and what a provider searches by.
pub fn own_labels(params: &AcquireParams, provider: &str) -> BTreeMap<String, String> {
    let own = [
        ("crabbox", "true"),
        ("provider", provider),
        ("lease", params.desired.lease_id.as_str()),
        ("slug", &params.desired.slug),
    ];
    let given = params.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    given.chain(own).map(|(name, value)| (name.to_owned(), label_value(value))).collect()
}

/// The labels of a box that is used now: its stored limits stay, and its end moves with its last use. `now` is in seconds
/// since 1970; without it only the state changes.
pub fn touched_labels(
    labels: &BTreeMap<String, String>,
    state: &str,
    now: Option<u64>,
) -> BTreeMap<String, String> {
    let mut labels = labels.clone();
    labels.insert("state".to_owned(), label_value(state));
    let Some(now) = now else { return labels };
    labels.insert("last_touched_at".to_owned(), now.to_string());
    let number = |name: &str| labels.get(name)?.parse::<u64>().ok();
    let idle = number("idle_timeout_secs").map(|secs| now + secs);
    let ttl = number("created_at").zip(number("ttl_secs")).map(|(from, secs)| from + secs);
    if let Some(end) = [idle, ttl].into_iter().flatten().min() {
        labels.insert("expires_at".to_owned(), end.to_string());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_moves_the_end_and_never_beyond_the_hard_limit() {
        let pairs = [
            ("created_at", "1000"),
            ("ttl_secs", "5400"),
            ("idle_timeout_secs", "1800"),
            ("keep", "true"),
        ];
        let labels = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let early = touched_labels(&labels, "running", Some(2000));
        assert_eq!((&*early["expires_at"], &*early["keep"]), ("3800", "true"));
        let late = touched_labels(&labels, "ready", Some(6000));
        assert_eq!((&*late["expires_at"], &*late["state"]), ("6400", "ready"));
        assert_eq!(touched_labels(&labels, "ready", None).get("expires_at"), None);
    }

    #[test]
    fn a_label_value_is_short_plain_and_never_empty() {
        assert_eq!(label_value("build 1.example"), "build_1.example");
        assert_eq!(label_value("_-é-_"), "unknown");
        assert_eq!(label_value(&"x".repeat(100)).len(), LONGEST);
    }
}
