//! Decrypts every object with its DEK, with its etcd key as associated data.
//!
//! Decryption takes longer than reading, so a pool of threads decrypts objects in batches, one
//! thread per core. If all other threads are busy, the reading thread decrypts the batch itself.
//! Number and size of the batches are bounded, independent of the size of etcd.

mod worker_pool;

use std::{
    collections::{BTreeMap, HashMap},
    thread,
};

use etcd_snapshot::{
    cache::EnvelopeCache,
    envelope::Envelope,
    file::OnProgress,
    open::{DekSource, OpenBuffers},
    revision::Object,
    value::Protection,
};
use kms_domain::{
    annotations::Annotations,
    recovery::{
        pair::Proof,
        resolve::{KeyResolver, StoredKeyId},
    },
};
use worker_pool::WorkerPool;

use super::trial::Outcomes;
use crate::recovery::{
    EtcdError, EtcdSource,
    inventory::{GroupIndex, Inventory, Seed, Wanted, name},
};

/// Outcomes for all objects.
#[derive(Default)]
pub(super) struct Opened {
    /// Outcomes per group.
    pub(super) groups: HashMap<GroupIndex, OpenedGroup>,
    /// Objects of groups that are new since the first reading.
    pub(super) appeared: u64,
}

#[derive(Default)]
pub(super) struct OpenedGroup {
    /// Number of decrypted and of failed objects.
    pub(super) proof: Proof,
    /// Number of failed objects per resource.
    pub(super) unopened: BTreeMap<String, u64>,
    /// Keys of the first few failed objects, if requested, by their position in the reading.
    pub(super) names: BTreeMap<u64, String>,
}

/// Limit of the kept keys of failed objects.
pub(super) const FEW: usize = 10;

/// Inputs of the second reading.
#[derive(Clone, Copy)]
pub(super) struct Opening<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) lineage: &'a KeyResolver,
    pub(super) outcomes: &'a Outcomes<'a>,
    pub(super) wanted: &'a Wanted,
}

/// An encrypted object with a decrypted DEK.
#[derive(Clone, Copy)]
struct Sealed<'a, 'o> {
    group: GroupIndex,
    source: &'a DekSource,
    /// Position in the reading.
    number: u64,
    key: &'o [u8],
    data: &'o [u8],
}

/// Properties shared by all objects of a DEK under one provider name.
#[derive(Clone, Copy)]
struct Known<'a> {
    provider: &'a str,
    group: GroupIndex,
    source: Option<&'a DekSource>,
}

/// State of the second reading.
struct Gathering<'scope, 'a> {
    worker_pool: WorkerPool<'scope, 'a>,
    familiar: EnvelopeCache<Known<'a>>,
    /// Outcomes known without decryption.
    unopened: Opened,
    objects: u64,
}

impl<'a> Opening<'a> {
    /// Decrypts every object in a second reading.
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
                    worker_pool: WorkerPool::new(scope, self.wanted),
                    familiar: EnvelopeCache::default(),
                    unopened: Opened::default(),
                    objects: 0,
                },
                |gathering, object| self.add(gathering, object),
            )?;
            let Gathering {
                worker_pool,
                unopened,
                ..
            } = reading.gathered;
            let mut opened = worker_pool.finish();
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
                // Damaged values are already in the inventory.
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
        gathering.worker_pool.add(Sealed {
            group: known.group,
            source,
            number: gathering.objects,
            key: object.key,
            data,
        });
    }

    /// `None` if the group is new since the first reading.
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
    fn open(&mut self, sealed: Sealed<'_, '_>, wanted: &Wanted, scratch: &mut OpenBuffers) {
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
            group.proof = group.proof.plus(more.proof);
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

    /// Keeps the lowest positions, so that the result is independent of thread scheduling.
    fn keep_name(&mut self, number: u64, name: String) {
        self.names.insert(number, name);
        if self.names.len() > FEW {
            self.names.pop_last();
        }
    }
}
