//! Connections to OpenBao from a configuration: the endpoint, the login, and [`ask`] for
//! short-lived commands.

mod given;

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use kms_domain::transit::KeyMetadata;
use openbao_client::{
    addresses::Role,
    client::{Client, ClientOptions, ClientProblem},
    endpoint::{Endpoint, Roots, RootsProblem},
    login::{Grant, Login, jwt::JwtRole, jwt_file::JwtFile},
    transit::Transit,
};
use tokio::{runtime, task::JoinSet};

use crate::{
    auth::{AuthEvent, AuthHook, CallFailure, Session, SessionSettings, SessionTask},
    clock::{Clock, SystemClock},
    config::{Config, JwtSource, Method, UnsupportedAuth},
    token_file::TokenFileError,
};

/// OpenBao as used by a one-shot command; the first request logs in.
pub struct Connection {
    pub client: Client,
    pub session: Session,
    pub transit: Transit,
    #[expect(dead_code, reason = "the session's task runs until this is dropped")]
    tasks: JoinSet<()>,
}

/// The OpenBao to use, with its credentials.
pub enum Access {
    /// The OpenBao and login of the configuration.
    Configured,
    /// Another OpenBao with the same mount and key, and a token from another login.
    Token {
        endpoint: Endpoint,
        /// The token and its lease.
        grant: Grant,
    },
}

