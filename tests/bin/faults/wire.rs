//! The wire: raw bytes out, answers in.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::FOR_EVER;

pub(crate) struct Wire {
    out: Mutex<()>,
    /// Frames until it dies.
    left: Option<AtomicU64>,
    asked: AtomicU64,
    answers: Mutex<HashMap<String, Sender<Value>>>,
    cancel: (Mutex<bool>, Condvar),
    deaf: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    pub(crate) fn new(left: Option<u64>) -> Self {
        Self {
            out: Mutex::default(),
            left: left.map(AtomicU64::new),
            asked: AtomicU64::new(0),
            answers: Mutex::default(),
            cancel: Default::default(),
            deaf: AtomicBool::new(false),
        }
    }

    /// Writes bytes as they are; ends the plugin when nobody reads them any more.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let _turn = lock(&self.out);
        let mut out = std::io::stdout().lock();
        if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
            std::process::exit(0);
        }
    }

    pub(crate) fn send(&self, mut frame: Value) {
        frame["jsonrpc"] = json!("2.0");
        self.raw(format!("{frame}\n").as_bytes());
        if let Some(left) = &self.left
            && left.fetch_sub(1, Ordering::SeqCst) <= 1
        {
            std::process::exit(9);
        }
    }

    /// Makes a callback; its answer comes later.
    pub(crate) fn ask(&self, method: &str, params: Value) -> Receiver<Value> {
        let id = format!("p{}", self.asked.fetch_add(1, Ordering::SeqCst) + 1);
        let (sender, receiver) = channel();
        lock(&self.answers).insert(id.clone(), sender);
        self.send(json!({"id": id, "method": format!("host/{method}"), "params": params}));
        receiver
    }

    pub(crate) fn answered(&self, id: &str, frame: Value) {
        if let Some(waiting) = lock(&self.answers).remove(id) {
            let _ = waiting.send(frame);
        }
    }

    pub(crate) fn cancelled(&self) {
        *lock(&self.cancel.0) = true;
        self.cancel.1.notify_all();
    }

    /// Waits until any call is cancelled.
    pub(crate) fn wait_for_cancel(&self) {
        let cancelled = lock(&self.cancel.0);
        let waited = self.cancel.1.wait_timeout_while(cancelled, FOR_EVER, |cancelled| !*cancelled);
        drop(waited);
    }

    /// From now on nothing is read.
    pub(crate) fn go_deaf(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }
}
