//! A tenant of a server for one test: a Transit mount, a key, a login, and the files for a
//! provider.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use openbao_lab::{
    admin::{login::JwtRole, transit::NewKey},
    jwt::JwtIssuer,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::{
    files::{self, SocketDir},
    openbao::{OpenBao, checked},
};

/// The `iss` of every JWT.
pub const ISSUER: &str = "https://issuer.test";
/// The `aud` required by every role.
pub const AUDIENCE: &str = "kms";
/// The `sub` required by every role.
pub const SUBJECT: &str = "node-1";
/// The one role of each JWT mount.
pub const ROLE: &str = "kms-node";
/// The one key of each Transit mount.
pub const KEY: &str = "etcd";

/// Mounts and files of one test. Drop removes the files; the mounts end with the server.
pub struct Tenant {
    /// The Transit mount.
    pub transit_mount: String,
    /// Mount of the JWT login, without `auth/`.
    pub jwt_mount: String,
    /// Name of the policy granted at login.
    pub policy: String,
    issuer: JwtIssuer,
    address: String,
    directory: TempDir,
}

/// Intervals and limits of a provider's configuration, short enough for a test.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// `status.probeInterval`
    pub probe_interval: Duration,
    /// `status.deepProbeInterval`
    pub deep_probe_interval: Duration,
    /// `status.statusMaxStaleness`
    pub max_staleness: Duration,
    /// `rotation.activationDelay`
    pub activation_delay: Duration,
    /// `rotation.requireStableObservationCount`
    pub stable_observations: u32,
    /// `bootstrap.graceTimeout`
    pub grace_timeout: Duration,
    /// `bootstrap.retryInterval`
    pub retry_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(100),
            deep_probe_interval: Duration::from_millis(500),
            max_staleness: Duration::from_secs(2),
            activation_delay: Duration::from_millis(300),
            stable_observations: 2,
            grace_timeout: Duration::from_secs(2),
            retry_interval: Duration::from_millis(100),
        }
    }
}

impl Tenant {
    /// A tenant with a valid key.
    ///
    /// # Panics
    /// When a request to the server fails.
    pub async fn new(server: &OpenBao) -> Self {
        let tenant = Self::without_key(server).await;
        let created = server
            .admin()
            .create_key(&tenant.transit_mount, KEY, &NewKey::default())
            .await;
        checked(created);
        tenant
    }

    /// A tenant with an empty Transit mount.
    ///
    /// # Panics
    /// When a request to the server fails.
    pub async fn without_key(server: &OpenBao) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = TempDir::new().unwrap();
        let tenant = Self {
            transit_mount: format!("transit-{number}"),
            jwt_mount: format!("jwt-{number}"),
            policy: format!("kms-{number}"),
            issuer: checked(JwtIssuer::generate()),
            address: server.endpoint().address.to_string(),
            directory,
        };
        files::replace(
            &tenant.ca_file(),
            &fs::read(server.ca_file()).unwrap(),
            0o644,
        );
        files::directory(&tenant.state_dir(), 0o750);
        tenant.write_jwt(&tenant.claims());

        let admin = server.admin();
        checked(admin.mount_transit(&tenant.transit_mount).await);
        let policy = policy(&tenant.transit_mount, KEY);
        checked(admin.write_policy(&tenant.policy, &policy).await);

        let public_key = tenant.issuer.public_key_pem();
        checked(
            admin
                .mount_jwt_auth(&tenant.jwt_mount, ISSUER, public_key)
                .await,
        );

