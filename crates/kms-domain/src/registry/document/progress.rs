//! Permitted changes from one document to the next.
//! Implements `docs/format/state-document.md` section 9, *Progress*.
//!
//! Rotation and retirement already follow these rules. Every new document is checked again, because
//! an error here makes stored objects unreadable.

use super::{Document, Generation, MAX_FILE_BYTES, StateHash};
use crate::{
    fingerprint::IdentityFingerprint,
    registry::{Record, RecordState, Registry, RegistryProblem},
    transit::TransitVersion,
};

/// Whether records may leave the decryptable states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::registry) enum Retention {
    /// Decryptable versions stay decryptable, and removed ones stay removed.
    Kept,
    /// The operator has reviewed the changed records.
    Reviewed,
}

/// Reason why a document cannot follow another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgressProblem {
    /// Generation 18446744073709551615 is reached.
    #[error("generation {0} is the last one")]
    Exhausted(Generation),
    /// The document is larger than the size limit for reading.
    #[error(
        "it would have {0} bytes, more than the {MAX_FILE_BYTES} that are read back: the key has \
         thousands of versions"
    )]
    TooLarge(usize),
    /// The records violate a rule of the registry.
    #[error("its records contradict each other")]
    Registry(#[source] RegistryProblem),
    /// The documents belong to different configurations.
    #[error("it is bound to {next}, its predecessor to {previous}")]
    OtherFingerprint {
        /// In the predecessor.
        previous: IdentityFingerprint,
        /// In the document.
        next: IdentityFingerprint,
    },
    /// The generation must increase by one.
    #[error("its generation is {next}, its predecessor's {previous}")]
    Generation {
        /// In the predecessor.
        previous: Generation,
        /// In the document.
        next: Generation,
    },
    /// The document names another predecessor.
    #[error("it does not follow the document with the hash {0}")]
    NotLinked(StateHash),
    /// The active version must not decrease.
    #[error("its active Transit version is {next}, after {previous}")]
    ActiveLowered {
        /// In the predecessor.
        previous: TransitVersion,
        /// In the document.
        next: TransitVersion,
    },
    /// A record is missing, or its change is forbidden by the table.
    #[error(
        "Transit version {version} is {} after being {}",
        next.map_or("gone", RecordState::as_str), previous.as_str()
    )]
    Record {
        /// The version.
        version: TransitVersion,
        /// State in the predecessor.
        previous: RecordState,
        /// State in the document; `None` for a missing record. Equal to `previous` for a removed
        /// record with other bookkeeping.
        next: Option<RecordState>,
    },
}

impl Document {
    /// The document that follows this one with `records`, in their order.
    pub(in crate::registry) fn next(
        &self,
        records: Vec<Record>,
        retention: Retention,
    ) -> Result<Self, ProgressProblem> {
        let next = Self::link(
            self.fingerprint.clone(),
            self.generation.next()?,
            Some(self.hash.clone()),
            Registry::new(records).map_err(ProgressProblem::Registry)?,
        );
        self.require_progress(&next, retention)?;
        next.require_readable()?;
        Ok(next)
    }

    /// A document with a lost predecessor: `previous` is its generation and hash, if known.
    pub(crate) fn rebuilt(
        fingerprint: IdentityFingerprint,
        previous: Option<(Generation, StateHash)>,
        records: Vec<Record>,
    ) -> Result<Self, ProgressProblem> {
        let registry = Registry::new(records).map_err(ProgressProblem::Registry)?;
        let (generation, previous_hash) = match previous {
            None => (Generation::FIRST, None),
            Some((generation, hash)) => (generation.next()?, Some(hash)),
        };
        let rebuilt = Self::link(Some(fingerprint), generation, previous_hash, registry);
        rebuilt.require_readable()?;
        Ok(rebuilt)
    }

    fn require_readable(&self) -> Result<(), ProgressProblem> {
        match self.encode().len() {
            bytes if bytes > MAX_FILE_BYTES => Err(ProgressProblem::TooLarge(bytes)),
            _ => Ok(()),
        }
    }

