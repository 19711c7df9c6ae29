//! Login with a JWT that something on the host keeps fresh in a file.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use crate::{
    credential_file::{self, CredentialFileProblem, CredentialFileRules},
    failure::Failure,
    login::{
        Grant, Login, LoginFailure, Pending, Renewal,
        jwt::{ClaimRules, Jwt, JwtRole},
        renew_self,
    },
    token::Token,
};

/// The rules of the JWT file, also for a check of it without a login.
pub const JWT_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o037,
    max_size: 1 << 20,
};

/// The file is read anew before every login, so a renewed JWT is used without a restart.
pub struct JwtFile {
    /// Where the JWT goes.
    pub role: JwtRole,
    /// Absolute.
    pub path: PathBuf,
    /// What the JWT must claim.
    pub rules: ClaimRules,
}

/// Reads the file and checks the claims.
///
/// # Errors
/// When the file breaks a rule or the JWT cannot be expected to log in.
pub async fn read(path: PathBuf, rules: &ClaimRules, now: SystemTime) -> Result<Jwt, LoginFailure> {
    let content = tokio::task::spawn_blocking(move || credential_file::read(&path, JWT_FILE_RULES))
        .await
        // The thread was lost, by a panic or at shutdown.
        .unwrap_or(Err(CredentialFileProblem::Unreadable(
            rustix::io::Errno::CANCELED,
        )))
        .map_err(LoginFailure::JwtFile)?;
    let jwt = Jwt::parse(&content).map_err(LoginFailure::Jwt)?;
    jwt.check(rules, now).map_err(LoginFailure::Jwt)?;
    Ok(jwt)
}

impl Login for JwtFile {
    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let jwt = read(self.path.clone(), &self.rules, now).await?;
            self.role
                .exchange(&jwt, deadline)
                .await
                .map_err(LoginFailure::OpenBao)
        })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        Box::pin(renew_self(&self.role.client, token, increment, deadline))
    }
}
