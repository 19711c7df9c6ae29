//! The metrics of the daemon. Names and labels follow `docs/observability.md` section "Metrics".
//!
//! Every label value comes from a bounded set; key ids appear only as hashes.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime},
};

use kms_domain::registry::document::Generation;
use kms_node::{
    build_info::BuildInfo,
    clock::{Clock as _, SystemClock},
    config::{self, CertSource, Config, Method as Auth},
    kms_api::{Method, code_name},
};
use openbao_client::login::LoginOutcome;
use prometheus_client::{
    encoding::text::{encode, encode_registry},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::Registry,
};
use tonic::Code;

use super::{accept::AcceptFailure, eviction::Eviction, process::Process, readings::Readings};

const PREFIX: &str = "openbao_kms";

const AAD_REASONS: [&str; 3] = ["aad_missing", "aad_mismatch", "annotation_invalid"];
const KEY_ID_REASONS: [&str; 2] = ["key_id_unknown", "key_id_malformed"];
/// Error classes used in alerts.
const CLASSES_OF_ANY_METHOD: [&str; 3] = ["panic", "timeout", "transit_policy_denied"];
const LOGIN_OUTCOMES: [LoginOutcome; 20] = [
    LoginOutcome::Ok,
    LoginOutcome::JwtExpired,
    LoginOutcome::JwtNearExpiry,
    LoginOutcome::JwtInvalid,
    LoginOutcome::OAuth2Credential,
    LoginOutcome::OAuth2Request,
    LoginOutcome::OAuth2Rejected,
    LoginOutcome::OAuth2Unavailable,
    LoginOutcome::OAuth2Response,
    LoginOutcome::SpiffeRequest,
    LoginOutcome::SpiffeRejected,
    LoginOutcome::SpiffeUnavailable,
    LoginOutcome::SpiffeResponse,
    LoginOutcome::CertExpired,
    LoginOutcome::CertNearExpiry,
    LoginOutcome::CertInvalid,
    LoginOutcome::SecretInvalid,
    LoginOutcome::TokenNearExpiry,
    LoginOutcome::AuthFailed,
    LoginOutcome::Error,
];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;
type Histograms = Family<Labels<1>, Histogram, fn() -> Histogram>;

/// Bounds in seconds: from a cached answer to more than the time limit of the API server.
const LATENCY_BOUNDS: [f64; 18] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256,
    0.512, 1.024, 2.048, 3.0, 5.0, 10.0,
];

/// Counters of calls, probes, logins and commits; a scrape adds its [`Readings`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    started: u64,
    grpc_requests: Counters<2>,
    grpc_errors: Counters<2>,
    grpc_duration: Histograms,
    grpc_in_flight: Gauges<1>,
    grpc_rejections: Counters<1>,
    openbao_requests: Counters<2>,
    openbao_duration: Histograms,
    hedges: Counters<1>,
    clock_offset: Gauge<f64, AtomicU64>,
    trust_reloads: Counters<1>,
    logins: Counters<1>,
    renewals: Counters<1>,
    metadata_probes: Counters<1>,
    deep_probes: Counters<1>,
    last_success: Gauges<1>,
    state_generation: Gauge,
    state_checkpoint_current: Gauge,
    aad_errors: Counters<1>,
    key_id_errors: Counters<1>,
    panics: Counters<1>,
    socket_restarts: Counter,
    evictions: Evictions,
    accept_failures: Counters<1>,
    legacy: LegacyMetrics,
}

/// Counts the connections closed by the provider.
#[derive(Debug, Clone, Default)]
pub struct Evictions(Counters<1>);

impl Evictions {
    /// Counts a connection closed for this reason.
    pub fn count(&self, reason: Eviction) {
        self.0.get_or_create(&[("reason", reason.as_str())]).inc();
    }
}

/// Counts the reads of objects of vault-kubernetes-kms.
#[derive(Debug, Clone, Default)]
pub struct LegacyMetrics {
    decrypts: Counters<1>,
    errors: Counters<1>,
}

impl LegacyMetrics {
    /// Records the end of a call with its gRPC code in snake case and, after a failure, its error
    /// class.
    pub fn finished(&self, code: &'static str, class: Option<&'static str>) {
        self.decrypts.get_or_create(&[("status", code)]).inc();
        if let Some(class) = class {
            self.errors.get_or_create(&[("error_class", class)]).inc();
        }
    }
}

