//! Client certificates: parses a chain and its key, and checks them before a login.
//!
//! OpenBao verifies the chain. The checks here report an unusable certificate as such instead of as
//! a rejected login.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    InconsistentKeys,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::{CertifiedKey, SigningKey},
};
use rustls_pki_types::pem::{Error as PemError, PemObject, SectionKind};
use zeroize::{Zeroize, Zeroizing};

use crate::der::{self, Certificate, element, elements};

const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0];

/// Signature algorithms with MD2, MD4, MD5 or SHA-1.
const WEAK_SIGNATURES: [&[u8]; 9] = [
    // RSA: MD2, MD4, MD5, SHA-1.
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 2],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 3],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4],
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5],
    // SHA-1 with DSA and ECDSA.
    &[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1],
    // The older identifiers of RSA with MD5 and of RSA and DSA with SHA-1.
    &[0x2b, 0x0e, 3, 2, 3],
    &[0x2b, 0x0e, 3, 2, 0x1b],
    &[0x2b, 0x0e, 3, 2, 0x1d],
];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 0x0a];
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
/// Tag of the hash in the parameters of RSA-PSS.
const PSS_HASH: u8 = 0xa0;

/// Limits for the dates of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateRules {
    /// Tolerated clock difference to the issuer.
    pub clock_skew_leeway: Duration,
    /// Required remaining life; a certificate with this much or less is rejected.
    pub min_remaining: Duration,
}

/// Error of a certificate or its key. Positions count from 1, the client's own certificate. Contains
/// only dates and positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// A PEM section cannot be decoded, or lacks a line feed before its first line.
    #[error("a PEM section cannot be decoded")]
    NotPem,
    /// The `CERTIFICATE` section is missing.
    #[error("it holds no PEM certificate")]
    Empty,
    /// A private key in the file of a certificate alone.
    #[error("it holds a private key, which belongs elsewhere")]
    PrivateKey,
    /// A section is not an X.509 certificate.
    #[error("certificate {0} cannot be parsed")]
    Malformed(usize),
    /// A signature with MD2, MD4, MD5 or SHA-1.
    #[error("certificate {0} is signed with MD5, SHA-1 or an older digest")]
    WeakSignature(usize),
    /// `notBefore` is in the future.
    #[error(
        "certificate {position} is not valid yet, for another {} s by this machine's clock",
        .wait.as_secs()
    )]
    NotYetValid {
        /// Position in the chain.
        position: usize,
        /// Time until `notBefore`.
        wait: Duration,
    },
    /// `notAfter` has passed.
    #[error("certificate {position} expired {} s ago", .since.as_secs())]
    Expired {
        /// Position in the chain.
        position: usize,
        /// Time since `notAfter`.
        since: Duration,
    },
    /// `notAfter` is near.
    #[error(
        "certificate {position} expires in {} s, but {} s are required",
        .remaining.as_secs(), .required.as_secs()
    )]
    NearExpiry {
        /// Position in the chain.
        position: usize,
        /// Time until `notAfter`; 0 within the leeway after it.
        remaining: Duration,
        /// Required minimum, exclusive.
        required: Duration,
    },
    /// The extended key usage of the own certificate lacks `clientAuth`.
    #[error("its extended key usage excludes client authentication")]
    Usage,
    /// The key file has no PEM private key without a password.
    #[error("the key file holds no PEM private key without a password")]
    NoKey,
    /// The private key cannot be decoded, or TLS does not support its type.
    #[error("the private key cannot be decoded, or is of a type that TLS does not support")]
    UnusableKey,
    /// The private key belongs to another certificate.
    #[error("the private key belongs to another certificate than the first of the chain")]
    ForeignKey,
}

impl CertificateProblem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotPem => "not_pem",
            Self::Empty => "no_certificate",
            Self::PrivateKey => "private_key_in_chain",
            Self::Malformed(_) => "malformed",
            Self::WeakSignature(_) => "weak_signature",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "expired",
            Self::NearExpiry { .. } => "near_expiry",
            Self::Usage => "key_usage",
            Self::NoKey => "no_key",
            Self::UnusableKey => "unusable_key",
            Self::ForeignKey => "foreign_key",
        }
    }
}

