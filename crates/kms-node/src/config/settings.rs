//! Every setting: key, rule, type, default, text. Schema, loader, `config` and the tables of
//! docs/configuration.md come from here. Above a default stands its reason.

use std::{marker::PhantomData, num::NonZeroU32, path::PathBuf, time::Duration};

use kms_domain::scope::{
    ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, ProviderName, TransitKeyPath,
    TransitMountId,
};
use openbao_client::{
    endpoint::{Address, Failover, ServerName},
    login::{
        jwt::ClaimRules,
        oauth2::{RsaAlgorithm, SecretPlace, TokenUrl},
    },
    turns::TURNS,
};
use serde_json::{Value, json};

use super::{
    build,
    choice::*,
    origin::Substitute,
    resolve::Resolver,
    rules::*,
    setting::{Declared, Key, Section, settings},
    values::{Listener, SocketGroup, SocketMode},
};
use crate::state::StatePath;

/// The credential and its source.
#[derive(Debug, Clone)]
pub enum Method {
    Jwt(Jwt),
    Cert(Cert),
    AppRole(AppRole),
    Userpass(Userpass),
    Token(TokenFile),
}

/// The private key of a client certificate.
#[derive(Debug, Clone)]
pub enum CertSource {
    File(CertFiles),
    Pkcs11(Pkcs11),
}

/// A client certificate and its key in files, which may be the same.
#[derive(Debug, Clone)]
pub struct CertFiles {
    /// The chain, in PEM.
    pub certificate: PathBuf,
    /// The key, in PEM.
    pub key: PathBuf,
}

#[derive(Debug, Clone)]
pub enum JwtSource {
    File(PathBuf),
    OAuth2(Box<OAuth2>),
    Spiffe(Spiffe),
}

/// Proof of the client's identity at the OAuth 2.0 issuer.
#[derive(Debug, Clone)]
pub enum ClientCredential {
    Secret {
        file: PathBuf,
        place: SecretPlace,
    },
    PrivateKey {
        file: PathBuf,
        key_id: Option<String>,
        /// Audience of the assertion; `None` is the token URL.
        audience: Option<String>,
        rsa: RsaAlgorithm,
    },
}

/// The block of a method is required with it.
fn method_block(method: &str) -> Value {
    json!({
        "if": {
            "anyOf": [
                {"properties": {"method": {"const": method}}, "required": ["method"]},
                {"properties": {"fallback": {"const": method}}, "required": ["fallback"]},
            ],
        },
        "then": {"required": [method]},
    })
}

