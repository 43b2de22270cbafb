//! What `testbox list` prints: a table with columns of words, or a sentence when there is nothing.

/// Most rows that are looked at.
const ROWS: usize = 10_000;

/// One row of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: String,
    status: String,
    pub(crate) workflow: String,
    pub(crate) job: String,
    pub(crate) reference: String,
    pub(crate) created: String,
}

/// How far a testbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Hydrating,
    Ready,
    Gone,
    Failed,
}

/// A whole listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) rows: Vec<Row>,
    /// Every line of it was understood: only then does absence prove anything.
    pub(crate) complete: bool,
}

impl Row {
    pub(crate) fn state(&self) -> State {
        match &*self.status.to_ascii_lowercase() {
            "queued" | "pending" => State::Queued,
            "ready" | "running" => State::Ready,
            "completed" | "stopped" | "cancelled" | "expired" => State::Gone,
            "failed" | "hydration_failed" | "error" => State::Failed,
            _ => State::Hydrating,
        }
    }

    /// The last part of the workflow's path: it is named with its folder or without.
    pub(crate) fn is_of(&self, workflow: &str, job: Option<&str>, reference: Option<&str>) -> bool {
        let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let same = |ours: Option<&str>, theirs: &str| ours.is_none_or(|ours| ours == theirs);
        file(&self.workflow) == file(workflow)
            && same(job, &self.job)
            && same(reference, &self.reference)
    }
}

/// The first id of a testbox in a text, if it is whole: text may still follow while `open`.
pub(crate) fn ids(text: &str, open: bool) -> impl Iterator<Item = &str> {
    let of_id = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.match_indices("tbx_").filter_map(move |(at, _)| {
        let inside = text[..at].chars().next_back().is_some_and(of_id);
        let rest = &text[at..];
        let end = rest.find(|c| !of_id(c)).unwrap_or(rest.len());
        let whole = end > 4 && !inside && !(open && end == rest.len());
        whole.then(|| &rest[..end])
    })
}

pub(crate) fn is_id(text: &str) -> bool {
    ids(text, false).next() == Some(text)
}

pub(crate) fn parse(text: &str) -> Listing {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).take(ROWS).collect();
    let mut listing = Listing { complete: !lines.is_empty(), ..Listing::default() };
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            [id, status, _, workflow, job, reference, created, ..] if is_id(id) => {
                let [id, status, workflow, job, reference, created] =
                    [id, status, workflow, job, reference, created].map(|word| (*word).to_owned());
                listing.rows.push(Row { id, status, workflow, job, reference, created });
            }
            [first, ..] if first.eq_ignore_ascii_case("id") => {}
            _ => listing.complete &= lines.len() == 1 && says_none(line),
        }
    }
    listing
}

/// Whether a sentence says that there are no testboxes.
fn says_none(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.contains("testbox") && line.split_whitespace().any(|word| word == "no")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "ID          STATUS   REPO     WORKFLOW   JOB   REF   CREATED\n\
        tbx_01a-b   ready    me/app   ci.yml     test  main  2026-01-02T03:04:05Z\n\
        tbx_02      queued   me/app   .github/workflows/ci.yml  test  main  2026-01-02T03:04:06Z\n";

    #[test]
    fn a_table_has_a_row_a_testbox() {
        let listing = parse(TABLE);
        assert!(listing.complete);
        let states: Vec<_> =
            listing.rows.iter().map(|row| (row.id.as_str(), row.state())).collect();
        assert_eq!(states, [("tbx_01a-b", State::Ready), ("tbx_02", State::Queued)]);
        for row in &listing.rows {
            assert!(row.is_of("ci.yml", Some("test"), None), "{row:?}");
            assert!(!row.is_of("ci.yml", Some("other"), None), "{row:?}");
            assert!(!row.is_of("ci.yml", None, Some("next")), "{row:?}");
        }
    }

    #[test]
    fn an_empty_list_is_a_sentence_and_no_row() {
        for sentence in ["No testboxes found.\n", "You have no active Testboxes\n"] {
            assert_eq!(parse(sentence), Listing { rows: Vec::new(), complete: true });
        }
    }

    #[test]
    fn what_is_not_understood_proves_nothing() {
        let cut = format!("{TABLE}tbx_03  ready\n");
        for text in ["", "502 Bad Gateway\n", "<html>\nno testboxes\n</html>\n", &cut] {
            assert!(!parse(text).complete, "{text:?}");
        }
        assert_eq!(parse(&cut).rows.len(), 2);
    }

    #[test]
    fn an_id_is_taken_only_when_it_is_whole() {
        assert_eq!(ids("made tbx_01kz: run", true).next(), Some("tbx_01kz"));
        assert_eq!(ids("made tbx_01k", true).next(), None);
        assert_eq!(ids("made tbx_01k", false).next(), Some("tbx_01k"));
        assert_eq!(ids("atbx_1 tbx_ tbx_2", false).collect::<Vec<_>>(), ["tbx_2"]);
        assert!(is_id("tbx_a-b_c") && !is_id("tbx_a b") && !is_id("cbx_1"));
    }
}
