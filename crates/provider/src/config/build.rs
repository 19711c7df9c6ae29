//! From the shape of the file to a checked [`Config`], section by section.
//!
//! Each section reads all its settings before it gives up, so that every problem is found.

mod auth;

use std::time::Duration;

use kms_domain::scope::{
    ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, Namespace, OpenBaoInstanceId,
    ProviderName, TransitKeyPath, TransitMountId,
};

use openbao_client::endpoint::{Address, Failover, ServerName};

use super::{
    Bootstrap, Config, DebugCorrelation, Enforcement, Hardening, Limits, Listener, LogFormat,
    LogLevel, Logging, OpenBao, Problem, Rotation, Server, Setting, Status,
    choice::{ConfigVersion, RotationMode},
    document::Document,
    duration,
    file::{
        BootstrapSection, DebugCorrelationSection, FailoverSection, File, HardeningSection,
        LoggingSection, OpenBaoSection, RotationSection, ServerSection, StateSection,
        StatusSection, TransitSection,
    },
    origin::{Environment, Flags, Origin},
    problem::Broken,
    resolve::Resolver,
    values,
};
use crate::state::StatePath;

/// The API server gives up on a KMS call after this time in the files that we generate.
const KMS_CALL_TIMEOUT: Duration = Duration::from_secs(3);

const LONGEST_CORRELATION: Duration = Duration::from_secs(60 * 60);

/// The directory that the packaged service may write, besides that of the socket.
const SERVICE_STATE_DIRECTORY: &str = "/var/lib/openbao-kms";

/// Beside `openbao.address`; all of them are asked at the same time.
const MAX_FAILOVER: usize = 8;

const PARALLEL_CALLS: std::ops::RangeInclusive<i64> = 1..=1024;

/// Turns a document of checked shape into a configuration.
///
/// # Errors
/// Every problem, those of the shape included, in the order of the file.
pub(super) fn build(
    document: Document,
    flags: &Flags,
    environment: &Environment,
) -> Result<(Config, Vec<Setting>, Vec<Problem>), Vec<Problem>> {
    let Document {
        tree,
        positions,
        problems,
    } = document;
    let mut resolver = Resolver::new(positions, problems, flags.replacements(environment));
    let config = match serde_json::from_value(tree) {
        Ok(file) => config(&mut resolver, file, environment),
        // Only a document that is no section of keys, which is reported as such.
        Err(_) => None,
    };
    match config {
        Some(config) if resolver.problems.is_empty() => {
            Ok((config, resolver.settings, resolver.warnings))
        }
        _ => {
            resolver
                .problems
                .sort_by_key(|problem| match problem.origin {
                    Some(Origin::File { line, column }) => (line, column),
                    _ => (u64::MAX, 0),
                });
            Err(resolver.problems)
        }
    }
}

fn config(resolver: &mut Resolver, file: File, environment: &Environment) -> Option<Config> {
    let version = resolver.text(
        "configVersion",
        file.config_version,
        str::parse::<ConfigVersion>,
    );
    let openbao_section = file.openbao.unwrap_or_default();
    let instance_id = openbao_section.instance_id.clone();
    let namespace = openbao_section.namespace.clone();

    let server = server(resolver, file.server.unwrap_or_default(), environment);
    let openbao = openbao(resolver, openbao_section);
    let instance_id = resolver.text("openbao.instanceId", instance_id, OpenBaoInstanceId::parse);
    let namespace = resolver.text(
        "openbao.namespace",
        namespace,
        values::optional(Namespace::parse),
    );
    let timeout = openbao.as_ref().map(|openbao| openbao.timeout);
    let auth = auth::auth(resolver, file.auth.unwrap_or_default(), timeout);
    let identity = transit(
        resolver,
        file.transit.unwrap_or_default(),
        instance_id,
        namespace,
    );
    let bootstrap = bootstrap(resolver, file.bootstrap.unwrap_or_default());
    let status = status(resolver, file.status.unwrap_or_default());
    let state_path = state_path(resolver, file.state.unwrap_or_default());
    let rotation = rotation(resolver, file.rotation.unwrap_or_default());
    let logging = logging(resolver, file.logging.unwrap_or_default());
    let hardening = hardening(resolver, file.hardening.unwrap_or_default());

    version?;
    let (scope, key) = identity?;
    let config = Config {
        server: server?,
        openbao: openbao?,
        auth: auth?,
        scope,
        key,
        bootstrap: bootstrap?,
        status: status?,
        state_path: state_path?,
        rotation: rotation?,
        logging: logging?,
        hardening: hardening?,
    };
    warn_of_margins(resolver, &config);
    Some(config)
}

