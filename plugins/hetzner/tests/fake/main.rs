//! A Hetzner Cloud for tests, on loopback: it remembers, it fails on cue, and its servers are real SSH servers.
//!
//! `fake-hetzner FOLDER TOKEN` prints its address, and serves until its input ends. Below `/_fake` a test looks at
//! everything there is, sets rules for what shall go wrong, and makes what belongs to others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answer;
mod cloud;
mod http;
#[path = "../../../../tests/bin/machine/boot.rs"]
mod machine;
mod rules;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use cloud::Cloud;

fn main() {
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().expect("a folder"));
    let token = words.next().expect("a token");
    std::fs::create_dir_all(&folder).unwrap();
    let cloud = Arc::new(Mutex::new(Cloud::new(folder, token)));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut out = std::io::stdout();
    out.write_all(format!("http://{}/v1\n", listener.local_addr().unwrap()).as_bytes()).unwrap();
    let served = Arc::clone(&cloud);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let cloud = Arc::clone(&served);
            std::thread::spawn(move || {
                http::serve(&stream, |request| rules::answer(&cloud, request))
            });
        }
    });
    // It ends, with all its servers, when its input does.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    cloud.lock().unwrap_or_else(PoisonError::into_inner).end();
}
