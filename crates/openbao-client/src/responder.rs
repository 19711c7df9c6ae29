//! Identifies other software that answered in place of OpenBao, from two headers, for the operator.
//! The result is short and safe for a log line, and contains no part of the body.

use http::{HeaderMap, HeaderName, header};

/// Limit of each header, in bytes.
const LIMIT: usize = 64;

/// The media type of `Content-Type` and the first product of `Server`: `text/html from nginx/1.27`.
/// `None` unless one of them is a word of at most 64 characters of `A-Z a-z 0-9 - _ . + / :`.
pub(crate) fn responder(headers: &HeaderMap) -> Option<Box<str>> {
    let media_type = word(headers, &header::CONTENT_TYPE);
    let product = word(headers, &header::SERVER);
    let text = match (media_type, product) {
        (Some(media_type), Some(product)) => format!("{media_type} from {product}"),
        (Some(media_type), None) => media_type.to_owned(),
        (None, Some(product)) => format!("from {product}"),
        (None, None) => return None,
    };
    Some(text.into())
}

fn word<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let value = headers.get(name)?.to_str().ok()?;
    let word = value.split([' ', ';', ',']).next()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+/:".contains(&byte);
    ((1..=LIMIT).contains(&word.len()) && word.bytes().all(plain)).then_some(word)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(content_type: &[u8], server: &[u8]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONTENT_TYPE, content_type),
            (header::SERVER, server),
        ] {
            if !value.is_empty() {
                headers.insert(name, HeaderValue::from_bytes(value).unwrap());
            }
        }
        responder(&headers).map(String::from)
    }

    #[test]
    fn only_short_words_of_harmless_characters_are_told() {
        let nginx = of(b"text/html; charset=utf-8", b"nginx/1.27.1 (Ubuntu)");
        assert_eq!(nginx.as_deref(), Some("text/html from nginx/1.27.1"));
        assert_eq!(of(b"text/plain", b"").as_deref(), Some("text/plain"));
        assert_eq!(of(b"", b"envoy").as_deref(), Some("from envoy"));
        let long = [b'x'; 65];
        for bad in [&b""[..], b" ", b"<b>x</b>", "ä".as_bytes(), b"a\"b", &long] {
            assert_eq!(of(bad, bad), None, "{bad:?}");
        }
    }
}
