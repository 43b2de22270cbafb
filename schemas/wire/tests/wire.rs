//! What the codec accepts, refuses and keeps, whatever the chunking.

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_wire::{Credit, Frame, Id, LineReader, MAX_LINE, Offsets, Placed, WireError, payload};
use proptest::prelude::*;
use serde_json::json;

fn frames(reader: &mut LineReader) -> Vec<Result<Frame, WireError>> {
    std::iter::from_fn(|| reader.next_frame()).collect()
}

fn read(bytes: &[u8]) -> Vec<Result<Frame, WireError>> {
    let mut reader = LineReader::default();
    reader.feed(bytes);
    frames(&mut reader)
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let params = prop::collection::btree_map("[a-z\"\\\\\n☃]{0,6}", any::<i32>(), 0..4)
        .prop_map(|m| json!(m));
    let id = prop_oneof![(1u64..1 << 53).prop_map(Id::Number), "p[0-9]{1,4}".prop_map(Id::Text)];
    prop_oneof![
        (id.clone(), "[a-z/$.]{1,12}", params.clone())
            .prop_map(|(id, method, params)| Frame::Request { id, method, params }),
        ("[a-z/$.]{1,12}", params.clone())
            .prop_map(|(method, params)| Frame::Notification { method, params }),
        (id.clone(), params).prop_map(|(id, v)| Frame::Response { id, result: Ok(v) }),
        (id, any::<String>()).prop_map(|(id, message)| Frame::failure(
            id,
            RpcError { code: ErrorKind::Quota.rpc_code(), message, data: None }
        )),
    ]
}

proptest! {
    #[test]
    fn any_chunking_yields_the_same_frames(
        sent in prop::collection::vec(any_frame(), 0..8),
        cuts in prop::collection::vec(1usize..40, 1..8),
        crlf in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for frame in &sent {
            let mut line = frame.encode(MAX_LINE).unwrap();
            prop_assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
            if crlf {
                line.splice(line.len() - 1.., *b"\r\n\r\n");
            }
            bytes.extend(line);
        }
        let mut reader = LineReader::default();
        let mut got = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break }
            let (head, tail) = rest.split_at((*cut).min(rest.len()));
            reader.feed(head);
            got.extend(frames(&mut reader));
            rest = tail;
        }
        prop_assert_eq!(got.into_iter().collect::<Result<Vec<_>, _>>().unwrap(), sent);
        prop_assert!(!reader.is_mid_line());
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), max in 1usize..64) {
        let mut reader = LineReader::new(max);
        for chunk in bytes.chunks(7) {
            reader.feed(chunk);
            frames(&mut reader);
        }
    }

    #[test]
    fn bytes_come_back_from_text_or_b64(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (text, b64) = payload::pack(&bytes);
        prop_assert!(text.is_some() != b64.is_some());
        prop_assert_eq!(payload::unpack(text, b64).unwrap(), bytes);
    }
}

#[test]
fn what_is_not_a_frame_is_named_and_the_next_line_still_counts() {
    let deep = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{{\"a\":{}1{}}}}}",
        "[".repeat(65),
        "]".repeat(65)
    );
    for (bad, reason) in [
        (&b"hello\x1b there"[..], "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"\xef\xbb\xbf{}", "not a JSON object"),
        (b"{\"a\":\xff}", "not UTF-8"),
        (b"{\"a\":", "not JSON"),
        (b"{\"method\":\"m\"}", "jsonrpc"),
        (b"{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":[1]}", "not an object"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1}", "exactly one"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":-1,\"result\":{}}", "bad id"),
        (deep.as_bytes(), "nested too deeply"),
    ] {
        let mut bytes = bad.to_vec();
        bytes.extend(b"\n{\"jsonrpc\":\"2.0\",\"method\":\"ok\"}\n");
        let got = read(&bytes);
        let error = got[0].clone().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!error.contains('\x1b'), "escaped: {error}");
        assert_eq!(got[1], Frame::notification("ok", &json!({})).map_err(|_| unreachable!()));
    }
}

#[test]
fn a_line_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let fit = |max: usize| {
        let bare = Frame::notification("m", &json!({"x": ""})).unwrap();
        let pad = max - bare.encode(max).unwrap().len();
        Frame::notification("m", &json!({"x": "y".repeat(pad)})).unwrap()
    };
    let line = fit(MAX_LINE).encode(MAX_LINE).unwrap();
    assert_eq!(line.len(), MAX_LINE);
    assert!(read(&line)[0].is_ok());
    let long = fit(MAX_LINE + 1);
    assert!(matches!(long.encode(MAX_LINE), Err(WireError::TooLong { .. })));
    let mut line = long.encode(MAX_LINE + 1).unwrap();
    line.extend(b"{\"jsonrpc\":\"2.0\",\"method\":\"ok\"}\n");
    let whole = read(&line);
    let mut reader = LineReader::default();
    let pieces: Vec<_> = line
        .chunks(1000)
        .flat_map(|chunk| {
            reader.feed(chunk);
            frames(&mut reader)
        })
        .collect();
    for got in [whole, pieces] {
        assert_eq!(got.len(), 2);
        assert!(matches!(got[0], Err(WireError::TooLong { .. })));
        assert!(got[1].is_ok());
    }
}

