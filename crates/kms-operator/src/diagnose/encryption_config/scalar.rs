//! Scalars of YAML 1.1, as the YAML library of Kubernetes resolves them.
//!
//! Its table differs from YAML 1.2: `yes`, `off`, `y` and `on` are booleans, numbers may have
//! underscores, and a leading zero makes a number octal.

use base64::Engine as _;
use zeroize::Zeroizing;

use super::{document::BASE64, value::Value};

/// Prefix of the tags defined by YAML itself.
const YAML: &str = "tag:yaml.org,2002:";

/// Value of a scalar. `plain` means without quotes. `None` if the tag does not allow the text, or
/// the number has no form in JSON.
pub(super) fn resolve(tag: Option<&str>, text: &str, plain: bool) -> Option<Value> {
    let as_text = || Value::Text(Zeroizing::new(text.to_owned()));
    let Some(tag) = tag else {
        return if plain {
            untagged(text)
        } else {
            Some(as_text())
        };
    };
    let found = match tag.strip_prefix(YAML) {
        Some("binary") => {
            let bytes = BASE64
                .decode(without_breaks(text))
                .map(Zeroizing::new)
                .ok()?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            return Some(Value::Text(Zeroizing::new(text)));
        }
        Some("bool") => matches!(untagged(text)?, Value::Bool),
        Some("null") => matches!(untagged(text)?, Value::Null),
        Some("float") => matches!(untagged(text)?, Value::Number(_)),
        Some("int") => integer(text).is_some(),
        Some("timestamp") => text.get(4..5) == Some("-"),
        // All other tags leave the text unchanged.
        _ => return Some(as_text()),
    };
    match tag.strip_prefix(YAML) {
        _ if !found => None,
        Some("timestamp") => Some(as_text()),
        _ => untagged(text),
    }
}

/// Removes line breaks, which Go's Base64 decoder skips.
pub(super) fn without_breaks(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.replace(['\n', '\r'], ""))
}

/// A scalar without quotes and tag.
fn untagged(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" | "n"
        | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            Value::Bool
        }
        // JSON has neither infinity nor NaN.
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => return None,
        _ => match number(text) {
            Some(number) => Value::Number(number),
            None => Value::Text(Zeroizing::new(text.to_owned())),
        },
    })
}

const DIGIT: fn(char) -> bool = |c| c.is_ascii_digit();

/// A number, with its value if it fits into 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the float is whole and within the range"
)]
fn number(text: &str) -> Option<Option<i32>> {
    let first = text.bytes().next()?;
    if !first.is_ascii_digit() && !b"+-.".contains(&first) {
        return None;
    }
    if let Some(integer) = integer(text) {
        return Some(i32::try_from(integer).ok());
    }
    // After a leading dot, an underscore is valid only between digits.
    let mut parts = text.split('_');
    let whole = |part: &str| part.starts_with(DIGIT) && part.ends_with(DIGIT);
    let between = parts.next().is_some_and(|part| part.ends_with(DIGIT)) && parts.all(whole);
    if first == b'.' && !between {
        return None;
    }
    let plain = text.replace('_', "");
    let float = is_float(&plain).then(|| plain.parse::<f64>().ok())??;
    // Go rejects a larger number, so the scalar is a text.
    if float.is_infinite() {
        return None;
    }
    let range = f64::from(i32::MIN)..=f64::from(i32::MAX);
    let whole = float.fract() == 0.0 && range.contains(&float);
    Some(whole.then_some(float as i32))
}

