//! What came of a test: for people, for programs, for CI.

use crabbox_schemas::deed::TestedCheck;

use crate::bench::{Bench, Subject};
use crate::checks::{Check, Level};
use crate::peer::Fault;

/// How one check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it must be.
    Passed,
    /// Not so.
    Failed(Box<Fault>),
    /// It does not apply, and why.
    Skipped(String),
}

/// One check and how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its id, such as `I6`.
    pub id: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What is right.
    pub title: &'static str,
    /// The paragraph of the protocol page.
    pub section: &'static str,
    /// What usually mends it.
    pub fix: &'static str,
    /// How it went.
    pub verdict: Verdict,
}

/// All findings of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Finding {
    /// Runs one check.
    pub(crate) fn of(check: &'static Check, subject: &Subject) -> Self {
        let verdict = match Bench::new(subject, check.id) {
            Err(why) => Verdict::Skipped(format!("the cassette cannot be read: {why}")),
            Ok(bench) => match (check.applies)(&bench) {
                Err(why) => Verdict::Skipped(why),
                Ok(()) => (check.run)(&bench).map_or_else(Verdict::Failed, |()| Verdict::Passed),
            },
        };
        let Check { id, level, title, section, fix, .. } = *check;
        Self { id, level, title, section, fix, verdict }
    }

    /// Whether a plugin must not be shipped like this.
    pub fn is_broken(&self) -> bool {
        self.level == Level::Must && matches!(self.verdict, Verdict::Failed(_))
    }

    /// The finding in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let Self { id, title, section, fix, .. } = self;
        match &self.verdict {
            Verdict::Passed => vec![format!("ok    {id:<3} {title}")],
            Verdict::Skipped(why) => vec![format!("skip  {id:<3} {title} ({why})")],
            Verdict::Failed(fault) => {
                let word = if self.level == Level::Must { "FAIL" } else { "warn" };
                vec![
                    format!("{word}  {id:<3} {title}"),
                    format!("      sent:     {}", fault.sent),
                    format!("      expected: {}", fault.expected),
                    format!("      got:      {}", fault.got),
                    format!("      see docs/protocol.md, \"{section}\"; usually: {fix}"),
                ]
            }
        }
    }

    fn row(&self) -> TestedCheck {
        let mut row = TestedCheck {
            id: self.id.to_owned(),
            level: self.level.word().to_owned(),
            title: self.title.to_owned(),
            section: self.section.to_owned(),
            ..TestedCheck::default()
        };
        let verdict = match &self.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed(fault) => {
                (row.sent, row.expected) = (Some(fault.sent.clone()), Some(fault.expected.clone()));
                (row.got, row.fix) = (Some(fault.got.clone()), Some(self.fix.to_owned()));
                "failed"
            }
            Verdict::Skipped(why) => {
                row.why = Some(why.clone());
                "skipped"
            }
        };
        row.verdict = verdict.to_owned();
        row
    }
}

impl Report {
    /// How many passed, failed what they must, failed what they should, were skipped.
    pub fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for finding in &self.findings {
            let at = match &finding.verdict {
                Verdict::Passed => 0,
                Verdict::Failed(_) if finding.level == Level::Must => 1,
                Verdict::Failed(_) => 2,
                Verdict::Skipped(_) => 3,
            };
            counts[at] += 1;
        }
        counts
    }

    /// The findings for programs.
    pub fn rows(&self) -> Vec<TestedCheck> {
        self.findings.iter().map(Finding::row).collect()
    }

    /// A suite of a JUnit report, see [`junit`].
    pub fn suite(&self, name: &str) -> String {
        let escape = |text: &str| quick_xml::escape::escape(text.to_owned()).into_owned();
        let [_, failed, warned, skipped] = self.counts();
        let mut out = format!(
            "<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{skipped}\">\n",
            escape(name),
            self.findings.len(),
            failed + warned,
        );
        for finding in &self.findings {
            let (id, title) = (finding.id, escape(finding.title));
            out.push_str(&format!("  <testcase classname=\"{id}\" name=\"{title}\">"));
            match &finding.verdict {
                Verdict::Passed => {}
                Verdict::Skipped(why) => {
                    out.push_str(&format!("<skipped message=\"{}\"/>", escape(why)));
                }
                Verdict::Failed(fault) => out.push_str(&format!(
                    "<failure message=\"{}\">{}</failure>",
                    escape(&fault.got),
                    escape(&finding.lines().join("\n"))
                )),
            }
            out.push_str("</testcase>\n");
        }
        out.push_str("</testsuite>\n");
        out
    }
}

/// A JUnit report for CI, of suites.
pub fn junit(suites: &[String]) -> String {
    let suites = suites.concat();
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n{suites}</testsuites>\n")
}
