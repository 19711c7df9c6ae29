//! An OpenBao token and its lease.

use std::{num::NonZeroU32, time::Duration};

use http::HeaderValue;
use zeroize::Zeroizing;

/// A client token: wiped on drop, without `Debug` and `Clone`.
pub struct Token(Zeroizing<String>);

/// Error: the text is empty or has a character outside visible ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token must be visible ASCII characters, at least one")]
pub struct TokenProblem;

impl Token {
    /// Wraps a token.
    ///
    /// # Errors
    /// [`TokenProblem`] unless the text is one or more visible ASCII characters.
    pub fn new(text: Zeroizing<String>) -> Result<Self, TokenProblem> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenProblem);
        }
        Ok(Self(text))
    }

    /// The token as text, for the header or file that needs it.
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

/// Lease of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Life of the token, counted from its creation or renewal; may be zero.
    pub duration: Duration,
    /// Whether the token may be renewed.
    pub renewable: bool,
    /// Number of requests after which OpenBao revokes the token, the `token_num_uses` of its role.
    pub uses: Option<NonZeroU32>,
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
