//! Limits of a verdict.

use etcd_snapshot::file::Integrity;

use super::{Facts, key_ids::untested};
use crate::recovery::{Trust, verify_pair::Depth};

/// Open points of the verdict.
pub(super) fn limitations(facts: Facts<'_>) -> Vec<&'static str> {
    let Facts { pair, .. } = facts;
    let mut all = Vec::new();
    let mut add = |applies: bool, text| all.extend(applies.then_some(text));
    add(
        facts.depth == Depth::Dek,
        "No object was opened: an object that was moved or changed in etcd goes unnoticed. Give \
         --depth data to open every one.",
    );
    add(
        matches!(
            pair.inventory.trust,
            Trust::File {
                integrity: Integrity::NoHash,
                ..
            }
        ),
        "The etcd file carries no hash, so damage that leaves its structure whole goes unnoticed.",
    );
    add(
        pair.rows.iter().any(|row| untested(row) > 0),
        "OpenBao neither lists nor uses versions below min_decryption_version, so they are untested, \
         whatever a record or a state says of them: a key that was recreated under the same name \
         looks the same. Lower the limit and verify again.",
    );
    add(
        pair.unanswered.is_some() && facts.record.is_some(),
        "The record shows which versions existed when it was made. It cannot show that this \
         OpenBao has their key material, nor that it is the same.",
    );
    add(
        pair.unanswered.is_some() && facts.record.is_none(),
        "Without OpenBao and without a record nothing but the state of this node tells versions \
         apart. A record (--record) shows which versions existed when the backup was made.",
    );
    add(
        !facts.rehearsed
            && facts
                .record
                .is_some_and(|record| record.note().openbao.is_some()),
        "Whether this OpenBao was restored from the snapshot in the record cannot be seen from \
         its answers.",
    );
    add(
        matches!(pair.inventory.trust, Trust::Live { .. }),
        "etcd is running: the verdict holds for the revision that was read, not for what is written \
         after it.",
    );
    add(
        pair.inventory.unread.is_some(),
        "Keys outside the prefix were left unread: objects among them were not judged.",
    );
    add(
        pair.appeared > 0,
        "etcd changed between its two readings: objects under key_ids that are new since the \
         first were not judged.",
    );
    add(
        true,
        "Only objects of this key were judged; what is stored in plain or by other providers does \
         not depend on it. scan-etcd lists it.",
    );
    all
}