/// A parsed chain; the client's own certificate is the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    dates: Vec<Dates>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dates {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Chain {
    /// Parses the PEM text of a chain without a private key.
    ///
    /// # Errors
    /// When a section cannot be parsed, is a private key, or has a property that no clock changes.
    pub fn parse(pem: &[u8]) -> Result<Self, CertificateProblem> {
        Self::read(pem, false)
    }

    /// As [`Self::parse`], for a text that may also hold the private key.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_beside_key(pem: &[u8]) -> Result<Self, CertificateProblem> {
        Self::read(pem, true)
    }

    fn read(pem: &[u8], key_allowed: bool) -> Result<Self, CertificateProblem> {
        let mut certificates = Vec::new();
        for (kind, der) in sections(pem)? {
            match kind {
                SectionKind::Certificate => certificates.push(CertificateDer::from(der.to_vec())),
                SectionKind::PrivateKey
                | SectionKind::RsaPrivateKey
                | SectionKind::EcPrivateKey
                    if !key_allowed =>
                {
                    return Err(CertificateProblem::PrivateKey);
                }
                _ => {}
            }
        }

        let mut dates = Vec::with_capacity(certificates.len());
        for (der, position) in certificates.iter().zip(1..) {
            let malformed = CertificateProblem::Malformed(position);
            let parts = Certificate::parse(der).ok_or(malformed)?;
            if is_weak(parts.signature_algorithm).ok_or(malformed)? {
                return Err(CertificateProblem::WeakSignature(position));
            }
            if position == 1 && !allows_client_auth(&parts) {
                return Err(CertificateProblem::Usage);
            }
            dates.push(Dates {
                not_before: parts.not_before.time(),
                not_after: parts.not_after.time(),
            });
        }
        if certificates.is_empty() {
            return Err(CertificateProblem::Empty);
        }
        Ok(Self {
            certificates,
            dates,
        })
    }

    /// The client's own certificate.
    pub(crate) fn own(&self) -> Option<&CertificateDer<'static>> {
        self.certificates.first()
    }

    /// Earliest expiry within the chain.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        let expiries = self.dates.iter().map(|dates| dates.not_after);
        expiries.min().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Checks the dates at the wall-clock time `now`.
    ///
    /// # Errors
    /// The first violated rule.
    pub fn check(
        &self,
        rules: CertificateRules,
        now: SystemTime,
    ) -> Result<(), CertificateProblem> {
        let leeway = rules.clock_skew_leeway;
        let between =
            |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        for (dates, position) in self.dates.iter().zip(1..) {
            let wait = between(now, dates.not_before);
            if wait > leeway {
                return Err(CertificateProblem::NotYetValid { position, wait });
            }
            let since = between(dates.not_after, now);
            let remaining = between(now, dates.not_after);
            if remaining.is_zero() && since >= leeway {
                return Err(CertificateProblem::Expired { position, since });
            }
            if remaining <= rules.min_remaining {
                return Err(CertificateProblem::NearExpiry {
                    position,
                    remaining,
                    required: rules.min_remaining,
                });
            }
        }
        Ok(())
    }

    /// Joins the chain with its key, for [`crate::client::Client::present`]. The key must state its
    /// public key.
    ///
    /// # Errors
    /// [`CertificateProblem::ForeignKey`] when the key does not belong to the first certificate.
    pub fn with_key(self, key: Arc<dyn SigningKey>) -> Result<CertifiedKey, CertificateProblem> {
        let joined = CertifiedKey::new(self.certificates, key);
        match joined.keys_match() {
            Ok(()) => Ok(joined),
            Err(rustls::Error::InconsistentKeys(
                InconsistentKeys::KeyMismatch | InconsistentKeys::Unknown,
            )) => Err(CertificateProblem::ForeignKey),
            Err(_) => Err(CertificateProblem::Malformed(1)),
        }
    }
}