fn server(
    resolver: &mut Resolver,
    section: ServerSection,
    environment: &Environment,
) -> Option<Server> {
    let socket_path = resolver.text("server.socketPath", section.socket_path, |text| {
        values::socket_path(text, environment)
    });
    let socket_mode = resolver.text(
        "server.socketMode",
        section.socket_mode,
        values::socket_mode,
    );
    let socket_group = resolver.text(
        "server.socketGroup",
        section.socket_group,
        values::socket_group,
    );
    let listener = values::optional(values::listener);
    let metrics = resolver.text("server.metricsAddress", section.metrics_address, &listener);
    let health = resolver.text("server.healthAddress", section.health_address, &listener);
    let status = resolver.integer(
        "server.maxConcurrentStatus",
        section.max_concurrent_status,
        PARALLEL_CALLS,
    );
    let encrypt = resolver.integer(
        "server.maxConcurrentEncrypt",
        section.max_concurrent_encrypt,
        PARALLEL_CALLS,
    );
    let decrypt = resolver.integer(
        "server.maxConcurrentDecrypt",
        section.max_concurrent_decrypt,
        PARALLEL_CALLS,
    );
    let listening = |listener: &Option<Option<Listener>>| listener.clone().flatten();
    for (path, listener) in [
        ("server.metricsAddress", listening(&metrics)),
        ("server.healthAddress", listening(&health)),
    ] {
        if listener.is_some_and(|listener| !listener.is_loopback()) {
            resolver.warn(
                path,
                "can be reached from other machines, without authentication",
                "listen on 127.0.0.1 unless the network in front is closed",
            );
        }
    }
    if let (Some(metrics), Some(health)) = (listening(&metrics), listening(&health))
        && metrics.collides(&health)
    {
        resolver.reject(
            "server.healthAddress",
            "must differ from server.metricsAddress",
            "choose another port, or leave one of them empty",
        );
    }
    Some(Server {
        socket_path: socket_path?,
        socket_mode: socket_mode?,
        socket_group: socket_group?,
        metrics: metrics?,
        health: health?,
        limits: Limits {
            status: status?,
            encrypt: encrypt?,
            decrypt: decrypt?,
        },
    })
}

/// Without the two settings that belong to the identity.
fn openbao(resolver: &mut Resolver, section: OpenBaoSection) -> Option<OpenBao> {
    let address = resolver.text("openbao.address", section.address, values::address);
    let failover = failover(resolver, section.failover_addresses, address.as_ref());
    let ca_cert_file = resolver.text(
        "openbao.caCertFile",
        section.ca_cert_file,
        values::absolute_path,
    );
    let server_name = resolver.text(
        "openbao.tlsServerName",
        section.tls_server_name,
        values::server_name,
    );
    let timeout = resolver.text("openbao.timeout", section.timeout, duration::parse_positive);
    let server_name = server_name?;
    let failover = failover?.into_iter().map(|(address, own_name)| Failover {
        address,
        server_name: own_name.unwrap_or_else(|| server_name.clone()),
    });
    Some(OpenBao {
        address: address?,
        failover: failover.collect(),
        ca_cert_file: ca_cert_file?,
        server_name,
        timeout: timeout?,
    })
}

/// Addresses with the server names that are written.
fn failover(
    resolver: &mut Resolver,
    sections: Option<Vec<FailoverSection>>,
    first: Option<&Address>,
) -> Option<Vec<(Address, Option<ServerName>)>> {
    let path = "openbao.failoverAddresses";
    let places = resolver.sections(path, sections, |resolver, path, section| {
        let given = section.address.as_deref();
        let address = resolver.entry(format!("{path}.address"), given, values::address);
        let server_name = match &section.tls_server_name {
            None => Some(None),
            Some(text) => {
                let path = format!("{path}.tlsServerName");
                let parsed = resolver.entry(path, Some(text), values::server_name);
                parsed.map(Some)
            }
        };
        Some((address?, server_name?))
    })?;
    let mut seen: Vec<_> = first.into_iter().collect();
    for (address, _) in &places {
        if seen.iter().any(|other| address.is_same_place(other)) {
            let rule = format!("names {address} twice, or it is openbao.address");
            resolver.reject(path, rule, "keep one of them");
            return None;
        }
        seen.push(address);
    }
    if places.len() > MAX_FAILOVER {
        let rule = format!("must not hold more than {MAX_FAILOVER} addresses");
        resolver.reject(path, rule, "keep the voting members of the cluster");
        return None;
    }
    Some(places)
}

