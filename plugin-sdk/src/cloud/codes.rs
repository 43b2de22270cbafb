//! What a service's own words for its errors mean.

use crate::{ErrorKind, Failure};

/// Words of a service with `|` between them, the kind of failure they are, and what can be done about it. A word that
/// begins with a star is the end of one; the first that fits counts.
#[derive(Debug, Clone, Copy)]
pub struct Codes(pub &'static [(&'static str, ErrorKind, &'static str)]);

impl Codes {
    /// What a word means.
    pub fn meaning(self, code: &str) -> Option<(ErrorKind, &'static str)> {
        let fits = |word: &str| match word.strip_prefix('*') {
            Some(end) => code.ends_with(end),
            None => code == word,
        };
        let row = self.0.iter().find(|(words, ..)| words.split('|').any(fits));
        row.map(|(_, kind, hint)| (*kind, *hint))
    }

    /// A failure with the service's message and word; an empty hint is none.
    pub fn failure(code: &str, message: &str, (kind, hint): (ErrorKind, &str)) -> Failure {
        let first = message.lines().next().unwrap_or_default().trim();
        let failure = Failure::new(kind, format!("{first} ({code})"));
        if hint.is_empty() { failure } else { failure.hint(hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_known_whole_or_by_its_end_and_the_first_one_counts() {
        let codes = Codes(&[
            ("Taken|Duplicate", ErrorKind::Conflict, ""),
            ("*.NotFound", ErrorKind::NotFound, "look"),
            ("Key.NotFound", ErrorKind::Auth, ""),
        ]);
        assert_eq!(codes.meaning("Key.NotFound"), Some((ErrorKind::NotFound, "look")));
        assert_eq!(codes.meaning("Key.Duplicate"), None);
        let failure = Codes::failure("Duplicate", "taken\nreally", (ErrorKind::Conflict, ""));
        assert_eq!((failure.message(), &failure.data().hint), ("taken (Duplicate)", &None));
    }
}
