//! The provider's side of the helper.

use std::{
    io,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    frame::{Frame, KeyKind, Kind, Mechanism, Open, Reply, Sign, TokenKey, channel},
    problem::TokenProblem,
};

/// The keeper of this process. All calls block up to their time limit. Drop ends it.
pub struct Helper {
    keeper: Child,
    channel: OwnedFd,
    next: AtomicU64,
    /// Whether a key is open: there is one worker at a time.
    busy: Mutex<bool>,
    freed: Condvar,
    /// The last PIN that a token rejected, with its key. It is never tried again, because tokens
    /// lock after a few wrong ones.
    rejected: Mutex<Option<(TokenKey, Zeroizing<String>)>>,
}

/// A key that is ready to sign. Drop ends the worker.
pub struct OpenKey {
    helper: Arc<Helper>,
    kind: KeyKind,
}

impl Helper {
    /// Starts the keeper. `keeper` is the command of a process that calls [`crate::keep`] with its
    /// standard input.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(mut keeper: Command) -> io::Result<Self> {
        let (channel, of_keeper) = channel()?;
        let keeper = keeper
            .stdin(Stdio::from(of_keeper))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self {
            keeper,
            channel,
            next: AtomicU64::new(0),
            busy: Mutex::default(),
            freed: Condvar::new(),
            rejected: Mutex::default(),
        })
    }

    /// Loads the module, logs in to the token and finds the key. Waits for the drop of another
    /// [`OpenKey`].
    ///
    /// # Errors
    /// [`TokenProblem::Hangs`] after `limit`; otherwise the first problem.
    pub fn open(
        self: &Arc<Self>,
        key: &TokenKey,
        pin: &Zeroizing<String>,
        limit: Duration,
    ) -> Result<OpenKey, TokenProblem> {
        let end = Instant::now() + limit;
        let known_wrong = lock(&self.rejected)
            .as_ref()
            .is_some_and(|rejected| (&rejected.0, &rejected.1) == (key, pin));
        if known_wrong {
            return Err(TokenProblem::PinKnownWrong);
        }

        let mut busy = lock(&self.busy);
        while *busy {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TokenProblem::Hangs);
            }
            let woken = self.freed.wait_timeout(busy, left);
            busy = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *busy = true;
        drop(busy);

        // Its drop ends the worker also after a failure.
        let mut open = OpenKey {
            helper: Arc::clone(self),
            kind: KeyKind::P256,
        };
        let body = Open {
            key: key.clone(),
            pin: String::clone(pin),
        };
        let opened = self.call(Kind::Open, &body, end);
        if let Err(problem) = &opened
            && problem.condemns_pin()
        {
            *lock(&self.rejected) = Some((key.clone(), pin.clone()));
        }
        open.kind = opened?;
        Ok(open)
    }

    /// Whether the keeper has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let mut source = [PollFd::new(&self.channel, PollFlags::empty())];
        let looked = poll(&mut source, Some(&Timespec::default()));
        looked.is_err()
            || source
                .iter()
                .any(|it| it.revents().contains(PollFlags::HUP))
    }

    /// Sends a message and waits for its answer until `end`.
    fn call<T: DeserializeOwned>(
        &self,
        kind: Kind,
        body: &impl Serialize,
        end: Instant,
    ) -> Reply<T> {
        let gone = |_| TokenProblem::HelperGone;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::new(kind, number, body).ok_or(TokenProblem::HelperGone)?;
        frame.send(&self.channel).map_err(gone)?;
        loop {
            self.readable(end)?;
            let answer = Frame::receive(&self.channel).map_err(gone)?;
            let answer = answer.ok_or(TokenProblem::HelperGone)?;
            // Others are late answers, to calls that were given up.
            if answer.number() == Some(number) {
                return answer.body().unwrap_or(Err(TokenProblem::HelperGone));
            }
        }
    }

    fn readable(&self, end: Instant) -> Result<(), TokenProblem> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| TokenProblem::Hangs)?;
            let mut source = [PollFd::new(&self.channel, PollFlags::IN)];
            match poll(&mut source, Some(&left)) {
                Ok(0) => return Err(TokenProblem::Hangs),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(TokenProblem::HelperGone),
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It holds nothing that must be completed. Without a wait it would stay as a zombie.
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

impl OpenKey {
    /// Type of the key.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Signs `data`: a digest, or for Ed25519 the message.
    ///
    /// # Errors
    /// [`TokenProblem::Hangs`] after `limit`; otherwise the failure of the module.
    pub fn sign(
        &self,
        mechanism: Mechanism,
        data: &[u8],
        limit: Duration,
    ) -> Result<Vec<u8>, TokenProblem> {
        let data = data.to_vec();
        let end = Instant::now() + limit;
        self.helper.call(Kind::Sign, &Sign { mechanism, data }, end)
    }
}

impl Drop for OpenKey {
    fn drop(&mut self) {
        // A keeper that has ended took its worker along.
        if let Some(close) = Frame::new(Kind::Close, 0, &()) {
            close.send(&self.helper.channel).ok();
        }
        *lock(&self.helper.busy) = false;
        self.helper.freed.notify_one();
    }
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}
