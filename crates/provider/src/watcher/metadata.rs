//! The metadata probe: may this key be used at all, and does it still cover what is stored.

use kms_domain::{
    bootstrap::BootstrapDenied,
    health::MetadataFailure,
    registry::Registry,
    scope::TransitKeyPath,
    transit::{KeyProfile, ProfileRefused, RegistryConflict, TransitVersion},
};
use openbao_client::transit::Transit;

use crate::{
    auth::{CallFailure, Session},
    state::CommitError,
};

/// Why a metadata probe failed.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// `config/keys` of the mount could not be read.
    #[error("cannot read {mount}/config/keys of OpenBao (is `read` on it in the policy?)")]
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
    /// OpenBao lacks what stored data may need, or has something else under its name.
    #[error(
        "OpenBao does not cover the keys that this node relies on, so objects may be unreadable \
         until it does; do not rotate, trim or recreate the key, and do not touch the state file"
    )]
    Conflict(#[from] RegistryConflict),
    /// There is no state, and none may be made.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapDenied),
    /// The first state could not be saved.
    #[error("the registry state could not be saved")]
    Save(#[from] CommitError),
    /// The thread that works on the state ended early.
    #[error("the work on the registry state was interrupted")]
    Interrupted,
    /// Transit refuses to encrypt with the active version.
    #[error(
        "min_encryption_version of the Transit key is above the active version {active}, so \
         nothing can be encrypted; decrypting goes on. Set min_encryption_version to {active} or 0"
    )]
    EncryptionBlocked {
        /// In the registry.
        active: TransitVersion,
    },
    /// Skipped after repeated failures.
    #[error("OpenBao failed repeatedly; the probe waits before it tries again")]
    BreakerOpen,
}

impl MetadataError {
    /// The reason for Status and readiness.
    #[must_use]
    pub fn failure(&self) -> MetadataFailure {
        match self {
            Self::UpsertRead { .. } => MetadataFailure::UpsertCheckFailed,
            Self::UpsertAllowed { .. } => MetadataFailure::UpsertAllowed,
            Self::Read { .. } => MetadataFailure::MetadataReadFailed,
            Self::Conflict(RegistryConflict::VersionRollback { .. }) => {
                MetadataFailure::VersionRollback
            }
            Self::Profile(_) | Self::Conflict(RegistryConflict::Retained(_)) => {
                MetadataFailure::ProfileInvalid
            }
            Self::Bootstrap(_) => MetadataFailure::StateUnavailable,
            Self::Save(_) => MetadataFailure::StateSaveFailed,
            Self::EncryptionBlocked { .. } => MetadataFailure::EncryptionBlocked,
            Self::Interrupted => MetadataFailure::ProbeFailed,
            Self::BreakerOpen => MetadataFailure::CircuitBreakerOpen,
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

/// Requires that OpenBao still has all that the registry retains and may encrypt with.
///
/// # Errors
/// The first thing that is wrong; nothing has changed.
pub fn require_registry(profile: &KeyProfile, registry: &Registry) -> Result<(), MetadataError> {
    profile.require_retained(registry)?;
    let active = registry.active().version();
    if profile.blocks_encryption(active) {
        return Err(MetadataError::EncryptionBlocked { active });
    }
    Ok(())
}
