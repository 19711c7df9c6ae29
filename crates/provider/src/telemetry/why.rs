//! `/why`: the running provider's own view of everything that it depends on, with the last failure
//! of each. Implements `docs/observability.md` section "Why".
//!
//! A check that logs in anew or opens a file anew cannot see what the process sees: its connections,
//! its token, its sandbox, the CA bundle that it read. `doctor` and `triage` judge this view.
//!
//! Every word is one of a bounded set; nothing here is a secret or a text of a server.

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use http::StatusCode;
use kms_domain::health::{DeepOutcome, Health, MetadataOutcome, Reason};
use openbao_client::{client::Client, view::AddressView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    endpoints::{Answer, JSON},
    jwt_life::JwtLife,
    log,
};
use crate::{
    auth::{AuthState, Session},
    build_info::BuildInfo,
    clock::{Clock as _, SystemClock},
    connection::trust::TrustReader,
    hardening::files::{FileView, FilesView},
    kms::{Kms, clients::Clients},
    view::{ProbeFailure, ViewReader},
};

/// The path on the health listener. Only clients on the node itself get an answer.
pub const PATH: &str = "/why";
/// Whether a request is for the view, from a client on this node.
#[must_use]
pub fn is_asked(path: &str, client: IpAddr) -> bool {
    path == PATH && client.to_canonical().is_loopback()
}

/// Members are added under this version, never renamed or removed.
pub const SCHEMA_VERSION: &str = "v1";

/// The body of `/why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// `v1`.
    pub schema_version: String,
    /// Of the program.
    pub version: String,
    /// Since its start.
    pub uptime_seconds: u64,
    /// The codes of `/ready`; empty when it is ready.
    pub reasons: Vec<String>,
    /// The last reading of the key's metadata.
    pub metadata_probe: Probe,
    /// The last round trip with the active version.
    pub deep_probe: Probe,
    /// A probe pauses after repeated failures.
    pub breaker_open: bool,
    /// The token.
    pub login: Login,
    /// The addresses of OpenBao, in the order of the configuration.
    pub openbao: Vec<Server>,
    /// The registry state.
    pub state: State,
    /// Files that are read again while the process runs.
    pub files: Vec<File>,
    /// Decrypts on their way to OpenBao; absent before the socket is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decrypts: Option<Decrypts>,
    /// The socket for kube-apiserver.
    pub socket: Socket,
    /// Log lines that were dropped since the start, because nobody read the log.
    pub log_lines_dropped: u64,
}

/// A failure by its bounded word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failed {
    /// The class.
    pub class: String,
    /// The cause below the class, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Since it happened.
    pub seconds_ago: u64,
}

/// One kind of probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// The last one succeeded.
    pub passed: bool,
    /// The last failure, also when a later probe has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
}

/// The session with OpenBao.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Login {
    /// `authenticated`, `unhealthy` or `unknown`.
    pub state: String,
    /// Life left of the token by its lease; absent without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_remaining_seconds: Option<u64>,
    /// Life left of the credential that the next login would use; absent when none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_remaining_seconds: Option<u64>,
    /// The last failed attempt; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
    /// Attempts that failed in a row.
    pub failures_in_a_row: u32,
    /// Rest of the pause before the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<u64>,
}

/// One address of OpenBao.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Server {
    /// As configured.
    pub address: String,
    /// The part of its server in the cluster; absent for the only address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Its IP addresses that have a connection or a failure.
    pub peers: Vec<Peer>,
}

/// One IP address and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// The IP address and port.
    pub peer: String,
    /// Connections that carry a request.
    pub in_use: usize,
    /// Connections that wait for one.
    pub idle: usize,
    /// Of the oldest connection; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
    /// The last failure, also when a later request has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
}

/// The registry state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// Present while an observation could not be saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved: Option<Failed>,
}

/// A file that is read again while the process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct File {
    /// The setting that names it.
    pub setting: String,
    /// The path.
    pub path: String,
    /// Why this process cannot read it; absent when it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// Of the CA bundle: the hash of the content in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_in_use: Option<String>,
    /// Of the CA bundle: why its present content is not in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Failed>,
}

