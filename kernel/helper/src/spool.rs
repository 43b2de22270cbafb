//! The spool: a stream's bytes in files of one size, written by the worker and read by anybody.
//!
//! The file `out.3` holds the bytes from `3 * size` on. The oldest files go when there are too many.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Least bytes a spool keeps.
const LEAST: u64 = 256 << 10;
/// Largest file of a spool: as much is given back at once when the disk is full.
const LARGEST: u64 = 1 << 20;
/// How many files a spool has at least, when it is full.
const FILES: u64 = 4;

/// The bytes of one file of a spool that keeps `limit` bytes.
fn file_size(limit: u64) -> u64 {
    (limit.max(LEAST) / FILES).min(LARGEST)
}

/// The writing end, in the worker.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    limit: u64,
    size: u64,
    oldest: u64,
    end: u64,
    file: Option<File>,
}

impl Writer {
    /// A new stream called `name` in a run's folder.
    pub(crate) fn new(dir: &Path, name: &str, limit: u64) -> Self {
        let (limit, size) = (limit.max(LEAST), file_size(limit));
        Self { path: dir.join(name), limit, size, oldest: 0, end: 0, file: None }
    }

    /// Length of the stream so far.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes may be written now; 0 while they would push out what a reader still needs from `needed`
    /// on. `force` lets the spool grow beyond its limit instead.
    pub(crate) fn room(&mut self, needed: u64, force: bool) -> usize {
        if self.end.is_multiple_of(self.size) {
            while self.end + self.size - self.oldest * self.size > self.limit {
                let next = (self.oldest + 1) * self.size;
                if next > needed || next > self.end {
                    break;
                }
                let _ = std::fs::remove_file(numbered(&self.path, self.oldest));
                self.oldest += 1;
            }
            if self.end + self.size - self.oldest * self.size > self.limit && !force {
                return 0;
            }
        }
        usize::try_from(self.size - self.end % self.size).unwrap_or(usize::MAX)
    }

    /// Removes what nobody needs from `needed` on, since the disk is full; the file being written stays.
    pub(crate) fn give_way(&mut self, needed: u64) {
        while (self.oldest + 1) * self.size <= needed.min(self.end) {
            let _ = std::fs::remove_file(numbered(&self.path, self.oldest));
            self.oldest += 1;
        }
    }

    /// Removes everything that is kept.
    pub(crate) fn abandon(&mut self) {
        self.file = None;
        for number in self.oldest..=self.end / self.size {
            let _ = std::fs::remove_file(numbered(&self.path, number));
        }
        self.oldest = self.end / self.size;
    }

    /// Bytes that cannot be kept.
    pub(crate) fn pass_over(&mut self, bytes: usize) {
        self.file = None;
        self.end += bytes as u64;
    }

    /// Writes at most [`Writer::room`] bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.end.is_multiple_of(self.size) {
            self.file = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(create(&numbered(&self.path, self.end / self.size))?),
        };
        let at = self.end % self.size;
        file.write_all_at(bytes, at)?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn numbered(path: &Path, number: u64) -> PathBuf {
    path.with_extension(number.to_string())
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes.
    Bytes(usize),
    /// The bytes up to here were dropped.
    Gap(u64),
    /// Nothing more for now.
    Nothing,
}

/// A reading end, at some place of the stream.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    size: u64,
    at: u64,
    file: Option<(u64, File)>,
}

impl Reader {
    /// Reads the stream `name` of a spool that keeps `limit` bytes, from `at` on.
    pub(crate) fn new(dir: &Path, name: &str, limit: u64, at: u64) -> Self {
        Self { path: dir.join(name), size: file_size(limit), at, file: None }
    }

    /// The place of the next byte.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The first byte of the file it reads from: what is before is not needed any more.
    pub(crate) fn needed(&self) -> u64 {
        self.at / self.size * self.size
    }

    /// Passes over what cannot be read.
    pub(crate) fn pass_over(&mut self, to: u64) {
        self.at = self.at.max(to);
    }

    /// Reads on.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        let number = self.at / self.size;
        if self.file.as_ref().is_none_or(|(open, _)| *open != number) {
            match File::open(numbered(&self.path, number)) {
                Ok(file) => self.file = Some((number, file)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return self.skip(number),
                Err(e) => return Err(e),
            }
        }
        let Some((_, file)) = &self.file else { return Ok(Read::Nothing) };
        let most = usize::try_from(self.size - self.at % self.size).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let got = file.read_at(&mut buffer[..most], self.at % self.size)?;
        self.at += got as u64;
        Ok(if got == 0 { Read::Nothing } else { Read::Bytes(got) })
    }

    fn skip(&mut self, number: u64) -> io::Result<Read> {
        let Some(next) = files(&self.path)?.into_iter().filter(|n| *n > number).min() else {
            return Ok(Read::Nothing);
        };
        self.at = next.saturating_mul(self.size);
        Ok(Read::Gap(self.at))
    }
}

/// The numbers of a spool's files.
fn files(path: &Path) -> io::Result<Vec<u64>> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let file = PathBuf::from(entry?.file_name());
        if file.file_stem() == path.file_name()
            && let Some(number) = file.extension().and_then(|e| e.to_str()?.parse().ok())
        {
            found.push(number);
        }
    }
    Ok(found)
}

/// Replaces a file at once, with these bytes.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    create(&fresh)?.write_all(bytes)?;
    std::fs::rename(&fresh, path)
}
