//! Ciphertexts of Transit, `vault:v<N>:<base64>`, which are stored unchanged.
//! Implements `docs/format/associated-data.md` section 4.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::transit::TransitVersion;

/// A well-formed ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TransitCiphertext {
    text: String,
    version: TransitVersion,
}

/// Reason why bytes are not a Transit ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CiphertextProblem {
    /// The input is empty.
    #[error("the ciphertext is empty")]
    Empty,
    /// The form differs from `vault:v`, a canonical version, `:` and padded base64.
    #[error("the ciphertext is not of the form vault:v<version>:<base64>")]
    Malformed,
}

impl TransitCiphertext {
    /// Parses a ciphertext from Transit or from a decrypt request.
    ///
    /// # Errors
    /// [`CiphertextProblem`]. [`limits`](crate::limits) checks the size.
    pub fn parse(bytes: &[u8]) -> Result<Self, CiphertextProblem> {
        if bytes.is_empty() {
            return Err(CiphertextProblem::Empty);
        }
        let parsed = || {
            let text = std::str::from_utf8(bytes).ok()?;
            let (version, payload) = text.strip_prefix("vault:v")?.split_once(':')?;
            let payload = STANDARD.decode(payload).ok()?;
            let version = TransitVersion::parse(version)?;
            (!payload.is_empty()).then(|| Self {
                text: text.to_owned(),
                version,
            })
        };
        parsed().ok_or(CiphertextProblem::Malformed)
    }

    /// The version in the prefix.
    #[must_use]
    pub fn version(&self) -> TransitVersion {
        self.version
    }

    /// The text for Transit and for Kubernetes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_ciphertext() {
        let good = TransitCiphertext::parse(b"vault:v12:AAEC").unwrap();
        assert_eq!(good.version(), TransitVersion::new(12).unwrap());
        assert_eq!(good.as_str(), "vault:v12:AAEC");
        assert_eq!(TransitCiphertext::parse(b""), Err(CiphertextProblem::Empty));
        for bad in [
            &b"vault:v1:"[..],
            b"vault:v0:AAEC",
            b"vault:v01:AAEC",
            b"vault:v+1:AAEC",
            b"vault:v1:AAE",
            b"vault:v1:AAEC\n",
            b"vault:v1:AA-_",
            b"vault:v1:AAEC:AAEC",
            b"Vault:v1:AAEC",
            b" vault:v1:AAEC",
            b"vault:v1",
            b"vault:v1:\xff\xff",
        ] {
            assert_eq!(
                TransitCiphertext::parse(bad),
                Err(CiphertextProblem::Malformed),
                "{bad:?}"
            );
        }
    }
}
