//! Raft snapshots, through OpenBao's own command line: it streams them, whatever their size.

use std::{io, path::Path};

use openbao_client::token::Token;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    admin::AdminError,
    files,
    server::{POLL, READY_WITHIN, SealStatus, Server},
};

/// Why a snapshot could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The command could not be run.
    #[error("cannot run OpenBao's snapshot command")]
    Run(#[source] io::Error),
    /// The command failed.
    #[error("OpenBao could not {action} the snapshot; it says: {said}")]
    Failed {
        /// `save` or `restore`.
        action: &'static str,
        /// What the command wrote.
        said: String,
    },
    /// The data was taken over without a need for other unseal shares.
    #[error(
        "OpenBao did not seal itself within {} s of the restore; is the snapshot its own?",
        READY_WITHIN.as_secs()
    )]
    NotSealed,
    /// A call that was needed.
    #[error(transparent)]
    Call(#[from] AdminError),
}

impl Server {
    /// Saves all data of the server into a new file.
    ///
    /// # Errors
    /// When OpenBao refuses or the file cannot be written.
    pub async fn save_snapshot(
        &self,
        root_token: &Token,
        file: &Path,
    ) -> Result<(), SnapshotError> {
        self.snapshot("save", &[], root_token, file).await
    }

    /// Replaces all data of the server with those of another one. It is then sealed, opens with the
    /// other's unseal shares and knows the other's tokens alone.
    ///
    /// # Errors
    /// When OpenBao refuses, for instance because the file is not a whole snapshot.
    pub async fn restore_snapshot(
        &self,
        root_token: &Token,
        file: &Path,
    ) -> Result<(), SnapshotError> {
        self.snapshot("restore", &["-force"], root_token, file)
            .await?;
        // It seals itself only after the command's end, and stops answering for some seconds.
        let admin = self.anonymous()?;
        let give_up = Instant::now() + READY_WITHIN;
        while Instant::now() < give_up {
            let status = admin.read("sys/seal-status").await;
            if status
                .ok()
                .and_then(|answer| answer.json().ok())
                .is_some_and(|SealStatus { sealed }| sealed)
            {
                return Ok(());
            }
            sleep(POLL).await;
        }
        Err(SnapshotError::NotSealed)
    }

    /// Takes the server back to a snapshot that it has saved itself. It stays unsealed, but takes
    /// up the old data only some moments later, and refuses requests in the midst of that.
    ///
    /// # Errors
    /// When OpenBao refuses, for instance because the file is another server's.
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
        // The command looks for a token in this file of its home directory. Other users can read
        // neither the directory nor, unlike arguments and environment, the file.
        let home = self.installation.path("home");
        let token_file = home.join(".vault-token");
        files::private_directory(&home).map_err(SnapshotError::Run)?;
        files::private_file(&token_file, token.expose().as_bytes()).map_err(SnapshotError::Run)?;
        let output = Command::new(self.installation.binary.path())
            .args(["operator", "raft", "snapshot", action])
            .args(options)
            .arg(file)
            .env_clear()
            .env("HOME", &home)
            .env("BAO_ADDR", self.endpoint.address.to_string())
            .env("BAO_CACERT", self.ca_file())
            .kill_on_drop(true)
            .output()
            .await;
        let removed = std::fs::remove_file(&token_file);
        let output = output.map_err(SnapshotError::Run)?;
        removed.map_err(SnapshotError::Run)?;
        if output.status.success() {
            return Ok(());
        }
        Err(SnapshotError::Failed {
            action,
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}
