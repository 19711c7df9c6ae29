//! Signatures by an asymmetric Transit key, for the statements of an operator's commands. The provider
//! itself never signs.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_domain::scope::TransitKeyPath;
use serde::{Deserialize, Serialize};

use crate::{
    client::{Answer, Client},
    failure::Failure,
    request::{Operation, Request},
    token::Token,
};

/// A Transit key that signs, with the timeout of its requests.
#[derive(Clone)]
pub struct TransitSigning {
    client: Client,
    mount: String,
    key: String,
    timeout: Duration,
}

/// Latest version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningVersion {
    /// Number of the version.
    pub version: u64,
    /// Type in the words of Transit, such as `ecdsa-p256`.
    pub key_type: String,
    /// Public key in the form of Transit: PEM, or Base64 of 32 bytes for Ed25519. Empty for a symmetric
    /// key.
    pub public_key: String,
}

impl TransitSigning {
    /// The key at a path, with `timeout` for each request.
    #[must_use]
    pub fn new(client: Client, path: &TransitKeyPath, timeout: Duration) -> Self {
        Self {
            client,
            mount: path.mount_path.to_string(),
            key: path.key_name.to_string(),
            timeout,
        }
    }

    /// Reads the latest version with its public key.
    ///
    /// # Errors
    /// The classified failure, also for a response without the latest version.
    pub async fn latest(&self, token: &Token) -> Result<SigningVersion, Failure> {
        #[derive(Deserialize)]
        struct Data {
            #[serde(rename = "type")]
            key_type: String,
            latest_version: u64,
            // Symmetric keys have a number for each version.
            keys: BTreeMap<String, serde_json::Value>,
        }
        let path = format!("{}/keys/{}", self.mount, self.key);
        let request = Request::get(Operation::TransitMetadataRead, path);
        self.send(request.token(token), |answer| {
            let data: Data = answer.data()?;
            let version = data.keys.get(&data.latest_version.to_string());
            let version = version.ok_or_else(|| answer.invalid("it leaves out a version"))?;
            let public_key = version.get("public_key").and_then(|it| it.as_str());
            Ok(SigningVersion {
                version: data.latest_version,
                key_type: data.key_type,
                public_key: public_key.unwrap_or_default().to_owned(),
            })
        })
        .await
    }

    /// Signs `message` with this version: SHA-256 and ASN.1 for ECDSA, the plain message for Ed25519.
    ///
    /// # Errors
    /// The classified failure, also for a signature by another version.
    pub async fn sign(
        &self,
        token: &Token,
        version: u64,
        message: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            input: &'a str,
            key_version: u64,
            hash_algorithm: &'a str,
            marshaling_algorithm: &'a str,
        }
        #[derive(Deserialize)]
        struct Data {
            signature: String,
        }
        let body = Body {
            input: &STANDARD.encode(message),
            key_version: version,
            hash_algorithm: "sha2-256",
            marshaling_algorithm: "asn1",
        };
        let path = format!("{}/sign/{}", self.mount, self.key);
        let request = Request::post(Operation::TransitSign, path);
        self.send(request.token(token).json(&body), |answer| {
            let data: Data = answer.data()?;
            let prefix = format!("vault:v{version}:");
            let signature = data.signature.strip_prefix(&prefix);
            let signature = signature.and_then(|text| STANDARD.decode(text).ok());
            signature.ok_or_else(|| answer.invalid("it holds no signature by the named version"))
        })
        .await
    }

    async fn send<T>(
        &self,
        request: Request<'_>,
        mut read: impl FnMut(&Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.client
            .send_and_read(request, self.timeout, |answer| read(&answer))
            .await
    }
}