settings! {
    /// The configuration of one provider on one node.
    pub struct Config: "", required, {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bao-kms-provider configuration",
    } {
        /// Version of the file format: `v1alpha1`.
        config_version "configVersion": ConfigVersion;
        .. server: Server = build::server;
        .. openbao: OpenBao = OpenBao::read;
        .. auth: Auth = build::auth;
        // Place of the Transit key.
        .. key: TransitKeyPath = build::key;
        // The names that enter every key ID.
        .. scope: IdentityScope = build::scope;
        .. bootstrap: Bootstrap = Bootstrap::read;
        .. status: Status = build::status;
        .. state_path: StatePath = build::state_path;
        .. rotation: Rotation = Rotation::read;
        .. logging: Logging = Logging::read;
        .. hardening: Hardening = Hardening::read;
        .. legacy: Legacy = Legacy::read;
    }

    /// The socket for the API server, and the two HTTP listeners.
    pub struct Server: "server.", required {
        /// gRPC socket in a directory below `/run` or `/var/run`, for a user other than root also
        /// below `$XDG_RUNTIME_DIR`; at most 107 bytes. The provider's user owns the directory. Only
        /// that user and root may write to it or to one between it and `/run`.
        // The package creates this directory for the socket group.
        socket_path "socketPath": SocketPath => PathBuf = "/run/openbao-kms/kms.sock";
        /// Octal mode of the socket: nothing for others, no execute bit.
        // The API server is in the group; all others stay out.
        socket_mode "socketMode": Mode => SocketMode = "0660";
        /// Group of the socket: a name of `/etc/group`, or a number up to 2147483647 in quotes.
        socket_group "socketGroup": Group => SocketGroup;
        /// Listener for `/metrics`; empty disables it. Port 0 takes any free port, an IPv6 address is
        /// in brackets, an empty host is every address.
        // Local scrapers and probes only; both listeners tell about the key in use.
        metrics "metricsAddress": Optional<HostPort> => Option<Listener> = "127.0.0.1:8081";
        /// Listener for `/live`, `/ready` and `/why`, in the same form; a fixed port differs from that
        /// of `server.metricsAddress`.
        health "healthAddress": Optional<HostPort> => Option<Listener> = "127.0.0.1:8082";
        .. limits: Limits = Limits::read;
    }

    /// Calls at the same time.
    #[derive(Copy, PartialEq, Eq)]
    pub struct Limits: "server.", required {
        /// Status calls at the same time, 1 to 1024.
        // The API server asks for Status once a minute.
        status "maxConcurrentStatus": Integer<usize, 1, 1024> => usize = 16;
        /// Encrypt calls at the same time, 1 to 1024; twice as many more wait, and calls beyond them fail at once.
        // Half of them have a connection to OpenBao while the others wait.
        encrypt "maxConcurrentEncrypt": Integer<usize, 1, 1024> => usize = (2 * TURNS);
        /// Decrypt calls at the same time, 1 to 1024; twice as many more wait, and calls beyond them fail at once.
        // After its restart the API server reads every secret at once; decrypts share requests.
        decrypt "maxConcurrentDecrypt": Integer<usize, 1, 1024> => usize = (4 * TURNS);
    }

    /// Address of OpenBao and proof of its identity.
    pub struct OpenBao: "openbao.", required {
        /// `https` URL without user information, query or fragment; a path prefix is kept.
        address "address": HttpsUrl => Address;
        /// At most 8 further addresses of the same OpenBao cluster, each with `address` and, where it
        /// differs, `tlsServerName`. The active server is preferred, a server of another cluster refused.
        // One server, or a load balancer in front of several.
        failover_addresses "failoverAddresses": FailoverAddresses = [];
        /// PEM file with the only trusted certificates; those of the system are ignored. A running
        /// provider reads it again after a change.
        ca_cert_file "caCertFile": AbsolutePath => PathBuf;
        /// DNS name or IP address in OpenBao's certificate.
        server_name "tlsServerName": TlsServerName => ServerName;
        /// Longer than 0s; deadline of one OpenBao request and of one KMS call. Keep it below the
        /// timeout in the API server's `EncryptionConfiguration`.
        // Below the 3s after which the API server gives up.
        timeout "timeout": Positive => Duration = "2s";
        /// **identity**; names the OpenBao installation with the key. Never change it once data is
        /// encrypted.
        instance_id "instanceId": InstanceId;
        /// **identity**; relative path without empty, `.` or `..` segments and without `%`; empty is
        /// the root namespace. Never change it once data is encrypted.
        namespace "namespace": Optional<NamespacePath> = "";
        // Further addresses of the same cluster, for `serve`.
        .. failover: Vec<Failover> = build::failover;
        // Of one-shot commands.
        .. substitute: Substitute = build::substitute;
    }

    /// Login to OpenBao.
    pub struct Auth: "auth.", required, {
        "allOf": [
            method_block("cert"),
            method_block("approle"),
            method_block("userpass"),
            method_block("token"),
            {
                "if": {"properties": {"method": {"const": "jwt"}}},
                "then": {"required": ["jwt"]},
            },
        ],
    } {
        /// `jwt`, `cert`, `approle`, `userpass` or `token`. Blocks of other methods are ignored with a
        /// warning, except that of `auth.fallback`.
        // It needs no client key on the node.
        method_name "method": AuthMethod = "jwt";
        /// Another method as a standby identity, with its own block: used only while the login by
        /// `auth.method` fails because of its credential. Empty: none.
        // Whoever holds the second credential can log in as well.
        fallback_name "fallback": Optional<AuthMethod> = "";
        /// Longer than 0s; a token is renewed or replaced this long before it ends.
        // Time for several attempts.
        login_before_token_expiry "loginBeforeTokenExpiry": Positive => Duration = "5m";
        /// Lifetime asked for at a renewal; longer than `auth.loginBeforeTokenExpiry`.
        // Renewals are rare, and a stolen token dies soon.
        token_renewal_increment "tokenRenewalIncrement": Positive => Duration = "1h";
        /// Limit of one login or renewal; `0s` stands for the longer of `openbao.timeout` and 5s.
        configured_login_timeout "loginTimeout": NonNegative = "0s";
        // The configured value, or the longer of `openbao.timeout` and 5 seconds.
        .. login_timeout: Duration = build::login_timeout;
        .. method: Method = build::method;
        .. fallback: Option<Method> = build::fallback;
    }

    /// Login with a JSON Web Token, for method jwt.
    pub struct Jwt: "auth.jwt.", optional, {
        "oneOf": [
            {
                "properties": {"source": {"const": "file"}},
                "required": ["jwtFile"],
                "not": {"anyOf": [{"required": ["oauth2"]}, {"required": ["spiffe"]}]},
            },
            {
                "properties": {
                    "source": {"const": "oauth2"},
                    "expectedIssuer": {"minLength": 1},
                    "expectedAudience": {"minItems": 1},
                },
                "required": ["source", "oauth2", "expectedIssuer", "expectedAudience"],
                "not": {"anyOf": [{"required": ["jwtFile"]}, {"required": ["spiffe"]}]},
            },
            {
                "properties": {
                    "source": {"const": "spiffe"},
                    "expectedAudience": {"minItems": 1, "maxItems": 1},
                    "expectedSubject": {"pattern": SPIFFE_ID},
                },
                "required": ["source", "spiffe", "expectedAudience", "expectedSubject"],
                "not": {"anyOf": [{"required": ["jwtFile"]}, {"required": ["oauth2"]}]},
            },
        ],
    } {
        /// Mount of the JWT auth method, with `auth/` in front.
        mount_path "mountPath": Mount => MountPath;
        /// Role of the login.
        role "role": KeyNameText => KeyName;
        /// `file`, `oauth2` or `spiffe`; optional when `jwtFile` is written, and `oauth2` and `spiffe`
        /// are not.
        source_name "source": JwtSourceName = null;
        /// Longer than 0s; a token with less time left is not used.
        // The writer of the file replaces it before the last two minutes.
        min_remaining_ttl "minRemainingTtl": Positive = "2m";
        /// Tolerated difference between the clocks of issuer and node.
        // Nodes keep time by NTP.
        clock_skew_leeway "clockSkewLeeway": NonNegative = "30s";
        /// Required `iss` claim; empty leaves the check to OpenBao. Required for source `oauth2`.
        expected_issuer "expectedIssuer": Optional<Claim> = "";
        /// The `aud` claim must name one of these; empty leaves the check to OpenBao. Required for
        /// source `oauth2`. Source `spiffe` has exactly one, for which the JWT-SVID is requested.
        expected_audience "expectedAudience": List<Claim> = [];
        /// Required `sub` claim; empty leaves the check to OpenBao. For source `spiffe` the SPIFFE ID of
        /// the requested JWT-SVID, `spiffe://<trust domain>/<path>`.
        expected_subject "expectedSubject": Optional<Claim> = "";
        /// Token file, kept fresh by another program; required for source `file`, else refused.
        jwt_file "jwtFile": AbsolutePath = null;
        // Checks of a token before its use.
        .. claims: ClaimRules = build::claims;
        .. source: JwtSource = build::jwt_source;
    }

    /// Tokens by the OAuth 2.0 client credentials grant, for source oauth2.
    pub struct OAuth2: "auth.jwt.oauth2.", optional, {
        "if": {"properties": {"authMethod": {"const": "private_key_jwt"}}},
        "then": {"required": ["privateKeyFile"], "not": {"required": ["clientSecretFile"]}},
        "else": {"required": ["clientSecretFile"], "not": {"required": ["privateKeyFile"]}},
    } {
        /// `https` URL without user information or fragment; a query is kept.
        token_url "tokenUrl": TokenUrlText => TokenUrl;
        /// Client identifier at the issuer; no control characters.
        client_id "clientId": ClientId => String;
        /// Authentication of the client: `client_secret_basic`, `client_secret_post` or
        /// `private_key_jwt`.
        auth_method "authMethod": ClientAuthMethod;
        /// File with the client secret; required for the two methods with a secret, refused for
        /// `private_key_jwt`.
        client_secret_file "clientSecretFile": AbsolutePath = null;
        /// PEM file with the private key of the client: EC P-256 or P-384, Ed25519, or RSA from 2048
        /// bits; required for `private_key_jwt`, else refused.
        private_key_file "privateKeyFile": AbsolutePath = null;
        /// ID of the key at the issuer (`kid`), for `private_key_jwt`.
        // An issuer that knows one key of the client needs none.
        key_id "keyId": Optional<Printable> = "";
        /// Audience of the assertion, for `private_key_jwt`; empty is `tokenUrl`.
        // The token endpoint, as in RFC 7523; some issuers want their issuer name instead.
        assertion_audience "assertionAudience": Optional<Printable> = "";
        /// Signature with an RSA key, for `private_key_jwt`: `RS256` or `PS256`. Other keys have one
        /// algorithm each: `ES256`, `ES384` or `EdDSA`.
        // Every issuer has it.
        rsa_algorithm "rsaAlgorithm": RsaAlgorithmName = "RS256";
        // Many issuers want none of the following three.
        /// Requested scopes, in printable ASCII without space, `"` and `\`.
        scopes "scopes": List<Scope> => Vec<String> = [];
        /// Requested audience; no control characters.
        audience "audience": Optional<Printable> => Option<String> = "";
        /// Requested resources: absolute URIs without user information or fragment.
        resources "resources": List<ResourceUri> => Vec<String> = [];
        /// PEM file with the issuer's certificates; empty trusts those of the system.
        // An issuer is often a public service.
        ca_cert_file "caCertFile": Optional<AbsolutePath> => Option<PathBuf> = "";
        .. credential: ClientCredential = build::client_credential;
    }

    /// Tokens by the SPIFFE Workload API, for source spiffe.
    pub struct Spiffe: "auth.jwt.spiffe.", optional {
        /// Socket of the agent: `unix://` and an absolute path of at most 107 bytes.
        workload_api_socket "workloadAPISocket": WorkloadApiSocket => PathBuf;
    }

    /// Login with a client certificate, for method cert.
    pub struct Cert: "auth.cert.", optional, {
        "oneOf": [
            {
                "properties": {"source": {"const": "file"}},
                "required": ["certificateFile", "keyFile"],
                "not": {"required": ["pkcs11"]},
            },
            {"properties": {"source": {"const": "pkcs11"}}, "required": ["pkcs11"]},
        ],
    } {
        /// Mount of the certificate auth method, with `auth/` in front.
        mount_path "mountPath": Mount => MountPath;
        /// Role of the login; empty lets OpenBao try every role of the mount.
        role "name": Optional<Name> => Option<String> = "";
        /// `file` or `pkcs11`; `spiffe` is refused, since OpenBao cannot derive an identity alias from a
        /// URI SAN.
        source_name "source": CertSourceName;
        /// PEM file with the certificate chain, for source `file`. It may be a symbolic link to a file
        /// in its own directory, as kubelet keeps one.
        certificate_file "certificateFile": AbsolutePath = null;
        /// PEM file with the private key, for source `file`; the same file if it holds both.
        key_file "keyFile": AbsolutePath = null;
        /// Longer than 0s; a certificate with less time left is not used.
        // People renew certificates; a day leaves time to act.
        min_remaining_ttl "minRemainingTtl": Positive => Duration = "24h";
        /// Tolerated difference between the clocks of issuer and node.
        clock_skew_leeway "clockSkewLeeway": NonNegative => Duration = "30s";
        .. source: CertSource = build::cert_source;
    }

    /// Private key on a PKCS#11 token, for source pkcs11.
    pub struct Pkcs11: "auth.cert.pkcs11.", optional {
        /// PEM file with the certificate chain, mode 0640 or less.
        certificate_file "certificateFile": AbsolutePath => PathBuf;
        /// Library of the token; it, or a link to it, belongs to root.
        module_path "modulePath": AbsolutePath => PathBuf;
        /// Label of the token.
        token_label "tokenLabel": Name => String;
        /// Label of the key.
        key_label "keyLabel": Name => String;
        /// File with the PIN in one line, mode 0640 or less. It is read before each login.
        pin_file "pinFile": AbsolutePath => PathBuf;
        /// At least 2 sessions; the provider uses one at a time.
        max_sessions "maxSessions": Integer<NonZeroU32, 2, { u32::MAX }> => NonZeroU32;
    }

    /// Login with a role ID and a secret ID, for method approle.
    pub struct AppRole: "auth.approle.", optional {
        /// Mount of the AppRole auth method, with `auth/` in front.
        mount_path "mountPath": Mount => MountPath;
        /// Role ID: a name, without its secret ID worthless.
        role_id "roleId": Name => String;
        /// File with the secret ID, or with its wrapping token.
        secret_id_file "secretIdFile": AbsolutePath => PathBuf;
        /// The file holds a response-wrapping token, which the provider unwraps once. Other commands
        /// then have no login of their own.
        // Every restart needs a new wrapping token.
        wrapped "wrapped": bool => bool = false;
    }

    /// Login with a password, for method userpass.
    pub struct Userpass: "auth.userpass.", optional {
        /// Mount of the userpass auth method, with `auth/` in front.
        mount_path "mountPath": Mount => MountPath;
        /// Name of the user.
        username "username": KeyNameText => KeyName;
        /// File with the password.
        password_file "passwordFile": AbsolutePath => PathBuf;
    }

    /// A token from a file instead of a login, for method token: an identity for an emergency, with an
    /// end.
    pub struct TokenFile: "auth.token.", optional {
        /// File with the token. A new token in it is taken when the current one nears its end.
        file "file": AbsolutePath => PathBuf;
    }

    /// The Transit key.
    pub(super) struct TransitSettings: "transit.", required {
        /// **identity**; mount of the Transit engine.
        mount_path "mountPath": Mount => MountPath;
        /// **identity**; the key below the mount.
        key_name "keyName": KeyNameText => KeyName;
    }

    /// Identity: the names that enter every key ID. Never change one once data is encrypted.
    pub(super) struct KeyIdScope: "transit.keyIdScope.", required {
        /// **identity**; the provider's name in `EncryptionConfiguration`; without a colon, which
        /// kube-apiserver refuses in the name of a KMS v2 plugin.
        provider_name "providerName": PluginName => ProviderName;
        /// **identity**; the protected cluster.
        cluster_id "clusterId": ClusterIdText => ClusterId;
        /// **identity**; an opaque label of the Transit mount, other than its path.
        transit_mount_id "transitMountId": TransitMountIdText => TransitMountId;
        /// **identity**; one history of key material. A recreated key gets another, such as 16 random
        /// bytes in hex.
        key_lineage_id "keyLineageId": KeyLineageIdText => KeyLineageId;
    }

    /// The first contact with OpenBao.
    #[derive(Copy)]
    pub struct Bootstrap: "bootstrap.", optional {
        /// Time for repetitions of the first probes; `0s` is one try.
        // OpenBao may start at the same time as the node.
        grace_timeout "graceTimeout": NonNegative => Duration = "60s";
        /// Longer than 0s; wait between two tries.
        retry_interval "retryInterval": Positive => Duration = "5s";
    }

    /// Probes, and the age at which Status turns unhealthy.
    #[derive(Copy)]
    pub struct Status: "status.", optional {
        // Metadata is cheap and read often, a round trip is rare; both fit within maximum staleness.
        /// Time between two reads of the key's metadata; longer than 0s, shorter than
        /// `status.statusMaxStaleness`.
        probe_interval "probeInterval": Positive => Duration = "30s";
        /// Time between two round trips through Transit; longer than 0s.
        deep_probe_interval "deepProbeInterval": Positive => Duration = "5m";
        /// Longer than 0s; Status is unhealthy when the last good probe is older.
        // Outlives three failed probes.
        max_staleness "statusMaxStaleness": Positive => Duration = "2m";
    }

    /// The registry of key versions.
    pub(super) struct State: "state.", optional {
        /// The state file; checkpoint and lock lie beside it.
        path "path": StateFile => StatePath = "/var/lib/openbao-kms/state/key-registry.json";
    }

    /// The response to a rotation of the Transit key.
    #[derive(Copy)]
    pub struct Rotation: "rotation.", optional {
        /// `observed`: the provider follows rotations and never makes one.
        mode "mode": RotationMode = "observed";
        /// Longer than 0s; wait before a stable new version is used.
        // By then every node has observed the version.
        activation_delay "activationDelay": Positive => Duration = "2m";
        /// At least 1; probes that must agree before a new version is stable.
        required_observations "requireStableObservationCount":
            Integer<NonZeroU32, 1, { u32::MAX }> => NonZeroU32 = 3;
        /// Refuse a key whose latest version is lower than before.
        // It was restored or replaced.
        reject_version_rollback "rejectVersionRollback": bool => bool = true;
    }

    /// Logs on standard error.
    pub struct Logging: "logging.", optional {
        /// Lowest level written: `debug`, `info`, `warn` or `error`.
        level "level": LogLevel => LogLevel = "info";
        /// `json` (one object a line) or `text`.
        format "format": LogFormat => LogFormat = "json";
        /// Log OpenBao's request IDs; takes effect only while debug correlation is on.
        request_ids "logOpenBaoRequestIDs": bool = true;
        // `Some` while enabled; then the level is debug and OpenBao's request IDs may be logged.
        .. debug_correlation: Option<DebugCorrelation> = build::debug_correlation;
    }

    /// Identifiers in the log that connect a call here with one in OpenBao's audit log.
    pub struct DebugCorrelation: "logging.debugCorrelation.", optional, {
        "if": {"properties": {"enabled": {"const": true}}, "required": ["enabled"]},
        "then": {"required": ["incidentId"], "properties": {"incidentId": {"minLength": 1}}},
    } {
        /// Needs `level: debug` and `logOpenBaoRequestIDs: true`.
        enabled "enabled": bool = false;
        /// Time from process start after which correlation ends; when enabled longer than 0s and at
        /// most 1h.
        ttl "ttl": NonNegative => Duration = "15m";
        /// The incident; required when enabled, at most 64 bytes.
        incident "incidentId": Optional<IncidentId> = "";
        .. incident_id: String = build::incident_id;
    }

    /// Rights that the running provider gives up. Core dumps, tracing and new privileges always go.
    #[derive(Copy)]
    pub struct Hardening: "hardening.", optional {
        /// Landlock against access to files and ports outside the configuration: `disabled`,
        /// `best-effort` or `required`.
        // An old kernel must not keep an API server from its keys.
        landlock "landlock": Enforcement => Enforcement = "best-effort";
        /// Lock of its memory against swapping: `disabled`, `best-effort` or `required`; needs
        /// `LimitMEMLOCK=infinity`.
        // The unit keeps the service out of swap; few units have the limit for locking.
        lock_memory "lockMemory": Enforcement => Enforcement = "disabled";
    }

    /// Readers of objects that other providers encrypted, for a migration.
    pub struct Legacy: "legacy.", optional {
        // `None` without its block.
        .. vault_kubernetes_kms: Option<VaultKubernetesKms> = build::vault_kubernetes_kms;
    }

    /// A second socket that also reads objects of vault-kubernetes-kms.
    pub struct VaultKubernetesKms: "legacy.vaultKubernetesKms.", optional {
        /// Name of vault-kubernetes-kms in `EncryptionConfiguration`, under which its objects are stored.
        provider_name "providerName": PluginName => ProviderName;
        /// The second socket, in the directory of `server.socketPath`; empty is
        /// `vault-kubernetes-kms.sock` there. Mode and group are those of `server.socketPath`.
        // One directory has the rights for both sockets.
        written_socket "socketPath": Optional<SocketPath> = "";
        // Both providers often share one key.
        /// Mount of its Transit engine; empty is `transit.mountPath`.
        written_mount "mountPath": Optional<Mount> = "";
        /// Its key below the mount; empty is `transit.keyName`.
        written_key "keyName": Optional<KeyNameText> = "";
        .. socket_path: PathBuf = build::legacy_socket;
        .. key: TransitKeyPath = build::legacy_key;
    }
}
