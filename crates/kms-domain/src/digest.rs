//! Texts of one SHA-256 digest: an optional prefix, then base64url without padding.
//! Implements the notation at the head of `docs/format/key-id.md`.
//!
//! 32 bytes leave two unused bits in the last of the 43 characters. They must be zero, so a digest
//! has exactly one text and texts can be compared directly.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// A text other than `<prefix><43 characters>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be '{prefix}' followed by 32 bytes in unpadded base64url (43 characters)")]
pub struct MalformedDigest {
    prefix: &'static str,
}

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident, $prefix:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            /// Accepts the canonical spelling only.
            ///
            /// # Errors
            /// Any other length, prefix, alphabet or padding, or set unused bits.
            pub fn parse(text: &str) -> Result<Self, $crate::digest::MalformedDigest> {
                $crate::digest::require_form($prefix, text)?;
                Ok(Self(text.to_owned()))
            }

            /// The stored and compared text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn of_bytes(preimage: &[u8]) -> Self {
                Self($crate::digest::text_of($prefix, preimage))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
pub(crate) use digest_type;

digest_type!(
    /// H(text): the digest of a text's UTF-8 bytes; identifies the text without disclosing it.
    TextHash,
    ""
);

impl TextHash {
    /// Hashes the bytes of `text` unchanged.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// Hashes a file's bytes.
    #[must_use]
    pub fn of_content(bytes: &[u8]) -> Self {
        Self::of_bytes(bytes)
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of `content` in the notation of `sha256sum`.
#[must_use]
pub fn sha256_hex(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

pub(crate) fn text_of(prefix: &str, preimage: &[u8]) -> String {
    let mut text = prefix.to_owned();
    URL_SAFE_NO_PAD.encode_string(Sha256::digest(preimage), &mut text);
    text
}

pub(crate) fn require_form(prefix: &'static str, text: &str) -> Result<(), MalformedDigest> {
    let bytes = text
        .strip_prefix(prefix)
        .and_then(|digest| URL_SAFE_NO_PAD.decode(digest).ok());
    match bytes {
        Some(bytes) if bytes.len() == 32 => Ok(()),
        _ => Err(MalformedDigest { prefix }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_unpadded_base64url_of_sha256() {
        // SHA-256 of the empty text, a published constant.
        assert_eq!(
            TextHash::of("").as_str(),
            "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
        );
    }

    #[test]
    fn one_digest_has_one_spelling() {
        let good = TextHash::of("").to_string();
        assert_eq!(TextHash::parse(&good).unwrap().as_str(), good);
        let stem = &good[..42];
        for bad in [
            String::new(),
            stem.to_owned(),
            format!("{good}A"),
            format!("{good}="),
            format!("{stem}V"),
            format!("{stem}+"),
            format!(" {stem}"),
            format!("{}\n{}", &good[..20], &good[20..42]),
        ] {
            assert!(TextHash::parse(&bad).is_err(), "{bad:?}");
        }
    }
}
