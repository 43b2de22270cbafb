//! `crabbox providers`: what each provider offers, read from manifests without running a plugin.

use crabbox_kernel::error::Result;
use crabbox_plugins::Entry;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::{Offer, OfferSetting, ProviderView, ProvidersView};

use crate::context::Context;

/// List providers and what they offer
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox providers
  crabbox providers describe ssh")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<ProvidersCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ProvidersCommand {
    /// Show one provider with its settings, flags and environment names
    Describe {
        /// Its name or an alias
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Lists or describes providers.
pub(crate) fn run(ctx: &Context, args: Args) -> Result<i32> {
    match args.command {
        Some(ProvidersCommand::Describe { name }) => describe(ctx, &name),
        None => list(ctx),
    }
}

fn list(ctx: &Context) -> Result<i32> {
    let offers: Vec<Offer> = ctx.catalog.providers().iter().map(|e| offer(e, false)).collect();
    if ctx.global.json {
        let (schema_version, providers) = (SCHEMA_VERSION, offers);
        ctx.terminal.out_json(&ProvidersView { schema_version, providers });
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = offers
        .into_iter()
        .map(|o| {
            vec![
                o.name,
                kind_word(o.kind).to_owned(),
                o.targets.join(" "),
                o.aliases.join(" "),
                o.description,
            ]
        })
        .collect();
    ctx.terminal.table(&["PROVIDER", "KIND", "TARGETS", "ALIASES", "DESCRIPTION"], &rows);
    Ok(0)
}

fn describe(ctx: &Context, name: &str) -> Result<i32> {
    let offer = offer(ctx.entry(name)?, true);
    if ctx.global.json {
        ctx.terminal.out_json(&ProviderView { schema_version: SCHEMA_VERSION, offer });
        return Ok(0);
    }
    ctx.terminal.out(&format!(
        "{}: {} ({} {})",
        offer.name, offer.description, offer.plugin, offer.version
    ));
    ctx.terminal.out(&format!("kind: {}", kind_word(offer.kind)));
    for (what, words) in
        [("targets", &offer.targets), ("aliases", &offer.aliases), ("features", &offer.features)]
    {
        if !words.is_empty() {
            ctx.terminal.out(&format!("{what}: {}", words.join(", ")));
        }
    }
    for setting in &offer.settings {
        let flag = setting.flag.as_ref().map(|f| format!(" --{f}")).unwrap_or_default();
        let only = if setting.user_only { " (not from a repository's file)" } else { "" };
        ctx.terminal.out(&format!(
            "  providers.{}.{}{flag} {}",
            offer.name,
            setting.key,
            setting.env.join(" ")
        ));
        ctx.terminal.out(&format!("      {}{only}", setting.help));
    }
    Ok(0)
}

fn offer(entry: &Entry, with_settings: bool) -> Offer {
    let settings = entry.flags().iter().map(|f| OfferSetting {
        key: f.config_key.clone(),
        flag: f.name.clone(),
        env: f.env.clone(),
        help: f.help.clone(),
        default: f.default.clone(),
        secret: f.secret,
        user_only: f.user_only,
    });
    Offer {
        name: entry.provider.name.clone(),
        aliases: entry.provider.aliases.clone(),
        kind: entry.provider.kind,
        features: entry.provider.features.clone(),
        targets: entry.provider.targets.clone(),
        plugin: entry.manifest.id.clone(),
        version: entry.manifest.version.clone(),
        description: entry.manifest.description.clone(),
        settings: if with_settings { settings.collect() } else { Vec::new() },
    }
}

fn kind_word(kind: crabbox_schemas::plugin::ProviderKind) -> &'static str {
    match kind {
        crabbox_schemas::plugin::ProviderKind::SshLease => "ssh-lease",
        crabbox_schemas::plugin::ProviderKind::DelegatedRun => "delegated-run",
    }
}
