//! State machine of the session, without waits or a clock.

use std::{
    mem,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime},
};

use openbao_client::{login::LoginOutcome, token::Token};
use tokio::time::Instant;

use super::{
    AuthFailure,
    lease::{LiveToken, Moment},
    pause::{Backoff, RecoveryLimit},
};

/// Minimum interval between logins after a successful one.
const BETWEEN_LOGINS: Duration = Duration::from_secs(1);

/// The health of authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthState {
    /// Before the end of the first attempt, or after OpenBao rejected the token.
    Unknown,
    /// There is a token, and the last attempt succeeded.
    Authenticated,
    /// The last attempt failed; an older token may still work.
    Unhealthy,
}

/// Status of the session, free of secrets.
#[derive(Debug, Clone)]
pub struct AuthStatus {
    pub state: AuthState,
    /// Remaining life of the token by local clocks; zero for a token in use beyond its lease.
    /// `None` without a token.
    pub token_remaining: Option<Duration>,
    /// Number of requests that OpenBao grants to each token; `None` for any number.
    pub token_uses: Option<NonZeroU32>,
    /// Expiry of the credential of the last login, by the wall clock.
    pub credential_expires: Option<SystemTime>,
    /// Time of the last successful login.
    pub last_login: Option<SystemTime>,
    /// Time of the last successful renewal.
    pub last_renewal: Option<SystemTime>,
    /// The failure of the last attempt, if it failed.
    pub failure: Option<AuthFailure>,
    /// The last failure, also after a later success.
    pub last_failure: Option<PastFailure>,
    /// Failed attempts in a row.
    pub consecutive_failures: u32,
    /// The rest of the pause after a failed attempt.
    pub retry_in: Option<Duration>,
}

/// A failed login in bounded words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastFailure {
    /// Time by the wall clock.
    pub at: SystemTime,
    /// The label of metrics and logs.
    pub outcome: LoginOutcome,
    /// The cause within the outcome.
    pub detail: &'static str,
}

/// Answer to a caller that needs a token.
pub(super) enum Wanted {
    Token(Arc<Token>),
    Failed(AuthFailure),
    /// The caller has to wait for the end of an attempt.
    Wait,
}

pub(super) struct State {
    refresh_ahead: Duration,
    current: Option<LiveToken>,
    /// OpenBao accepted the current token in a call.
    worked: bool,
    /// The previous token was rejected before any call succeeded with it.
    rejected_unused: bool,
    /// An attempt is requested or running.
    attempting: bool,
    /// The next attempt has to be a login instead of a renewal.
    login_only: bool,
    backoff: Backoff,
    recovery: RecoveryLimit,
    /// Start of the last login that granted a token.
    granted: Option<Instant>,
    failure: Option<AuthFailure>,
    last_failure: Option<PastFailure>,
    token_uses: Option<NonZeroU32>,
    credential_expires: Option<SystemTime>,
    last_login: Option<SystemTime>,
    last_renewal: Option<SystemTime>,
}

impl State {
    pub(super) fn new(refresh_ahead: Duration) -> Self {
        Self {
            refresh_ahead,
            current: None,
            worked: false,
            rejected_unused: false,
            attempting: false,
            login_only: false,
            backoff: Backoff::default(),
            recovery: RecoveryLimit::default(),
            granted: None,
            failure: None,
            last_failure: None,
            token_uses: None,
            credential_expires: None,
            last_login: None,
            last_renewal: None,
        }
    }

    /// The answer for a caller, and whether to start an attempt for it. The age of a token only
    /// affects the attempt. During the pause after a failed attempt, callers without a token get
    /// that failure.
    pub(super) fn want(&mut self, now: Moment) -> (Wanted, bool) {
        let paused = self.backoff.remaining(now.elapsed).is_some();
        let (wanted, due) = match (&mut self.current, &self.failure) {
            (Some(current), _) => {
                let due = current.remaining(now) <= self.refresh_ahead;
                (Wanted::Token(current.token.clone()), due)
            }
            (None, Some(failure)) if paused && !self.attempting => {
                (Wanted::Failed(failure.clone()), false)
            }
            (None, _) => (Wanted::Wait, true),
        };
        (wanted, due && self.start(now))
    }

