//! Configures a server: requests to any path, and those for Transit, policies and JWT logins.

use std::{fmt, sync::Arc, time::Duration};

use http::Method;
use openbao_client::{
    client::{Answer, Client, ClientProblem},
    endpoint::Endpoint,
    failure::Failure,
    request::{Operation, Request},
    token::Token,
};
use serde::Serialize;

pub mod login;
pub mod transit;

/// Enough for `sys/init` on a slow machine; other requests take milliseconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// Sends requests with one token. Bound to the async runtime of its creation.
pub struct Admin<'a> {
    client: Client,
    token: Option<&'a Token>,
}

/// Error of a request.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The client could not be created.
    #[error("cannot create the OpenBao client")]
    Client(#[source] ClientProblem),
    /// The request failed or was rejected.
    #[error("`{method} {path}` failed{}", Said(.source.server_errors()))]
    Call {
        /// The HTTP method.
        method: Method,
        /// The path below `/v1/`.
        path: String,
        /// The cause.
        source: Failure,
    },
}

impl<'a> Admin<'a> {
    /// Creates a client. Pass `None` for requests without a token.
    ///
    /// # Errors
    /// [`AdminError::Client`].
    pub fn new(endpoint: Endpoint, token: Option<&'a Token>) -> Result<Self, AdminError> {
        let client = Client::new(endpoint, Arc::new(|_| {})).map_err(AdminError::Client)?;
        Ok(Self { client, token })
    }

    /// Reads a path.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn read(&self, path: &str) -> Result<Answer, AdminError> {
        self.call(Request::get(Operation::Admin, path), Method::GET, path)
            .await
    }

    /// Writes to a path.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn write(&self, path: &str, body: &impl Serialize) -> Result<Answer, AdminError> {
        let request = Request::post(Operation::Admin, path).json(body);
        self.call(request, Method::POST, path).await
    }

    /// Deletes a path.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn delete(&self, path: &str) -> Result<(), AdminError> {
        let request = Request::new(Operation::Admin, Method::DELETE, path);
        self.call(request, Method::DELETE, path).await.map(drop)
    }

    async fn call(
        &self,
        mut request: Request<'_>,
        method: Method,
        path: &str,
    ) -> Result<Answer, AdminError> {
        if let Some(token) = self.token {
            request = request.token(token);
        }
        let sent = self.client.send(request, DEADLINE).await;
        sent.map_err(|source| AdminError::Call {
            method,
            path: path.to_owned(),
            source,
        })
    }
}

struct Said<'a>(&'a [String]);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for text in self.0 {
            write!(f, "; error from OpenBao: {}", text.trim())?;
        }
        Ok(())
    }
}
