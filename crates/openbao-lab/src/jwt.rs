//! An issuer of JWTs, in place of the identity provider of a real installation.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    error::Unspecified,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;
use zeroize::Zeroizing;

/// A key pair that signs JWTs with ES256. The private key stays inside.
pub struct JwtIssuer {
    key: EcdsaKeyPair,
    public_key_pem: String,
}

/// Failure of the cryptographic library, for lack of memory or random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Key generation failed.
    #[error("cannot generate a key pair for JWTs")]
    Generate,
    /// Signing failed.
    #[error("cannot sign a JWT")]
    Sign,
}

impl JwtIssuer {
    /// Generates a key pair.
    ///
    /// # Errors
    /// [`JwtError::Generate`].
    pub fn generate() -> Result<Self, JwtError> {
        let failed = |_: Unspecified| JwtError::Generate;
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let public_key: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(failed)?;
        let public_key_pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(public_key.as_ref())
        );
        Ok(Self {
            key,
            public_key_pem,
        })
    }

    /// Public key for verifiers, as PEM.
    #[must_use]
    pub fn public_key_pem(&self) -> &str {
        &self.public_key_pem
    }

    /// Signs the claims unchanged.
    ///
    /// # Errors
    /// [`JwtError::Sign`].
    pub fn issue(&self, claims: &Value) -> Result<Zeroizing<String>, JwtError> {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","typ":"JWT"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| JwtError::Sign)?;
        // Only the signed text is a secret.
        Ok(Zeroizing::new(format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature)
        )))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_jwt_verifies_with_the_published_key_and_carries_the_claims() {
        let issuer = JwtIssuer::generate().unwrap();
        let claims = json!({"sub": "node", "aud": ["a"], "exp": 4_000_000_000_u64});
        let jwt = issuer.issue(&claims).unwrap();

        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let (_, payload) = signed.split_once('.').unwrap();
        let payload = URL_SAFE_NO_PAD.decode(payload).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), claims);

        let pem = issuer.public_key_pem();
        let public_key = STANDARD.decode(pem.lines().nth(1).unwrap()).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key)
            .verify(
                signed.as_bytes(),
                &URL_SAFE_NO_PAD.decode(signature).unwrap(),
            )
            .unwrap();
    }
}
