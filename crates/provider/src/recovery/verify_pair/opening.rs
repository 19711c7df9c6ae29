//! The proof that objects are readable: each is opened with its decrypted DEK under its own etcd key.

use std::collections::{BTreeMap, HashMap};

use etcd_snapshot::{
    envelope::Envelope,
    file::OnProgress,
    open::Scratch,
    revision::Object,
    value::{Protection, Resource},
};
use kms_domain::recovery::pair::Proof;

use super::trial::Outcomes;
use crate::recovery::{
    EtcdError, EtcdSource,
    inventory::{GroupIndex, Inventory, NO_RESOURCE, Seed, Wanted},
};

/// What became of the objects.
#[derive(Default)]
pub(super) struct Opened {
    /// By what decrypts them.
    pub(super) groups: HashMap<GroupIndex, OpenedGroup>,
    /// Those under `key_id`s that were not there at the first reading.
    pub(super) appeared: u64,
}

#[derive(Default)]
pub(super) struct OpenedGroup {
    /// How many opened.
    pub(super) proof: Proof,
    /// Those that did not, by resource.
    pub(super) unopened: BTreeMap<String, u64>,
    /// The keys of the first few of those, if wanted.
    pub(super) names: Vec<String>,
}

/// How many names of unopened objects are kept.
pub(super) const FEW: usize = 10;

/// What it takes to open an object.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) outcomes: &'a Outcomes<'a>,
    pub(super) wanted: &'a Wanted,
    pub(super) provider: &'a str,
}

impl Opening<'_> {
    /// Opens every object in a second reading.
    pub(super) fn open_all(
        self,
        source: &EtcdSource,
        on_progress: OnProgress<'_>,
    ) -> Result<Opened, EtcdError> {
        let mut scratch = Scratch::default();
        let reading = source.read(
            self.wanted.revisions,
            on_progress,
            Opened::default,
            |opened, object| self.open(opened, object, &mut scratch),
        )?;
        Ok(reading.gathered)
    }

    fn open(self, opened: &mut Opened, object: Object<'_>, scratch: &mut Scratch) {
        if !self.wanted.includes(object.key) {
            return;
        }
        let message = match Protection::of(object.value) {
            Protection::KmsV2 { provider, message } if provider == self.provider => message,
            _ => return,
        };
        // What is damaged has been counted.
        let Ok(envelope) = Envelope::parse(message) else {
            return;
        };
        let Some(index) = self.inventory.group_of(self.provider, &envelope) else {
            opened.appeared = opened.appeared.saturating_add(1);
            return;
        };
        let seed = Seed {
            kind: envelope.dek_source_type,
            encrypted: envelope.encrypted_dek_source,
        };
        let group = opened.groups.entry(index).or_default();
        let Some(Ok(source)) = self.outcomes.get(&(index, seed)) else {
            group.proof.untried = group.proof.untried.saturating_add(1);
            return;
        };
        match source.prove(object.key, envelope.encrypted_data, scratch) {
            Ok(_) => group.proof.proven = group.proof.proven.saturating_add(1),
            Err(_) => group.add_unopened(object, self.wanted),
        }
    }
}

impl OpenedGroup {
    fn add_unopened(&mut self, object: Object<'_>, wanted: &Wanted) {
        self.proof.failed = self.proof.failed.saturating_add(1);
        let resource = Resource::of(object.key, wanted.prefix.as_deref())
            .map_or_else(|| NO_RESOURCE.to_owned(), |resource| resource.to_string());
        let count = self.unopened.entry(resource).or_default();
        *count = count.saturating_add(1);
        if wanted.names && self.names.len() < FEW {
            self.names.push(object.key.escape_ascii().to_string());
        }
    }
}
