//! The configuration: one YAML file, a few replaceable settings, one checked [`Config`].
//!
//! `settings` declares every setting once. [`load`] returns either a configuration with the type
//! of every value and the rules between values checked, or all problems at once. It reads the
//! configuration file alone; [`crate::node_files`] examines the files named in it. A change needs a
//! restart.

mod build;
mod choice;
mod document;
pub mod migrate;
mod origin;
mod problem;
mod resolve;
mod rules;
mod schema;
mod setting;
mod settings;
mod values;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use kms_domain::{
    fingerprint::IdentityFingerprint,
    scope::{MountPath, Namespace},
};
use resolve::Resolver;

use crate::state::StateReader;

pub use crate::{environment::Environment, group::GroupProblem};
pub use choice::{Enforcement, LogFormat, LogLevel};
pub use origin::{DEFAULT_CONFIG_PATH, Flags, Origin, Substitute, packaged_unit};
pub use problem::{Problem, ProblemKind};
pub use resolve::Setting;
pub use schema::{Accepted, Described, accepted, described, reference_rows, schema};
pub use settings::{
    AppRole, Auth, Bootstrap, Cert, CertFiles, CertSource, ClientCredential, Config,
    DebugCorrelation, Hardening, Jwt, JwtSource, Legacy, Limits, Logging, Method, OAuth2, OpenBao,
    Pkcs11, Rotation, Server, Spiffe, Status, TokenFile, Userpass, VaultKubernetesKms,
};
pub use values::{Listener, SocketGroup, SocketMode};

/// Far above any real configuration.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// A configuration with the origin of its values.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub path: PathBuf,
    /// Every setting in effect, in the order of the documentation.
    pub settings: Vec<Setting>,
    /// Allowed values, probably mistakes.
    pub warnings: Vec<Problem>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the configuration file {} is not one YAML document: {reason}", path.display())]
    Malformed {
        path: PathBuf,
        /// With line and column, without content.
        reason: String,
    },
    #[error("the configuration file {} is invalid; problems: {}", path.display(), problems.len())]
    Invalid {
        path: PathBuf,
        /// At least one, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// A login method outside this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{setting} is {value}, which this build lacks; \
     set auth.method: jwt and auth.jwt.source: file, or use another build"
)]
pub struct UnsupportedAuth {
    setting: &'static str,
    value: &'static str,
}

impl UnsupportedAuth {
    pub(crate) const PKCS11: Self = Self {
        setting: "auth.cert.source",
        value: "pkcs11",
    };
}

/// Reads and checks the configuration named by flags and environment.
///
/// # Errors
/// [`LoadError`]; `Invalid` holds every problem.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, LoadError> {
    let path = flags.config_path(environment);
    let text = read_text(&path)?;
    parse(&text, path, flags, environment)
}

fn read_text(path: &Path) -> Result<String, LoadError> {
    let path = path.to_owned();
    match read(&path) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => {
            let reason = format!("it is larger than {MAX_FILE_BYTES} bytes");
            Err(LoadError::Malformed { path, reason })
        }
        Err(source) => Err(LoadError::Unreadable { path, source }),
    }
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
    let document = match document::parse(text, &schema()) {
        Ok(document) => document,
        Err(reason) => return Err(LoadError::Malformed { path, reason }),
    };
    let mut resolver = Resolver::new(document, flags, environment);
    let config = build::config(&mut resolver);
    match (config, resolver.finish()) {
        (Some(config), Ok((settings, warnings))) => Ok(Loaded {
            config,
            path,
            settings,
            warnings,
        }),
        (_, finished) => {
            let problems = finished.err().unwrap_or_default();
            Err(LoadError::Invalid { path, problems })
        }
    }
}

impl Config {
    /// Stands for scope and key path; the state file is bound to it.
    #[must_use]
    pub fn fingerprint(&self) -> IdentityFingerprint {
        IdentityFingerprint::of(&self.scope, &self.key)
    }

    /// Namespace of the requests to OpenBao.
    #[must_use]
    pub fn request_namespace(&self) -> Option<&Namespace> {
        let substitute = self.openbao.substitute.namespace.as_ref();
        substitute.or(self.scope.openbao_namespace.as_ref())
    }

    /// Read access to the state of this node.
    #[must_use]
    pub fn state(&self) -> StateReader {
        let (path, scope) = (self.state_path.clone(), self.scope.clone());
        StateReader::new(path, scope, self.key.clone())
    }
}

impl Auth {
    /// Checks that this build has the login methods.
    ///
    /// # Errors
    /// [`UnsupportedAuth`] names the setting.
    pub fn supported(&self) -> Result<(), UnsupportedAuth> {
        self.methods().try_for_each(Method::supported)
    }

    /// The configured method, then that of the standby identity.
    pub fn methods(&self) -> impl Iterator<Item = &Method> {
        [&self.method].into_iter().chain(&self.fallback)
    }

    /// Mount of the auth method in OpenBao; `None` for a token, which needs no login.
    #[must_use]
    pub fn mount_path(&self) -> Option<&MountPath> {
        match &self.method {
            Method::Jwt(jwt) => Some(&jwt.mount_path),
            Method::Cert(cert) => Some(&cert.mount_path),
            Method::AppRole(approle) => Some(&approle.mount_path),
            Method::Userpass(userpass) => Some(&userpass.mount_path),
            Method::Token(_) => None,
        }
    }

    /// Path of the login requests; `None` for a token.
    #[must_use]
    pub fn login_path(&self) -> Option<String> {
        let mount_path = self.mount_path()?;
        Some(match &self.method {
            Method::Userpass(userpass) => format!("{mount_path}/login/{}", userpass.username),
            _ => format!("{mount_path}/login"),
        })
    }

