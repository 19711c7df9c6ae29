//! A second socket for a cluster that comes from vault-kubernetes-kms: the same service, whose Decrypt
//! also reads objects of that plugin.
//!
//! kube-apiserver reads through a KMS provider only after an Encrypt by it, also if the provider never
//! writes. Status and Encrypt are therefore those of this provider: whatever is written through this
//! socket has its key_id, annotations and associated data.
//!
//! The plugin calls Transit without associated data and stores no annotations. Its key_id is a bare
//! number: the latest version of the key, read after the encryption, or with its older releases the
//! creation time of the version in Unix seconds. Transit refuses ciphertexts of this provider in that
//! form, because their associated data is missing.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kms_domain::{
    ciphertext::TransitCiphertext,
    limits::check_sizes,
    transit::{KeyEntry, KeyMetadata, TransitVersion},
};
use kms_node::{
    auth::Session,
    config::Limits,
    kms_api::{
        Method, code_name,
        generated::{
            DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest,
            StatusResponse, key_management_service_server::KeyManagementService,
        },
    },
};
use openbao_client::transit::Transit;
use tonic::{Code, Request, Response, Status, async_trait};

use super::{
    Answered, Kms, deadline, fault::Fault, panic::caught, server::Service, slots::Slots, within,
};
use crate::telemetry::{metrics::LegacyMetrics, milliseconds};

/// The service. Clones share their state.
#[derive(Clone)]
pub struct LegacyReader(Arc<Shared>);

struct Shared {
    own: Kms,
    /// The key of vault-kubernetes-kms.
    transit: Transit,
    session: Session,
    metrics: LegacyMetrics,
    call_limit: Duration,
    decrypt_slots: Slots,
}

impl LegacyReader {
    /// Creates a reader beside `own`, with slots of its own for objects of the plugin. `call_limit`
    /// bounds each of these calls, including the login.
    #[must_use]
    pub fn new(
        own: Kms,
        transit: Transit,
        session: Session,
        metrics: LegacyMetrics,
        call_limit: Duration,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Shared {
            own,
            transit,
            session,
            metrics,
            call_limit,
            decrypt_slots: Slots::new(limits.decrypt),
        }))
    }
}

impl Service for LegacyReader {
    const LISTENER: &str = "legacy";

    fn refuse(&self, method: Method, fault: Fault) -> Status {
        self.0.own.refuse(method, fault)
    }
}

#[async_trait]
impl KeyManagementService for LegacyReader {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.0.own.status(request).await
    }

    async fn encrypt(
        &self,
        request: Request<EncryptRequest>,
    ) -> Result<Response<EncryptResponse>, Status> {
        self.0.own.encrypt(request).await
    }

    async fn decrypt(
        &self,
        request: Request<DecryptRequest>,
    ) -> Result<Response<DecryptResponse>, Status> {
        let shared = &*self.0;
        let key_id = &request.get_ref().key_id;
        if key_id.is_empty() || !key_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return shared.own.decrypt(request).await;
        }
        let limit = deadline::remaining(request.metadata(), shared.call_limit);
        let request = request.into_inner();
        let record = CallRecord::open(shared);
        let outcome = match caught(pin!(shared.decrypt(&request, limit, &record.version))).await {
            Ok(outcome) => outcome,
            Err(kind) => Err(Fault::Panic(kind)),
        };
        record.close(outcome.as_ref().err().copied());
        match outcome {
            Ok(answer) => Ok(Response::new(answer)),
            Err(fault) => Err(fault.decrypt_status(&request.ciphertext)),
        }
    }
}

