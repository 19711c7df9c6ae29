//! One Status, Encrypt and Decrypt through a provider's socket, like kube-apiserver.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use kms_domain::{digest::hex, key_id::KeyId, limits::MAX_MESSAGE_BYTES};
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

use crate::{
    advice::{Cause, node},
    kms_api::{
        API_VERSION,
        generated::{
            DecryptRequest, EncryptRequest, StatusRequest,
            key_management_service_client::KeyManagementServiceClient,
        },
    },
};

/// A client of one provider.
#[derive(Debug, Clone)]
pub struct KmsClient {
    client: KeyManagementServiceClient<Channel>,
    limit: Duration,
}

/// A healthy Status.
#[derive(Debug)]
pub struct Healthy {
    /// The key_id of the active key.
    pub key_id: KeyId,
    /// Duration of the call.
    pub took: Duration,
}

/// A completed round trip.
#[derive(Debug)]
pub struct RoundTrip {
    /// The key_id in Status and Encrypt.
    pub key_id: KeyId,
    /// Length of the ciphertext in bytes.
    pub ciphertext_bytes: usize,
    /// The ciphertext without its payload, such as `vault:v1:`.
    pub ciphertext_prefix: String,
    /// Number of annotations.
    pub annotations: usize,
    /// Duration of Status.
    pub status: Duration,
    /// Duration of Encrypt.
    pub encrypt: Duration,
    /// Duration of Decrypt.
    pub decrypt: Duration,
}

