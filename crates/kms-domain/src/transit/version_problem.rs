//! Reasons for an unusable version of the key. Hidden and lost versions have different remedies.

use super::{CreatedAt, KeyProfile, TransitVersion};

/// Why a retained version cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionProblem {
    /// Above the newest version.
    #[error("Transit version {version} does not exist, since the newest is {latest}")]
    AboveLatest {
        /// The version of the record.
        version: TransitVersion,
        /// The newest version of the key.
        latest: TransitVersion,
    },
    /// Below `min_available_version`.
    #[error(
        "Transit version {version} was trimmed (min_available_version {minimum}): only an OpenBao \
         backup that has it decrypts its data"
    )]
    Trimmed {
        /// The version of the record.
        version: TransitVersion,
        /// The lowest available version.
        minimum: u64,
    },
    /// At least `min_available_version`, but below `min_decryption_version`.
    #[error("Transit version {version} is hidden by min_decryption_version {minimum}")]
    Hidden {
        /// The version of the record.
        version: TransitVersion,
        /// The lowest version that decrypts.
        minimum: u64,
    },
    /// Not in `keys`, although no limit hides it.
    #[error("Transit version {0} is missing from the key's metadata")]
    Unlisted(TransitVersion),
    /// Made at another time: other key material under the same number.
    #[error(
        "Transit version {version} was created at {}, but at {} by our record: the key was \
         recreated, or restored from another lineage",
        .found.utc(), .recorded.utc()
    )]
    CreationTimeMismatch {
        /// The version of the record.
        version: TransitVersion,
        /// The second in the record.
        recorded: CreatedAt,
        /// The second in the metadata.
        found: CreatedAt,
    },
}

impl KeyProfile {
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

    /// Why a record of `version`, made at `recorded`, cannot be relied on.
    pub(crate) fn problem_of(
        &self,
        version: TransitVersion,
        recorded: CreatedAt,
    ) -> Option<VersionProblem> {
        match self.decryptable(version) {
            Err(problem) => Some(problem),
            Ok(found) if found != recorded => Some(VersionProblem::CreationTimeMismatch {
                version,
                recorded,
                found,
            }),
            Ok(_) => None,
        }
    }
}
