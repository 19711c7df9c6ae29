//! What the session knows, and what follows from it. No waiting, no clock of its own.

use std::{
    mem,
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

/// Least time from a login that granted a token to the next.
const BETWEEN_LOGINS: Duration = Duration::from_secs(1);

/// The health of authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthState {
    /// No attempt has ended yet, or OpenBao rejected its token.
    Unknown,
    /// A token, and no failure since.
    Authenticated,
    /// The last attempt failed; an older token may still work.
    Unhealthy,
}

/// A look at the session. Holds no secret.
#[derive(Debug, Clone)]
pub struct AuthStatus {
    /// The health of authentication.
    pub state: AuthState,
    /// The life left of the token by our clocks; zero for one that is tried beyond its lease. `None`
    /// without a token.
    pub token_remaining: Option<Duration>,
    /// When the credential of the last login expires, by the wall clock.
    pub credential_expires: Option<SystemTime>,
    /// When the last login succeeded.
    pub last_login: Option<SystemTime>,
    /// When the last renewal succeeded.
    pub last_renewal: Option<SystemTime>,
    /// Why the last attempt failed, if it did.
    pub failure: Option<AuthFailure>,
    /// The last failure, also when a later attempt succeeded.
    pub last_failure: Option<PastFailure>,
    /// Attempts that failed in a row.
    pub consecutive_failures: u32,
    /// The rest of the pause after a failed attempt.
    pub retry_in: Option<Duration>,
}

/// A failed login in bounded words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastFailure {
    /// By the wall clock.
    pub at: SystemTime,
    /// The label of metrics and logs.
    pub outcome: LoginOutcome,
    /// The cause within the outcome.
    pub detail: &'static str,
}

/// What a reader gets.
pub(super) enum Wanted {
    Token(Arc<Token>),
    Failed(AuthFailure),
    /// The end of an attempt is to be awaited.
    Wait,
}

pub(super) struct State {
    refresh_ahead: Duration,
    current: Option<LiveToken>,
    /// OpenBao accepted the current token in a call.
    worked: bool,
    /// The token before was rejected before it had worked.
    rejected_unused: bool,
    /// An attempt is asked for or running.
    attempting: bool,
    /// The next attempt must not renew.
    login_only: bool,
    backoff: Backoff,
    recovery: RecoveryLimit,
    /// Start of the last login that granted a token.
    granted: Option<Instant>,
    failure: Option<AuthFailure>,
    last_failure: Option<PastFailure>,
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
            credential_expires: None,
            last_login: None,
            last_renewal: None,
        }
    }

    /// The answer for a reader, and whether an attempt must start for it. The age of a token decides
    /// only about the attempt. The pause after a failed attempt gives those without a token the
    /// failure.
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

    /// Drops a token that OpenBao rejected as invalid. A login may follow, unless OpenBao rejects one
    /// fresh token after the other: then that is a failure with its pause.
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

    /// A policy denied a call, so the token stays. Says whether an attempt must start, since a new
    /// token may have other policies.
    pub(super) fn denied(&mut self, token: &Arc<Token>, now: Moment) -> bool {
        self.worked(token);
        let permitted = self.is_current(token) && self.recovery.denied(now.elapsed);
        let start = permitted && self.start(now);
        self.login_only |= start;
        start
    }

    /// The token that an attempt should renew.
    pub(super) fn renewable(&mut self) -> Option<Arc<Token>> {
        let login_only = mem::take(&mut self.login_only);
        let current = self.current.as_ref().filter(|_| !login_only)?;
        current.renewable().then(|| current.token.clone())
    }

    /// The earliest moment for another login, however often tokens are revoked.
    pub(super) fn next_login(&self) -> Option<Instant> {
        Some(self.granted? + BETWEEN_LOGINS)
    }

    /// Ends an attempt with a renewal, unless the token that was renewed has been dropped.
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
        result: Result<(LiveToken, SystemTime), AuthFailure>,
        now: Moment,
    ) {
        match result {
            Ok((live, credential_expires)) => {
                self.granted = Some(live.since());
                self.worked = false;
                self.credential_expires = Some(credential_expires);
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

    /// Asks for an attempt, unless one is asked for already or must wait.
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