/// The first failed step. Server messages are dropped.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The path is invalid for a socket.
    #[error("cannot connect to the socket")]
    Connect(#[source] tonic::transport::Error),
    #[error("{call} failed with gRPC code {code:?}: {}", cause.headline)]
    Call {
        /// Status, Encrypt or Decrypt.
        call: &'static str,
        code: Code,
        cause: &'static Cause,
    },
    /// The peer implements another version of the API.
    #[error("Status reports an API version other than {API_VERSION}: this is no KMS v2 provider")]
    ApiVersion,
    /// The provider reports another health than `ok`.
    #[error("Status is not ok: the provider is unhealthy, and new Secrets cannot be written")]
    Unhealthy,
    /// The `key_id` has another format than this provider's.
    #[error("the key_id of Status has another format than those of this provider")]
    ForeignKeyId,
    /// The active key differs from the expected one.
    #[error("the active key_id is {found}, expected {expected}")]
    UnexpectedKeyId {
        expected: KeyId,
        /// The `key_id` in Status.
        found: KeyId,
    },
    /// The system call for random bytes failed.
    #[error("no random bytes from the system")]
    Random(#[source] rustix::io::Errno),
    #[error("Encrypt returned no ciphertext")]
    EmptyCiphertext,
    /// The key of Encrypt differs from the one in Status.
    #[error("Encrypt used another key than Status named")]
    KeyChanged,
    /// The connection failed, or the provider stayed unready until the deadline.
    #[error("no answer in time")]
    Timeout,
    /// Decrypt returned other bytes than were encrypted.
    #[error("Decrypt returned other bytes than were encrypted")]
    WrongPlaintext,
}

impl KmsClient {
    /// Connects at the first call. `limit` is the time for each [`healthy`](Self::healthy) and each
    /// [`round_trip`](Self::round_trip), including all calls of the latter.
    ///
    /// # Errors
    /// The path is invalid for a socket.
    pub fn new(socket: &Path, limit: Duration) -> Result<Self, ProbeError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(ProbeError::Connect)?;
        let client = KeyManagementServiceClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { client, limit })
    }

    /// Calls Status and requires `ok`.
    ///
    /// # Errors
    /// [`ProbeError`], also for another `key_id` than `expected`.
    pub async fn healthy(&mut self, expected: Option<&KeyId>) -> Result<Healthy, ProbeError> {
        let deadline = Instant::now() + self.limit;
        self.healthy_by(deadline, expected).await
    }

    async fn healthy_by(
        &mut self,
        deadline: Instant,
        expected: Option<&KeyId>,
    ) -> Result<Healthy, ProbeError> {
        let start = Instant::now();
        let status = self.client.status(StatusRequest {});
        let status = answered("Status", deadline, status).await?;
        let took = start.elapsed();
        if status.version != API_VERSION {
            return Err(ProbeError::ApiVersion);
        }
        if status.healthz != "ok" {
            return Err(ProbeError::Unhealthy);
        }
        let key_id = KeyId::parse(&status.key_id).map_err(|_| ProbeError::ForeignKeyId)?;
        match expected {
            Some(expected) if *expected != key_id => Err(ProbeError::UnexpectedKeyId {
                expected: expected.clone(),
                found: key_id,
            }),
            _ => Ok(Healthy { key_id, took }),
        }
    }

    /// Calls Status, then Encrypt and Decrypt with 32 random bytes.
    ///
    /// # Errors
    /// The first failed step.
    pub async fn round_trip(&mut self, expected: Option<&KeyId>) -> Result<RoundTrip, ProbeError> {
        let deadline = Instant::now() + self.limit;
        let healthy = self.healthy_by(deadline, expected).await?;
        let plaintext = Bytes::from_owner(random::<32>()?);
        let uid = hex(random::<16>()?.as_slice());

        let start = Instant::now();
        let request = EncryptRequest {
            plaintext: plaintext.clone(),
            uid: format!("{uid}-encrypt"),
        };
        let encrypted = self.client.encrypt(request);
        let encrypted = answered("Encrypt", deadline, encrypted).await?;
        let encrypt = start.elapsed();
        if encrypted.ciphertext.is_empty() {
            return Err(ProbeError::EmptyCiphertext);
        }
        if encrypted.key_id != healthy.key_id.as_str() {
            return Err(ProbeError::KeyChanged);
        }
        let text = String::from_utf8_lossy(&encrypted.ciphertext);
        let ciphertext_prefix = text
            .rfind(':')
            .map_or("", |colon| &text[..=colon])
            .to_owned();
        let ciphertext_bytes = encrypted.ciphertext.len();
        let annotations = encrypted.annotations.len();

        let start = Instant::now();
        let request = DecryptRequest {
            ciphertext: encrypted.ciphertext,
            uid: format!("{uid}-decrypt"),
            key_id: encrypted.key_id,
            annotations: encrypted.annotations,
        };
        let decrypted = self.client.decrypt(request);
        let decrypted = answered("Decrypt", deadline, decrypted).await?;
        let decrypt = start.elapsed();
        if decrypted.plaintext != plaintext {
            return Err(ProbeError::WrongPlaintext);
        }
        Ok(RoundTrip {
            key_id: healthy.key_id,
            ciphertext_bytes,
            ciphertext_prefix,
            annotations,
            status: healthy.took,
            encrypt,
            decrypt,
        })
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, ProbeError> {
    let mut bytes = Zeroizing::new([0_u8; N]);
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(ProbeError::Random)?;
    Ok(bytes)
}

/// Waits for one call until the common deadline of all calls, so a timeout names the hanging call.
async fn answered<T>(
    call: &'static str,
    deadline: Instant,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ProbeError> {
    match timeout_at(deadline, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(call_failed(call, status.code())),
        Err(_elapsed) => Err(call_failed(call, Code::DeadlineExceeded)),
    }
}

impl ProbeError {
    /// The cause of the failed probe.
    #[must_use]
    pub fn cause(&self) -> &'static Cause {
        match self {
            Self::Connect(_) => &node::SOCKET_DENIED,
            Self::Call { cause, .. } => cause,
            Self::ApiVersion | Self::ForeignKeyId => &node::NOT_KMS_V2,
            Self::Unhealthy | Self::EmptyCiphertext => &node::UNHEALTHY,
            Self::UnexpectedKeyId { .. } => &node::KEY_ID_UNEXPECTED,
            Self::Random(_) => &node::NO_RANDOM,
            Self::KeyChanged => &node::KEY_CHANGED,
            Self::Timeout => &node::NO_ANSWER,
            Self::WrongPlaintext => &node::WRONG_BYTES,
        }
    }
}

/// Keeps the code and drops the server's message.
fn call_failed(call: &'static str, code: Code) -> ProbeError {
    let cause = node::of_code(code);
    ProbeError::Call { call, code, cause }
}
