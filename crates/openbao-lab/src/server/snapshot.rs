//! Raft snapshots, with OpenBao's command line: it streams snapshots of any size.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use openbao_client::token::Token;
use tokio::time::{Instant, sleep};

use crate::{
    admin::AdminError,
    child::GuardedChild,
    files,
    server::{POLL, SealStatus, Server, UnsealKey},
};

/// Limit for the transfer of a snapshot; the default of OpenBao is one minute.
pub(super) const TRANSFER: &str = "30m";
/// Generous: a large OpenBao needs time to apply the data.
const RESTORED_WITHIN: Duration = Duration::from_secs(600);

/// Error of saving or restoring a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The command could not be run.
    #[error("cannot run the snapshot command of OpenBao")]
    Run(#[source] io::Error),
    /// The command failed, or OpenBao failed after its end.
    #[error("OpenBao failed to {action} the snapshot: {said}")]
    Failed {
        /// `save` or `restore`.
        action: &'static str,
        /// Output of the command, or OpenBao's log entry, on one line.
        said: String,
    },
    /// The server stayed unsealed after the restore: its own unseal shares fit the data.
    #[error(
        "OpenBao stayed unsealed for {} s after the restore; is this its own snapshot?",
        RESTORED_WITHIN.as_secs()
    )]
    NotSealed,
    /// A required request failed.
    #[error(transparent)]
    Call(#[from] AdminError),
}

pub(super) fn failed_to_restore(said: String) -> SnapshotError {
    SnapshotError::Failed {
        action: "restore",
        said,
    }
}

impl Server {
    /// Saves a snapshot of the server into a new file.
    ///
    /// # Errors
    /// When OpenBao rejects the request or the file cannot be written.
    pub async fn save_snapshot(
        &self,
        root_token: &Token,
        file: &Path,
    ) -> Result<(), SnapshotError> {
        self.snapshot("save", &[], root_token, file).await
    }

    /// Replaces all data with a snapshot of another server. The server is then sealed and accepts
    /// only the unseal shares and tokens of the other one.
    ///
    /// # Errors
    /// When OpenBao rejects the request, for example because the snapshot is incomplete, or fails to
    /// install the data, for example on a full disk.
    pub async fn restore_snapshot(
        &self,
        root_token: &Token,
        file: &Path,
    ) -> Result<(), SnapshotError> {
        const FAILED: &str = "error while restoring raft snapshot";
        self.snapshot("restore", &["-force"], root_token, file)
            .await?;
        // The server seals itself only after the command has ended, and stops responding for some
        // seconds.
        let admin = self.anonymous()?;
        let give_up = Instant::now() + RESTORED_WITHIN;
        while Instant::now() < give_up {
            let status = admin.read("sys/seal-status").await;
            if status
                .ok()
                .and_then(|answer| answer.json().ok())
                .is_some_and(|SealStatus { sealed }| sealed)
            {
                // It installs the data after its response, and seals itself also when this fails.
                return match self.installation.last_line_of_log(FAILED) {
                    Some(said) => Err(failed_to_restore(said)),
                    None => Ok(()),
                };
            }
            sleep(POLL).await;
        }
        Err(SnapshotError::NotSealed)
    }

    /// Restores a snapshot of this server. The server stays unsealed. It applies the old data some
    /// moments later and rejects requests meanwhile.
    ///
    /// # Errors
    /// When OpenBao rejects the request, for example because the snapshot is of another server.
    pub async fn return_to_snapshot(
        &self,
        root_token: &Token,
        file: &Path,
    ) -> Result<(), SnapshotError> {
        self.snapshot("restore", &[], root_token, file).await
    }

    async fn snapshot(
        &self,
        action: &'static str,
        options: &[&str],
        token: &Token,
        file: &Path,
    ) -> Result<(), SnapshotError> {
        // The command reads its token from this file in its home directory. Other users can read
        // neither the directory nor the file. Arguments and environment would be less private.
        let home = self.installation.path("home");
        let token_file = home.join(".vault-token");
        files::private_directory(&home).map_err(SnapshotError::Run)?;
        files::private_file(&token_file, token.expose().as_bytes()).map_err(SnapshotError::Run)?;

        let log = self.installation.path("snapshot.log");
        files::private_file(&log, b"").map_err(SnapshotError::Run)?;

        let ended = self.run(action, options, &home, &log, file).await;
        let removed = fs::remove_file(&token_file);
        let ended = ended.map_err(SnapshotError::Run)?;
        removed.map_err(SnapshotError::Run)?;
        if ended.success() {
            return Ok(());
        }

        let said = fs::read(&log).map_err(SnapshotError::Run)?;
        let said = String::from_utf8_lossy(&said);
        let words: Vec<_> = said.split_whitespace().collect();
        Err(SnapshotError::Failed {
            action,
            said: words.join(" "),
        })
    }

    /// Whether `key` unseals the server. The server stays in its present state.
    pub(super) async fn is_unsealed_by(&self, key: &UnsealKey) -> Result<bool, AdminError> {
        let share = serde_json::json!({"key": key.expose()});
        match self.anonymous()?.write("sys/unseal", &share).await {
            Ok(answer) => Ok(answer.json().is_ok_and(|SealStatus { sealed }| !sealed)),
            // A share of other data.
            Err(AdminError::Call { source, .. }) if source.http_status().is_some() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn run(
        &self,
        action: &str,
        options: &[&str],
        home: &Path,
        log: &Path,
        file: &Path,
    ) -> io::Result<ExitStatus> {
        let not_text = || io::Error::other("the path of the snapshot is not UTF-8");
        let file = file.to_str().ok_or_else(not_text)?;
        let address = self.endpoint.address.to_string();
        let ca_file = self.ca_file();

        let mut command = GuardedChild::spawn_with(
            self.installation.binary.path(),
            &[&["operator", "raft", "snapshot", action], options, &[file]].concat(),
            &[
                ("HOME", home.as_os_str()),
                ("BAO_ADDR", OsStr::new(&address)),
                ("BAO_CACERT", ca_file.as_os_str()),
                ("BAO_CLIENT_TIMEOUT", OsStr::new(TRANSFER)),
            ],
            File::options().append(true).open(log)?,
        )?;
        loop {
            if let Some(ended) = command.exited()? {
                return Ok(ended);
            }
            sleep(POLL).await;
        }
    }
}
