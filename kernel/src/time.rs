//! Instants and durations as text: RFC 3339 in UTC, and the `1h30m` form of configuration files.

use std::time::Duration;

/// Milliseconds since 1970 as `2026-05-07T10:04:11Z`.
pub fn rfc3339(ms: u64) -> String {
    let secs = ms / 1000;
    let (days, rest) = (secs / 86_400, secs % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Reads `2026-05-07T10:04:11Z`, with optional fraction and offset, or unix seconds; milliseconds since 1970.
pub fn parse_instant(text: &str) -> Option<u64> {
    if let Ok(secs) = text.parse::<u64>() {
        return secs.checked_mul(1000);
    }
    let (date, time) = text.split_once(['T', ' '])?;
    let mut parts = date.splitn(3, '-').map(|p| p.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(at);
    let clock = clock.split('.').next()?;
    let mut parts = clock.splitn(3, ':').map(|p| p.parse::<u64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let local =
        (days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second).cast_signed();
    let utc = local - offset(zone)?;
    u64::try_from(utc).ok()?.checked_mul(1000)
}

fn offset(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant's civil calendar arithmetic).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn days(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Reads `90m`, `1h30m`, `2s`, `250ms`; a bare number means seconds. `None` when it is not a duration.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(secs) = text.parse::<u64>() {
        return Some(Duration::from_secs(secs));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_len =
            rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let seconds = match &rest[digits..digits + unit_len] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[digits + unit_len..];
    }
    (!text.is_empty()).then_some(total)
}

/// `1h30m0s`, `15m0s`, `4.2s`, `350ms`: the form the original prints.
pub fn format_duration(time: Duration) -> String {
    let secs = time.as_secs();
    let millis = time.subsec_millis();
    if secs == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let fraction = if millis == 0 {
        String::new()
    } else {
        format!(".{millis:03}").trim_end_matches('0').to_owned()
    };
    let seconds = format!("{}{fraction}s", secs % 60);
    match (secs / 3600, secs / 60 % 60) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_round_trip() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_778_148_251_000, "2026-05-07T10:04:11Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse_instant(text), Some(ms));
        }
        assert_eq!(parse_instant("2026-05-07T12:04:11.5+02:00"), Some(1_778_148_251_000));
        assert_eq!(parse_instant("1778148251"), Some(1_778_148_251_000));
        assert_eq!(parse_instant("tomorrow"), None);
    }

    #[test]
    fn durations_read_and_print_as_the_original_does() {
        for (text, secs, back) in [
            ("90m", 5400.0, "1h30m0s"),
            ("15m", 900.0, "15m0s"),
            ("1h30m", 5400.0, "1h30m0s"),
            ("4.2s", 4.2, "4.2s"),
        ] {
            let time = parse_duration(text).unwrap();
            assert!((time.as_secs_f64() - secs).abs() < 1e-9, "{text}");
            assert_eq!(format_duration(time), back);
        }
        assert_eq!(format_duration(Duration::from_millis(350)), "350ms");
        for bad in ["", "m", "5 parsecs", "-3s", "1h-2m", "1e99h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
