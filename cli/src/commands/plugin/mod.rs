//! `crabbox plugin`: look at, install, agree to, pack and remove provider plugins.

mod install;
mod list;
mod new;
mod pack;
mod remove;
mod run;
mod test;
mod trust;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_plugins::{COMPILER, Entry};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::PathView;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::manifest::Runtime;
use serde::Serialize;

use crate::context::Context;
use crate::tools;

/// Install, inspect and agree to provider plugins
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox plugin list
  crabbox plugin install ./hetzner-1.4.2.cbxplugin
  crabbox plugin info example.dev/hetzner
  crabbox plugin new --lang python ./my-provider")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PluginCommand {
    /// List plugins: where they are, and whether they may run
    List,
    /// Show what a plugin offers and asks for, or what a .wasm file imports
    Info(list::InfoArgs),
    /// Install a plugin from a folder, a package, a web address or a registry
    Install(install::Args),
    /// Install a plugin anew from where it came from
    Update(Which),
    /// Remove an installed plugin; its leases can still be stopped
    Remove(Which),
    /// Agree to a plugin without being asked
    Trust(trust::Args),
    /// Check that installed files are what was agreed to
    Verify,
    /// Remove stored copies that nothing needs any more
    Gc,
    /// Make a package of a plugin's folder
    Pack(pack::Args),
    /// Ask a provider one question by hand
    Run(run::Args),
    /// Test a plugin against the protocol
    Test(test::Args),
    /// Begin a plugin of your own
    New(new::Args),
    /// Print the folder that plugins are dropped into
    Path,
}

/// A plugin by its id or by a provider of it.
#[derive(Debug, clap::Args)]
struct Which {
    /// Its id, such as example.dev/hetzner, or a provider's name
    #[arg(value_name = "PLUGIN")]
    plugin: String,
}

/// Runs one of them.
pub(crate) async fn run(ctx: &Context, args: Args) -> Result<i32> {
    match args.command {
        PluginCommand::List => list::list(ctx),
        PluginCommand::Info(args) => list::info(ctx, &args),
        PluginCommand::Install(args) => install::run(ctx, &args).await,
        PluginCommand::Update(which) => install::update(ctx, &which.plugin).await,
        PluginCommand::Remove(which) => remove::run(ctx, &which.plugin),
        PluginCommand::Trust(args) => trust::run(ctx, &args),
        PluginCommand::Verify => trust::verify(ctx),
        PluginCommand::Gc => remove::gc(ctx),
        PluginCommand::Pack(args) => pack::run(ctx, &args),
        PluginCommand::Run(args) => run::run(ctx, &args).await,
        PluginCommand::Test(args) => test::run(ctx, &args),
        PluginCommand::New(args) => new::run(ctx, &args),
        PluginCommand::Path => path(ctx),
    }
}

fn path(ctx: &Context) -> Result<i32> {
    let (schema_version, path) = (SCHEMA_VERSION, ctx.shelf.root().display().to_string());
    match ctx.global.json {
        true => ctx.terminal.out_json(&PathView { schema_version, path }),
        false => ctx.terminal.out(&path),
    }
    Ok(0)
}

/// What was done: a document for programs, a line for people.
fn told(ctx: &Context, document: &impl Serialize, line: &str) {
    match ctx.global.json {
        true => ctx.terminal.out_json(document),
        false => ctx.terminal.out(line),
    }
}

/// Compiles what runs as WebAssembly, so that its first use need not wait; that one tries again if this fails.
fn prepare(ctx: &Context, entry: &Entry) {
    if !entry.runtime.is_some_and(Runtime::is_sandboxed) {
        return;
    }
    let names = ["HOME", "XDG_CACHE_HOME"];
    let env =
        names.iter().filter_map(|name| Some(((*name).to_owned(), ctx.env.get(*name)?.clone())));
    if let Err(why) = tools::compile(&ctx.programs().join(COMPILER), &entry.artifact, env) {
        ctx.terminal.warn(&format!("{} was not compiled yet: {why}", entry.manifest.id));
    }
}

/// Every provider of the plugin with this id, or of the one that offers this provider.
fn entries<'a>(ctx: &'a Context, plugin: &str) -> Result<Vec<&'a Entry>> {
    let all = ctx.catalog.providers();
    let of = |id: &str| all.iter().filter(|e| e.manifest.id == id).collect::<Vec<_>>();
    let found = of(plugin);
    if !found.is_empty() {
        return Ok(found);
    }
    match ctx.catalog.find(plugin) {
        Some(entry) => Ok(of(&entry.manifest.id)),
        None => Err(no_plugin(ctx, plugin)),
    }
}

/// There is nothing where a path leads.
fn nothing_at(path: &str) -> KernelError {
    KernelError::new(ErrorCode::NotFound, format!("there is no folder or package {path}"))
        .hint("name a folder with crabbox-plugin.toml in it, a .cbxplugin file, or an address")
}

fn no_plugin(ctx: &Context, plugin: &str) -> KernelError {
    let problems = ctx.catalog.problems.iter().map(ToString::to_string).collect();
    let error = KernelError::new(ErrorCode::NotFound, format!("there is no plugin {plugin}"));
    KernelError { causes: problems, ..error }.hint(
        "`crabbox plugin list` shows them all; one in a folder or package is named by its path",
    )
}
