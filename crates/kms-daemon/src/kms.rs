//! The KMS v2 service: Status, Encrypt and Decrypt, called by kube-apiserver. Implements
//! `docs/operate/messages.md`.
//!
//! Each call uses one snapshot of the [`View`](crate::view::View) throughout, so its response is
//! consistent. Status only reads memory. Encrypt requires a healthy view. Decrypt requires only a
//! known key_id.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kms_domain::{
    annotations::{Annotations, PluginVersion},
    ciphertext::TransitCiphertext,
    digest::TextHash,
    health::Health,
    key::TransitKey,
    key_id::KeyId,
    limits::check_sizes,
    prepare::{PreparedEncrypt, prepare_decrypt, prepare_encrypt},
    registry::{DecryptKey, Lookup},
};
use kms_node::{
    auth::Session,
    clock::SystemClock,
    config::Limits,
    kms_api::{
        API_VERSION, Method, code_name,
        generated::{
            DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest,
            StatusResponse, key_management_service_server::KeyManagementService,
        },
    },
};
use openbao_client::transit::{Encrypted, Plaintext, Transit};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, async_trait};

use self::{
    batcher::{BatcherStatus, DecryptBatcher},
    fault::Fault,
    hedge::Hedges,
    panic::caught,
    server::Service,
    slots::{Slot, Slots},
};
use crate::{
    telemetry::{correlation::Correlation, metrics::Metrics, milliseconds},
    view::ViewReader,
    watcher::discovery::Discovery,
};

pub mod authority;
pub mod batcher;
pub mod clients;
pub mod deadline;
pub mod fault;
pub mod hedge;
mod lanes;
pub mod legacy;
pub mod panic;
pub mod receive;
pub mod server;
mod slots;
pub mod socket;

/// The service. Clones share their state.
#[derive(Clone)]
pub struct Kms(Arc<Shared>);

struct Shared {
    view: ViewReader,
    discovery: Discovery,
    transit: Transit,
    session: Session,
    batcher: DecryptBatcher,
    encrypt_hedges: Arc<Hedges>,
    metrics: Arc<Metrics>,
    correlation: Arc<Correlation>,
    plugin_version: PluginVersion,
    call_limit: Duration,
    status_slots: Slots,
    encrypt_slots: Slots,
    decrypt_slots: Slots,
}

impl Kms {
    /// Creates a service over a view updated by a watcher. `call_limit` bounds each call to
    /// Transit, including the login.
    #[must_use]
    #[expect(
        clippy::too_many_arguments,
        reason = "it composes; every argument is used as it is"
    )]
    pub fn new(
        view: ViewReader,
        discovery: Discovery,
        transit: Transit,
        session: Session,
        metrics: Arc<Metrics>,
        correlation: Arc<Correlation>,
        plugin_version: PluginVersion,
        call_limit: Duration,
        limits: Limits,
    ) -> Self {
        Self(Arc::new(Shared {
            view,
            discovery,
            batcher: DecryptBatcher::new(
                transit.clone(),
                session.clone(),
                Hedges::new(metrics.hedges(Method::Decrypt)),
            ),
            encrypt_hedges: Hedges::new(metrics.hedges(Method::Encrypt)),
            transit,
            session,
            metrics,
            correlation,
            plugin_version,
            call_limit,
            status_slots: Slots::new(limits.status),
            encrypt_slots: Slots::new(limits.encrypt),
            decrypt_slots: Slots::new(limits.decrypt),
        }))
    }

    /// Status of the decrypt batcher.
    #[must_use]
    pub fn batcher(&self) -> BatcherStatus {
        self.0.batcher.status()
    }
}

impl Service for Kms {
    const LISTENER: &str = "kms";

    fn refuse(&self, method: Method, fault: Fault) -> Status {
        CallRecord::open(&self.0, method, "", &Facts::default()).close(Some(fault));
        match method {
            Method::Decrypt => fault.decrypt_status(b""),
            Method::Status | Method::Encrypt => fault.status(method),
        }
    }
}

#[async_trait]
impl KeyManagementService for Kms {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let shared = &*self.0;
        let facts = Facts::default();
        shared
            .answer(Method::Status, "", &facts, pin!(shared.status(&facts)))
            .await
            .map_err(|fault| fault.status(Method::Status))
    }

    async fn encrypt(
        &self,
        request: Request<EncryptRequest>,
    ) -> Result<Response<EncryptResponse>, Status> {
        let shared = &*self.0;
        let limit = deadline::remaining(request.metadata(), shared.call_limit);
        // The plaintext is a slice of tonic's buffer, which this code cannot wipe.
        let EncryptRequest { plaintext, uid } = request.into_inner();
        let facts = Facts::default();
        shared
            .answer(
                Method::Encrypt,
                &uid,
                &facts,
                pin!(shared.encrypt(&plaintext, limit, &facts)),
            )
            .await
            .map_err(|fault| fault.status(Method::Encrypt))
    }

    async fn decrypt(
        &self,
        request: Request<DecryptRequest>,
    ) -> Result<Response<DecryptResponse>, Status> {
        let shared = &*self.0;
        let limit = deadline::remaining(request.metadata(), shared.call_limit);
        let request = request.into_inner();
        let facts = Facts::default();
        shared
            .answer(
                Method::Decrypt,
                &request.uid,
                &facts,
                pin!(shared.decrypt(&request, limit, &facts)),
            )
            .await
            .map_err(|fault| fault.decrypt_status(&request.ciphertext))
    }
}

