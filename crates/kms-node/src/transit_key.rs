//! The Transit key in OpenBao: its checked metadata, and a round trip.

pub mod round_trip;

use kms_domain::{
    health::MetadataFailure,
    scope::TransitKeyPath,
    transit::{KeyProfile, ProfileRefused},
};
use openbao_client::{failure::FailureClass, transit::Transit};

use crate::auth::{CallFailure, Session};

/// Why the key is unknown or refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyReadError {
    /// `config/keys` of the mount could not be read.
    #[error("cannot read {mount}/config/keys of OpenBao")]
    UpsertRead {
        mount: String,
        #[source]
        source: Box<CallFailure>,
    },
    /// Encrypting under a missing key would create one.
    #[error(
        "the Transit mount {mount} creates missing keys on encryption, so a lost key would be \
         replaced unnoticed by one that decrypts nothing; no data is lost. Run \
         `bao write {mount}/config/keys disable_upsert=true`"
    )]
    UpsertAllowed { mount: String },
    /// The key's metadata could not be read.
    #[error("cannot read the metadata of Transit key {key} on mount {mount}")]
    Read {
        mount: String,
        key: String,
        #[source]
        source: Box<CallFailure>,
    },
    /// The type or the settings of the key are unacceptable.
    #[error(transparent)]
    Profile(#[from] ProfileRefused),
}

impl KeyReadError {
    /// The reason for Status and readiness.
    #[must_use]
    pub fn failure(&self) -> MetadataFailure {
        match self {
            Self::UpsertRead { source, .. } | Self::Read { source, .. } if is_sealed(source) => {
                MetadataFailure::OpenBaoSealed
            }
            Self::UpsertRead { .. } => MetadataFailure::UpsertCheckFailed,
            Self::UpsertAllowed { .. } => MetadataFailure::UpsertAllowed,
            Self::Read { .. } => MetadataFailure::MetadataReadFailed,
            Self::Profile(_) => MetadataFailure::ProfileInvalid,
        }
    }

    /// The failed call; `None` for a finding.
    #[must_use]
    pub fn call(&self) -> Option<&CallFailure> {
        match self {
            Self::UpsertRead { source, .. } | Self::Read { source, .. } => Some(source),
            Self::UpsertAllowed { .. } | Self::Profile(_) => None,
        }
    }
}

/// Whether the call failed because OpenBao is sealed.
fn is_sealed(failure: &CallFailure) -> bool {
    failure.class() == Some(FailureClass::Sealed)
}

/// Reads and checks the mount and the key.
///
/// # Errors
/// The first failure.
pub async fn read_profile(
    session: &Session,
    transit: &Transit,
    path: &TransitKeyPath,
) -> Result<KeyProfile, KeyReadError> {
    let mount = || path.mount_path.to_string();
    let key = || path.key_name.to_string();

    let upsert_disabled = session
        .call(async |token| transit.upsert_disabled(&token).await)
        .await
        .map_err(|source| KeyReadError::UpsertRead {
            mount: mount(),
            source: Box::new(source),
        })?;
    if !upsert_disabled {
        return Err(KeyReadError::UpsertAllowed { mount: mount() });
    }

    let metadata = session
        .call(async |token| transit.key_metadata(&token).await)
        .await
        .map_err(|source| KeyReadError::Read {
            mount: mount(),
            key: key(),
            source: Box::new(source),
        })?;
    Ok(KeyProfile::check(&metadata, &path.key_name)?)
}
