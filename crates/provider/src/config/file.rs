//! The shape of the YAML file: which keys exist and of which type. Nothing is checked here;
//! [`super::resolve`] turns it into a [`super::Config`], [`super::schema()`] derives the schema.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::choice::{
    AuthMethod, CertSourceName, ClientAuthMethod, ConfigVersion, Enforcement, JwtSourceName,
    LogFormat, LogLevel, RotationMode,
};

/// The configuration of one provider on one node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "bao-kms-provider configuration")]
pub(super) struct File {
    /// The version of this format.
    #[schemars(required, with = "ConfigVersion")]
    pub(super) config_version: Option<String>,
    #[schemars(required)]
    pub(super) server: Option<ServerSection>,
    #[schemars(required)]
    pub(super) openbao: Option<OpenBaoSection>,
    #[schemars(required)]
    pub(super) auth: Option<AuthSection>,
    #[schemars(required)]
    pub(super) transit: Option<TransitSection>,
    pub(super) bootstrap: Option<BootstrapSection>,
    pub(super) status: Option<StatusSection>,
    pub(super) state: Option<StateSection>,
    pub(super) rotation: Option<RotationSection>,
    pub(super) logging: Option<LoggingSection>,
    pub(super) hardening: Option<HardeningSection>,
}

/// The socket for the API server, and the two HTTP listeners.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServerSection {
    /// The gRPC socket, in a directory below /run or /var/run; for a user other than root also below
    /// $XDG_RUNTIME_DIR. The provider's user must own its directory; nobody but that user and root
    /// may write to it or to one between it and /run. At most 107 bytes.
    #[schemars(with = "Option<AbsolutePath>")]
    pub(super) socket_path: Option<String>,
    /// Mode of the socket in octal: nothing for others, no execute bit.
    #[schemars(extend("pattern" = "^0*[0246]{0,2}0$"))]
    pub(super) socket_mode: Option<String>,
    /// Group of the socket: a name of the local group file, or a decimal number.
    #[schemars(required, with = "RequiredText")]
    pub(super) socket_group: Option<String>,
    /// Listener for /metrics; empty disables it.
    #[schemars(with = "Option<Listener>")]
    pub(super) metrics_address: Option<String>,
    /// Listener for /live, /ready and /why; empty disables it.
    #[schemars(with = "Option<Listener>")]
    pub(super) health_address: Option<String>,
    /// Status calls at the same time; one more fails at once.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) max_concurrent_status: Option<i64>,
    /// Encrypt calls at the same time; one more fails at once.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) max_concurrent_encrypt: Option<i64>,
    /// Decrypt calls at the same time; one more fails at once.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) max_concurrent_decrypt: Option<i64>,
}

/// Where OpenBao is and how it proves to be itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OpenBaoSection {
    /// An https URL without user information, query or fragment; a path prefix is kept.
    #[schemars(required, with = "HttpsUrl")]
    pub(super) address: Option<String>,
    /// Further addresses of the same OpenBao cluster, at most 8: the active server among all of them
    /// is preferred, and a server of another cluster is refused.
    #[schemars(length(max = 8))]
    pub(super) failover_addresses: Option<Vec<FailoverSection>>,
    /// PEM file with the only certificates that may vouch for OpenBao.
    #[schemars(required, with = "AbsolutePath")]
    pub(super) ca_cert_file: Option<String>,
    /// Name that OpenBao's certificate must be valid for.
    #[schemars(required, with = "RequiredText")]
    pub(super) tls_server_name: Option<String>,
    /// Identity: names the OpenBao installation that holds the key. Never change it once data is
    /// encrypted.
    #[schemars(required, with = "Identifier")]
    pub(super) instance_id: Option<String>,
    /// Identity: the namespace; empty is the root namespace. Never change it once data is
    /// encrypted.
    #[schemars(with = "Option<NamespaceText>")]
    pub(super) namespace: Option<String>,
    /// Deadline of one OpenBao request and of one KMS call; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) timeout: Option<String>,
}

