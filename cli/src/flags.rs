//! Provider settings as flags: made from the plugins' schemas, so that no plugin is run to print help.

use std::collections::BTreeSet;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use crabbox_kernel::config::keys::Kind;
use crabbox_kernel::config::{Block, BlockRequest, Property};
use crabbox_kernel::error::{KernelError, Result};
use crabbox_plugins::{Catalog, Entry, Flag, FlagKind};
use crabbox_schemas::error::ErrorCode;

use crate::context::Context;

/// Commands that take provider settings.
const TAKERS: &[&str] = &[
    "run",
    "warmup",
    "stop",
    "list",
    "status",
    "inspect",
    "ssh",
    "connect",
    "cleanup",
    "heartbeat",
    "doctor",
    "config",
];

/// Which of all these flags a command line needs: registering hundreds takes longer than most commands do.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// All, such as for completions.
    All,
    /// Those with these names, as they were given.
    Given(Vec<String>),
    /// Those of one provider, for help.
    Of(Option<String>),
}

impl Wanted {
    /// What is given among words.
    pub(crate) fn among(words: &[String]) -> Self {
        let flags = words.iter().filter_map(|word| word.strip_prefix("--"));
        let names = flags.map(|flag| flag.split_once('=').map_or(flag, |(name, _)| name));
        Self::Given(names.map(str::to_owned).collect())
    }

    /// Whether a provider's flags are worth a look, for a command with flags of its own.
    fn looks_at(&self, entry: &Entry, own: &BTreeSet<String>) -> bool {
        match self {
            Self::All => true,
            Self::Given(names) => names.iter().any(|name| !own.contains(name)),
            Self::Of(provider) => {
                let wanted = provider.as_deref().unwrap_or_default();
                entry.names().any(|own| own.eq_ignore_ascii_case(wanted))
            }
        }
    }

    fn wants(&self, name: &str) -> bool {
        match self {
            Self::Given(names) => {
                names.iter().any(|given| given == name || given.strip_prefix("no-") == Some(name))
            }
            _ => true,
        }
    }
}

/// Adds every provider's flags to the commands that lease or look at boxes. A name that is taken already
/// stays with its first owner; the setting can still come from a file or the environment.
pub(crate) fn add(mut root: Command, catalog: &Catalog, wanted: &Wanted) -> Command {
    let global = longs(&root);
    for taker in TAKERS {
        root = root.mut_subcommand(taker, |command| filled(command, &global, catalog, wanted));
    }
    root
}

fn filled(
    mut command: Command,
    global: &BTreeSet<String>,
    catalog: &Catalog,
    wanted: &Wanted,
) -> Command {
    let own: BTreeSet<String> = &longs(&command) | global;
    let mut taken = own.clone();
    for entry in catalog.providers().iter().filter(|entry| wanted.looks_at(entry, &own)) {
        let heading = format!("Provider {}", entry.provider.name);
        for (name, flag) in named(entry).filter(|(name, _)| wanted.wants(name)) {
            if taken.insert(name.to_owned()) {
                taken.insert(format!("no-{name}"));
                command = command.args(args(entry, name, flag, &heading));
            }
        }
    }
    match wanted {
        Wanted::Of(_) => with_hint(command),
        _ => command,
    }
}

/// Says how to see what is not shown.
fn with_hint(command: Command) -> Command {
    let own = command.get_after_help().map(ToString::to_string);
    let hint =
        format!("Flags of other providers: crabbox {} --provider NAME --help", command.get_name());
    command.after_help(own.into_iter().chain([hint]).collect::<Vec<_>>().join("\n\n"))
}

/// Every long flag a command has of its own.
fn longs(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().flat_map(|arg| {
        arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten())
    });
    own.chain(["help", "version"]).map(str::to_owned).collect()
}

fn named(entry: &Entry) -> impl Iterator<Item = (&str, &Flag)> {
    entry.flags().iter().filter_map(|flag| Some((flag.name.as_deref()?, flag)))
}

/// Between the parts of a flag's id.
const APART: char = '\u{1}';

fn id(entry: &Entry, flag: &Flag) -> String {
    format!("{}{APART}{}", entry.provider.name, flag.config_key)
}

