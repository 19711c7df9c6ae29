//! Signs statements with a key from a file, or by a Transit key that stays in OpenBao.

use std::path::{Path, PathBuf};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use kms_domain::scope::TransitKeyPath;
use kms_node::{
    auth::CallFailure,
    config::Config,
    connection::{self, Connection},
};
use openbao_client::{
    credential_file::{self, CredentialFileRules},
    transit_signing::TransitSigning,
};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};

use super::{
    AttestationError,
    public_key::{KeyProblem, PublicKey},
};

/// Group read access is allowed, because service managers pass credentials in this way.
const KEY_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o137,
    max_size: 64 << 10,
};

/// A key that signs.
pub(super) struct Signer {
    /// The file, or mount and key.
    name: String,
    key: Key,
    public: PublicKey,
}

enum Key {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Transit { path: TransitKeyPath, version: u64 },
}

impl Signer {
    /// The private key in a PEM file (PKCS#8).
    ///
    /// # Errors
    /// The file is unsafe, or has another kind of key.
    pub(super) fn file(path: &Path) -> Result<Self, AttestationError> {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let pem = credential_file::read(&absolute, KEY_RULES);
        let pem = pem.map_err(|problem| AttestationError::KeyFile {
            path: path.to_owned(),
            problem,
        })?;
        let (key, public) = parse(&pem).map_err(|problem| AttestationError::Key {
            path: PathBuf::from(path),
            problem,
        })?;
        let name = path.display().to_string();
        Ok(Self { name, key, public })
    }

    /// The latest version of a Transit key, which is read now.
    ///
    /// # Errors
    /// OpenBao refused the request, or the key is of another kind.
    pub(super) fn transit(config: &Config, path: TransitKeyPath) -> Result<Self, AttestationError> {
        let name = format!("{}/{}", path.mount_path, path.key_name);
        let found = connection::ask(config, async |openbao: &Connection| {
            let signing = signing(config, openbao, &path);
            let session = &openbao.session;
            session
                .call(async |token| signing.latest(&token).await)
                .await
        })?;
        let found = found.map_err(|failure| refused(&name, failure))?;
        let public = match &*found.key_type {
            "ecdsa-p256" => PublicKey::from_pem(found.public_key.as_bytes()),
            "ed25519" if found.public_key.is_empty() => Err(KeyProblem::Derived),
            "ed25519" => PublicKey::ed25519_from_base64(&found.public_key),
            _ => Err(KeyProblem::Unsupported),
        };
        let version = found.version;
        match public {
            Ok(public) => Ok(Self {
                name,
                key: Key::Transit { path, version },
                public,
            }),
            Err(problem) => Err(AttestationError::TransitKey {
                key: name,
                key_type: found.key_type,
                problem,
            }),
        }
    }

    /// [`PublicKey::id`] of the key.
    pub(super) fn key_id(&self) -> &str {
        self.public.id()
    }

    /// A signature that is valid by the public key.
    ///
    /// # Errors
    /// OpenBao refused the request, or the signature is invalid.
    pub(super) fn sign(
        &self,
        config: &Config,
        message: &[u8],
    ) -> Result<Vec<u8>, AttestationError> {
        let invalid = || AttestationError::Signature {
            key: self.name.clone(),
        };
        let signature = match &self.key {
            Key::P256(key) => key
                .sign(&SystemRandom::new(), message)
                .map_err(|_| invalid())?
                .as_ref()
                .to_vec(),
            Key::Ed25519(key) => key
                .try_sign(message)
                .map_err(|_| invalid())?
                .as_ref()
                .to_vec(),
            Key::Transit { path, version } => {
                let signed = connection::ask(config, async |openbao: &Connection| {
                    let signing = signing(config, openbao, path);
                    let session = &openbao.session;
                    session
                        .call(async |token| signing.sign(&token, *version, message).await)
                        .await
                })?;
                signed.map_err(|failure| refused(&self.name, failure))?
            }
        };
        match self.public.verify(message, &signature) {
            true => Ok(signature),
            false => Err(invalid()),
        }
    }
}

fn signing(config: &Config, openbao: &Connection, path: &TransitKeyPath) -> TransitSigning {
    TransitSigning::new(openbao.client.clone(), path, config.openbao.timeout)
}

fn refused(key: &str, failure: CallFailure) -> AttestationError {
    AttestationError::Transit {
        key: key.to_owned(),
        failure: Box::new(failure),
    }
}

fn parse(pem: &[u8]) -> Result<(Key, PublicKey), KeyProblem> {
    let marked = |mark: &[u8]| pem.windows(mark.len()).any(|it| it == mark);
    let der = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(PrivateKeyDer::Pkcs8(der)) => der,
        _ if marked(b"ENCRYPTED") => return Err(KeyProblem::Encrypted),
        _ => return Err(KeyProblem::NotPrivatePem),
    };
    let der = der.secret_pkcs8_der();
    if let Ok(key) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der) {
        let point = key.public_key().as_ref();
        if !is_usual(der, point) {
            return Err(KeyProblem::PointForm);
        }
        let public = PublicKey::p256(point).ok_or(KeyProblem::Unsupported)?;
        return Ok((Key::P256(key), public));
    }
    let key =
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyProblem::Unsupported)?;
    let public = PublicKey::ed25519(key.public_key().as_ref());
    Ok((Key::Ed25519(key), public.ok_or(KeyProblem::Unsupported)?))
}

/// Whether the public key, as other programs write it by this private key in DER, is that of
/// [`PublicKey`]: with a named curve, and the uncompressed point.
fn is_usual(der: &[u8], point: &[u8]) -> bool {
    let algorithm = PublicKey::p256_algorithm();
    let named = der.windows(algorithm.len()).any(|it| it == algorithm);
    // Each form of a point has X after its first byte. A key may leave the point out.
    let x = point.get(1..33).unwrap_or_default();
    let mut points = der.windows(33).filter(|it| it.ends_with(x));
    named && points.all(|it| it.first() == Some(&4))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer as _, EcPrivateKeyRfc5915Der},
        signature::ECDSA_P384_SHA384_ASN1_SIGNING,
    };
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    fn pem(label: &str, der: &[u8]) -> Vec<u8> {
        let body = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
    }

    fn problem(pem: &[u8]) -> KeyProblem {
        parse(pem).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_key_of_another_kind_or_form_cannot_sign() {
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let pkcs8 = p256.to_pkcs8v1().unwrap();
        let good = parse(&pem("PRIVATE KEY", pkcs8.as_ref())).unwrap();
        assert_eq!(Some(good.1), PublicKey::p256(p256.public_key().as_ref()));

        let sec1: EcPrivateKeyRfc5915Der<'_> = p256.private_key().as_der().unwrap();
        let sec1 = pem("EC PRIVATE KEY", sec1.as_ref());
        assert_eq!(problem(&sec1), KeyProblem::NotPrivatePem);
        let encrypted = pem("ENCRYPTED PRIVATE KEY", b"x");
        assert_eq!(problem(&encrypted), KeyProblem::Encrypted);
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let p384 = pem("PRIVATE KEY", p384.to_pkcs8v1().unwrap().as_ref());
        assert_eq!(problem(&p384), KeyProblem::Unsupported);
        assert_eq!(problem(b""), KeyProblem::NotPrivatePem);
    }
}
