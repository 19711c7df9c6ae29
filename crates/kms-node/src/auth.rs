//! The OpenBao token: obtained by login, renewed, replaced after rejection, and lent to every call.
//!
//! One task makes all logins and renewals, one at a time. [`Session`] lends the current token and
//! requests attempts from the task. The background probes make calls often enough, so the session
//! has no timer. Tokens are kept in memory only.
//!
//! A token stays in use until a login has granted another, or OpenBao has rejected it as invalid.
//! Its age only triggers a new attempt, so a clock jump never invalidates a token.

mod lease;
mod pause;
mod state;

use std::{
    error::Error,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use openbao_client::{
    failure::{Failure, FailureClass},
    login::{
        Grant, Login, LoginFailure, LoginOutcome, Renewal, approle::WrappingProblem,
        token_file::TokenFileProblem,
    },
    token::Token,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};

pub use self::state::{AuthState, AuthStatus, PastFailure};
use self::{
    lease::{LiveToken, Moment},
    pause::Cause,
    state::{State, Wanted},
};
use crate::clock::Clock;

/// Maximum number of tokens for one call: its deadline may allow for a second revocation.
const TOKENS_OF_A_CALL: usize = 3;

/// Durations of the token's life cycle.
#[derive(Debug, Clone, Copy)]
pub struct SessionSettings {
    /// A token with at most this remaining life is replaced in advance; a lease must be longer.
    pub login_before_token_expiry: Duration,
    /// The lease duration requested by a renewal.
    pub token_renewal_increment: Duration,
    /// Time limit for a renewal together with the login after its failure.
    pub login_timeout: Duration,
}

/// Lends the token. Clones share it.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    /// Changes at the end of an attempt; closed at the end of the task.
    attempts: watch::Receiver<()>,
}

/// Makes the logins and renewals requested by sessions.
pub struct SessionTask {
    shared: Arc<Shared>,
    attempts: watch::Sender<()>,
}

struct Shared {
    settings: SessionSettings,
    login: Arc<dyn Login>,
    clock: Arc<dyn Clock>,
    hook: AuthHook,
    /// Locked briefly, never across an await.
    state: Mutex<State>,
    wanted: Notify,
}

/// Why there is no token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthFailure {
    #[error("login failed")]
    Login(#[source] LoginFailure),
    /// The renewal failed; a login follows, so only the hook receives this failure.
    #[error("the token was not renewed")]
    Renewal(#[source] Failure),
    /// The token is valid, but its lease is too short.
    #[error(
        "OpenBao granted a lease of {} s, but auth.loginBeforeTokenExpiry needs more than {} s; \
         raise token_ttl and token_max_ttl of the role, or lower the setting",
        .granted.as_secs(), .needed.as_secs()
    )]
    ShortLease {
        /// Lease granted by OpenBao.
        granted: Duration,
        /// Lower limit; the lease must be longer.
        needed: Duration,
    },
    /// The attempt exceeded its time limit.
    #[error("no token within auth.loginTimeout")]
    Timeout,
    /// OpenBao rejected two new tokens in a row.
    #[error("OpenBao rejects its own fresh tokens")]
    Rejected,
    /// The task of logins has ended.
    #[error("the provider is stopping")]
    Stopped,
}

impl AuthFailure {
    /// The outcome to count and log.
    #[must_use]
    pub fn outcome(&self) -> LoginOutcome {
        match self {
            Self::Login(failure) => failure.outcome(),
            Self::Renewal(failure) => LoginOutcome::of_class(failure.class()),
            Self::ShortLease { .. } | Self::Rejected => LoginOutcome::AuthFailed,
            Self::Timeout | Self::Stopped => LoginOutcome::Error,
        }
    }

    /// The bounded word for the cause within an outcome.
    #[must_use]
    pub fn detail(&self) -> &'static str {
        match self {
            Self::Login(failure) => failure.detail(),
            Self::Renewal(failure) => failure.class().label(),
            Self::ShortLease { .. } => "short_lease",
            Self::Timeout => "timeout",
            Self::Rejected => "token_rejected",
            Self::Stopped => "stopping",
        }
    }

    fn cause(&self) -> Cause {
        match self {
            Self::ShortLease { .. } | Self::Rejected | Self::Login(LoginFailure::GivenToken) => {
                Cause::Refused
            }
            Self::Timeout | Self::Stopped => Cause::Absent,
            // OpenBao has refused a request with the credential.
            Self::Login(
                LoginFailure::Token(TokenFileProblem::Rejected | TokenFileProblem::LookupDenied)
                | LoginFailure::Wrapping(
                    WrappingProblem::Used
                    | WrappingProblem::OtherPath
                    | WrappingProblem::NoSecretId,
                ),
            ) => Cause::Refused,
            Self::Login(LoginFailure::OAuth2(problem)) if problem.is_refusal() => Cause::Refused,
            Self::Login(LoginFailure::Spiffe(problem)) if problem.is_refusal() => Cause::Refused,
            Self::Login(LoginFailure::OpenBao(failure)) | Self::Renewal(failure) => {
                let class = failure.class();
                if class.is_outage() || class == FailureClass::InvalidAnswer {
                    Cause::Absent
                } else {
                    Cause::Refused
                }
            }
            // No login was requested.
            Self::Login(_) => Cause::Absent,
        }
    }

    /// The failed request below this failure. Its class may be more precise than "authentication
    /// failed".
    #[must_use]
    pub fn openbao(&self) -> Option<&Failure> {
        match self {
            Self::Login(LoginFailure::OpenBao(failure)) | Self::Renewal(failure) => Some(failure),
            Self::Login(_)
            | Self::ShortLease { .. }
            | Self::Timeout
            | Self::Rejected
            | Self::Stopped => None,
        }
    }
}

