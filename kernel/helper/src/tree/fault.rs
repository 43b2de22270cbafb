//! Why a tree could not be made as wanted.

use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::helper::Refused;
use crabbox_tree::TreeError;
use rustix::io::Errno;

/// Why a tree could not be made as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The work root belongs to another lease.
    Fence {
        /// Whose it is.
        lease: String,
    },
    /// Another run holds the work tree, and waiting was over.
    Busy {
        /// Who.
        owner: String,
    },
    /// A piece does not hash to what the delta says.
    Content,
    /// Nobody wants the answer any more.
    Cancelled,
    /// The other side broke the rules.
    Protocol(String),
    /// The disk, or the user's share of it, is full.
    Full(String),
    /// Something else writes to the tree while it is made.
    Unequal(String),
    /// The system refused.
    Io(String),
}

impl Fault {
    /// The refusal this is, when the laptop can correct itself.
    pub fn refused(&self) -> Option<Refused> {
        match self {
            Fault::Fence { lease } => Some(Refused::Fence { lease: lease.clone() }),
            Fault::Busy { owner } => Some(Refused::Busy { owner: owner.clone() }),
            Fault::Content => Some(Refused::Content),
            _ => None,
        }
    }

    /// Its kind on the wire.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Fault::Fence { .. } => ErrorKind::Precondition,
            Fault::Busy { .. } | Fault::Content | Fault::Unequal(_) => ErrorKind::Conflict,
            Fault::Cancelled => ErrorKind::Cancelled,
            Fault::Protocol(_) => ErrorKind::InvalidRequest,
            Fault::Full(_) => ErrorKind::Capacity,
            Fault::Io(_) => ErrorKind::Internal,
        }
    }

    /// What to do about it, when there is something.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Fault::Full(_) => {
                Some("make room on the box; the next sync finishes what is half done")
            }
            Fault::Unequal(_) => Some("stop what writes to the tree on the box, then run again"),
            _ => None,
        }
    }

    /// The fault of a system call that was to do `what`.
    pub(crate) fn of(what: impl std::fmt::Display) -> impl FnOnce(Errno) -> Self {
        move |errno| match errno {
            Errno::NOSPC | Errno::DQUOT => Fault::Full(format!("cannot {what}: the disk is full")),
            Errno::FBIG => Fault::Full(format!("cannot {what}: the file is larger than allowed")),
            errno => Fault::Io(format!("cannot {what}: {}", std::io::Error::from(errno))),
        }
    }

    /// The same for an error of the standard library.
    pub(crate) fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| match Errno::from_io_error(&error) {
            Some(errno) => Fault::of(what)(errno),
            None => Fault::Io(format!("cannot {what}: {error}")),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Fence { lease } => write!(f, "the work root belongs to lease {lease}"),
            Fault::Busy { owner } => write!(f, "the work tree is held by {owner}"),
            Fault::Content => f.write_str("a file changed while it was sent"),
            Fault::Cancelled => f.write_str("cancelled"),
            Fault::Protocol(what) | Fault::Full(what) | Fault::Unequal(what) | Fault::Io(what) => {
                f.write_str(what)
            }
        }
    }
}

impl std::error::Error for Fault {}

impl From<TreeError> for Fault {
    fn from(error: TreeError) -> Self {
        Fault::Protocol(error.0)
    }
}

/// What tree work gives back.
pub(crate) type Result<T> = std::result::Result<T, Fault>;