/// An integer of at most 64 bits in Go's notation: a leading zero means octal.
fn integer(text: &str) -> Option<i128> {
    if text.starts_with('_') {
        return None;
    }
    let plain = text.replace('_', "");

    // The library also accepts a sign after 0b.
    let swapped = plain
        .strip_prefix("0b-")
        .map(|digits| format!("-0b{digits}"));
    let plain = swapped.unwrap_or_else(|| plain.replace("0b+", "+0b"));
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };

    let prefixed = |prefixes: [&str; 2]| {
        let mut prefixes = prefixes.into_iter();
        prefixes.find_map(|prefix| digits.strip_prefix(prefix))
    };
    let (radix, digits) = if let Some(digits) = prefixed(["0x", "0X"]) {
        (16, digits)
    } else if let Some(digits) = prefixed(["0b", "0B"]) {
        (2, digits)
    } else if let Some(digits) = prefixed(["0o", "0O"]) {
        (8, digits)
    } else if let Some(octal) = digits.strip_prefix('0').filter(|octal| !octal.is_empty()) {
        (8, octal)
    } else {
        (10, digits)
    };

    // The Rust parser would accept a second sign.
    if !digits.starts_with(|first: char| first.is_digit(radix)) {
        return None;
    }

    let number = sign * i128::from(u64::from_str_radix(digits, radix).ok()?);
    let unsigned = sign == 1 && !plain.starts_with('+');
    let fits = number >= i128::from(i64::MIN) && (unsigned || number <= i128::from(i64::MAX));
    fits.then_some(number)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let unsigned = |text: &str| {
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        rest.to_owned()
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let text = unsigned(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(unsigned(exponent))),
        None => (text.as_str(), None),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa = digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty());
    mantissa && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(&exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name of the kind of value.
    fn kind(tag: Option<&str>, text: &str) -> String {
        match resolve(tag, text, true) {
            None => "refused".to_owned(),
            Some(Value::Null) => "null".to_owned(),
            Some(Value::Bool) => "bool".to_owned(),
            Some(Value::Number(number)) => {
                number.map_or("number".to_owned(), |number| number.to_string())
            }
            Some(Value::Text(text)) => format!("text {}", *text),
            Some(Value::List(_) | Value::Map(_)) => "collection".to_owned(),
        }
    }

    #[test]
    fn plain_scalars_are_those_of_yaml_1_1() {
        for (text, expected) in [
            ("", "null"),
            ("~", "null"),
            ("Null", "null"),
            ("nULL", "text nULL"),
            ("y", "bool"),
            ("off", "bool"),
            ("On", "bool"),
            ("oN", "text oN"),
            ("truE", "text truE"),
            ("0", "0"),
            ("-7", "-7"),
            ("+7", "7"),
            ("1_000", "1000"),
            ("_1", "text _1"),
            ("010", "8"),
            ("0o10", "8"),
            ("08", "8"),
            ("0x1F", "31"),
            ("-0b11", "-3"),
            ("0x", "text 0x"),
            ("+-1", "text +-1"),
            ("2147483648", "number"),
            ("18446744073709551615", "number"),
            ("18446744073709551616", "number"),
            ("1e3", "1000"),
            ("1.", "1"),
            (".5", "number"),
            (".5_0", "number"),
            ("._5", "text ._5"),
            (".5_", "text .5_"),
            ("0b-11", "-3"),
            ("0b--1", "text 0b--1"),
            ("1.5e", "text 1.5e"),
            ("1e999", "text 1e999"),
            (".", "text ."),
            ("-", "text -"),
            (".inf", "refused"),
            ("-.INF", "refused"),
            (".NaN", "refused"),
            ("1:20", "text 1:20"),
            ("2001-01-01", "text 2001-01-01"),
            ("3s", "text 3s"),
            ("<<", "text <<"),
        ] {
            assert_eq!(kind(None, text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_tag_decides_or_refuses() {
        for (tag, text, expected) in [
            ("!", "5", "text 5"),
            ("!", "", "text "),
            ("!local", "5", "text 5"),
            ("tag:yaml.org,2002:str", "5", "text 5"),
            ("tag:yaml.org,2002:int", "5", "5"),
            ("tag:yaml.org,2002:int", "a", "refused"),
            ("tag:yaml.org,2002:int", "5.0", "refused"),
            ("tag:yaml.org,2002:float", "5", "5"),
            ("tag:yaml.org,2002:bool", "no", "bool"),
            ("tag:yaml.org,2002:bool", "a", "refused"),
            ("tag:yaml.org,2002:null", "", "null"),
            ("tag:yaml.org,2002:null", "a", "refused"),
            ("tag:yaml.org,2002:binary", "a2lu\n ZA==", "refused"),
            ("tag:yaml.org,2002:binary", "a2lu\nZA==", "text kind"),
            (
                "tag:yaml.org,2002:timestamp",
                "2001-01-01",
                "text 2001-01-01",
            ),
            ("tag:yaml.org,2002:timestamp", "a", "refused"),
        ] {
            assert_eq!(kind(Some(tag), text), expected, "{tag} {text:?}");
        }
        assert!(matches!(resolve(None, "yes", false), Some(Value::Text(_))));
    }
}