    /// Path in OpenBao of the role or user with the token settings, if the configuration names it.
    #[must_use]
    pub fn role_path(&self) -> Option<String> {
        let mount_path = self.mount_path()?;
        Some(match &self.method {
            Method::Jwt(jwt) => format!("{mount_path}/role/{}", jwt.role),
            Method::Cert(cert) => format!("{mount_path}/certs/{}", cert.role.as_ref()?),
            Method::Userpass(userpass) => format!("{mount_path}/users/{}", userpass.username),
            Method::AppRole(_) | Method::Token(_) => return None,
        })
    }

    /// Role below `role/` of the mount, if the configuration has its name.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        match &self.method {
            Method::Jwt(jwt) => Some(jwt.role.as_str()),
            Method::Cert(_) | Method::AppRole(_) | Method::Userpass(_) | Method::Token(_) => None,
        }
    }

    /// Required `sub` claim of the JWT, if the configuration names it.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        match &self.method {
            Method::Jwt(jwt) => jwt.claims.expected_subject.as_deref(),
            Method::Cert(_) | Method::AppRole(_) | Method::Userpass(_) | Method::Token(_) => None,
        }
    }

    /// Tolerated difference between the clocks of the credential's issuer and this node; `None` for
    /// a credential without dates.
    #[must_use]
    pub fn clock_skew_leeway(&self) -> Option<Duration> {
        match &self.method {
            Method::Jwt(jwt) => Some(jwt.claims.clock_skew_leeway),
            Method::Cert(cert) => Some(cert.clock_skew_leeway),
            Method::AppRole(_) | Method::Userpass(_) | Method::Token(_) => None,
        }
    }

    /// Files that a running provider reads again for each login, each with its setting. The first
    /// belongs to `auth.method`.
    #[must_use]
    pub fn credential_files(&self) -> Vec<(&'static str, &Path)> {
        self.methods().flat_map(Method::files).collect()
    }
}

impl Method {
    /// The word of `auth.method`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Jwt(_) => "jwt",
            Self::Cert(_) => "cert",
            Self::AppRole(_) => "approle",
            Self::Userpass(_) => "userpass",
            Self::Token(_) => "token",
        }
    }

    /// The token, for a login that uses one.
    #[must_use]
    pub fn pkcs11(&self) -> Option<&Pkcs11> {
        match self {
            Self::Cert(cert) => match &cert.source {
                CertSource::Pkcs11(token) => Some(token),
                CertSource::File(_) => None,
            },
            _ => None,
        }
    }

    /// Socket of the SPIFFE Workload API, for a login that uses one.
    #[must_use]
    pub fn workload_api_socket(&self) -> Option<&Path> {
        match self {
            Self::Jwt(jwt) => match &jwt.source {
                JwtSource::Spiffe(spiffe) => Some(&spiffe.workload_api_socket),
                JwtSource::File(_) | JwtSource::OAuth2(_) => None,
            },
            _ => None,
        }
    }

    fn supported(&self) -> Result<(), UnsupportedAuth> {
        match self {
            Self::Cert(cert) => match &cert.source {
                CertSource::Pkcs11(_) if !pkcs11_signer::IS_BUILT => Err(UnsupportedAuth::PKCS11),
                CertSource::Pkcs11(_) | CertSource::File(_) => Ok(()),
            },
            Self::Jwt(_) | Self::AppRole(_) | Self::Userpass(_) | Self::Token(_) => Ok(()),
        }
    }

    fn files(&self) -> Vec<(&'static str, &Path)> {
        match self {
            Self::Jwt(jwt) => match &jwt.source {
                JwtSource::File(path) => vec![("auth.jwt.jwtFile", path)],
                JwtSource::OAuth2(oauth2) => {
                    let ca_file = oauth2.ca_cert_file.iter();
                    let ca_file = ca_file.map(|path| ("auth.jwt.oauth2.caCertFile", &**path));
                    [oauth2.credential.file()]
                        .into_iter()
                        .chain(ca_file)
                        .collect()
                }
                // The agent knows the process by its socket.
                JwtSource::Spiffe(_) => Vec::new(),
            },
            Self::Cert(cert) => match &cert.source {
                CertSource::File(files) => vec![
                    ("auth.cert.certificateFile", &*files.certificate),
                    ("auth.cert.keyFile", &*files.key),
                ],
                CertSource::Pkcs11(token) => vec![
                    ("auth.cert.pkcs11.certificateFile", &*token.certificate_file),
                    ("auth.cert.pkcs11.pinFile", &*token.pin_file),
                ],
            },
            Self::AppRole(approle) => {
                vec![("auth.approle.secretIdFile", &approle.secret_id_file)]
            }
            Self::Userpass(userpass) => {
                vec![("auth.userpass.passwordFile", &userpass.password_file)]
            }
            Self::Token(token) => vec![("auth.token.file", &token.file)],
        }
    }
}

impl ClientCredential {
    /// The file with the secret or the key, with its setting.
    #[must_use]
    pub fn file(&self) -> (&'static str, &Path) {
        match self {
            Self::Secret { file, .. } => ("auth.jwt.oauth2.clientSecretFile", file),
            Self::PrivateKey { file, .. } => ("auth.jwt.oauth2.privateKeyFile", file),
        }
    }
}

/// `None` when the file is too large.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    let fits = u64::try_from(text.len()).is_ok_and(|length| length <= MAX_FILE_BYTES);
    Ok(fits.then_some(text))
}