    fn require_progress(&self, next: &Self, retention: Retention) -> Result<(), ProgressProblem> {
        if let (Some(previous), Some(next)) = (&self.fingerprint, &next.fingerprint)
            && previous != next
        {
            return Err(ProgressProblem::OtherFingerprint {
                previous: previous.clone(),
                next: next.clone(),
            });
        }

        if next.generation.get().checked_sub(1) != Some(self.generation.get()) {
            return Err(ProgressProblem::Generation {
                previous: self.generation,
                next: next.generation,
            });
        }

        if next.previous_hash.as_ref() != Some(&self.hash) {
            return Err(ProgressProblem::NotLinked(self.hash.clone()));
        }

        let active = |document: &Self| document.registry.active().version();
        if active(next) < active(self) {
            return Err(ProgressProblem::ActiveLowered {
                previous: active(self),
                next: active(next),
            });
        }

        match retention {
            Retention::Kept => require_retention(&self.registry, &next.registry),
            Retention::Reviewed => Ok(()),
        }
    }
}

impl Generation {
    fn next(self) -> Result<Self, ProgressProblem> {
        let next = self.get().checked_add(1).and_then(Self::new);
        next.ok_or(ProgressProblem::Exhausted(self))
    }
}

fn require_retention(previous: &Registry, next: &Registry) -> Result<(), ProgressProblem> {
    for record in previous.records() {
        let found = next.records().iter().find(|r| r.key == record.key);
        if !may_follow(record, found) {
            return Err(ProgressProblem::Record {
                version: record.key.version(),
                previous: record.state,
                next: found.map(|found| found.state),
            });
        }
    }
    Ok(())
}