        let role = JwtRole {
            audience: AUDIENCE,
            subject: SUBJECT,
            policy: &tenant.policy,
        };
        checked(admin.write_jwt_role(&tenant.jwt_mount, ROLE, role).await);
        tenant
    }

    /// Adds rules to the policy: path and capability.
    ///
    /// # Panics
    /// When a request to the server fails.
    pub async fn grant(&self, server: &OpenBao, rules: &[(String, &str)]) {
        let mut text = policy(&self.transit_mount, KEY);
        text.extend(rules.iter().map(rule));
        checked(server.admin().write_policy(&self.policy, &text).await);
    }

    /// Claims accepted by the role, valid for one hour.
    ///
    /// # Panics
    /// When the clock is before 1970.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the server checks claims against the real time"
    )]
    pub fn claims(&self) -> Value {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        json!({"iss": ISSUER, "sub": SUBJECT, "aud": [AUDIENCE], "iat": now, "exp": now + 3600})
    }

    /// A JWT with these claims, signed with the key trusted by the login.
    ///
    /// # Panics
    /// When signing fails.
    #[must_use]
    pub fn jwt(&self, claims: &Value) -> Zeroizing<String> {
        checked(self.issuer.issue(claims))
    }

    /// Public key of every JWT, as PEM.
    #[must_use]
    pub fn public_key_pem(&self) -> &str {
        self.issuer.public_key_pem()
    }

    /// Replaces the JWT file.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_jwt(&self, claims: &Value) {
        files::replace(&self.jwt_file(), self.jwt(claims).as_bytes(), 0o640);
    }

    /// JWT for the login, valid for one hour from the start of the tenant.
    #[must_use]
    pub fn jwt_file(&self) -> PathBuf {
        self.path().join("node.jwt")
    }

    /// The server's CA.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.path().join("ca.crt")
    }

    /// The existing directory for the provider's state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    /// The directory of all these files.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A complete configuration of a provider. The test changes or writes it.
    ///
    /// # Panics
    /// When a path is not UTF-8.
    #[must_use]
    pub fn config(&self, socket_dir: &SocketDir, timing: Timing) -> Value {
        let group = fs::metadata(socket_dir.path()).unwrap().gid();
        let duration = |duration: Duration| format!("{}ms", duration.as_millis());
        json!({
            "configVersion": "v1alpha1",
            "server": {
                "socketPath": socket_dir.socket(),
                "socketMode": "0660",
                "socketGroup": group.to_string(),
                "metricsAddress": "127.0.0.1:0",
                "healthAddress": "127.0.0.1:0",
            },
            "openbao": {
                "address": self.address,
                "caCertFile": self.ca_file(),
                "tlsServerName": "127.0.0.1",
                "timeout": "2s",
                "instanceId": "bao-test",
            },
            "auth": {
                "method": "jwt",
                "jwt": {
                    "source": "file",
                    "mountPath": format!("auth/{}", self.jwt_mount),
                    "role": ROLE,
                    "jwtFile": self.jwt_file(),
                    "expectedIssuer": ISSUER,
                    "expectedAudience": [AUDIENCE],
                    "expectedSubject": SUBJECT,
                },
            },
            "transit": {
                "mountPath": self.transit_mount,
                "keyName": KEY,
                "keyIdScope": {
                    "providerName": "kms-test",
                    "clusterId": "cluster-test",
                    "transitMountId": self.transit_mount,
                    "keyLineageId": "00112233445566778899aabbccddeeff",
                },
            },
            "bootstrap": {
                "graceTimeout": duration(timing.grace_timeout),
                "retryInterval": duration(timing.retry_interval),
            },
            "status": {
                "probeInterval": duration(timing.probe_interval),
                "deepProbeInterval": duration(timing.deep_probe_interval),
                "statusMaxStaleness": duration(timing.max_staleness),
            },
            "state": {"path": self.state_dir().join("key-registry.json")},
            "rotation": {
                "activationDelay": duration(timing.activation_delay),
                "requireStableObservationCount": timing.stable_observations,
            },
        })
    }

    /// Writes the configuration as JSON, a subset of YAML.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn write_config(&self, config: &Value) -> PathBuf {
        let path = self.path().join("config.yaml");
        files::replace(&path, format!("{config:#}").as_bytes(), 0o640);
        path
    }
}

/// The complete policy of a provider.
fn policy(mount: &str, key: &str) -> String {
    [
        (format!("{mount}/keys/{key}"), "read"),
        (format!("{mount}/encrypt/{key}"), "update"),
        (format!("{mount}/decrypt/{key}"), "update"),
        (format!("{mount}/config/keys"), "read"),
        ("sys/capabilities-self".to_owned(), "update"),
        ("auth/token/renew-self".to_owned(), "update"),
    ]
    .iter()
    .map(rule)
    .collect()
}

fn rule((path, capability): &(String, &str)) -> String {
    format!("path \"{path}\" {{ capabilities = [\"{capability}\"] }}\n")
}
