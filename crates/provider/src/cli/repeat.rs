//! `--wait` and `--watch`: the same command again, until its result is the good one or a signal ends
//! it.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use kms_node::{duration::parse_positive, exit::Exit, report::outcome::Outcome};
use serde::Serialize;

use super::{Context, Failure, OutputFlag, progress::tell};

/// Pause between two runs at least, whatever is asked for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(next_help_heading = "Repetition")]
pub(super) struct RepeatFlags {
    /// Repeat until the result is the good one, at most this long; exit code 4 or that of the last
    /// result if it is not by then
    #[arg(long, value_name = "DURATION", value_parser = parse_positive, conflicts_with = "watch")]
    wait: Option<Duration>,
    /// Repeat until interrupted; show each result that differs from the one before
    #[arg(long)]
    watch: bool,
    /// Pause between two runs of --wait or --watch, at least 100ms
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_positive)]
    interval: Duration,
}

impl RepeatFlags {
    /// Runs `once`, again where it is asked for, shows its results, and returns the last one. `is_good`
    /// recognizes the result to wait for.
    ///
    /// # Errors
    /// The first failure of `once`, or of the output.
    pub(super) fn run<R: Serialize>(
        &self,
        output: &OutputFlag,
        context: &mut Context<'_>,
        mut once: impl FnMut(&mut Context<'_>) -> Result<Outcome<R>, Failure>,
        is_good: impl Fn(&Outcome<R>) -> bool,
    ) -> Result<Outcome<R>, Failure> {
        if self.watch {
            return self.watch(output, context, once);
        }
        let limit = self.wait.unwrap_or_default();
        let begun = Instant::now();
        loop {
            let mut outcome = once(context)?;
            let left = limit.saturating_sub(begun.elapsed());
            let good = is_good(&outcome);
            if good || left.is_zero() {
                if self.wait.is_some() {
                    tell("");
                }
                if self.wait.is_some() && !good && outcome.exit() == Exit::Success {
                    // A script goes on after 0, as if the wait had come to its end.
                    let headline = outcome.headline().to_owned();
                    outcome.conclude(outcome.verdict(), Exit::CheckFailed, headline);
                }
                output.show(&outcome, context)?;
                return Ok(outcome);
            }
            if !output.quiet {
                let (verdict, left) = (outcome.verdict(), left.as_secs());
                tell(&format!("{verdict}: {}; {left} s left", outcome.headline()));
            }
            thread::sleep(self.pause().min(left));
        }
    }

    fn watch<R: Serialize>(
        &self,
        output: &OutputFlag,
        context: &mut Context<'_>,
        mut once: impl FnMut(&mut Context<'_>) -> Result<Outcome<R>, Failure>,
    ) -> Result<Outcome<R>, Failure> {
        let mut shown = None;
        loop {
            let outcome = once(context)?;
            let seen = (outcome.verdict(), outcome.headline().to_owned());
            if shown.as_ref() != Some(&seen) {
                let text = output.render(&outcome, context)?;
                context.out.write_all(&text)?;
                // The end of the reader, such as `head`, is the end of the watch.
                context.out.flush()?;
                shown = Some(seen);
            }
            thread::sleep(self.pause());
        }
    }

    fn pause(&self) -> Duration {
        self.interval.max(SHORTEST_INTERVAL)
    }
}
