//! What a file looked like when it was last known to be right.

use rustix::fs::FileType;

/// A moment of the file system's clock: seconds and nanoseconds.
pub(crate) type Moment = (i64, u32);

/// What a file looked like. As long as it looks the same, it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Look {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Moment,
    pub(crate) ctime: Moment,
    pub(crate) mode: u32,
    /// How many names the file has.
    pub(crate) links: u32,
}

impl Look {
    #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
    pub(crate) fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
            mode: stat.st_mode as u32,
            links: stat.st_nlink as u32,
        }
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub(crate) fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    pub(crate) fn exec(&self) -> bool {
        self.mode & 0o100 != 0
    }

    /// Whether the bytes must be the same, whatever was done to name and mode.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        (self.ino, self.size, self.mtime) == (other.ino, other.size, other.mtime)
    }
}

/// What is known of a path: how it looked, and whether looking alike proves that it is alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Record {
    pub(crate) look: Look,
    /// Whether the look was taken so long after the last change that a later change must show. Clocks of file
    /// systems tick slowly: two changes within a tick look alike.
    pub(crate) sure: bool,
}

impl Record {
    /// A look taken not before `stamp` on the file system's clock.
    pub(crate) fn taken(look: Look, stamp: Moment) -> Self {
        Self { look, sure: look.ctime < stamp && look.mtime < stamp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_proves_nothing_about_the_tick_it_was_taken_in() {
        let look = Look { mtime: (7, 50), ctime: (7, 60), ..Look::default() };
        assert!(!Record::taken(look, (7, 60)).sure);
        assert!(Record::taken(look, (7, 61)).sure);
        let future = Look { mtime: (9, 0), ..look };
        assert!(!Record::taken(future, (8, 0)).sure);
    }
}
