//! Replaces words of the form of a credential or a ciphertext. The parts hold none of them: a file
//! of `--log`, or a line of another program in the journal, might.

use std::borrow::Cow;

const REDACTED: &str = "[redacted]";
/// Prefixes of tokens of OpenBao and Vault.
const TOKENS: [&str; 6] = ["s.", "b.", "r.", "hvs.", "hvb.", "hvr."];
/// The shortest random part of a token.
const RANDOM: usize = 20;
/// The base64 of `{"`, at the beginning of each JWT.
const JWT: &str = "eyJ";
const PEM: (&str, &str) = ("-----BEGIN ", "-----END ");
const PRIVATE_KEY: &str = "PRIVATE KEY-----";

/// The text without such words, and their number.
pub(super) fn redact(text: &str) -> (String, u64) {
    let (mut kept, mut count) = (String::with_capacity(text.len()), 0_u64);
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains(PEM.0) && line.contains(PRIVATE_KEY);
        if begins || in_key {
            in_key = !line.contains(PEM.1);
            if begins {
                count = count.saturating_add(1);
                kept.push_str(REDACTED);
                kept.push('\n');
            }
            continue;
        }
        for word in line.split_inclusive(|found: char| !is_part(found)) {
            let end = word.trim_end_matches(is_part).len();
            let (word, separator) = match word.len() == end {
                // Ends with its separator.
                true => word.split_at(word.trim_end_matches(|found| !is_part(found)).len()),
                false => (word, ""),
            };
            let shown = redacted(word);
            count = count.saturating_add(u64::from(shown != word));
            kept.push_str(&shown);
            kept.push_str(separator);
        }
    }
    (kept, count)
}

/// A character of a token, a JWT or base64.
fn is_part(found: char) -> bool {
    found.is_ascii_alphanumeric() || matches!(found, '.' | '_' | '-' | '+' | '/' | '=' | ':')
}

fn redacted(word: &str) -> Cow<'_, str> {
    // `token:s.abc` and `key=eyJ...` are one word.
    let starts = [0]
        .into_iter()
        .chain(word.match_indices([':', '=', '/']).map(|(at, _)| at + 1));
    for start in starts {
        let Some((before, rest)) = word.split_at_checked(start) else {
            continue;
        };
        if is_secret(rest) {
            return format!("{before}{REDACTED}").into();
        }
    }
    word.into()
}

fn is_secret(word: &str) -> bool {
    let is_long = |rest: &str| {
        let random = rest
            .chars()
            .take_while(|it| it.is_ascii_alphanumeric() || "_-+/".contains(*it));
        random.count() >= RANDOM
    };
    let is_token = TOKENS
        .iter()
        .any(|prefix| word.strip_prefix(prefix).is_some_and(is_long));
    let is_jwt = word.strip_prefix(JWT).is_some_and(is_long);
    let ciphertext = word
        .strip_prefix("vault:v")
        .and_then(|rest| rest.split_once(':'));
    let is_ciphertext = ciphertext.is_some_and(|(version, rest)| {
        is_long(rest) && version.bytes().all(|byte| byte.is_ascii_digit())
    });
    is_token || is_jwt || is_ciphertext
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_ciphertexts_are_replaced_and_everything_else_stays() {
        let random = "A1b2".repeat(6);
        for (text, expected) in [
            (format!("token s.{random} used"), "token [redacted] used"),
            (format!("token:hvs.{random}\n"), "token:[redacted]\n"),
            (
                format!(r#"{{"jwt":"eyJ{random}.eyJ9.c2ln"}}"#),
                r#"{"jwt":"[redacted]"}"#,
            ),
            (format!("vault:v12:{random}=="), "[redacted]"),
            (
                format!("?ciphertext=vault:v1:{random}"),
                "?ciphertext=[redacted]",
            ),
            (
                format!(
                    "a\n-----BEGIN EC PRIVATE KEY-----\n{random}\n-----END EC PRIVATE KEY-----\nb"
                ),
                "a\n[redacted]\nb",
            ),
        ] {
            assert_eq!(redact(&text), (expected.to_owned(), 1));
        }
        for text in [
            "systemd[1]: Started bao-kms-provider.service - s.short",
            "tests.abcdefghijklmnopqrstuvwxyz at crates.io/x",
            "2026-11-29T13:50:00Z {\"level\":\"info\"}\n\n  key krh1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "the same bytes came back (vault:v2:...)",
            "",
        ] {
            assert_eq!(redact(text), (text.to_owned(), 0));
        }
    }
}
