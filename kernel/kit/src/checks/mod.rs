//! The checks, a file a subject: what each sends, what must come, and where the protocol says so.

mod cancel;
mod framing;
mod handshake;
mod identity;
mod lifecycle;
mod manifest;
mod pressure;
mod recorded;
mod runs;
mod security;
mod shapes;
mod speed;
mod wasm;

use crate::bench::Bench;
use crate::peer::Outcome;

/// How much a check matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A plugin that fails it must not be shipped.
    Must,
    /// A plugin that fails it is worse than it could be.
    Should,
}

impl Level {
    /// The word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
        }
    }
}

/// One thing that is right or wrong about a plugin.
pub struct Check {
    /// Its id: a letter for the subject, and a number.
    pub id: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What is right, as a sentence.
    pub title: &'static str,
    /// The heading of the protocol page that says so.
    pub section: &'static str,
    /// What usually mends it.
    pub fix: &'static str,
    /// Whether it applies; the error says why not.
    pub(crate) applies: fn(&Bench<'_>) -> Result<(), String>,
    /// Does it.
    pub(crate) run: fn(&Bench<'_>) -> Outcome,
}

/// Every check.
pub fn all() -> impl Iterator<Item = &'static Check> {
    [
        manifest::CHECKS,
        handshake::CHECKS,
        framing::CHECKS,
        lifecycle::CHECKS,
        identity::CHECKS,
        cancel::CHECKS,
        runs::CHECKS,
        pressure::CHECKS,
        security::CHECKS,
        shapes::CHECKS,
        wasm::CHECKS,
        recorded::CHECKS,
        speed::CHECKS,
    ]
    .into_iter()
    .flatten()
}

/// A check that must hold for every plugin.
const fn must(
    id: &'static str,
    title: &'static str,
    section: &'static str,
    fix: &'static str,
    run: fn(&Bench<'_>) -> Outcome,
) -> Check {
    Check { id, level: Level::Must, title, section, fix, applies: |_| Ok(()), run }
}

/// A check that is worth a warning.
const fn should(check: Check) -> Check {
    Check { level: Level::Should, ..check }
}

/// A check that must hold for plugins whose exchanges were recorded.
const fn must_recorded(
    id: &'static str,
    title: &'static str,
    section: &'static str,
    fix: &'static str,
    run: fn(&Bench<'_>) -> Outcome,
) -> Check {
    Check { applies: recorded, ..must(id, title, section, fix, run) }
}

fn recorded(bench: &Bench<'_>) -> Result<(), String> {
    match &bench.tape {
        Some(_) => Ok(()),
        None => Err("no --cassette".to_owned()),
    }
}

/// The same for plugins that run commands themselves.
const fn must_delegated(
    id: &'static str,
    title: &'static str,
    section: &'static str,
    fix: &'static str,
    run: fn(&Bench<'_>) -> Outcome,
) -> Check {
    Check { applies: delegates, ..must(id, title, section, fix, run) }
}

fn delegates(bench: &Bench<'_>) -> Result<(), String> {
    match bench.delegates() {
        true => Ok(()),
        false => Err("it hands out boxes".to_owned()),
    }
}

/// Whether it really runs what it is told to.
fn executes(bench: &Bench<'_>) -> Result<(), String> {
    delegates(bench)?;
    match &bench.tape {
        None => Ok(()),
        Some(_) => Err("a recording runs nothing".to_owned()),
    }
}

/// Whether leases have the ids the kernel chose.
fn obeys_ids(bench: &Bench<'_>) -> Result<(), String> {
    match bench.subject.entry.provider.features.iter().any(|f| f == "own-lease-ids") {
        true => Err("its leases have ids of their own".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_check_names_a_heading_of_the_protocol_page_and_an_id_of_its_own() {
        let page = include_str!("../../../../docs/protocol.md");
        let headings: Vec<_> = page
            .lines()
            .filter(|line| line.starts_with("##"))
            .map(|h| h.trim_start_matches(['#', ' ']))
            .collect();
        let mut ids = std::collections::BTreeSet::new();
        for check in super::all() {
            assert!(headings.contains(&check.section), "{}: no {:?}", check.id, check.section);
            assert!(ids.insert(check.id), "{} is used twice", check.id);
        }
    }
}
