//! Blacksmith's command line: run to its end, or followed while it talks; and what its complaints mean.

use std::time::Duration;

use crabbox_plugin_sdk::{Call, Channel, ErrorKind, Failure, Next, Outcome, Process, Repeat, Tool};

use crate::config::Config;
use crate::list::{Listing, parse};

/// How long a question to Blacksmith may take.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long one read waits; a cancel ends it early.
const WAIT: Duration = Duration::from_secs(30);
/// How long it may take to end after it was interrupted.
const GRACE: Duration = Duration::from_secs(10);
/// Most characters of its own words that are passed on.
const WORDS: usize = 200;

/// How it ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    /// The signal that killed it.
    pub(crate) signal: Option<i32>,
    /// It was told to end.
    pub(crate) stopped: bool,
}

/// Runs it to its end; what it printed, when it succeeded.
pub(crate) fn ask(tool: Tool<'_>) -> Result<String, Failure> {
    let ran = tool.timeout(PATIENCE).run().map_err(missing)?;
    match ran.exit_code {
        0 => Ok(ran.stdout),
        code => Err(refused(code, &format!("{}\n{}", ran.stdout, ran.stderr))),
    }
}

/// All testboxes that can be seen, those that ended too.
pub(crate) fn list(config: &Config, call: &Call) -> Result<Listing, Failure> {
    let list = || ask(config.testbox(call, "list").args(["--all"]));
    call.steadily(Repeat::Safe, list).map(|text| parse(&text))
}

/// Reads what it says until it ends, and interrupts it as a terminal would when the call is cancelled.
pub(crate) fn follow(
    call: &Call,
    process: &mut Process<'_>,
    mut take: impl FnMut(Channel, &[u8]) -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let mut stopped = false;
    loop {
        let read = process.read(WAIT).and_then(|next| match next {
            Next::Item((channel, bytes)) => take(channel, &bytes).map(|()| false),
            Next::Quiet => Ok(false),
            Next::End => Ok(true),
        });
        match read {
            Ok(true) => break,
            Err(failure) if failure.kind() != ErrorKind::Cancelled => return Err(failure),
            Ok(false) | Err(_) => {}
        }
        if call.cancelled() && !stopped {
            stopped = true;
            process.interrupt(GRACE)?;
        }
    }
    let code = process.exit_code().unwrap_or(-1);
    Ok(Ended { code, signal: process.signal(), stopped })
}

/// A tool that cannot be started did nothing.
pub(crate) fn missing(failure: Failure) -> Failure {
    match failure.kind() {
        ErrorKind::Unsupported => failure
            .outcome(Outcome::NotStarted)
            .hint("install Blacksmith's command line, or say where it is with blacksmith.cli in your own configuration"),
        _ => failure,
    }
}

/// What its complaint means. It has no codes, so its words decide; the first that fits.
const MEANINGS: &[(ErrorKind, &[&str], &str)] = &[
    (
        ErrorKind::Auth,
        &["not logged in", "unauthorized", "unauthenticated", "auth login", "401", "invalid token"],
        "log in with `blacksmith auth login`",
    ),
    (ErrorKind::RateLimited, &["rate limit", "too many requests", "429"], "try again later"),
    (
        ErrorKind::Billing,
        &["billing", "payment", "subscription"],
        "look at the organisation's billing at Blacksmith",
    ),
    (
        ErrorKind::Quota,
        &["quota", "limit reached", "concurrency limit", "too many testboxes"],
        "stop testboxes that are not used any more",
    ),
    (
        ErrorKind::Permission,
        &["forbidden", "permission", "not allowed", "403"],
        "the account needs access to the repository and to testboxes in this organisation",
    ),
    (
        ErrorKind::InvalidConfig,
        &[
            "workflow not found",
            "no such workflow",
            "workflow_dispatch",
            "job not found",
            "ref not found",
            "no ref found",
        ],
        "look at blacksmith.workflow, blacksmith.job and blacksmith.ref",
    ),
    (
        ErrorKind::NotFound,
        &["not found", "404", "no such testbox"],
        "`blacksmith testbox list --all` shows what there is",
    ),
    (
        ErrorKind::Capacity,
        &["no capacity", "unavailable"],
        "try again later, or use another provider",
    ),
];

/// A complaint as a failure.
pub(crate) fn refused(code: i32, said: &str) -> Failure {
    let low = said.to_ascii_lowercase();
    let meaning = MEANINGS.iter().find(|(_, words, _)| words.iter().any(|word| low.contains(word)));
    let kind = meaning.map_or(ErrorKind::Transient, |(kind, ..)| *kind);
    let line =
        said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    let line: String = line.chars().take(WORDS).collect();
    let failure =
        Failure::new(kind, format!("Blacksmith's command line ended with status {code}: {line}"));
    match meaning {
        Some((.., hint)) => failure.hint(*hint),
        None => failure.hint("run it by hand to see more, or set blacksmith.debug"),
    }
}

/// Words as one line for a shell, which reads each back as it is.
pub(crate) fn line(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let quoted = words.iter().enumerate().map(|(n, word)| {
        // At the beginning a dash would be an option of the tool, and an equals sign an assignment of the shell.
        let odd = n == 0 && (word.starts_with('-') || word.contains('='));
        match !word.is_empty() && !odd && word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_have_the_kind_that_says_what_to_do() {
        for (said, kind) in [
            ("Error: not logged in, run `blacksmith auth login`", ErrorKind::Auth),
            ("API error: 429 Too Many Requests", ErrorKind::RateLimited),
            ("Error: concurrency limit for this organization", ErrorKind::Quota),
            ("HTTP 403: Forbidden", ErrorKind::Permission),
            ("workflow not found: ci.yml", ErrorKind::InvalidConfig),
            ("testbox tbx_1 not found", ErrorKind::NotFound),
            ("panic: nil", ErrorKind::Transient),
            ("", ErrorKind::Transient),
        ] {
            assert_eq!(refused(1, said).kind(), kind, "{said}");
        }
    }

    #[test]
    fn a_line_is_read_back_word_by_word() {
        let own = |words: &[&str]| line(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let words = ["a=b", "-x", "a b", "it's", "", "A=1", "plain/path"];
        assert_eq!(own(&words), r"'a=b' -x 'a b' 'it'\''s' '' A=1 plain/path");
        assert_eq!(own(&["-x"]), "'-x'");
    }
}
