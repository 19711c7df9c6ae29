//! Public keys that verify statements: ECDSA with P-256 and SHA-256, and Ed25519.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_domain::digest::sha256_hex;
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};

/// A public key in DER begins with it: algorithm and curve (RFC 5480). An uncompressed point follows.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P256_POINT: usize = 65;

/// The same for Ed25519 (RFC 8410).
const ED: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const ED_KEY: usize = 32;

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    bytes: Vec<u8>,
    id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256,
    Ed25519,
}

/// Error of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    #[error(
        "the file holds no public key: neither PEM (BEGIN PUBLIC KEY) nor the Base64 of an Ed25519 key"
    )]
    NotPublicPem,
    #[error("the file holds no private key as PEM in PKCS#8 (BEGIN PRIVATE KEY)")]
    NotPrivatePem,
    #[error("the private key is encrypted with a passphrase")]
    Encrypted,
    #[error("the key is neither of EC P-256 nor of Ed25519")]
    Unsupported,
    /// Other programs write its public key in a form that verifiers refuse.
    #[error("the EC key must name its curve (P-256) and hold an uncompressed point")]
    PointForm,
    #[error("the key has no public key: with derived=true each context has another one")]
    Derived,
}

impl PublicKey {
    /// From the content of a file: PEM of a SubjectPublicKeyInfo, as of `openssl pkey -pubout` or
    /// `cosign public-key`, or the Base64 of Transit for Ed25519.
    ///
    /// # Errors
    /// [`KeyProblem::NotPublicPem`] or [`KeyProblem::Unsupported`].
    pub fn from_file(content: &[u8]) -> Result<Self, KeyProblem> {
        let text = std::str::from_utf8(content).unwrap_or_default();
        let key = Self::ed25519_from_base64(text.trim_ascii());
        key.or_else(|_| Self::from_pem(content))
    }

    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, KeyProblem> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyProblem::NotPublicPem)?;
        let der = der.as_ref();
        der.strip_prefix(&P256)
            .and_then(Self::p256)
            .or_else(|| der.strip_prefix(&ED).and_then(Self::ed25519))
            .ok_or(KeyProblem::Unsupported)
    }

    /// From Base64 of 32 bytes, the form of Transit for Ed25519.
    ///
    /// # Errors
    /// [`KeyProblem::Unsupported`].
    pub(super) fn ed25519_from_base64(text: &str) -> Result<Self, KeyProblem> {
        let bytes = STANDARD.decode(text).ok();
        let key = bytes.and_then(|bytes| Self::ed25519(&bytes));
        key.ok_or(KeyProblem::Unsupported)
    }

    /// Algorithm and named curve of P-256 in DER.
    pub(super) fn p256_algorithm() -> &'static [u8] {
        P256.get(2..23).unwrap_or_default()
    }

    /// From an uncompressed point; `None` for bytes of another form.
    pub(super) fn p256(point: &[u8]) -> Option<Self> {
        let uncompressed = point.len() == P256_POINT && point.first() == Some(&4);
        uncompressed.then(|| Self::new(Kind::P256, &P256, point))
    }

    /// From the 32 bytes of the key; `None` for another number.
    pub(super) fn ed25519(key: &[u8]) -> Option<Self> {
        (key.len() == ED_KEY).then(|| Self::new(Kind::Ed25519, &ED, key))
    }

    fn new(kind: Kind, prefix: &[u8], key: &[u8]) -> Self {
        Self {
            kind,
            bytes: key.to_owned(),
            id: sha256_hex(&[prefix, key].concat()),
        }
    }

    /// SHA-256 of the key in DER, in hex, as of `openssl pkey -pubin -outform DER | sha256sum`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether the signature over `message` is valid.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
            Kind::Ed25519 => &ED25519,
        };
        let key = UnparsedPublicKey::new(algorithm, &self.bytes);
        key.verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let pem = |der: &[u8]| {
            let body = STANDARD.encode(der);
            format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
        };
        let read = |text: &str| PublicKey::from_file(text.as_bytes()).map(|key| key.kind);
        let point = [&[4][..], &[1; 64]].concat();
        assert_eq!(read(&pem(&[&P256[..], &point].concat())), Ok(Kind::P256));
        assert_eq!(read(&pem(&[&ED[..], &[1; 32]].concat())), Ok(Kind::Ed25519));
        let transit = STANDARD.encode([1; 32]) + "\n";
        assert_eq!(read(&transit), Ok(Kind::Ed25519));
        assert_eq!(
            read(&STANDARD.encode([1; 31])),
            Err(KeyProblem::NotPublicPem)
        );
        for other in [
            [&P256[..], &[2; 65]].concat(),
            [&P256[..], &point[..64]].concat(),
            [&ED[..], &[1; 33]].concat(),
            vec![0x30, 0],
        ] {
            assert_eq!(read(&pem(&other)), Err(KeyProblem::Unsupported));
        }
        for text in ["", "no PEM", &pem(b"x").replace("PUBLIC", "PRIVATE")] {
            assert_eq!(read(text), Err(KeyProblem::NotPublicPem), "{text}");
        }
    }
}
