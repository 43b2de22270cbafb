//! The trail of one lease: an append-only file, fsynced before the world changes, locked while its owner lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crabbox_schemas::claim::PluginPin;
use crabbox_schemas::error::{ErrorCode, Resource};
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::journal::TrailLine;
use crabbox_schemas::lease::Desired;

use crate::error::{KernelError, Result};
use crate::state::failed as state;

/// An open trail. While it is open the file is locked; the lock dies with the process.
#[derive(Debug)]
pub struct Trail {
    path: PathBuf,
    file: File,
    lines: Vec<TrailLine>,
}

impl Trail {
    /// Starts a trail with its intent; the lease must not have one yet.
    pub fn begin(dir: &Path, intent: TrailLine) -> Result<Self> {
        let TrailLine::Intent { desired, .. } = &intent else {
            return Err(KernelError::new(ErrorCode::Internal, "a trail begins with an intent"));
        };
        let path = path_of(dir, &desired.lease_id);
        let file = create(&path)?;
        let mut trail = Self { path, file, lines: Vec::new() };
        trail.append(intent)?;
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| state("cannot sync the journal folder", dir, &e))?;
        Ok(trail)
    }

    /// Opens an existing trail; `None` when there is none or its owner is alive.
    pub fn adopt(dir: &Path, id: &LeaseId) -> Result<Option<Self>> {
        let path = path_of(dir, id);
        let file = match OpenOptions::new().read(true).append(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(state("cannot open the lease's journal", &path, &e)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => {
                return Err(state("cannot lock the lease's journal", &path, &e));
            }
        }
        let failed = |e: std::io::Error| state("cannot read the lease's journal", &path, &e);
        if file.metadata().map_err(failed)?.nlink() == 0 {
            return Ok(None);
        }
        let lines = read(&file).map_err(failed)?;
        Ok(Some(Self { path, file, lines }))
    }

    /// Lease ids that have a trail, in name order.
    pub fn ids(dir: &Path) -> Vec<LeaseId> {
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let mut ids: Vec<_> = entries
            .flatten()
            .filter_map(|entry| LeaseId::parse(entry.file_name().to_str()?.strip_suffix(".jsonl")?))
            .collect();
        ids.sort();
        ids
    }

    /// The plugin behind the trail of a lease, whether its owner lives or not.
    pub fn plugin(dir: &Path, id: &LeaseId) -> Option<PluginPin> {
        begun(dir, id).map(|(_, plugin)| plugin)
    }

    /// The slugs of all trails, whether their owners live or not.
    pub fn slugs(dir: &Path) -> Vec<String> {
        let ids = Self::ids(dir);
        ids.iter().filter_map(|id| begun(dir, id)).map(|(desired, _)| desired.slug).collect()
    }

    /// The plugins behind all trails, whether their owners live or not.
    pub fn plugins(dir: &Path) -> Vec<PluginPin> {
        Self::ids(dir).iter().filter_map(|id| Self::plugin(dir, id)).collect()
    }

    /// Appends one line and returns only when it is on disk.
    pub fn append(&mut self, line: TrailLine) -> Result<()> {
        let mut text = serde_json::to_string(&line).map_err(|e| {
            KernelError::new(ErrorCode::Internal, "cannot encode a journal line").because(&e)
        })?;
        text.push('\n');
        self.file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data())
            .map_err(|e| state("cannot write the lease's journal", &self.path, &e))?;
        self.lines.push(line);
        Ok(())
    }

    /// Records a resource the provider created.
    pub fn record(&mut self, resource: Resource) -> Result<()> {
        self.append(TrailLine::Resource { resource })
    }

    /// Records that a resource is gone.
    pub fn forget(&mut self, cloud_id: &str) -> Result<()> {
        self.append(TrailLine::Forget { cloud_id: cloud_id.to_owned() })
    }

    /// Ends the trail: nothing of the lease is left.
    pub fn finish(self) -> Result<()> {
        remove(&self.path)
    }

    /// Ends the trail of a lease that is gone, whoever looks at it right now.
    pub fn remove(dir: &Path, id: &LeaseId) -> Result<()> {
        remove(&path_of(dir, id))
    }

    /// The identity, provider and plugin the trail began with.
    pub fn intent(&self) -> Option<(&Desired, &str, &PluginPin)> {
        self.lines.iter().find_map(|line| match line {
            TrailLine::Intent { desired, provider, plugin, .. } => {
                Some((desired, &**provider, plugin))
            }
            _ => None,
        })
    }

    /// Whether the box was meant to outlive the command that leased it.
    pub fn is_kept(&self) -> bool {
        self.lines.iter().any(|line| {
            matches!(line, TrailLine::Intent { keep: true, .. } | TrailLine::Kept { .. })
        })
    }

    /// Whether acquire answered and the claim was written.
    pub fn is_claimed(&self) -> bool {
        self.lines.iter().any(|line| matches!(line, TrailLine::Claimed { .. }))
    }

    /// Whether a release was asked for.
    pub fn is_releasing(&self) -> bool {
        self.lines.iter().any(|line| matches!(line, TrailLine::Releasing { .. }))
    }

    /// Resources recorded and not forgotten.
    pub fn resources(&self) -> Vec<Resource> {
        let mut live: Vec<Resource> = Vec::new();
        for line in &self.lines {
            match line {
                TrailLine::Resource { resource } if !live.contains(resource) => {
                    live.push(resource.clone())
                }
                TrailLine::Forget { cloud_id } => live.retain(|r| r.cloud_id != *cloud_id),
                _ => {}
            }
        }
        live
    }
}