/// A further address of the same OpenBao cluster.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FailoverSection {
    /// As openbao.address.
    #[schemars(required, with = "HttpsUrl")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
    /// Name that its certificate must be valid for; openbao.tlsServerName when not written.
    #[schemars(with = "Option<RequiredText>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_server_name: Option<String>,
}

/// How the provider logs in to OpenBao.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("if" = {"properties": {"method": {"const": "cert"}}, "required": ["method"]},
    "then" = {"required": ["cert"]}, "else" = {"required": ["jwt"]}))]
pub(super) struct AuthSection {
    /// The kind of credential.
    #[schemars(with = "Option<AuthMethod>")]
    pub(super) method: Option<String>,
    /// A token is renewed or replaced this long before it ends; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) login_before_token_expiry: Option<String>,
    /// Lifetime asked for at a renewal; longer than loginBeforeTokenExpiry.
    #[schemars(with = "Option<DurationText>")]
    pub(super) token_renewal_increment: Option<String>,
    /// Bounds one login or renewal; 0s stands for the longer of openbao.timeout and 5s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) login_timeout: Option<String>,
    /// For method jwt.
    pub(super) jwt: Option<JwtSection>,
    /// For method cert.
    pub(super) cert: Option<CertSection>,
}

/// Login with a JSON Web Token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"properties": {"source": {"const": "file"}}, "required": ["jwtFile"], "not": {"required": ["oauth2"]}},
    {"properties": {"source": {"const": "oauth2"}, "expectedIssuer": {"minLength": 1}, "expectedAudience": {"minItems": 1}},
     "required": ["source", "oauth2", "expectedIssuer", "expectedAudience"], "not": {"required": ["jwtFile"]}}
]))]
pub(super) struct JwtSection {
    /// Mount of the JWT auth method, `auth/` included.
    #[schemars(required, with = "MountPathText")]
    pub(super) mount_path: Option<String>,
    /// Role to log in with.
    #[schemars(required, with = "NameText")]
    pub(super) role: Option<String>,
    /// Where tokens come from; may be left out when jwtFile is written and oauth2 is not.
    #[schemars(with = "Option<JwtSourceName>")]
    pub(super) source: Option<String>,
    /// For source file: the token file that somebody else keeps fresh.
    #[schemars(with = "Option<AbsolutePath>")]
    pub(super) jwt_file: Option<String>,
    /// A token with less time left is not used; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) min_remaining_ttl: Option<String>,
    /// How far the clocks of issuer and node may differ.
    #[schemars(with = "Option<DurationText>")]
    pub(super) clock_skew_leeway: Option<String>,
    /// Required `iss` claim; empty is not checked here. Needed for source oauth2.
    #[schemars(with = "Option<OptionalIdentifier>")]
    pub(super) expected_issuer: Option<String>,
    /// The `aud` claim must name one of these; none is not checked here. Needed for source oauth2.
    #[schemars(with = "Option<Vec<Identifier>>")]
    pub(super) expected_audience: Option<Vec<String>>,
    /// Required `sub` claim; empty is not checked here.
    #[schemars(with = "Option<OptionalIdentifier>")]
    pub(super) expected_subject: Option<String>,
    /// For source oauth2.
    pub(super) oauth2: Option<OAuth2Section>,
}

/// Tokens by the OAuth 2.0 client credentials grant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OAuth2Section {
    /// An https URL without user information or fragment; a query is kept.
    #[schemars(required, with = "HttpsUrl")]
    pub(super) token_url: Option<String>,
    /// Client identifier at the issuer.
    #[schemars(required, with = "RequiredText")]
    pub(super) client_id: Option<String>,
    /// File with the client secret.
    #[schemars(required, with = "AbsolutePath")]
    pub(super) client_secret_file: Option<String>,
    /// How the client proves itself.
    #[schemars(required, with = "ClientAuthMethod")]
    pub(super) auth_method: Option<String>,
    /// Scopes to ask for.
    #[schemars(with = "Option<Vec<Scope>>")]
    pub(super) scopes: Option<Vec<String>>,
    /// Audience to ask for; empty asks for none.
    pub(super) audience: Option<String>,
    /// Resource URIs to ask for.
    pub(super) resources: Option<Vec<String>>,
    /// PEM file with the issuer's certificates; empty uses the system's.
    pub(super) ca_cert_file: Option<String>,
}

