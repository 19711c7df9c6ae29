//! Common form of records and states: their active version and their known versions.

use std::sync::Arc;

use super::{Evidence, OWN_STATE, PeerEvidence, PlanBlocker, RecordEvidence};
use crate::{
    identity::{IdentityDifference, name_differences, require_identity},
    key::TransitKey,
    recovery::record::BackupRecord,
    registry::{
        Bookkeeping, RecordState,
        checkpoint::CheckpointStatus,
        document::{Document, Generation, StateHash},
    },
};

/// A record, a peer's state or this node's own state, made under this configuration.
pub(super) struct ClaimSource<'e> {
    pub(super) name: &'e str,
    pub(super) active: &'e Arc<TransitKey>,
    pub(super) generation: Generation,
    pub(super) hash: &'e StateHash,
    pub(super) known: Vec<Known<'e>>,
    /// A state of a preview, whose mount and key are unknown.
    pub(super) unbound: bool,
}

/// One version in a claim source.
#[derive(Clone, Copy)]
pub(super) struct Known<'e> {
    pub(super) key: &'e Arc<TransitKey>,
    pub(super) state: Option<RecordState>,
    pub(super) bookkeeping: Option<Bookkeeping>,
}

impl<'e> ClaimSource<'e> {
    pub(super) fn own(document: &'e Document, evidence: &Evidence) -> Result<Self, PlanBlocker> {
        Self::state(OWN_STATE, document, evidence)
    }

    pub(super) fn peer(peer: &'e PeerEvidence, evidence: &Evidence) -> Result<Self, PlanBlocker> {
        let name = peer.name.clone();
        match CheckpointStatus::of(Some(&peer.document), peer.checkpoint.as_ref()) {
            Ok(CheckpointStatus::Current | CheckpointStatus::Behind) => {
                Self::state(&peer.name, &peer.document, evidence)
            }
            Ok(CheckpointStatus::Absent | CheckpointStatus::Missing { .. }) => {
                Err(PlanBlocker::PeerUnanchored { evidence: name })
            }
            Err(problem) => Err(PlanBlocker::PeerNoPair {
                evidence: name,
                problem,
            }),
        }
    }

    pub(super) fn record(
        record: &'e RecordEvidence,
        evidence: &Evidence,
    ) -> Result<Self, PlanBlocker> {
        let differences = differences(&record.record, evidence);
        if !differences.is_empty() {
            return Err(PlanBlocker::OtherIdentity {
                evidence: record.name.clone(),
                differences,
            });
        }

        let note = record.record.note();
        let versions = note.versions.values();
        Ok(Self {
            name: &record.name,
            active: record.record.active(),
            generation: note.state.generation,
            hash: &note.state.hash,
            known: versions
                .map(|version| Known {
                    key: &version.key,
                    state: version.state,
                    bookkeeping: None,
                })
                .collect(),
            unbound: false,
        })
    }

    fn state(
        name: &'e str,
        document: &'e Document,
        evidence: &Evidence,
    ) -> Result<Self, PlanBlocker> {
        require_identity(document, evidence.scope.identity(), &evidence.path).map_err(|other| {
            PlanBlocker::OtherIdentity {
                evidence: name.to_owned(),
                differences: other
                    .differences()
                    .iter()
                    .map(IdentityDifference::to_string)
                    .collect(),
            }
        })?;

        let registry = document.registry();
        Ok(Self {
            name,
            active: registry.active(),
            generation: document.generation(),
            hash: document.hash(),
            known: registry
                .records()
                .iter()
                .map(|record| Known {
                    key: &record.key,
                    state: Some(record.state),
                    bookkeeping: Some(record.bookkeeping),
                })
                .collect(),
            unbound: document.fingerprint().is_none(),
        })
    }
}

fn differences(record: &BackupRecord, evidence: &Evidence) -> Vec<String> {
    let note = record.note();
    let names = name_differences(evidence.scope.identity(), note.scope.identity());
    let mut differences: Vec<_> = names.iter().map(IdentityDifference::to_string).collect();

    let (recorded, configured) = (&note.path, &evidence.path);
    for (key, configured, recorded) in [
        (
            "transit.mountPath",
            configured.mount_path.as_str(),
            recorded.mount_path.as_str(),
        ),
        (
            "transit.keyName",
            configured.key_name.as_str(),
            recorded.key_name.as_str(),
        ),
    ] {
        if configured != recorded {
            differences.push(format!(
                "{key} is {configured:?}, but the document was made with {recorded:?}"
            ));
        }
    }

    differences
}
