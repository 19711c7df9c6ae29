//! Client assertions (RFC 7523, 2.2): a short-lived JWT signed with a private key from a file.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    error::{KeyRejected, Unspecified},
    rand::{self, SystemRandom},
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{CLIENT_CREDENTIAL_RULES, OAuth2Problem};
use crate::login::file_reader::FileReader;

/// Life of an assertion. It covers the request and a small difference of the clocks.
const LIFE: Duration = Duration::from_secs(60);

/// Signature algorithm of an RSA key. Other keys have one algorithm each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaAlgorithm {
    /// PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// PSS with SHA-256.
    Ps256,
}

/// A private key that signs assertions. It is read from its file for each of them.
#[derive(Clone)]
pub struct PrivateKeyJwt {
    file: FileReader,
    key_id: Option<String>,
    audience: Option<String>,
    rsa: RsaAlgorithm,
}

impl PrivateKeyJwt {
    /// A key from the PEM file at the absolute `path`. `audience` is that of the assertion; `None`
    /// is the URL of the token endpoint. `rsa` is the algorithm if the key is an RSA key.
    #[must_use]
    pub fn new(
        path: PathBuf,
        key_id: Option<String>,
        audience: Option<String>,
        rsa: RsaAlgorithm,
    ) -> Self {
        Self {
            file: FileReader::new(path, CLIENT_CREDENTIAL_RULES),
            key_id,
            audience,
            rsa,
        }
    }

    /// A signed assertion of the client.
    pub(super) async fn assertion(
        &self,
        client_id: &str,
        token_url: &str,
        now: SystemTime,
    ) -> Result<Zeroizing<Vec<u8>>, OAuth2Problem> {
        #[derive(Serialize)]
        struct Header<'a> {
            alg: &'a str,
            typ: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            kid: Option<&'a str>,
        }
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            sub: &'a str,
            aud: &'a str,
            iat: u64,
            exp: u64,
            jti: &'a str,
        }

        let pem = self.file.read().await.map_err(OAuth2Problem::KeyFile)?;
        let key = SigningKey::parse(&pem).map_err(OAuth2Problem::Key)?;
        let mut id = [0; 16];
        rand::fill(&mut id).map_err(|_| OAuth2Problem::Key(KeyProblem::Signing))?;
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default();

        let header = json(&Header {
            alg: key.algorithm(self.rsa),
            typ: "JWT",
            kid: self.key_id.as_deref(),
        });
        let claims = json(&Claims {
            iss: client_id,
            sub: client_id,
            aud: self.audience.as_deref().unwrap_or(token_url),
            iat: issued.as_secs(),
            exp: issued.saturating_add(LIFE).as_secs(),
            jti: &URL_SAFE_NO_PAD.encode(id),
        });
        let mut assertion = format!("{header}.{claims}");
        let signature = key.sign(self.rsa, assertion.as_bytes());
        let signature = signature.map_err(|_| OAuth2Problem::Key(KeyProblem::Signing))?;
        assertion.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut assertion);
        Ok(Zeroizing::new(assertion.into_bytes()))
    }
}

fn json(value: &impl Serialize) -> String {
    // Texts and numbers always serialize.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap_or_default())
}

/// Error of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyProblem {
    /// The file has no private key in a known form.
    #[error("the file holds no private key as PEM (PKCS#8, SEC1 or PKCS#1)")]
    NotPem,
    /// The key is encrypted with a passphrase.
    #[error("the private key is encrypted with a passphrase")]
    Encrypted,
    /// The type or size of the key has no algorithm here.
    #[error("the private key is not of EC P-256, EC P-384, Ed25519 or RSA from 2048 bits")]
    Unsupported,
    /// The signature failed.
    #[error("the signature with the private key failed")]
    Signing,
}

impl KeyProblem {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NotPem => "key_not_pem",
            Self::Encrypted => "key_encrypted",
            Self::Unsupported => "key_unsupported",
            Self::Signing => "key_signing",
        }
    }
}

enum SigningKey {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(rsa::KeyPair),
}