/// Login with a client certificate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CertSection {
    /// Mount of the certificate auth method, `auth/` included.
    #[schemars(required, with = "MountPathText")]
    pub(super) mount_path: Option<String>,
    /// Role to log in with; empty lets OpenBao try every role of the mount.
    #[schemars(with = "Option<OptionalIdentifier>")]
    pub(super) name: Option<String>,
    /// Where certificate and key come from.
    #[schemars(required, with = "CertSourceName")]
    pub(super) source: Option<String>,
    /// A certificate with less time left is not used; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) min_remaining_ttl: Option<String>,
    /// How far the clocks of issuer and node may differ.
    #[schemars(with = "Option<DurationText>")]
    pub(super) clock_skew_leeway: Option<String>,
    /// For source pkcs11.
    #[schemars(required)]
    pub(super) pkcs11: Option<Pkcs11Section>,
}

/// A private key on a PKCS#11 token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pkcs11Section {
    /// PEM file with the certificate chain.
    #[schemars(required, with = "AbsolutePath")]
    pub(super) certificate_file: Option<String>,
    /// The token's library.
    #[schemars(required, with = "AbsolutePath")]
    pub(super) module_path: Option<String>,
    /// Label of the token.
    #[schemars(required, with = "Identifier")]
    pub(super) token_label: Option<String>,
    /// Label of the key.
    #[schemars(required, with = "Identifier")]
    pub(super) key_label: Option<String>,
    /// File with the PIN.
    #[schemars(required, with = "AbsolutePath")]
    pub(super) pin_file: Option<String>,
    /// Sessions with the token; one stays reserved for the login state.
    #[schemars(required, range(min = 2))]
    pub(super) max_sessions: Option<i64>,
}

/// The Transit key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TransitSection {
    /// Identity: mount of the Transit engine.
    #[schemars(required, with = "MountPathText")]
    pub(super) mount_path: Option<String>,
    /// Identity: the key below it.
    #[schemars(required, with = "NameText")]
    pub(super) key_name: Option<String>,
    #[schemars(required)]
    pub(super) key_id_scope: Option<KeyIdScopeSection>,
}

/// Identity: the names that enter every key ID. Never change one once data is encrypted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct KeyIdScopeSection {
    /// The provider's name in the API server's EncryptionConfiguration.
    #[schemars(required, with = "KmsName")]
    pub(super) provider_name: Option<String>,
    /// The protected cluster.
    #[schemars(required, with = "Identifier")]
    pub(super) cluster_id: Option<String>,
    /// An opaque label of the Transit mount; not its path.
    #[schemars(required, with = "Identifier")]
    pub(super) transit_mount_id: Option<String>,
    /// Names one history of key material.
    #[schemars(required, with = "Identifier")]
    pub(super) key_lineage_id: Option<String>,
}

/// The first contact with OpenBao.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct BootstrapSection {
    /// How long the first probes are repeated; 0s is one try.
    #[schemars(with = "Option<DurationText>")]
    pub(super) grace_timeout: Option<String>,
    /// Wait between two tries; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) retry_interval: Option<String>,
}

/// Probes and what Status reports.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StatusSection {
    /// Between two reads of the key's metadata; longer than 0s, shorter than statusMaxStaleness.
    #[schemars(with = "Option<DurationText>")]
    pub(super) probe_interval: Option<String>,
    /// Between two round trips through Transit; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) deep_probe_interval: Option<String>,
    /// Status is unhealthy when the last good probe is older; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) status_max_staleness: Option<String>,
}

