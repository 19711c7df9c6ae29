//! The parts of an X.509 certificate (RFC 5280) that are read here. Signatures are not verified.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const UTC_TIME: u8 = 0x17;

/// The encoded fields of one certificate.
pub(crate) struct Certificate<'a> {
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) not_before: Date<'a>,
    pub(crate) not_after: Date<'a>,
    /// Algorithm of the signature and its parameters.
    pub(crate) signature_algorithm: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// `None` for another structure.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        let (_, certificate, _) = element(der)?;
        let (_, body, rest) = element(certificate)?;
        let (_, signature_algorithm, _) = element(rest)?;
        let (tag, _, after) = element(body)?;
        let rest = if tag == VERSION { after } else { body };
        let (_, _serial, rest) = element(rest)?;
        let (_, _algorithm, rest) = element(rest)?;
        let (_, issuer, rest) = element(rest)?;
        let (_, validity, rest) = element(rest)?;
        let (_, subject, rest) = element(rest)?;
        let (_, _key, mut rest) = element(rest)?;

        let mut extensions = &[][..];
        while let Some((tag, content, after)) = element(rest) {
            if tag == EXTENSIONS {
                (_, extensions, _) = element(content)?;
            }
            rest = after;
        }

        let (start_tag, start, rest) = element(validity)?;
        let (end_tag, end, _) = element(rest)?;
        Some(Self {
            issuer,
            subject,
            not_before: Date::parse(start_tag, start)?,
            not_after: Date::parse(end_tag, end)?,
            signature_algorithm,
            extensions,
        })
    }

    /// Value of the extension with this object identifier.
    pub(crate) fn extension(&self, identifier: &[u8]) -> Option<&'a [u8]> {
        elements(self.extensions).find_map(|extension| {
            let (_, found, rest) = element(extension)?;
            // The flag `critical` may stand before the value.
            let value = elements(rest).last()?;
            (found == identifier).then_some(value)
        })
    }
}

/// A date as two digits each: year within a century, month, day, hour, minute, second.
pub(crate) struct Date<'a> {
    century: &'a str,
    digits: &'a str,
}

impl<'a> Date<'a> {
    fn parse(tag: u8, text: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        let (century, digits) = match tag {
            UTC_TIME if text < "50" => ("20", text),
            UTC_TIME => ("19", text),
            _ => text.split_at_checked(2)?,
        };
        let date = Self { century, digits };
        let all_digits = (0..6).all(|part| date.part(part).parse::<u64>().is_ok());
        all_digits.then_some(date)
    }

    fn part(&self, index: usize) -> &'a str {
        self.digits.get(2 * index..2 * index + 2).unwrap_or("")
    }

    fn number(&self, index: usize) -> u64 {
        self.part(index).parse().unwrap_or_default()
    }

    /// The date as a point in time; earlier ones than 1970 count as 1970.
    pub(crate) fn time(&self) -> SystemTime {
        // Years begin in March, so that a leap day is the last of a year.
        let [year, month, day, hour, minute, second] =
            [0, 1, 2, 3, 4, 5].map(|part| self.number(part));
        let year = self.century.parse().unwrap_or(0) * 100 + year;
        let (year, month) = match month {
            0..=2 => (year.saturating_sub(1), month + 9),
            _ => (year, month - 3),
        };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
        // Days from March of the year 0 to 1970, and the first day of a month.
        let days = days.saturating_sub(719_468 + 1);
        let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
        UNIX_EPOCH + Duration::from_secs(seconds)
    }
}

impl fmt::Display for Date<'_> {
    /// RFC 3339.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [year, month, day, hour, minute, second] =
            [0, 1, 2, 3, 4, 5].map(|part| self.part(part));
        let century = self.century;
        write!(f, "{century}{year}-{month}-{day}T{hour}:{minute}:{second}Z")
    }
}

/// Tag, content and the bytes after the first DER element.
pub(crate) fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            let length = digits
                .iter()
                .fold(0, |all, digit| all << 8 | usize::from(*digit));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// Contents of consecutive DER elements.
pub(crate) fn elements(mut der: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (_, content, rest) = element(der)?;
        der = rest;
        Some(content)
    })
}

/// Content of an `AlgorithmIdentifier`: object identifier, and the content of a sequence of
/// parameters.
pub(crate) fn algorithm(identifier: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, algorithm, rest) = element(identifier)?;
    match element(rest) {
        Some((SEQUENCE, parameters, _)) => Some((algorithm, parameters)),
        _ => Some((algorithm, &[])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_both_forms_are_points_in_time() {
        for (tag, text, shown, seconds) in [
            (UTC_TIME, "700101000000Z", "1970-01-01T00:00:00Z", 0),
            (
                UTC_TIME,
                "000229235959Z",
                "2000-02-29T23:59:59Z",
                951_868_799,
            ),
            (
                UTC_TIME,
                "261129135117Z",
                "2026-11-29T13:51:17Z",
                1_795_960_277,
            ),
            (UTC_TIME, "500101000000Z", "1950-01-01T00:00:00Z", 0),
            (
                0x18,
                "20500101000000Z",
                "2050-01-01T00:00:00Z",
                2_524_608_000,
            ),
            (
                0x18,
                "99991231235959Z",
                "9999-12-31T23:59:59Z",
                253_402_300_799,
            ),
        ] {
            let date = Date::parse(tag, text.as_bytes()).unwrap();
            assert_eq!(date.to_string(), shown);
            let since = date.time().duration_since(UNIX_EPOCH).unwrap();
            assert_eq!(since.as_secs(), seconds, "{shown}");
        }
        for bad in ["", "7001010000", "70010100000xZ"] {
            assert!(Date::parse(UTC_TIME, bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
