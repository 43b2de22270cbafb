//! What a plugin has open during one call: answers, sockets, tools. All of it is closed with the call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crabbox_net::{Socket, Stream};
use crabbox_schemas::error::{ErrorKind, RpcError};

use crate::fault::refuse;
use crate::process::Process;
use crate::spawn::lock;

/// Things one call may have open.
const MOST: usize = 16;

/// One open thing.
#[derive(Clone)]
pub(crate) enum Door {
    Stream(Arc<tokio::sync::Mutex<Stream>>),
    Socket(Arc<Socket>),
    Process(Arc<Process>),
}

/// The open things of one call, by name.
#[derive(Default)]
pub(crate) struct Doors(Mutex<Open>);

#[derive(Default)]
struct Open {
    issued: u64,
    doors: HashMap<String, Door>,
}

impl Doors {
    /// Room for one more, before anything is opened.
    pub(crate) fn room(&self) -> Result<(), RpcError> {
        if lock(&self.0).doors.len() < MOST {
            return Ok(());
        }
        let message = format!("a call may have {MOST} streams, sockets and tools open");
        Err(refuse(ErrorKind::Quota, message))
    }

    /// Keeps an open thing; gives back its name.
    pub(crate) fn add(&self, door: Door) -> String {
        let kind = match door {
            Door::Stream(_) => 's',
            Door::Socket(_) => 'w',
            Door::Process(_) => 'x',
        };
        let mut open = lock(&self.0);
        open.issued += 1;
        let name = format!("{kind}{}", open.issued);
        open.doors.insert(name.clone(), door);
        name
    }

    /// The open answer of that name.
    pub(crate) fn stream(&self, name: &str) -> Result<Arc<tokio::sync::Mutex<Stream>>, RpcError> {
        match self.get(name) {
            Some(Door::Stream(stream)) => Ok(stream),
            _ => Err(unknown("stream", name)),
        }
    }

    /// The open socket of that name.
    pub(crate) fn socket(&self, name: &str) -> Result<Arc<Socket>, RpcError> {
        match self.get(name) {
            Some(Door::Socket(socket)) => Ok(socket),
            _ => Err(unknown("socket", name)),
        }
    }

    /// The running tool of that name.
    pub(crate) fn process(&self, name: &str) -> Result<Arc<Process>, RpcError> {
        match self.get(name) {
            Some(Door::Process(process)) => Ok(process),
            _ => Err(unknown("process", name)),
        }
    }

    /// Closes one thing; what is not open is closed already.
    pub(crate) fn close(&self, name: &str) {
        let door = lock(&self.0).doors.remove(name);
        drop(door);
    }

    /// Closes everything.
    pub(crate) fn clear(&self) {
        let doors = std::mem::take(&mut lock(&self.0).doors);
        drop(doors);
    }

    fn get(&self, name: &str) -> Option<Door> {
        lock(&self.0).doors.get(name).cloned()
    }
}

fn unknown(kind: &str, name: &str) -> RpcError {
    refuse(ErrorKind::NotFound, format!("this call has no {kind} called {name}"))
}
