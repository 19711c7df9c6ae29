//! Log lines and metrics for calls to OpenBao.

use std::sync::Arc;

use kms_node::{
    auth::{AuthAction, AuthEvent, AuthHook},
    clock::SystemClock,
};
use openbao_client::{
    event::{Outcome, RequestEvent, RequestHook},
    request::RequestId,
};

use super::{correlation::Correlation, metrics::Metrics, milliseconds};

/// Logs and counts every login and renewal.
#[must_use]
pub fn auth_hook(metrics: &Arc<Metrics>) -> AuthHook {
    let metrics = Arc::clone(metrics);
    Arc::new(move |event: &AuthEvent<'_>| {
        let (status, detail) = (event.outcome.label(), event.detail);
        let duration_ms = milliseconds(event.duration);
        match (event.action, event.failure.is_none()) {
            (AuthAction::Login, true) => tracing::info!(status, duration_ms, "auth.login"),
            (AuthAction::Login, false) => {
                tracing::warn!(status, detail, duration_ms, "auth.login");
            }
            (AuthAction::Renewal, true) => tracing::debug!(status, duration_ms, "auth.renewal"),
            (AuthAction::Renewal, false) => {
                tracing::warn!(status, detail, duration_ms, "auth.renewal");
            }
        }
        match event.action {
            AuthAction::Login => metrics.login(status),
            AuthAction::Renewal => metrics.renewal(status),
        }
    })
}

/// Logs and counts every request to OpenBao; during debug correlation, with OpenBao's request ID.
#[must_use]
pub fn request_hook(metrics: &Arc<Metrics>, correlation: &Arc<Correlation>) -> RequestHook {
    let (metrics, correlation) = (Arc::clone(metrics), Arc::clone(correlation));
    Arc::new(move |event: &RequestEvent| {
        let (operation, status) = (event.operation.label(), event.outcome.label());
        metrics.openbao_request(operation, status, event.duration);
        if let Some(date) = event.date {
            metrics.openbao_clock(date);
        }
        let duration_ms = milliseconds(event.duration);
        let incident = correlation.incident(&SystemClock);
        let openbao_request_id = incident
            .and(event.request_id.as_ref())
            .map(RequestId::as_str);
        let debug_correlation_incident = incident.map(|incident| &*incident.id);
        let debug_correlation_expires_at = incident.map(|incident| &*incident.expires_at);
        if event.outcome == Outcome::Ok {
            tracing::debug!(
                openbao_operation = operation,
                status,
                duration_ms,
                openbao_request_id,
                debug_correlation_incident,
                debug_correlation_expires_at,
                "openbao.request"
            );
        } else {
            tracing::warn!(
                openbao_operation = operation,
                status,
                duration_ms,
                openbao_request_id,
                debug_correlation_incident,
                debug_correlation_expires_at,
                "openbao.request"
            );
        }
    })
}
