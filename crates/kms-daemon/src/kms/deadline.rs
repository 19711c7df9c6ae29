//! Time limit of a KMS call: the earlier of the caller's deadline and `openbao.timeout`.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The time left for a request with these headers, at most `limit`.
///
/// tonic enforces the caller's deadline too, but with its own message.
#[must_use]
pub fn remaining(headers: &MetadataMap, limit: Duration) -> Duration {
    let callers = headers
        .get("grpc-timeout")
        .and_then(|value| parse(value.to_str().ok()?));
    callers.map_or(limit, |callers| callers.min(limit))
}

/// One to eight digits and a unit, in the gRPC timeout format.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = match digits.len() {
        1..=8 if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().ok()?,
        _ => return None,
    };
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    unit.checked_mul(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_counts_and_anything_else_is_ignored() {
        for (text, expected) in [
            ("3S", Some(Duration::from_secs(3))),
            ("150m", Some(Duration::from_millis(150))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("7n", Some(Duration::from_nanos(7))),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("+3S", None),
            ("3s", None),
            ("3ü", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_earlier_deadline_wins() {
        let limit = Duration::from_secs(2);
        let mut headers = MetadataMap::new();
        assert_eq!(remaining(&headers, limit), limit);
        headers.insert("grpc-timeout", "3S".parse().unwrap());
        assert_eq!(remaining(&headers, limit), limit);
        headers.insert("grpc-timeout", "500m".parse().unwrap());
        assert_eq!(remaining(&headers, limit), Duration::from_millis(500));
    }
}
