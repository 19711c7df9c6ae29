//! Creates the first state from metadata alone, for a key without rotations.
//! Implements `docs/format/state-document.md` section 7.
//!
//! After a rotation, metadata does not show the versions promoted on this node. The state must then
//! come from a backup, from a peer, or from recovery with evidence.

use std::sync::Arc;

use crate::{
    fingerprint::IdentityFingerprint,
    key::{KeyScope, TransitKey},
    registry::{Registry, document::Document},
    scope::{IdentityScope, TransitKeyPath},
    transit::{KeyProfile, TransitVersion},
};

/// The key was rotated, so data may exist under any of its versions.
///
/// The other conditions are implied: every [`KeyProfile`] with newest version 1 has that version
/// untrimmed and decryptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no state and the key has been rotated to version {latest}, so the version in use is \
     unknown. No object is lost, but this node reads and writes none until it has state again"
)]
pub struct BootstrapDenied {
    /// The newest version of the key.
    pub latest: TransitVersion,
}

/// The document of generation 1 with version 1 active, for a node without state and checkpoint
/// ([`CheckpointStatus::Absent`](crate::registry::checkpoint::CheckpointStatus::Absent)).
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn a_key_at_version_1_gives_the_first_document() {
        let scope = vectors::golden_scope();
        let path = vectors::path("transit", "kubernetes-etcd");
        let profile = vectors::profile(&[(1, 1_700_000_060)], 0, 1);
        let made = bootstrap(&profile, &scope, &path, 1_700_000_000).unwrap();
        let fingerprint = IdentityFingerprint::of(&scope, &path);
        assert_eq!(made.fingerprint(), Some(&fingerprint));
        // Apart from its placeholder fingerprint and hash, this is the first vector.
        let file: serde_json::Value = vectors::vectors!("state.json");
        let initial = file["pairs"][0]["state"].as_str().unwrap();
        let (made_text, initial) = (made.encode(), Document::decode(initial.as_bytes()).unwrap());
        assert_eq!(
            made_text
                .replace(
                    fingerprint.as_str(),
                    initial.fingerprint().unwrap().as_str(),
                )
                .replace(made.hash().as_str(), initial.hash().as_str()),
            initial.encode()
        );
        assert_eq!(Document::decode(made_text.as_bytes()).unwrap(), made);
    }

    #[test]
    fn a_rotated_key_gives_no_state() {
        let scope = vectors::golden_scope();
        let path = vectors::path("transit", "kubernetes-etcd");
        let profile = vectors::profile(&[(1, 60), (2, 120)], 0, 1);
        let denied = bootstrap(&profile, &scope, &path, 1).unwrap_err();
        assert_eq!(denied.latest, vectors::version(2));
    }
}
