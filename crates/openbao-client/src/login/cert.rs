//! Login with a client certificate.

use std::time::{Duration, SystemTime};

use kms_domain::scope::MountPath;
use rustls::sign::CertifiedKey;
use serde::Serialize;

use crate::{
    client::Client,
    failure::{Failure, FailureClass},
    login::{Grant, exchange},
    request::{Operation, Request},
};

/// A role of OpenBao's certificate auth method.
#[derive(Clone)]
pub struct CertRole {
    /// Client for login and renewal.
    pub client: Client,
    /// Mount path, for example `auth/cert`.
    pub mount_path: MountPath,
    /// Name of the role; `None` lets OpenBao try every role of the mount.
    pub role: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl CertRole {
    /// Exchanges a certificate with this expiry for a token. The client presents the certificate also at renewals of
    /// the token, until the next login.
    ///
    /// # Errors
    /// The classified failure; OpenBao rejects a certificate with 400.
    pub async fn exchange(
        &self,
        certificate: CertifiedKey,
        expires: SystemTime,
        deadline: Duration,
    ) -> Result<Grant, Failure> {
        let operation = Operation::CertLogin;
        self.client
            .present(certificate)
            .map_err(|_| Failure::new(operation, FailureClass::TlsFailed))?;
        let request = Request::post(operation, format!("{}/login", self.mount_path)).json(&Body {
            name: self.role.as_deref(),
        });
        exchange(&self.client, request, Some(expires), deadline).await
    }
}
