//! The plugin wire without I/O: bounded line frames, output bytes, byte credit.
//!
//! Feed bytes to a [`LineReader`], take [`Frame`]s out; encode a [`Frame`] to get the bytes of one line.
//! [`payload`] turns output bytes into `text` or `b64`, [`Credit`] and [`Offsets`] keep their accounts.

mod credit;
mod frame;
mod line;
pub mod payload;

pub use credit::{Credit, Offsets, Placed};
pub use frame::{Frame, Id, MAX_DEPTH, WireError};
pub use line::{LineReader, MAX_LINE};
