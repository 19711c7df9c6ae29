//! Raft snapshots, through OpenBao's own command line: it streams them, whatever their size.

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
    server::{POLL, SealStatus, Server},
};

/// How long the transfer of a snapshot may take, which is a minute by default.
pub(super) const TRANSFER: &str = "30m";
/// The data of a large OpenBao take their time to be put in place.
const RESTORED_WITHIN: Duration = Duration::from_secs(600);

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
        /// What the command wrote, on one line.
        said: String,
    },
    /// The data was taken over without a need for other unseal shares.
    #[error(
        "OpenBao did not seal itself within {} s of the restore; is the snapshot its own?",
        RESTORED_WITHIN.as_secs()
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
        let give_up = Instant::now() + RESTORED_WITHIN;
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
