//! Packets come back whatever the cuts between reads, and noise never panics or takes memory.

use bytes::Bytes;
use crabbox_wire::{GREETING, MAX_BODY, Packet, PacketReader};
use proptest::prelude::*;

fn packet() -> impl Strategy<Value = Packet> {
    (
        any::<u32>(),
        any::<u32>(),
        any::<bool>(),
        any::<u64>(),
        proptest::collection::vec(any::<u8>(), 0..99),
    )
        .prop_map(|(session, channel, last, offset, body)| {
            Packet::data(session, channel, offset, last, body.into())
        })
}

proptest! {
    #[test]
    fn packets_survive_any_cuts(packets in proptest::collection::vec(packet(), 0..9), cut in 1usize..50, noise in "[a-z\n]{0,40}") {
        let mut bytes = noise.into_bytes();
        bytes.extend_from_slice(GREETING);
        packets.iter().for_each(|p| bytes.extend_from_slice(&p.to_bytes()));
        let mut reader = PacketReader::new();
        let mut back = Vec::new();
        for piece in bytes.chunks(cut) {
            reader.feed(piece);
            while let Some(packet) = reader.next_packet() {
                back.push(packet.unwrap());
            }
        }
        prop_assert_eq!(back, packets);
    }

    #[test]
    fn noise_ends_in_an_error_or_in_silence(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut reader = PacketReader::without_greeting();
        reader.feed(&bytes);
        while let Some(Ok(packet)) = reader.next_packet() {
            let _ = packet.frame();
        }
    }
}

#[test]
fn a_body_beyond_the_limit_is_refused_by_its_head() {
    let packet = Packet::data(0, 1, 0, false, Bytes::from(vec![0; MAX_BODY + 1]));
    let mut reader = PacketReader::without_greeting();
    reader.feed(&packet.head());
    assert!(reader.next_packet().unwrap().is_err());
}

#[test]
fn a_program_that_never_greets_is_given_up() {
    let mut reader = PacketReader::new();
    reader.feed(&[b'x'; 1000]);
    assert!(reader.next_packet().is_none());
    reader.feed(&[b'x'; 100_000]);
    assert!(reader.next_packet().unwrap().is_err());
}
