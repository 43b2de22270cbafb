//! `plugin list` and `plugin info`: what is there, whether it may run, and what it asks for.

use std::collections::BTreeMap;
use std::path::Path;

use crabbox_kernel::error::Result;
use crabbox_plugins::{Candidate, EXTENSION, Entry, Level, Place, Standing, lines};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::deed::PluginImportsView;
use crabbox_schemas::manifest::Runtime;
use crabbox_schemas::view::{PluginGrant, PluginImport, PluginInfo, PluginList, PluginRow};

use crate::context::Context;

use super::entries;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  crabbox plugin info example.dev/hetzner
  crabbox plugin info ./hetzner-1.4.2.cbxplugin
  crabbox plugin info target/wasm32-wasip2/release/rack.wasm")]
pub(super) struct InfoArgs {
    /// Its id, a provider's name, a folder or package that is not installed, or a .wasm file
    #[arg(value_name = "PLUGIN")]
    plugin: String,
}

/// Lists every plugin.
pub(super) fn list(ctx: &Context) -> Result<i32> {
    let mut by_id: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in ctx.catalog.providers() {
        by_id.entry(&entry.manifest.id).or_default().push(entry);
    }
    let rows = by_id.values().map(|all| row(ctx, all)).collect::<Result<Vec<_>>>()?;
    let problems: Vec<String> = ctx.catalog.problems.iter().map(ToString::to_string).collect();
    if ctx.global.json {
        let list = PluginList { schema_version: SCHEMA_VERSION, plugins: rows, problems };
        ctx.terminal.out_json(&list);
        return Ok(0);
    }
    let cells = |row: PluginRow| {
        vec![
            row.id,
            row.version,
            row.providers.join(" "),
            row.place,
            row.runtime,
            row.standing,
            row.grants,
        ]
    };
    let head = ["PLUGIN", "VERSION", "PROVIDERS", "PLACE", "RUNTIME", "MAY RUN", "GRANTS"];
    ctx.terminal.table(&head, &rows.into_iter().map(cells).collect::<Vec<_>>());
    problems.iter().for_each(|problem| ctx.terminal.warn(problem));
    Ok(0)
}

fn row(ctx: &Context, all: &[&Entry]) -> Result<PluginRow> {
    let entry = all[0];
    let runtime = entry.runtime.map_or("nothing for this machine", Runtime::word);
    let lines = lines(entry);
    let weakest = lines.iter().map(|line| line.level).max_by_key(|level| *level as u8);
    Ok(PluginRow {
        id: entry.manifest.id.clone(),
        version: entry.manifest.version.clone(),
        providers: all.iter().map(|e| e.provider.name.clone()).collect(),
        place: entry.place.word().to_owned(),
        runtime: runtime.to_owned(),
        standing: standing(ctx, entry)?.to_owned(),
        grants: weakest.unwrap_or(Level::Enforced).word().to_owned(),
    })
}

fn standing(ctx: &Context, entry: &Entry) -> Result<&'static str> {
    let files = match entry.place {
        Place::User => match ctx.shelf.digest(&entry.folder) {
            Ok(files) => Some(files),
            // Whoever wants to use it is told why; the others are listed all the same.
            Err(_) => return Ok("no: unusable files"),
        },
        _ => None,
    };
    if ctx.policy().check(entry, files.as_deref(), true).is_err() {
        return Ok("no: policy");
    }
    Ok(match files {
        None => "yes",
        Some(files) => match ctx.shelf.standing(&entry.manifest, &files)? {
            Standing::Trusted => "yes",
            Standing::Changed => "asks: changed",
            Standing::Unknown => "asks",
        },
    })
}

/// What a WebAssembly file imports.
fn imported(file: &Path) -> Result<Vec<PluginImport>> {
    let found = crabbox_plugins::imports(file)?.into_iter();
    Ok(found
        .map(|import| PluginImport { means: import.power.text().to_owned(), name: import.name })
        .collect())
}