/// Decrypts on their way to OpenBao.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decrypts {
    /// Requests that are waited for, late ones included.
    pub requests: usize,
    /// Of these, the late ones.
    pub late: usize,
    /// Calls that wait for a request.
    pub gathered: usize,
    /// Requests since the start that were made because another was late.
    pub hedges: u64,
    /// The time after which an answer is late.
    pub late_after_milliseconds: u64,
}

/// The socket for kube-apiserver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Socket {
    /// The service manager passed it.
    pub activated: bool,
    /// Clients now.
    pub connections: usize,
    /// The most clients at the same time.
    pub max_connections: usize,
    /// Connections closed since the start to make room for others.
    pub evicted: u64,
    /// The last connection that could not be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
}

/// Where the view comes from.
pub(crate) struct Sources {
    /// When the process began to serve.
    pub(crate) started: Instant,
    /// Health and probes.
    pub(crate) view: ViewReader,
    /// The token.
    pub(crate) session: Session,
    /// The connections.
    pub(crate) client: Client,
    /// The CA bundle.
    pub(crate) trust: TrustReader,
    /// The JWT.
    pub(crate) jwt_life: JwtLife,
    /// The files.
    pub(crate) files: FilesView,
    /// The service, once there is one.
    pub(crate) kms: Arc<OnceLock<Kms>>,
    /// The socket.
    pub(crate) clients: Clients,
}

impl Sources {
    /// The answer to a client on the node itself.
    pub(crate) fn answer(&self) -> Answer {
        Answer {
            status: StatusCode::OK,
            content_type: JSON,
            body: serde_json::to_string(&self.why()).unwrap_or_default(),
        }
    }

    fn why(&self) -> Why {
        let now = SystemClock.now();
        let snapshot = self.view.snapshot();
        let view = &snapshot.view;
        let reasons = match &snapshot.health {
            Health::Healthy(_) => Vec::new(),
            Health::Unhealthy(reasons) => {
                let codes = reasons.as_slice().iter();
                codes
                    .map(|reason| Reason::code(*reason).to_owned())
                    .collect()
            }
        };
        Why {
            schema_version: SCHEMA_VERSION.to_owned(),
            version: BuildInfo::CURRENT.version.to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            reasons,
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
            },
            files: self.files(),
            decrypts: self.kms.get().map(Kms::lanes).map(|lanes| Decrypts {
                requests: lanes.busy_lanes + lanes.late_requests,
                late: lanes.late_requests,
                gathered: lanes.gathered,
                hedges: lanes.hedges,
                late_after_milliseconds: u64::try_from(lanes.overdue_after.as_millis())
                    .unwrap_or(u64::MAX),
            }),
            socket: self.socket(now),
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
            credential_remaining_seconds: self.jwt_life.remaining().map(|left| left.as_secs()),
            last_failure: status.last_failure.filter(|_| failed).map(|failure| {
                let class = failure.outcome.label();
                Failed::new(class, Some(failure.detail), since(failure.at, now))
            }),
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

    fn socket(&self, now: SystemTime) -> Socket {
        let status = self.clients.status();
        Socket {
            activated: status.activated,
            connections: status.connected,
            max_connections: status.max_connections,
            evicted: status.evicted,
            last_failure: status
                .last_accept_failure
                .map(|(failure, at)| Failed::new(failure.as_str(), None, since(at, now))),
        }
    }
}

/// The setting of the file that is no secret.
pub(crate) const CA_BUNDLE: &str = "openbao.caCertFile";

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

impl Failed {
    /// A failure of this class, this long ago.
    #[must_use]
    pub fn new(class: &str, detail: Option<&str>, ago: Duration) -> Self {
        Self {
            class: class.to_owned(),
            detail: detail.map(str::to_owned),
            seconds_ago: ago.as_secs(),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        write!(f, ", {} s ago", self.seconds_ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_on_this_node_see_the_view() {
        for (client, sees) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.7", false),
            ("::ffff:192.0.2.7", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_asked(PATH, client.parse().unwrap()), sees, "{client}");
        }
        assert!(!is_asked("/ready", IpAddr::from([127, 0, 0, 1])));
    }
}
