//! Takes secrets out of what goes back to a plugin, in the forms in which servers echo them.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

/// What stands where a secret was.
const MARK: &str = "[redacted]";
/// Shorter values would take innocent text along.
const SHORTEST: usize = 4;
/// What encoders leave as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The forms of every secret that was sent.
#[derive(Clone, Default)]
pub struct Redactor {
    forms: Vec<Zeroizing<String>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} forms)", self.forms.len())
    }
}

impl Redactor {
    /// Watches for one more value.
    pub(crate) fn add(&mut self, value: &str) {
        if value.len() < SHORTEST || self.forms.iter().any(|form| form.as_str() == value) {
            return;
        }
        let json = Value::from(value).to_string();
        // The last group of base64 depends on what follows in a longer text.
        let whole = |text: String| text[..value.len() / 3 * 4].to_owned();
        let forms = [
            value.to_owned(),
            utf8_percent_encode(value, UNRESERVED).to_string(),
            json[1..json.len() - 1].to_owned(),
            whole(STANDARD_NO_PAD.encode(value)),
            whole(URL_SAFE_NO_PAD.encode(value)),
        ];
        for form in forms {
            if form.len() >= SHORTEST && !self.forms.iter().any(|known| *known.as_str() == form) {
                self.forms.push(Zeroizing::new(form));
            }
        }
        // A secret inside another one must not leave half of the longer behind.
        self.forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    }

    /// Whether there is nothing to watch for.
    pub fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Whether the text holds a secret.
    pub fn finds(&self, text: &str) -> bool {
        self.forms.iter().any(|form| text.contains(form.as_str()))
    }

    /// The text without secrets.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut out = Cow::Borrowed(text);
        for form in self.forms.iter().filter(|form| text.contains(form.as_str())) {
            out = Cow::Owned(out.replace(form.as_str(), MARK));
        }
        out
    }

    /// Takes secrets out of every text of a document, names of members included.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(clean) = self.text(text) {
                    *text = clean;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.json(item)),
            Value::Object(members) => {
                members.values_mut().for_each(|member| self.json(member));
                if members.keys().any(|key| matches!(self.text(key), Cow::Owned(_))) {
                    let old = std::mem::take(members);
                    *members =
                        old.into_iter().map(|(k, v)| (self.text(&k).into_owned(), v)).collect();
                }
            }
            _ => {}
        }
    }

    /// The bytes without secrets.
    pub fn bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        let mut stream = RedactStream::default();
        let mut out = stream.feed(self, &bytes);
        out.extend(stream.end(self));
        out
    }
}

/// Takes secrets out of a stream, across the borders of its pieces.
#[derive(Debug, Default)]
pub struct RedactStream {
    /// A tail that may be the beginning of a secret.
    held: Vec<u8>,
}

impl RedactStream {
    /// What can be passed on now.
    pub fn feed(&mut self, redactor: &Redactor, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.clean(redactor, true)
    }

    /// What was held back, once nothing follows.
    pub fn end(&mut self, redactor: &Redactor) -> Vec<u8> {
        self.clean(redactor, false)
    }

    fn clean(&mut self, redactor: &Redactor, more_may_come: bool) -> Vec<u8> {
        if redactor.forms.is_empty() {
            return std::mem::take(&mut self.held);
        }
        let (mut out, mut at) = (Vec::with_capacity(self.held.len()), 0);
        while at < self.held.len() {
            let rest = &self.held[at..];
            let begun = |form: &Zeroizing<String>| {
                form.len() > rest.len() && form.as_bytes().starts_with(rest)
            };
            if more_may_come && redactor.forms.iter().any(begun) {
                break;
            }
            match redactor.forms.iter().find(|form| rest.starts_with(form.as_bytes())) {
                Some(form) => {
                    out.extend_from_slice(MARK.as_bytes());
                    at += form.len();
                }
                None => {
                    out.push(rest[0]);
                    at += 1;
                }
            }
        }
        self.held.drain(..at);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn redactor() -> Redactor {
        let mut redactor = Redactor::default();
        redactor.add("s3cr/et\"value");
        redactor.add("s3cr/et\"value-longer");
        redactor.add("abc"); // too short to watch for
        redactor
    }

    #[test]
    fn a_secret_goes_in_every_form_it_is_echoed_in() {
        let redactor = redactor();
        let b64 = STANDARD_NO_PAD.encode("user:s3cr/et\"value");
        for text in [
            "say s3cr/et\"value!".to_owned(),
            "q=s3cr%2Fet%22value".to_owned(),
            json!({"echo": "s3cr/et\"value"}).to_string(),
            STANDARD_NO_PAD.encode("s3cr/et\"value and more"),
            "s3cr/et\"value-longer".to_owned(),
        ] {
            let clean = redactor.text(&text);
            assert!(clean.contains(MARK), "{text}");
            assert!(!clean.contains("s3cr") && !clean.contains("longer"), "{clean}");
        }
        assert_eq!(redactor.text(&b64), b64, "a whole header is watched for by itself");
        assert_eq!(redactor.text("abcdef"), "abcdef");
    }

    proptest::proptest! {
        #[test]
        fn any_secret_is_taken_out_of_a_stream_cut_anywhere(
            secret in "[a-zA-Z0-9+/=\"%äß ]{4,24}",
            before in "[a-c\"]{0,30}",
            after in "[a-c\"]{0,30}",
            cuts in proptest::collection::vec(1usize..9, 1..12),
        ) {
            let mut redactor = Redactor::default();
            redactor.add(&secret);
            let whole = format!("{before}{secret}{after}{secret}");
            let (mut stream, mut out, mut rest) = (RedactStream::default(), Vec::new(), whole.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                out.extend(stream.feed(&redactor, piece));
                rest = tail;
            }
            out.extend(stream.end(&redactor));
            let out = String::from_utf8(out).unwrap();
            proptest::prop_assert!(!out.contains(&secret), "{out}");
            let at_once = redactor.bytes(whole.clone().into_bytes());
            proptest::prop_assert_eq!(out.as_bytes(), &*at_once);
            let text = redactor.text(&whole);
            proptest::prop_assert!(!text.contains(&secret), "{text}");
            let mut value = serde_json::json!({ whole.clone(): [whole] });
            redactor.json(&mut value);
            proptest::prop_assert!(!value.to_string().contains(&secret[..]));
        }
    }

    #[test]
    fn names_of_members_are_cleaned_too() {
        let mut value = json!({"s3cr/et\"value": [{"x": "s3cr/et\"value"}], "n": 1});
        redactor().json(&mut value);
        assert_eq!(value, json!({MARK: [{"x": MARK}], "n": 1}));
    }

    #[test]
    fn a_secret_cut_at_any_border_is_still_taken_out() {
        let redactor = redactor();
        let whole = b"a s3cr/et\"value b s3cr/et\"value-longer c s3cr";
        let expected = format!("a {MARK} b {MARK} c s3cr").into_bytes();
        for cut in 0..whole.len() {
            let mut stream = RedactStream::default();
            let mut out = stream.feed(&redactor, &whole[..cut]);
            out.extend(stream.feed(&redactor, &whole[cut..]));
            out.extend(stream.end(&redactor));
            assert_eq!(out, expected, "cut at {cut}");
        }
    }
}