impl Shared {
    async fn status(&self, facts: &Facts) -> Result<StatusResponse, Fault> {
        let _slot = self.status_slots.enter().await?;

        let (healthz, key_id) = match self.view.snapshot().health {
            Health::Healthy(active) => {
                facts.key.set(active.shared()).ok();
                ("ok", active.key().id().to_string())
            }
            Health::Unhealthy(_) => ("unhealthy", String::new()),
        };
        facts.healthz.set(healthz).ok();

        Ok(StatusResponse {
            version: API_VERSION.to_owned(),
            healthz: healthz.to_owned(),
            key_id,
        })
    }

    async fn encrypt(
        &self,
        plaintext: &[u8],
        limit: Duration,
        facts: &Facts,
    ) -> Result<EncryptResponse, Fault> {
        if plaintext.is_empty() {
            return Err(Fault::EmptyPlaintext);
        }

        within(
            limit,
            pin!(async {
                let _slot = self.encrypt_slots.enter().await?;
                let snapshot = self.view.snapshot();
                let active = match &snapshot.health {
                    Health::Healthy(active) => active,
                    Health::Unhealthy(_) if snapshot.view.registry.is_none() => {
                        return Err(Fault::NoActiveKey);
                    }
                    Health::Unhealthy(_) => return Err(Fault::Unhealthy),
                };
                facts.key.set(active.shared()).ok();
                let prepared = prepare_encrypt(active, &self.plugin_version);
                let asking = self.encrypt_hedges.race(|| {
                    self.session.call(async |token| {
                        let aad = &prepared.associated_data;
                        self.transit
                            .encrypt(&token, prepared.version, plaintext, aad)
                            .await
                    })
                });

                let encrypted = asking.await?;
                respond_encrypted(&prepared, &encrypted)
            }),
        )
        .await
    }

    async fn decrypt(
        &self,
        request: &DecryptRequest,
        limit: Duration,
        facts: &Facts,
    ) -> Result<DecryptResponse, Fault> {
        if request.ciphertext.is_empty() {
            return Err(Fault::EmptyCiphertext);
        }

        let annotations = request
            .annotations
            .iter()
            .map(|(key, value)| (key.as_str(), &value[..]));
        if annotations
            .clone()
            .any(|(_, value)| std::str::from_utf8(value).is_err())
        {
            return Err(Fault::InvalidAnnotations);
        }
        check_sizes(&request.ciphertext, &request.key_id, annotations.clone())?;

        within(
            limit,
            pin!(async {
                let key_id = KeyId::parse(&request.key_id).map_err(|_| Fault::MalformedKeyId)?;
                let slot = self.decrypt_slots.enter().await?;
                let (key, _slot) = self.known(key_id, slot).await?;
                facts.key.set(key.shared()).ok();

                let annotations = Annotations::parse(annotations)?;
                let ciphertext = TransitCiphertext::parse(&request.ciphertext)
                    .map_err(|_| Fault::InvalidCiphertext)?;
                let prepared = prepare_decrypt(&key, &annotations, ciphertext)?;

                let plaintext = self.batcher.decrypt(prepared).await?;
                if plaintext.expose().is_empty() {
                    return Err(Fault::InvalidTransitAnswer);
                }
                Ok(DecryptResponse {
                    plaintext: Bytes::from_owner(Answered(plaintext)),
                })
            }),
        )
        .await
    }

    /// The key of this `key_id`, after a discovery if necessary. A call releases its slot while it
    /// waits for a discovery, so unknown key_ids cannot block known ones.
    async fn known<'a>(
        &'a self,
        key_id: KeyId,
        held: Slot<'a>,
    ) -> Result<(DecryptKey, Slot<'a>), Fault> {
        match self.lookup(&key_id) {
            Lookup::Known(key) => return Ok((key, held)),
            Lookup::Disabled => return Err(Fault::Disabled),
            Lookup::Unknown => drop(held),
        }
        let discovered = self.discovery.ask(key_id.clone()).await;
        match (self.lookup(&key_id), discovered) {
            (Lookup::Known(key), _) => Ok((key, self.decrypt_slots.enter().await?)),
            (_, Err(failed)) => Err(Fault::Discovery(failed)),
            (Lookup::Disabled, Ok(())) => Err(Fault::Disabled),
            (Lookup::Unknown, Ok(())) => Err(Fault::UnknownKeyId),
        }
    }

    fn lookup(&self, key_id: &KeyId) -> Lookup {
        self.view.lookup(key_id)
    }

    /// Runs and records one call, including its panic. `uid` is empty for Status.
    async fn answer<T>(
        &self,
        method: Method,
        uid: &str,
        facts: &Facts,
        work: impl Future<Output = Result<T, Fault>> + Unpin,
    ) -> Result<Response<T>, Fault> {
        let record = CallRecord::open(self, method, uid, facts);
        let outcome = match caught(work).await {
            Ok(outcome) => outcome,
            Err(kind) => Err(Fault::Panic(kind)),
        };
        record.close(outcome.as_ref().err().copied());
        outcome.map(Response::new)
    }
}

