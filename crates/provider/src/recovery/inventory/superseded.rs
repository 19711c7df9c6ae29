//! What replaced and deleted revisions are protected with. Nothing has to decrypt them, so neither
//! objects nor encrypted DEKs are counted.

use std::collections::HashMap;

use etcd_snapshot::{envelope::Envelope, revision::Object, value::Protection};

use super::{
    Group,
    tally::{ROW_BYTES, identity},
};

/// Groups without seeds.
#[derive(Default)]
pub(super) struct Superseded {
    groups: HashMap<Vec<u8>, Group>,
    /// Bytes, roughly, of all that is kept.
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
