//! Both wires without I/O: the plugins' bounded line frames, the box channel's packets, byte credit.
//!
//! Feed bytes to a [`LineReader`], take [`Frame`]s out; encode a [`Frame`] to get the bytes of one line.
//! On a box channel the same frames travel in [`Packet`]s beside raw bytes. [`payload`] turns output bytes into `text` or `b64`, [`Credit`] and [`Offsets`] keep their accounts.

mod credit;
mod frame;
mod line;
mod packet;
pub mod payload;

pub use credit::{Credit, Offsets, Placed};
pub use frame::{Frame, Id, MAX_DEPTH, WireError};
pub use line::{LineReader, MAX_LINE};
pub use packet::{GREETING, HEAD, Head, MAX_BODY, Packet, PacketReader, WINDOW};
