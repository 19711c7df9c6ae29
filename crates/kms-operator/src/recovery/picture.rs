//! Versions and events for the picture of a result.

use jiff::Timestamp;
use kms_domain::{
    recovery::{
        record::BackupRecord,
        resolve::{KeyResolver, LiveKey},
    },
    registry::Registry,
    transit::KeyProfile,
};
use kms_node::report::picture::Picture;

/// Adds the versions of the live key.
pub(crate) fn add_profile(picture: &mut Picture, profile: &KeyProfile) {
    for (version, created) in profile.listed() {
        picture.add_version(version.get(), Some(created.get()));
    }
}

/// Adds the versions of the live key, then those that only claims of this key have.
pub(super) fn add_lineage(picture: &mut Picture, lineage: &KeyResolver) {
    if let LiveKey::Listed(profile) = lineage.live() {
        add_profile(picture, profile);
    }
    let claimed = lineage.claims().iter().flat_map(|claims| &claims.keys);
    for key in claimed.filter(|key| key.scope() == lineage.scope()) {
        picture.add_version(key.version().get(), Some(key.created_at().get()));
    }
}

/// Adds the history of each version on this node.
pub(crate) fn add_registry(picture: &mut Picture, registry: &Registry) {
    for record in registry.records() {
        let version = record.key.version();
        picture.add_version(version.get(), Some(record.key.created_at().get()));
        let history = &record.bookkeeping;
        for (second, step) in [
            (history.observed_at(), "found"),
            (history.promoted_at(), "promoted"),
        ] {
            if let Some(second) = second {
                picture.add_event(
                    second.get(),
                    format!("version {version} {step} on this node"),
                );
            }
        }
    }
}

/// Adds the time of a backup record.
pub(super) fn add_record(picture: &mut Picture, record: &BackupRecord) {
    let time = record.note().recorded_at.parse::<Timestamp>();
    let second = time.ok().map(Timestamp::as_second);
    if let Some(second) = second.and_then(|second| u64::try_from(second).ok()) {
        picture.add_event(second, "backup recorded");
    }
}
