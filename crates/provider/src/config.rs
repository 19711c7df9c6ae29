//! The configuration: one YAML file, a few replaceable settings, one checked [`Config`].
//!
//! [`load`] either returns a configuration in which every value has its type and every rule
//! between values holds, or all problems at once. It touches no file but the one it reads;
//! [`files::check`] looks at the files that a configuration names. Nothing here is reloaded.

mod build;
mod choice;
mod defaults;
mod document;
mod duration;
mod file;
pub mod files;
mod group;
mod origin;
mod problem;
mod resolve;
mod schema;
mod values;

use std::{
    fs::File,
    io::{self, Read},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use kms_domain::{
    fingerprint::IdentityFingerprint,
    scope::{IdentityScope, KeyName, MountPath, TransitKeyPath},
};
use openbao_client::{
    endpoint::{Address, Failover, ServerName},
    login::jwt::ClaimRules,
};

use crate::state::{StatePath, StateReader};

pub use choice::{ClientAuthMethod, Enforcement, LogFormat, LogLevel, NoSuchChoice};
pub use group::GroupProblem;
pub use origin::{DEFAULT_CONFIG_PATH, Environment, Flags, Origin};
pub use problem::{Problem, ProblemKind};
pub use resolve::Setting;
pub(crate) use schema::refuse_null;
pub use schema::schema;

/// Far above any real configuration.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Socket and listeners.
    pub server: Server,
    /// Where OpenBao is; its namespace is in `scope`.
    pub openbao: OpenBao,
    /// How to log in.
    pub auth: Auth,
    /// The names that enter every key ID.
    pub scope: IdentityScope,
    /// Where the Transit key is.
    pub key: TransitKeyPath,
    /// The first contact.
    pub bootstrap: Bootstrap,
    /// Probes.
    pub status: Status,
    /// The state file.
    pub state_path: StatePath,
    /// How rotations are followed.
    pub rotation: Rotation,
    /// Logs.
    pub logging: Logging,
    /// What the running provider gives up.
    pub hardening: Hardening,
}

/// The socket for the API server, and the two HTTP listeners.
#[derive(Debug, Clone)]
pub struct Server {
    /// Absolute, below an approved directory, short enough to bind.
    pub socket_path: PathBuf,
    /// Permission bits of the socket.
    pub socket_mode: SocketMode,
    /// Group of the socket.
    pub socket_group: SocketGroup,
    /// `None` is disabled.
    pub metrics: Option<Listener>,
    /// `None` is disabled.
    pub health: Option<Listener>,
    /// Calls at the same time.
    pub limits: Limits,
}

/// Permission bits without access for others and without execute bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

/// The group that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketGroup {
    /// To be found in the local group file.
    Name(String),
    /// At most `i32::MAX`.
    Id(u32),
}

/// A TCP address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    host: String,
    port: u16,
}

/// Calls at the same time, each 1 to 1024. One more fails at once; there is no queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of Status.
    pub status: usize,
    /// Of Encrypt.
    pub encrypt: usize,
    /// Of Decrypt.
    pub decrypt: usize,
}

/// Where OpenBao is and how it proves to be itself.
#[derive(Debug, Clone)]
pub struct OpenBao {
    /// The https address.
    pub address: Address,
    /// Further addresses of the same cluster, for `serve`.
    pub failover: Vec<Failover>,
    /// PEM file with the only trusted roots; absolute.
    pub ca_cert_file: PathBuf,
    /// Asked for and required in the handshake.
    pub server_name: ServerName,
    /// Deadline of one OpenBao request and of one KMS call; longer than zero.
    pub timeout: Duration,
}

/// How to log in.
#[derive(Debug, Clone)]
pub struct Auth {
    /// The credential.
    pub method: Method,
    /// A token is renewed or replaced this long before it ends.
    pub login_before_token_expiry: Duration,
    /// Asked for at a renewal; longer than `login_before_token_expiry`.
    pub token_renewal_increment: Duration,
    /// Bounds one login or renewal; the configured value, or the longer of `openbao.timeout`
    /// and 5 seconds.
    pub login_timeout: Duration,
}

/// The credential and where it comes from.
#[derive(Debug, Clone)]
pub enum Method {
    /// A JSON Web Token.
    Jwt(Jwt),
    /// A client certificate with its key on a PKCS#11 token.
    Cert(Cert),
}

