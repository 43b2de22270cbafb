//! A small aligned table: columns as wide as their widest cell, lines no wider than asked.

use super::text::plain;

/// Lines without a width limit.
pub fn lines<S: AsRef<str>>(head: &[&str], rows: &[Vec<S>]) -> Vec<String> {
    fitted(head, rows, usize::MAX)
}

/// Lines of at most `width` characters: the widest columns give way first and end in `…`.
pub fn fitted<S: AsRef<str>>(head: &[&str], rows: &[Vec<S>], width: usize) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|cell| plain(cell)).collect();
    let body = rows.iter().map(|row| row.iter().map(|cell| plain(cell.as_ref())).collect());
    let table: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let widths = shrunk(natural(&table), width);
    table.iter().map(|row| line(row, &widths)).collect()
}

fn natural(table: &[Vec<String>]) -> Vec<usize> {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |at: usize| table.iter().filter_map(|row| row.get(at)).map(|c| length(c)).max();
    (0..columns).map(|at| widest(at).unwrap_or(0)).collect()
}

/// Takes characters from the widest column until the line fits; no column gets narrower than eight, and the
/// first, which people copy, stays whole.
fn shrunk(mut widths: Vec<usize>, width: usize) -> Vec<usize> {
    const NARROWEST: usize = 8;
    let gaps = 2 * widths.len().saturating_sub(1);
    loop {
        let total: usize = widths.iter().sum::<usize>() + gaps;
        let Some(widest) = widths.iter_mut().skip(1).max().filter(|w| **w > NARROWEST) else {
            break;
        };
        if total <= width {
            break;
        }
        *widest -= 1;
    }
    widths
}

fn line(row: &[String], widths: &[usize]) -> String {
    let mut out = String::new();
    for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
        if at > 0 {
            out.push_str("  ");
        }
        let cell = cut(cell, *width);
        out.push_str(&cell);
        out.extend(std::iter::repeat_n(' ', width - length(&cell)));
    }
    out.truncate(out.trim_end().len());
    out
}

fn cut(cell: &str, width: usize) -> String {
    if length(cell) <= width {
        return cell.to_owned();
    }
    cell.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn length(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_widest_gives_way() {
        let rows = vec![
            vec!["blue-prawn", "/home/me/src/a-rather-long-name", "ready"],
            vec!["x", "/src\x1b", ""],
        ];
        let head = ["SLUG", "CHECKOUT", "STATE"];
        insta::assert_snapshot!(lines(&head, &rows).join("\n"), @r#"
        SLUG        CHECKOUT                         STATE
        blue-prawn  /home/me/src/a-rather-long-name  ready
        x           /src\u{1b}
        "#);
        insta::assert_snapshot!(fitted(&head, &rows, 36).join("\n"), @r#"
        SLUG        CHECKOUT           STATE
        blue-prawn  /home/me/src/a-r…  ready
        x           /src\u{1b}
        "#);
        assert!(fitted(&head, &rows, 36).iter().all(|line| line.chars().count() <= 36));
        let first = vec![vec!["cbx_abcdef123456", "/home/me/src"]];
        assert_eq!(fitted(&["LEASE", "CHECKOUT"], &first, 20)[1], "cbx_abcdef123456  /home/m…");
        assert_eq!(lines::<&str>(&head, &[]).len(), 1);
    }
}
