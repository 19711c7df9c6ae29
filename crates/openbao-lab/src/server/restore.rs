//! A copy of another server, made from its snapshot to be looked at and thrown away.
//!
//! The copy holds production's credentials, leases and audit devices, and would act on them once it
//! is unsealed. So it is [confined](crate::confinement) where the kernel can do that, its audit devices
//! are removed while nothing in it runs, and it never listens beyond loopback. Its raft has one
//! member, itself: OpenBao keeps the members of the server that takes a snapshot, not the
//! snapshot's.
//!
//! The states are types, in their order: [`Installation`], [`TakenOver`], [`Silenced`], [`Restored`].

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use openbao_client::{
    failure::FailureClass,
    login::Grant,
    token::{Lease, Token},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    Audit, Installation, Server, ServerError, UnsealKey, installation::Mode,
    snapshot::SnapshotError,
};
use crate::{
    admin::{Admin, AdminError},
    binary::BaoBinary,
};

/// The key of a `seal "static"`.
#[derive(Debug, Clone)]
pub struct StaticSeal {
    /// Its `current_key_id`.
    pub key_id: String,
    /// The absolute path of the file with its `current_key`.
    pub key_file: PathBuf,
}

/// Holds the snapshot's data, sealed.
pub struct TakenOver(Installation);

/// The same; nothing in it writes to an audit device any more.
pub struct Silenced {
    installation: Installation,
    /// How many audit devices it had.
    pub audit_devices: usize,
}

/// The running copy.
pub struct Restored {
    /// The server itself.
    pub server: Server,
    /// May do everything in it; made by the quorum of its shares.
    pub root_token: Token,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A step of the server's life.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// OpenBao did not take the snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// OpenBao tried the shares.
    #[error("the shares do not open this snapshot: one of them is wrong, or of another OpenBao")]
    WrongShares,
    /// OpenBao waits for more.
    #[error("this snapshot needs {needed} different shares; {given} were given")]
    MoreShares {
        /// Its threshold.
        needed: usize,
        /// Those there are.
        given: usize,
    },
    /// Unseal shares for a server that unseals itself, or the other way round.
    #[error(
        "this snapshot is of an OpenBao that is sealed in another way than by {}",
        match .static_seal {
            true => "seal \"static\"",
            false => "unseal key shares",
        }
    )]
    OtherSeal {
        /// How it was tried.
        static_seal: bool,
    },
    /// A call that was needed.
    #[error(transparent)]
    Call(#[from] AdminError),
    /// An answer of another shape than the API promises.
    #[error("OpenBao's answer to `{path}` is not understood; is this a supported version?")]
    Answer {
        /// The path that was called.
        path: String,
    },
}

impl Installation {
    /// Prepares the place for a copy. With `confined` the kernel keeps the server from whatever lies
    /// outside of `directory`; see [`trial`](crate::confinement::trial).
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_copy(
        binary: BaoBinary,
        directory: &Path,
        confined: bool,
    ) -> Result<Self, ServerError> {
        let mut installation = Self::prepare(binary, directory, Audit::Off)?;
        installation.confined = confined;
        installation.settings.quorum_makes_root = true;
        Ok(installation)
    }

    /// The same, for data that this key unseals.
    #[must_use]
    pub fn sealed_by(mut self, seal: StaticSeal) -> Self {
        self.settings.seal = Some(seal);
        self
    }

    /// Has a new server take over the snapshot. With a key of its own it cannot open the data, so
    /// that it seals itself before anything in them runs.
    ///
    /// # Errors
    /// [`RestoreError::Snapshot`] when OpenBao finds the snapshot damaged.
    pub async fn take_over(self, snapshot: &Path) -> Result<TakenOver, RestoreError> {
        let server = self.start().await?;
        let secrets = server.initialize().await?;
        server.unseal(&secrets.unseal_key).await?;
        let token = &secrets.root_token;
        server.restore_snapshot(token, snapshot).await?;
        // Started anew, it reads how the data is sealed.
        Ok(TakenOver(server.stop().await?))
    }
}

impl TakenOver {
    /// Removes the audit devices that are in the data. Unsealed, the copy would open their files and
    /// sockets, be they those of the server in service, and would not start without them.
    ///
    /// # Errors
    /// [`RestoreError::WrongShares`], [`RestoreError::MoreShares`] or [`RestoreError::OtherSeal`] when
    /// what was given does not open the data.
    pub async fn silence(
        self,
        seal: Option<StaticSeal>,
        shares: &[UnsealKey],
    ) -> Result<Silenced, RestoreError> {
        const TABLES: [&str; 2] = ["sys/raw/core/audit", "sys/raw/core/local-audit"];
        let installation = match seal {
            Some(seal) => self.0.sealed_by(seal),
            None => self.0,
        };
        const TOKEN: &str = "sys/generate-recovery-token";
        let static_seal = installation.settings.seal.is_some();
        let server = installation.start_as(Mode::Recovery).await?;
        let anyone = server.anonymous()?;
        // What it does not know how to open has no quorum to ask for.
        match anyone.read(&format!("{TOKEN}/attempt")).await {
            Err(AdminError::Call { source, .. }) if source.http_status().is_some() => {
                return Err(RestoreError::OtherSeal { static_seal });
            }
            known => known?,
        };
        let token = quorum(&anyone, TOKEN, shares).await?;
        let admin = server.admin(&token)?;
        let mut audit_devices = 0_usize;
        for path in TABLES {
            let Some(devices) = entries(&admin, path).await? else {
                continue;
            };
            admin.delete(path).await?;
            audit_devices = audit_devices.saturating_add(devices);
        }
        Ok(Silenced {
            installation: server.stop().await?,
            audit_devices,
        })
    }
}

