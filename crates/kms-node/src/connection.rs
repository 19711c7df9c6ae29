//! Connections to OpenBao from a configuration: the endpoint, the login, and [`ask`] for
//! short-lived commands.

mod given;

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use kms_domain::transit::KeyMetadata;
use openbao_client::{
    addresses::Role,
    client::{Client, ClientOptions, ClientProblem},
    endpoint::{Endpoint, Roots, RootsProblem},
    login::{
        Grant, Login,
        approle::{AppRole, Wrapping},
        cert::CertRole,
        cert_file::CertFile,
        certificate::CertificateRules,
        fallback::{FallbackEvent, WithFallback},
        jwt::{ClaimRules, JwtRole},
        jwt_file::JwtFile,
        oauth2::{ClientAuthentication, ClientSecret, OAuth2Login, PrivateKeyJwt, TokenRequest},
        pkcs11::Pkcs11,
        secret_file::SecretFile,
        spiffe::SpiffeLogin,
        token_file::TokenFile,
        userpass::Userpass,
    },
    transit::Transit,
};
use pkcs11_signer::TokenKey;
use tokio::{runtime, task::JoinSet};

use crate::{
    auth::{AuthEvent, AuthHook, CallFailure, Session, SessionSettings, SessionTask},
    clock::{Clock, SystemClock},
    config::{
        Auth, CertSource, ClientCredential, Config, JwtSource, Method, OAuth2, UnsupportedAuth,
    },
    pkcs11_helper,
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

/// The process that logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The provider. It alone may unwrap a wrapped secret ID, which works once.
    Provider,
    /// Any other command.
    Command,
}

/// The login of the configuration, with its standby identity, shared by all readers of its
/// credential.
///
/// # Errors
/// This build does not support the configured login.
pub fn login(
    config: &Config,
    client: Client,
    process: Process,
) -> Result<Arc<dyn Login>, ConnectionError> {
    let auth = &config.auth;
    let configured = login_by(&auth.method, auth, client.clone(), process)?;
    let Some(fallback) = &auth.fallback else {
        return Ok(configured);
    };
    let fallback = login_by(fallback, auth, client, process)?;
    let hook = Arc::new(log_fallback);
    Ok(Arc::new(WithFallback::new(configured, fallback, hook)))
}

/// The configured login of a command, without its standby identity.
///
/// # Errors
/// As [`login`].
pub fn configured_login(
    config: &Config,
    client: Client,
) -> Result<Arc<dyn Login>, ConnectionError> {
    login_by(&config.auth.method, &config.auth, client, Process::Command)
}

/// The login of a command by the standby identity alone; `None` without one.
#[must_use]
pub fn fallback_login(
    config: &Config,
    client: Client,
) -> Option<Result<Arc<dyn Login>, ConnectionError>> {
    let fallback = config.auth.fallback.as_ref()?;
    Some(login_by(fallback, &config.auth, client, Process::Command))
}

fn log_fallback(event: &FallbackEvent<'_>) {
    match event {
        FallbackEvent::Started(cause) => {
            let cause = cause.detail();
            tracing::warn!(cause, "auth.fallback_started");
        }
        FallbackEvent::Failed(failure) => {
            let cause = failure.detail();
            tracing::error!(cause, "auth.fallback_failed");
        }
        FallbackEvent::Ended => tracing::info!("auth.fallback_ended"),
    }
}

