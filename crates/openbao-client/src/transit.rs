//! The Transit calls that a provider makes with its one key.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_domain::{
    aad::AssociatedData,
    ciphertext::TransitCiphertext,
    scope::TransitKeyPath,
    transit::{KeyMetadata, TransitVersion},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    client::{Answer, Client},
    failure::Failure,
    request::{Operation, Request},
    token::Token,
};

/// One Transit key, and how long a call may take. Nothing is repeated here.
#[derive(Clone)]
pub struct Transit {
    client: Client,
    mount: String,
    key: String,
    timeout: Duration,
}

/// What Transit made of a plaintext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// For the API server, unchanged.
    pub ciphertext: TransitCiphertext,
    /// The version that Transit says it used; `None` when it did not say.
    pub key_version: Option<TransitVersion>,
}

/// Decrypted bytes: wiped when dropped, never shown, never copied.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The bytes, for the one answer that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Transit {
    /// The key at a path, each call within `timeout`.
    #[must_use]
    pub fn new(client: Client, path: &TransitKeyPath, timeout: Duration) -> Self {
        Self {
            client,
            mount: path.mount_path.to_string(),
            key: path.key_name.to_string(),
            timeout,
        }
    }

    /// Encrypts with exactly this version of the key, if Transit obeys: the caller compares.
    ///
    /// # Errors
    /// The classified failure; an answer without a well-formed ciphertext is one.
    pub async fn encrypt(
        &self,
        token: &Token,
        version: TransitVersion,
        plaintext: &[u8],
        associated_data: &AssociatedData,
    ) -> Result<Encrypted, Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            plaintext: &'a str,
            associated_data: &'a str,
            key_version: u64,
        }
        #[derive(Deserialize)]
        struct Data {
            ciphertext: String,
            #[serde(default)]
            key_version: u64,
        }
        let body = Body {
            plaintext: &Zeroizing::new(STANDARD.encode(plaintext)),
            associated_data: &STANDARD.encode(associated_data.as_bytes()),
            key_version: version.get(),
        };
        let request = Request::post(Operation::TransitEncrypt, self.path("encrypt"));
        self.send(request.token(token).json(&body), |answer| {
            let data: Data = answer.data()?;
            let ciphertext = TransitCiphertext::parse(data.ciphertext.as_bytes())
                .map_err(|_| answer.invalid("it holds no well-formed ciphertext"))?;
            Ok(Encrypted {
                ciphertext,
                key_version: TransitVersion::new(data.key_version),
            })
        })
        .await
    }

    /// Decrypts and authenticates.
    ///
    /// # Errors
    /// The classified failure; [`DecryptFailed`](crate::failure::FailureClass::DecryptFailed) when
    /// ciphertext, associated data and key do not belong together.
    pub async fn decrypt(
        &self,
        token: &Token,
        ciphertext: &TransitCiphertext,
        associated_data: &AssociatedData,
    ) -> Result<Plaintext, Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            ciphertext: &'a str,
            associated_data: &'a str,
        }
        #[derive(Deserialize)]
        struct Reply<'a> {
            #[serde(borrow)]
            data: Data<'a>,
        }
        // Borrowed from the answer's wiped buffer: base64 needs no JSON escapes.
        #[derive(Deserialize)]
        struct Data<'a> {
            plaintext: &'a str,
        }
        let body = Body {
            ciphertext: ciphertext.as_str(),
            associated_data: &STANDARD.encode(associated_data.as_bytes()),
        };
        let request = Request::post(Operation::TransitDecrypt, self.path("decrypt"));
        self.send(request.token(token).json(&body), |answer| {
            let reply: Reply<'_> = answer.json()?;
            let mut plaintext = Zeroizing::new(Vec::new());
            STANDARD
                .decode_vec(reply.data.plaintext, &mut plaintext)
                .map_err(|_| answer.invalid("it holds a plaintext that is not base64"))?;
            Ok(Plaintext(plaintext))
        })
        .await
    }

    /// Reads what Transit tells about the key, unchecked.
    ///
    /// # Errors
    /// The classified failure; [`NotFound`](crate::failure::FailureClass::NotFound) when there is
    /// no such key.
    pub async fn key_metadata(&self, token: &Token) -> Result<KeyMetadata, Failure> {
        let request = Request::get(Operation::TransitMetadataRead, self.path("keys"));
        self.send(request.token(token), |answer| answer.data())
            .await
    }

    /// Whether the mount refuses to make a key that an encryption names. If not said, it does not.
    ///
    /// # Errors
    /// The classified failure.
    pub async fn upsert_disabled(&self, token: &Token) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Data {
            #[serde(default)]
            disable_upsert: bool,
        }
        let path = format!("{}/config/keys", self.mount);
        let request = Request::get(Operation::TransitDisableUpsertRead, path);
        self.send(request.token(token), |answer| {
            answer.data().map(|data: Data| data.disable_upsert)
        })
        .await
    }

    /// What the token may do, for each of the API paths.
    ///
    /// # Errors
    /// The classified failure; an answer that leaves out a path is one.
    pub async fn capabilities(
        &self,
        token: &Token,
        paths: &[String],
    ) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            paths: &'a [String],
        }
        let request = Request::post(Operation::CapabilitiesSelf, "sys/capabilities-self");
        self.send(request.token(token).json(&Body { paths }), |answer| {
            let mut all: BTreeMap<String, Vec<String>> = answer.data()?;
            paths
                .iter()
                .map(|path| Some((path.clone(), all.remove(path)?)))
                .collect::<Option<_>>()
                .ok_or_else(|| answer.invalid("it leaves out a path"))
        })
        .await
    }

    fn path(&self, verb: &str) -> String {
        format!("{}/{verb}/{}", self.mount, self.key)
    }

    async fn send<T>(
        &self,
        request: Request<'_>,
        read: impl FnOnce(&Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.client
            .send_and_read(request, self.timeout, |answer| read(&answer))
            .await
    }
}