impl SigningKey {
    fn parse(pem: &[u8]) -> Result<Self, KeyProblem> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
            let marked = |mark: &[u8]| pem.windows(mark.len()).any(|it| it == mark);
            match marked(b"ENCRYPTED") {
                true => KeyProblem::Encrypted,
                false => KeyProblem::NotPem,
            }
        })?;
        Self::from_der(&key).map_err(|_| KeyProblem::Unsupported)
    }

    /// Tries the algorithms in turn: the form of a key does not tell its type.
    fn from_der(key: &PrivateKeyDer<'_>) -> Result<Self, KeyRejected> {
        let der = key.secret_der();
        let p256 = || EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der);
        let p384 = || EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, der);
        let ec = || {
            let p256 = p256().map(Self::P256);
            p256.or_else(|_| p384().map(Self::P384))
        };
        match key {
            PrivateKeyDer::Pkcs1(_) => rsa::KeyPair::from_der(der).map(Self::Rsa),
            PrivateKeyDer::Sec1(_) => ec(),
            _ => ec()
                .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Self::Ed25519))
                .or_else(|_| rsa::KeyPair::from_pkcs8(der).map(Self::Rsa)),
        }
    }

    fn algorithm(&self, rsa: RsaAlgorithm) -> &'static str {
        match (self, rsa) {
            (Self::P256(_), _) => "ES256",
            (Self::P384(_), _) => "ES384",
            (Self::Ed25519(_), _) => "EdDSA",
            (Self::Rsa(_), RsaAlgorithm::Rs256) => "RS256",
            (Self::Rsa(_), RsaAlgorithm::Ps256) => "PS256",
        }
    }

    fn sign(&self, rsa: RsaAlgorithm, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        let signature = match self {
            Self::P256(key) | Self::P384(key) => key.sign(&random, message)?,
            Self::Ed25519(key) => key.try_sign(message)?,
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let padding = match rsa {
                    RsaAlgorithm::Rs256 => &RSA_PKCS1_SHA256,
                    RsaAlgorithm::Ps256 => &RSA_PSS_SHA256,
                };
                key.sign(padding, &random, message, &mut signature)?;
                return Ok(signature);
            }
        };
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use aws_lc_rs::{
        encoding::{AsDer as _, EcPrivateKeyRfc5915Der, Pkcs8V1Der},
        signature::{
            ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaSigningAlgorithm,
            KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
            VerificationAlgorithm,
        },
    };
    use base64::engine::general_purpose::STANDARD;
    use serde_json::Value;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let body = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    async fn sign(pem: &str, rsa: RsaAlgorithm) -> Result<Zeroizing<Vec<u8>>, OAuth2Problem> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        std::io::Write::write_all(&mut fs::File::create(&path).unwrap(), pem.as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = PrivateKeyJwt::new(path, Some("k1".to_owned()), None, rsa);
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        key.assertion("node-1", "https://id.test/token", now).await
    }

    fn json_of(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    /// The assertion, verified with the public key.
    async fn verified(
        pem: &str,
        rsa: RsaAlgorithm,
        algorithm: &'static dyn VerificationAlgorithm,
        public_key: &[u8],
    ) -> (Value, Value) {
        let assertion = sign(pem, rsa).await.unwrap();
        let text = str::from_utf8(&assertion).unwrap();
        let (signed, signature) = text.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(algorithm, public_key)
            .verify(signed.as_bytes(), &signature)
            .unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        (json_of(header), json_of(claims))
    }

    #[tokio::test]
    async fn the_algorithm_follows_from_the_key_in_every_form() {
        const RS256: RsaAlgorithm = RsaAlgorithm::Rs256;
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| {
            let key = EcdsaKeyPair::generate(algorithm).unwrap();
            let pkcs8 = key.to_pkcs8v1().unwrap();
            let sec1: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
            let forms = [
                pem("PRIVATE KEY", pkcs8.as_ref()),
                pem("EC PRIVATE KEY", sec1.as_ref()),
            ];
            (forms, key.public_key().as_ref().to_vec())
        };
        let (p256, public) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
        for form in p256 {
            let (header, _) = verified(&form, RS256, &ECDSA_P256_SHA256_FIXED, &public).await;
            assert_eq!(header["alg"], "ES256");
        }
        let (p384, public) = ec(&ECDSA_P384_SHA384_FIXED_SIGNING);
        for form in p384 {
            let (header, _) = verified(&form, RS256, &ECDSA_P384_SHA384_FIXED, &public).await;
            assert_eq!(header["alg"], "ES384");
        }

        let key = Ed25519KeyPair::generate().unwrap();
        let form = pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref());
        let public = key.public_key().as_ref();
        let (header, _) = verified(&form, RS256, &ED25519, public).await;
        assert_eq!(header["alg"], "EdDSA");

        let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let public = key.public_key().as_ref();
        // PKCS#8 is PKCS#1 behind a header of this size.
        let forms = [
            pem("PRIVATE KEY", pkcs8.as_ref()),
            pem("RSA PRIVATE KEY", &pkcs8.as_ref()[26..]),
        ];
        for form in forms {
            let (header, _) = verified(&form, RS256, &RSA_PKCS1_2048_8192_SHA256, public).await;
            assert_eq!(header["alg"], "RS256");
            let ps256 = RsaAlgorithm::Ps256;
            let (header, _) = verified(&form, ps256, &RSA_PSS_2048_8192_SHA256, public).await;
            assert_eq!(header["alg"], "PS256");
        }
    }

    #[tokio::test]
    async fn an_assertion_is_for_one_request_at_one_issuer() {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let form = pem("PRIVATE KEY", key.to_pkcs8v1().unwrap().as_ref());
        let of = async || {
            let public = key.public_key().as_ref();
            let algorithm = &ECDSA_P256_SHA256_FIXED;
            verified(&form, RsaAlgorithm::Rs256, algorithm, public).await
        };
        let ((header, claims), (_, next)) = (of().await, of().await);
        assert_eq!(
            header,
            serde_json::json!({"alg": "ES256", "typ": "JWT", "kid": "k1"})
        );
        let id = claims["jti"].as_str().unwrap();
        assert_eq!(id.len(), 22);
        assert_ne!(next["jti"], id);
        assert_eq!(
            claims,
            serde_json::json!({
                "iss": "node-1", "sub": "node-1", "aud": "https://id.test/token",
                "iat": 1000, "exp": 1060, "jti": id,
            })
        );
    }

    #[tokio::test]
    async fn a_key_that_cannot_sign_is_named() {
        let key = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P521_SHA512_FIXED_SIGNING);
        let p521 = key.unwrap().to_pkcs8v1().unwrap();
        for (text, code) in [
            (String::new(), "key_not_pem"),
            ("secret".to_owned(), "key_not_pem"),
            (pem("CERTIFICATE", b"x"), "key_not_pem"),
            (pem("ENCRYPTED PRIVATE KEY", b"x"), "key_encrypted"),
            (pem("PRIVATE KEY", b"x"), "key_unsupported"),
            (pem("PRIVATE KEY", p521.as_ref()), "key_unsupported"),
        ] {
            let refused = sign(&text, RsaAlgorithm::Rs256).await.unwrap_err();
            assert_eq!(refused.code(), code, "{text}");
        }
    }
}