/// Login with a JSON Web Token.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// `auth/` included.
    pub mount_path: MountPath,
    /// The role to log in with.
    pub role: KeyName,
    /// What the claims must say before a token is sent.
    pub claims: ClaimRules,
    /// Where tokens come from.
    pub source: JwtSource,
}

/// Where tokens come from.
#[derive(Debug, Clone)]
pub enum JwtSource {
    /// A file that somebody else keeps fresh; absolute.
    File(PathBuf),
    /// The client credentials grant.
    OAuth2(OAuth2),
}

/// The OAuth 2.0 client credentials grant.
#[derive(Debug, Clone)]
pub struct OAuth2 {
    /// An https URL, perhaps with a query.
    pub token_url: String,
    /// The client's identifier.
    pub client_id: String,
    /// Absolute.
    pub client_secret_file: PathBuf,
    /// How the client proves itself.
    pub auth_method: ClientAuthMethod,
    /// Asked for.
    pub scopes: Vec<String>,
    /// Asked for.
    pub audience: Option<String>,
    /// Absolute URIs, asked for.
    pub resources: Vec<String>,
    /// `None` trusts the system's roots.
    pub ca_cert_file: Option<PathBuf>,
}

/// Login with a client certificate.
#[derive(Debug, Clone)]
pub struct Cert {
    /// `auth/` included.
    pub mount_path: MountPath,
    /// `None` lets OpenBao try every role of the mount.
    pub role: Option<String>,
    /// Less time left is refused; longer than zero.
    pub min_remaining_ttl: Duration,
    /// Tolerated difference of clocks.
    pub clock_skew_leeway: Duration,
    /// Where key and certificate are.
    pub token: Pkcs11,
}

/// A private key on a PKCS#11 token.
#[derive(Debug, Clone)]
pub struct Pkcs11 {
    /// PEM chain; absolute.
    pub certificate_file: PathBuf,
    /// The token's library; absolute.
    pub module_path: PathBuf,
    /// Of the token.
    pub token_label: String,
    /// Of the key.
    pub key_label: String,
    /// Absolute.
    pub pin_file: PathBuf,
    /// At least 2.
    pub max_sessions: NonZeroU32,
}

/// The first contact with OpenBao.
#[derive(Debug, Clone, Copy)]
pub struct Bootstrap {
    /// How long the first probes are repeated; zero is one try.
    pub grace_timeout: Duration,
    /// Longer than zero.
    pub retry_interval: Duration,
}

/// Probes.
#[derive(Debug, Clone, Copy)]
pub struct Status {
    /// Of metadata; longer than zero and shorter than `max_staleness`.
    pub probe_interval: Duration,
    /// Of a round trip through Transit; longer than zero.
    pub deep_probe_interval: Duration,
    /// After which an unconfirmed good state counts as bad.
    pub max_staleness: Duration,
}

/// How rotations are followed.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Wait between stable and active; longer than zero.
    pub activation_delay: Duration,
    /// Probes that must agree before a version is stable.
    pub required_observations: NonZeroU32,
    /// Whether a latest version that went back is refused.
    pub reject_version_rollback: bool,
}

/// Logs.
#[derive(Debug, Clone)]
pub struct Logging {
    /// The least level written.
    pub level: LogLevel,
    /// Their form.
    pub format: LogFormat,
    /// `Some` while enabled; then the level is debug and OpenBao's request IDs may be logged.
    pub debug_correlation: Option<DebugCorrelation>,
}

/// What the running provider gives up, besides what it always does.
#[derive(Debug, Clone, Copy)]
pub struct Hardening {
    /// Files and ports that the configuration does not call for.
    pub landlock: Enforcement,
    /// Swap.
    pub lock_memory: Enforcement,
}

/// Identifiers in the log that connect a call here with one in OpenBao's audit log.
#[derive(Debug, Clone)]
pub struct DebugCorrelation {
    /// From process start; at most one hour.
    pub ttl: Duration,
    /// At most 64 bytes.
    pub incident_id: String,
}

