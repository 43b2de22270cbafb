//! The pages of `docs/commands`, made from the help texts; `BLESS=1` rewrites them.

use std::collections::BTreeMap;
use std::path::Path;

use clap::CommandFactory;

use crate::commands::Cli;

/// One page a command, by file name.
fn pages() -> BTreeMap<String, String> {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut pages = BTreeMap::new();
    let mut index = String::from("# Commands\n\nMade from the program's own help texts.\n\n");
    for command in root.get_subcommands().filter(|c| c.get_name() != "help") {
        let name = command.get_name().to_owned();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        index.push_str(&format!("- [`crabbox {name}`]({name}.md): {about}\n"));
        let mut page = format!("# crabbox {name}\n\n{}", help(command));
        for inner in
            command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set())
        {
            page.push_str(&format!("\n## crabbox {name} {}\n\n{}", inner.get_name(), help(inner)));
        }
        pages.insert(format!("{name}.md"), page);
    }
    pages.insert("README.md".to_owned(), index);
    pages
}

fn help(command: &clap::Command) -> String {
    let text = command.clone().term_width(100).render_long_help().to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    format!("```text\n{}\n```\n", lines.join("\n").trim())
}

#[test]
fn every_command_page_is_current() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands");
    let pages = pages();
    #[expect(clippy::disallowed_methods, reason = "a test asks whether to rewrite its pages")]
    let bless = std::env::var_os("BLESS").is_some();
    if bless {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        pages.iter().for_each(|(name, text)| std::fs::write(dir.join(name), text).unwrap());
    }
    let stale: Vec<&String> = pages
        .iter()
        .filter(|(name, text)| std::fs::read_to_string(dir.join(name)).ok().as_ref() != Some(*text))
        .map(|(name, _)| name)
        .collect();
    assert!(stale.is_empty(), "stale pages (BLESS=1 rewrites them): {stale:?}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), pages.len(), "a page without a command");
}

#[test]
fn the_command_line_is_well_formed_with_every_provider_flag() {
    Cli::command().debug_assert();
    let exe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/crabbox");
    let catalog = crabbox_plugins::discover(&crabbox_plugins::Places::beside(&exe));
    assert!(
        !catalog.providers().is_empty(),
        "the plugins of this checkout are found without being run"
    );
    crate::command_line(&catalog, &crate::flags::Wanted::All).debug_assert();
}
