//! Login with a JWT from an OAuth 2.0 issuer, by the client credentials grant (RFC 6749, 4.4).
//!
//! Each login requests a new access token, held in memory alone. The request is sent on a
//! connection of its own: HTTP/1.1 over TLS, without proxy variables and without redirects.

mod assertion;
mod problem;
mod request;
mod response;
mod token_url;

use std::{fs, path::PathBuf, time::SystemTime};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::{
    connect::{BoxError, Host, tls},
    credential_file::{CredentialFileProblem, CredentialFileRules},
    endpoint::{Roots, RootsProblem},
    failure::FailureClass,
    login::{
        LoginFailure, Pending,
        file_reader::FileReader,
        jwt::{ClaimRules, Jwt, JwtRole, JwtSource},
    },
};

pub use assertion::{KeyProblem, PrivateKeyJwt, RsaAlgorithm};
pub use problem::{OAuth2Problem, ResponseProblem, TokenError, Transport};
pub use request::{ClientSecret, SecretPlace};
pub use token_url::TokenUrl;

/// Rules of the file with the client's secret or private key.
pub const CLIENT_CREDENTIAL_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o137,
    max_size: 64 << 10,
};

/// Rules of the file with the issuer's CA certificates.
const CA_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o022,
    max_size: 16 << 20,
};

/// The CA certificates of the system, by distribution: Debian and Alpine; RHEL; SUSE.
const SYSTEM_CA_FILES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Limit of the response's headers, in bytes.
const MAX_HEADERS: usize = 64 << 10;

/// The file with the CA certificates of this system: the first known one, with links resolved.
/// `None` if the system has none. Blocks on the file system.
#[must_use]
pub fn system_ca_file() -> Option<PathBuf> {
    SYSTEM_CA_FILES
        .iter()
        .find_map(|path| fs::canonicalize(path).ok())
}

/// The token request, without the client's authentication.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// Token endpoint of the issuer.
    pub url: TokenUrl,
    /// Identifier of the client at the issuer.
    pub client_id: String,
    /// Requested scopes.
    pub scopes: Vec<String>,
    /// Requested audience.
    pub audience: Option<String>,
    /// Requested resources (RFC 8707).
    pub resources: Vec<String>,
}

/// Proof of the client's identity.
#[derive(Clone)]
pub enum ClientAuthentication {
    /// A secret from a file.
    Secret(ClientSecret),
    /// An assertion signed with a key from a file (RFC 7523).
    PrivateKey(PrivateKeyJwt),
}

/// Certificates trusted for the issuer.
enum Trust {
    /// Those of a configured file alone.
    File(FileReader),
    /// Those of the system; `None` if it has no known file of them.
    System(Option<FileReader>),
}

/// A login with an access token of an OAuth 2.0 issuer. The files are read before every login, so
/// a replaced secret takes effect without a restart.
pub struct OAuth2Login {
    role: JwtRole,
    request: TokenRequest,
    authentication: ClientAuthentication,
    host: Host,
    trust: Trust,
    rules: ClaimRules,
}

impl OAuth2Login {
    /// A login by the role. `ca_file` has the only trusted certificates for the issuer; `None`
    /// trusts those of the system. The claims of the access token must follow `rules`.
    ///
    /// Blocks on the file system.
    #[must_use]
    pub fn new(
        role: JwtRole,
        request: TokenRequest,
        authentication: ClientAuthentication,
        ca_file: Option<PathBuf>,
        rules: ClaimRules,
    ) -> Self {
        let reader = |path| FileReader::new(path, CA_FILE_RULES);
        let trust = match ca_file {
            Some(path) => Trust::File(reader(path)),
            None => Trust::System(system_ca_file().map(reader)),
        };
        Self {
            role,
            host: Host::new(request.url.address(), request.url.server_name()),
            request,
            authentication,
            trust,
            rules,
        }
    }

    /// Requests an access token and checks its claims.
    async fn request_token(
        &self,
        now: SystemTime,
        deadline: Instant,
    ) -> Result<Jwt, OAuth2Problem> {
        let tls = self.tls().await?;
        let request = self
            .request
            .authenticated(&self.authentication, now)
            .await?;

        let asked = Instant::now();
        let answered = timeout_at(deadline, async {
            let response = self.send(request, tls).await?;
            response::read(response).await
        });
        let grant = answered
            .await
            .map_err(|_| Transport::new(FailureClass::Timeout))??;

        let jwt = grant.jwt()?;
        jwt.check(&self.rules, now).map_err(OAuth2Problem::Token)?;
        grant.check_life(asked.elapsed(), self.rules.min_remaining)?;
        Ok(jwt)
    }

    async fn tls(&self) -> Result<TlsConnector, OAuth2Problem> {
        type Parse = fn(&[u8]) -> Result<Roots, RootsProblem>;
        let (file, parse): (_, Parse) = match &self.trust {
            Trust::File(file) => (Some(file), Roots::from_pem),
            Trust::System(file) => (file.as_ref(), Roots::usable_from_pem),
        };
        let file = file.ok_or(OAuth2Problem::CaFile(CredentialFileProblem::Missing))?;
        let pem = file.read().await.map_err(OAuth2Problem::CaFile)?;
        let roots = parse(&pem).map_err(OAuth2Problem::Ca)?;
        let tls = tls(roots, None).map_err(|_| Transport::new(FailureClass::TlsFailed))?;
        Ok(tls)
    }

    /// Sends the request on a new connection. Tries all addresses of the host in turn, but sends
    /// the request once.
    async fn send(
        &self,
        request: http::Request<Full<Bytes>>,
        tls: TlsConnector,
    ) -> Result<Response<Incoming>, OAuth2Problem> {
        let failed = |error: BoxError| Transport::of(&*error);
        let peers = self
            .host
            .peers()
            .await
            .map_err(|error| failed(error.into()))?;
        let mut first_failure = None;
        let mut connected = None;
        for peer in peers {
            match self.host.connect(peer, tls.clone()).await {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(error) => {
                    first_failure.get_or_insert(error);
                }
            }
        }
        let Some(stream) = connected else {
            let class = Transport::new(FailureClass::ConnectionFailed);
            return Err(first_failure
                .map_or(class, |error| failed(error.into()))
                .into());
        };

        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.into()))?;
        // Ends with the response: the request has `Connection: close`.
        tokio::spawn(connection);
        let response = sender.send_request(request).await;
        Ok(response.map_err(|error| failed(error.into()))?)
    }
}

impl JwtSource for OAuth2Login {
    fn role(&self) -> &JwtRole {
        &self.role
    }

    /// The secret or the key has no expiry. The access token has one, but exists only during a
    /// login.
    fn examine(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async move {
            self.tls().await.map_err(LoginFailure::OAuth2)?;
            let request = self.request.authenticated(&self.authentication, now);
            request.await.map_err(LoginFailure::OAuth2)?;
            Ok(None)
        })
    }

    fn obtain(&self, now: SystemTime, deadline: Instant) -> Pending<'_, Result<Jwt, LoginFailure>> {
        Box::pin(async move {
            let token = self.request_token(now, deadline).await;
            token.map_err(LoginFailure::OAuth2)
        })
    }
}