/// A configuration with everything known about how it came to be.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What to work with.
    pub config: Config,
    /// The file.
    pub path: PathBuf,
    /// Every setting that takes effect, in the order of the documentation.
    pub settings: Vec<Setting>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Problem>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not one YAML document within the limits.
    #[error("the configuration file {} is not one YAML document: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// With line and column, without content.
        reason: String,
    },
    /// Keys or values are wrong.
    #[error("the configuration file {} is invalid; problems: {}", path.display(), problems.len())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them, at least one, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// A login that this build cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{setting} is {value}, but this build logs in with a token file only; \
     set auth.method: jwt and auth.jwt.source: file"
)]
pub struct UnsupportedAuth {
    setting: &'static str,
    value: &'static str,
}

/// Reads and checks the configuration that flags and environment name.
///
/// # Errors
/// [`LoadError`]; `Invalid` holds everything that is wrong, not only the first.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, LoadError> {
    let path = flags.config_path(environment);
    let text = match read(&path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let reason = format!("it is larger than {MAX_FILE_BYTES} bytes");
            return Err(LoadError::Malformed { path, reason });
        }
        Err(source) => return Err(LoadError::Unreadable { path, source }),
    };
    parse(&text, path, flags, environment)
}

/// Checks a configuration text; `path` is only for messages.
///
/// # Errors
/// As [`load`], without `Unreadable`.
pub fn parse(
    text: &str,
    path: PathBuf,
    flags: &Flags,
    environment: &Environment,
) -> Result<Loaded, LoadError> {
    let mut document = match document::parse(text) {
        Ok(document) => document,
        Err(reason) => return Err(LoadError::Malformed { path, reason }),
    };
    schema::check_shape(&mut document);
    match build::build(document, flags, environment) {
        Ok((config, settings, warnings)) => Ok(Loaded {
            config,
            path,
            settings,
            warnings,
        }),
        Err(problems) => Err(LoadError::Invalid { path, problems }),
    }
}

impl Config {
    /// Names scope and key path; the state file is bound to it.
    #[must_use]
    pub fn fingerprint(&self) -> IdentityFingerprint {
        IdentityFingerprint::of(&self.scope, &self.key)
    }

    /// The state of this node, to look at.
    #[must_use]
    pub fn state(&self) -> StateReader {
        let (path, scope) = (self.state_path.clone(), self.scope.clone());
        StateReader::new(path, scope, self.key.clone())
    }
}

impl Auth {
    /// The one way to log in that this build has: rules for the token, and its file.
    ///
    /// # Errors
    /// [`UnsupportedAuth`] names the setting.
    pub fn jwt_file(&self) -> Result<(&Jwt, &Path), UnsupportedAuth> {
        let unsupported = |setting, value| Err(UnsupportedAuth { setting, value });
        match &self.method {
            Method::Cert(_) => unsupported("auth.method", "cert"),
            Method::Jwt(jwt) => match &jwt.source {
                JwtSource::OAuth2(_) => unsupported("auth.jwt.source", "oauth2"),
                JwtSource::File(path) => Ok((jwt, path)),
            },
        }
    }
}

impl SocketMode {
    /// The permission bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl SocketGroup {
    /// The group's number; a name is looked up in the local group file.
    ///
    /// # Errors
    /// [`GroupProblem`] when the name is not there.
    pub fn gid(&self) -> Result<u32, GroupProblem> {
        match self {
            Self::Id(gid) => Ok(*gid),
            Self::Name(name) => group::find(Path::new(group::FILE), name),
        }
    }
}

impl Listener {
    /// The port; 0 lets the system choose.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host has to be looked up.
    #[must_use]
    pub fn has_name(&self) -> bool {
        !self.host.is_empty() && self.ip().is_none()
    }

    /// To bind: an empty host stands for every address of the node.
    #[must_use]
    pub fn bind_to(&self) -> (&str, u16) {
        let host = if self.host.is_empty() {
            "::"
        } else {
            &self.host
        };
        (host, self.port)
    }
}

/// A duration longer than zero in the grammar of the file, for a command's own flag.
///
/// # Errors
/// The broken rule, as the rest of a sentence.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    duration::parse_positive(text).map_err(|broken| broken.rule)
}

/// `None` when the file is too large.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    let fits = u64::try_from(text.len()).is_ok_and(|length| length <= MAX_FILE_BYTES);
    Ok(fits.then_some(text))
}