fn args(entry: &Entry, name: &str, flag: &Flag, heading: &str) -> Vec<Arg> {
    let id = id(entry, flag);
    let arg = Arg::new(id.clone())
        .long(name.to_owned())
        .help(flag.help.clone())
        .help_heading(heading.to_owned());
    let arg = match &flag.kind {
        FlagKind::Boolean => {
            let off = format!("{id}{APART}no");
            // Help shows the form that changes something.
            let on = flag.default == Some(serde_json::Value::Bool(true));
            let no = Arg::new(off.clone())
                .long(format!("no-{name}"))
                .action(ArgAction::SetTrue)
                .help(format!("Not: {}", flag.help))
                .help_heading(heading.to_owned())
                .hide(!on);
            return vec![arg.action(ArgAction::SetTrue).hide(on).overrides_with(off), no];
        }
        FlagKind::List => arg.action(ArgAction::Append).value_name("VALUE"),
        FlagKind::Choice(words) => {
            let words = clap::builder::PossibleValuesParser::new(words.clone());
            arg.value_parser(words).value_name("WORD")
        }
        FlagKind::Integer | FlagKind::Number => arg.value_name("N"),
        FlagKind::Text => arg.value_name("VALUE"),
        FlagKind::Table => arg.value_name("JSON"),
    };
    vec![arg]
}

/// The provider flags that were given: provider, property, text.
pub(crate) fn given(matches: &ArgMatches) -> Vec<(String, String, String)> {
    let Some((taker, matches)) = matches.subcommand() else { return Vec::new() };
    if !TAKERS.contains(&taker) {
        return Vec::new();
    }
    let mut given = Vec::new();
    for id in matches.ids().map(clap::Id::as_str) {
        let Some((provider, key)) = id.split_once(APART) else { continue };
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        let mut say = |key: &str, text: &str| {
            given.push((provider.to_owned(), key.to_owned(), text.to_owned()));
        };
        if let Some((key, _no)) = key.split_once(APART) {
            say(key, "false");
        } else if let Ok(Some(values)) = matches.try_get_many::<String>(id) {
            values.for_each(|text| say(key, text));
        } else {
            say(key, "true");
        }
    }
    given
}

/// The settings block of a provider, from all layers.
pub(crate) fn block(ctx: &Context, entry: &Entry) -> Result<Block> {
    if let Some((other, key, _)) =
        ctx.provider_flags.iter().find(|(name, _, _)| *name != entry.provider.name)
    {
        return Err(KernelError::new(
            ErrorCode::Usage,
            format!(
                "a flag sets {key} of provider {other}, but the provider is {}",
                entry.provider.name
            ),
        )
        .hint(format!("pass --provider {other}, or leave the flag out")));
    }
    let names = block_names(entry);
    let flags: Vec<(String, String)> =
        ctx.provider_flags.iter().map(|(_, k, v)| (k.clone(), v.clone())).collect();
    let properties = properties(entry);
    let request =
        BlockRequest { names: &names, properties: &properties, env: &ctx.env, flags: &flags };
    ctx.settings.provider_block(&request)
}

/// Every name a provider's block may have in a file.
pub(crate) fn block_names(entry: &Entry) -> Vec<&str> {
    let provider = &entry.provider;
    let names =
        std::iter::once(&provider.name).chain(&provider.aliases).chain(&provider.config_aliases);
    names.map(String::as_str).collect()
}

/// A provider's settings as the kernel needs to know them.
pub(crate) fn properties(entry: &Entry) -> Vec<Property> {
    entry.flags().iter().map(property).collect()
}

/// What the kernel needs to know of one of a provider's settings.
fn property(flag: &Flag) -> Property {
    let kind = match flag.kind {
        FlagKind::Integer => Kind::Integer,
        FlagKind::Boolean => Kind::Bool,
        FlagKind::List => Kind::List,
        FlagKind::Number => Kind::Number,
        FlagKind::Table => Kind::Table,
        FlagKind::Text | FlagKind::Choice(_) => Kind::Text,
    };
    Property {
        name: flag.config_key.clone(),
        kind,
        flag: flag.name.clone(),
        env: flag.env.clone(),
        user_only: flag.user_only,
        secret: flag.secret,
        fallback: flag.fallback.clone(),
    }
}
