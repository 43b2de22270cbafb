//! Small pieces of text: sizes, durations, counts, and names that cannot drive a terminal.

use std::fmt::Write;
use std::time::Duration;

use crate::time::format_duration;

/// `512 B`, `1.5 KiB`, `2.0 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A duration as exactly as people care: `350ms`, `1.24s`, `1m12s`.
pub fn took(ms: u64) -> String {
    let step = match ms {
        0..1_000 => 1,
        1_000..60_000 => 10,
        _ => 1_000,
    };
    let rounded = (ms + step / 2) / step * step;
    format_duration(Duration::from_millis(rounded))
}

/// `1 file`, `2 files`.
pub fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// The text with everything that could drive a terminal or break a line made visible.
pub fn plain(text: &str) -> String {
    escaped(text, false)
}

/// As [`plain`], but lines stay lines, indented so that none can pass for a line of ours.
pub fn plain_lines(text: &str) -> String {
    escaped(text, true)
}

fn escaped(text: &str, keep_lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' if keep_lines => out.push_str("\n    "),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || turns_text(c) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Characters that reorder or hide the text around them.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A name for people; one that is a secret token is not shown.
pub fn user(name: &str, secret: bool) -> String {
    if secret { "<redacted>".to_owned() } else { plain(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_at_a_glance() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        for (ms, text) in [
            (0, "0s"),
            (350, "350ms"),
            (1_238, "1.24s"),
            (59_996, "1m0s"),
            (72_400, "1m12s"),
            (5_400_000, "1h30m0s"),
        ] {
            assert_eq!(took(ms), text);
        }
        assert_eq!(
            (count(1, "file"), count(0, "file")),
            ("1 file".to_owned(), "0 files".to_owned())
        );
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(plain("a\x1b[31mb\nc\t\u{9b}x"), "a\\u{1b}[31mb\\nc\\t\\u{9b}x");
        assert_eq!(plain("txt.\u{202e}exe"), "txt.\\u{202e}exe");
        assert_eq!(plain("größe 🦀"), "größe 🦀");
        assert_eq!(plain_lines("a\nhint: b\r"), "a\n    hint: b\\r");
    }
}
