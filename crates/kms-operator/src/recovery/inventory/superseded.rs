//! Protection of replaced and deleted revisions. Restoring data does not need them, so their
//! objects and encrypted DEKs are left uncounted.

use std::collections::HashMap;

use etcd_snapshot::{envelope::Envelope, revision::Object, value::Protection};

use super::{
    Group,
    tally::{ROW_BYTES, identity},
};

/// Groups without encrypted DEKs.
#[derive(Default)]
pub(super) struct Superseded {
    groups: HashMap<Vec<u8>, Group>,
    /// Approximate size in bytes of all entries.
    kept: usize,
}

impl Superseded {
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    pub(super) fn add(&mut self, object: Object<'_>) {
        let Protection::KmsV2 { provider, message } = Protection::of(object.value) else {
            return;
        };
        let Ok(envelope) = Envelope::parse(message) else {
            return;
        };
        let identity = identity(provider, &envelope);
        if self.groups.contains_key(&identity) {
            return;
        }
        let bytes = identity.len().saturating_mul(2).saturating_add(ROW_BYTES);
        self.kept = self.kept.saturating_add(bytes);
        self.groups
            .insert(identity, Group::new(provider, &envelope));
    }

    pub(super) fn finish(self) -> Vec<Group> {
        self.groups.into_values().collect()
    }
}