impl Silenced {
    /// Starts and unseals the copy, and has the quorum make a root token for it.
    ///
    /// # Errors
    /// When OpenBao does not come up with these data.
    pub async fn open(self, shares: &[UnsealKey]) -> Result<Restored, RestoreError> {
        let unseals_itself = self.installation.settings.seal.is_some();
        let server = self.installation.start().await?;
        match unseals_itself {
            true => server.wait_until_active().await?,
            false => server.unseal_with(shares).await?,
        }
        let root_token = quorum(&server.anonymous()?, "sys/generate-root", shares).await?;
        Ok(Restored { server, root_token })
    }
}

impl Restored {
    /// Makes a token for the inspection of the copy, with a lease of `life`.
    ///
    /// # Errors
    /// When OpenBao refuses.
    pub async fn grant(&self, life: Duration) -> Result<Grant, RestoreError> {
        #[derive(Deserialize)]
        struct Created<'a> {
            #[serde(borrow)]
            auth: Auth<'a>,
        }
        #[derive(Deserialize)]
        struct Auth<'a> {
            client_token: &'a str,
            lease_duration: u64,
            renewable: bool,
        }
        const PATH: &str = "auth/token/create";
        let wanted = json!({"policies": ["root"], "ttl": format!("{}s", life.as_secs())});
        let admin = self.server.admin(&self.root_token)?;
        let answer = admin.write(PATH, &wanted).await?;
        let unusable = || RestoreError::Answer {
            path: PATH.to_owned(),
        };
        let Created { auth } = answer.json().map_err(|_| unusable())?;
        let text = Zeroizing::new(auth.client_token.to_owned());
        Ok(Grant {
            token: Token::new(text).map_err(|_| unusable())?,
            lease: Lease {
                duration: Duration::from_secs(auth.lease_duration),
                renewable: auth.renewable,
            },
            // Nothing bought it that could expire.
            credential_expires: SystemTime::UNIX_EPOCH,
        })
    }

    /// Revokes the root token, and with it those that it made, and stops the copy.
    ///
    /// # Errors
    /// When OpenBao refuses, or the operating system.
    pub async fn close(self) -> Result<(), RestoreError> {
        let Self { server, root_token } = self;
        let admin = server.admin(&root_token)?;
        admin.write("auth/token/revoke-self", &json!({})).await?;
        server.stop().await?;
        Ok(())
    }
}

/// How many entries a table has; `None` if there is no such table.
async fn entries(admin: &Admin<'_>, path: &str) -> Result<Option<usize>, RestoreError> {
    #[derive(Deserialize)]
    struct Raw {
        value: String,
    }
    #[derive(Deserialize)]
    struct Table {
        entries: Option<Vec<serde::de::IgnoredAny>>,
    }
    let answer = match admin.read(path).await {
        Err(AdminError::Call { source, .. }) if source.class() == FailureClass::NotFound => {
            return Ok(None);
        }
        answer => answer?,
    };
    let unusable = || RestoreError::Answer {
        path: path.to_owned(),
    };
    let raw: Raw = answer.data().map_err(|_| unusable())?;
    let table: Table = serde_json::from_str(&raw.value).map_err(|_| unusable())?;
    Ok(Some(table.entries.map_or(0, |entries| entries.len())))
}

/// Has the holders of the shares make a token. OpenBao masks it with a pad that only we were told.
async fn quorum(
    admin: &Admin<'_>,
    path: &str,
    shares: &[UnsealKey],
) -> Result<Token, RestoreError> {
    #[derive(Deserialize)]
    struct Attempt<'a> {
        nonce: &'a str,
        otp: &'a str,
        required: usize,
    }
    #[derive(Serialize)]
    struct Share<'a> {
        nonce: &'a str,
        key: &'a str,
    }
    #[derive(Deserialize)]
    struct Update<'a> {
        complete: bool,
        encoded_token: &'a str,
    }
    let unusable = || RestoreError::Answer {
        path: path.to_owned(),
    };
    let attempt = admin.write(&format!("{path}/attempt"), &json!({})).await?;
    let attempt: Attempt<'_> = attempt.json().map_err(|_| unusable())?;
    for share in shares {
        let share = Share {
            nonce: attempt.nonce,
            key: share.expose(),
        };
        let update = match admin.write(&format!("{path}/update"), &share).await {
            Err(AdminError::Call { source, .. }) if source.http_status() == Some(400) => {
                return Err(RestoreError::WrongShares);
            }
            update => update?,
        };
        let update: Update<'_> = update.json().map_err(|_| unusable())?;
        if update.complete {
            return unmasked(update.encoded_token, attempt.otp).ok_or_else(unusable);
        }
    }
    Err(RestoreError::MoreShares {
        needed: attempt.required,
        given: shares.len(),
    })
}

fn unmasked(encoded: &str, pad: &str) -> Option<Token> {
    let masked = STANDARD_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    if masked.len() != pad.len() {
        return None;
    }
    let bytes = masked.iter().zip(pad.bytes());
    let text = bytes.map(|(masked, pad)| char::from(masked ^ pad));
    Token::new(Zeroizing::new(text.collect())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_unmasked_with_its_whole_pad_alone() {
        // "s.ab" under "0123".
        let token = unmasked("Qx9TUQ", "0123").unwrap();
        assert_eq!(token.expose(), "s.ab");
        assert!(unmasked("Qx9TUQ==", "0123").is_some());
        assert!(unmasked("Qx9TUQ", "012").is_none());
        assert!(unmasked("?", "0").is_none());
    }
}