/// Shows what a WebAssembly file imports: all that it could ever reach.
fn file(ctx: &Context, path: &Path) -> Result<i32> {
    let imports = imported(path)?;
    if ctx.global.json {
        ctx.terminal.out_json(&PluginImportsView { schema_version: SCHEMA_VERSION, imports });
        return Ok(0);
    }
    show(ctx, &imports);
    Ok(0)
}

fn show(ctx: &Context, imports: &[PluginImport]) {
    ctx.terminal.out("it imports:");
    for PluginImport { name, means } in imports {
        ctx.terminal.out(&format!("  - {name} ({means})"));
    }
}

/// Shows one plugin, known or in a folder or package, or a WebAssembly file.
pub(super) fn info(ctx: &Context, args: &InfoArgs) -> Result<i32> {
    let plugin = args.plugin.as_str();
    let path = ctx.cwd.join(plugin);
    if plugin.ends_with(".wasm") && path.is_file() {
        return file(ctx, &path);
    }
    match entries(ctx, plugin) {
        Ok(all) => describe(ctx, &all, None),
        Err(_) if path.exists() => {
            let path = path.canonicalize().unwrap_or(path);
            let source = path.display().to_string();
            let candidate = Candidate::open(&path, &source, &ctx.shelf, ctx.programs())?;
            describe(ctx, &candidate.entries().iter().collect::<Vec<_>>(), Some(&source))
        }
        // An id begins with a name: this is a path.
        Err(_) if plugin.starts_with(['.', '/']) || plugin.ends_with(EXTENSION) => {
            Err(super::nothing_at(plugin))
        }
        Err(unknown) => Err(unknown),
    }
}

/// Shows what is found in a place, or opened from a `source` that is none.
fn describe(ctx: &Context, all: &[&Entry], opened: Option<&str>) -> Result<i32> {
    let entry = all[0];
    let manifest = &entry.manifest;
    let grants = lines(entry);
    let files = match entry.place {
        Place::User => Some(ctx.shelf.digest(&entry.folder)?),
        _ => None,
    };
    let mut row = row(ctx, all)?;
    let (mut folder, mut source) = (entry.folder.display().to_string(), None);
    match opened {
        Some(from) => (row.place, folder) = ("elsewhere".to_owned(), from.to_owned()),
        None => source = ctx.shelf.lock()?.plugins.get(&manifest.id).map(|p| p.source.clone()),
    }
    let info = PluginInfo {
        schema_version: SCHEMA_VERSION,
        row,
        description: manifest.description.clone(),
        license: manifest.license.clone(),
        homepage: manifest.homepage.clone(),
        folder,
        source,
        files,
        grants_digest: crabbox_plugins::of_grants(&manifest.grants),
        asks: grants
            .into_iter()
            .map(|line| PluginGrant { text: line.text, level: line.level.word().to_owned() })
            .collect(),
        imports: match entry.runtime.is_some_and(Runtime::is_sandboxed) {
            true => imported(&entry.artifact)?,
            false => Vec::new(),
        },
        manifest: (**manifest).clone(),
    };
    if ctx.global.json {
        ctx.terminal.out_json(&info);
        return Ok(0);
    }
    let row = &info.row;
    ctx.terminal.out(&format!("{} {}: {}", row.id, row.version, info.description));
    let facts = [
        ("providers", row.providers.join(", ")),
        ("place", format!("{} ({})", row.place, info.folder)),
        ("runs as", row.runtime.clone()),
        ("may run", row.standing.clone()),
        ("license", info.license.clone()),
        ("homepage", info.homepage.clone()),
        ("source", info.source.clone().unwrap_or_default()),
        ("files", info.files.clone().unwrap_or_default()),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        ctx.terminal.out(&format!("  {name}: {value}"));
    }
    ctx.terminal.out("it wants to:");
    for grant in &info.asks {
        ctx.terminal.out(&format!("  - {} ({})", grant.text, grant.level));
    }
    if !info.imports.is_empty() {
        show(ctx, &info.imports);
    }
    Ok(0)
}
