//! JUnit reports: many files of many dialects to one summary. Nothing in a report is expanded or fetched.

use crabbox_schemas::run::{FailedTest, TestResults};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Largest report that is read.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Most failures that are listed; all are counted.
const MAX_FAILED: usize = 1000;
/// Longest text of one failure that is kept.
const MAX_MESSAGE: usize = 2000;
/// Deepest nesting of elements.
const MAX_DEPTH: usize = 100;

/// Sums up reports; for each that cannot be read, one warning that names it.
pub fn summarise<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> (TestResults, Vec<String>) {
    let mut sum = TestResults {
        schema_version: crabbox_schemas::SCHEMA_VERSION,
        format: "junit".to_owned(),
        ..TestResults::default()
    };
    let mut problems = Vec::new();
    for (name, bytes) in files {
        match Report::read(bytes) {
            Ok(report) => add(&mut sum, name, report.sum),
            Err(why) => problems.push(format!("cannot read the test report {name}: {why}")),
        }
    }
    sum.time_seconds = (sum.time_seconds * 1e6).round() / 1e6;
    (sum, problems)
}

fn add(sum: &mut TestResults, name: &str, one: TestResults) {
    sum.files.push(name.to_owned());
    sum.suites += one.suites;
    sum.tests += one.tests;
    sum.failures += one.failures;
    sum.errors += one.errors;
    sum.skipped += one.skipped;
    sum.time_seconds += one.time_seconds;
    let room = MAX_FAILED.saturating_sub(sum.failed.len());
    sum.failed.extend(one.failed.into_iter().take(room));
}

/// One report while it is read. Cases are counted as they stand there, whatever totals the report claims.
#[derive(Default)]
struct Report {
    sum: TestResults,
    open: Vec<Element>,
    case: Option<Case>,
    saw_root: bool,
}

/// An element that is open.
enum Element {
    Suite { name: String, timed: bool },
    Case,
    Verdict,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Failure,
    Error,
    Skipped,
}

/// The test case that is open.
struct Case {
    found: FailedTest,
    verdict: Option<Verdict>,
    text: String,
}

