//! The proof that objects are readable: each is opened with its decrypted DEK under its own etcd key.
//!
//! Opening takes longer than reading, so objects are handed on in batches to as many threads as
//! there are cores, the one that reads included: it opens a batch itself while all others are busy.
//! The batches are few and small, whatever etcd holds.

mod crew;

use std::{
    collections::{BTreeMap, HashMap},
    thread,
};

use crew::Crew;
use etcd_snapshot::{
    envelope::Envelope,
    familiar::Familiar,
    file::OnProgress,
    open::{DekSource, Scratch},
    revision::Object,
    value::Protection,
};
use kms_domain::{
    annotations::Annotations,
    recovery::{
        origin::{Lineage, StoredKeyId},
        pair::Proof,
    },
};

use super::trial::Outcomes;
use crate::recovery::{
    EtcdError, EtcdSource,
    inventory::{GroupIndex, Inventory, Seed, Wanted, name},
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
    /// How many opened, and how many did not.
    pub(super) proof: Proof,
    /// Those that did not, by resource.
    pub(super) unopened: BTreeMap<String, u64>,
    /// The keys of the first few of those, if wanted, by their place among all objects.
    pub(super) names: BTreeMap<u64, String>,
}

/// How many names of unopened objects are kept.
pub(super) const FEW: usize = 10;

/// What it takes to open an object.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) lineage: &'a Lineage,
    pub(super) outcomes: &'a Outcomes<'a>,
    pub(super) wanted: &'a Wanted,
}

/// An object whose DEK is known.
#[derive(Clone, Copy)]
struct Sealed<'a, 'o> {
    group: GroupIndex,
    source: &'a DekSource,
    /// Its place among all.
    number: u64,
    key: &'o [u8],
    data: &'o [u8],
}

/// What is the same for all objects of a seed under one provider name.
#[derive(Clone, Copy)]
struct Known<'a> {
    provider: &'a str,
    group: GroupIndex,
    source: Option<&'a DekSource>,
}

/// What is gathered in one reading.
struct Gathering<'scope, 'a> {
    crew: Crew<'scope, 'a>,
    familiar: Familiar<Known<'a>>,
    /// What is known without opening.
    unopened: Opened,
    objects: u64,
}

impl<'a> Opening<'a> {
    /// Opens every object in a second reading.
    pub(super) fn open_all(
        self,
        source: &EtcdSource,
        on_progress: OnProgress<'_>,
    ) -> Result<Opened, EtcdError> {
        thread::scope(|scope| {
            let reading = source.read(
                self.wanted.revisions,
                on_progress,
                || Gathering {
                    crew: Crew::new(scope, self.wanted),
                    familiar: Familiar::default(),
                    unopened: Opened::default(),
                    objects: 0,
                },
                |gathering, object| self.add(gathering, object),
            )?;
            let Gathering { crew, unopened, .. } = reading.gathered;
            let mut opened = crew.finish();
            opened.merge(unopened);
            Ok(opened)
        })
    }

    fn add(self, gathering: &mut Gathering<'_, 'a>, object: Object<'_>) {
        let Protection::KmsV2 { provider, message } = Protection::of(object.value) else {
            return;
        };
        let familiar = gathering.familiar.recognise(message);
        let (data, known) = match familiar.filter(|(_, known)| known.provider == provider) {
            Some(known) => known,
            None => {
                // What is damaged has been counted.
                let Ok(envelope) = Envelope::parse(message) else {
                    return;
                };
                let Some(known) = self.know(provider, &envelope) else {
                    if self.is_of_key(provider, &envelope) {
                        let appeared = &mut gathering.unopened.appeared;
                        *appeared = appeared.saturating_add(1);
                    }
                    return;
                };
                gathering.familiar.learn(message, &envelope, known);
                (envelope.encrypted_data, known)
            }
        };
        gathering.objects = gathering.objects.saturating_add(1);
        let Some(source) = known.source else {
            return;
        };
        gathering.crew.add(Sealed {
            group: known.group,
            source,
            number: gathering.objects,
            key: object.key,
            data,
        });
    }

    /// `None` if there was no such object at the first reading.
    fn know(self, provider: &str, envelope: &Envelope<'_>) -> Option<Known<'a>> {
        let index = self.inventory.group_of(provider, envelope)?;
        let group = self.inventory.groups.get(index.0)?;
        let seed = group.find_seed(Seed {
            kind: envelope.dek_source_type,
            encrypted: envelope.encrypted_dek_source,
        });
        let outcome = seed.and_then(|seed| self.outcomes.get(&(index, seed)));
        Some(Known {
            provider: &group.provider,
            group: index,
            source: outcome.and_then(|outcome| outcome.as_ref().ok()),
        })
    }

    fn is_of_key(self, provider: &str, envelope: &Envelope<'_>) -> bool {
        let annotations = Annotations::parse(envelope.annotations.iter().copied());
        self.lineage.owns(StoredKeyId {
            provider,
            key_id: envelope.key_id,
            annotations: annotations.as_ref().map_err(|invalid| *invalid),
        })
    }
}

impl Opened {
    fn open(&mut self, sealed: Sealed<'_, '_>, wanted: &Wanted, scratch: &mut Scratch) {
        let group = self.groups.entry(sealed.group).or_default();
        match sealed.source.prove(sealed.key, sealed.data, scratch) {
            Ok(_) => group.proof.proven = group.proof.proven.saturating_add(1),
            Err(_) => group.add_unopened(sealed, wanted),
        }
    }

    fn merge(&mut self, other: Self) {
        self.appeared = self.appeared.saturating_add(other.appeared);
        for (index, more) in other.groups {
            let group = self.groups.entry(index).or_default();
            group.proof.proven = group.proof.proven.saturating_add(more.proof.proven);
            group.proof.failed = group.proof.failed.saturating_add(more.proof.failed);
            super::add_counts(&mut group.unopened, &more.unopened);
            for (number, name) in more.names {
                group.keep_name(number, name);
            }
        }
    }
}

impl OpenedGroup {
    fn add_unopened(&mut self, sealed: Sealed<'_, '_>, wanted: &Wanted) {
        self.proof.failed = self.proof.failed.saturating_add(1);
        let mut resource = Vec::new();
        wanted.append_resource(sealed.key, &mut resource);
        let count = self.unopened.entry(name(&resource)).or_default();
        *count = count.saturating_add(1);
        if wanted.names {
            self.keep_name(sealed.number, name(sealed.key));
        }
    }

    /// Which thread opens an object is chance, and its place is not.
    fn keep_name(&mut self, number: u64, name: String) {
        self.names.insert(number, name);
        if self.names.len() > FEW {
            self.names.pop_last();
        }
    }
}
