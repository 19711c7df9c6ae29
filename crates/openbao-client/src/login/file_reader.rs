//! Reads a credential file off the async runtime, within a time limit.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use crate::credential_file::{self, CredentialFileProblem, CredentialFileRules};

/// Time limit of a read; a local file takes microseconds.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// Stack size in bytes. All of it is locked into memory with `hardening.lockMemory`.
const READER_STACK: usize = 128 << 10;

type FileContent = Result<Zeroizing<Vec<u8>>, CredentialFileProblem>;

/// A credential file. Clones share one reader thread, so that a hanging mount blocks one thread.
#[derive(Clone)]
pub struct FileReader {
    path: PathBuf,
    rules: CredentialFileRules,
    read_file: fn(&Path, CredentialFileRules) -> FileContent,
    /// One permit: the right to start the reader thread.
    turn: Arc<Semaphore>,
    /// Start of the current read.
    since: Arc<Mutex<Option<Instant>>>,
}

impl FileReader {
    /// A file by its absolute path.
    #[must_use]
    pub fn new(path: PathBuf, rules: CredentialFileRules) -> Self {
        Self {
            path,
            rules,
            read_file: credential_file::read,
            turn: Arc::new(Semaphore::new(1)),
            since: Arc::default(),
        }
    }

    /// Reads the whole file. Takes at most 2 s.
    ///
    /// # Errors
    /// The first violated rule, or [`CredentialFileProblem::Hangs`].
    pub async fn read(&self) -> FileContent {
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
            .name("credential-file".to_owned())
            .stack_size(READER_STACK);
        let started = thread.spawn(move || {
            let content = (reader.read_file)(&reader.path, reader.rules);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    /// Count of started reads.
    static BEGUN: AtomicUsize = AtomicUsize::new(0);
    static HANGS: AtomicBool = AtomicBool::new(true);

    fn read_of_the_mount(_: &Path, _: CredentialFileRules) -> FileContent {
        BEGUN.fetch_add(1, Ordering::SeqCst);
        while HANGS.load(Ordering::SeqCst) {
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(Zeroizing::new(b"secret".to_vec()))
    }

    /// Replaces the read function: a hanging mount needs privileges, and a pipe is no regular file.
    #[tokio::test]
    async fn a_mount_that_hangs_costs_one_thread_and_no_wait_after_the_first() {
        let rules = CredentialFileRules {
            forbidden_mode: 0o037,
            max_size: 16,
        };
        let login = FileReader {
            read_file: read_of_the_mount,
            ..FileReader::new(PathBuf::from("/mount/credential"), rules)
        };
        let watch = login.clone();
        let (first, second) = tokio::join!(login.read(), watch.read());
        let began = Instant::now();
        for failed in [first, second, login.read().await, watch.read().await] {
            assert_eq!(failed.err().unwrap(), CredentialFileProblem::Hangs);
        }
        assert!(began.elapsed() < READ_LIMIT / 2);
        assert_eq!(BEGUN.load(Ordering::SeqCst), 1);

        HANGS.store(false, Ordering::SeqCst);
        let back = async {
            while login.read().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), back)
            .await
            .unwrap();
        assert_eq!(BEGUN.load(Ordering::SeqCst), 2);
    }
}