impl Report {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("it is larger than {} MiB", MAX_BYTES >> 20));
        }
        // What is not UTF-8 becomes visible as such in names; the structure is ASCII in any case.
        let text = String::from_utf8_lossy(bytes);
        let mut reader = Reader::from_str(&text);
        let mut report = Self::default();
        // Every event uses up at least one byte, so this ends.
        loop {
            let event = reader
                .read_event()
                .map_err(|e| format!("{e} near byte {}", reader.error_position()))?;
            match event {
                Event::Eof => break,
                Event::Start(element) => report.open(&element)?,
                Event::Empty(element) => {
                    report.open(&element)?;
                    report.close();
                }
                Event::End(_) => report.close(),
                Event::DocType(_) => return Err("it has a document type definition".to_owned()),
                Event::Text(text) => report.text(&text),
                Event::CData(text) => report.text(&text),
                Event::GeneralRef(name) => report.text(&reference(&name)),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            }
        }
        match (report.open.is_empty(), report.saw_root) {
            (false, _) => Err("it ends too early".to_owned()),
            (true, false) => Err("it holds no testsuite".to_owned()),
            (true, true) => Ok(report),
        }
    }

    fn open(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err("its elements are nested too deeply".to_owned());
        }
        let name = element.local_name();
        let name = name.as_ref();
        if self.open.is_empty() && (self.saw_root || !matches!(name, "testsuites" | "testsuite")) {
            return Err("it is not a JUnit report".to_owned());
        }
        self.saw_root = true;
        let opened = match name {
            "testsuite" => self.begin_suite(element)?,
            "testcase" if self.case.is_none() => {
                self.begin_case(element)?;
                Element::Case
            }
            "failure" => self.verdict(Verdict::Failure, element)?,
            "error" => self.verdict(Verdict::Error, element)?,
            "skipped" => self.verdict(Verdict::Skipped, element)?,
            _ => Element::Other,
        };
        self.open.push(opened);
        Ok(())
    }

    fn begin_suite(&mut self, element: &BytesStart<'_>) -> Result<Element, String> {
        self.sum.suites += 1;
        let timed = self.count_time(element)?;
        Ok(Element::Suite { name: attribute(element, "name")?, timed })
    }

    /// Counts the time of an outermost element that tells one: a suite's covers what is in it.
    fn count_time(&mut self, element: &BytesStart<'_>) -> Result<bool, String> {
        if self.open.iter().any(|open| matches!(open, Element::Suite { timed: true, .. })) {
            return Ok(false);
        }
        let time: f64 = attribute(element, "time")?.replace(',', "").parse().unwrap_or(0.0);
        let told = time.is_finite() && time > 0.0;
        self.sum.time_seconds += if told { time } else { 0.0 };
        Ok(told)
    }

    fn begin_case(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        let suite = self.open.iter().rev().find_map(|open| match open {
            Element::Suite { name, .. } => Some(name.clone()),
            _ => None,
        });
        self.count_time(element)?;
        self.sum.tests += 1;
        let found = FailedTest {
            suite: suite.unwrap_or_default(),
            name: attribute(element, "name")?,
            classname: attribute(element, "classname")?,
            file: attribute(element, "file")?,
            ..FailedTest::default()
        };
        self.case = Some(Case { found, verdict: None, text: String::new() });
        Ok(())
    }

    /// The first failure or error of a case is its verdict; elsewhere these elements mean nothing.
    fn verdict(&mut self, verdict: Verdict, element: &BytesStart<'_>) -> Result<Element, String> {
        let Some(Element::Case) = self.open.last() else { return Ok(Element::Other) };
        let Some(case) = self.case.as_mut() else { return Ok(Element::Other) };
        if case.verdict.is_some_and(|known| known != Verdict::Skipped) {
            return Ok(Element::Other);
        }
        case.verdict = Some(verdict);
        case.text.clear();
        case.found.message = attribute(element, "message")?;
        case.found.failure_type = attribute(element, "type")?;
        Ok(Element::Verdict)
    }

    fn text(&mut self, text: &str) {
        if let (Some(Element::Verdict), Some(case)) = (self.open.last(), self.case.as_mut())
            && case.text.len() < MAX_MESSAGE
        {
            case.text.push_str(text);
        }
    }

    fn close(&mut self) {
        if let Some(Element::Case) = self.open.pop()
            && let Some(case) = self.case.take()
        {
            self.end_case(case);
        }
    }

    fn end_case(&mut self, case: Case) {
        let kind = match case.verdict {
            None => return,
            Some(Verdict::Skipped) => {
                self.sum.skipped += 1;
                return;
            }
            Some(Verdict::Failure) => {
                self.sum.failures += 1;
                "failure"
            }
            Some(Verdict::Error) => {
                self.sum.errors += 1;
                "error"
            }
        };
        if self.sum.failed.len() < MAX_FAILED {
            let said =
                if case.found.message.is_empty() { case.text.trim() } else { &case.found.message };
            let message = said.chars().take(MAX_MESSAGE).collect();
            self.sum.failed.push(FailedTest { message, kind: kind.to_owned(), ..case.found });
        }
    }
}

/// An attribute's text; empty when there is none.
fn attribute(element: &BytesStart<'_>, name: &str) -> Result<String, String> {
    let found = element.try_get_attribute(name).map_err(|e| e.to_string())?;
    let Some(found) = found else { return Ok(String::new()) };
    let text = quick_xml::escape::unescape(&found.value).map_err(|e| e.to_string())?;
    Ok(text.into_owned())
}