fn transit(
    resolver: &mut Resolver,
    section: TransitSection,
    openbao_instance_id: Option<OpenBaoInstanceId>,
    openbao_namespace: Option<Option<Namespace>>,
) -> Option<(IdentityScope, TransitKeyPath)> {
    let mount_path = resolver.text("transit.mountPath", section.mount_path, MountPath::parse);
    let key_name = resolver.text("transit.keyName", section.key_name, KeyName::parse);
    let names = section.key_id_scope.unwrap_or_default();
    let provider = resolver.text(
        "transit.keyIdScope.providerName",
        names.provider_name,
        provider_name,
    );
    let cluster_id = resolver.text(
        "transit.keyIdScope.clusterId",
        names.cluster_id,
        ClusterId::parse,
    );
    let transit_mount_id = resolver.text(
        "transit.keyIdScope.transitMountId",
        names.transit_mount_id,
        TransitMountId::parse,
    );
    let key_lineage_id = resolver.text(
        "transit.keyIdScope.keyLineageId",
        names.key_lineage_id,
        KeyLineageId::parse,
    );
    let scope = IdentityScope {
        provider_name: provider?,
        cluster_id: cluster_id?,
        openbao_instance_id: openbao_instance_id?,
        openbao_namespace: openbao_namespace?,
        transit_mount_id: transit_mount_id?,
        key_lineage_id: key_lineage_id?,
    };
    let key = TransitKeyPath {
        mount_path: mount_path?,
        key_name: key_name?,
    };
    Some((scope, key))
}

/// Kubernetes refuses a colon in the name of a KMS v2 plugin, so nothing is stored under such a name.
/// The formats of `kms-domain` allow it.
fn provider_name(text: &str) -> Result<ProviderName, Broken> {
    if text.contains(':') {
        let rule =
            "must not contain a colon, which kube-apiserver refuses in the name of a KMS v2 plugin";
        return Err(Broken::rule(rule));
    }
    Ok(ProviderName::parse(text)?)
}

fn bootstrap(resolver: &mut Resolver, section: BootstrapSection) -> Option<Bootstrap> {
    let grace_timeout = resolver.text(
        "bootstrap.graceTimeout",
        section.grace_timeout,
        duration::parse,
    );
    let retry_interval = resolver.text(
        "bootstrap.retryInterval",
        section.retry_interval,
        duration::parse_positive,
    );
    Some(Bootstrap {
        grace_timeout: grace_timeout?,
        retry_interval: retry_interval?,
    })
}

fn status(resolver: &mut Resolver, section: StatusSection) -> Option<Status> {
    let probe_interval = resolver.text(
        "status.probeInterval",
        section.probe_interval,
        duration::parse_positive,
    );
    let deep_probe_interval = resolver.text(
        "status.deepProbeInterval",
        section.deep_probe_interval,
        duration::parse_positive,
    );
    let max_staleness = resolver.text(
        "status.statusMaxStaleness",
        section.status_max_staleness,
        duration::parse_positive,
    );
    if let (Some(probe_interval), Some(max_staleness)) = (probe_interval, max_staleness)
        && probe_interval >= max_staleness
    {
        resolver.reject(
            "status.probeInterval",
            "must be shorter than status.statusMaxStaleness",
            "Status would turn unhealthy between two good probes",
        );
    }
    Some(Status {
        probe_interval: probe_interval?,
        deep_probe_interval: deep_probe_interval?,
        max_staleness: max_staleness?,
    })
}

fn state_path(resolver: &mut Resolver, section: StateSection) -> Option<StatePath> {
    let path = resolver.text("state.path", section.path, |text| {
        StatePath::parse(&values::absolute_path(text)?).map_err(Broken::rule)
    })?;
    if !path.directory().starts_with(SERVICE_STATE_DIRECTORY) {
        resolver.warn(
            "state.path",
            "is outside /var/lib/openbao-kms, which the packaged service may write",
            "extend ReadWritePaths of the unit, or move the file",
        );
    }
    Some(path)
}

fn rotation(resolver: &mut Resolver, section: RotationSection) -> Option<Rotation> {
    let mode = resolver.text("rotation.mode", section.mode, str::parse::<RotationMode>);
    let activation_delay = resolver.text(
        "rotation.activationDelay",
        section.activation_delay,
        duration::parse_positive,
    );
    let observations: Option<u32> = resolver.integer(
        "rotation.requireStableObservationCount",
        section.require_stable_observation_count,
        1..=i64::from(u32::MAX),
    );
    let reject_version_rollback = resolver.boolean(
        "rotation.rejectVersionRollback",
        section.reject_version_rollback,
    );
    mode?;
    Some(Rotation {
        activation_delay: activation_delay?,
        required_observations: observations?.try_into().ok()?,
        reject_version_rollback: reject_version_rollback?,
    })
}

