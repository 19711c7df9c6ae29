//! One Status, Encrypt and Decrypt through a provider's socket, as kube-apiserver would call it.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use kms_domain::{digest::hex, key_id::KeyId, limits::MAX_MESSAGE_BYTES};
use tokio::time::{Instant, timeout_at};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

use crate::kms::{
    API_VERSION,
    generated::{
        DecryptRequest, EncryptRequest, StatusRequest,
        key_management_service_client::KeyManagementServiceClient,
    },
};

/// A client of one provider.
#[derive(Debug, Clone)]
pub struct KmsClient {
    client: KeyManagementServiceClient<Channel>,
    limit: Duration,
}

/// What a healthy Status says.
#[derive(Debug)]
pub struct Healthy {
    /// The active key.
    pub key_id: KeyId,
    /// How long the answer took.
    pub took: Duration,
}

/// A completed round trip.
#[derive(Debug)]
pub struct RoundTrip {
    /// The key of Status and Encrypt.
    pub key_id: KeyId,
    /// Length of the ciphertext in bytes.
    pub ciphertext_bytes: usize,
    /// The ciphertext without its payload, such as `vault:v1:`.
    pub ciphertext_prefix: String,
    /// Annotations beside it.
    pub annotations: usize,
    /// Times of the three calls.
    pub status: Duration,
    /// See `status`.
    pub encrypt: Duration,
    /// See `status`.
    pub decrypt: Duration,
}

/// The first step that did not go as it must. Texts of the server are not kept.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The path cannot be a socket's.
    #[error("cannot connect to the socket")]
    Connect(#[source] tonic::transport::Error),
    /// A call failed.
    #[error("{call} failed with gRPC code {code:?}: {advice}")]
    Call {
        /// Status, Encrypt or Decrypt.
        call: &'static str,
        /// The code alone.
        code: Code,
        /// What to do.
        advice: &'static str,
    },
    /// The peer speaks another version of the API.
    #[error("Status reports an API version other than {API_VERSION}: this is no KMS v2 provider")]
    ApiVersion,
    /// The provider is not ready to encrypt.
    #[error(
        "Status is not ok: new Secrets cannot be written; whether existing ones can be read, `triage` tells"
    )]
    Unhealthy,
    /// Not a `key_id` of this provider.
    #[error("the key_id of Status has not the form of this provider's key_ids")]
    ForeignKeyId,
    /// Another key than expected.
    #[error(
        "the active key_id is {found}, expected {expected}: compare configuration and state with the other nodes"
    )]
    UnexpectedKeyId {
        /// What the caller asked for.
        expected: KeyId,
        /// What Status said.
        found: KeyId,
    },
    /// No random bytes to encrypt.
    #[error("no random bytes from the system")]
    Random(#[source] rustix::io::Errno),
    /// Encrypt answered nothing.
    #[error("Encrypt answered without ciphertext")]
    EmptyCiphertext,
    /// Encrypt used another key than Status named.
    #[error(
        "Encrypt used another key than Status named: if a rotation was just promoted, try again"
    )]
    KeyChanged,
    /// No connection came about, or the provider never became ready.
    #[error("no answer in time; see the provider's log")]
    Timeout,
    /// Other bytes came back.
    #[error("Decrypt gave back other bytes: do not write Secrets through this provider")]
    WrongPlaintext,
}

impl KmsClient {
    /// Connects at the first call. Each [`healthy`](Self::healthy) and each
    /// [`round_trip`](Self::round_trip) ends within `limit`, all their calls together.
    ///
    /// # Errors
    /// When the path cannot name a socket.
    pub fn new(socket: &Path, limit: Duration) -> Result<Self, ProbeError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(ProbeError::Connect)?;
        let client = KeyManagementServiceClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { client, limit })
    }

    /// Asks for Status and requires `ok`.
    ///
    /// # Errors
    /// Also when the `key_id` is not `expected`.
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

    /// Status, then 32 random bytes through Encrypt and Decrypt.
    ///
    /// # Errors
    /// The first step that fails.
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

/// Waits for one call's answer until the deadline of all calls, so that the call that hangs is the
/// one that is named.
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

/// Keeps the code and drops the message, which is the server's.
fn call_failed(call: &'static str, code: Code) -> ProbeError {
    let advice = match code {
        Code::Unavailable => {
            "nobody serves the socket, or OpenBao is out of reach; see the provider's log"
        }
        Code::DeadlineExceeded | Code::Cancelled => "no answer in time; see the provider's log",
        Code::PermissionDenied => "OpenBao's policy refuses; see `policy openbao`",
        Code::Unauthenticated => "the provider cannot log in to OpenBao; see its log",
        Code::FailedPrecondition => "the provider is unhealthy; see the reasons on /ready",
        _ => "see the provider's log",
    };
    ProbeError::Call { call, code, advice }
}
