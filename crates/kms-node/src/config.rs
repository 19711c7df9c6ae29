//! The configuration: one YAML file, a few replaceable settings, one checked [`Config`].
//!
//! `settings` declares every setting once. [`load`] returns either a configuration with the type
//! of every value and the rules between values checked, or all problems at once. It reads the
//! configuration file alone; [`crate::node_files`] examines the files named in it. A change needs a
//! restart.

mod build;
mod choice;
mod document;
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
pub use choice::{ClientAuthMethod, Enforcement, LogFormat, LogLevel};
pub use origin::{DEFAULT_CONFIG_PATH, Flags, Origin, Substitute};
pub use problem::{Problem, ProblemKind};
pub use resolve::Setting;
pub use schema::{Described, described, reference_rows, schema};
pub use settings::{
    Auth, Bootstrap, Cert, Config, DebugCorrelation, Hardening, Jwt, JwtSource, Limits, Logging,
    Method, OAuth2, OpenBao, Pkcs11, Rotation, Server, Status,
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
    "{setting} is {value}, but this build logs in with a token file only; \
     set auth.method: jwt and auth.jwt.source: file"
)]
pub struct UnsupportedAuth {
    setting: &'static str,
    value: &'static str,
}

impl UnsupportedAuth {
    pub(crate) const CERT: Self = Self {
        setting: "auth.method",
        value: "cert",
    };
    pub(crate) const OAUTH2: Self = Self {
        setting: "auth.jwt.source",
        value: "oauth2",
    };
}

/// Reads and checks the configuration named by flags and environment.
///
/// # Errors
/// [`LoadError`]; `Invalid` holds every problem.
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
    /// Checks that this build has the login method.
    ///
    /// # Errors
    /// [`UnsupportedAuth`] names the setting.
    pub fn supported(&self) -> Result<(), UnsupportedAuth> {
        match &self.method {
            Method::Cert(_) => Err(UnsupportedAuth::CERT),
            Method::Jwt(jwt) => match &jwt.source {
                JwtSource::OAuth2(_) => Err(UnsupportedAuth::OAUTH2),
                JwtSource::File(_) => Ok(()),
            },
        }
    }

    /// Mount of the auth method in OpenBao.
    #[must_use]
    pub fn mount_path(&self) -> &MountPath {
        match &self.method {
            Method::Jwt(jwt) => &jwt.mount_path,
            Method::Cert(cert) => &cert.mount_path,
        }
    }

    /// Role of the login, if one is configured.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        match &self.method {
            Method::Jwt(jwt) => Some(jwt.role.as_str()),
            Method::Cert(cert) => cert.role.as_deref(),
        }
    }

    /// Tolerated difference between the clocks of the credential's issuer and this node.
    #[must_use]
    pub fn clock_skew_leeway(&self) -> Duration {
        match &self.method {
            Method::Jwt(jwt) => jwt.claims.clock_skew_leeway,
            Method::Cert(cert) => cert.clock_skew_leeway,
        }
    }

    /// Files that a running provider reads again for each login, each with its setting.
    #[must_use]
    pub fn credential_files(&self) -> Vec<(&'static str, &Path)> {
        match &self.method {
            Method::Jwt(jwt) => match &jwt.source {
                JwtSource::File(path) => vec![("auth.jwt.jwtFile", path)],
                JwtSource::OAuth2(oauth2) => vec![(
                    "auth.jwt.oauth2.clientSecretFile",
                    &oauth2.client_secret_file,
                )],
            },
            Method::Cert(cert) => vec![(
                "auth.cert.pkcs11.certificateFile",
                &cert.token.certificate_file,
            )],
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