/// Parses the first private key of a PEM text: PKCS#8, PKCS#1 or SEC 1, without a password.
///
/// # Errors
/// [`CertificateProblem::NoKey`] or [`CertificateProblem::UnusableKey`].
pub fn private_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateProblem> {
    let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound => CertificateProblem::NoKey,
        _ => CertificateProblem::UnusableKey,
    })?;
    let key = aws_lc_rs::sign::any_supported_type(&der);
    der.zeroize();
    key.map_err(|_| CertificateProblem::UnusableKey)
}

type Section = (SectionKind, Zeroizing<Vec<u8>>);

/// All sections of a PEM text; text between them is ignored.
fn sections(pem: &[u8]) -> Result<Vec<Section>, CertificateProblem> {
    // A PEM reader drops a section that begins on the last line of another silently.
    if pem.windows(15).any(|part| part == b"----------BEGIN") {
        return Err(CertificateProblem::NotPem);
    }
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .map(|section| match section {
            Ok((kind, der)) => Ok((kind, Zeroizing::new(der))),
            Err(_) => Err(CertificateProblem::NotPem),
        })
        .collect()
}

/// `None` for another structure.
fn is_weak(signature_algorithm: &[u8]) -> Option<bool> {
    let (algorithm, parameters) = der::algorithm(signature_algorithm)?;
    if algorithm != RSA_PSS {
        return Some(WEAK_SIGNATURES.contains(&algorithm));
    }
    // Without a hash the parameters stand for SHA-1.
    let Some((PSS_HASH, hash, _)) = element(parameters) else {
        return Some(true);
    };
    let (_, hash, _) = element(hash)?;
    Some(der::algorithm(hash)?.0 == SHA1)
}

