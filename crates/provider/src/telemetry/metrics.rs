//! The metrics of the daemon. Names and labels follow `docs/observability.md` section "Metrics".
//!
//! Every label value comes from a bounded set; key ids appear only as hashes.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use crate::{build_info::BuildInfo, kms::Method};

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

/// Bounds in seconds: from what a cached answer takes to beyond the API server's own limit.
const LATENCY_BOUNDS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256,
    0.512, 1.024, 2.048, 3.0, 5.0, 10.0,
];

/// Counters that grow as things happen, and gauges that are set when they are read.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    grpc_requests: Counters<2>,
    grpc_duration: Histograms,
    grpc_in_flight: Gauges<1>,
    grpc_rejections: Counters<1>,
    openbao_requests: Counters<2>,
    openbao_duration: Histograms,
    logins: Counters<1>,
    renewals: Counters<1>,
    token_ttl: Gauge,
    jwt_ttl: Gauge,
    key_id_hash: Family<[(&'static str, String); 1], Gauge>,
    key_version: Gauges<0>,
    status_age: Seconds,
    ready: Gauge,
    metadata_probes: Counters<1>,
    deep_probes: Counters<1>,
    rotation_state: Gauges<1>,
    persistence_degraded: Gauge,
    aad_errors: Counters<1>,
    key_id_errors: Counters<1>,
    breaker: Gauge,
    panics: Counters<1>,
    socket_restarts: Counter,
}

/// What gauges show, taken at the moment of a scrape.
#[derive(Debug)]
pub struct Readings {
    /// Remaining life of the OpenBao token; zero without one.
    pub token_ttl: Duration,
    /// Remaining life of the JWT at the last login; zero when unknown.
    pub jwt_ttl: Duration,
    /// Hash of the active key id and the active Transit version.
    pub active: Option<(String, u64)>,
    /// Age of the status view; `None` before the first observation.
    pub status_age: Option<Duration>,
    /// Whether `/ready` answers 200.
    pub ready: bool,
    /// `active`, `pending` or `unknown`.
    pub rotation_state: &'static str,
    /// An observation could not be saved; it is made again.
    pub persistence_degraded: bool,
    /// Either probe is backing off.
    pub breaker_open: bool,
}

const ROTATION_STATES: [&str; 3] = ["active", "pending", "unknown"];

impl Metrics {
    /// All metrics at zero; methods and rotation states are present from the start, so that a
    /// rate over them is defined.
    #[must_use]
    pub fn new(build: &BuildInfo, auth_method: &'static str) -> Self {
        let histograms = || Histograms::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS));
        let mut metrics = Self {
            registry: Registry::with_prefix("openbao_kms"),
            grpc_requests: Family::default(),
            grpc_duration: histograms(),
            grpc_in_flight: Family::default(),
            grpc_rejections: Family::default(),
            openbao_requests: Family::default(),
            openbao_duration: histograms(),
            logins: Family::default(),
            renewals: Family::default(),
            token_ttl: Gauge::default(),
            jwt_ttl: Gauge::default(),
            key_id_hash: Family::default(),
            key_version: Family::default(),
            status_age: Gauge::default(),
            ready: Gauge::default(),
            metadata_probes: Family::default(),
            deep_probes: Family::default(),
            rotation_state: Family::default(),
            persistence_degraded: Gauge::default(),
            aad_errors: Family::default(),
            key_id_errors: Family::default(),
            breaker: Gauge::default(),
            panics: Family::default(),
            socket_restarts: Counter::default(),
        };
        for method in Method::ALL {
            let method = [("method", method.as_str())];
            drop(metrics.grpc_in_flight.get_or_create(&method));
            drop(metrics.grpc_rejections.get_or_create(&method));
            drop(metrics.panics.get_or_create(&method));
        }
        metrics.register(build, auth_method);
        metrics
    }

    fn register(&mut self, build: &BuildInfo, auth_method: &'static str) {
        let r = &mut self.registry;
        r.register("build", "What was built", Info::new(build.labels()));
        r.register(
            "auth_method",
            "Auth method in use",
            Info::new([("method", auth_method)]),
        );
        let source = Info::new([("source", "none")]);
        r.register("certificate_source", "Certificate source in use", source);
        r.register(
            "grpc_requests",
            "KMS calls by gRPC code",
            self.grpc_requests.clone(),
        );
        r.register(
            "grpc_duration_seconds",
            "Time in a KMS handler",
            self.grpc_duration.clone(),
        );
        r.register(
            "grpc_in_flight",
            "KMS calls under way",
            self.grpc_in_flight.clone(),
        );
        let help = "KMS calls refused at their limit";
        r.register(
            "grpc_concurrency_rejections",
            help,
            self.grpc_rejections.clone(),
        );
        r.register(
            "openbao_requests",
            "HTTP requests to OpenBao",
            self.openbao_requests.clone(),
        );
        let help = "Time of an HTTP request to OpenBao";
        r.register(
            "openbao_duration_seconds",
            help,
            self.openbao_duration.clone(),
        );
        r.register(
            "auth_login",
            "Logins to OpenBao by outcome",
            self.logins.clone(),
        );
        r.register(
            "auth_renewal",
            "Token renewals by outcome",
            self.renewals.clone(),
        );
        r.register(
            "token_ttl_seconds",
            "Remaining token life",
            self.token_ttl.clone(),
        );
        let help = "Remaining life of the JWT of the last login";
        r.register("jwt_ttl_seconds", help, self.jwt_ttl.clone());
        r.register(
            "status_key_id_hash",
            "Hash of the active key id",
            self.key_id_hash.clone(),
        );
        r.register(
            "key_version",
            "Active Transit version",
            self.key_version.clone(),
        );
        let help = "Time since the last finished metadata probe";
        r.register("status_cache_age_seconds", help, self.status_age.clone());
        r.register("ready", "Whether /ready answers 200", self.ready.clone());
        let help = "Metadata probes by outcome";
        r.register(
            "transit_metadata_observation",
            help,
            self.metadata_probes.clone(),
        );
        r.register(
            "deep_probe",
            "Round trips through Transit",
            self.deep_probes.clone(),
        );
        r.register(
            "rotation_state",
            "1 for the present state",
            self.rotation_state.clone(),
        );
        let help = "1 while an observation could not be saved";
        r.register(
            "rotation_persistence_degraded",
            help,
            self.persistence_degraded.clone(),
        );
        let help = "Decrypts refused by annotations or associated data";
        r.register("aad_validation_errors", help, self.aad_errors.clone());
        let help = "Decrypts refused by their key id";
        r.register("decrypt_key_id_errors", help, self.key_id_errors.clone());
        r.register(
            "circuit_breaker_state",
            "1 while a probe backs off",
            self.breaker.clone(),
        );
        r.register(
            "panic_recoveries",
            "Panics caught in a handler",
            self.panics.clone(),
        );
        let help = "Dead sockets removed when binding";
        r.register("socket_restarts", help, self.socket_restarts.clone());
    }

    /// A KMS call begins.
    pub fn kms_started(&self, method: Method) {
        self.grpc_in_flight
            .get_or_create(&[("method", method.as_str())])
            .inc();
    }

    /// A KMS call ends with a gRPC code (in snake case) and, when it failed, an error class.
    pub fn kms_finished(
        &self,
        method: Method,
        code: &'static str,
        class: Option<&'static str>,
        took: Duration,
    ) {
        let name = method.as_str();
        self.grpc_in_flight.get_or_create(&[("method", name)]).dec();
        self.grpc_requests
            .get_or_create(&[("method", name), ("status", code)])
            .inc();
        self.grpc_duration
            .get_or_create(&[("method", name)])
            .observe(took.as_secs_f64());
        let counter = match class {
            Some(reason @ ("aad_missing" | "aad_mismatch" | "annotation_invalid")) => {
                self.aad_errors.get_or_create(&[("reason", reason)])
            }
            Some(reason @ ("key_id_unknown" | "key_id_malformed")) => {
                self.key_id_errors.get_or_create(&[("reason", reason)])
            }
            Some("concurrency_limit") => self.grpc_rejections.get_or_create(&[("method", name)]),
            Some("panic") => self.panics.get_or_create(&[("method", name)]),
            _ => return,
        };
        counter.inc();
    }

    /// An HTTP request to OpenBao ended.
    pub fn openbao_request(&self, operation: &'static str, status: &'static str, took: Duration) {
        let labels = [("operation", operation), ("status", status)];
        self.openbao_requests.get_or_create(&labels).inc();
        let labels = [("operation", operation)];
        self.openbao_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// A login ended.
    pub fn login(&self, status: &'static str) {
        self.logins.get_or_create(&[("status", status)]).inc();
    }

    /// A token renewal ended.
    pub fn renewal(&self, status: &'static str) {
        self.renewals.get_or_create(&[("status", status)]).inc();
    }

    /// A metadata probe ended.
    pub fn metadata_probe(&self, status: &'static str) {
        self.metadata_probes
            .get_or_create(&[("status", status)])
            .inc();
    }

    /// A deep probe ended.
    pub fn deep_probe(&self, status: &'static str) {
        self.deep_probes.get_or_create(&[("status", status)]).inc();
    }

    /// A dead socket was removed.
    pub fn socket_restart(&self) {
        self.socket_restarts.inc();
    }

    /// The exposition text (OpenMetrics) with gauges as of now.
    #[must_use]
    pub fn render(&self, now: &Readings) -> String {
        let whole = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        self.token_ttl.set(whole(now.token_ttl));
        self.jwt_ttl.set(whole(now.jwt_ttl));
        self.key_id_hash.clear();
        self.key_version.clear();
        if let Some((hash, version)) = &now.active {
            self.key_id_hash
                .get_or_create(&[("hash", hash.clone())])
                .set(1);
            let version = i64::try_from(*version).unwrap_or(i64::MAX);
            self.key_version.get_or_create(&[]).set(version);
        }
        self.status_age.set(
            now.status_age
                .map_or(f64::INFINITY, |age| age.as_secs_f64()),
        );
        self.ready.set(now.ready.into());
        for state in ROTATION_STATES {
            let present = state == now.rotation_state;
            self.rotation_state
                .get_or_create(&[("state", state)])
                .set(present.into());
        }
        self.persistence_degraded
            .set(now.persistence_degraded.into());
        self.breaker.set(now.breaker_open.into());
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string fails only if a metric's own encoder does.
        match text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt_error) => format!("# {fmt_error}\n# EOF\n"),
        }
    }
}
