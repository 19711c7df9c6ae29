//! What the session knows, and what follows from it. No waiting, no clock of its own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use openbao_client::token::Token;

use super::{
    AuthFailure,
    lease::{LiveToken, Moment},
    pause::{Backoff, RecoveryLimit},
};

/// The health of authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthState {
    /// No attempt has ended yet, or its token was refused or is over.
    Unknown,
    /// A live token, and no failure since.
    Authenticated,
    /// The last attempt failed; an older token may still live.
    Unhealthy,
}

/// A look at the session. Holds no secret.
#[derive(Debug, Clone)]
pub struct AuthStatus {
    /// The health of authentication.
    pub state: AuthState,
    /// The life left of the token; `None` without a live one.
    pub token_remaining: Option<Duration>,
    /// When the credential of the last login expires, by the wall clock.
    pub credential_expires: Option<SystemTime>,
    /// When the last login succeeded.
    pub last_login: Option<SystemTime>,
    /// When the last renewal succeeded.
    pub last_renewal: Option<SystemTime>,
    /// Why the last attempt failed, if it did.
    pub failure: Option<AuthFailure>,
    /// Attempts that failed in a row.
    pub consecutive_failures: u32,
    /// The rest of the pause after a failed attempt.
    pub retry_in: Option<Duration>,
}

/// What a reader gets.
pub(super) enum Wanted {
    Token(Arc<Token>),
    Failed(AuthFailure),
    /// The end of an attempt is to be awaited.
    Wait,
}

/// What follows from a refused token.
pub(super) enum Rejected {
    /// Ask for a token: it is another one, now or after the attempt.
    Replace,
    /// Too soon after the last replacement; the token stays, since the policy may be the cause.
    Paused,
}

pub(super) struct State {
    refresh_ahead: Duration,
    current: Option<LiveToken>,
    /// An attempt is asked for or running.
    attempting: bool,
    backoff: Backoff,
    recovery: RecoveryLimit,
    failure: Option<AuthFailure>,
    credential_expires: Option<SystemTime>,
    last_login: Option<SystemTime>,
    last_renewal: Option<SystemTime>,
}

impl State {
    pub(super) fn new(refresh_ahead: Duration) -> Self {
        Self {
            refresh_ahead,
            current: None,
            attempting: false,
            backoff: Backoff::default(),
            recovery: RecoveryLimit::default(),
            failure: None,
            credential_expires: None,
            last_login: None,
            last_renewal: None,
        }
    }

    /// The answer for a reader, and whether an attempt must start for it. The pause after a failed
    /// attempt gives those who waited for it the failure.
    pub(super) fn want(&mut self, now: Moment) -> (Wanted, bool) {
        let paused = self.backoff.remaining(now.elapsed).is_some();
        let live = self.live(now).map(|(token, left)| (token.clone(), left));
        let (wanted, start) = match (live, &self.failure) {
            (Some((token, left)), _) => {
                (Wanted::Token(token), left <= self.refresh_ahead && !paused)
            }
            (None, Some(failure)) if paused => (Wanted::Failed(failure.clone()), false),
            (None, _) => (Wanted::Wait, true),
        };
        let start = start && !self.attempting;
        self.attempting |= start;
        (wanted, start)
    }

    /// Drops the refused token if it is the current one and may be replaced now. A refusal of an
    /// older token only means that there is, or will be, another.
    pub(super) fn reject(&mut self, token: &Arc<Token>, now: Moment) -> Rejected {
        if self.is_current(token) {
            if !self.recovery.refused(now.elapsed) {
                return Rejected::Paused;
            }
            self.current = None;
        }
        Rejected::Replace
    }

    /// Drops a replacement that was refused as well; the next reader asks for another.
    pub(super) fn discard(&mut self, token: &Arc<Token>) {
        if self.is_current(token) {
            self.current = None;
        }
    }

    /// The token that an attempt should renew.
    pub(super) fn renewable(&mut self, now: Moment) -> Option<Arc<Token>> {
        self.live(now)?;
        let current = self.current.as_ref()?;
        current.renewable().then(|| current.token.clone())
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
                self.backoff.failed(now.elapsed);
                self.failure = Some(failure);
            }
        }
    }

    pub(super) fn status(&mut self, now: Moment) -> AuthStatus {
        let token_remaining = self.live(now).map(|(_, left)| left);
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

    fn live(&mut self, now: Moment) -> Option<(&Arc<Token>, Duration)> {
        let current = self.current.as_mut()?;
        let left = current.remaining(now);
        (!left.is_zero()).then_some((&current.token, left))
    }

    fn is_current(&self, token: &Arc<Token>) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(&current.token, token))
    }
}
