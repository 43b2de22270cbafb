//! The known name that a mistyped one was probably meant to be.

use strsim::osa_distance;

/// A name without what names may differ in: `workRoot` and `work-root` are the same.
pub(crate) fn plain(name: &str) -> String {
    name.replace(['-', '_'], "").to_ascii_lowercase()
}

/// The known name that the fewest changed letters make of a mistyped one; none when that would be a guess.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = plain(typed);
    let all = known.into_iter().map(|name| (osa_distance(&typed, &plain(name)), name));
    let (changes, name) = all.min_by_key(|(changes, _)| *changes)?;
    (changes <= typed.chars().count().div_ceil(4).min(2)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_another_word_is_not() {
        let known = ["image", "location", "root-gb", "ssh-key", "fallback-locations"];
        for (typed, meant) in [
            ("imge", Some("image")),
            ("iamge", Some("image")),
            ("Locaton", Some("location")),
            ("rotGB", Some("root-gb")),
            ("sshKeys", Some("ssh-key")),
            ("fallbackLocation", Some("fallback-locations")),
            ("x", None),
            ("network", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
        assert_eq!(nearest("image", []), None);
    }
}
