//! How far long work has come, on a terminal and nowhere else.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use etcd_snapshot::file::Progress;

/// A line on the terminal behind standard error, cleared when dropped.
pub(super) struct ProgressLine {
    what: &'static str,
    /// The percentage shown; `None` where there is no terminal.
    shown: Option<AtomicU64>,
}

impl ProgressLine {
    pub(super) fn new(what: &'static str) -> Self {
        let shown = io::stderr().is_terminal().then(AtomicU64::default);
        Self { what, shown }
    }

    /// Shows a percentage that is new. Any thread may call it.
    pub(super) fn show(&self, progress: Progress) {
        let Some(shown) = &self.shown else {
            return;
        };
        let part = progress.done.saturating_mul(100);
        let percent = part.checked_div(progress.total).unwrap_or(100).min(100);
        if shown.fetch_max(percent, Relaxed) < percent {
            // A terminal that is gone is no reason to stop.
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
