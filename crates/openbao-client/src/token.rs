//! An OpenBao token and how long it lives.

use std::time::Duration;

use http::HeaderValue;
use zeroize::Zeroizing;

/// A client token: wiped when dropped, never shown, never copied.
pub struct Token(Zeroizing<String>);

/// The text is empty or holds a character that no token has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token must be visible ASCII characters, at least one")]
pub struct TokenProblem;

impl Token {
    /// Takes ownership of the text of a token.
    ///
    /// # Errors
    /// [`TokenProblem`] unless the text is one or more visible ASCII characters.
    pub fn new(text: Zeroizing<String>) -> Result<Self, TokenProblem> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenProblem);
        }
        Ok(Self(text))
    }

    /// The text itself, for the one header or file that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The header value; hyper's copy of it is not wiped.
    pub(crate) fn header(&self) -> Result<HeaderValue, http::Error> {
        let mut value = HeaderValue::from_str(&self.0)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What OpenBao granted with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The life of the token, counted from the request that made or renewed it; may be zero.
    pub duration: Duration,
    /// Whether the token may be renewed.
    pub renewable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_visible_ascii() {
        for good in ["s.abcDEF123", "hvs.CAES_-x"] {
            let token = Token::new(Zeroizing::new(good.to_owned())).ok().unwrap();
            assert_eq!(token.expose(), good);
            assert!(token.header().unwrap().is_sensitive());
        }
        for bad in ["", "a b", "a\n", "\u{e4}", "a\r\nX-Other: 1"] {
            assert!(
                Token::new(Zeroizing::new(bad.to_owned())).is_err(),
                "{bad:?}"
            );
        }
    }
}
