//! A row of the table: what is measured, against what, and how good is good enough.

use serde_json::{Value, json};

use crate::Result;
use crate::sample::Series;
use crate::stage::Stage;

/// Which side of a bound is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    AtMost,
    AtLeast,
}

/// The bounds of one case of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) case: &'static str,
    pub(crate) gate: f64,
    pub(crate) moonshot: f64,
}

/// The bounds of the case of this name.
pub(crate) const fn goal(case: &'static str, gate: f64, moonshot: f64) -> Goal {
    Goal { case, gate, moonshot }
}

/// Something that is measured.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) baseline: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) sense: Sense,
    pub(crate) goals: &'static [Goal],
    pub(crate) measure: fn(&Stage) -> Result<Vec<Figure>>,
}

impl Row {
    pub(crate) fn goal(&self, case: &str) -> Option<&Goal> {
        self.goals.iter().find(|goal| goal.case == case)
    }

    /// What a value is worth: nothing to compare with is worth nothing.
    pub(crate) fn verdict(&self, figure: &Figure) -> &'static str {
        let within = |bound: f64| match self.sense {
            Sense::AtMost => figure.value <= bound,
            Sense::AtLeast => figure.value >= bound,
        };
        match self.goal(&figure.case) {
            None => "",
            Some(goal) if within(goal.moonshot) => "moonshot",
            Some(goal) if within(goal.gate) => "gate",
            Some(_) => "missed",
        }
    }
}

/// One number, and what it was made of.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) case: String,
    pub(crate) value: f64,
    /// The same ratio of medians, where there is one.
    pub(crate) median: Option<f64>,
    pub(crate) series: Vec<Series>,
    pub(crate) note: String,
}

impl Figure {
    /// A number that was counted.
    pub(crate) fn of(case: impl Into<String>, value: f64) -> Self {
        let case = case.into();
        Self { case, value, median: None, series: vec![], note: String::new() }
    }

    /// The first series' time as a multiple of the second's.
    pub(crate) fn ratio(case: impl Into<String>, mine: &Series, theirs: &Series) -> Self {
        Self {
            median: Some(mine.median() / theirs.median()),
            series: vec![mine.clone(), theirs.clone()],
            ..Self::of(case, mine.min() / theirs.min())
        }
    }

    pub(crate) fn series(mut self, series: impl IntoIterator<Item = Series>) -> Self {
        self.series.extend(series);
        self
    }

    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    pub(crate) fn json(&self, row: &Row) -> Value {
        let goal = row.goal(&self.case);
        json!({
            "case": self.case, "value": self.value, "ofMedians": self.median, "note": self.note,
            "gate": goal.map(|goal| goal.gate), "moonshot": goal.map(|goal| goal.moonshot),
            "verdict": row.verdict(self),
            "series": self.series.iter().map(Series::json).collect::<Vec<_>>(),
        })
    }
}