impl Shared {
    async fn decrypt(
        &self,
        request: &DecryptRequest,
        limit: Duration,
        version: &OnceLock<TransitVersion>,
    ) -> Result<DecryptResponse, Fault> {
        if request.ciphertext.is_empty() {
            return Err(Fault::EmptyCiphertext);
        }
        if !request.annotations.is_empty() {
            return Err(Fault::InvalidAnnotations);
        }
        check_sizes(&request.ciphertext, &request.key_id, [])?;
        let ciphertext =
            TransitCiphertext::parse(&request.ciphertext).map_err(|_| Fault::InvalidCiphertext)?;
        let key_id = TransitVersion::parse(&request.key_id).ok_or(Fault::MalformedKeyId)?;
        version.set(ciphertext.version()).ok();

        let work = async {
            let _slot = self.decrypt_slots.enter().await?;
            if key_id != ciphertext.version() {
                let asking = self
                    .session
                    .call(async |token| self.transit.other_key_metadata(&token).await);
                if !is_key_id_of(&asking.await?, key_id, ciphertext.version()) {
                    return Err(Fault::ForeignKeyId);
                }
            }
            let asking = self.session.call(async |token| {
                let transit = &self.transit;
                transit.decrypt_without_context(&token, &ciphertext).await
            });
            let plaintext = asking.await?;
            if plaintext.expose().is_empty() {
                return Err(Fault::InvalidTransitAnswer);
            }
            Ok(DecryptResponse {
                plaintext: Bytes::from_owner(Answered(Arc::new(plaintext))),
            })
        };
        within(limit, pin!(work)).await
    }
}

/// Whether the plugin may have stored this key_id beside a ciphertext of this version: after a
/// rotation during its call, or as the creation time of the version.
fn is_key_id_of(metadata: &KeyMetadata, key_id: TransitVersion, version: TransitVersion) -> bool {
    let of = |number: TransitVersion| i64::try_from(number.get()).ok();
    let rotated = key_id > version && of(key_id).is_some_and(|it| it <= metadata.latest_version);
    let mut versions = metadata.keys.0.iter();
    let created = versions.find(|(name, _)| *name == version.to_string());
    rotated
        || matches!(created, Some((_, KeyEntry::Created(seconds))) if of(key_id) == Some(*seconds))
}

/// The log line and metrics of one read. Dropped unclosed, it records a canceled call.
struct CallRecord<'a> {
    metrics: &'a LegacyMetrics,
    /// Key version of the ciphertext.
    version: OnceLock<TransitVersion>,
    started: Instant,
    open: bool,
}

impl<'a> CallRecord<'a> {
    fn open(shared: &'a Shared) -> Self {
        Self {
            metrics: &shared.metrics,
            version: OnceLock::new(),
            started: Instant::now(),
            open: true,
        }
    }

    fn close(mut self, fault: Option<Fault>) {
        self.open = false;
        match fault {
            None => self.record(code_name(Code::Ok), None),
            Some(fault) => {
                let (code, class) = (fault.code(Method::Decrypt), fault.class(Method::Decrypt));
                self.record(code, Some(class));
            }
        }
    }

    fn record(&self, status: &'static str, class: Option<&'static str>) {
        self.metrics.finished(status, class);
        let duration_ms = milliseconds(self.started.elapsed());
        let transit_key_version = self.version.get().map(|version| version.get());
        match class {
            None => tracing::debug!(status, duration_ms, transit_key_version, "legacy.decrypt"),
            Some(error_class) => tracing::warn!(
                status,
                error_class,
                duration_ms,
                transit_key_version,
                "legacy.decrypt"
            ),
        }
    }
}

impl Drop for CallRecord<'_> {
    fn drop(&mut self) {
        if self.open {
            self.record(code_name(Code::Cancelled), Some("canceled"));
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_domain::transit::KeyVersions;

    use super::*;

    #[test]
    fn a_key_id_is_a_later_version_or_the_creation_time_of_the_version() {
        let version = |number| TransitVersion::new(number).unwrap();
        let created = |seconds| KeyEntry::Created(seconds);
        let metadata = KeyMetadata {
            latest_version: 3,
            keys: KeyVersions(vec![
                ("1".to_owned(), created(1_700_000_001)),
                ("2".to_owned(), created(1_700_000_002)),
            ]),
            ..KeyMetadata::default()
        };
        let is_of = |key_id, of| is_key_id_of(&metadata, version(key_id), version(of));
        assert!(is_of(2, 1) && is_of(3, 1) && is_of(1_700_000_001, 1) && is_of(1_700_000_002, 2));
        assert!(!is_of(4, 1), "newer than the key");
        assert!(!is_of(1, 2), "older than the ciphertext");
        assert!(!is_of(1_700_000_002, 1), "of another version");
        assert!(!is_of(1_700_000_001, 3), "of an unlisted version");
    }
}
