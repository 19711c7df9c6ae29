//! Login with a token from a file: an identity for an emergency, of limited life.
//!
//! A token is looked up at a login and renewed while OpenBao renews it. A new token in the file is
//! taken when the current one nears its end.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kms_domain::digest::sha256_hex;
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    client::Client,
    failure::{Failure, FailureClass},
    login::{Grant, Login, LoginFailure, Pending, Renewal, renew_self, secret_file::SecretFile},
    request::{Operation, Request},
    token::{Lease, Token},
    turns::Purpose,
};

/// A token in a file.
pub struct TokenFile {
    client: Client,
    file: SecretFile,
    min_remaining: Duration,
    increment: Duration,
    /// The token of the last login.
    last: Mutex<Option<Known>>,
}

/// What OpenBao said about a token.
struct Known {
    /// SHA-256 of the token.
    digest: String,
    end: Option<SystemTime>,
    seen: (SystemTime, Instant),
}

/// Error of a token from a file. Contains only durations and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileProblem {
    /// The content is no token.
    #[error("the file holds no token")]
    NotAToken,
    /// OpenBao rejects the token.
    #[error("OpenBao rejects the token: it has expired, was revoked, or is of another namespace")]
    Rejected,
    /// A policy denies the lookup.
    #[error("the policies of the token deny auth/token/lookup-self")]
    LookupDenied,
    /// The token has the policy `root`.
    #[error("it is a root token")]
    Root,
    /// OpenBao revokes the token after some requests.
    #[error("the token ends after {0} requests")]
    LimitedUses(i64),
    /// The token ends soon, and OpenBao does not renew it.
    #[error(
        "the token ends in {} s and cannot be renewed, but more than {} s are required",
        .remaining.as_secs(), .required.as_secs()
    )]
    NearExpiry {
        /// Time until its end.
        remaining: Duration,
        /// Required minimum, exclusive.
        required: Duration,
    },
}

impl TokenFileProblem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAToken => "not_a_token",
            Self::Rejected => "token_rejected",
            Self::LookupDenied => "lookup_denied",
            Self::Root => "root_token",
            Self::LimitedUses(_) => "limited_uses",
            Self::NearExpiry { .. } => "near_expiry",
        }
    }
}

/// The answer of `auth/token/lookup-self`.
#[derive(Deserialize)]
struct Properties {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    num_uses: i64,
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    explicit_max_ttl: u64,
    #[serde(default)]
    creation_time: u64,
}

impl Properties {
    /// The end that no renewal moves; `None` if the token does not state it.
    fn end(&self, now: SystemTime) -> Option<SystemTime> {
        if !self.renewable {
            return Some(now + Duration::from_secs(self.ttl));
        }
        let last = self.creation_time.saturating_add(self.explicit_max_ttl);
        (self.explicit_max_ttl > 0).then(|| UNIX_EPOCH + Duration::from_secs(last))
    }
}

impl TokenFile {
    /// A token with more than `min_remaining` of its life left; one with less is renewed by
    /// `increment` at its login.
    #[must_use]
    pub fn new(
        client: Client,
        file: SecretFile,
        min_remaining: Duration,
        increment: Duration,
    ) -> Self {
        Self {
            client,
            file,
            min_remaining,
            increment,
            last: Mutex::default(),
        }
    }

    async fn read(&self) -> Result<Token, LoginFailure> {
        let content = self.file.read().await.map_err(LoginFailure::Secret)?;
        Token::new(content).map_err(|_| TokenFileProblem::NotAToken.into())
    }

    async fn use_token(
        &self,
        token: Token,
        now: SystemTime,
        deadline: Duration,
    ) -> Result<Grant, LoginFailure> {
        let properties = self.look_up(&token, deadline).await?;
        if properties.policies.iter().any(|policy| policy == "root") {
            return Err(TokenFileProblem::Root.into());
        }
        if properties.num_uses > 0 {
            return Err(TokenFileProblem::LimitedUses(properties.num_uses).into());
        }

        let mut lease = Lease {
            duration: Duration::from_secs(properties.ttl),
            renewable: properties.renewable,
            uses: None,
        };
        if lease.duration <= self.min_remaining && lease.renewable {
            let renewed = renew_self(&self.client, &token, self.increment, deadline).await;
            lease = renewed.map_err(LoginFailure::OpenBao)?.lease;
        }
        if lease.duration <= self.min_remaining {
            return Err(TokenFileProblem::NearExpiry {
                remaining: lease.duration,
                required: self.min_remaining,
            }
            .into());
        }

        let end = properties.end(now);
        *self.last() = Some(Known {
            digest: digest(&token),
            end,
            seen: (now, Instant::now()),
        });
        Ok(Grant {
            token,
            lease,
            credential_expires: end,
        })
    }

    async fn look_up(&self, token: &Token, deadline: Duration) -> Result<Properties, LoginFailure> {
        let request = Request::get(Operation::TokenLookupSelf, "auth/token/lookup-self")
            .token(token)
            .purpose(Purpose::Login);
        let found = self
            .client
            .send_and_read(request, deadline, |answer| answer.data::<Properties>());
        found.await.map_err(|failure| match failure.class() {
            FailureClass::Unauthenticated => TokenFileProblem::Rejected.into(),
            FailureClass::PermissionDenied => TokenFileProblem::LookupDenied.into(),
            _ => LoginFailure::OpenBao(failure),
        })
    }

    /// The token of the file if it is another one and OpenBao accepts it.
    async fn replacement(&self, current: &Token, deadline: Duration) -> Option<Grant> {
        let token = self.read().await.ok()?;
        if token.expose() == current.expose() {
            return None;
        }
        let now = self.last().as_ref().map(Known::now)?;
        self.use_token(token, now, deadline).await.ok()
    }

    fn last(&self) -> MutexGuard<'_, Option<Known>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The wall clock of the login, advanced by the time since.
    fn now(&self) -> SystemTime {
        self.seen.0 + self.seen.1.elapsed()
    }
}

fn digest(token: &Token) -> String {
    sha256_hex(token.expose().as_bytes())
}

impl Login for TokenFile {
    /// The end is known after a login with the same token, if it has a fixed one.
    fn check(&self, _: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async {
            let digest = digest(&self.read().await?);
            let last = self.last();
            let known = last.as_ref().filter(|known| known.digest == digest);
            Ok(known.and_then(|known| known.end))
        })
    }

    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let token = self.read().await?;
            self.use_token(token, now, deadline).await
        })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        Box::pin(async move {
            // A third of the time each for the two requests of another token.
            if let Some(grant) = self.replacement(token, deadline / 3).await {
                return Ok(Renewal {
                    token: Some(grant.token),
                    lease: grant.lease,
                });
            }
            renew_self(&self.client, token, increment, deadline / 3).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_the_one_that_renewals_cannot_move() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let end = |renewable, explicit_max_ttl| {
            let properties = Properties {
                ttl: 60,
                renewable,
                num_uses: 0,
                policies: Vec::new(),
                explicit_max_ttl,
                creation_time: 1000,
            };
            properties.end(at(5000))
        };
        assert_eq!(end(false, 0), Some(at(5060)), "a batch token");
        assert_eq!(end(true, 7200), Some(at(8200)));
        assert_eq!(end(true, 0), None);
    }
}
