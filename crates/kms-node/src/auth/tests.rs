//! The token's life under a paused clock, with a scripted login.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::UNIX_EPOCH,
};

use openbao_client::{
    credential_file::CredentialFileProblem,
    failure::FailureClass,
    login::{
        Pending,
        jwt::JwtProblem,
        oauth2::{OAuth2Problem, TokenError},
    },
    request::Operation,
    token::Lease,
};
use tokio::{
    task::{JoinHandle, yield_now},
    time::sleep,
};
use zeroize::Zeroizing;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

const SETTINGS: SessionSettings = SessionSettings {
    login_before_token_expiry: Duration::from_secs(300),
    token_renewal_increment: HOUR,
    login_timeout: Duration::from_secs(8),
};

/// One scripted answer; it takes a second.
#[derive(Clone)]
enum Step {
    /// A lease of this length.
    Good(Duration),
    /// A renewable lease.
    Renewable(Duration),
    Fail(LoginFailure),
    Hang,
}

/// Tokens are called `t1`, `t2` and so on; after its end, a script grants leases of hours.
#[derive(Default)]
struct Script {
    logins: Mutex<VecDeque<Step>>,
    renewals: Mutex<VecDeque<Step>>,
    login_count: AtomicUsize,
    renewal_count: AtomicUsize,
}

impl Script {
    fn new(logins: &[Step], renewals: &[Step]) -> Arc<Self> {
        Arc::new(Self {
            logins: Mutex::new(logins.iter().cloned().collect()),
            renewals: Mutex::new(renewals.iter().cloned().collect()),
            ..Self::default()
        })
    }

    fn logins(&self) -> usize {
        self.login_count.load(Ordering::SeqCst)
    }

    fn renewals(&self) -> usize {
        self.renewal_count.load(Ordering::SeqCst)
    }
}

struct ScriptedLogin {
    script: Arc<Script>,
    clock: Arc<TestClock>,
}

/// A standby identity, whose token the next login replaces.
struct StandIn {
    login: ScriptedLogin,
    is_due: Arc<AtomicBool>,
}

impl Login for StandIn {
    fn check(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        self.login.check(now)
    }

    fn log_in(&self, now: SystemTime, limit: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
        self.login.log_in(now, limit)
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        limit: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        self.login.renew(token, increment, limit)
    }

    fn is_due(&self) -> bool {
        self.is_due.swap(false, Ordering::SeqCst)
    }
}

async fn play(steps: &Mutex<VecDeque<Step>>) -> Result<Lease, LoginFailure> {
    let step = steps.lock().unwrap().pop_front();
    sleep(SECOND).await;
    let (duration, renewable) = match step.unwrap_or(Step::Good(HOUR)) {
        Step::Good(duration) => (duration, false),
        Step::Renewable(duration) => (duration, true),
        Step::Fail(failure) => return Err(failure),
        Step::Hang => std::future::pending().await,
    };
    Ok(Lease {
        duration,
        renewable,
        uses: None,
    })
}

impl Login for ScriptedLogin {
    fn check(&self, _: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async { Ok(None) })
    }

    fn log_in(&self, _: SystemTime, _: Duration) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async {
            let number = self.script.login_count.fetch_add(1, Ordering::SeqCst) + 1;
            let lease = play(&self.script.logins).await?;
            let text = Zeroizing::new(format!("t{number}"));
            Ok(Grant {
                token: Token::new(text).ok().unwrap(),
                lease,
                credential_expires: Some(self.clock.now() + 2 * HOUR),
            })
        })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        _: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        assert_eq!(increment, SETTINGS.token_renewal_increment);
        Box::pin(async {
            self.script.renewal_count.fetch_add(1, Ordering::SeqCst);
            let refusal = |failed| match failed {
                LoginFailure::OpenBao(failure) => failure,
                _ => unreachable!(),
            };
            let lease = play(&self.script.renewals).await.map_err(refusal)?;
            let text = Zeroizing::new(token.expose().to_owned());
            Ok(Renewal {
                token: Token::new(text).ok(),
                lease,
            })
        })
    }
}

/// Runs with the runtime's time, and can be set.
struct TestClock {
    start: Instant,
    set: Mutex<SystemTime>,
}

impl TestClock {
    fn step_forward(&self, by: Duration) {
        *self.set.lock().unwrap() += by;
    }

