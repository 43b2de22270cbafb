//! Two toy providers: one hands out boxes that do not exist, one runs commands that print.

mod shows;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crabbox_plugin_sdk::*;

const MANIFEST: &str = include_str!("crabbox-plugin.toml");

/// The provider `toy`.
pub(crate) fn boxes() -> Plugin {
    Plugin::ssh_lease(MANIFEST, |_instance| Ok(Toy::default()))
}

/// The provider `runner`.
pub(crate) fn runner() -> Plugin {
    Plugin::delegated_run(MANIFEST, |_instance| Ok(Runner(Toy::default())))
}

/// Boxes by lease id.
#[derive(Default)]
struct Toy(Mutex<BTreeMap<LeaseId, Lease>>);

impl Toy {
    fn boxes(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, params: AcquireParams) -> Lease {
        let Desired { lease_id, slug, name } = params.desired;
        let lease = Lease {
            cloud_id: format!("i-{slug}"),
            status: "ready".to_owned(),
            server_type: "toy".to_owned(),
            labels: params.labels,
            work_root: Some("/work".to_owned()),
            ssh: Some(SshEndpoint {
                user: "crabbox".to_owned(),
                host: "192.0.2.7".to_owned(),
                port: 22,
                ..SshEndpoint::default()
            }),
            lease_id,
            slug,
            name,
        };
        self.boxes().insert(lease.lease_id.clone(), lease.clone());
        lease
    }

    fn find(&self, id: &str) -> Result<Lease, Failure> {
        self.boxes()
            .values()
            .find(|lease| [lease.lease_id.as_str(), &*lease.slug, &*lease.cloud_id].contains(&id))
            .cloned()
            .ok_or_else(|| Failure::not_found(format!("no box {id}")))
    }

    fn page(&self) -> ListResult {
        let leases = self.boxes().values().cloned().collect();
        ListResult { leases, next_cursor: None, complete: true }
    }

    fn remove(&self, expected: &Expected) -> Result<ReleaseOutcome, Failure> {
        let mut boxes = self.boxes();
        match boxes.get(&expected.lease_id) {
            None => Ok(ReleaseOutcome::AlreadyGone),
            Some(lease) if expected.cloud_id.as_ref().is_some_and(|id| *id != lease.cloud_id) => {
                Err(Failure::precondition(format!("the box is {}", lease.cloud_id)))
            }
            Some(_) => {
                boxes.remove(&expected.lease_id);
                Ok(ReleaseOutcome::Released)
            }
        }
    }
}

impl SshLease for Toy {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn acquire(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        match &*params.request.class {
            "beast" => {
                let message = "no toy-large left";
                let category = Some(ErrorKind::Capacity);
                let server_type = Some("toy-large");
                call.attempt(&Attempt { server_type, category, message, ..Attempt::default() });
                return Err(Failure::capacity(message)
                    .outcome(Outcome::NotStarted)
                    .hint("ask for --class standard"));
            }
            "panic" => panic!("as was asked for"),
            _ => {}
        }
        let resource = Resource {
            kind: "server".to_owned(),
            cloud_id: format!("i-{}", params.desired.slug),
            region: None,
            billable: true,
        };
        call.record(&resource)?;
        call.progress(&Progress { phase: "boot", done: Some(1), total: Some(2), message: None });
        if call.sleep(Duration::from_secs(2))? == Woken::Cancel {
            call.forget(&resource)?;
            let message = format!("cancelled; {} is deleted", resource.cloud_id);
            return Err(Failure::cancelled(message, Outcome::RolledBack));
        }
        Ok(self.make(params))
    }

    fn resolve(&self, _call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        self.find(&params.id)
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        Ok(self.page())
    }

    fn release(&self, _call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        self.remove(&params.expected)
    }

    /// Also shows the callbacks that other methods of the toy have no use for.
    fn doctor(&self, call: &Call) -> Result<Vec<Check>, Failure> {
        let token = call.secret("token")?;
        let seen = call.kv_get("seen")?;
        call.kv_put("seen", "yes", Some(Duration::from_secs(3600)))?;
        let tool = call.tool("toyctl").args(["--version"]).timeout(Duration::from_secs(5)).run()?;
        call.log(Level::Debug, &format!("asked before: {}", seen.is_some()));
        Ok(vec![Check {
            id: "toy.tool".to_owned(),
            status: if token.is_empty() { CheckStatus::Fail } else { CheckStatus::Ok },
            message: tool.stdout.trim().to_owned(),
            hint: None,
        }])
    }
}

/// Runs `print WORD…` (a chunk each, words with `-` to stderr), `bytes`, `exit CODE` and what [`shows`] has.
struct Runner(Toy);

impl DelegatedRun for Runner {
    fn warmup(&self, _call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let mut lease = self.0.make(params);
        lease.ssh = None;
        Ok(lease)
    }

    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        let words: Vec<&str> = params.command.iter().map(String::as_str).collect();
        match &*words {
            ["print", words @ ..] => {
                for word in words {
                    let channel =
                        if word.starts_with('-') { Channel::Stderr } else { Channel::Stdout };
                    output.write(channel, format!("{word}\n").as_bytes())?;
                }
            }
            ["bytes"] => output.write(Channel::Stdout, &[0xff, 0x00])?,
            ["lost"] => {
                output.write(Channel::Stdout, b"head")?;
                output.gap(Channel::Stdout, 100, "the log was rotated");
                output.write(Channel::Stdout, b"tail")?;
            }
            ["exit", code] => {
                let exit_code = code.parse().map_err(|_| Failure::invalid_request("no code"))?;
                return Ok(RunStartResult { exit_code, signal: None });
            }
            [show, rest @ ..] => shows::show(call, show, rest, output)?,
            _ => return Err(Failure::unsupported("the runner knows no such command")),
        }
        Ok(RunStartResult { exit_code: 0, signal: None })
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        Ok(self.0.page())
    }

    fn status(&self, _call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        self.0.find(&params.id)
    }

    fn stop(&self, _call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        self.0.remove(&params.expected)
    }
}