/// Without the extension a certificate is valid for every usage.
fn allows_client_auth(certificate: &Certificate<'_>) -> bool {
    let Some(usages) = certificate.extension(EXTENDED_KEY_USAGE) else {
        return true;
    };
    let usages = element(usages).map_or(&[][..], |(_, usages, _)| usages);
    elements(usages).any(|usage| [CLIENT_AUTH, ANY_USAGE].contains(&usage))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const LEEWAY: Duration = Duration::from_secs(30);

    fn key() -> KeyPair {
        KeyPair::generate().unwrap()
    }

    /// Valid from 2026-01-01 to 2026-02-01.
    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(["node-1".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 2, 1);
        params
    }

    fn pem_of(params: CertificateParams, key: &KeyPair) -> String {
        params.self_signed(key).unwrap().pem()
    }

    fn at(after_start: Duration) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600) + after_start
    }

    fn problem(pem: &str) -> CertificateProblem {
        Chain::parse(pem.as_bytes()).unwrap_err()
    }

    #[test]
    fn dates_of_every_certificate_are_checked_with_the_leeway() {
        let key = key();
        let long = CertificateParams::new(["ca".to_owned()]).unwrap();
        let pem = pem_of(long, &key) + &pem_of(params(), &key);
        let chain = Chain::parse(pem.as_bytes()).unwrap();
        assert_eq!(chain.expires(), at(31 * DAY));
        let rules = CertificateRules {
            clock_skew_leeway: LEEWAY,
            min_remaining: DAY,
        };
        let second = Duration::from_secs(1);
        let position = 2;
        let (end, required) = (31 * DAY, DAY);
        for (now, expected) in [
            (at(Duration::ZERO) - LEEWAY, Ok(())),
            (
                at(Duration::ZERO) - LEEWAY - second,
                Err(CertificateProblem::NotYetValid {
                    position,
                    wait: LEEWAY + second,
                }),
            ),
            (at(end - DAY - second), Ok(())),
            (
                at(end - DAY),
                Err(CertificateProblem::NearExpiry {
                    position,
                    remaining: DAY,
                    required,
                }),
            ),
            (
                at(end + LEEWAY - second),
                Err(CertificateProblem::NearExpiry {
                    position,
                    remaining: Duration::ZERO,
                    required,
                }),
            ),
            (
                at(end + LEEWAY),
                Err(CertificateProblem::Expired {
                    position,
                    since: LEEWAY,
                }),
            ),
        ] {
            assert_eq!(chain.check(rules, now), expected, "{now:?}");
        }
    }

    #[test]
    fn the_first_certificate_must_be_one_of_a_client() {
        let with = |usages: &[ExtendedKeyUsagePurpose]| {
            let mut params = params();
            params.extended_key_usages = usages.to_vec();
            Chain::parse(pem_of(params, &key()).as_bytes()).err()
        };
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[ServerAuth, ClientAuth]), None);
        assert_eq!(with(&[Any]), None);
        assert_eq!(with(&[ServerAuth]), Some(CertificateProblem::Usage));
    }

    #[test]
    fn a_chain_is_certificates_alone_unless_the_key_may_be_beside_it() {
        let key = key();
        let certificate = pem_of(params(), &key);
        let both = certificate.clone() + &key.serialize_pem();
        assert_eq!(problem(""), CertificateProblem::Empty);
        assert_eq!(problem(&both), CertificateProblem::PrivateKey);
        assert!(Chain::parse_beside_key(both.as_bytes()).is_ok());
        let glued = certificate.trim_end().to_owned() + &certificate;
        assert_eq!(problem(&glued), CertificateProblem::NotPem);
        assert_eq!(
            problem(&certificate.replace('M', "*")),
            CertificateProblem::NotPem
        );
        let other = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let second = certificate + other;
        assert_eq!(problem(&second), CertificateProblem::Malformed(2));
    }

    #[test]
    fn the_key_belongs_to_the_first_certificate() {
        let (own, other) = (key(), key());
        let chain = Chain::parse(pem_of(params(), &own).as_bytes()).unwrap();
        let key_of = |pair: &KeyPair| private_key(pair.serialize_pem().as_bytes()).unwrap();
        assert!(chain.clone().with_key(key_of(&own)).is_ok());
        let foreign = chain.with_key(key_of(&other)).unwrap_err();
        assert_eq!(foreign, CertificateProblem::ForeignKey);

        let encrypted = own.serialize_pem().replace("PRIVATE", "ENCRYPTED PRIVATE");
        let unusable = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        for (pem, expected) in [
            (encrypted.as_str(), CertificateProblem::NoKey),
            ("", CertificateProblem::NoKey),
            (unusable, CertificateProblem::UnusableKey),
        ] {
            assert_eq!(private_key(pem.as_bytes()).unwrap_err(), expected);
        }
    }

    /// The library of the tests refuses to sign with SHA-1, so the algorithm is replaced in the
    /// finished certificate. Its signature is not verified here.
    #[test]
    fn old_digests_are_refused() {
        const ECDSA_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
        let sound = params().self_signed(&key()).unwrap().der().to_vec();
        let at = sound.len() - 96;
        let start = at
            + sound[at..]
                .windows(ECDSA_SHA256.len())
                .position(|part| part == ECDSA_SHA256)
                .unwrap();
        let weak = |digest: &[u8]| {
            let mut parts = vec![0x06, u8::try_from(digest.len()).unwrap()];
            parts.extend_from_slice(digest);
            is_weak(&parts)
        };
        assert_eq!(is_weak(&sound[start..start + 10]), Some(false));
        for digest in WEAK_SIGNATURES {
            assert_eq!(weak(digest), Some(true));
        }

        let pss = |parameters: &[u8]| {
            let mut all = vec![0x06, 9];
            all.extend_from_slice(RSA_PSS);
            all.extend_from_slice(&[0x30, u8::try_from(parameters.len()).unwrap()]);
            all.extend_from_slice(parameters);
            is_weak(&all)
        };
        assert_eq!(pss(&[]), Some(true));
        assert_eq!(
            pss(&[0xa0, 9, 0x30, 7, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a]),
            Some(true)
        );
        let sha256 = [
            0xa0, 13, 0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1,
        ];
        assert_eq!(pss(&sha256), Some(false));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>) {
            Chain::parse_beside_key(&bytes).ok();
            private_key(&bytes).ok();
            Certificate::parse(&bytes);
        }
    }
}
