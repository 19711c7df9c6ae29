//! Collects the view that `/why` reports.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use kms_domain::health::{DeepOutcome, MetadataOutcome};
use kms_node::{
    auth::{AuthState, Session},
    build_info::BuildInfo,
    clock::{Clock as _, SystemClock},
    hardening::files::{FileView, FilesView},
    plain_http,
    why::{
        CA_BUNDLE, Decrypts, Failed, File, Login, Peer, Probe, SCHEMA_VERSION, Server, Socket,
        State, Why,
    },
};
use openbao_client::{client::Client, login::fallback::Identity, view::AddressView};
use tokio::time::Instant;

use crate::{
    kms::{Kms, clients::Clients},
    telemetry::{credential_life::CredentialLife, endpoints::Answer, health::reasons, log},
    trust::TrustReader,
    view::{ProbeFailure, ViewReader},
};

/// Sources of the view.
pub(super) struct Sources {
    /// Start of the process.
    pub(super) started: Instant,
    pub(super) view: ViewReader,
    pub(super) session: Session,
    pub(super) client: Client,
    pub(super) trust: TrustReader,
    pub(super) credential_life: CredentialLife,
    pub(super) files: FilesView,
    /// The service, once it is created.
    pub(super) kms: Arc<OnceLock<Kms>>,
    pub(super) clients: Clients,
    /// Of the socket for vault-kubernetes-kms, if it is configured.
    pub(super) legacy_clients: Option<Clients>,
}

impl Sources {
    /// The answer to a client on the node itself.
    pub(super) fn answer(&self) -> Answer {
        Answer {
            status: StatusCode::OK,
            content_type: plain_http::JSON,
            body: serde_json::to_string(&self.why()).unwrap_or_default(),
        }
    }

    fn why(&self) -> Why {
        let now = SystemClock.now();
        let snapshot = self.view.snapshot();
        let view = &snapshot.view;
        let reasons = reasons(&snapshot.health, self.clients.status().is_lost());
        Why {
            schema_version: SCHEMA_VERSION.to_owned(),
            version: BuildInfo::CURRENT.version.to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            reasons: reasons.into_iter().map(str::to_owned).collect(),
            metadata_probe: Probe {
                passed: view.metadata == MetadataOutcome::Verified,
                last_failure: view.metadata_failure.map(|failure| probe(failure, now)),
            },
            deep_probe: Probe {
                passed: view.deep == DeepOutcome::Passed,
                last_failure: view.deep_failure.map(|failure| probe(failure, now)),
            },
            breaker_open: view.breaker_open(),
            login: self.login(now),
            openbao: self
                .client
                .view()
                .addresses
                .into_iter()
                .map(server)
                .collect(),
            state: State {
                unsaved: view.persistence.map(|degraded| {
                    Failed::new(degraded.fault.as_str(), None, since(degraded.since, now))
                }),
                free_bytes: view.space.map(|space| space.free_bytes),
                free_inodes: view.space.and_then(|space| space.free_inodes),
            },
            files: self.files(),
            decrypts: self.kms.get().map(Kms::batcher).map(|batcher| Decrypts {
                requests: batcher.busy_lanes + batcher.late_requests,
                late: batcher.late_requests,
                pending: batcher.pending,
                hedges: batcher.hedges,
                late_after_milliseconds: u64::try_from(batcher.overdue_after.as_millis())
                    .unwrap_or(u64::MAX),
            }),
            socket: socket(&self.clients, now),
            legacy_socket: (self.legacy_clients.as_ref()).map(|clients| socket(clients, now)),
            log_lines_dropped: log::dropped_lines(),
        }
    }

    fn login(&self, now: SystemTime) -> Login {
        let status = self.session.status();
        let failed = status.failure.is_some();
        Login {
            state: match status.state {
                AuthState::Unknown => "unknown",
                AuthState::Authenticated => "authenticated",
                AuthState::Unhealthy => "unhealthy",
            }
            .to_owned(),
            token_remaining_seconds: status.token_remaining.map(|left| left.as_secs()),
            credential_remaining_seconds: self
                .credential_life
                .remaining()
                .map(|left| left.as_secs()),
            last_failure: status.last_failure.filter(|_| failed).map(|failure| {
                let class = failure.outcome.label();
                Failed::new(class, Some(failure.detail), since(failure.at, now))
            }),
            fallback: status.identity == Identity::Fallback,
            failures_in_a_row: status.consecutive_failures,
            retry_in_seconds: status.retry_in.map(|rest| rest.as_secs()),
        }
    }

    fn files(&self) -> Vec<File> {
        let trust = self.trust.view();
        let file = |seen: FileView| {
            let of_trust = seen.setting == CA_BUNDLE;
            File {
                setting: seen.setting.to_owned(),
                path: seen.path.display().to_string(),
                unreadable: seen.fault.map(|fault| fault.as_str().to_owned()),
                hash_in_use: (trust.bundle.as_ref())
                    .filter(|_| of_trust)
                    .map(|hash| hash.as_str().to_owned()),
                refused: (trust.refused.filter(|_| of_trust))
                    .map(|(reason, at)| Failed::new(reason, None, at.elapsed())),
            }
        };
        self.files.latest().into_iter().map(file).collect()
    }
}

fn socket(clients: &Clients, now: SystemTime) -> Socket {
    let status = clients.status();
    Socket {
        activated: status.activated,
        connections: status.connected,
        max_connections: status.max_connections,
        evicted: status.evicted,
        last_failure: status
            .last_accept_failure
            .map(|(failure, at)| Failed::new(failure.as_str(), None, since(at, now))),
        lost: status.is_lost(),
        fault: status
            .fault
            .map(|(fault, at)| Failed::new(fault.as_str(), None, since(at, now))),
    }
}

fn probe(failure: ProbeFailure, now: SystemTime) -> Failed {
    let reason = failure.reason.code();
    Failed::new(reason, Some(failure.class), since(failure.at, now))
}

fn server(view: AddressView) -> Server {
    let peers = view.peers.into_iter().map(|peer| Peer {
        peer: peer.peer.to_string(),
        in_use: peer.in_use,
        idle: peer.idle,
        oldest_seconds: peer.ages.first().map(Duration::as_secs),
        last_failure: peer
            .last_failure
            .map(|(class, ago)| Failed::new(class.label(), None, ago)),
    });
    Server {
        address: view.address,
        role: view.role.map(|role| role.label().to_owned()),
        peers: peers.collect(),
    }
}

/// Zero for a clock that was set back.
fn since(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}
