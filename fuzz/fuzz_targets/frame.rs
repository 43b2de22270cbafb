//! Bytes from a plugin, in two pieces: no panic, the same frames as in one, and each is written and read again.
#![no_main]

use crabbox_wire::{Frame, LineReader, MAX_LINE};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, usize)| {
    let (bytes, cut) = input;
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let read = |pieces: &[&[u8]]| {
        let mut reader = LineReader::new(4096);
        let mut frames = Vec::new();
        for piece in pieces {
            reader.feed(piece);
            frames.extend(std::iter::from_fn(|| reader.next_frame()).map(Result::ok));
        }
        frames
    };
    let frames = read(&[&bytes]);
    if bytes.len() < 4096 {
        assert_eq!(frames, read(&[first, second]));
    }
    for frame in frames.into_iter().flatten() {
        let line = frame.encode(MAX_LINE).expect("what was read can be written");
        assert_eq!(Frame::decode(line.trim_ascii_end()), Ok(frame));
    }
});
