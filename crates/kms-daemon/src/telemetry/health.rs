//! `/live` and `/ready`, answered from the published view. Implements `docs/observability.md`
//! section "Health".

use http::StatusCode;
use kms_domain::{
    health::{Freshness, Health, Reason},
    registry::rotation::RotationState,
};
use kms_node::{plain_http, why::SOCKET_LOST};
use schemars::JsonSchema;
use serde::Serialize;

use super::endpoints::Answer;
use crate::view::{Snapshot, ViewReader};

/// Answers the paths of the health listener. During a stop, all report `unavailable`. `/healthz`
/// is liveness: a restart for an OpenBao out of reach would do harm, since a start needs OpenBao.
#[must_use]
pub fn answer(path: &str, view: &ViewReader, now: Now) -> Option<Answer> {
    match path {
        "/live" | "/livez" | "/healthz" if now.stopping => {
            Some(word(StatusCode::SERVICE_UNAVAILABLE, "unavailable"))
        }
        // Liveness is independent of OpenBao.
        "/live" | "/livez" | "/healthz" => Some(word(StatusCode::OK, "ok")),
        "/ready" | "/readyz" => Some(ready(&view.snapshot(), now)),
        _ => None,
    }
}

/// What an answer adds to the view.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// The path of the socket does not lead to this process.
    pub socket_lost: bool,
    /// Why new clients may not reach the socket for vault-kubernetes-kms.
    pub legacy_socket_fault: Option<&'static str>,
    /// The standby identity is in use.
    pub fallback: bool,
    /// The provider is stopping.
    pub stopping: bool,
}

fn word(status: StatusCode, word: &'static str) -> Answer {
    Answer {
        status,
        content_type: plain_http::JSON,
        body: format!(r#"{{"status":"{word}"}}"#),
    }
}

/// The reason during a stop, in addition to the health reasons.
const STOPPING: &str = "stopping";

/// The reasons not to be ready, without [`STOPPING`]; the most basic first.
pub(crate) fn reasons(health: &Health, socket_lost: bool) -> Vec<&'static str> {
    let reasons = match health {
        Health::Healthy(_) => &[][..],
        Health::Unhealthy(reasons) => reasons.as_slice(),
    };
    let codes = reasons.iter().map(|reason| Reason::code(*reason));
    codes.chain(socket_lost.then_some(SOCKET_LOST)).collect()
}

/// The body of `/ready`.
#[derive(Serialize, JsonSchema)]
pub struct Ready<'a> {
    status: &'static str,
    healthz: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_age_ms: Option<u64>,
    stale: bool,
    rotation_state: &'static str,
    reasons: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_error_class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deep_error_class: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    persistence_degraded: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistence_error: Option<&'static str>,
    /// The standby identity (`auth.fallback`) is in use.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    login_fallback: bool,
    /// The fault of the socket of `legacy.vaultKubernetesKms`; readiness is unaffected.
    #[serde(skip_serializing_if = "Option::is_none")]
    legacy_socket_fault: Option<&'static str>,
}

fn ready(snapshot: &Snapshot, now: Now) -> Answer {
    let healthz = match &snapshot.health {
        Health::Healthy(_) => "ok",
        Health::Unhealthy(_) => "unhealthy",
    };
    let mut reasons = reasons(&snapshot.health, now.socket_lost);
    if now.stopping {
        reasons.push(STOPPING);
    }

    let (status, word) = match reasons.is_empty() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };

    let body = Ready {
        status: word,
        healthz,
        cache_age_ms: snapshot
            .age
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        stale: snapshot.freshness == Freshness::Stale,
        rotation_state: RotationState::of(snapshot.view.registry.as_deref()).as_str(),
        reasons,
        metadata_error_class: snapshot.view.metadata_class,
        deep_error_class: snapshot.view.deep_class,
        persistence_degraded: snapshot.view.persistence.is_some(),
        persistence_error: snapshot
            .view
            .persistence
            .map(|degraded| degraded.fault.as_str()),
        login_fallback: now.fallback,
        legacy_socket_fault: now.legacy_socket_fault,
    };

    let body = serde_json::to_string(&body).unwrap_or_else(|_| {
        r#"{"status":"unavailable","reasons":["diagnostics_unavailable"]}"#.to_owned()
    });

    Answer {
        status,
        content_type: plain_http::JSON,
        body,
    }
}
