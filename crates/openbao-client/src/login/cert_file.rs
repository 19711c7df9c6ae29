//! Login with a client certificate and a private key from files, for example that of kubelet.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use rustls::sign::CertifiedKey;

use crate::{
    credential_file::CredentialFileRules,
    failure::Failure,
    login::{
        Grant, Login, LoginFailure, Pending, Renewal,
        cert::CertRole,
        certificate::{CertificateRules, Chain, private_key},
        file_reader::FileReader,
        renew_self,
    },
    token::Token,
};

/// Rules of a file with a private key.
pub const KEY_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o137,
    max_size: 1 << 20,
};

/// Rules of a file with certificates alone.
pub const CHAIN_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o022,
    max_size: 1 << 20,
};

/// A login with a certificate from a file. The files are read before every login, so a replaced
/// certificate takes effect without a restart.
pub struct CertFile {
    role: CertRole,
    /// `None` if the key file also has the chain.
    chain: Option<FileReader>,
    key: FileReader,
    rules: CertificateRules,
}

impl CertFile {
    /// A login with the chain and the key of these files, which may be the same. A path may be a
    /// symbolic link to a file in its own directory, as kubelet keeps one.
    #[must_use]
    pub fn new(
        role: CertRole,
        certificate_file: PathBuf,
        key_file: PathBuf,
        rules: CertificateRules,
    ) -> Self {
        let chain = (certificate_file != key_file)
            .then(|| FileReader::through_link(certificate_file, CHAIN_FILE_RULES));
        Self {
            role,
            chain,
            key: FileReader::through_link(key_file, KEY_FILE_RULES),
            rules,
        }
    }

    /// Reads and checks chain and key at the wall-clock time `now`, and returns them with their
    /// expiry.
    async fn read(&self, now: SystemTime) -> Result<(CertifiedKey, SystemTime), LoginFailure> {
        let key_text = self.key.read().await.map_err(LoginFailure::KeyFile)?;
        let chain = match &self.chain {
            None => Chain::parse_beside_key(&key_text),
            Some(file) => {
                let text = file.read().await.map_err(LoginFailure::CertificateFile)?;
                Chain::parse(&text)
            }
        };
        let chain = chain.map_err(LoginFailure::Certificate)?;
        chain
            .check(self.rules, now)
            .map_err(LoginFailure::Certificate)?;
        let expires = chain.expires();
        let key = private_key(&key_text).map_err(LoginFailure::Certificate)?;
        let joined = chain.with_key(key).map_err(LoginFailure::Certificate)?;
        Ok((joined, expires))
    }
}

impl Login for CertFile {
    fn check(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async move { Ok(Some(self.read(now).await?.1)) })
    }

    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let (certificate, expires) = self.read(now).await?;
            let granted = self.role.exchange(certificate, expires, deadline).await;
            granted.map_err(LoginFailure::OpenBao)
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
