//! A TLS signing key on a token.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use pkcs11_signer::{KeyKind, Mechanism, OpenKey, TokenProblem};
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
    server::ParsedCertificate,
    sign::{Signer, SigningKey},
};

use crate::{
    der::element,
    login::{
        LoginFailure,
        certificate::{CertificateProblem, Chain},
    },
};

/// Text of the signature that shows that the key works and belongs to the certificate.
const PROBE: &[u8] = b"openbao-kubernetes-kms/cert-signer-probe/v1";
/// Time limit of one signature: shorter than a connection attempt, so that the cause of a failed
/// one is known.
const SIGN_LIMIT: Duration = Duration::from_secs(2);

/// An open key. Signatures fail after [`Self::close`].
pub(super) struct TokenSigner(Arc<Inner>);

struct Inner {
    open: Mutex<Option<OpenKey>>,
    kind: KeyKind,
    end: Instant,
    /// Public key of the certificate, once a signature has shown that it is that of the key.
    public_key: OnceLock<SubjectPublicKeyInfoDer<'static>>,
    fault: OnceLock<TokenProblem>,
}

#[derive(Debug)]
struct SchemeSigner {
    key: Arc<Inner>,
    scheme: SignatureScheme,
}

impl TokenSigner {
    /// A signer for use until `end`.
    pub(super) fn new(open: OpenKey, end: Instant) -> Self {
        Self(Arc::new(Inner {
            kind: open.kind(),
            open: Mutex::new(Some(open)),
            end,
            public_key: OnceLock::new(),
            fault: OnceLock::new(),
        }))
    }

    /// Signs the probe text, and verifies the signature with the public key of the chain's first
    /// certificate. Blocks.
    pub(super) fn prove(&self, chain: &Chain) -> Result<(), LoginFailure> {
        let scheme = self.0.schemes().first().copied();
        let scheme = scheme.ok_or(TokenProblem::KeyUnsupported)?;
        let signature = self.0.sign(scheme, PROBE)?;
        let public_key = chain.own().and_then(public_key);
        let public_key = public_key.ok_or(CertificateProblem::Malformed(1))?;
        if !verifies(&public_key, scheme, &signature) {
            return Err(CertificateProblem::ForeignKey.into());
        }
        // Set once.
        self.0.public_key.set(public_key).ok();
        Ok(())
    }

    /// Ends the use of the token.
    pub(super) fn close(&self) {
        drop(self.0.open().take());
    }

    /// Why a signature failed.
    pub(super) fn fault(&self) -> Option<TokenProblem> {
        self.0.fault.get().cloned()
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Option<OpenKey>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schemes(&self) -> &'static [SignatureScheme] {
        match self.kind {
            KeyKind::P256 => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            KeyKind::P384 => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            KeyKind::Ed25519 => &[SignatureScheme::ED25519],
            KeyKind::Rsa => &[
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PSS_SHA384,
                SignatureScheme::RSA_PSS_SHA512,
            ],
        }
    }

    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, TokenProblem> {
        let (mechanism, hash) = match scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => (Mechanism::Ecdsa, Some(&digest::SHA256)),
            SignatureScheme::ECDSA_NISTP384_SHA384 => (Mechanism::Ecdsa, Some(&digest::SHA384)),
            SignatureScheme::RSA_PSS_SHA256 => (Mechanism::PssSha256, Some(&digest::SHA256)),
            SignatureScheme::RSA_PSS_SHA384 => (Mechanism::PssSha384, Some(&digest::SHA384)),
            SignatureScheme::RSA_PSS_SHA512 => (Mechanism::PssSha512, Some(&digest::SHA512)),
            _ => (Mechanism::Ed25519, None),
        };
        let hashed = hash.map(|hash| digest::digest(hash, message));
        let data = hashed.as_ref().map_or(message, AsRef::as_ref);
        let limit = self.end.saturating_duration_since(Instant::now());
        let open = self.open();
        // Closed: the login has given up.
        let open = open.as_ref().ok_or(TokenProblem::Hangs)?;
        let signature = open.sign(mechanism, data, limit.min(SIGN_LIMIT))?;
        Ok(match mechanism {
            Mechanism::Ecdsa => ecdsa_der(&signature),
            _ => signature,
        })
    }
}

impl SigningKey for TokenSigner {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut schemes = self.0.schemes().iter();
        let scheme = *schemes.find(|scheme| offered.contains(scheme))?;
        let key = Arc::clone(&self.0);
        Some(Box::new(SchemeSigner { key, scheme }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let bytes: &[u8] = self.0.public_key.get()?;
        Some(bytes.into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.kind {
            KeyKind::P256 | KeyKind::P384 => SignatureAlgorithm::ECDSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
            KeyKind::Rsa => SignatureAlgorithm::RSA,
        }
    }
}

impl Signer for SchemeSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.key.sign(self.scheme, message).map_err(|problem| {
            let failed = Error::General(problem.to_string());
            // The first one is the cause.
            self.key.fault.set(problem).ok();
            failed
        })
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = f.debug_struct("TokenSigner");
        name.field("kind", &self.kind).finish_non_exhaustive()
    }
}

fn public_key(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(parsed.subject_public_key_info())
}

fn verifies(
    public_key: &SubjectPublicKeyInfoDer<'_>,
    scheme: SignatureScheme,
    signature: &[u8],
) -> bool {
    let bits = || {
        let (_, info, _) = element(public_key)?;
        let (_, _algorithm, rest) = element(info)?;
        let (_, bits, _) = element(rest)?;
        // The first byte counts the unused bits.
        bits.get(1..)
    };
    let Some(bits) = bits() else {
        return false;
    };
    let supported = provider::default_provider().signature_verification_algorithms;
    let algorithms = supported.mapping.iter();
    algorithms
        .filter(|(of, _)| *of == scheme)
        .flat_map(|(_, algorithms)| algorithms.iter())
        .any(|algorithm| algorithm.verify_signature(bits, PROBE, signature).is_ok())
}

/// `ECDSA-Sig-Value` of RFC 3279, from `r` and `s` of equal length.
fn ecdsa_der(raw: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let digits = bytes.get(zeros..).unwrap_or_default();
        // A first bit of 1 would be a sign.
        let positive = digits.first().is_none_or(|first| *first >= 0x80);
        let mut content = vec![0; usize::from(positive)];
        content.extend(digits);
        tagged(0x02, &content)
    };
    let (r, s) = raw.split_at(raw.len() / 2);
    tagged(0x30, &[integer(r), integer(s)].concat())
}

/// A DER element of less than 128 bytes, as all of curves up to P-384 are.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    let mut element = vec![tag, length];
    element.extend(content);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecdsa_signatures_are_the_shortest_integers() {
        assert_eq!(
            ecdsa_der(&[0, 1, 0, 0x80]),
            [0x30, 7, 2, 1, 1, 2, 2, 0, 0x80]
        );
        assert_eq!(
            ecdsa_der(&[0, 0, 0x7f, 0xff]),
            [0x30, 7, 2, 1, 0, 2, 2, 0x7f, 0xff]
        );
        let longest = ecdsa_der(&[0xff; 96]);
        assert_eq!(
            (longest.len(), &longest[..4]),
            (104, &[0x30, 102, 2, 49][..])
        );
    }
}
