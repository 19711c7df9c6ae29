//! From a configuration to OpenBao: the endpoint, the login, and [`ask`] for commands that put a
//! few questions to it and end.

mod given;
pub mod trust;

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use kms_domain::transit::KeyMetadata;
use openbao_client::{
    addresses::Role,
    client::{Client, ClientOptions, ClientProblem},
    endpoint::{Endpoint, Roots, RootsProblem},
    login::{
        Grant,
        jwt::JwtRole,
        jwt_file::{JwtFile, JwtSource},
    },
    transit::Transit,
};
use tokio::{runtime, task::JoinSet};

use crate::{
    auth::{AuthEvent, AuthHook, CallFailure, Session, SessionSettings, SessionTask},
    clock::{Clock, SystemClock},
    config::{Config, UnsupportedAuth},
};

/// OpenBao as a one-shot command sees it; the first question logs in.
pub struct Connection {
    /// Lends the token.
    pub session: Session,
    /// The key.
    pub transit: Transit,
    #[expect(dead_code, reason = "the session's task runs until this is dropped")]
    tasks: JoinSet<()>,
}

/// Which OpenBao is asked, and as whom.
pub enum Access {
    /// That of the configuration, with its login.
    Configured,
    /// Another one with the same mount and key, with a token that was got in another way.
    Given {
        /// How it is reached.
        endpoint: Endpoint,
        /// What it granted.
        grant: Grant,
    },
}

/// Why there is nothing to ask with. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The CA bundle holds no usable certificate.
    #[error("openbao.caCertFile {} holds no usable certificate", path.display())]
    CaBundle {
        /// The file.
        path: PathBuf,
        /// The broken rule.
        #[source]
        problem: RootsProblem,
    },
    /// The CA bundle could not be read.
    #[error("cannot read openbao.caCertFile {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The endpoint's settings do not make a client.
    #[error("cannot set up the connection to OpenBao")]
    Client(#[from] ClientProblem),
    /// The build has no such login.
    #[error(transparent)]
    UnsupportedAuth(#[from] UnsupportedAuth),
    /// The system has no resources to run it.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// How OpenBao is reached. Reads the CA bundle, so it may block.
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
        namespace: config.scope.openbao_namespace.clone(),
    })
}

/// The further addresses of the cluster, with log lines about them.
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

/// The JWT file, to be shared by all that read it.
///
/// # Errors
/// When this build has no such login.
pub fn jwt_source(config: &Config) -> Result<JwtSource, UnsupportedAuth> {
    let (jwt, file) = config.auth.jwt_file()?;
    Ok(JwtSource::new(file.to_owned(), jwt.claims.clone()))
}

/// A session, and the task that must run for it to get a token.
///
/// # Errors
/// When this build has no such login.
pub fn session(
    config: &Config,
    source: JwtSource,
    client: Client,
    clock: Arc<dyn Clock>,
    hook: AuthHook,
) -> Result<(Session, SessionTask), UnsupportedAuth> {
    let (jwt, _) = config.auth.jwt_file()?;
    let login = JwtFile {
        role: JwtRole {
            client,
            mount_path: jwt.mount_path.clone(),
            role: jwt.role.clone(),
        },
        source,
    };
    let settings = SessionSettings {
        login_before_token_expiry: config.auth.login_before_token_expiry,
        token_renewal_increment: config.auth.token_renewal_increment,
        login_timeout: config.auth.login_timeout,
    };
    Ok(Session::new(settings, Box::new(login), clock, hook))
}

/// Puts `questions` to OpenBao and waits for their end.
///
/// # Errors
/// [`ConnectionError`], before anything is sent.
pub fn ask<T>(
    config: &Config,
    questions: impl AsyncFnOnce(&Connection) -> T,
) -> Result<T, ConnectionError> {
    ask_as(config, Access::Configured, questions)
}

/// Asks for the key's metadata alone; nothing of it is judged yet.
///
/// # Errors
/// [`ConnectionError`], before anything is sent; within it [`CallFailure`].
pub fn ask_for_key(config: &Config) -> Result<Result<KeyMetadata, CallFailure>, ConnectionError> {
    ask(config, async |openbao| openbao.key_metadata().await)
}

/// As [`ask`], of the OpenBao that `access` names.
///
/// # Errors
/// [`ConnectionError`], before anything is sent.
pub fn ask_as<T>(
    config: &Config,
    access: Access,
    questions: impl AsyncFnOnce(&Connection) -> T,
) -> Result<T, ConnectionError> {
    let access = match access {
        Access::Configured => (endpoint(config)?, None),
        Access::Given { endpoint, grant } => (endpoint, Some(grant)),
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
    // A name lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    answered
}

impl Connection {
    /// A connection that has asked nothing yet. Belongs to the runtime that made it.
    ///
    /// # Errors
    /// When the settings make no client, or the build has no such login.
    pub fn new(config: &Config, endpoint: Endpoint) -> Result<Self, ConnectionError> {
        let client = Client::new(endpoint, Arc::new(|_| {}))?;
        let hook = Arc::new(|_: &AuthEvent<'_>| {});
        let source = jwt_source(config)?;
        let clock = Arc::new(SystemClock);
        let (session, task) = session(config, source, client.clone(), clock, hook)?;
        Ok(Self::with(config, client, session, task))
    }

    fn given(config: &Config, endpoint: Endpoint, grant: Grant) -> Result<Self, ConnectionError> {
        let client = Client::new(endpoint, Arc::new(|_| {}))?;
        let settings = SessionSettings {
            login_before_token_expiry: Duration::ZERO,
            token_renewal_increment: grant.lease.duration,
            login_timeout: config.auth.login_timeout,
        };
        let login = Box::new(given::Given::new(client.clone(), grant));
        let hook = Arc::new(|_: &AuthEvent<'_>| {});
        let (session, task) = Session::new(settings, login, Arc::new(SystemClock), hook);
        Ok(Self::with(config, client, session, task))
    }

    fn with(config: &Config, client: Client, session: Session, task: SessionTask) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run());
        Self {
            session,
            transit: Transit::new(client, &config.key, config.openbao.timeout),
            tasks,
        }
    }

    /// What OpenBao tells of the key; nothing of it is judged yet.
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
