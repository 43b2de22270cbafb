//! One machine of a cloud for tests, for clouds that are not written in Rust.
//!
//! `fake-machine FOLDER ADDRESS [broken] [impostor]` sets up what the file `user-data` in the folder says, and ends, with
//! everything that runs on it, when its standard input does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boot;

use std::io::Read;
use std::path::PathBuf;

use boot::Machine;

fn main() {
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().expect("a folder"));
    let address = words.next().expect("an address");
    let how: Vec<String> = words.collect();
    let is = |word: &str| how.iter().any(|said| said == word);
    let data = std::fs::read_to_string(folder.join("user-data")).unwrap();
    let machine = Machine::boot(&folder, &data, &address, is("impostor"));
    if let Some(machine) = machine.as_ref().filter(|_| is("broken")) {
        machine.break_it();
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(machine);
}
