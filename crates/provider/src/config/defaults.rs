//! Every default, in the spelling of the file, with its reason.

use openbao_client::turns::TURNS;
use serde_json::{Value, json};

/// The default of a setting; `None` for one that must be written.
pub(super) fn of(path: &str) -> Option<Value> {
    Some(match path {
        // The directory that the package creates for the socket group.
        "server.socketPath" => json!("/run/openbao-kms/kms.sock"),
        // The API server is in the group; nobody else may connect.
        "server.socketMode" => json!("0660"),
        // Local scrapers and probes only; both tell about the key in use.
        "server.metricsAddress" => json!("127.0.0.1:8081"),
        "server.healthAddress" => json!("127.0.0.1:8082"),
        // Reading a secret after an API server restart needs many decrypts at once, writing few
        // encrypts, and the API server asks for Status once a minute. Half of the encrypts have a
        // connection while the others wait; decrypts share requests.
        "server.maxConcurrentStatus" => json!(16),
        "server.maxConcurrentEncrypt" => json!(2 * TURNS),
        "server.maxConcurrentDecrypt" => json!(4 * TURNS),
        // One server, or a load balancer in front of several.
        "openbao.failoverAddresses" => json!([]),
        // The root namespace.
        "openbao.namespace" => json!(""),
        // Below the 3s after which the API server gives up.
        "openbao.timeout" => json!("2s"),
        // The method that needs no client key on the node.
        "auth.method" => json!("jwt"),
        // Time for several attempts before a token ends.
        "auth.loginBeforeTokenExpiry" => json!("5m"),
        // Long enough to renew rarely, short enough that a stolen token dies soon.
        "auth.tokenRenewalIncrement" => json!("1h"),
        // Stands for the longer of openbao.timeout and 5s.
        "auth.loginTimeout" => json!("0s"),
        // The agent that writes the file replaces it before the last two minutes.
        "auth.jwt.minRemainingTtl" => json!("2m"),
        // Nodes keep time by NTP.
        "auth.jwt.clockSkewLeeway" | "auth.cert.clockSkewLeeway" => json!("30s"),
        // Not checked on the node; OpenBao always checks its own bounds.
        "auth.jwt.expectedIssuer" | "auth.jwt.expectedSubject" => json!(""),
        "auth.jwt.expectedAudience" => json!([]),
        // Many issuers want none of these.
        "auth.jwt.oauth2.scopes" | "auth.jwt.oauth2.resources" => json!([]),
        "auth.jwt.oauth2.audience" => json!(""),
        // The system's roots: an issuer is often a public service.
        "auth.jwt.oauth2.caCertFile" => json!(""),
        // OpenBao then tries every role of the mount.
        "auth.cert.name" => json!(""),
        // Certificates are renewed by people; a day leaves time to act.
        "auth.cert.minRemainingTtl" => json!("24h"),
        // OpenBao may start at the same time as the node.
        "bootstrap.graceTimeout" => json!("60s"),
        "bootstrap.retryInterval" => json!("5s"),
        // Cheap metadata often, a real round trip seldom; both within maximum staleness.
        "status.probeInterval" => json!("30s"),
        "status.deepProbeInterval" => json!("5m"),
        // Outlives three failed probes.
        "status.statusMaxStaleness" => json!("2m"),
        // In the service's state directory.
        "state.path" => json!("/var/lib/openbao-kms/state/key-registry.json"),
        // The provider never rotates by itself.
        "rotation.mode" => json!("observed"),
        // Every node has observed a version before any node writes with it.
        "rotation.activationDelay" => json!("2m"),
        "rotation.requireStableObservationCount" => json!(3),
        // A version that went back means restored or replaced key material.
        "rotation.rejectVersionRollback" => json!(true),
        "logging.level" => json!("info"),
        "logging.format" => json!("json"),
        // Takes effect only while debug correlation is on.
        "logging.logOpenBaoRequestIDs" => json!(true),
        // Correlation is for one incident and ends by itself.
        "logging.debugCorrelation.enabled" => json!(false),
        "logging.debugCorrelation.ttl" => json!("15m"),
        "logging.debugCorrelation.incidentId" => json!(""),
        // An old kernel must not keep an API server from its keys.
        "hardening.landlock" => json!("best-effort"),
        // The unit keeps the service out of swap; locking needs a limit that few units have.
        "hardening.lockMemory" => json!("disabled"),
        _ => return None,
    })
}
