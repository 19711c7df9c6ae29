//! May the first state be made from metadata alone: yes, for a key that was never rotated.
//! Implements `docs/format/state-document.md` section 7.
//!
//! After a rotation metadata does not tell which versions were promoted here, so the state must
//! come from a backup, from a peer, or from recovery with evidence.

use std::sync::Arc;

use crate::{
    fingerprint::IdentityFingerprint,
    key::{KeyScope, TransitKey},
    registry::{Registry, document::Document},
    scope::{IdentityScope, TransitKeyPath},
    transit::{KeyProfile, TransitVersion},
};

/// The key has been rotated, so data may exist under any of its versions.
///
/// The other conditions, that version 1 is neither trimmed nor kept from decrypting, hold for
/// every [`KeyProfile`] whose newest version is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no state and the key has been rotated to version {latest}: restore the pair of state \
     and checkpoint from a backup or copy it from a peer; new state is made only for a key that \
     is still at version 1"
)]
pub struct BootstrapDenied {
    /// The newest version of the key.
    pub latest: TransitVersion,
}

/// The document of generation 1 with version 1 active, for a node that has neither state nor
/// checkpoint ([`Anchor::Absent`](crate::registry::anchor::Anchor::Absent)).
///
/// `now` is in Unix seconds and only for bookkeeping.
///
/// # Errors
/// [`BootstrapDenied`].
pub fn bootstrap(
    profile: &KeyProfile,
    scope: &IdentityScope,
    path: &TransitKeyPath,
    now: u64,
) -> Result<Document, BootstrapDenied> {
    let latest = profile.latest();
    if latest != TransitVersion::FIRST {
        return Err(BootstrapDenied { latest });
    }
    let key = TransitKey::new(
        Arc::new(KeyScope::new(scope.clone())),
        latest,
        profile.latest_created_at(),
    );
    Ok(Document::first(
        IdentityFingerprint::of(scope, path),
        Registry::first(key, now),
    ))
}