/// A plaintext in a response, wiped when its last reference is dropped.
struct Answered(Arc<Plaintext>);

impl AsRef<[u8]> for Answered {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Fault>> + Unpin,
) -> Result<T, Fault> {
    timeout(limit, work).await.unwrap_or(Err(Fault::Deadline))
}

/// Checks the Transit response against the requested key version and the size limits of Kubernetes.
fn respond_encrypted(
    prepared: &PreparedEncrypt,
    encrypted: &Encrypted,
) -> Result<EncryptResponse, Fault> {
    let ciphertext = &encrypted.ciphertext;
    let answered = encrypted.key_version.unwrap_or(prepared.version);
    if ciphertext.version() != prepared.version || answered != prepared.version {
        return Err(Fault::InvalidTransitAnswer);
    }

    let response = EncryptResponse {
        ciphertext: Bytes::copy_from_slice(ciphertext.as_str().as_bytes()),
        key_id: prepared.key_id.to_string(),
        annotations: prepared
            .annotations
            .entries()
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into_bytes().into()))
            .collect(),
    };

    let annotations = response
        .annotations
        .iter()
        .map(|(key, value)| (key.as_str(), &value[..]));
    check_sizes(&response.ciphertext, &response.key_id, annotations)
        .map_err(|_| Fault::ResponseTooLarge)?;
    Ok(response)
}

/// Fields of a log line that become known during a call.
#[derive(Debug, Default)]
struct Facts {
    /// The key that the call uses.
    key: OnceLock<Arc<TransitKey>>,
    /// The answer of Status.
    healthz: OnceLock<&'static str>,
}

/// The log line and metrics of one call. Dropped unclosed, it records a canceled call.
struct CallRecord<'a> {
    shared: &'a Shared,
    method: Method,
    /// The UID of the request from the API server.
    uid: &'a str,
    facts: &'a Facts,
    started: Instant,
    open: bool,
}

impl<'a> CallRecord<'a> {
    fn open(shared: &'a Shared, method: Method, uid: &'a str, facts: &'a Facts) -> Self {
        shared.metrics.kms_started(method);
        Self {
            shared,
            method,
            uid,
            facts,
            started: Instant::now(),
            open: true,
        }
    }

    fn close(mut self, fault: Option<Fault>) {
        self.open = false;
        match fault {
            None => self.record(code_name(Code::Ok), None, None),
            Some(fault) => {
                let panicked = match fault {
                    Fault::Panic(kind) => Some(kind.as_str()),
                    _ => None,
                };
                let (code, class) = (fault.code(self.method), fault.class(self.method));
                self.record(code, Some(class), panicked);
            }
        }
    }

    fn record(
        &self,
        status: &'static str,
        class: Option<&'static str>,
        panic_type: Option<&'static str>,
    ) {
        let took = self.started.elapsed();
        self.shared
            .metrics
            .kms_finished(self.method, status, class, took);
        let duration_ms = milliseconds(took);
        let operation = self.method.operation();
        let healthz = self.facts.healthz.get().copied();
        let key = self.facts.key.get();
        let key_id_hash = key.map(|key| key.id_hash().as_str());
        let transit_key_version = key.map(|key| key.version().get());
        let panic_recovered = panic_type.map(|_| true);

        let incident = self.shared.correlation.incident(&SystemClock);
        let uid_hash = incident
            .filter(|_| !self.uid.is_empty())
            .map(|_| TextHash::of(self.uid));
        let request_uid_hash = uid_hash.as_ref().map(TextHash::as_str);
        let debug_correlation_incident = incident.map(|incident| &*incident.id);
        let debug_correlation_expires_at = incident.map(|incident| &*incident.expires_at);
        match class {
            None => tracing::debug!(
                operation,
                status,
                duration_ms,
                key_id_hash,
                transit_key_version,
                healthz,
                request_uid_hash,
                debug_correlation_incident,
                debug_correlation_expires_at,
                "kms.request"
            ),
            Some(error_class) => tracing::warn!(
                operation,
                status,
                error_class,
                duration_ms,
                key_id_hash,
                transit_key_version,
                panic_recovered,
                panic_type,
                request_uid_hash,
                debug_correlation_incident,
                debug_correlation_expires_at,
                "kms.request"
            ),
        }
    }
}

impl Drop for CallRecord<'_> {
    fn drop(&mut self) {
        if self.open {
            self.record(code_name(Code::Cancelled), Some("canceled"), None);
        }
    }
}
