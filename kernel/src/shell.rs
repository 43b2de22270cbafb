//! Words for a POSIX shell.

/// Quotes one word so that any shell reads it back unchanged; plain words stay as they are.
pub fn quote(word: &str) -> String {
    String::from_utf8_lossy(&quote_bytes(word.as_bytes())).into_owned()
}

/// The same for bytes that need not be UTF-8. NUL cannot be expressed and is dropped.
pub fn quote_bytes(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut out = vec![b'\''];
    for &byte in word {
        match byte {
            0 => {}
            b'\'' => out.extend_from_slice(b"'\\''"),
            other => out.push(other),
        }
    }
    out.push(b'\'');
    out
}

/// A command for people: each word quoted where it has to be.
pub fn join(words: &[String]) -> String {
    words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ")
}

/// Whether a command needs a shell: one word with shell characters, or a bare operator among the words.
pub fn wants_shell(words: &[String]) -> bool {
    const OPERATORS: &[&str] =
        &["&&", "||", "|", "|&", ";", "&", ">", ">>", "<", "<<", "2>", "2>>", "2>&1", "&>"];
    match words {
        [only] => {
            only.contains(|c: char| c.is_whitespace() || "|&;<>()$`\\\"'*?[]{}~#!=".contains(c))
        }
        _ => words.iter().any(|w| OPERATORS.contains(&w.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_survive_a_real_shell() {
        let nasty: Vec<u8> = (1..=255).collect();
        let mut script = b"printf %s ".to_vec();
        script.extend(quote_bytes(&nasty));
        #[expect(clippy::disallowed_methods, reason = "a real shell is the oracle")]
        let out = std::process::Command::new("sh").arg("-c").arg(os(script)).output().unwrap();
        assert_eq!(out.stdout, nasty);
    }

    fn os(bytes: Vec<u8>) -> std::ffi::OsString {
        std::os::unix::ffi::OsStringExt::from_vec(bytes)
    }

    #[test]
    fn only_shell_talk_goes_through_a_shell() {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(wants_shell(&words(&["pnpm test && echo ok"])));
        assert!(wants_shell(&words(&["make", "&&", "make", "test"])));
        assert!(!wants_shell(&words(&["pnpm", "test"])));
        assert!(!wants_shell(&words(&["true"])));
        assert!(!wants_shell(&words(&["grep", "a|b", "file"])));
    }
}