fn logging(resolver: &mut Resolver, section: LoggingSection) -> Option<Logging> {
    let level = resolver.text("logging.level", section.level, str::parse::<LogLevel>);
    let format = resolver.text("logging.format", section.format, str::parse::<LogFormat>);
    let request_ids = resolver.boolean(
        "logging.logOpenBaoRequestIDs",
        section.log_openbao_request_ids,
    );
    let correlation = debug_correlation(
        resolver,
        section.debug_correlation.unwrap_or_default(),
        level,
        request_ids,
    );
    Some(Logging {
        level: level?,
        format: format?,
        debug_correlation: correlation?,
    })
}

fn debug_correlation(
    resolver: &mut Resolver,
    section: DebugCorrelationSection,
    level: Option<LogLevel>,
    request_ids: Option<bool>,
) -> Option<Option<DebugCorrelation>> {
    let enabled = resolver.boolean("logging.debugCorrelation.enabled", section.enabled);
    let ttl = resolver.text("logging.debugCorrelation.ttl", section.ttl, duration::parse);
    let incident_id = resolver.text(
        "logging.debugCorrelation.incidentId",
        section.incident_id,
        values::optional(values::incident_id),
    );
    if !enabled? {
        return Some(None);
    }
    if level.is_some_and(|level| level != LogLevel::Debug) {
        resolver.reject(
            "logging.level",
            "must be debug while logging.debugCorrelation.enabled is true",
            "correlation is written at level debug only",
        );
    }
    if request_ids == Some(false) {
        resolver.reject(
            "logging.logOpenBaoRequestIDs",
            "must be true while logging.debugCorrelation.enabled is true",
            "without the IDs there is nothing to correlate",
        );
    }
    if ttl.is_some_and(|ttl| ttl.is_zero() || ttl > LONGEST_CORRELATION) {
        resolver.reject(
            "logging.debugCorrelation.ttl",
            "must be longer than 0s and at most 1h",
            "correlation is for one incident",
        );
    }
    if incident_id == Some(None) {
        resolver.reject(
            "logging.debugCorrelation.incidentId",
            "must be written while logging.debugCorrelation.enabled is true",
            "name the incident that the log is kept for",
        );
    }
    Some(Some(DebugCorrelation {
        ttl: ttl?,
        incident_id: incident_id??,
    }))
}

fn hardening(resolver: &mut Resolver, section: HardeningSection) -> Option<Hardening> {
    let enforcement = str::parse::<Enforcement>;
    let landlock = resolver.text("hardening.landlock", section.landlock, enforcement);
    let lock_memory = resolver.text("hardening.lockMemory", section.lock_memory, enforcement);
    Some(Hardening {
        landlock: landlock?,
        lock_memory: lock_memory?,
    })
}

/// Allowed relations that leave no margin for the ordinary delays of a node.
fn warn_of_margins(resolver: &mut Resolver, config: &Config) {
    let Config {
        openbao,
        auth,
        bootstrap,
        status,
        ..
    } = config;
    if !bootstrap.grace_timeout.is_zero() && bootstrap.retry_interval > bootstrap.grace_timeout {
        resolver.warn(
            "bootstrap.retryInterval",
            "is longer than bootstrap.graceTimeout",
            "there will be only two tries",
        );
    }
    if openbao.timeout >= KMS_CALL_TIMEOUT {
        resolver.warn(
            "openbao.timeout",
            "is not below 3s, the usual timeout of the API server's KMS calls",
            "lower it, else the API server gives up first and learns no cause",
        );
    }
    let slowest_probe = status
        .probe_interval
        .saturating_add(openbao.timeout)
        .saturating_add(auth.login_timeout);
    if slowest_probe >= status.max_staleness {
        resolver.warn(
            "status.statusMaxStaleness",
            "is not above status.probeInterval + openbao.timeout + auth.loginTimeout",
            "one slow probe turns Status unhealthy",
        );
    }
    if status.deep_probe_interval < status.probe_interval {
        resolver.warn(
            "status.deepProbeInterval",
            "is shorter than status.probeInterval",
            "round trips through Transit are the costly probes",
        );
    }
}
