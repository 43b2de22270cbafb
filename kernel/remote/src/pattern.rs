//! OpenSSH's patterns: `*` and `?`, lists, and `!` which vetoes.

/// Whether a pattern of `*`, `?` and plain characters fits the whole text, in time linear in their product.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || c.eq_ignore_ascii_case(&text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Whether some pattern fits and no pattern with `!` does.
pub(crate) fn any_fits<'a>(patterns: impl IntoIterator<Item = &'a str>, text: &str) -> bool {
    let mut hit = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(vetoed) if fits(vetoed, text) => return false,
            Some(_) => {}
            None => hit |= fits(pattern, text),
        }
    }
    hit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_fit_and_a_veto_wins() {
        assert!(fits("*.example.com", "a.b.example.com"));
        assert!(fits("10.0.?.*", "10.0.3.77"));
        assert!(!fits("10.0.?.*", "10.0.33.7"));
        assert!(fits("BUILD*", "build-7"));
        assert!(!any_fits(["*", "!bad"], "bad"));
        assert!(any_fits(["!bad", "b*"], "box"));
        assert!(!any_fits(["!bad"], "box"));
    }
}