impl Metrics {
    /// Registers all metrics at zero, and the constants of build and configuration.
    #[must_use]
    pub fn new(build: &BuildInfo, config: &Config) -> Self {
        let histograms = || Histograms::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS));
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            started: SystemClock.unix_seconds(),
            grpc_requests: Family::default(),
            grpc_errors: Family::default(),
            grpc_duration: histograms(),
            grpc_in_flight: Family::default(),
            grpc_rejections: Family::default(),
            openbao_requests: Family::default(),
            openbao_duration: histograms(),
            hedges: Family::default(),
            clock_offset: Gauge::default(),
            trust_reloads: Family::default(),
            logins: Family::default(),
            renewals: Family::default(),
            metadata_probes: Family::default(),
            deep_probes: Family::default(),
            last_success: Family::default(),
            state_generation: Gauge::default(),
            state_checkpoint_current: Gauge::default(),
            aad_errors: Family::default(),
            key_id_errors: Family::default(),
            panics: Family::default(),
            socket_restarts: Counter::default(),
            evictions: Evictions::default(),
            accept_failures: Family::default(),
            legacy: LegacyMetrics::default(),
        };
        metrics.begin_at_zero();
        metrics.register_constants(build, config);
        metrics.register_calls();
        metrics.register_upkeep();
        if config.legacy.vault_kubernetes_kms.is_some() {
            metrics.register_legacy();
        }
        metrics
    }

    /// Creates counters before their first event. Otherwise the first event would be invisible: an
    /// increase requires an earlier value.
    fn begin_at_zero(&self) {
        for method in Method::ALL {
            let name = ("method", method.as_str());
            drop(self.grpc_in_flight.get_or_create(&[name]));
            drop(self.grpc_rejections.get_or_create(&[name]));
            drop(self.grpc_duration.get_or_create(&[name]));
            drop(self.panics.get_or_create(&[name]));
            let ok = ("status", code_name(Code::Ok));
            drop(self.grpc_requests.get_or_create(&[name, ok]));
            for error_class in CLASSES_OF_ANY_METHOD {
                let class = ("error_class", error_class);
                drop(self.grpc_errors.get_or_create(&[name, class]));
            }
        }
        for method in [Method::Encrypt, Method::Decrypt] {
            drop(self.hedges(method));
        }
        for reason in AAD_REASONS {
            drop(self.aad_errors.get_or_create(&[("reason", reason)]));
        }
        for reason in KEY_ID_REASONS {
            drop(self.key_id_errors.get_or_create(&[("reason", reason)]));
        }
        for outcome in LOGIN_OUTCOMES {
            let status = [("status", outcome.label())];
            drop(self.logins.get_or_create(&status));
            drop(self.renewals.get_or_create(&status));
        }
        drop(self.trust_reloads.get_or_create(&[("status", "ok")]));
        for eviction in Eviction::ALL {
            let reason = [("reason", eviction.as_str())];
            drop(self.evictions.0.get_or_create(&reason));
        }
        for failure in AcceptFailure::ALL {
            let reason = [("reason", failure.as_str())];
            drop(self.accept_failures.get_or_create(&reason));
        }
        for probes in [&self.metadata_probes, &self.deep_probes] {
            drop(probes.get_or_create(&[("status", "ok")]));
        }
    }

    /// Registers values constant during the life of the process, including thresholds. Alerts then
    /// follow the configuration of their own node.
    fn register_constants(&mut self, build: &BuildInfo, config: &Config) {
        let r = &mut self.registry;
        r.register("build", "What was built", Info::new(build.labels()));
        let source = match &config.auth.method {
            Auth::Cert(cert) => match &cert.source {
                CertSource::File(_) => "file",
                CertSource::Pkcs11(_) => "pkcs11",
            },
            Auth::Jwt(_) | Auth::AppRole(_) | Auth::Userpass(_) | Auth::Token(_) => "none",
        };
        let method = Info::new([("method", config.auth.method.name())]);
        r.register("auth_method", "Auth method in use", method);
        let source = Info::new([("source", source)]);
        r.register("certificate_source", "Certificate source in use", source);
        let fingerprint = Info::new([("fingerprint", config.fingerprint().as_str().to_owned())]);
        let help = "Names the cluster, key and provider name; equal on all nodes of a cluster";
        r.register("identity", help, fingerprint);

        let mut seconds = |name, help, threshold: Duration| {
            r.register(name, help, ConstGauge::new(threshold.as_secs_f64()));
        };

        let Config {
            status,
            rotation,
            auth,
            ..
        } = config;
        let help = "Age of a stale Status";
        seconds("status_max_staleness_seconds", help, status.max_staleness);
        let help = "Time between metadata probes";
        seconds("status_probe_interval_seconds", help, status.probe_interval);
        let help = "Time between deep probes";
        let interval = status.deep_probe_interval;
        seconds("deep_probe_interval_seconds", help, interval);
        let help = "Remaining token life at its renewal or replacement";
        let ahead = auth.login_before_token_expiry;
        seconds("login_before_token_expiry_seconds", help, ahead);

        let least = match &auth.method {
            Auth::Jwt(jwt) => Some(jwt.claims.min_remaining),
            Auth::Cert(cert) => Some(cert.min_remaining_ttl),
            Auth::Token(_) => Some(ahead),
            Auth::AppRole(_) | Auth::Userpass(_) => None,
        };
        if let Some(least) = least {
            let help = "Minimum remaining life of a credential in use";
            seconds("credential_min_remaining_seconds", help, least);
        }
        if let Some(leeway) = auth.clock_skew_leeway() {
            let help = "Tolerated clock difference for the dates of a credential";
            seconds("clock_skew_leeway_seconds", help, leeway);
        }

        let help = "Least time from the discovery of a version to its promotion";
        let counting = status.probe_interval * rotation.required_observations.get();
        let wait = rotation.activation_delay.saturating_add(counting);
        seconds("rotation_expected_wait_seconds", help, wait);

        let limits = Gauges::<1>::default();
        let config::Limits {
            status,
            encrypt,
            decrypt,
        } = config.server.limits;
        for (method, limit) in [
            (Method::Status, status),
            (Method::Encrypt, encrypt),
            (Method::Decrypt, decrypt),
        ] {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            limits
                .get_or_create(&[("method", method.as_str())])
                .set(limit);
        }
        let help = "KMS calls permitted at once";
        r.register("grpc_concurrency_limit", help, limits);
    }

    fn register_calls(&mut self) {
        let r = &mut self.registry;
        let help = "KMS calls by gRPC code";
        r.register("grpc_requests", help, self.grpc_requests.clone());
        let help = "Failed KMS calls by error class";
        r.register("grpc_errors", help, self.grpc_errors.clone());
        let help = "Time in a KMS handler";
        r.register("grpc_duration_seconds", help, self.grpc_duration.clone());
        let help = "KMS calls under way";
        r.register("grpc_in_flight", help, self.grpc_in_flight.clone());
        let help = "KMS calls refused at their limit";
        let rejections = self.grpc_rejections.clone();
        r.register("grpc_concurrency_rejections", help, rejections);
        let help = "Decrypts refused by annotations or associated data";
        r.register("aad_validation_errors", help, self.aad_errors.clone());
        let help = "Decrypts refused by their key id";
        r.register("decrypt_key_id_errors", help, self.key_id_errors.clone());
        let help = "Panics caught in a handler";
        r.register("panic_recoveries", help, self.panics.clone());
        let help = "HTTP requests to OpenBao";
        r.register("openbao_requests", help, self.openbao_requests.clone());
        let help = "Time of an HTTP request to OpenBao";
        let duration = self.openbao_duration.clone();
        r.register("openbao_duration_seconds", help, duration);
        let help = "Readings of openbao.caCertFile with other roots, or with a reason to keep those in use";
        r.register("trust_reloads", help, self.trust_reloads.clone());
        let help = "Requests to OpenBao made because another was overdue";
        r.register("openbao_hedges", help, self.hedges.clone());
        let help = "How far OpenBao's clock is ahead of ours, give or take a second";
        let offset = self.clock_offset.clone();
        r.register("openbao_clock_offset_seconds", help, offset);
    }

    fn register_upkeep(&mut self) {
        let r = &mut self.registry;
        let help = "Logins to OpenBao by outcome";
        r.register("auth_login", help, self.logins.clone());
        let help = "Token renewals by outcome";
        r.register("auth_renewal", help, self.renewals.clone());
        let help = "Metadata probes by outcome";
        let probes = self.metadata_probes.clone();
        r.register("transit_metadata_observation", help, probes);
        let help = "Round trips through Transit by outcome";
        r.register("deep_probe", help, self.deep_probes.clone());
        let help = "When it last succeeded in this process, Unix time";
        let last = self.last_success.clone();
        r.register("last_success_timestamp_seconds", help, last);
        let help = "Generation of the registry state on disk; 0 without a state";
        r.register("state_generation", help, self.state_generation.clone());
        let help = "1 while state and checkpoint on disk are those in use";
        let current = self.state_checkpoint_current.clone();
        r.register("state_checkpoint_current", help, current);
        let help = "Sockets bound in place of a dead one, or again since their file was gone";
        r.register("socket_restarts", help, self.socket_restarts.clone());
        let help = "Connections to the socket closed by the provider";
        r.register("socket_evictions", help, self.evictions.0.clone());
        let help = "Failed accepts of connections to the socket";
        let failures = self.accept_failures.clone();
        r.register("socket_accept_failures", help, failures);
    }

    fn register_legacy(&mut self) {
        let LegacyMetrics { decrypts, errors } = &self.legacy;
        drop(decrypts.get_or_create(&[("status", code_name(Code::Ok))]));
        for class in CLASSES_OF_ANY_METHOD {
            drop(errors.get_or_create(&[("error_class", class)]));
        }
        let r = &mut self.registry;
        let help = "Reads of objects of vault-kubernetes-kms by gRPC code";
        r.register("legacy_decrypts", help, decrypts.clone());
        let help = "Failed reads of objects of vault-kubernetes-kms by error class";
        r.register("legacy_errors", help, errors.clone());
    }

    /// The counters of reads of objects of vault-kubernetes-kms.
    #[must_use]
    pub fn legacy(&self) -> LegacyMetrics {
        self.legacy.clone()
    }

    /// The counter of additional requests for overdue ones of this method.
    #[must_use]
    pub fn hedges(&self, method: Method) -> Counter {
        self.hedges
            .get_or_create_owned(&[("method", method.as_str())])
    }

    /// Records the start of a KMS call.
    pub fn kms_started(&self, method: Method) {
        self.grpc_in_flight
            .get_or_create(&[("method", method.as_str())])
            .inc();
    }

    /// Records the end of a KMS call with its gRPC code in snake case and, after a failure, its
    /// error class.
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

        let Some(class) = class else {
            return;
        };
        self.grpc_errors
            .get_or_create(&[("method", name), ("error_class", class)])
            .inc();

        let counter = match class {
            reason if AAD_REASONS.contains(&reason) => {
                self.aad_errors.get_or_create(&[("reason", reason)])
            }
            reason if KEY_ID_REASONS.contains(&reason) => {
                self.key_id_errors.get_or_create(&[("reason", reason)])
            }
            "concurrency_limit" => self.grpc_rejections.get_or_create(&[("method", name)]),
            "panic" => self.panics.get_or_create(&[("method", name)]),
            _ => return,
        };
        counter.inc();
    }

    /// Records the end of an HTTP request to OpenBao.
    pub fn openbao_request(&self, operation: &'static str, status: &'static str, took: Duration) {
        let labels = [("operation", operation), ("status", status)];
        self.openbao_requests.get_or_create(&labels).inc();
        let labels = [("operation", operation)];
        self.openbao_duration
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Records the clock offset. `date` is truncated to seconds, so half a second is added on
    /// average.
    pub fn openbao_clock(&self, date: SystemTime) {
        let theirs = date + Duration::from_millis(500);
        let offset = match theirs.duration_since(SystemClock.now()) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(behind) => -behind.duration().as_secs_f64(),
        };
        self.clock_offset.set(offset);
    }

    /// Records a changed or unusable CA bundle.
    pub fn trust_reload(&self, status: &'static str) {
        self.trust_reloads
            .get_or_create(&[("status", status)])
            .inc();
    }

    /// Records the end of a login.
    pub fn login(&self, status: &'static str) {
        self.logins.get_or_create(&[("status", status)]).inc();
        self.note_success("login", status);
    }

    /// Records the end of a token renewal.
    pub fn renewal(&self, status: &'static str) {
        self.renewals.get_or_create(&[("status", status)]).inc();
    }

    /// Records the end of a metadata probe.
    pub fn metadata_probe(&self, status: &'static str) {
        self.metadata_probes
            .get_or_create(&[("status", status)])
            .inc();
        self.note_success("metadata_probe", status);
    }

    /// Records the end of a deep probe.
    pub fn deep_probe(&self, status: &'static str) {
        self.deep_probes.get_or_create(&[("status", status)]).inc();
        self.note_success("deep_probe", status);
    }

    /// Records the generation found at the start, with its checkpoint up to date.
    pub fn state_loaded(&self, generation: Generation) {
        let generation = i64::try_from(generation.get()).unwrap_or(i64::MAX);
        self.state_generation.set(generation);
        self.state_checkpoint_current.set(1);
    }

    /// Records a durable state of this generation.
    pub fn state_saved(&self, generation: Generation) {
        self.state_loaded(generation);
        self.note_success("state_save", "ok");
    }

    /// Records whether the disk holds the state in use and accepts changes of it.
    pub fn state_current(&self, current: bool) {
        self.state_checkpoint_current.set(i64::from(current));
    }

    /// Records the removal of a dead socket, or another bind of the socket.
    pub fn socket_restart(&self) {
        self.socket_restarts.inc();
    }

    /// The counter of closed connections.
    #[must_use]
    pub fn evictions(&self) -> Evictions {
        self.evictions.clone()
    }

    /// Records a failed accept.
    pub fn accept_failed(&self, failure: AcceptFailure) {
        self.accept_failures
            .get_or_create(&[("reason", failure.as_str())])
            .inc();
    }

    fn note_success(&self, event: &'static str, status: &'static str) {
        if status == "ok" {
            let now = i64::try_from(SystemClock.unix_seconds()).unwrap_or(i64::MAX);
            self.last_success
                .get_or_create(&[("event", event)])
                .set(now);
        }
    }

    /// The exposition text (OpenMetrics) with the present gauges.
    #[must_use]
    pub fn render(&self, now: Readings) -> String {
        let mut scraped = Registry::default();
        let started = self.started;
        scraped.register_collector(Box::new(Process { started }));
        scraped
            .sub_registry_with_prefix(PREFIX)
            .register_collector(Box::new(now));
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string fails only if the encoder of a metric fails.
        match encode_registry(&mut text, &self.registry).and_then(|()| encode(&mut text, &scraped))
        {
            Ok(()) => text,
            Err(fmt_error) => format!("# {fmt_error}\n# EOF\n"),
        }
    }
}

