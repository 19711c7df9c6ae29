//! A restored copy that stays for a limited time, for other commands on the same host.
//!
//! The token of these commands ends with the time; it and the copy's data are in the private
//! directory of the drill, and are removed with it.

use std::{
    path::{Path, PathBuf, absolute},
    pin::Pin,
    time::{Duration, SystemTime},
};

use kms_node::{
    clock::{Clock as _, SystemClock},
    duration::parse_positive,
    state::disk,
};
use openbao_lab::server::restore::Restored;
use tokio::time::{Instant, sleep};

use super::{failure::DrillError, report::DrillReport};

/// Longest time, by the default limit of OpenBao for tokens.
const LONGEST: Duration = Duration::from_secs(768 * 3600);
/// Interval of looks at the clock. A timer stops while the machine is suspended.
const LOOK: Duration = Duration::from_secs(1);

/// Access to the kept copy, as options of other commands. Paths are absolute, for any shell.
#[derive(Debug)]
pub struct Kept {
    /// Verdict and headline so far.
    pub found: String,
    /// For `--etcd-snapshot`.
    pub etcd: PathBuf,
    /// For `--openbao-address`.
    pub address: String,
    /// For `--openbao-cacert`.
    pub ca_file: PathBuf,
    /// For `--token-file`, with mode 0600.
    pub token_file: PathBuf,
    /// End of the copy and of the token.
    pub until: SystemTime,
}

/// Parses `--keep`.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = parse_positive(text).map_err(|problem| problem.to_string())?;
    match time <= LONGEST {
        true => Ok(time),
        false => Err("must be at most 768h, the longest life of a token".to_owned()),
    }
}

/// Keeps the copy for `time`, or until `stop`, and closes it.
///
/// # Errors
/// [`DrillError`] if the copy refuses a token, the token cannot be written, or the copy does not close.
pub(super) async fn keep(
    copy: Restored,
    time: Duration,
    directory: &Path,
    (etcd, so_far): (&Path, &DrillReport),
    told: &dyn Fn(&Kept),
    stop: Pin<&mut impl Future<Output = &'static str>>,
) -> Result<(), DrillError> {
    let grant = copy.grant(time).await?;
    // OpenBao limits the life of tokens.
    let time = time.min(grant.lease.duration);
    let token_file = in_any_shell(&directory.join("token"));
    disk::create_private(&token_file, grant.token.expose().as_bytes())?;
    let (begun, until) = (Instant::now(), SystemClock.now() + time);
    let verdict = so_far.result.verdict().as_str();
    told(&Kept {
        found: format!("{verdict}: {}", so_far.headline()),
        etcd: in_any_shell(etcd),
        address: copy.server.endpoint().address.to_string(),
        ca_file: copy.server.ca_file(),
        token_file,
        until,
    });
    let end = async {
        while let Some(wait) = rest(until, SystemClock.now(), time, begun.elapsed()) {
            sleep(wait).await;
        }
    };
    tokio::select! {
        () = end => {}
        _ = stop => {}
    }
    Ok(copy.close().await?)
}

/// Time until the next look at the clock; `None` at the end. The end comes by the clock, or by the timer
/// if the clock was set back.
fn rest(until: SystemTime, now: SystemTime, time: Duration, elapsed: Duration) -> Option<Duration> {
    let by_clock = until.duration_since(now).ok()?;
    let rest = by_clock.min(time.checked_sub(elapsed)?);
    (!rest.is_zero()).then(|| rest.min(LOOK))
}

fn in_any_shell(path: &Path) -> PathBuf {
    absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_ends_by_the_clock_also_after_a_suspend_or_a_step_of_the_clock() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let left = |now, elapsed| {
            let hour = Duration::from_secs(3600);
            rest(at(4600), at(now), hour, Duration::from_secs(elapsed))
        };
        assert_eq!(left(1000, 0), Some(LOOK));
        assert_eq!(left(4599, 3599), Some(LOOK));
        assert_eq!(left(4600, 3600), None);
        // Suspended for almost an hour, set ahead, and set back.
        assert_eq!(left(4600, 5), None);
        assert_eq!(left(9000, 5), None);
        assert_eq!(left(0, 3600), None);
    }

    #[test]
    fn a_time_beyond_the_life_of_a_token_is_refused() {
        assert_eq!(time("768h"), Ok(LONGEST));
        assert!(time("768h1s").is_err());
        assert!(time("0s").is_err());
    }
}
