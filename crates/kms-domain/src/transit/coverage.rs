//! Does the key still cover what the registry relies on? Tells what is merely hidden from what is
//! lost, since the remedies differ.

use super::{CreatedAt, KeyProfile, TransitVersion, profile::Sentences};
use crate::registry::Registry;

/// Why a valid profile does not fit the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryConflict {
    /// The key has fewer versions than it had.
    #[error(
        "the newest Transit version is {latest}, but version {active} is active here, so OpenBao \
         holds an older copy of the key: objects written since under higher versions cannot be \
         read until the newer one is back, and nothing was changed on this node. Restore the \
         OpenBao storage that has version {active}; do not rotate to catch up, which would make \
         another version of the same number, and do not delete the state file"
    )]
    VersionRollback {
        /// The active version.
        active: TransitVersion,
        /// The newest version of the key.
        latest: TransitVersion,
    },
    /// Versions that must stay readable are not; every one.
    #[error(
        "versions that stored objects may need cannot be used: {}. Until this is mended objects \
         under them cannot be read; the other versions go on decrypting, and nothing was changed \
         on this node. Do not rotate, trim or recreate the key, and do not delete the state file",
        Sentences(.0)
    )]
    Retained(Vec<VersionProblem>),
}

/// Why a retained version cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionProblem {
    /// Above the newest version.
    #[error(
        "Transit version {version} does not exist, since the newest is {latest}: restore the \
         OpenBao storage that has it"
    )]
    AboveLatest {
        /// The version of the record.
        version: TransitVersion,
        /// The newest version of the key.
        latest: TransitVersion,
    },
    /// Below `min_available_version`.
    #[error(
        "Transit version {version} has been trimmed for good (min_available_version {minimum}): \
         data under it can only be read from an OpenBao backup that still has it"
    )]
    Trimmed {
        /// The version of the record.
        version: TransitVersion,
        /// The lowest available version.
        minimum: u64,
    },
    /// At least `min_available_version`, but below `min_decryption_version`.
    #[error(
        "Transit version {version} is hidden by min_decryption_version {minimum}: lower it to \
         {version} or less"
    )]
    Hidden {
        /// The version of the record.
        version: TransitVersion,
        /// The lowest version that decrypts.
        minimum: u64,
    },
    /// Not in `keys`, although no limit hides it.
    #[error(
        "Transit version {0} is missing from the key's metadata: restore the OpenBao storage that \
         has it"
    )]
    Unlisted(TransitVersion),
    /// Made at another time: other key material under the same number.
    #[error(
        "Transit version {version} was created at {found}, but at {recorded} by our record: the \
         key was made anew or restored from another lineage; restore the OpenBao storage with the \
         original"
    )]
    OtherCreation {
        /// The version of the record.
        version: TransitVersion,
        /// The second in the record.
        recorded: CreatedAt,
        /// The second in the metadata.
        found: CreatedAt,
    },
}

impl KeyProfile {
    /// Requires that every version that must stay readable is, and is still the same.
    ///
    /// # Errors
    /// [`RegistryConflict`]; a rollback of the key before anything else.
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

    /// Requires the same without naming a rollback as such; it then counts as versions that do
    /// not exist.
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

    /// When `version` was made, if it decrypts.
    pub(crate) fn decryptable(&self, version: TransitVersion) -> Result<CreatedAt, VersionProblem> {
        if version > self.latest() {
            let latest = self.latest();
            return Err(VersionProblem::AboveLatest { version, latest });
        }
        if version.get() < self.min_available() {
            let minimum = self.min_available();
            return Err(VersionProblem::Trimmed { version, minimum });
        }
        if version.get() < self.min_decryption() {
            let minimum = self.min_decryption();
            return Err(VersionProblem::Hidden { version, minimum });
        }
        self.created_at(version)
            .ok_or(VersionProblem::Unlisted(version))
    }

    fn problem_of(&self, version: TransitVersion, recorded: CreatedAt) -> Option<VersionProblem> {
        match self.decryptable(version) {
            Err(problem) => Some(problem),
            Ok(found) if found != recorded => Some(VersionProblem::OtherCreation {
                version,
                recorded,
                found,
            }),
            Ok(_) => None,
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
                VersionProblem::OtherCreation {
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
