//! A cassette of any text: an error that names a line, or a cassette.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(why) = crabbox_cassette::Cassette::parse(text) {
        assert!(why.starts_with("line "), "{why}");
    }
});
