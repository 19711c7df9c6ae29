//! Checks that the key still has all versions the registry relies on. Hidden and lost versions are
//! distinguished, since their remedies differ.

use super::Registry;
use crate::transit::{KeyProfile, Sentences, TransitVersion, VersionProblem};

/// Conflict between a valid profile and the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryConflict {
    /// The key has fewer versions than before.
    #[error(
        "the newest Transit version is {latest}, but version {active} is active here: OpenBao holds \
         an older copy of the key, or another key of its name. Objects written since under higher \
         versions cannot be read until the key has them again, and nothing was changed on this node"
    )]
    VersionRollback {
        /// The active version.
        active: TransitVersion,
        /// The newest version of the key.
        latest: TransitVersion,
    },
    /// Every unreadable version that must stay readable.
    #[error(
        "versions that stored objects may need cannot be used: {}. Objects under them cannot be \
         read, and nothing was changed on this node",
        Sentences(.0)
    )]
    Retained(Vec<VersionProblem>),
}

impl KeyProfile {
    /// Requires that every retained version is readable and unchanged.
    ///
    /// # Errors
    /// [`RegistryConflict`]; a rollback of the key is reported first.
    pub fn require_retained(&self, registry: &Registry) -> Result<(), RegistryConflict> {
        let active = registry.active().version();
        if self.latest() < active {
            return Err(RegistryConflict::VersionRollback {
                active,
                latest: self.latest(),
            });
        }
        self.require_readable(registry)
    }

    /// Like [`require_retained`](Self::require_retained), but a rollback is reported as missing
    /// versions.
    ///
    /// # Errors
    /// [`RegistryConflict::Retained`].
    pub(crate) fn require_readable(&self, registry: &Registry) -> Result<(), RegistryConflict> {
        let problems: Vec<_> = registry
            .retained()
            .filter_map(|record| self.problem_of(record.key.version(), record.key.created_at()))
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(RegistryConflict::Retained(problems))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{registry::RecordState, vectors};

    #[test]
    fn every_unreadable_retained_version_is_named_with_its_cause() {
        let profile = vectors::profile(&[(3, 33), (5, 5), (6, 6)], 2, 3);
        let registry = vectors::registry(&[
            (7, RecordState::Pending),
            (5, RecordState::Active),
            (4, RecordState::Retired),
            (3, RecordState::Retired),
            (2, RecordState::Retired),
            (1, RecordState::Retired),
        ]);
        let version = vectors::version;
        assert_eq!(
            profile.require_retained(&registry),
            Err(RegistryConflict::Retained(vec![
                VersionProblem::AboveLatest {
                    version: version(7),
                    latest: version(6)
                },
                VersionProblem::Unlisted(version(4)),
                VersionProblem::CreationTimeMismatch {
                    version: version(3),
                    recorded: vectors::created_at(3),
                    found: vectors::created_at(33)
                },
                VersionProblem::Hidden {
                    version: version(2),
                    minimum: 3
                },
                VersionProblem::Trimmed {
                    version: version(1),
                    minimum: 2
                },
            ]))
        );
        let withdrawn = vectors::registry(&[
            (6, RecordState::Active),
            (5, RecordState::Retired),
            (3, RecordState::Rejected),
            (1, RecordState::Removed),
        ]);
        assert_eq!(profile.require_retained(&withdrawn), Ok(()));
    }

    #[test]
    fn a_key_behind_the_active_version_is_a_rollback() {
        let registry = vectors::registry(&[(4, RecordState::Active), (1, RecordState::Retired)]);
        assert_eq!(
            vectors::profile(&[(1, 1), (2, 2), (3, 3)], 0, 1).require_retained(&registry),
            Err(RegistryConflict::VersionRollback {
                active: vectors::version(4),
                latest: vectors::version(3)
            })
        );
    }
}
