//! The box's handle for programs: `--lease-output`, written when the box is there and again when its fate is known.

use std::path::PathBuf;

use crabbox_kernel::error::Result;
use crabbox_kernel::plan::Plan;
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::lease::Lease;
use crabbox_schemas::run::LeaseHandle;

use crate::terminal::write_json_file;

/// The file a program waits for.
pub(crate) struct HandleFile {
    path: PathBuf,
    run_id: String,
    keep: bool,
    handle: Option<LeaseHandle>,
}

impl HandleFile {
    /// For a run that has no box yet.
    pub(crate) fn new(path: PathBuf, plan: &Plan) -> Self {
        Self { path, run_id: plan.run_id.to_string(), keep: plan.keep.is_some(), handle: None }
    }

    /// The box is there.
    pub(crate) fn leased(&mut self, lease: &Lease, provider: &str, reused: bool) -> Result<()> {
        let handle = LeaseHandle {
            schema_version: SCHEMA_VERSION,
            provider: provider.to_owned(),
            lease_id: lease.lease_id.to_string(),
            slug: lease.slug.clone(),
            reused,
            kept: reused || self.keep,
            run_id: Some(self.run_id.clone()),
            cleanup_command: format!("crabbox stop {}", lease.lease_id),
        };
        self.write(handle)
    }

    /// It is known whether the box stays.
    pub(crate) fn settled(&mut self, kept: bool) -> Result<()> {
        self.handle.take().map_or(Ok(()), |handle| self.write(LeaseHandle { kept, ..handle }))
    }

    fn write(&mut self, handle: LeaseHandle) -> Result<()> {
        let written = write_json_file(&self.path, &handle);
        self.handle = Some(handle);
        written
    }
}
