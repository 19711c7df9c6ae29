//! Login with a JWT from a file, renewed by another program on the host.

use std::{path::PathBuf, time::SystemTime};

use tokio::time::Instant;

use crate::{
    credential_file::CredentialFileRules,
    login::{
        LoginFailure, Pending,
        file_reader::FileReader,
        jwt::{ClaimRules, Jwt, JwtRole, JwtSource},
    },
};

/// Rules of the JWT file, also for a check without a login.
pub const JWT_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o037,
    max_size: 1 << 20,
};

/// A login with a JWT file. The file is read before every login, so a renewed JWT takes effect
/// without a restart.
pub struct JwtFile {
    role: JwtRole,
    file: FileReader,
    rules: ClaimRules,
}

impl JwtFile {
    /// A login by the role with the file at the absolute `path`. The claims must follow `rules`.
    #[must_use]
    pub fn new(role: JwtRole, path: PathBuf, rules: ClaimRules) -> Self {
        Self {
            role,
            file: FileReader::new(path, JWT_FILE_RULES),
            rules,
        }
    }

    async fn read(&self, now: SystemTime) -> Result<Jwt, LoginFailure> {
        let content = self.file.read().await.map_err(LoginFailure::JwtFile)?;
        let jwt = Jwt::parse(&content).map_err(LoginFailure::Jwt)?;
        jwt.check(&self.rules, now).map_err(LoginFailure::Jwt)?;
        Ok(jwt)
    }
}

impl JwtSource for JwtFile {
    fn role(&self) -> &JwtRole {
        &self.role
    }

    fn examine(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async move { Ok(Some(self.read(now).await?.expires())) })
    }

    /// The reading has a limit of its own.
    fn obtain(&self, now: SystemTime, _: Instant) -> Pending<'_, Result<Jwt, LoginFailure>> {
        Box::pin(self.read(now))
    }
}
