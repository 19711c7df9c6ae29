//! A temporary copy of another server, restored from its snapshot for inspection.
//!
//! The copy has the credentials, leases and audit devices of production and would use them once
//! unsealed. Three measures prevent this: it is [confined](crate::confinement) if the kernel
//! supports it, its audit devices are deleted in recovery mode, and it listens only on loopback.
//! Its raft cluster has one member: OpenBao keeps the members of the server that restores a
//! snapshot and ignores those in the snapshot.
//!
//! Each state is a type, in this order: [`Installation`], [`ConfinedRestore`], [`AuditDisabled`],
//! [`Restored`].

use std::{path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use openbao_client::{
    failure::FailureClass,
    login::Grant,
    token::{Lease, Token},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

pub use super::config::StaticSeal;
use super::{
    Audit, Installation, Server, ServerError, UnsealKey,
    installation::Mode,
    snapshot::{SnapshotError, failed_to_restore},
};
use crate::{
    admin::{Admin, AdminError},
    binary::BaoBinary,
};

/// A stopped copy with the snapshot's data, sealed.
pub struct ConfinedRestore(Installation);

/// A stopped, sealed copy without audit devices.
pub struct AuditDisabled {
    installation: Installation,
    /// Number of deleted audit devices.
    pub audit_devices: usize,
}

/// The running, unsealed copy.
pub struct Restored {
    /// The server itself.
    pub server: Server,
    /// Root token, created by the quorum of unseal shares.
    pub root_token: Token,
}

/// Error of a restore.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A server operation failed.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// OpenBao rejected the snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The shares failed to decrypt the data.
    #[error("the key shares do not match this snapshot: a share is wrong or of another OpenBao")]
    WrongShares,
    /// More shares are required.
    #[error("this snapshot needs {needed} different key shares; {given} given")]
    MoreShares {
        /// Threshold of the seal.
        needed: usize,
        /// Number of given shares.
        given: usize,
    },
    /// The seal type differs: unseal shares were given for an auto-unsealed server, or the reverse.
    #[error(
        "the OpenBao of this snapshot has another seal type than {}",
        match .static_seal {
            true => "seal \"static\"",
            false => "unseal key shares",
        }
    )]
    OtherSeal {
        /// Whether `seal "static"` was tried.
        static_seal: bool,
    },
    /// A required request failed.
    #[error(transparent)]
    Call(#[from] AdminError),
    /// The response has an unexpected format.
    #[error("unexpected response from OpenBao to `{path}`; is this a supported version?")]
    Answer {
        /// The request path.
        path: String,
    },
}

impl Installation {
    /// Prepares the directory of a copy. With `confined` the kernel denies writes outside
    /// `directory` and outgoing TCP connections; see [`trial`](crate::confinement::trial).
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

    /// Sets the auto-unseal key of the data.
    #[must_use]
    pub fn sealed_by(mut self, seal: StaticSeal) -> Self {
        self.settings.seal = Some(seal);
        self
    }

    /// Restores the snapshot into a new server. The server has another seal key, cannot decrypt the
    /// restored data, and so seals itself before any of the data takes effect.
    ///
    /// # Errors
    /// [`RestoreError::Snapshot`] if OpenBao rejects the snapshot as damaged, or fails to install its
    /// data.
    pub async fn take_over(self, snapshot: &Path) -> Result<ConfinedRestore, RestoreError> {
        let server = self.start().await?;
        let secrets = server.initialize().await?;
        server.unseal(&secrets.unseal_key).await?;
        let token = &secrets.root_token;
        server.restore_snapshot(token, snapshot).await?;
        // Its log may end before the failure, on the same full disk.
        if server.is_unsealed_by(&secrets.unseal_key).await? {
            let said = "it has its own data in place of the snapshot's";
            return Err(failed_to_restore(said.to_owned()).into());
        }
        // The seal type of the data is read at the next start.
        Ok(ConfinedRestore(server.stop().await?))
    }
}

impl ConfinedRestore {
    /// Deletes the audit devices in the data. An unsealed copy would open their files and sockets,
    /// possibly those of the server in service, and would fail to start without them.
    ///
    /// # Errors
    /// [`RestoreError::WrongShares`], [`RestoreError::MoreShares`] or [`RestoreError::OtherSeal`]
    /// if the seal key or the shares do not match the data.
    pub async fn silence(
        self,
        seal: Option<StaticSeal>,
        shares: &[UnsealKey],
    ) -> Result<AuditDisabled, RestoreError> {
        const TABLES: [&str; 2] = ["sys/raw/core/audit", "sys/raw/core/local-audit"];
        let installation = match seal {
            Some(seal) => self.0.sealed_by(seal),
            None => self.0,
        };
        const TOKEN: &str = "sys/generate-recovery-token";

        let static_seal = installation.settings.seal.is_some();
        let server = installation.start_as(Mode::Recovery).await?;
        let anyone = server.anonymous()?;
        // With an unknown seal type this path returns an error status.
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

        Ok(AuditDisabled {
            installation: server.stop().await?,
            audit_devices,
        })
    }
}

impl AuditDisabled {
    /// Starts and unseals the copy, and creates a root token with the quorum of shares.
    ///
    /// # Errors
    /// When OpenBao fails to start or unseal with this data.
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
    /// Creates a token for the inspection of the copy, with a TTL of `life`.
    ///
    /// # Errors
    /// When OpenBao rejects the request.
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
                uses: None,
            },
            // The token was created without a credential that expires.
            credential_expires: None,
        })
    }

    /// Revokes the root token together with its child tokens, and stops the copy.
    ///
    /// # Errors
    /// When OpenBao rejects the request or the server cannot be stopped.
    pub async fn close(self) -> Result<(), RestoreError> {
        let Self { server, root_token } = self;
        let admin = server.admin(&root_token)?;
        admin.write("auth/token/revoke-self", &json!({})).await?;
        server.stop().await?;
        Ok(())
    }
}

/// Number of entries of a table; `None` if the table is missing.
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

/// Creates a token with the quorum of shares. OpenBao masks it with a one-time pad that is only in
/// the response to this attempt.
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
