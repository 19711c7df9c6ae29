//! What an operator should do, what not, and what stays unproven.

use std::borrow::Cow;

use etcd_snapshot::file::Integrity;
use jiff::Timestamp;
use kms_domain::{
    recovery::origin::{Gap, Origin},
    transit::CreatedAt,
};

use super::{Facts, key_ids::untested};
use crate::{
    diagnose::call_remedy,
    recovery::{
        Trust,
        verify_pair::{Depth, Row, Unanswered},
    },
};

/// What to do, and what not to do, about a row that is not as it should be.
pub(super) fn advice(row: &Row) -> Option<(Cow<'static, str>, &'static str)> {
    let seeds = row.finding.seeds;
    let gap = match &row.finding.origin {
        Origin::Gap(gap) => gap,
        Origin::Known(_) => return None,
        Origin::Live(_) if row.is_of_another_key() => {
            return Some((ORIGINAL_KEY.into(), NO_RECREATED_KEY));
        }
        Origin::Live(_) => {
            let unopened = row.finding.data.is_some_and(|data| data.failed > 0);
            let wrong = seeds.failed > 0 || unopened;
            return wrong.then_some((EARLIER_ETCD.into(), NO_AAD_BYPASS));
        }
    };
    let (next, not) = match gap {
        Gap::KeyId(_) | Gap::Annotations(_) | Gap::Foreign(_) => (EARLIER_ETCD, NO_AAD_BYPASS),
        Gap::OtherScope { .. } => (
            "put back the names under which this was encrypted (from configuration management or \
             a backup record), or verify with the configuration of the cluster that it belongs to",
            "do not change names to make an error go away",
        ),
        Gap::NewerThanLatest {
            version, recorded, ..
        } => {
            let since = recorded.map_or_else(String::new, |second| {
                format!(", which was made at {}", time_of(second))
            });
            let next = format!(
                "restore an OpenBao backup that has version {version}{since}, or an etcd snapshot \
                 from before that rotation"
            );
            return Some((next.into(), NO_ROTATION));
        }
        Gap::Trimmed { .. } => (
            "restore an OpenBao backup from before the key was trimmed, or an etcd snapshot in \
             which nothing needs the trimmed versions",
            "do not trim any further",
        ),
        Gap::OtherCreation { .. } | Gap::Recreated { .. } => (ORIGINAL_KEY, NO_RECREATED_KEY),
        Gap::OtherProvider { provider, .. } => {
            let next = format!(
                "verify with the configuration of the provider that writes under the name \
                 {provider:?}: this one cannot tell whether its objects decrypt"
            );
            return Some((
                next.into(),
                "do not trim or retire versions of the key before",
            ));
        }
        Gap::NoKey { .. } => (
            "compare transit.mountPath and transit.keyName with what was configured; if they are \
             right, restore an OpenBao backup that has the key",
            "do not create a key of that name: it decrypts nothing of the old one",
        ),
        // The one has a remedy, the other waits for OpenBao.
        Gap::Hidden { .. } | Gap::Unknown { .. } => return None,
    };
    Some((next.into(), not))
}

/// What to do, and what not to do, about values of this provider that are damaged in etcd.
pub(super) fn damage_advice() -> (Cow<'static, str>, &'static str) {
    (EARLIER_ETCD.into(), NO_AAD_BYPASS)
}

/// Which OpenBao backup it is that another key or version must come from.
pub(super) fn recorded_backup(facts: Facts<'_>) -> Option<String> {
    let needs_another_key = |row: &Row| {
        matches!(
            row.finding.origin,
            Origin::Gap(
                Gap::NewerThanLatest { .. }
                    | Gap::Trimmed { .. }
                    | Gap::Recreated { .. }
                    | Gap::OtherCreation { .. }
                    | Gap::NoKey { .. }
            )
        )
    };
    let note = facts.record?.note();
    let openbao = note.openbao.as_ref()?;
    let sha256 = openbao.sha256_hex();
    let at = &note.recorded_at;
    facts.pair.rows.iter().any(needs_another_key).then(|| {
        format!("the OpenBao snapshot of the recorded set, of {at}, has the SHA-256 {sha256}")
    })
}

/// What a verdict of `inconclusive` waits for.
pub(super) fn open_question(facts: Facts<'_>) -> Option<String> {
    let step = match facts.pair.unanswered.as_ref()? {
        Unanswered::Metadata(failure) | Unanswered::Decrypt(failure) => call_remedy(failure),
        Unanswered::Profile(_) => Some(
            "correct in OpenBao what the check openbao.key names; where it asks for another key, \
             keep this one until nothing in etcd and in the backups needs it",
        ),
        Unanswered::Connection(_) | Unanswered::Item(_) => None,
    };
    let step = step.unwrap_or("mend what the check openbao.key names");
    Some(format!("{step}, then run verify-backup again"))
}

fn time_of(second: CreatedAt) -> String {
    i64::try_from(second.get())
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok())
        .map_or_else(|| format!("second {second}"), |time| time.to_string())
}

const NO_ROTATION: &str = "do not rotate the key to reach the missing number: a new version of the \
     same number decrypts nothing of the old one";
const ORIGINAL_KEY: &str = "restore the OpenBao backup that has the original key; if this \
     OpenBao has it, compare providerName, clusterId and openbao.instanceId with a backup record \
     (--record): nothing in etcd shows them";
const NO_RECREATED_KEY: &str =
    "do not accept a key that was made anew under the same name, and do not rotate or trim it";
const EARLIER_ETCD: &str = "restore an etcd snapshot from before these objects were damaged, or \
     make them anew from their source once the rest is in service";
const NO_AAD_BYPASS: &str =
    "do not edit values or annotations in etcd: they are bound to key and place, and never open";

/// What the verdict does not say.
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