fn may_follow(previous: &Record, next: Option<&Record>) -> bool {
    use RecordState::{Active, Pending, Rejected, Removed, Retired};
    let state = next.map(|next| next.state);
    match previous.state {
        Active | Retired => matches!(state, Some(Active | Retired)),
        Pending => matches!(state, Some(Pending | Active | Retired)),
        Removed => next == Some(previous),
        Rejected => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use RecordState::{Active, Pending, Rejected, Removed, Retired};

    fn document(states: &[(u64, RecordState)]) -> Document {
        let fingerprint = crate::digest::text_of("cfg1.", b"here");
        Document::first(
            IdentityFingerprint::parse(&fingerprint).unwrap(),
            vectors::registry(states),
        )
    }

    fn next(
        previous: &Document,
        states: &[(u64, RecordState)],
        retention: Retention,
    ) -> Result<Document, ProgressProblem> {
        let registry = vectors::registry(states);
        previous.next(registry.records().to_vec(), retention)
    }

    #[test]
    fn the_retention_table_holds_for_every_pair_of_states() {
        let all = [
            Some(Active),
            Some(Pending),
            Some(Retired),
            Some(Rejected),
            Some(Removed),
            None,
        ];
        for (previous, allowed) in [
            (Active, &[Some(Active), Some(Retired)] as &[_]),
            (Retired, &[Some(Active), Some(Retired)]),
            (Pending, &[Some(Pending), Some(Active), Some(Retired)]),
            (Removed, &[Some(Removed)]),
            (Rejected, &all),
        ] {
            // Version 2 is the record under test; version 1 or 3 is active beside it.
            let before = if previous == Active {
                document(&[(2, Active)])
            } else {
                document(&[(2, previous), (1, Active)])
            };
            for after in all {
                let mut states: Vec<_> = after.map(|state| (2, state)).into_iter().collect();
                let elder = if previous == Active { None } else { Some(1) };
                match (after, elder) {
                    (Some(Active), None) => {}
                    (Some(Active), Some(elder)) => states.push((elder, Retired)),
                    (_, None) => states.push((3, Active)),
                    (_, Some(elder)) => states.push((elder, Active)),
                }
                let made = next(&before, &states, Retention::Kept);
                match made {
                    Ok(_) => assert!(allowed.contains(&after), "{previous:?} to {after:?}"),
                    Err(problem) => {
                        assert!(!allowed.contains(&after), "{previous:?} to {after:?}");
                        assert_eq!(
                            problem,
                            ProgressProblem::Record {
                                version: vectors::version(2),
                                previous,
                                next: after
                            }
                        );
                    }
                }
                assert!(next(&before, &states, Retention::Reviewed).is_ok());
            }
        }
    }

    #[test]
    fn a_removed_record_keeps_its_bookkeeping() {
        let before = document(&[(2, Active), (1, Removed)]);
        let mut records = before.registry().records().to_vec();
        let clock = crate::registry::StepClock::new(5);
        records[1].bookkeeping = crate::registry::Bookkeeping::seen(&clock);
        let problem = before.next(records, Retention::Kept).unwrap_err();
        assert!(matches!(problem, ProgressProblem::Record { .. }));
    }

    #[test]
    fn the_chain_goes_one_generation_a_step_within_one_configuration() {
        let before = document(&[(1, Active)]);
        let after = next(&before, &[(2, Active), (1, Retired)], Retention::Kept).unwrap();
        let judge = |next: &Document| before.require_progress(next, Retention::Reviewed);
        assert_eq!(judge(&after), Ok(()));
        assert_eq!(after.generation().get(), 2);
        assert_eq!(after.previous_hash(), Some(before.hash()));

        let link = |fingerprint: &IdentityFingerprint, generation, previous: &StateHash| {
            Document::link(
                Some(fingerprint.clone()),
                Generation::new(generation).unwrap(),
                Some(previous.clone()),
                after.registry().as_ref().clone(),
            )
        };
        let foreign = crate::digest::text_of("cfg1.", b"there");
        let foreign = IdentityFingerprint::parse(&foreign).unwrap();
        let (ours, hash) = (before.fingerprint().unwrap(), before.hash());
        assert_eq!(judge(&link(ours, 2, hash)), Ok(()));
        use ProgressProblem as P;
        let refused = |next: &Document| judge(next).unwrap_err();
        let other = refused(&link(&foreign, 2, hash));
        assert!(matches!(other, P::OtherFingerprint { .. }), "{other:?}");
        let skipped = refused(&link(ours, 3, hash));
        assert!(matches!(skipped, P::Generation { .. }), "{skipped:?}");
        let unlinked = refused(&link(ours, 2, after.hash()));
        assert!(matches!(unlinked, P::NotLinked(_)), "{unlinked:?}");
    }

    #[test]
    fn the_active_version_is_never_lowered_not_even_by_review() {
        let before = document(&[(2, Active), (1, Retired)]);
        for retention in [Retention::Kept, Retention::Reviewed] {
            assert_eq!(
                next(&before, &[(2, Retired), (1, Active)], retention),
                Err(ProgressProblem::ActiveLowered {
                    previous: vectors::version(2),
                    next: vectors::version(1)
                })
            );
        }
    }

    #[test]
    fn a_document_that_could_not_be_read_back_is_not_made() {
        let states: Vec<_> = (2..=12_000).map(|version| (version, Retired)).collect();
        let before = document(&[(1, Active)]);
        let made = next(
            &before,
            &[&[(1, Active)], &*states].concat(),
            Retention::Kept,
        );
        assert!(matches!(made, Err(ProgressProblem::TooLarge(bytes)) if bytes > MAX_FILE_BYTES));
    }

    #[test]
    fn the_last_generation_has_no_successor() {
        let first = document(&[(1, Active)]);
        let last = Document::link(
            first.fingerprint().cloned(),
            Generation::new(u64::MAX).unwrap(),
            Some(first.hash().clone()),
            first.registry().as_ref().clone(),
        );
        assert!(matches!(
            next(&last, &[(1, Active)], Retention::Kept),
            Err(ProgressProblem::Exhausted(_))
        ));
    }
}