    /// OpenBao accepted the token.
    pub(super) fn worked(&mut self, token: &Arc<Token>) {
        if self.is_current(token) {
            self.worked = true;
            self.rejected_unused = false;
            self.backoff.token_worked();
        }
    }

    /// Drops a token rejected by OpenBao as invalid. A login may follow immediately, unless OpenBao
    /// rejects two unused tokens in a row: this counts as a failure with a pause.
    pub(super) fn rejected(&mut self, token: &Arc<Token>, now: Moment) {
        if !self.is_current(token) {
            return;
        }
        self.current = None;
        let in_a_row = !self.worked && mem::replace(&mut self.rejected_unused, true);
        if in_a_row {
            self.fail(AuthFailure::Rejected, now);
        } else {
            self.backoff.permit();
        }
    }

    /// Handles a call denied by policy; the token stays. Returns whether to start an attempt,
    /// because a new token may have other policies.
    pub(super) fn denied(&mut self, token: &Arc<Token>, now: Moment) -> bool {
        self.worked(token);
        let permitted = self.is_current(token) && self.recovery.denied(now.elapsed);
        let start = permitted && self.start(now);
        self.login_only |= start;
        start
    }

    /// The token to be renewed by an attempt.
    pub(super) fn renewable(&mut self) -> Option<Arc<Token>> {
        let login_only = mem::take(&mut self.login_only);
        let current = self.current.as_ref().filter(|_| !login_only)?;
        current.renewable().then(|| current.token.clone())
    }

    /// The earliest time for another login, even if tokens are revoked repeatedly.
    pub(super) fn next_login(&self) -> Option<Instant> {
        Some(self.granted? + BETWEEN_LOGINS)
    }

    /// Ends an attempt with a renewal, unless the renewed token has been dropped.
    pub(super) fn renewed(&mut self, from: &Arc<Token>, renewed: LiveToken, now: Moment) -> bool {
        let still_current = self.is_current(from);
        if still_current {
            self.last_renewal = Some(now.wall);
            self.succeeded(renewed);
        }
        still_current
    }

    /// Ends an attempt with a login.
    pub(super) fn logged_in(
        &mut self,
        result: Result<(LiveToken, Option<SystemTime>), AuthFailure>,
        now: Moment,
    ) {
        match result {
            Ok((live, credential_expires)) => {
                self.granted = Some(live.since());
                self.worked = false;
                self.token_uses = live.uses();
                self.credential_expires = credential_expires;
                self.last_login = Some(now.wall);
                self.succeeded(live);
            }
            Err(failure) => {
                if let AuthFailure::Login(failure) = &failure
                    && let Some(remaining) = failure.credential_remaining()
                {
                    self.credential_expires = Some(now.wall + remaining);
                }
                self.attempting = false;
                self.fail(failure, now);
            }
        }
    }

    pub(super) fn status(&mut self, now: Moment) -> AuthStatus {
        let current = self.current.as_mut();
        let token_remaining = current.map(|current| current.remaining(now));
        let state = match (&self.failure, token_remaining) {
            (Some(_), _) => AuthState::Unhealthy,
            (None, Some(_)) => AuthState::Authenticated,
            (None, None) => AuthState::Unknown,
        };
        AuthStatus {
            state,
            token_remaining,
            token_uses: self.token_uses,
            credential_expires: self.credential_expires,
            last_login: self.last_login,
            last_renewal: self.last_renewal,
            failure: self.failure.clone(),
            last_failure: self.last_failure,
            consecutive_failures: self.backoff.failures(),
            retry_in: self.backoff.remaining(now.elapsed),
        }
    }

    fn succeeded(&mut self, live: LiveToken) {
        self.current = Some(live);
        self.attempting = false;
        self.failure = None;
        self.backoff.succeeded();
    }

    fn fail(&mut self, failure: AuthFailure, now: Moment) {
        self.backoff.failed(now.elapsed, failure.cause());
        self.last_failure = Some(PastFailure {
            at: now.wall,
            outcome: failure.outcome(),
            detail: failure.detail(),
        });
        self.failure = Some(failure);
    }

    /// Requests an attempt, unless one is pending or a pause is in force.
    fn start(&mut self, now: Moment) -> bool {
        let start = !self.attempting && self.backoff.remaining(now.elapsed).is_none();
        self.attempting |= start;
        start
    }

    fn is_current(&self, token: &Arc<Token>) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(&current.token, token))
    }
}
