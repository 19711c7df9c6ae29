//! A standby identity: another login, used while the configured one fails because of its
//! credential.
//!
//! An outage, a rate limit or an unexpected answer of OpenBao does not start the standby: it would
//! fail alike, and its use would hide the cause. While the standby is in use, the configured login is
//! tried again: as soon as its credential can be read, and after a rejection by OpenBao with growing
//! pauses.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    failure::Failure,
    login::{Grant, Login, LoginFailure, Pending, Renewal},
    token::Token,
};

/// Pause before the configured credential is read again.
const READ_PAUSE: Duration = Duration::from_secs(10);
/// First pause after OpenBao has rejected the configured login.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The login that granted the token in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `auth.method`.
    Configured,
    /// `auth.fallback`.
    Fallback,
}

impl Identity {
    /// The metric and log label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Fallback => "fallback",
        }
    }
}

/// A change between the identities, or a failed attempt of the standby.
pub enum FallbackEvent<'a> {
    /// The standby granted a token, after this failure of the configured login.
    Started(&'a LoginFailure),
    /// The standby failed as well.
    Failed(&'a LoginFailure),
    /// The configured login granted a token again.
    Ended,
}

/// Called for every event. It must return quickly.
pub type FallbackHook = Arc<dyn Fn(&FallbackEvent<'_>) + Send + Sync>;

/// A login with a standby.
pub struct WithFallback {
    configured: Arc<dyn Login>,
    fallback: Arc<dyn Login>,
    hook: FallbackHook,
    /// `None` while the configured login is in use.
    standby: Mutex<Option<Standby>>,
}

/// The standby in use.
#[derive(Clone, Copy)]
struct Standby {
    /// Next attempt of the configured login.
    next: Instant,
    /// Pause after the next rejection by OpenBao.
    pause: Duration,
}

impl WithFallback {
    /// `fallback` is used while `configured` fails because of its credential.
    #[must_use]
    pub fn new(configured: Arc<dyn Login>, fallback: Arc<dyn Login>, hook: FallbackHook) -> Self {
        Self {
            configured,
            fallback,
            hook,
            standby: Mutex::default(),
        }
    }

    fn standby(&self) -> MutexGuard<'_, Option<Standby>> {
        self.standby.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans the next attempt of the configured login. A credential rejected on this node costs a
    /// read of its file; one rejected by OpenBao costs a request there.
    fn postpone(&self, failure: &LoginFailure) {
        let mut standby = self.standby();
        let pause = standby.map_or(FIRST_PAUSE, |standby| standby.pause);
        let now = Instant::now();
        *standby = Some(match failure {
            LoginFailure::OpenBao(_) => Standby {
                next: now + pause,
                pause: (pause * 2).min(LONGEST_PAUSE),
            },
            _ => Standby {
                next: now + READ_PAUSE,
                pause,
            },
        });
    }

    /// A login as configured; a token ends the use of the standby.
    async fn log_in_as_configured(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Result<Grant, LoginFailure> {
        let granted = self.configured.log_in(now, deadline).await;
        match &granted {
            Ok(_) => {
                if self.standby().take().is_some() {
                    (self.hook)(&FallbackEvent::Ended);
                }
            }
            Err(failure) => {
                if self.standby().is_some() {
                    self.postpone(failure);
                }
            }
        }
        granted
    }
}

impl Login for WithFallback {
    /// The credential of the configured login: the standby hides no problem of it.
    fn check(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        self.configured.check(now)
    }

    /// If both fail, the failure is that of the configured login.
    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let failure = match self.log_in_as_configured(now, deadline / 2).await {
                Err(failure) if failure.is_of_the_credential() => failure,
                other => return other,
            };
            match self.fallback.log_in(now, deadline / 2).await {
                Ok(grant) => {
                    let starts = self.standby().is_none();
                    if starts {
                        self.postpone(&failure);
                        (self.hook)(&FallbackEvent::Started(&failure));
                    }
                    Ok(grant)
                }
                Err(second) => {
                    (self.hook)(&FallbackEvent::Failed(&second));
                    Err(failure)
                }
            }
        })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        match self.identity() {
            Identity::Configured => self.configured.renew(token, increment, deadline),
            Identity::Fallback => self.fallback.renew(token, increment, deadline),
        }
    }

    fn log_in_again(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(self.log_in_as_configured(now, deadline))
    }

    fn identity(&self) -> Identity {
        match *self.standby() {
            None => Identity::Configured,
            Some(_) => Identity::Fallback,
        }
    }

    fn is_due(&self) -> bool {
        self.standby()
            .is_some_and(|standby| standby.next <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::atomic::AtomicUsize, sync::atomic::Ordering};

    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        failure::FailureClass, login::secret_file::SecretProblem, request::Operation, token::Lease,
    };

    /// Plays results; grants tokens at the end of them.
    #[derive(Default)]
    struct Scripted {
        failures: Mutex<VecDeque<LoginFailure>>,
        count: AtomicUsize,
    }

    impl Login for Scripted {
        fn check(&self, _: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
            Box::pin(async { Ok(None) })
        }

        fn log_in(&self, _: SystemTime, _: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
            Box::pin(async {
                self.count.fetch_add(1, Ordering::SeqCst);
                if let Some(failure) = self.failures.lock().unwrap().pop_front() {
                    return Err(failure);
                }
                Ok(Grant {
                    token: Token::new(Zeroizing::new("t".to_owned())).ok().unwrap(),
                    lease: Lease {
                        duration: Duration::from_secs(1800),
                        renewable: true,
                        uses: None,
                    },
                    credential_expires: None,
                })
            })
        }

        fn renew<'a>(
            &'a self,
            _: &'a Token,
            _: Duration,
            _: Duration,
        ) -> Pending<'a, Result<Renewal, Failure>> {
            unreachable!()
        }
    }

    fn of_openbao(class: FailureClass) -> LoginFailure {
        LoginFailure::OpenBao(Failure::new(Operation::JwtLogin, class))
    }

    struct Stage {
        configured: Arc<Scripted>,
        fallback: Arc<Scripted>,
        login: WithFallback,
        events: Arc<Mutex<Vec<&'static str>>>,
    }

    impl Stage {
        fn new(failures: impl IntoIterator<Item = LoginFailure>) -> Self {
            let configured = Arc::new(Scripted::default());
            *configured.failures.lock().unwrap() = failures.into_iter().collect();
            let fallback = Arc::new(Scripted::default());
            let events: Arc<Mutex<Vec<_>>> = Arc::default();
            let told = Arc::clone(&events);
            let hook = Arc::new(move |event: &FallbackEvent<'_>| {
                told.lock().unwrap().push(match event {
                    FallbackEvent::Started(_) => "started",
                    FallbackEvent::Failed(_) => "failed",
                    FallbackEvent::Ended => "ended",
                });
            });
            Self {
                login: WithFallback::new(configured.clone(), fallback.clone(), hook),
                configured,
                fallback,
                events,
            }
        }

        async fn log_in(&self) -> Result<(), LoginFailure> {
            let (now, limit) = (SystemTime::UNIX_EPOCH, Duration::from_secs(5));
            self.login.log_in(now, limit).await.map(drop)
        }

        async fn log_in_again(&self) -> bool {
            let (now, limit) = (SystemTime::UNIX_EPOCH, Duration::from_secs(5));
            self.login.log_in_again(now, limit).await.is_ok()
        }
    }

    #[tokio::test]
    async fn only_a_failure_of_the_credential_starts_the_standby() {
        for class in [
            FailureClass::Sealed,
            FailureClass::RateLimited,
            FailureClass::Timeout,
            FailureClass::ConnectionFailed,
            FailureClass::InvalidAnswer,
        ] {
            let stage = Stage::new([of_openbao(class)]);
            assert!(stage.log_in().await.is_err(), "{class:?}");
            assert_eq!(stage.fallback.count.load(Ordering::SeqCst), 0, "{class:?}");
            assert_eq!(stage.login.identity(), Identity::Configured);
        }
        for failure in [
            of_openbao(FailureClass::InvalidRequest),
            of_openbao(FailureClass::PermissionDenied),
            LoginFailure::Secret(SecretProblem::Empty),
        ] {
            let stage = Stage::new([failure]);
            stage.log_in().await.unwrap();
            assert_eq!(stage.login.identity(), Identity::Fallback);
            assert_eq!(*stage.events.lock().unwrap(), ["started"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_configured_login_is_tried_again_with_growing_pauses_until_it_works() {
        let refused = || of_openbao(FailureClass::InvalidRequest);
        let stage = Stage::new([refused(), refused(), refused()]);
        stage.log_in().await.unwrap();
        for pause in [FIRST_PAUSE, 2 * FIRST_PAUSE] {
            assert!(!stage.login.is_due());
            tokio::time::advance(pause - Duration::from_millis(1)).await;
            assert!(!stage.login.is_due());
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(stage.login.is_due());
            assert!(!stage.log_in_again().await);
        }
        assert_eq!(stage.login.identity(), Identity::Fallback);
        assert_eq!(stage.fallback.count.load(Ordering::SeqCst), 1);
        assert!(stage.log_in_again().await);
        assert_eq!(stage.login.identity(), Identity::Configured);
        assert!(!stage.login.is_due());
        assert_eq!(*stage.events.lock().unwrap(), ["started", "ended"]);
        assert_eq!(stage.configured.count.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn if_both_fail_the_failure_of_the_configured_login_is_the_result() {
        let stage = Stage::new([LoginFailure::Secret(SecretProblem::Empty)]);
        let second = of_openbao(FailureClass::InvalidRequest);
        stage.fallback.failures.lock().unwrap().push_back(second);
        assert_eq!(stage.log_in().await.unwrap_err().detail(), "empty");
        assert_eq!(stage.login.identity(), Identity::Configured);
        assert_eq!(*stage.events.lock().unwrap(), ["failed"]);
    }
}