/// The registry of key versions.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct StateSection {
    /// The state file; checkpoint and lock lie beside it.
    #[schemars(with = "Option<AbsolutePath>")]
    pub(super) path: Option<String>,
}

/// How a rotation of the Transit key is followed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RotationSection {
    /// The provider follows rotations and never makes one.
    #[schemars(with = "Option<RotationMode>")]
    pub(super) mode: Option<String>,
    /// A new version is used this long after it was stable; longer than 0s.
    #[schemars(with = "Option<DurationText>")]
    pub(super) activation_delay: Option<String>,
    /// Probes that must agree before a new version is stable.
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub(super) require_stable_observation_count: Option<i64>,
    /// Refuse a key whose latest version went back.
    pub(super) reject_version_rollback: Option<bool>,
}

/// Logs on standard error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoggingSection {
    /// The least level that is written.
    #[schemars(with = "Option<LogLevel>")]
    pub(super) level: Option<String>,
    /// One JSON object a line, or text for people.
    #[schemars(with = "Option<LogFormat>")]
    pub(super) format: Option<String>,
    /// Whether debug correlation may log OpenBao's request IDs.
    #[serde(rename = "logOpenBaoRequestIDs")]
    pub(super) log_openbao_request_ids: Option<bool>,
    pub(super) debug_correlation: Option<DebugCorrelationSection>,
}

/// Identifiers in the log that connect a call here with one in OpenBao's audit log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("if" = {"properties": {"enabled": {"const": true}}, "required": ["enabled"]},
    "then" = {"required": ["incidentId"], "properties": {"incidentId": {"minLength": 1}}}))]
pub(super) struct DebugCorrelationSection {
    /// Needs level debug and logOpenBaoRequestIDs.
    pub(super) enabled: Option<bool>,
    /// Ends by itself after this time; when enabled longer than 0s, at most 1h.
    #[schemars(with = "Option<DurationText>")]
    pub(super) ttl: Option<String>,
    /// The incident it is for; needed when enabled, at most 64 bytes.
    #[schemars(with = "Option<OptionalIdentifier>")]
    pub(super) incident_id: Option<String>,
}

/// What the running provider gives up; core dumps, tracing and new privileges always.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HardeningSection {
    /// Access to files and ports that the configuration does not call for, by Landlock.
    #[schemars(with = "Option<Enforcement>")]
    pub(super) landlock: Option<String>,
    /// Swapping its memory out; needs an unlimited LimitMEMLOCK.
    #[schemars(with = "Option<Enforcement>")]
    pub(super) lock_memory: Option<String>,
}

/// Text types that exist in the schema alone. JSON Schema cannot say all of a rule, so a pattern
/// may allow more than the loader, and never less.
macro_rules! text_schema {
    ($($name:ident: $pattern:literal,)+) => {
        $(
            struct $name;

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": "string", "pattern": $pattern })
                }
            }
        )+
    };
}

text_schema! {
    RequiredText: r"\S",
    AbsolutePath: "^/",
    HttpsUrl: "^[Hh][Tt][Tt][Pp][Ss]://[^/?#@]+([/?]|$)",
    Identifier: r"^\S([^\u0000\t\r\n]*\S)?$",
    KmsName: r"^[^\s:]([^:\u0000\t\r\n]*[^\s:])?$",
    OptionalIdentifier: r"^(\S([^\u0000\t\r\n]*\S)?)?$",
    NamespaceText: r"^([^/%\u0000\t\r\n]+(/[^/%\u0000\t\r\n]+)*)?$",
    MountPathText: r"^[^/\s%?#\\]+(/[^/\s%?#\\]+)*$",
    NameText: r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$",
    Scope: r"^[\u0021\u0023-\u005b\u005d-\u007e]+$",
    Listener: r"^$|^([^:\[\]]*|\[[^\[\]]+\]):[0-9]+$",
    DurationText: r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)$",
}