#[test]
fn an_unbroken_flood_is_refused_once_and_not_kept() {
    let mut reader = LineReader::new(1000);
    let mut faults = 0;
    for _ in 0..100 {
        reader.feed(&[b'x'; 100]);
        faults += frames(&mut reader).len();
    }
    assert_eq!(faults, 1);
    assert!(reader.is_mid_line());
}

#[test]
fn a_sender_may_overdraw_by_one_chunk_and_credit_comes_back_in_halves() {
    let chunk = payload::MAX_CHUNK as u64;
    let window = 2 * chunk;
    let mut credit = Credit::new(window);
    assert!(credit.take(window - 1) && credit.may_send());
    assert!(credit.take(chunk), "one chunk of overdraft");
    assert!(!credit.may_send());
    assert!(!credit.take(2), "more is a fault");
    let mut receiver = Credit::new(window);
    receiver.take(window);
    assert_eq!(receiver.consume(chunk - 1), None);
    assert_eq!(receiver.consume(1), Some(chunk));
    assert!(receiver.may_send());
}

#[test]
fn offsets_drop_what_came_and_show_what_did_not() {
    let mut offsets = Offsets::default();
    assert_eq!(offsets.place(0, 10), Placed::New(0));
    assert_eq!(offsets.place(0, 10), Placed::Old);
    assert_eq!(offsets.place(5, 10), Placed::New(5));
    assert_eq!(offsets.place(20, 5), Placed::Gap(15, 20));
    assert_eq!(offsets.skip(30), 25);
    assert_eq!(offsets.place(30, 1), Placed::New(0));
    assert_eq!(offsets.next(), 31);
}

/// Pseudo-random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % limit.max(1)
    }
}

/// A quarter of a million lines, most of them damaged: however they are cut, the reader says the same of each, and what it
/// takes for a frame is one that it would write and read again.
#[test]
fn damaged_frames_are_read_the_same_however_they_arrive() {
    const SAMPLES: &[&str] = &[
        r#"{"jsonrpc":"2.0","id":7,"method":"lease.list","params":{"ctx":{"deadlineMs":1}}}"#,
        r#"{"jsonrpc":"2.0","id":"p1","method":"host/kv.get","params":{"call":3,"key":"k"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{"leases":[],"complete":true}}"#,
        r#"{"jsonrpc":"2.0","id":7,"error":{"code":1030,"message":"full","data":{"kind":"capacity"}}}"#,
        r#"{"jsonrpc":"2.0","method":"event/output","params":{"call":7,"ch":"stdout","off":0,"text":"\u00e9\n"}}"#,
    ];
    const SPICE: &[u8] = b"{}[]\",:0189eE+-.\\u\0\x1b\xff\xef\xbb\xbf \r\tnulltrue";
    let (mut dice, mut lines, mut good) = (Dice(0x5eed), 0, 0);
    while lines < 250_000 {
        let mut bytes = Vec::new();
        for _ in 0..50 {
            let mut line = SAMPLES[dice.below(SAMPLES.len())].as_bytes().to_vec();
            for _ in 0..dice.below(3) {
                let at = dice.below(line.len());
                match dice.below(3) {
                    0 => line[at] = SPICE[dice.below(SPICE.len())],
                    1 => drop(line.remove(at)),
                    _ => line.insert(at, SPICE[dice.below(SPICE.len())]),
                }
            }
            bytes.extend(line);
            bytes.push(b'\n');
        }
        let whole = read(&bytes);
        let mut reader = LineReader::default();
        let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at((1 + dice.below(400)).min(rest.len()));
            reader.feed(piece);
            pieces.extend(frames(&mut reader));
            rest = tail;
        }
        assert_eq!(whole, pieces);
        lines += whole.len();
        for frame in whole.into_iter().flatten() {
            good += 1;
            let line = frame.encode(MAX_LINE).unwrap();
            assert_eq!(Frame::decode(line.trim_ascii_end()), Ok(frame));
        }
    }
    assert!(good > lines / 10, "only {good} of {lines} were frames");
}
