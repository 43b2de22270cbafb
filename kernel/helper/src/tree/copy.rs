//! Copies of files: by reference where the file system can, else byte by byte with the holes left as holes.

use std::fs::File;
use std::io::{Read, Result};

use rustix::fs::{SeekFrom, fstat, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Copies a file's bytes into an empty one.
pub(crate) fn copy(from: &File, into: &File) -> Result<()> {
    if ioctl_ficlone(into, from).is_ok() {
        return Ok(());
    }
    let stat = fstat(from)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) >= size {
        return std::io::copy(&mut &*from, &mut &*into).map(drop);
    }
    ftruncate(into, size)?;
    let mut at = 0;
    while at < size {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(from, SeekFrom::Hole(start))?;
        seek(from, SeekFrom::Start(start))?;
        seek(into, SeekFrom::Start(start))?;
        std::io::copy(&mut from.take(end.saturating_sub(start)), &mut &*into)?;
        at = end.max(start + 1);
    }
    Ok(())
}
