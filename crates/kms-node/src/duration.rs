//! Durations in the grammar of Go's `time.ParseDuration`, without negative values.

use std::{iter, time::Duration};

/// A text that is no duration; printed as the rest of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationProblem {
    #[error("must be a duration with unit(s) ns, us, ms, s, m or h")]
    Form,
    #[error("must not be negative")]
    Negative,
    #[error("must be shorter than 292 years")]
    TooLong,
    #[error("must be longer than 0s")]
    Zero,
}

/// The longest duration of the grammar: 64 bits of nanoseconds with sign.
const MAX_NANOSECONDS: u64 = i64::MAX as u64;

/// Decimal places with an effect on the largest unit.
const MAX_FRACTION_DIGITS: usize = 18;

/// Parses `90s`, `1m30s`, `1.5h`, `500ms`, `0s`: decimal numbers, each with a unit.
///
/// # Errors
/// The first rule that the text breaks.
pub fn parse(text: &str) -> Result<Duration, DurationProblem> {
    if text.starts_with('-') {
        return Err(DurationProblem::Negative);
    }
    let mut rest = match text.strip_prefix('+').unwrap_or(text) {
        "" => return Err(DurationProblem::Form),
        "0" => return Ok(Duration::ZERO),
        parts => parts,
    };
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(DurationProblem::Form);
        }
        let (unit, after) = unit(after).ok_or(DurationProblem::Form)?;
        total = nanoseconds(whole, fraction, unit)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= MAX_NANOSECONDS)
            .ok_or(DurationProblem::TooLong)?;
        rest = after;
    }
    Ok(Duration::from_nanos(total))
}

/// Parses a duration longer than zero.
///
/// # Errors
/// As [`parse`], and [`DurationProblem::Zero`].
pub fn parse_positive(text: &str) -> Result<Duration, DurationProblem> {
    match parse(text)? {
        Duration::ZERO => Err(DurationProblem::Zero),
        duration => Ok(duration),
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// Nanoseconds of the unit at the start of `text`, and the rest.
fn unit(text: &str) -> Option<(u128, &str)> {
    let end = text.find(|c: char| c == '.' || c.is_ascii_digit());
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let nanoseconds = match name {
        "ns" => 1,
        // Also with the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    Some((nanoseconds, rest))
}

/// `whole.fraction` units, cut to whole nanoseconds.
fn nanoseconds(whole: &str, fraction: &str, unit: u128) -> Option<u64> {
    let fraction = fraction.get(..MAX_FRACTION_DIGITS).unwrap_or(fraction);
    let scale: u128 = iter::repeat_n(10, fraction.len()).product();
    let number: u128 = format!("{whole}{fraction}").parse().ok()?;
    u64::try_from(number.checked_mul(unit)? / scale).ok()
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
