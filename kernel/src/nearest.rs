//! The known name that a mistyped one was probably meant to be.

/// A name without what names may differ in: `workRoot` and `work-root` are the same.
pub(crate) fn plain(name: &str) -> String {
    name.replace(['-', '_'], "").to_ascii_lowercase()
}

/// The known name that the fewest changed letters make of a mistyped one; none when that would be a guess.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: Vec<char> = plain(typed).chars().collect();
    let far = |name: &str| distance(&typed, &plain(name).chars().collect::<Vec<_>>());
    let all = known.into_iter().map(|name| (far(name), name));
    let (changes, name) = all.min_by_key(|(changes, _)| *changes)?;
    (changes <= typed.len().div_ceil(4).min(2)).then_some(name)
}

/// How many letters must be put in, taken out, replaced or exchanged with their neighbour.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(a != b);
            let mut least = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && (*a, from[i - 1]) == (to[j - 1], *b) {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
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