    fn step_back(&self, by: Duration) {
        *self.set.lock().unwrap() -= by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.set.lock().unwrap() + self.start.elapsed()
    }
}

struct Fixture {
    session: Session,
    script: Arc<Script>,
    clock: Arc<TestClock>,
    events: Arc<Mutex<Vec<(AuthAction, &'static str)>>>,
    task: JoinHandle<()>,
}

fn fixture(logins: &[Step], renewals: &[Step]) -> Fixture {
    let script = Script::new(logins, renewals);
    let clock = Arc::new(TestClock {
        start: Instant::now(),
        set: Mutex::new(UNIX_EPOCH + 1000 * HOUR),
    });
    let events = Arc::new(Mutex::default());
    let hook: AuthHook = {
        let events: Arc<Mutex<Vec<_>>> = Arc::clone(&events);
        Arc::new(move |event| {
            assert_eq!(event.failure.is_none(), event.outcome == LoginOutcome::Ok);
            let told = (event.action, event.outcome.label());
            events.lock().unwrap().push(told);
        })
    };
    let login = Arc::new(ScriptedLogin {
        script: script.clone(),
        clock: clock.clone(),
    });
    let (session, task) = Session::new(SETTINGS, login, clock.clone(), hook);
    Fixture {
        session,
        script,
        clock,
        events,
        task: tokio::spawn(task.run()),
    }
}

fn failure(class: FailureClass) -> Failure {
    Failure::new(Operation::TransitEncrypt, class)
}

fn unavailable() -> Step {
    Step::Fail(LoginFailure::OpenBao(failure(FailureClass::Unavailable)))
}

impl Fixture {
    async fn token(&self) -> String {
        self.session
            .token()
            .await
            .unwrap_or_else(|failure| panic!("{failure}"))
            .expose()
            .to_owned()
    }

    /// Makes a call; tokens of these names are rejected. Returns the tokens tried.
    async fn call(&self, refused: &[&str]) -> (Vec<String>, Result<(), CallFailure>) {
        let tried = Mutex::new(Vec::new());
        let result = self
            .session
            .call(|token| {
                let tried = &tried;
                async move {
                    tried.lock().unwrap().push(token.expose().to_owned());
                    yield_now().await;
                    if refused.contains(&token.expose()) {
                        Err(failure(FailureClass::Unauthenticated))
                    } else {
                        Ok(())
                    }
                }
            })
            .await;
        (tried.into_inner().unwrap(), result)
    }

    /// Makes a call denied by policy.
    async fn denied(&self) -> Vec<String> {
        let tried = Mutex::new(Vec::new());
        let result = self
            .session
            .call(|token| {
                tried.lock().unwrap().push(token.expose().to_owned());
                async { Err::<(), _>(failure(FailureClass::PermissionDenied)) }
            })
            .await;
        assert!(matches!(result, Err(CallFailure::OpenBao(_))));
        tried.into_inner().unwrap()
    }