/// Why a call with the token failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallFailure {
    #[error("there is no OpenBao token")]
    Auth(#[source] AuthFailure),
    /// The request itself failed.
    #[error(transparent)]
    OpenBao(#[from] Failure),
}

impl CallFailure {
    /// The class of the failed request. For a failed login, the class of its request if that is
    /// more precise than "authentication failed", otherwise `None`.
    #[must_use]
    pub fn class(&self) -> Option<FailureClass> {
        match self {
            Self::OpenBao(failure) => Some(failure.class()),
            Self::Auth(AuthFailure::Timeout) => Some(FailureClass::Unavailable),
            Self::Auth(failure) => match failure.openbao()?.class() {
                FailureClass::Timeout => Some(FailureClass::Unavailable),
                class if class.is_outage() || class == FailureClass::RateLimited => Some(class),
                _ => None,
            },
        }
    }
}

/// Kind of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthAction {
    /// Requested a new token.
    Login,
    /// Requested a longer life for the current token.
    Renewal,
}

/// One finished login or renewal, for metrics and logs.
#[derive(Debug, Clone, Copy)]
pub struct AuthEvent<'a> {
    pub action: AuthAction,
    /// The label to count.
    pub outcome: LoginOutcome,
    /// The cause of a failed outcome, one of a bounded set of words.
    pub detail: Option<&'static str>,
    /// The failure of a failed outcome. Its chain is free of secrets and server texts.
    pub failure: Option<&'a (dyn Error + 'static)>,
    pub duration: Duration,
}

/// Called once for every login and renewal. It must return quickly.
pub type AuthHook = Arc<dyn Fn(&AuthEvent<'_>) + Send + Sync>;

impl Session {
    /// Creates a session without a token, and its task. The task must run for the session to get a
    /// token.
    #[must_use]
    pub fn new(
        settings: SessionSettings,
        login: Arc<dyn Login>,
        clock: Arc<dyn Clock>,
        hook: AuthHook,
    ) -> (Self, SessionTask) {
        let shared = Arc::new(Shared {
            settings,
            login,
            clock,
            hook,
            state: Mutex::new(State::new(settings.login_before_token_expiry)),
            wanted: Notify::new(),
        });
        let (sender, attempts) = watch::channel(());
        let task = SessionTask {
            shared: shared.clone(),
            attempts: sender,
        };
        (Self { shared, attempts }, task)
    }

    /// Returns the current token immediately, otherwise the token of the shared attempt. Dropping
    /// the future cancels this wait only.
    ///
    /// # Errors
    /// The failure of the attempt; during a pause, the last failure immediately.
    pub async fn token(&self) -> Result<Arc<Token>, AuthFailure> {
        let mut attempts = self.attempts.clone();
        loop {
            match self.shared.want() {
                Wanted::Token(token) => return Ok(token),
                Wanted::Failed(failure) => return Err(failure),
                Wanted::Wait => {}
            }
            if attempts.changed().await.is_err() {
                return Err(AuthFailure::Stopped);
            }
        }
    }

    /// Makes a call with the token. If OpenBao rejects the token as invalid, the call is repeated
    /// with another token. A call denied by policy fails immediately.
    ///
    /// # Errors
    /// [`CallFailure::Auth`] without a token, otherwise the failure of the last call.
    pub async fn call<T, F>(&self, operation: impl Fn(Arc<Token>) -> F) -> Result<T, CallFailure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tried = 0;
        loop {
            let token = self.token().await.map_err(CallFailure::Auth)?;
            tried += 1;
            match operation(token.clone()).await {
                Err(failure) if failure.rejects_token() => {
                    self.shared.rejected(&token);
                    if tried == TOKENS_OF_A_CALL {
                        return Err(failure.into());
                    }
                }
                Err(failure) => {
                    if failure.class() == FailureClass::PermissionDenied {
                        self.shared.denied(&token);
                    }
                    return Err(failure.into());
                }
                Ok(answer) => {
                    self.shared.state().worked(&token);
                    return Ok(answer);
                }
            }
        }
    }

    /// Status for diagnostics and metrics. Readiness depends on the probes instead.
    #[must_use]
    pub fn status(&self) -> AuthStatus {
        let now = self.shared.now();
        let identity = self.shared.login.identity();
        self.shared.state().status(now, identity)
    }
}

