//! One run: the tree, then the command. What every such provider does is the SDK's; how it is done at Islo is here.

use std::time::{Duration, Instant};

use crabbox_plugin_sdk::{
    Call, Failure, HttpStream, LeaseId, Output, RemoteCommand, RunStartParams, RunStartResult,
    Said, Workspace,
};
use serde_json::json;

use crate::api::Api;
use crate::exec::{Exec, next};
use crate::sandboxes::touch;
use crate::tree;

pub(crate) fn run(
    api: &Api,
    call: &Call,
    params: &RunStartParams,
    output: &Output<'_>,
) -> Result<RunStartResult, Failure> {
    let sandbox = &params.lease.cloud_id;
    let (tree, notes) = (api.config.tree(), api.config.notes());
    let sh = |program: &str, args: &[&str]| Exec::sh(sandbox, program, args).step(api, call);
    let workspace = Workspace { call, params, tree, notes, sh };
    let placed = workspace.bring(|blob| tree::send(api, &workspace, blob))?;
    let _use = placed.now.map(|now| InUse::begin(call, &params.lease.lease_id, now));
    workspace.run(&placed, output, |words| {
        let mut body = json!({ "command": words, "env": params.env });
        if let Some(secs) = params.timeout_secs {
            body["timeout_secs"] = secs.into();
        }
        Exec { sandbox, body }.begin(api, call).map(Events)
    })
}

/// What a command says, as Islo's events.
struct Events<'a>(HttpStream<'a>);

impl RemoteCommand for Events<'_> {
    fn next(&mut self, wait: Duration) -> Result<Option<Said>, Failure> {
        next(&mut self.0, wait)
    }
}

/// Says while it exists that the lease is used, and then that it was.
struct InUse<'a> {
    call: &'a Call,
    lease: &'a LeaseId,
    now: u64,
    since: Instant,
}

impl<'a> InUse<'a> {
    fn begin(call: &'a Call, lease: &'a LeaseId, now: u64) -> Self {
        touch(call, lease, "running", now);
        Self { call, lease, now, since: Instant::now() }
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        touch(self.call, self.lease, "ready", self.now + self.since.elapsed().as_secs());
    }
}
