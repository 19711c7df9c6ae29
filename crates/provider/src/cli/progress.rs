//! Progress of long work, shown on a terminal only.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use etcd_snapshot::file::{OnProgress, Progress};
use kms_operator::recovery::verify_pair::Watch;

/// A line on the terminal of standard error, cleared on drop.
pub(super) struct ProgressLine {
    what: &'static str,
    /// The percentage shown; `None` without a terminal.
    shown: Option<AtomicU64>,
}

/// Does `work` with a line for the reading of etcd.
pub(super) fn reading<R>(work: impl FnOnce(OnProgress<'_>) -> R) -> R {
    watching(|watch| work(watch.reading))
}

/// Does `work` with a line for each part of a verification.
pub(super) fn watching<R>(work: impl FnOnce(Watch<'_>) -> R) -> R {
    let reading = ProgressLine::new("reading etcd");
    let trying = ProgressLine::new("trying encrypted DEKs");
    let opening = ProgressLine::new("opening objects");
    work(Watch {
        reading: &|done| reading.show(done),
        trying: &|done| trying.show(done),
        opening: &|done| opening.show(done),
    })
}

/// Replaces the line of progress on the terminal; empty clears it.
pub(super) fn tell(line: &str) {
    if io::stderr().is_terminal() {
        // Progress is a courtesy.
        drop(write!(anstream::stderr(), "\r\x1b[K{line}"));
    }
}

impl ProgressLine {
    pub(super) fn new(what: &'static str) -> Self {
        let shown = io::stderr().is_terminal().then(AtomicU64::default);
        Self { what, shown }
    }

    /// Shows an increased percentage. Safe to call from any thread.
    pub(super) fn show(&self, progress: Progress) {
        let Some(shown) = &self.shown else {
            return;
        };
        let part = progress.done.saturating_mul(100);
        let percent = part.checked_div(progress.total).unwrap_or(100).min(100);
        if shown.fetch_max(percent, Relaxed) < percent {
            // A closed terminal must not stop the work.
            write!(io::stderr(), "\r{}: {percent} %\x1b[K", self.what).ok();
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.shown.is_some() {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}