/// The OpenMetrics text in the text format 0.0.4 of Prometheus, with the same samples. There, the
/// metadata of a counter or an info names the sample, and neither units nor an end exist.
#[must_use]
pub fn text_format(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // HELP precedes TYPE, whose suffix it needs.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(about) = line.strip_prefix("# HELP ") {
            help = about.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|about| about.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == name) {
                text.push_str(&format!("# HELP {name}{suffix} {help}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_format_has_the_same_samples_under_their_own_names() {
        let open_metrics = "# HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total{x=\"#\"} 1\n\
            # HELP a_build Build.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n\
            # HELP a_s Time.\n# TYPE a_s gauge\n# UNIT a_s seconds\na_s 2.5\n# EOF\n";
        let text = "# HELP a_calls_total Calls.\n# TYPE a_calls_total counter\na_calls_total{x=\"#\"} 1\n\
            # HELP a_build_info Build.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n\
            # HELP a_s Time.\n# TYPE a_s gauge\na_s 2.5\n";
        assert_eq!(text_format(open_metrics), text);
    }

    /// Queries written for the reference program use these bounds.
    #[test]
    fn the_bounds_of_the_reference_are_among_ours() {
        for power in 0..12 {
            let bound = 0.001 * f64::from(1 << power);
            assert!(LATENCY_BOUNDS.contains(&bound), "{bound}");
        }
        assert!(LATENCY_BOUNDS.is_sorted());
    }
}
