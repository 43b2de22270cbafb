//! Provider settings as flags: made from the plugins' schemas, so that no plugin is run to print help.

use std::collections::BTreeSet;

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

/// Adds every provider's flags to the commands that lease or look at boxes. A name that is taken already
/// stays with its first owner; the setting can still come from a file or the environment.
pub(crate) fn add(mut root: Command, catalog: &Catalog) -> Command {
    let global = longs(&root);
    for taker in TAKERS {
        root = root.mut_subcommand(taker, |mut command| {
            let mut taken = longs(&command);
            taken.extend(global.iter().cloned());
            for entry in catalog.providers() {
                let heading = format!("Provider {}", entry.provider.name);
                for (name, flag) in named(entry) {
                    if taken.insert(name.to_owned()) {
                        taken.insert(format!("no-{name}"));
                        command = command.args(args(entry, name, flag, &heading));
                    }
                }
            }
            command
        });
    }
    root
}

/// Every long flag a command has of its own.
fn longs(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().flat_map(|arg| {
        arg.get_long().into_iter().chain(arg.get_all_aliases().into_iter().flatten())
    });
    own.chain(["help", "version"]).map(str::to_owned).collect()
}

fn named(entry: &Entry) -> impl Iterator<Item = (&str, &Flag)> {
    entry.flags.iter().filter_map(|flag| Some((flag.name.as_deref()?, flag)))
}

fn id(entry: &Entry, flag: &Flag) -> String {
    format!("{}\u{1}{}", entry.provider.name, flag.config_key)
}

fn args(entry: &Entry, name: &str, flag: &Flag, heading: &str) -> Vec<Arg> {
    let id = id(entry, flag);
    let arg = Arg::new(id.clone())
        .long(name.to_owned())
        .help(flag.help.clone())
        .help_heading(heading.to_owned());
    let arg = match &flag.kind {
        FlagKind::Boolean => {
            let off = format!("{id}\u{1}no");
            let no = Arg::new(off.clone())
                .long(format!("no-{name}"))
                .action(ArgAction::SetTrue)
                .hide(true);
            return vec![arg.action(ArgAction::SetTrue).overrides_with(off), no];
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
pub(crate) fn given(matches: &ArgMatches, catalog: &Catalog) -> Vec<(String, String, String)> {
    let Some((taker, matches)) = matches.subcommand() else { return Vec::new() };
    if !TAKERS.contains(&taker) {
        return Vec::new();
    }
    let mut given = Vec::new();
    for entry in catalog.providers() {
        for (_, flag) in named(entry) {
            let mut say = |text: String| {
                given.push((entry.provider.name.clone(), flag.config_key.clone(), text))
            };
            let id = id(entry, flag);
            // A flag whose name was taken does not exist: asking for it is an error that means "not given".
            let on = |id: &str| matches!(matches.try_get_one::<bool>(id), Ok(Some(true)));
            if flag.kind == FlagKind::Boolean {
                if on(&id) {
                    say("true".to_owned());
                } else if on(&format!("{id}\u{1}no")) {
                    say("false".to_owned());
                }
            } else if let Ok(Some(values)) = matches.try_get_many::<String>(&id) {
                values.cloned().for_each(say);
            }
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
    entry.flags.iter().map(property).collect()
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
        env: flag.env.clone(),
        user_only: flag.user_only,
        secret: flag.secret,
        fallback: flag.fallback.clone(),
    }
}
