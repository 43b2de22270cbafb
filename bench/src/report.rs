//! What was measured, as a table for people and as a document for programs.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use crate::Result;
use crate::row::{Figure, Row, Sense};

/// A row and what became of it.
pub(crate) struct Outcome<'a> {
    pub(crate) row: &'a Row,
    pub(crate) figures: Result<Vec<Figure>>,
}

/// The machine as it was.
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) load: (String, String),
    pub(crate) missing: Vec<&'static str>,
    pub(crate) scratch: String,
}

impl Machine {
    pub(crate) fn load() -> String {
        let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        text.split(' ').take(1).collect()
    }
}

const HEAD: &str = "| id | what | case | measured | of medians | baseline | gate | moonshot | verdict | detail |\n\
                    |---|---|---|---:|---:|---|---:|---:|---|---|\n";

pub(crate) fn head(machine: &Machine) -> String {
    let missing = match machine.missing.as_slice() {
        [] => String::new(),
        names => format!(" Not installed here: {}.", names.join(", ")),
    };
    let (cores, load, scratch) = (machine.cores, &machine.load.0, &machine.scratch);
    format!("{cores} cores, load {load} at the start, scratch in {scratch}.{missing}\n\n{HEAD}")
}

/// The lines of one row.
pub(crate) fn lines(outcome: &Outcome<'_>) -> String {
    let row = outcome.row;
    let mut text = String::new();
    match &outcome.figures {
        Err(why) => {
            let why = why.replace(['|', '\n'], " ");
            let _ = writeln!(
                text,
                "| {} | {} | | – | | {} | | | not measured | {why} |",
                row.id, row.what, row.baseline
            );
        }
        Ok(figures) => {
            for figure in figures {
                let _ = writeln!(text, "{}", line(row, figure));
            }
        }
    }
    text
}

fn line(row: &Row, figure: &Figure) -> String {
    let sign = if row.sense == Sense::AtMost { "≤" } else { "≥" };
    let goal = row.goal(&figure.case);
    let bound =
        |value: Option<f64>| value.map(|v| format!("{sign} {}", short(v))).unwrap_or_default();
    let median = figure.median.map(short).unwrap_or_default();
    let series = figure.series.iter().map(|s| {
        let noise = s.noise() * 100.0;
        format!(
            "{} {}/{}/{} ms (+{noise:.0} %)",
            s.name,
            short(s.min()),
            short(s.median()),
            short(s.quantile(0.9))
        )
    });
    let detail: Vec<String> =
        series.chain(Some(figure.note.clone()).filter(|n| !n.is_empty())).collect();
    format!(
        "| {} | {} | {} | {} {} | {median} | {} | {} | {} | {} | {} |",
        row.id,
        row.what,
        figure.case,
        short(figure.value),
        row.unit,
        row.baseline,
        bound(goal.map(|goal| goal.gate)),
        bound(goal.map(|goal| goal.moonshot)),
        row.verdict(figure),
        detail.join("; ")
    )
}

/// Three digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}

pub(crate) fn json(machine: &Machine, outcomes: &[Outcome<'_>]) -> Value {
    let rows = outcomes.iter().map(|outcome| {
        let row = outcome.row;
        let mut value =
            json!({ "id": row.id, "what": row.what, "baseline": row.baseline, "unit": row.unit });
        match &outcome.figures {
            Ok(figures) => value["figures"] = figures.iter().map(|f| f.json(row)).collect(),
            Err(why) => value["notMeasured"] = why.as_str().into(),
        }
        value
    });
    json!({
        "machine": {
            "cores": machine.cores, "loadBefore": machine.load.0, "loadAfter": machine.load.1,
            "missing": machine.missing, "scratch": machine.scratch,
        },
        "rows": rows.collect::<Vec<_>>(),
    })
}
