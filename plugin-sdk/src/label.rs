//! Values that every provider accepts as a label.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_value_is_short_plain_and_never_empty() {
        assert_eq!(label_value("build 1.example"), "build_1.example");
        assert_eq!(label_value("_-é-_"), "unknown");
        assert_eq!(label_value(&"x".repeat(100)).len(), LONGEST);
    }
}