/// Why there is no connection. No request was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The CA bundle is without a usable certificate.
    #[error("openbao.caCertFile {} holds no usable certificate", path.display())]
    CaBundle {
        path: PathBuf,
        /// The violated rule.
        #[source]
        problem: RootsProblem,
    },
    #[error("cannot read openbao.caCertFile {}", path.display())]
    CaFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The settings of the endpoint are invalid for a client.
    #[error("cannot set up the connection to OpenBao")]
    Client(#[from] ClientProblem),
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    #[error(transparent)]
    UnsupportedAuth(#[from] UnsupportedAuth),
    /// The runtime could not be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// The endpoint of OpenBao. Reads the CA bundle, so it may block.
///
/// # Errors
/// [`ConnectionError::CaFile`] or [`ConnectionError::CaBundle`].
pub fn endpoint(config: &Config) -> Result<Endpoint, ConnectionError> {
    let path = &config.openbao.ca_cert_file;
    let pem = fs::read(path).map_err(|source| ConnectionError::CaFile {
        path: path.clone(),
        source,
    })?;
    let roots = Roots::from_pem(&pem).map_err(|problem| ConnectionError::CaBundle {
        path: path.clone(),
        problem,
    })?;
    Ok(Endpoint {
        address: config.openbao.address.clone(),
        server_name: config.openbao.server_name.clone(),
        roots,
        namespace: config.request_namespace().cloned(),
    })
}

/// The failover addresses of the cluster, with log lines about their roles.
#[must_use]
pub fn failover(config: &Config) -> ClientOptions {
    ClientOptions {
        failover: config.openbao.failover.clone(),
        address_hook: Arc::new(|address, role| match role {
            Role::WrongCluster => {
                let address = tracing::field::display(address);
                tracing::warn!(address, "openbao.wrong_cluster");
            }
            _ => {
                let address = tracing::field::display(address);
                tracing::info!(address, "openbao.active");
            }
        }),
        ..ClientOptions::default()
    }
}

/// The login of the configuration, shared by all readers of its credential.
///
/// # Errors
/// This build does not support the configured login.
pub fn login(config: &Config, client: Client) -> Result<Arc<dyn Login>, ConnectionError> {
    match &config.auth.method {
        Method::Jwt(jwt) => {
            let role = JwtRole {
                client,
                mount_path: jwt.mount_path.clone(),
                role: jwt.role.clone(),
            };
            match &jwt.source {
                JwtSource::File(path) => {
                    let login = JwtFile::new(role, path.clone(), jwt.claims.clone());
                    Ok(Arc::new(login))
                }
                JwtSource::OAuth2(_) => Err(UnsupportedAuth::OAUTH2.into()),
            }
        }
        Method::Cert(_) => Err(UnsupportedAuth::CERT.into()),
    }
}

/// Creates a session and its task. The task must run for the session to get a token.
#[must_use]
pub fn session(
    config: &Config,
    login: Arc<dyn Login>,
    clock: Arc<dyn Clock>,
    hook: AuthHook,
) -> (Session, SessionTask) {
    let settings = SessionSettings {
        login_before_token_expiry: config.auth.login_before_token_expiry,
        token_renewal_increment: config.auth.token_renewal_increment,
        login_timeout: config.auth.login_timeout,
    };
    Session::new(settings, login, clock, hook)
}

/// Runs `questions` on a connection to the configured OpenBao, and waits for them.
///
/// # Errors
/// [`ConnectionError`], before the first request.
pub fn ask<T>(
    config: &Config,
    questions: impl AsyncFnOnce(&Connection) -> T,
) -> Result<T, ConnectionError> {
    ask_as(config, Access::Configured, questions)
}

/// Reads the key's metadata without validating it.
///
/// # Errors
/// [`ConnectionError`], before the first request; the inner result has [`CallFailure`].
pub fn ask_for_key(config: &Config) -> Result<Result<KeyMetadata, CallFailure>, ConnectionError> {
    ask(config, async |openbao| openbao.key_metadata().await)
}

/// Like [`ask`], with the OpenBao and the token of `access`.
///
/// # Errors
/// [`ConnectionError`], before the first request.
pub fn ask_as<T>(
    config: &Config,
    access: Access,
    questions: impl AsyncFnOnce(&Connection) -> T,
) -> Result<T, ConnectionError> {
    let access = match access {
        Access::Configured => (endpoint(config)?, None),
        Access::Token { endpoint, grant } => (endpoint, Some(grant)),
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ConnectionError::Runtime)?;
    let answered = runtime.block_on(async {
        let connection = match access {
            (endpoint, None) => Connection::new(config, endpoint)?,
            (endpoint, Some(grant)) => Connection::given(config, endpoint, grant)?,
        };
        Ok(questions(&connection).await)
    });
    // A hanging name lookup must not delay the return.
    runtime.shutdown_background();
    answered
}

impl Connection {
    /// Creates a connection without sending a request. It belongs to the current runtime.
    ///
    /// # Errors
    /// Invalid settings for a client, an unsupported login, or an unusable token file.
    pub fn new(config: &Config, endpoint: Endpoint) -> Result<Self, ConnectionError> {
        if let Some(file) = &config.openbao.substitute.token_file {
            return Self::given(config, endpoint, given::grant(file.token()?));
        }
        let client = Client::new(endpoint, Arc::new(|_| {}))?;
        let hook = Arc::new(|_: &AuthEvent<'_>| {});
        let login = login(config, client.clone())?;
        let (session, task) = session(config, login, Arc::new(SystemClock), hook);
        Ok(Self::with(config, client, session, task))
    }

    fn given(config: &Config, endpoint: Endpoint, grant: Grant) -> Result<Self, ConnectionError> {
        let client = Client::new(endpoint, Arc::new(|_| {}))?;
        let settings = SessionSettings {
            login_before_token_expiry: Duration::ZERO,
            token_renewal_increment: grant.lease.duration,
            login_timeout: config.auth.login_timeout,
        };
        let login = Arc::new(given::GivenToken::new(client.clone(), grant));
        let hook = Arc::new(|_: &AuthEvent<'_>| {});
        let (session, task) = Session::new(settings, login, Arc::new(SystemClock), hook);
        Ok(Self::with(config, client, session, task))
    }

    fn with(config: &Config, client: Client, session: Session, task: SessionTask) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run());
        Self {
            client: client.clone(),
            session,
            transit: Transit::new(client, &config.key, config.openbao.timeout),
            tasks,
        }
    }

    /// Reads the key's metadata without validating it.
    ///
    /// # Errors
    /// [`CallFailure`].
    pub async fn key_metadata(&self) -> Result<KeyMetadata, CallFailure> {
        let transit = &self.transit;
        self.session
            .call(async |token| transit.key_metadata(&token).await)
            .await
    }
}