/// What a trail began with, whoever has it open.
fn begun(dir: &Path, id: &LeaseId) -> Option<(Desired, PluginPin)> {
    let lines = read(&File::open(path_of(dir, id)).ok()?).ok()?;
    lines.into_iter().find_map(|line| match line {
        TrailLine::Intent { desired, plugin, .. } => Some((desired, plugin)),
        _ => None,
    })
}

/// A new file, locked. Whoever looks for dead trails may remove an empty one between its creation and our
/// lock; then we make another.
fn create(path: &Path) -> Result<File> {
    for _ in 0..10 {
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| state("cannot create the lease's journal", path, &e))?;
        let there = file.lock().and_then(|()| file.metadata()).map(|meta| meta.nlink() > 0);
        if there.map_err(|e| state("cannot lock the lease's journal", path, &e))? {
            return Ok(file);
        }
    }
    Err(KernelError::new(ErrorCode::State, format!("{} vanishes when it is made", path.display())))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(state("cannot remove the lease's journal", path, &e))
        }
        _ => Ok(()),
    }
}

fn path_of(dir: &Path, id: &LeaseId) -> PathBuf {
    dir.join(format!("{id}.jsonl"))
}

/// Reads what can be read. A torn last line is what a crash leaves: it is closed, so that the next line
/// stands alone.
fn read(mut file: &File) -> std::io::Result<Vec<TrailLine>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    if bytes.last().is_some_and(|last| *last != b'\n') {
        file.write_all(b"\n")?;
    }
    Ok(bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent() -> TrailLine {
        TrailLine::Intent {
            desired: Desired {
                lease_id: LeaseId::mint([1; 6]),
                slug: "blue-prawn".into(),
                name: "crabbox-blue-prawn".into(),
            },
            provider: "toy".into(),
            plugin: PluginPin {
                id: "example.dev/toy".into(),
                version: "1.0.0".into(),
                digest: "sha256:0".into(),
            },
            idem: "k".into(),
            repo_root: "/src".into(),
            keep: false,
            at: "2026-01-01T00:00:00Z".into(),
            pid: 1,
        }
    }

    fn server(id: &str) -> Resource {
        Resource { kind: "server".into(), cloud_id: id.into(), region: None, billable: true }
    }

    #[test]
    fn a_trail_survives_its_writer_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let id = LeaseId::mint([1; 6]);
        let mut trail = Trail::begin(dir.path(), intent()).unwrap();
        trail.record(server("a")).unwrap();
        trail.record(server("b")).unwrap();
        trail.forget("a").unwrap();
        assert!(Trail::adopt(dir.path(), &id).unwrap().is_none(), "its owner is alive");
        assert_eq!(Trail::slugs(dir.path()), ["blue-prawn"]);
        trail.file.write_all(b"{\"type\":\"resou").unwrap();
        drop(trail);
        let mut trail = Trail::adopt(dir.path(), &id).unwrap().unwrap();
        assert_eq!(trail.resources(), [server("b")]);
        assert!(!trail.is_claimed());
        trail.record(server("c")).unwrap();
        drop(trail);
        let trail = Trail::adopt(dir.path(), &id).unwrap().unwrap();
        assert_eq!(trail.resources(), [server("b"), server("c")], "written after the torn line");
        assert_eq!(Trail::ids(dir.path()), [id]);
        trail.finish().unwrap();
        assert!(Trail::ids(dir.path()).is_empty());
    }
}