    fn state(&self) -> AuthState {
        self.session.status().state
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_token_is_used_without_asking_again() {
    let f = fixture(&[Step::Good(HOUR)], &[]);
    assert_eq!(f.state(), AuthState::Unknown);
    assert_eq!(f.token().await, "t1");
    sleep(HOUR - 6 * MINUTE).await;
    assert_eq!(f.token().await, "t1");
    assert_eq!(f.script.logins(), 1);
    let status = f.session.status();
    assert_eq!(status.state, AuthState::Authenticated);
    assert_eq!(status.token_remaining, Some(6 * MINUTE - SECOND));
    assert_eq!(*f.events.lock().unwrap(), [(AuthAction::Login, "ok")]);
}

#[tokio::test(start_paused = true)]
async fn waiting_callers_share_one_login_and_leave_it_alone() {
    let f = fixture(&[], &[]);
    let impatient = tokio::time::timeout(SECOND / 2, f.session.token());
    let (gone, a, b) = tokio::join!(impatient, f.token(), f.token());
    assert!(gone.is_err());
    assert_eq!((a.as_str(), b.as_str()), ("t1", "t1"));
    assert_eq!(f.script.logins(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_near_its_end_is_renewed_behind_its_readers() {
    let f = fixture(&[Step::Renewable(HOUR)], &[Step::Renewable(HOUR)]);
    f.token().await;
    sleep(HOUR - 5 * MINUTE).await;
    let before = Instant::now();
    for _ in 0..5 {
        assert_eq!(f.token().await, "t1");
    }
    assert_eq!(Instant::now(), before);
    sleep(2 * SECOND).await;
    assert_eq!((f.script.logins(), f.script.renewals()), (1, 1));
    let status = f.session.status();
    assert_eq!(status.token_remaining, Some(HOUR - 2 * SECOND));
    assert!(status.last_renewal > status.last_login);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_is_replaced_by_a_login() {
    for (first, renewals, events) in [
        (Step::Good(HOUR), vec![], vec![(AuthAction::Login, "ok")]),
        (
            Step::Renewable(HOUR),
            vec![unavailable()],
            vec![(AuthAction::Renewal, "error"), (AuthAction::Login, "ok")],
        ),
        // The maximum TTL clips a renewal.
        (
            Step::Renewable(HOUR),
            vec![Step::Renewable(5 * MINUTE)],
            vec![
                (AuthAction::Renewal, "auth_failed"),
                (AuthAction::Login, "ok"),
            ],
        ),
    ] {
        let f = fixture(&[first], &renewals);
        f.token().await;
        sleep(HOUR - 4 * MINUTE).await;
        assert_eq!(f.token().await, "t1");
        sleep(5 * SECOND).await;
        assert_eq!(f.token().await, "t2");
        assert_eq!(f.events.lock().unwrap()[1..], events);
    }
}

/// A proxy's 403 has no meaning for the token.
#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_from_openbao_leaves_the_token_in_use() {
    let not_openbao = || failure(FailureClass::NotOpenBao);
    let refused = Step::Fail(LoginFailure::OpenBao(not_openbao()));
    let f = fixture(&[Step::Good(HOUR), refused], &[unavailable()]);
    for _ in 0..3 {
        let call = f.session.call(|_| async { Err::<(), _>(not_openbao()) });
        let failed = call.await.err().unwrap();
        assert_eq!(failed.class(), Some(FailureClass::NotOpenBao));
    }
    assert_eq!(f.script.logins(), 1);
    // Nor does a 403 of a proxy for renewal and login.
    sleep(HOUR - 4 * MINUTE).await;
    assert_eq!(f.token().await, "t1");
    sleep(5 * SECOND).await;
    assert_eq!(f.token().await, "t1");
    let failed = f.session.status().failure.unwrap();
    assert_eq!(failed.outcome(), LoginOutcome::Error);
    let call = CallFailure::Auth(failed);
    assert_eq!(call.class(), Some(FailureClass::NotOpenBao));
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_repeated_ever_more_rarely() {
    let refused = Step::Fail(LoginFailure::OpenBao(failure(FailureClass::InvalidRequest)));
    let f = fixture(&[refused.clone(), refused, Step::Good(HOUR)], &[]);
    assert!(f.session.token().await.is_err());
    let before = Instant::now();
    for _ in 0..100 {
        assert!(f.session.token().await.is_err());
    }
    assert_eq!(Instant::now(), before);
    assert_eq!(f.script.logins(), 1);
    let status = f.session.status();
    assert_eq!(status.state, AuthState::Unhealthy);
    assert_eq!(status.consecutive_failures, 1);
    let failed = PastFailure {
        at: f.clock.now(),
        outcome: LoginOutcome::AuthFailed,
        detail: "invalid_request",
    };
    assert_eq!(status.last_failure, Some(failed));
    let pause = status.retry_in.unwrap();
    assert!(
        pause >= SECOND * 3 / 4 && pause <= SECOND * 5 / 4,
        "{pause:?}"
    );

    sleep(pause).await;
    assert!(f.session.token().await.is_err());
    let pause = f.session.status().retry_in.unwrap();
    assert!(
        pause >= SECOND * 3 / 2 && pause <= SECOND * 5 / 2,
        "{pause:?}"
    );
    sleep(pause).await;
    assert_eq!(f.token().await, "t3");
    let status = f.session.status();
    assert_eq!(status.state, AuthState::Authenticated);
    assert_eq!((status.consecutive_failures, status.retry_in), (0, None));
    assert!(status.last_failure.is_some(), "it is told afterwards too");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_refuses_is_asked_ever_more_rarely() {
    let rejected = OAuth2Problem::Rejected {
        status: 401,
        error: TokenError::InvalidClient,
    };
    for refusal in [rejected, OAuth2Problem::Unavailable(429)] {
        let refused = Step::Fail(LoginFailure::OAuth2(refusal));
        let f = fixture(&vec![refused; 60], &[]);
        let before = Instant::now();
        while before.elapsed() < MINUTE {
            assert!(f.session.token().await.is_err());
            sleep(SECOND / 10).await;
        }
        assert!(f.script.logins() <= 7, "{}", f.script.logins());
    }
}

#[tokio::test(start_paused = true)]
async fn after_any_outage_a_login_is_tried_within_two_seconds() {
    let file = LoginFailure::JwtFile(CredentialFileProblem::Missing);
    let absent = [
        FailureClass::ConnectionFailed,
        FailureClass::Sealed,
        FailureClass::Unavailable,
        FailureClass::NotOpenBao,
        FailureClass::TlsFailed,
        FailureClass::DnsFailed,
    ];
    let absent = absent.map(|class| LoginFailure::OpenBao(failure(class)));
    let issuer = LoginFailure::OAuth2(OAuth2Problem::Unavailable(503));
    for cause in absent.into_iter().chain([file, issuer]) {
        let f = fixture(&vec![Step::Fail(cause); 60], &[]);
        while f.script.logins() < 60 {
            assert!(f.session.token().await.is_err());
            sleep(SECOND / 10).await;
        }
        // OpenBao is back.
        let before = Instant::now();
        while f.session.token().await.is_err() {
            sleep(SECOND / 10).await;
        }
        // One second of it is the scripted login.
        assert!(before.elapsed() <= 3 * SECOND, "{:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_succeeds_ends_the_pause_of_an_outage() {
    let f = fixture(&[Step::Good(HOUR), unavailable()], &[]);
    f.token().await;
    sleep(HOUR - 4 * MINUTE).await;
    f.token().await;
    sleep(SECOND).await;
    yield_now().await;
    assert!(f.session.status().retry_in.is_some());
    f.call(&[]).await.1.unwrap();
    assert_eq!(f.session.status().retry_in, None);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_offered_until_openbao_rejects_it() {
    let script = vec![unavailable(); 1000];
    let f = fixture(&[&[Step::Good(HOUR)], &script[..]].concat(), &[]);
    f.token().await;
    sleep(HOUR - 4 * MINUTE).await;
    for _ in 0..40 {
        assert_eq!(f.call(&[]).await.0, ["t1"]);
        sleep(10 * SECOND).await;
    }
    assert_eq!(f.state(), AuthState::Unhealthy);
    assert_eq!(f.session.status().token_remaining, Some(Duration::ZERO));
    // Fewer attempts than readers.
    assert!(f.script.logins() <= 42, "{}", f.script.logins());
    let (tried, result) = f.call(&["t1"]).await;
    assert_eq!(tried, ["t1"]);
    assert!(matches!(result, Err(CallFailure::Auth(_))));
    assert!(f.session.token().await.is_err(), "never again");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_ends_at_its_deadline() {
    let f = fixture(&[Step::Hang], &[]);
    let before = Instant::now();
    let failure = f.session.token().await.err().unwrap();
    assert!(matches!(failure, AuthFailure::Timeout));
    assert_eq!(before.elapsed(), SETTINGS.login_timeout);
    assert_eq!(f.state(), AuthState::Unhealthy);
}

#[tokio::test(start_paused = true)]
async fn a_lease_must_outlast_the_refresh_window() {
    let f = fixture(
        &[Step::Good(5 * MINUTE), Step::Good(5 * MINUTE + SECOND)],
        &[],
    );
    let failure = f.session.token().await.err().unwrap();
    assert!(matches!(failure, AuthFailure::ShortLease { .. }));
    assert_eq!(failure.outcome(), LoginOutcome::AuthFailed);
    sleep(2 * SECOND).await;
    assert_eq!(f.token().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_and_the_call_repeated() {
    let f = fixture(&[], &[]);
    let (tried, result) = f.call(&["t1"]).await;
    assert_eq!(tried, ["t1", "t2"]);
    assert!(result.is_ok());
    assert_eq!(f.token().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn callers_rejected_together_share_one_replacement() {
    let f = fixture(&[], &[]);
    f.token().await;
    let rejected = ["t1"];
    let calls = tokio::join!(f.call(&rejected), f.call(&rejected), f.call(&rejected));
    for (tried, result) in [calls.0, calls.1, calls.2] {
        assert_eq!(tried, ["t1", "t2"]);
        assert!(result.is_ok());
    }
    assert_eq!(f.script.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_older_token_uses_the_current_one() {
    let f = fixture(&[], &[]);
    let old = f.session.token().await.ok().unwrap();
    f.call(&["t1"]).await.1.unwrap();
    f.session.shared.rejected(&old);
    assert_eq!(f.token().await, "t2");
    assert_eq!(f.script.logins(), 2);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_revoked_again_and_again_fail_no_call() {
    let f = fixture(&[], &[]);
    for number in 1..=60 {
        let current = format!("t{number}");
        let (tried, result) = f.call(&[&current]).await;
        assert_eq!(tried, [current, format!("t{}", number + 1)]);
        assert!(result.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_tokens_that_openbao_rejects_are_a_failure_and_cause_no_storm() {
    let f = fixture(&[], &[]);
    let before = Instant::now();
    let never = || {
        f.session
            .call(|_| async { Err::<(), _>(failure(FailureClass::Unauthenticated)) })
    };
    let failed = never().await.err().unwrap();
    assert!(matches!(failed, CallFailure::Auth(AuthFailure::Rejected)));
    while before.elapsed() < HOUR {
        assert!(never().await.is_err());
        sleep(SECOND).await;
    }
    assert!(f.script.logins() <= 90, "{}", f.script.logins());
    // The first working token ends it.
    sleep(MINUTE).await;
    f.call(&[]).await.1.unwrap();
    let current = f.token().await;
    let (tried, result) = f.call(&[&current]).await;
    assert_eq!(tried.len(), 2);
    assert!(result.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_denies_one_call_drops_no_token_and_causes_no_storm_of_logins() {
    let f = fixture(&[], &[]);
    f.token().await;
    for _ in 0..600 {
        let before = Instant::now();
        assert_eq!(f.denied().await.len(), 1, "repeated for nothing");
        // Calls allowed by policy succeed throughout.
        assert!(f.call(&[]).await.1.is_ok());
        assert_eq!(Instant::now(), before);
        sleep(SECOND).await;
    }
    // After about 0, 5, 15, 35, 75, 155 and 315 s: a new token may have other policies.
    assert_eq!(f.script.logins(), 8);
    assert_eq!(f.token().await, "t8");
}

#[tokio::test(start_paused = true)]
async fn a_denial_while_logins_fail_leaves_the_token_in_use() {
    let expired = Step::Fail(LoginFailure::Jwt(JwtProblem::Expired { since: HOUR }));
    let f = fixture(
        &[&[Step::Good(HOUR)][..], &vec![expired; 100]].concat(),
        &[],
    );
    f.token().await;
    for _ in 0..60 {
        f.denied().await;
        let (tried, result) = f.call(&[]).await;
        assert_eq!(tried, ["t1"]);
        assert!(result.is_ok());
        sleep(SECOND).await;
    }
    assert_eq!(f.session.status().last_failure.unwrap().detail, "expired");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_finds_the_token_dead_drops_it() {
    let dead = Step::Fail(LoginFailure::OpenBao(failure(
        FailureClass::Unauthenticated,
    )));
    let f = fixture(&[Step::Renewable(HOUR), unavailable()], &[dead]);
    f.token().await;
    sleep(HOUR - 4 * MINUTE).await;
    f.token().await;
    sleep(3 * SECOND / 2).await;
    assert_eq!((f.script.logins(), f.script.renewals()), (2, 1));
    // The call waits for the running login.
    assert!(f.session.token().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_of_a_rejected_token_is_not_used() {
    let f = fixture(&[Step::Renewable(HOUR)], &[Step::Renewable(HOUR)]);
    f.token().await;
    sleep(HOUR - 4 * MINUTE).await;
    let old = f.session.token().await.ok().unwrap();
    yield_now().await;
    assert_eq!(f.script.renewals(), 1);
    f.session.shared.rejected(&old);
    assert_eq!(f.token().await, "t2");
    assert_eq!((f.script.logins(), f.script.renewals()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_after_a_renewal_reaches_the_renewed_token() {
    let f = fixture(&[Step::Renewable(HOUR)], &[Step::Renewable(HOUR)]);
    f.token().await;
    sleep(HOUR - 4 * MINUTE).await;
    let old = f.session.token().await.ok().unwrap();
    sleep(2 * SECOND).await;
    assert_eq!(f.script.renewals(), 1);
    f.session.shared.rejected(&old);
    assert_eq!(f.token().await, "t2");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_ends_no_token_and_never_lengthens_a_lease() {
    let script = vec![unavailable(); 100];
    let f = fixture(&[&[Step::Good(HOUR)], &script[..]].concat(), &[]);
    f.token().await;
    f.clock.step_back(10 * HOUR);
    sleep(MINUTE).await;
    let left = HOUR - MINUTE - SECOND;
    assert_eq!(f.session.status().token_remaining, Some(left));
    f.clock.step_forward(10 * HOUR + 2 * HOUR);
    let before = Instant::now();
    for _ in 0..5 {
        assert_eq!(f.call(&[]).await.0, ["t1"]);
    }
    assert_eq!(Instant::now(), before, "waited for a login");
    f.clock.step_back(2 * HOUR);
    sleep(10 * SECOND).await;
    assert_eq!(f.call(&[]).await.0, ["t1"]);
    assert!(f.script.logins() > 1, "no login ahead");
}

#[tokio::test(start_paused = true)]
async fn the_credential_s_end_is_known_even_if_it_is_not_used() {
    let remaining = MINUTE;
    let near = LoginFailure::Jwt(JwtProblem::NearExpiry {
        remaining,
        required: 2 * MINUTE,
    });
    let f = fixture(&[Step::Fail(near)], &[]);
    let failure = f.session.token().await.err().unwrap();
    assert_eq!(failure.outcome(), LoginOutcome::JwtNearExpiry);
    let expires = f.session.status().credential_expires;
    assert_eq!(expires, Some(f.clock.now() + remaining));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_task_ends_every_wait() {
    let f = fixture(&[Step::Hang], &[]);
    let (result, ()) = tokio::join!(f.session.token(), async {
        yield_now().await;
        f.task.abort();
    });
    assert!(matches!(result, Err(AuthFailure::Stopped)));
}

/// The service runs its calls on a server that may move them between threads.
#[test]
fn calls_can_move_between_threads() {
    fn movable(future: impl Future + Send) {
        drop(future);
    }
    let login = Arc::new(ScriptedLogin {
        script: Arc::default(),
        clock: Arc::new(TestClock {
            start: Instant::now(),
            set: Mutex::new(UNIX_EPOCH),
        }),
    });
    let clock = Arc::new(crate::clock::SystemClock);
    let (session, task) = Session::new(SETTINGS, login, clock, Arc::new(|_| {}));
    movable(session.call(|_| async { Ok(()) }));
    movable(task.run());
}

#[tokio::test(start_paused = true)]
async fn a_good_token_of_a_standby_is_kept_until_the_configured_login_works() {
    let expired = Step::Fail(LoginFailure::Jwt(JwtProblem::Expired { since: HOUR }));
    let script = Script::new(&[Step::Renewable(HOUR), expired, Step::Good(HOUR)], &[]);
    let clock = Arc::new(TestClock {
        start: Instant::now(),
        set: Mutex::new(UNIX_EPOCH + 1000 * HOUR),
    });
    let is_due = Arc::new(AtomicBool::new(false));
    let login = StandIn {
        login: ScriptedLogin {
            script: script.clone(),
            clock: clock.clone(),
        },
        is_due: is_due.clone(),
    };
    let (session, task) = Session::new(SETTINGS, Arc::new(login), clock, Arc::new(|_| {}));
    tokio::spawn(task.run());
    let token = async || session.token().await.ok().unwrap().expose().to_owned();
    assert_eq!(token().await, "t1");

    // The failed attempt costs neither the token nor a pause.
    for (attempt, next) in [(2, "t1"), (3, "t3")] {
        is_due.store(true, Ordering::SeqCst);
        assert_eq!(token().await, "t1");
        sleep(2 * SECOND).await;
        assert_eq!(script.logins(), attempt);
        assert_eq!(token().await, next);
        let status = session.status();
        assert_eq!(status.state, AuthState::Authenticated);
        assert_eq!(status.retry_in, None);
    }
    assert_eq!(script.renewals(), 0);
}
