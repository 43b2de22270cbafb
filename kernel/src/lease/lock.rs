//! One run at a time on a lease: a lock file that dies with its owner.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::LeaseId;

use crate::error::{KernelError, Result};
use crate::event::Event;
use crate::ports::{Clock, EventSink, Stop, Urgency};
use crate::state::{State, failed, make_dir};

/// Held while one run uses the lease's work directory.
#[derive(Debug)]
pub struct LeaseLock {
    file: File,
}

impl Drop for LeaseLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is being started may hold a copy of the file for a moment.
        let _ = self.file.unlock();
    }
}

/// Whether to queue behind another run, and for how long at most.
#[derive(Debug, Clone, Copy)]
pub struct Patience(pub Duration);

/// Takes the lock, or waits for it with a notice. `owner` is shown to whoever waits for us.
pub async fn lock(
    state: &State,
    id: &LeaseId,
    owner: &str,
    patience: Patience,
    clock: &impl Clock,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<LeaseLock> {
    make_dir(&state.locks())?;
    let path = state.locks().join(id.as_str());
    let mut file = open(&path)?;
    let started = clock.monotonic_ms();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) if file.metadata().is_ok_and(|meta| meta.nlink() > 0) => break,
            Ok(()) => {
                file = open(&path)?; // a release removed it while we waited
                continue;
            }
            Err(TryLockError::Error(e)) => return Err(failed("cannot lock", &path, &e)),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = read_owner(&mut file);
        if clock.monotonic_ms() - started
            >= u64::try_from(patience.0.as_millis()).unwrap_or(u64::MAX)
        {
            return Err(KernelError::new(
                ErrorCode::Busy,
                format!("lease {id} is in use by {holder}"),
            )
            .hint("wait for it, stop it, or use another lease"));
        }
        if !told {
            events.emit(Event::Waiting { owner: holder });
            told = true;
        }
        tokio::select! {
            () = clock.sleep(Duration::from_millis(100)) => {}
            () = stop.reaches(Urgency::Gentle) => {
                return Err(KernelError::new(ErrorCode::Cancelled, "interrupted while waiting for the lease"));
            }
        }
    }
    write_owner(&mut file, owner).map_err(|e| failed("cannot write", &path, &e))?;
    Ok(LeaseLock { file })
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| failed("cannot open", path, &e))
}

fn read_owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(200).read_to_string(&mut text));
    match read {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "another run".to_owned(),
    }
}

fn write_owner(file: &mut File, owner: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(owner.as_bytes())
}