impl SessionTask {
    /// Serves the sessions until dropped. Dropping also cancels a running attempt.
    pub async fn run(self) {
        loop {
            self.shared.wanted.notified().await;
            self.shared.attempt().await;
            self.attempts.send_replace(());
        }
    }
}

impl Shared {
    fn want(&self) -> Wanted {
        let (now, returns) = (self.now(), self.login.is_due());
        let mut state = self.state();
        let (wanted, start) = state.want(now, returns);
        if start {
            self.wanted.notify_one();
        }
        wanted
    }

    fn rejected(&self, token: &Arc<Token>) {
        let now = self.now();
        self.state().rejected(token, now);
    }

    fn denied(&self, token: &Arc<Token>) {
        let now = self.now();
        if self.state().denied(token, now) {
            self.wanted.notify_one();
        }
    }

    /// Renews a renewable token. Otherwise, or if that fails, makes a login.
    async fn attempt(&self) {
        if self.state().returns() {
            let deadline = Instant::now() + self.settings.login_timeout;
            let result = self.log_in(deadline, true).await;
            let now = self.now();
            match result {
                Ok(granted) => self.state().logged_in(Ok(granted), now),
                Err(_) => self.state().stayed(),
            }
            return;
        }

        let renewable = self.state().renewable();
        let next_login = self.state().next_login();
        if renewable.is_none()
            && let Some(at) = next_login
        {
            sleep_until(at).await;
        }

        let deadline = Instant::now() + self.settings.login_timeout;

        if let Some(token) = renewable {
            match self.renew(&token).await {
                Ok(renewed) => {
                    let now = self.now();
                    if self.state().renewed(&token, renewed, now) {
                        return;
                    }
                    // Rejected during its renewal: only a login helps.
                }
                Err(AuthFailure::Renewal(failure)) if failure.rejects_token() => {
                    self.rejected(&token);
                }
                Err(_) => {}
            }
        }

        let result = self.log_in(deadline, false).await;
        let now = self.now();
        self.state().logged_in(result, now);
    }

    async fn renew(&self, token: &Arc<Token>) -> Result<LiveToken, AuthFailure> {
        let started = self.now();
        // Half of the time limit, to leave enough for a login after a renewal without response.
        let limit = self.settings.login_timeout / 2;
        let increment = self.settings.token_renewal_increment;
        let result = match self.login.renew(token, increment, limit).await {
            Ok(Renewal { token: sent, lease }) => {
                // OpenBao repeats the token. The shared `Arc` lets a rejection of the old token
                // apply to this one.
                let sent = sent.filter(|sent| sent.expose() != token.expose());
                let token = sent.map_or_else(|| token.clone(), Arc::new);
                self.long_enough(LiveToken::new(token, lease, started))
            }
            Err(failure) => Err(AuthFailure::Renewal(failure)),
        };
        self.report(AuthAction::Renewal, started, &result);
        result
    }

    async fn log_in(
        &self,
        deadline: Instant,
        again: bool,
    ) -> Result<(LiveToken, Option<SystemTime>), AuthFailure> {
        let started = self.now();
        let remaining = deadline.saturating_duration_since(started.elapsed);
        let login = if again {
            self.login.log_in_again(started.wall, remaining)
        } else {
            self.login.log_in(started.wall, remaining)
        };
        let result = match timeout_at(deadline, login).await {
            Ok(Ok(Grant {
                token,
                lease,
                credential_expires,
            })) => self
                .long_enough(LiveToken::new(Arc::new(token), lease, started))
                .map(|live| (live, credential_expires)),
            Ok(Err(failure)) => Err(AuthFailure::Login(failure)),
            Err(_) => Err(AuthFailure::Timeout),
        };
        self.report(AuthAction::Login, started, &result);
        result
    }

    fn long_enough(&self, live: LiveToken) -> Result<LiveToken, AuthFailure> {
        let (granted, needed) = (live.granted(), self.settings.login_before_token_expiry);
        if granted > needed {
            Ok(live)
        } else {
            Err(AuthFailure::ShortLease { granted, needed })
        }
    }

    fn report<T>(&self, action: AuthAction, started: Moment, result: &Result<T, AuthFailure>) {
        let failure = result.as_ref().err();
        (self.hook)(&AuthEvent {
            action,
            outcome: failure.map_or(LoginOutcome::Ok, AuthFailure::outcome),
            detail: failure.map(AuthFailure::detail),
            failure: failure.map(|failure| failure as &(dyn Error + 'static)),
            duration: started.elapsed.elapsed(),
        });
    }

    fn now(&self) -> Moment {
        Moment {
            elapsed: Instant::now(),
            wall: self.clock.now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
