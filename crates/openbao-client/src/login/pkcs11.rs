//! Login with a client certificate whose private key is on a PKCS#11 token.

mod signer;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use pkcs11_signer::{Helper, TokenKey, TokenProblem};
use rustls::sign::CertifiedKey;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use self::signer::TokenSigner;
use crate::{
    credential_file::CredentialFileRules,
    failure::{Failure, FailureClass},
    login::{
        Grant, Login, LoginFailure, Pending, Renewal,
        cert::CertRole,
        certificate::{CertificateRules, Chain},
        file_reader::FileReader,
        renew_self,
        secret_file::SecretFile,
    },
    request::Operation,
    token::Token,
};

/// Rules of the file with the certificate chain.
pub const CHAIN_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o037,
    max_size: 1 << 20,
};

/// Rules of a PIN file.
pub const PIN_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o037,
    max_size: 4096,
};

/// Returns the helper of this process, started when it is first needed.
pub type HelperSource = fn() -> io::Result<Arc<Helper>>;

/// A login with a key on a token. The certificate chain and the PIN are read from their files before
/// each login and renewal, so replaced ones take effect without a restart. The token is in use during
/// logins and renewals alone.
pub struct Pkcs11 {
    role: CertRole,
    chain: FileReader,
    pin: SecretFile,
    key: TokenKey,
    rules: CertificateRules,
    helper: HelperSource,
}

impl Pkcs11 {
    /// A login with this key, and the chain and PIN in these files.
    #[must_use]
    pub fn new(
        role: CertRole,
        key: TokenKey,
        certificate_file: PathBuf,
        pin_file: PathBuf,
        rules: CertificateRules,
        helper: HelperSource,
    ) -> Self {
        Self {
            role,
            chain: FileReader::new(certificate_file, CHAIN_FILE_RULES),
            pin: SecretFile::with_rules(pin_file, PIN_FILE_RULES),
            key,
            rules,
            helper,
        }
    }

    async fn chain(&self) -> Result<Chain, LoginFailure> {
        let text = self.chain.read().await;
        let text = text.map_err(LoginFailure::CertificateFile)?;
        Chain::parse(&text).map_err(LoginFailure::Certificate)
    }

    /// Opens the key until `end`, and checks with a signature that it belongs to the chain.
    async fn open(
        &self,
        chain: Chain,
        end: Instant,
    ) -> Result<(CertifiedKey, Arc<TokenSigner>), LoginFailure> {
        let pin = self.pin.read().await.map_err(LoginFailure::PinFile)?;
        let (key, helper) = (self.key.clone(), self.helper);
        // The second half is for the request.
        let limit = end.saturating_duration_since(Instant::now()) / 2;
        let opening = spawn_blocking(move || {
            let helper = helper().map_err(|_| TokenProblem::HelperGone)?;
            let open = helper.open(&key, &pin, limit)?;
            let signer = Arc::new(TokenSigner::new(open, end.into_std()));
            signer.prove(&chain)?;
            let certified = chain.with_key(Arc::clone(&signer) as _)?;
            Ok((certified, signer))
        });
        match timeout_at(end, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_panicked)) => Err(TokenProblem::HelperGone.into()),
            Err(_) => Err(TokenProblem::Hangs.into()),
        }
    }

    async fn renew_with_key(
        &self,
        token: &Token,
        increment: Duration,
        deadline: Duration,
    ) -> Result<Renewal, Failure> {
        let operation = Operation::TokenRenewSelf;
        let end = Instant::now() + deadline;
        // A login follows, and states the cause.
        let unusable = |_| {
            Failure::new(operation, FailureClass::Unknown).detail("the certificate is unusable")
        };
        let chain = self.chain().await.map_err(unusable)?;
        let (certificate, signer) = self.open(chain, end).await.map_err(unusable)?;
        self.role
            .client
            .present(certificate)
            .map_err(|_| Failure::new(operation, FailureClass::TlsFailed))?;
        let left = end.saturating_duration_since(Instant::now());
        let renewed = renew_self(&self.role.client, token, increment, left).await;
        signer.close();
        renewed
    }
}

impl Login for Pkcs11 {
    /// Reads the certificate alone: the token is not used between logins.
    fn check(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async move {
            let chain = self.chain().await?;
            chain.check(self.rules, now)?;
            Ok(Some(chain.expires()))
        })
    }

    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let end = Instant::now() + deadline;
            let chain = self.chain().await?;
            chain.check(self.rules, now)?;
            let expires = chain.expires();
            let (certificate, signer) = self.open(chain, end).await?;
            let left = end.saturating_duration_since(Instant::now());
            let granted = self.role.exchange(certificate, expires, left).await;
            signer.close();
            granted.map_err(|failure| match signer.fault() {
                Some(problem) => LoginFailure::Pkcs11(problem),
                None => LoginFailure::OpenBao(failure),
            })
        })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        Box::pin(self.renew_with_key(token, increment, deadline))
    }
}
