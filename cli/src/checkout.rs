//! The directory that is sent: found, scanned and guarded before anything is spent.

use std::path::{Path, PathBuf};

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::plan::Sync;
use crabbox_kernel::sync::{self, Hint, Keep, ScanOptions, SyncRules, guard};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::view::SyncPlanView;

use crate::context::Context;

/// The root of the checkout, or the current directory when it is not one.
#[derive(Debug)]
pub(crate) struct Place {
    /// Absolute.
    pub(crate) root: PathBuf,
}

impl Place {
    /// The root's own name: last part of the work directory on the box.
    pub(crate) fn name(&self) -> String {
        let name =
            self.root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if name.is_empty() { "root".to_owned() } else { name }
    }
}

/// Finds the checkout around the current directory.
pub(crate) fn find(ctx: &Context) -> Result<Place> {
    Ok(Place { root: ctx.git_root.clone().unwrap_or_else(|| ctx.cwd.clone()) })
}

/// What somebody who watches the tree can say before it is scanned.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// What they call this moment.
    pub(crate) token: Option<String>,
    /// What changed since an earlier one.
    pub(crate) hint: Option<Hint>,
    /// Only warnings are worth a line.
    pub(crate) quiet: bool,
}

/// Scans the tree and runs its guards; warnings are told, refusals are errors.
pub(crate) fn scan(ctx: &Context, place: &Place, full_resync: bool, known: &Known) -> Result<Sync> {
    refuse_everything(ctx, place)?;
    let rules = SyncRules { full_resync, ..ctx.values.sync.clone() };
    ctx.terminal.progress("reading the tree");
    let folder = ctx.state.index();
    let options = ScanOptions {
        hint: known.hint.as_ref(),
        token: known.token.as_deref(),
        ..options(ctx, &folder)
    };
    let (tree, notes) = sync::scan(&place.root, &rules, &options)?;
    ctx.terminal.settle();
    for note in notes {
        match note.strip_prefix("warning: ") {
            Some(warning) => ctx.terminal.warn(warning),
            None if known.quiet => {}
            None => ctx.terminal.err(&note),
        }
    }
    Ok(Sync::Tree { tree, rules })
}

/// Only what changed since the last scan is read.
fn options<'a>(ctx: &'a Context, folder: &'a Path) -> ScanOptions<'a> {
    let keep = Some(Keep { dir: folder, env: &ctx.env });
    ScanOptions { keep, stop: Some(&ctx.stop), ..ScanOptions::default() }
}

/// A home folder or a whole disk is hardly ever meant, and holds what should never leave.
fn refuse_everything(ctx: &Context, place: &Place) -> Result<()> {
    let home = ctx.env.get("HOME").is_some_and(|home| place.root.as_os_str() == home.as_str());
    let what = match place.root.parent() {
        None => "the whole disk",
        Some(_) if home && ctx.git_root.is_none() => "your home folder",
        Some(_) => return Ok(()),
    };
    Err(KernelError::new(ErrorCode::Usage, format!("this would send {what}"))
        .hint("go to the folder of a project, or pass --no-sync to send nothing")
        .at("plan"))
}

/// What a run would send, and the guard that would refuse it.
pub(crate) struct Look {
    pub(crate) view: SyncPlanView,
    pub(crate) refusal: Option<KernelError>,
}

/// Looks at the tree without refusing anything: for `sync-plan`.
pub(crate) fn look(ctx: &Context, place: &Place, limit: usize) -> Result<Look> {
    let rules = &ctx.values.sync;
    let folder = ctx.state.index();
    let tree = sync::look(&place.root, rules, &options(ctx, &folder))?;
    Ok(Look {
        view: guard::plan_view(&tree, rules, limit)?,
        refusal: guard::check(&tree, rules).err(),
    })
}
