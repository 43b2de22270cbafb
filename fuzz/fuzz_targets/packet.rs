//! Bytes from a box: no panic, and what is read as packets is written as the same bytes.
#![no_main]

use crabbox_wire::PacketReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut reader = PacketReader::without_greeting();
    reader.feed(bytes);
    let mut written = Vec::new();
    while let Some(Ok(packet)) = reader.next_packet() {
        let _ = packet.frame();
        written.extend(packet.to_bytes());
    }
    assert!(bytes.starts_with(&written));
    let mut greeted = PacketReader::new();
    greeted.feed(bytes);
    while let Some(Ok(_)) = greeted.next_packet() {}
});
