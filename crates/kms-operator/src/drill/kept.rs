//! A restored copy that stays for a limited time, for other commands on the same host.
//!
//! The token of these commands ends with the time; it and the copy's data are in the private
//! directory of the drill, and are removed with it.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, SystemTime},
};

use kms_node::{
    clock::{Clock as _, SystemClock},
    state::disk,
};
use openbao_lab::server::restore::Restored;
use tokio::time::sleep;

use super::failure::DrillError;

/// Access to the kept copy, as options of other commands.
#[derive(Debug)]
pub struct Kept {
    /// For `--openbao-address`.
    pub address: String,
    /// For `--openbao-cacert`.
    pub ca_file: PathBuf,
    /// For `--token-file`, with mode 0600.
    pub token_file: PathBuf,
    /// End of the copy and of the token.
    pub until: SystemTime,
}

/// Keeps the copy for `time`, or until `stop`, and closes it.
///
/// # Errors
/// [`DrillError`] if the copy refuses a token, the token cannot be written, or the copy does not close.
pub(super) async fn keep(
    copy: Restored,
    time: Duration,
    directory: &Path,
    told: &dyn Fn(&Kept),
    stop: Pin<&mut impl Future<Output = &'static str>>,
) -> Result<(), DrillError> {
    let grant = copy.grant(time).await?;
    // OpenBao limits the life of tokens.
    let time = time.min(grant.lease.duration);
    let token_file = directory.join("token");
    disk::create_private(&token_file, grant.token.expose().as_bytes())?;
    told(&Kept {
        address: copy.server.endpoint().address.to_string(),
        ca_file: copy.server.ca_file(),
        token_file,
        until: SystemClock.now() + time,
    });
    tokio::select! {
        () = sleep(time) => {}
        _ = stop => {}
    }
    Ok(copy.close().await?)
}
