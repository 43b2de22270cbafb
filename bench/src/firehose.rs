//! A provider for measurements: it runs nothing and prints as many bytes as its command says.

use std::process::ExitCode;

use crabbox_plugin_sdk::*;

const MANIFEST: &str = r#"
manifest = 1
id = "example.dev/firehose"
version = "0.1.0"
protocols = ["1"]

[[provider]]
name = "firehose"
kind = "delegated-run"
targets = ["linux"]

[[artifact]]
runtime = "stdio"
path = "provider"
"#;

struct Firehose;

impl DelegatedRun for Firehose {
    fn warmup(&self, _call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let Desired { lease_id, slug, name } = params.desired;
        Ok(Lease {
            cloud_id: lease_id.to_string(),
            lease_id,
            slug,
            name,
            status: "ready".to_owned(),
            server_type: "none".to_owned(),
            labels: params.labels,
            work_root: None,
            ssh: None,
        })
    }

    fn run(
        &self,
        _call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        let mut left: usize = params.command.first().and_then(|n| n.parse().ok()).unwrap_or(0);
        // Text with a line end here and there, as commands print it.
        let block =
            b"The quick brown crab jumps over the lazy box, and prints it.\n\t".repeat(1024);
        while left > 0 {
            let now = left.min(block.len());
            output.write(Channel::Stdout, &block[..now])?;
            left -= now;
        }
        Ok(RunStartResult { exit_code: 0, signal: None })
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        Ok(ListResult { leases: Vec::new(), next_cursor: None, complete: false })
    }

    fn status(&self, _call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        params.known.ok_or_else(|| Failure::not_found("there are no boxes"))
    }

    fn stop(&self, _call: &Call, _params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        Ok(ReleaseOutcome::Released)
    }
}

fn main() -> ExitCode {
    serve_delegated_run(MANIFEST, |_instance| Ok(Firehose))
}
