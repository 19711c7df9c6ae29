//! The metadata probe: may this key be used at all, and does it still cover what is stored.

use kms_domain::{
    bootstrap::BootstrapDenied,
    health::MetadataFailure,
    registry::rotation::RotationRefused,
    scope::TransitKeyPath,
    transit::{KeyProfile, ProfileRefused, TransitVersion},
};
use openbao_client::transit::Transit;

use super::{discovery::DiscoveryFailed, ledger::LedgerError};
use crate::auth::{CallFailure, Session};

/// Why a metadata probe failed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// `config/keys` of the mount could not be read.
    #[error("cannot read {mount}/config/keys of OpenBao")]
    UpsertRead {
        /// The Transit mount.
        mount: String,
        /// Why.
        #[source]
        source: Box<CallFailure>,
    },
    /// Encrypting under a missing key would create one.
    #[error(
        "the Transit mount {mount} creates missing keys on encryption, so a lost key would be \
         replaced unnoticed by one that decrypts nothing; no data is lost. Run \
         `bao write {mount}/config/keys disable_upsert=true`"
    )]
    UpsertAllowed {
        /// The Transit mount.
        mount: String,
    },
    /// The key's metadata could not be read.
    #[error("cannot read the metadata of Transit key {key} on mount {mount}")]
    Read {
        /// The Transit mount.
        mount: String,
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: Box<CallFailure>,
    },
    /// The key is of a kind that must not be used.
    #[error(transparent)]
    Profile(#[from] ProfileRefused),
    /// What OpenBao has does not fit what this node relies on.
    #[error(transparent)]
    Rotation(#[from] RotationRefused),
    /// There is no state, and none may be made.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapDenied),
    /// The next state could not be saved.
    #[error(transparent)]
    Save(#[from] LedgerError),
    /// The same, but the state in use stands: it continues to serve, and the change waits.
    #[error(
        "a change of the state could not be saved; the rotation waits, everything else goes on"
    )]
    Deferred(#[source] LedgerError),
    /// A discovery took too long.
    #[error("reading the key's metadata for a discovery took too long")]
    CutOff,
    /// Transit refuses to encrypt with the active version.
    #[error(
        "min_encryption_version of the Transit key is above the active version {active}, so \
         nothing can be encrypted; decrypting goes on. Set min_encryption_version to {active} or 0"
    )]
    EncryptionBlocked {
        /// In the registry.
        active: TransitVersion,
    },
}

impl MetadataError {
    /// The reason for Status and readiness.
    #[must_use]
    pub fn failure(&self) -> MetadataFailure {
        match self {
            Self::UpsertRead { .. } => MetadataFailure::UpsertCheckFailed,
            Self::UpsertAllowed { .. } => MetadataFailure::UpsertAllowed,
            Self::Read { .. } => MetadataFailure::MetadataReadFailed,
            Self::Profile(_) => MetadataFailure::ProfileInvalid,
            Self::Rotation(refused) => refused.failure(),
            Self::Bootstrap(_) => MetadataFailure::StateUnavailable,
            Self::Save(_) | Self::Deferred(_) => MetadataFailure::StateSaveFailed,
            Self::EncryptionBlocked { .. } => MetadataFailure::EncryptionBlocked,
            Self::CutOff => MetadataFailure::ProbeFailed,
        }
    }

    /// Whether the registry itself was judged and stands: only then a pending version may wait on.
    #[must_use]
    pub fn leaves_the_registry_valid(&self) -> bool {
        matches!(self, Self::EncryptionBlocked { .. })
    }

    /// What a decrypt that waits for a discovery is told. Versions that cannot be saved are found.
    ///
    /// # Errors
    /// The key could not be looked at.
    pub fn of_discovery(&self) -> Result<(), DiscoveryFailed> {
        match self {
            Self::Save(_) | Self::Deferred(_) => Ok(()),
            Self::UpsertRead { .. } | Self::Read { .. } | Self::CutOff => {
                Err(DiscoveryFailed::Unanswered)
            }
            Self::UpsertAllowed { .. }
            | Self::Profile(_)
            | Self::Rotation(_)
            | Self::Bootstrap(_)
            | Self::EncryptionBlocked { .. } => Err(DiscoveryFailed::Refused),
        }
    }

    /// The change that could not be saved, whether or not the state in use stands.
    #[must_use]
    pub fn unsaved(&self) -> Option<&LedgerError> {
        match self {
            Self::Save(unsaved) | Self::Deferred(unsaved) => Some(unsaved),
            _ => None,
        }
    }

    /// What failed underneath, for the breaker and for the error class; `None` for a finding.
    #[must_use]
    pub fn call(&self) -> Option<&CallFailure> {
        match self {
            Self::UpsertRead { source, .. } | Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Reads and checks the mount and the key.
///
/// # Errors
/// The first thing that is wrong.
pub async fn read_profile(
    session: &Session,
    transit: &Transit,
    path: &TransitKeyPath,
) -> Result<KeyProfile, MetadataError> {
    let mount = || path.mount_path.to_string();
    let key = || path.key_name.to_string();
    let upsert_disabled = session
        .call(async |token| transit.upsert_disabled(&token).await)
        .await
        .map_err(|source| MetadataError::UpsertRead {
            mount: mount(),
            source: Box::new(source),
        })?;
    if !upsert_disabled {
        return Err(MetadataError::UpsertAllowed { mount: mount() });
    }
    let metadata = session
        .call(async |token| transit.key_metadata(&token).await)
        .await
        .map_err(|source| MetadataError::Read {
            mount: mount(),
            key: key(),
            source: Box::new(source),
        })?;
    Ok(KeyProfile::check(&metadata, &path.key_name)?)
}
