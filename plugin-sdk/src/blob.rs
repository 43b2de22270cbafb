//! Blobs: large contents that stay with the host and are named here.

use std::io;

use crabbox_schemas::plugin::{BlobBytes, BlobFacts, BlobParams, BlobReadParams, BlobWriteParams};
use crabbox_wire::payload::{self, MAX_CHUNK};

use crate::call::bytes_of;
use crate::doors::{BlobCreate, BlobDrop, BlobRead, BlobSeal, BlobWrite};
use crate::{Call, Failure};

/// A blob that is being written. Anything that writes to an [`io::Write`] can fill it.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    call: &'a Call,
    name: String,
    pending: Vec<u8>,
}

/// Reads a sealed blob from its beginning.
#[derive(Debug)]
pub struct BlobReader<'a> {
    call: &'a Call,
    name: String,
    offset: u64,
}

impl Call {
    /// Begins a blob. It lives as long as the session.
    pub fn create_blob(&self) -> Result<BlobWriter<'_>, Failure> {
        let params = BlobParams { call: self.id(), blob: None };
        let facts: BlobFacts = self.ask::<BlobCreate>(&params)?;
        Ok(BlobWriter { call: self, name: facts.blob, pending: Vec::new() })
    }

    /// Reads a sealed blob.
    pub fn read_blob(&self, name: &str) -> BlobReader<'_> {
        BlobReader { call: self, name: name.to_owned(), offset: 0 }
    }

    /// Size and SHA-256 of a sealed blob; seals it if it is not yet.
    pub fn seal_blob(&self, name: &str) -> Result<BlobFacts, Failure> {
        let params = BlobParams { call: self.id(), blob: Some(name.to_owned()) };
        self.ask::<BlobSeal>(&params)
    }

    /// Removes a blob before the session ends.
    pub fn drop_blob(&self, name: &str) -> Result<(), Failure> {
        let params = BlobParams { call: self.id(), blob: Some(name.to_owned()) };
        self.ask::<BlobDrop>(&params).map(drop)
    }
}

impl BlobWriter<'_> {
    /// Ends the blob; from now on it can be read and sent.
    pub fn seal(mut self) -> Result<BlobFacts, Failure> {
        self.send(0)?;
        self.call.seal_blob(&self.name)
    }

    /// Sends what is pending, down to this many bytes.
    fn send(&mut self, keep: usize) -> Result<(), Failure> {
        while self.pending.len() > keep {
            let rest = self.pending.split_off(self.pending.len().min(MAX_CHUNK));
            let piece = std::mem::replace(&mut self.pending, rest);
            let (text, b64) = payload::pack(&piece);
            let (call, blob) = (self.call.id(), self.name.clone());
            let params = BlobWriteParams { call, blob, text, b64 };
            self.call.ask::<BlobWrite>(&params)?;
        }
        Ok(())
    }
}

impl io::Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        self.send(MAX_CHUNK).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send(0).map_err(io::Error::other)
    }
}

impl io::Read for BlobReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let params = BlobReadParams {
            call: self.call.id(),
            blob: self.name.clone(),
            off: self.offset,
            max: into.len().min(MAX_CHUNK) as u64,
        };
        let read: BlobBytes = self.call.ask::<BlobRead>(&params).map_err(io::Error::other)?;
        let bytes = bytes_of(read.text, read.b64).map_err(io::Error::other)?.unwrap_or_default();
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        self.offset += count as u64;
        Ok(count)
    }
}
