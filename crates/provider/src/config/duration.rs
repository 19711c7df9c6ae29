//! Durations in the grammar of Go's `time.ParseDuration`, without negative values.

use std::time::Duration;

use super::problem::Broken;

/// The longest duration that the grammar can express: 64 bits of nanoseconds with sign.
const MAX_NANOSECONDS: u128 = i64::MAX as u128;

/// Decimal places that can still matter below the largest unit.
const MAX_FRACTION_DIGITS: usize = 18;

/// Parses `90s`, `1m30s`, `1.5h`, `500ms`, `0s`: decimal numbers, each with a unit.
pub(super) fn parse(text: &str) -> Result<Duration, Broken> {
    let malformed = || {
        Broken::rule("must be a duration with unit(s) ns, us, ms, s, m or h")
            .hint("write for example \"90s\" or \"1m30s\"")
    };
    if text.starts_with('-') {
        return Err(Broken::rule("must not be negative"));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(malformed());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let (unit, after) = unit(after).ok_or_else(malformed)?;
        total = number(whole)
            .and_then(|whole| whole.checked_mul(unit))
            .and_then(|nanoseconds| nanoseconds.checked_add(part(fraction, unit)))
            .and_then(|nanoseconds| nanoseconds.checked_add(total))
            .filter(|total| *total <= MAX_NANOSECONDS)
            .ok_or_else(|| Broken::rule("must be shorter than 292 years"))?;
        rest = after;
    }
    let seconds = u64::try_from(total / 1_000_000_000).unwrap_or(u64::MAX);
    let nanoseconds = u32::try_from(total % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(seconds, nanoseconds))
}

/// Parses a duration that is longer than zero.
pub(super) fn parse_positive(text: &str) -> Result<Duration, Broken> {
    let duration = parse(text)?;
    if duration.is_zero() {
        return Err(Broken::rule("must be longer than 0s"));
    }
    Ok(duration)
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Nanoseconds of the unit that `text` begins with, and what follows.
fn unit(text: &str) -> Option<(u128, &str)> {
    // Two spellings of micro: the micro sign and the Greek letter.
    const UNITS: [(&str, u128); 8] = [
        ("ns", 1),
        ("us", 1_000),
        ("\u{b5}s", 1_000),
        ("\u{3bc}s", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    let end = text
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    UNITS
        .into_iter()
        .find(|(unit, _)| *unit == name)
        .map(|(_, nanoseconds)| (nanoseconds, rest))
}

fn number(digits: &str) -> Option<u128> {
    if digits.is_empty() {
        Some(0)
    } else {
        digits.parse().ok()
    }
}

/// `0.<digits>` of a unit, cut to whole nanoseconds.
fn part(digits: &str, unit: u128) -> u128 {
    let digits = digits.get(..MAX_FRACTION_DIGITS).unwrap_or(digits);
    let scale = digits.bytes().fold(1_u128, |scale, _| scale * 10);
    number(digits).unwrap_or(0) * unit / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_that_of_go() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("0s", 0),
            ("+5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("1478s", 1_478_000_000_000),
            ("5.6s", 5_600_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("100.00100s", 100_001_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("13ms", 13_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("9007199254740993ns", 9_007_199_254_740_993),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(
                parse(text),
                Ok(Duration::from_nanos(nanoseconds)),
                "{text:?}"
            );
        }
        for text in [
            "",
            "3",
            "-5s",
            "-0s",
            "s",
            ".",
            "-",
            ".s",
            "+.s",
            "+",
            "1m 30s",
            " 1s",
            "1s ",
            "PT5M",
            "1d",
            "1S",
            "١s",
            "3000000h",
            "9223372036854775808ns",
            "1e3s",
            "1_0s",
            "--1s",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn zero_is_refused_where_a_wait_must_end() {
        assert!(parse_positive("0s").is_err());
        assert!(parse_positive("0.0h").is_err());
        assert!(parse_positive("1ns").is_ok());
    }
}
