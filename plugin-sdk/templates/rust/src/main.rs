//! A provider that runs commands in folders of this machine. Replace what touches folders by your platform's calls.

mod follow;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crabbox_plugin_sdk::*;

#[derive(serde::Deserialize)]
struct Settings {
    root: Option<PathBuf>,
    greeting: Option<String>,
}

struct ToyPlatform {
    root: PathBuf,
    greeting: Option<String>,
    user: UserFacts,
}

/// One folder is one box; `box.json` in it is its label.
impl ToyPlatform {
    fn open(instance: Instance) -> Result<Self, Failure> {
        let settings: Settings = settings(&instance)?;
        let own = || std::env::var_os("CRABBOX_STATE_DIR").map(PathBuf::from);
        let root = settings
            .root
            .or_else(own)
            .ok_or_else(|| Failure::invalid_config("root", "no folder for boxes"))?;
        Ok(Self {
            root: root.join("boxes"),
            greeting: settings.greeting,
            user: instance.user,
        })
    }

    fn folder(&self, cloud_id: &str) -> Result<PathBuf, Failure> {
        match Path::new(cloud_id).file_name() {
            Some(name) if name == cloud_id => Ok(self.root.join(name)),
            _ => Err(Failure::not_found(format!("no box {cloud_id}"))),
        }
    }

    fn find(&self, cloud_id: &str) -> Result<Lease, Failure> {
        let text = fs::read(self.folder(cloud_id)?.join("box.json"));
        let text = text.map_err(|_| Failure::not_found(format!("no box {cloud_id}")))?;
        serde_json::from_slice(&text)
            .map_err(|e| Failure::internal("a box's label is broken").because(&e))
    }

    fn boxes(&self) -> Vec<Lease> {
        let names = fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name());
        names
            .filter_map(|name| self.find(name.to_str()?).ok())
            .collect()
    }
}

impl DelegatedRun for ToyPlatform {
    fn idempotent_acquire(&self) -> bool {
        true
    }

    fn warmup(&self, call: &Call, params: AcquireParams) -> Result<Lease, Failure> {
        let Desired {
            lease_id,
            slug,
            name,
        } = params.desired;
        let (cloud_id, folder) = (lease_id.to_string(), self.folder(lease_id.as_str())?);
        fs::create_dir_all(folder.join("work")).map_err(failed)?;
        // Before anything else: from now on it can be found again.
        call.record(&Resource {
            kind: "folder".to_owned(),
            cloud_id: cloud_id.clone(),
            region: None,
            billable: false,
        })?;
        let (status, server_type, labels) =
            ("ready".to_owned(), "folder".to_owned(), params.labels);
        let lease = Lease {
            lease_id,
            slug,
            name,
            cloud_id,
            status,
            server_type,
            labels,
            work_root: None,
            ssh: None,
        };
        let label = serde_json::to_vec(&lease)
            .map_err(io::Error::from)
            .map_err(failed)?;
        fs::write(folder.join("box.json"), label).map_err(failed)?;
        Ok(lease)
    }

    fn run(
        &self,
        call: &Call,
        params: RunStartParams,
        output: &Output<'_>,
    ) -> Result<RunStartResult, Failure> {
        let lease = self.find(&params.lease.cloud_id)?;
        let work = self.folder(&lease.cloud_id)?.join("work");
        if let Some(tree) = &params.workspace {
            fs::remove_dir_all(&work)
                .and_then(|()| fs::create_dir(&work))
                .map_err(failed)?;
            let unpacked = Command::new("tar")
                .arg("-xf")
                .arg(tree)
                .arg("-C")
                .arg(&work)
                .status()
                .map_err(failed)?;
            if !unpacked.success() {
                return Err(Failure::internal(format!("tar ended with {unpacked}")));
            }
        }
        if let Some(greeting) = &self.greeting {
            output.write(Channel::Stdout, format!("{greeting}\n").as_bytes())?;
        }
        call.check()?;
        let mut command = Command::new(&params.command[0]);
        command
            .args(&params.command[1..])
            .current_dir(work)
            .env_clear()
            .stdin(Stdio::null());
        command
            .env("PATH", &self.user.path)
            .env("HOME", &self.user.home)
            .envs(&params.env);
        follow::follow(call, command, output)
    }

    fn list(&self, _call: &Call, _params: ListParams) -> Result<ListResult, Failure> {
        Ok(ListResult {
            leases: self.boxes(),
            next_cursor: None,
            complete: true,
        })
    }

    fn status(&self, _call: &Call, params: ResolveParams) -> Result<Lease, Failure> {
        let is = |lease: &Lease| {
            [
                lease.lease_id.as_str(),
                &lease.slug,
                &lease.name,
                &lease.cloud_id,
            ]
            .contains(&params.id.as_str())
        };
        self.boxes()
            .into_iter()
            .find(is)
            .ok_or_else(|| Failure::not_found(format!("no box {}", params.id)))
    }

    fn stop(&self, _call: &Call, params: ReleaseParams) -> Result<ReleaseOutcome, Failure> {
        let (expected, folder) = (params.expected, self.folder(&params.lease.cloud_id)?);
        let outcome = match self.find(&params.lease.cloud_id) {
            Err(failure) if failure.kind() == ErrorKind::NotFound => ReleaseOutcome::AlreadyGone,
            Err(failure) => return Err(failure),
            Ok(lease) if lease.lease_id != expected.lease_id => {
                return Err(Failure::precondition(format!(
                    "{} belongs to lease {}",
                    lease.cloud_id, lease.lease_id
                )));
            }
            Ok(lease) if expected.cloud_id.is_some_and(|id| id != lease.cloud_id) => {
                return Err(Failure::precondition(format!(
                    "the box of {} is {}",
                    lease.lease_id, lease.cloud_id
                )));
            }
            Ok(_) => ReleaseOutcome::Released,
        };
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(outcome),
        }
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::internal("a box's folder cannot be used")
        .outcome(Outcome::Uncertain)
        .because(&error)
}

fn main() -> ExitCode {
    serve_delegated_run(include_str!("../crabbox-plugin.toml"), ToyPlatform::open)
}
