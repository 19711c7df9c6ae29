//! Transit requests of a provider for its one key.

use std::{
    borrow::{Borrow, Cow},
    collections::BTreeMap,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_domain::{
    aad::AssociatedData,
    ciphertext::TransitCiphertext,
    prepare::PreparedDecrypt,
    scope::TransitKeyPath,
    transit::{KeyMetadata, TransitVersion},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    client::{Answer, Client},
    failure::{Failure, FailureClass},
    request::{Operation, Request},
    token::Token,
    turns::Purpose,
};

/// Maximum number of items in one batch. OpenBao accepts at most 249: its limit on strings in a
/// request, 1,000 by default, also counts names.
pub const MAX_BATCH: usize = 128;

/// One Transit key, with the timeout of its requests.
#[derive(Clone)]
pub struct Transit {
    client: Client,
    mount: String,
    key: String,
    timeout: Duration,
    purpose: Option<Purpose>,
}

/// Result of an encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// The ciphertext for the API server, unchanged.
    pub ciphertext: TransitCiphertext,
    /// The key version reported by Transit; `None` if it is missing.
    pub key_version: Option<TransitVersion>,
}

/// Decrypted bytes: wiped on drop, without `Debug` and `Clone`.
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// The bytes, for the response that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Transit {
    /// The key at a path, with `timeout` for each request.
    #[must_use]
    pub fn new(client: Client, path: &TransitKeyPath, timeout: Duration) -> Self {
        Self {
            client,
            mount: path.mount_path.to_string(),
            key: path.key_name.to_string(),
            timeout,
            purpose: None,
        }
    }

    /// The same key for probes. Their requests do not wait behind those of calls.
    #[must_use]
    pub fn for_probes(&self) -> Self {
        Self {
            purpose: Some(Purpose::Probe),
            ..self.clone()
        }
    }

    /// Encrypts with this key version. The caller must check the reported version.
    ///
    /// # Errors
    /// The classified failure, also for a response without a well-formed ciphertext.
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

    /// Decrypts and authenticates one ciphertext.
    ///
    /// # Errors
    /// The classified failure; [`DecryptFailed`](crate::failure::FailureClass::DecryptFailed) if
    /// ciphertext, associated data and key do not match.
    pub async fn decrypt(
        &self,
        token: &Token,
        ciphertext: &TransitCiphertext,
        associated_data: &AssociatedData,
    ) -> Result<Plaintext, Failure> {
        let context = STANDARD.encode(associated_data.as_bytes());
        self.decrypt_one(token, ciphertext, Some(&context)).await
    }

    /// Decrypts one ciphertext of another program, which encrypted without associated data. Transit
    /// refuses a ciphertext with associated data.
    ///
    /// # Errors
    /// As for [`decrypt`](Self::decrypt).
    pub async fn decrypt_without_context(
        &self,
        token: &Token,
        ciphertext: &TransitCiphertext,
    ) -> Result<Plaintext, Failure> {
        self.decrypt_one(token, ciphertext, None).await
    }

    async fn decrypt_one(
        &self,
        token: &Token,
        ciphertext: &TransitCiphertext,
        associated_data: Option<&str>,
    ) -> Result<Plaintext, Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            ciphertext: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            associated_data: Option<&'a str>,
        }
        #[derive(Deserialize)]
        struct Reply<'a> {
            #[serde(borrow)]
            data: Data<'a>,
        }
        // Borrowed from the response's wiped buffer: base64 needs no JSON escapes.
        #[derive(Deserialize)]
        struct Data<'a> {
            plaintext: &'a str,
        }
        let body = Body {
            ciphertext: ciphertext.as_str(),
            associated_data,
        };
        let request = Request::post(Operation::TransitDecrypt, self.path("decrypt"));
        self.send(request.token(token).json(&body), |answer| {
            let reply: Reply<'_> = answer.json()?;
            plaintext(answer, reply.data.plaintext)
        })
        .await
    }

    /// Decrypts and authenticates many ciphertexts, in consecutive requests of at most
    /// [`MAX_BATCH`] items. The results are in the order of `items`. A failed item leaves the
    /// others unaffected.
    ///
    /// The order of OpenBao's results is trusted, like its plaintexts: a `reference` in each item
    /// would only detect mixed-up results, and a malicious server can also forge plaintexts.
    ///
    /// A request rejected as a whole, for its size or one of its items, is repeated with half the
    /// items, down to one: the rejection may concern a single item. All plaintexts stay in memory
    /// until the end, so pass a large number of items in portions.
    ///
    /// # Errors
    /// The classified failure of the first request with a cause shared by all items.
    pub async fn decrypt_batch<T: Borrow<PreparedDecrypt>>(
        &self,
        token: &Token,
        items: &[T],
    ) -> Result<Vec<Result<Plaintext, Failure>>, Failure> {
        let mut results = Vec::with_capacity(items.len());
        let mut most = MAX_BATCH;
        while let rest @ [_, ..] = &items[results.len()..] {
            let portion = &rest[..most.min(rest.len())];
            match self.decrypt_portion(token, portion).await {
                Ok(answered) => results.extend(answered),
                Err(refusal) if refusal.may_concern_one_item() => match portion.len() {
                    1 => results.push(Err(refusal)),
                    many => most = many / 2,
                },
                Err(failure) => return Err(failure),
            }
        }
        Ok(results)
    }

    async fn decrypt_portion<T: Borrow<PreparedDecrypt>>(
        &self,
        token: &Token,
        items: &[T],
    ) -> Result<Vec<Result<Plaintext, Failure>>, Failure> {
        #[derive(Serialize)]
        struct Body<'a> {
            batch_input: Vec<Input<'a>>,
        }
        #[derive(Serialize)]
        struct Input<'a> {
            ciphertext: &'a str,
            associated_data: String,
        }
        #[derive(Deserialize)]
        struct Reply<'a> {
            #[serde(borrow)]
            data: Data<'a>,
        }
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(borrow)]
            batch_results: Vec<Output<'a>>,
        }
        // Borrowed from the response's wiped buffer, as for a single item.
        #[derive(Deserialize)]
        struct Output<'a> {
            plaintext: Option<&'a str>,
            #[serde(borrow)]
            error: Option<Cow<'a, str>>,
        }

        let batch_input = items
            .iter()
            .map(Borrow::borrow)
            .map(|item: &PreparedDecrypt| Input {
                ciphertext: item.ciphertext.as_str(),
                associated_data: STANDARD.encode(item.associated_data.as_bytes()),
            })
            .collect();
        let request = Request::post(Operation::TransitBatchDecrypt, self.path("decrypt"))
            .token(token)
            .json(&Body { batch_input });

        self.send(request, |answer| {
            let reply: Reply<'_> = answer.json()?;
            let outputs = reply.data.batch_results;
            if outputs.len() != items.len() {
                return Err(answer.invalid("it has more or fewer results than items were sent"));
            }
            let result = |output: Output<'_>| match (output.error, output.plaintext) {
                (Some(error), _) if !error.is_empty() => Err(answer.refused_item(&error)),
                (_, Some(text)) => plaintext(answer, text),
                (_, None) => Err(answer.invalid("it holds neither plaintext nor error")),
            };
            let results: Vec<_> = outputs.into_iter().map(result).collect();

            let too_new = |result: &Result<Plaintext, Failure>| {
                let failure = result.as_ref().err();
                failure.is_some_and(|failure| failure.class() == FailureClass::VersionTooNew)
            };
            if !answer.is_from_active() && results.iter().any(too_new) {
                return Err(answer.lags());
            }
            Ok(results)
        })
        .await
    }

    /// Reads the metadata of the key, unchecked.
    ///
    /// # Errors
    /// The classified failure; [`NotFound`](crate::failure::FailureClass::NotFound) if the key is
    /// missing.
    pub async fn key_metadata(&self, token: &Token) -> Result<KeyMetadata, Failure> {
        let request = Request::get(Operation::TransitMetadataRead, self.path("keys"));
        self.send(request.token(token), |answer| {
            let metadata: KeyMetadata = answer.data()?;
            if self.client.is_current(answer, metadata.latest_version) {
                Ok(metadata)
            } else {
                Err(answer.lags())
            }
        })
        .await
    }

    /// Like [`key_metadata`](Self::key_metadata), for a key other than that of the provider: the
    /// client compares latest versions of one key only.
    ///
    /// # Errors
    /// The classified failure.
    pub async fn other_key_metadata(&self, token: &Token) -> Result<KeyMetadata, Failure> {
        let request = Request::get(Operation::TransitMetadataRead, self.path("keys"));
        self.send(request.token(token), Answer::data).await
    }

    /// Calls [`Client::confirm_cluster`].
    pub fn confirm_cluster(&self) {
        self.client.confirm_cluster();
    }

    /// Calls [`Client::refuse_cluster`].
    pub fn refuse_cluster(&self) {
        self.client.refuse_cluster();
    }

    /// Whether the mount rejects encryption with a missing key instead of creating it. False if the
    /// setting is missing.
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

    /// Capabilities of the token for each of the API paths.
    ///
    /// # Errors
    /// The classified failure, also for a response without one of the paths.
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
        mut request: Request<'_>,
        mut read: impl FnMut(&Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(purpose) = self.purpose {
            request = request.purpose(purpose);
        }
        self.client
            .send_and_read(request, self.timeout, |answer| read(&answer))
            .await
    }
}

fn plaintext(answer: &Answer, base64: &str) -> Result<Plaintext, Failure> {
    let mut plaintext = Zeroizing::new(Vec::new());
    STANDARD
        .decode_vec(base64, &mut plaintext)
        .map_err(|_| answer.invalid("it holds a plaintext in other than base64"))?;
    Ok(Plaintext(plaintext))
}