/// The five names every XML reader knows, and characters by number; anything else stays as it was written.
fn reference(name: &str) -> String {
    let written = format!("&{name};");
    quick_xml::escape::unescape(&written).map(|text| text.into_owned()).unwrap_or(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &str = r#"<?xml version="1.0"?>
<testsuites tests="99">
  <testcase name="plain" classname="top" time="0.5"/>
  <testsuite name="outer" tests="2" time="1,000.25">
    <testsuite name="inner">
      <testcase name="a &lt;b&gt; &#233;" classname="c" file="x.rs" time="1">
        <failure type="Assert" message="1 == 2&#10;no">trace</failure>
        <system-out><![CDATA[<failure/>]]></system-out>
      </testcase>
      <testcase name="late"><error><![CDATA[boom <&>]]> &amp; gone</error></testcase>
    </testsuite>
    <testcase name="later"><skipped message="why"/></testcase>
  </testsuite>
</testsuites>"#;

    fn one(text: &str) -> (TestResults, Vec<String>) {
        summarise([("r.xml", text.as_bytes())])
    }

    #[test]
    fn cases_count_where_they_stand_and_claimed_totals_do_not() {
        let (sum, problems) = one(NESTED);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!((sum.suites, sum.tests, sum.failures, sum.errors, sum.skipped), (2, 4, 1, 1, 1));
        assert!((sum.time_seconds - 1000.75).abs() < 1e-9);
        assert_eq!(sum.files, ["r.xml"]);
        assert_eq!(
            sum.failed[0],
            FailedTest {
                suite: "inner".into(),
                name: "a <b> é".into(),
                classname: "c".into(),
                file: "x.rs".into(),
                message: "1 == 2\nno".into(),
                failure_type: "Assert".into(),
                kind: "failure".into(),
            }
        );
        assert_eq!(sum.failed[1].message, "boom <&> & gone");
        assert_eq!(sum.failed[1].kind, "error");
    }

    #[test]
    fn several_files_add_up_and_a_bad_one_is_named() {
        let good = br#"<testsuite name="s"><testcase name="t"><failure/></testcase></testsuite>"#;
        let files: [(&str, &[u8]); 3] =
            [("a.xml", good), ("torn.xml", &good[..30]), ("b.xml", good)];
        let (sum, problems) = summarise(files);
        assert_eq!((sum.suites, sum.tests, sum.failures), (2, 2, 2));
        assert_eq!(sum.files, ["a.xml", "b.xml"]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("torn.xml"), "{problems:?}");
    }

    #[test]
    fn what_is_no_report_is_a_warning_and_never_a_panic() {
        let deep = "<testsuite>".repeat(200);
        for bad in [
            "",
            "no xml",
            "<html/>",
            "<testsuite/><testsuite/>",
            "<testsuite></testsuites>",
            "<testsuite name='&lol;'/>",
            "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><testsuite/>",
            "<testsuite name=\"\u{0}",
            &deep,
        ] {
            let (sum, problems) = one(bad);
            assert_eq!((sum.tests, problems.len()), (0, 1), "{bad:.40} {problems:?}");
        }
    }

    #[test]
    fn a_report_torn_anywhere_is_named() {
        for at in 0..NESTED.len() {
            if let Some(torn) = NESTED.get(..at) {
                assert_eq!(one(torn).1.len(), 1, "{at}");
            }
        }
    }

    #[test]
    fn many_and_long_failures_are_counted_but_not_all_kept() {
        let case = format!("<testcase><failure>{}</failure></testcase>", "é".repeat(5000));
        let text = format!("<testsuite>{}</testsuite>", case.repeat(MAX_FAILED + 5));
        let (sum, _) = one(&text);
        assert_eq!((sum.failures, sum.failed.len()), (1005, MAX_FAILED));
        assert!(sum.failed.iter().all(|failed| failed.message.chars().count() <= MAX_MESSAGE));
    }

    #[test]
    fn a_known_reference_is_text_and_an_unknown_one_stays_as_written() {
        let (sum, problems) =
            one("<testsuite><testcase><error>&lt;&#x41;&who;</error></testcase></testsuite>");
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(sum.failed[0].message, "<A&who;");
    }
}
