//! Tests a provider plugin: plays the kernel, good and bad, and says in words what a plugin does wrong.
//!
//! A [`Bench`] starts the plugin anew for every check; a [`Peer`] is the kernel's end of the wire and answers what the
//! plugin asks: the journal remembers, sleep costs no time, secrets are canaries. [`test()`] runs every check that
//! applies and gives a [`Report`].

mod bench;
mod checks;
mod host;
mod peer;
mod report;
mod service;
mod tools;

pub use bench::{Bench, Subject};
pub use checks::{Check, Level, all};
pub use peer::{Fault, Peer};
pub use report::{Finding, Report, Verdict, junit};

/// Whether a text is a cassette; the error names the first line that is none.
pub fn check_cassette(text: &str) -> Result<(), String> {
    crabbox_cassette::Cassette::parse(text).map(drop)
}

/// Whether this is the id of a check, or the letter of its subject.
pub fn names(word: &str, check: &Check) -> bool {
    check.id == word || check.id.trim_end_matches(|c: char| c.is_ascii_digit()) == word
}

/// Runs every check, or only those that these words name; tells each finding as it comes. False from
/// `told` ends it early.
pub fn test(subject: &Subject, only: &[String], mut told: impl FnMut(&Finding) -> bool) -> Report {
    let mut findings = Vec::new();
    for check in all() {
        let wanted = only.is_empty() || only.iter().any(|word| names(word, check));
        if !wanted {
            continue;
        }
        let finding = Finding::of(check, subject);
        let goes_on = told(&finding);
        findings.push(finding);
        if !goes_on {
            break;
        }
    }
    Report { findings }
}
