//! Login with a JWT from a file, renewed by another program on the host.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use rustix::io::Errno;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use crate::{
    credential_file::{self, CredentialFileProblem, CredentialFileRules},
    failure::Failure,
    login::{
        Grant, Login, LoginFailure, Pending, Renewal,
        jwt::{ClaimRules, Jwt, JwtRole},
        renew_self,
    },
    token::Token,
};

/// Rules of the JWT file, also for a check without a login.
pub const JWT_FILE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o037,
    max_size: 1 << 20,
};

/// Time limit of a read; a local file takes microseconds.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Stack size in bytes. All of it is locked into memory with `hardening.lockMemory`.
const READER_STACK: usize = 128 << 10;

type FileContent = Result<Zeroizing<Vec<u8>>, CredentialFileProblem>;

/// A JWT file. Clones share one reader thread, so that a hanging mount blocks one thread.
#[derive(Clone)]
pub struct JwtSource {
    path: PathBuf,
    rules: ClaimRules,
    read_file: fn(&Path) -> FileContent,
    /// One permit: the right to start the reader thread.
    turn: Arc<Semaphore>,
    /// Start of the current read.
    since: Arc<Mutex<Option<Instant>>>,
}

impl JwtSource {
    /// A file by its absolute path, with the required claims of its JWT.
    #[must_use]
    pub fn new(path: PathBuf, rules: ClaimRules) -> Self {
        Self {
            path,
            rules,
            read_file: |path| credential_file::read(path, JWT_FILE_RULES),
            turn: Arc::new(Semaphore::new(1)),
            since: Arc::default(),
        }
    }

    /// Reads the file and checks the claims at the wall-clock time `now`. Takes at most 2 s.
    ///
    /// # Errors
    /// When the file violates a rule or the JWT is unusable for a login.
    pub async fn read(&self, now: SystemTime) -> Result<Jwt, LoginFailure> {
        let content = self.content().await.map_err(LoginFailure::JwtFile)?;
        let jwt = Jwt::parse(&content).map_err(LoginFailure::Jwt)?;
        jwt.check(&self.rules, now).map_err(LoginFailure::Jwt)?;
        Ok(jwt)
    }

    async fn content(&self) -> FileContent {
        // Wait for a current read until its own limit. After that limit fail at once: a second read
        // must not start beside a hanging one, even if that one ends just now.
        let limit = self.since().unwrap_or_else(Instant::now) + READ_LIMIT;
        if limit <= Instant::now() {
            return Err(CredentialFileProblem::Hangs);
        }
        timeout_at(limit, self.on_thread())
            .await
            .unwrap_or(Err(CredentialFileProblem::Hangs))
    }

    /// Reads on a separate thread: the shutdown of the runtime would wait for a thread of its pool.
    async fn on_thread(&self) -> FileContent {
        let failed = |errno| CredentialFileProblem::Unreadable(errno);
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let turn = turn.map_err(|_| failed(Errno::CANCELED))?;
        let (answer, answered) = oneshot::channel();
        let (reader, since) = (self.clone(), Arc::clone(&self.since));

        *self.since() = Some(Instant::now());
        let thread = thread::Builder::new()
            .name("jwt-file".to_owned())
            .stack_size(READER_STACK);
        let started = thread.spawn(move || {
            let content = (reader.read_file)(&reader.path);
            *lock(&since) = None;
            drop(turn);
            // The caller may have timed out.
            answer.send(content).ok();
        });

        if let Err(error) = started {
            *self.since() = None;
            return Err(failed(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)));
        }
        answered.await.unwrap_or(Err(failed(Errno::CANCELED)))
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.since)
    }
}

fn lock(since: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    since.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A login with a JWT file. The file is read before every login, so a renewed JWT takes effect
/// without a restart.
pub struct JwtFile {
    /// Role for the login.
    pub role: JwtRole,
    /// Source of the JWT.
    pub source: JwtSource,
}

impl Login for JwtFile {
    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            let jwt = self.source.read(now).await?;
            self.role
                .exchange(&jwt, deadline)
                .await
                .map_err(LoginFailure::OpenBao)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Count of started reads.
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    static HANGS: AtomicBool = AtomicBool::new(true);

    fn read_of_the_mount(_: &Path) -> FileContent {
        BEGUN.fetch_add(1, Ordering::SeqCst);
        while HANGS.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(Zeroizing::new(b"e30.eyJleHAiOjEwMDB9.c2ln".to_vec()))
    }

    /// Replaces the read function: a hanging mount needs privileges, and a pipe is no regular file.
    #[tokio::test]
    async fn a_mount_that_hangs_costs_one_thread_and_no_wait_after_the_first() {
        let rules = ClaimRules {
            expected_issuer: None,
            expected_audience: Vec::new(),
            expected_subject: None,
            clock_skew_leeway: Duration::ZERO,
            min_remaining: Duration::ZERO,
        };
        let login = JwtSource {
            read_file: read_of_the_mount,
            ..JwtSource::new(PathBuf::from("/mount/jwt"), rules)
        };
        let watch = login.clone();
        let now = SystemTime::UNIX_EPOCH;
        let (first, second) = tokio::join!(login.read(now), watch.read(now));
        let began = Instant::now();
        for failed in [first, second, login.read(now).await, watch.read(now).await] {
            assert_eq!(failed.err().unwrap().detail(), "file_hangs");
        }
        assert!(began.elapsed() < READ_LIMIT / 2);
        assert_eq!(BEGUN.load(Ordering::SeqCst), 1);

        HANGS.store(false, Ordering::SeqCst);
        let back = async {
            while login.read(now).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), back)
            .await
            .unwrap();
        assert_eq!(BEGUN.load(Ordering::SeqCst), 2);
    }
}
