//! Values read at each scrape: gauges of the published view and of the session. Names follow
//! `docs/observability.md` section "Metrics".

use std::{fmt, time::Duration};

use kms_domain::{digest::TextHash, key::TransitKey, registry::rotation::RotationState};
use kms_node::hardening::files::FileView;
use openbao_client::login::fallback::Identity;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::health::reasons;
use crate::view::Snapshot;

/// The values of one scrape.
#[derive(Debug)]
pub struct Readings {
    /// The view with its health at the scrape.
    pub snapshot: Snapshot,
    /// Remaining life of the OpenBao token; zero without one.
    pub token_ttl: Duration,
    /// Word of the configured login method.
    pub auth_method: &'static str,
    /// Remaining life of the credential for the next login; `None` if unknown or without an end.
    pub credential_ttl: Option<Duration>,
    /// The identity of the token.
    pub identity: Identity,
    /// Globally unique hash of the socket; `None` before it is bound.
    pub socket: Option<TextHash>,
    /// Connections to the socket.
    pub connections: usize,
    /// Why new clients may not reach the socket.
    pub socket_fault: Option<&'static str>,
    /// Whether the path of the socket does not lead to this process.
    pub socket_lost: bool,
    /// Why new clients may not reach the socket for vault-kubernetes-kms.
    pub legacy_socket_fault: Option<&'static str>,
    /// Log lines dropped since the start.
    pub log_lines_dropped: u64,
    /// Files reloaded at run time.
    pub files: Vec<FileView>,
}

const ROTATION_STATES: [RotationState; 3] = [
    RotationState::Active,
    RotationState::Pending,
    RotationState::Unknown,
];

impl Collector for Readings {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauges = Gauges(encoder);
        self.encode_health(&mut gauges)?;
        self.encode_key(&mut gauges)?;
        let help = "Remaining token life";
        gauges.one("token_ttl_seconds", help, self.token_ttl.as_secs_f64())?;
        let of_method = |method| self.credential_ttl.filter(|_| self.auth_method == method);
        if let Some(ttl) = self.credential_ttl {
            let help = "Remaining life of the credential for the next login";
            gauges.one("credential_ttl_seconds", help, ttl.as_secs_f64())?;
        }
        if let Some(ttl) = of_method("jwt") {
            let help = "Remaining life of the JWT for the next login";
            gauges.one("jwt_ttl_seconds", help, ttl.as_secs_f64())?;
        }
        let fallback = u64::from(self.identity == Identity::Fallback);
        let help = "1 while the standby identity (auth.fallback) is in use";
        gauges.one("auth_fallback_in_use", help, fallback)?;
        let help = "Tells this process from every other one";
        let socket = self.socket.iter().map(|socket| (socket.as_str(), 1));
        gauges.labelled("socket_info", help, "hash", socket)?;
        let unreadable = self.files.iter().filter(|file| file.fault.is_some());
        let unreadable = unreadable.map(|file| (file.setting, 1));
        let help = "1 for each file this process fails to open now";
        gauges.labelled("file_unreadable", help, "setting", unreadable)?;
        let ttl = of_method("cert").unwrap_or_default().as_secs_f64();
        gauges.one("certificate_ttl_seconds", "Remaining certificate life", ttl)?;
        let connections = u64::try_from(self.connections).unwrap_or(u64::MAX);
        let help = "Connections to the socket";
        gauges.one("socket_connections", help, connections)?;
        let fault = self.socket_fault.map(|fault| (fault, 1));
        let help = "1 while the socket is out of reach, or differs from the configuration";
        gauges.labelled("socket_fault", help, "reason", fault)?;
        let fault = self.legacy_socket_fault.map(|fault| (fault, 1));
        let help = "The same for the socket of legacy.vaultKubernetesKms";
        gauges.labelled("legacy_socket_fault", help, "reason", fault)?;
        let dropped = ConstCounter::new(self.log_lines_dropped);
        let help = "Log lines dropped, since standard error was not read in time";
        dropped.encode(gauges.0.encode_descriptor(
            "log_lines_dropped",
            help,
            None,
            dropped.metric_type(),
        )?)
    }
}

impl Readings {
    fn encode_health(&self, gauges: &mut Gauges<'_>) -> fmt::Result {
        let Snapshot {
            view, age, health, ..
        } = &self.snapshot;
        let age = age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        let help = "Time since the last finished metadata probe";
        gauges.one("status_cache_age_seconds", help, age)?;
        let reasons = reasons(health, self.socket_lost);
        let ready = u64::from(reasons.is_empty());
        gauges.one("ready", "Whether /ready answers 200", ready)?;
        let codes = reasons.into_iter().map(|reason| (reason, 1));
        let help = "1 for every reason not to be ready";
        gauges.labelled("readiness_reason", help, "reason", codes)?;
        let degraded = u64::from(view.persistence.is_some());
        let help = "1 while the state cannot be saved or is not the one on disk";
        gauges.one("rotation_persistence_degraded", help, degraded)?;
        let faults = view.persistence.iter();
        let faults = faults.map(|degraded| (degraded.fault.as_str(), 1));
        let help = "1 for the cause of degraded persistence";
        gauges.labelled("persistence_error", help, "error", faults)?;
        if let Some(space) = view.space {
            let help = "Bytes free in the file system of the state directory";
            gauges.one("state_free_bytes", help, space.free_bytes)?;
            if let Some(inodes) = space.free_inodes {
                let help = "Inodes free in the file system of the state directory";
                gauges.one("state_free_inodes", help, inodes)?;
            }
        }
        let open = u64::from(view.breaker_open());
        let help = "1 after three failed probes in a row, until a success";
        gauges.one("circuit_breaker_state", help, open)
    }

    fn encode_key(&self, gauges: &mut Gauges<'_>) -> fmt::Result {
        let registry = self.snapshot.view.registry.as_deref();
        let present = RotationState::of(registry);
        let states = ROTATION_STATES.map(|state| (state.as_str(), u64::from(state == present)));
        gauges.labelled("rotation_state", "1 for the present state", "state", states)?;

        let Some(registry) = registry else {
            return Ok(());
        };
        let active: &TransitKey = registry.active();
        let hash = [(active.id_hash().as_str(), 1)];
        let help = "Hash of the active key id";
        gauges.labelled("status_key_id_hash", help, "hash", hash)?;
        let help = "Active Transit version";
        gauges.one("key_version", help, active.version().get())?;

        let readable = registry.readable();
        let help = "Decryptable versions up to the active one";
        gauges.one("readable_key_versions", help, readable.count)?;
        let help = "The lowest decryptable version";
        gauges.one("oldest_readable_key_version", help, readable.oldest.get())?;

        let Some(pending) = registry.pending() else {
            return Ok(());
        };
        let help = "Transit version before its promotion";
        gauges.one("pending_key_version", help, pending.key.version().get())?;
        let hash = [(pending.key.id_hash().as_str(), 1)];
        let help = "Hash of the key id before its promotion";
        gauges.labelled("pending_key_id_hash", help, "hash", hash)?;

        match pending.bookkeeping.observed_at() {
            Some(since) => gauges.one(
                "rotation_pending_since_timestamp_seconds",
                "When the pending version was first seen, Unix time",
                since.get(),
            ),
            None => Ok(()),
        }
    }
}

struct Gauges<'a>(DescriptorEncoder<'a>);

impl Gauges<'_> {
    fn one(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> fmt::Result {
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn labelled<'l>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        series: impl IntoIterator<Item = (&'l str, u64)>,
    ) -> fmt::Result {
        let mut encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, gauge) in series {
            let labels = [(label, value)];
            ConstGauge::new(gauge).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