fn login_by(
    method: &Method,
    auth: &Auth,
    client: Client,
    process: Process,
) -> Result<Arc<dyn Login>, ConnectionError> {
    match method {
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
                JwtSource::OAuth2(oauth2) => {
                    Ok(Arc::new(self::oauth2(role, oauth2, jwt.claims.clone())))
                }
                JwtSource::Spiffe(spiffe) => {
                    let socket = spiffe.workload_api_socket.clone();
                    Ok(Arc::new(SpiffeLogin::new(role, socket, jwt.claims.clone())))
                }
            }
        }
        Method::Cert(cert) => {
            let role = CertRole {
                client,
                mount_path: cert.mount_path.clone(),
                role: cert.role.clone(),
            };
            let rules = CertificateRules {
                clock_skew_leeway: cert.clock_skew_leeway,
                min_remaining: cert.min_remaining_ttl,
            };
            match &cert.source {
                CertSource::File(files) => {
                    let (certificate, key) = (files.certificate.clone(), files.key.clone());
                    Ok(Arc::new(CertFile::new(role, certificate, key, rules)))
                }
                CertSource::Pkcs11(_) if !pkcs11_signer::IS_BUILT => {
                    Err(UnsupportedAuth::PKCS11.into())
                }
                CertSource::Pkcs11(token) => {
                    let key = TokenKey {
                        module: token.module_path.clone(),
                        token: token.token_label.clone(),
                        key: token.key_label.clone(),
                    };
                    let (chain, pin) = (token.certificate_file.clone(), token.pin_file.clone());
                    let helper = pkcs11_helper::helper;
                    Ok(Arc::new(Pkcs11::new(role, key, chain, pin, rules, helper)))
                }
            }
        }
        Method::AppRole(approle) => {
            let wrapping = match (approle.wrapped, process) {
                (false, _) => Wrapping::Plain,
                (true, Process::Provider) => Wrapping::Unwrap,
                (true, Process::Command) => Wrapping::Reserved,
            };
            Ok(Arc::new(AppRole::new(
                client,
                approle.mount_path.clone(),
                approle.role_id.clone(),
                SecretFile::new(approle.secret_id_file.clone()),
                wrapping,
            )))
        }
        Method::Userpass(userpass) => Ok(Arc::new(Userpass {
            client,
            mount_path: userpass.mount_path.clone(),
            username: userpass.username.to_string(),
            password: SecretFile::new(userpass.password_file.clone()),
        })),
        Method::Token(token) => Ok(Arc::new(TokenFile::new(
            client,
            SecretFile::new(token.file.clone()),
            auth.login_before_token_expiry,
            auth.token_renewal_increment,
        ))),
    }
}

fn oauth2(role: JwtRole, oauth2: &OAuth2, rules: ClaimRules) -> OAuth2Login {
    let authentication = match oauth2.credential.clone() {
        ClientCredential::Secret { file, place } => {
            ClientAuthentication::Secret(ClientSecret::new(file, place))
        }
        ClientCredential::PrivateKey {
            file,
            key_id,
            audience,
            rsa,
        } => ClientAuthentication::PrivateKey(PrivateKeyJwt::new(file, key_id, audience, rsa)),
    };
    let request = TokenRequest {
        url: oauth2.token_url.clone(),
        client_id: oauth2.client_id.clone(),
        scopes: oauth2.scopes.clone(),
        audience: oauth2.audience.clone(),
        resources: oauth2.resources.clone(),
    };
    let ca_file = oauth2.ca_cert_file.clone();
    OAuth2Login::new(role, request, authentication, ca_file, rules)
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
            (endpoint, None) => Connection::open(config, endpoint, failover(config))?,
            (endpoint, Some(grant)) => {
                Connection::given(config, endpoint, ClientOptions::default(), grant)?
            }
        };
        Ok(questions(&connection).await)
    });
    // A hanging name lookup must not delay the return.
    runtime.shutdown_background();
    answered
}

impl Connection {
    /// Creates a connection to this server alone without sending a request. It belongs to the
    /// current runtime.
    ///
    /// # Errors
    /// Invalid settings for a client, an unsupported login, or an unusable token file.
    pub fn new(config: &Config, endpoint: Endpoint) -> Result<Self, ConnectionError> {
        Self::open(config, endpoint, ClientOptions::default())
    }

    fn open(
        config: &Config,
        endpoint: Endpoint,
        options: ClientOptions,
    ) -> Result<Self, ConnectionError> {
        if let Some(file) = &config.openbao.substitute.token_file {
            return Self::given(config, endpoint, options, given::grant(file.token()?));
        }
        let client = Client::with(endpoint, Arc::new(|_| {}), options)?;
        let hook = Arc::new(|_: &AuthEvent<'_>| {});
        let login = login(config, client.clone(), Process::Command)?;
        let (session, task) = session(config, login, Arc::new(SystemClock), hook);
        Ok(Self::with(config, client, session, task))
    }

    fn given(
        config: &Config,
        endpoint: Endpoint,
        options: ClientOptions,
        grant: Grant,
    ) -> Result<Self, ConnectionError> {
        let client = Client::with(endpoint, Arc::new(|_| {}), options)?;
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
