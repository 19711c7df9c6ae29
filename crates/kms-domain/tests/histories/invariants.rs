//! The named invariants, and the ledger that they are checked against: promises, approvals, writes
//! and proofs, recorded independently of the rules under test.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use kms_domain::{
    health::Health,
    key::TransitKey,
    key_id::KeyId,
    registry::{
        Lookup, Record, RecordState, Registry,
        document::{Document, StateHash},
        retire::{Operation, Plan},
        rotation::{RotationRules, discover},
    },
    scope::TransitKeyPath,
    transit::TransitVersion,
};

use crate::{Settings, disk::Disk, node::Process, transit::Transit};

#[derive(Default)]
pub(crate) struct Ledger {
    /// The last published document.
    published: Option<Document>,
    /// Every active key_id since the last external replacement of the state.
    actives: Vec<KeyId>,
    removed: HashSet<KeyId>,
    approved_removals: HashSet<KeyId>,
    approved_restorations: HashSet<KeyId>,
    /// Keys of the objects in etcd.
    objects: Vec<Arc<TransitKey>>,
    /// Number of reads of each key as the newest, at least a probe interval apart.
    observations: HashMap<KeyId, u32>,
    /// The pending key published as stable by this process, with the time of its publication.
    stable_since: Option<(KeyId, u64)>,
    /// Versions with a successful round trip in this process.
    proven: BTreeSet<TransitVersion>,
    on_disk: Vec<Option<StateHash>>,
}

impl Ledger {
    pub(crate) fn written(&mut self, key: Arc<TransitKey>) {
        self.objects.push(key);
    }

    pub(crate) fn observed(&mut self, newest: &TransitKey) {
        *self.observations.entry(newest.id().clone()).or_default() += 1;
    }

    pub(crate) fn proved(&mut self, version: TransitVersion) {
        self.proven.insert(version);
    }

    pub(crate) fn is_proven(&self, version: TransitVersion) -> bool {
        self.proven.contains(&version)
    }

    /// Records the operator's confirmation of a plan for the records selected by `asked`.
    pub(crate) fn approved(
        &mut self,
        document: &Document,
        asked: impl Fn(&Record) -> bool,
        plan: &Plan,
    ) {
        let records = document.registry().records().iter();
        let asked: HashSet<_> = records
            .filter(|record| asked(record))
            .map(|record| record.key.id().clone())
            .collect();
        let planned = plan.removed().iter().chain(plan.restored());
        let planned: HashSet<_> = planned.map(|key| key.id().clone()).collect();
        assert_eq!(planned, asked, "a_plan_does_what_was_asked");
        match plan.operation() {
            Operation::Retire { .. } => self.approved_removals.extend(asked),
            Operation::Restore => self.approved_restorations.extend(asked),
        }
    }

    pub(crate) fn may_be_on_disk(&mut self, old: Option<&Document>, new: Option<&Document>) {
        let hash = |document: &Document| document.hash().clone();
        self.on_disk = vec![old.map(hash)];
        self.on_disk
            .extend(new.map(|document| Some(hash(document))));
    }

    pub(crate) fn started(&mut self, found: Option<&Document>, tampered: bool) {
        if tampered {
            // A consistent older pair is indistinguishable from the newest one, so all promises are
            // reset. The objects in etcd stay.
            *self = Self {
                objects: std::mem::take(&mut self.objects),
                observations: std::mem::take(&mut self.observations),
                ..Self::default()
            };
        } else if let Some(found) = found {
            let hash = Some(found.hash().clone());
            assert!(
                self.on_disk.contains(&hash),
                "every_start_continues_with_what_was_committed_or_attempted"
            );
        }
        self.may_be_on_disk(found, None);
        self.stable_since = None;
        self.proven.clear();
    }

    /// Checks a document before Status, Encrypt and Decrypt use it.
    pub(crate) fn published(&mut self, next: &Document, settings: Settings, elapsed: u64) {
        if self.published.as_ref() != Some(next) {
            self.require_promises_kept(next);
            self.published = Some(next.clone());
        }
        self.note_stable(next.registry(), settings, elapsed);
        // Approvals without an effect so far have expired.
        self.approved_removals.clear();
        self.approved_restorations.clear();
    }

    fn require_promises_kept(&mut self, next: &Document) {
        let text = next.encode();
        let read = Document::decode(text.as_bytes());
        assert!(
            read.is_ok_and(|read| read == *next),
            "every_document_is_read_back"
        );
        if let Some(previous) = &self.published {
            self.require_active_moves_forward(previous.registry(), next.registry());
            self.require_nothing_is_lost(previous.registry(), next.registry());
        }
        self.require_removed_stays_removed(next.registry());
        let active = next.registry().active().id();
        if self.actives.last() != Some(active) {
            self.actives.push(active.clone());
        }
    }

    fn require_active_moves_forward(&self, previous: &Registry, next: &Registry) {
        assert!(
            next.active().version() >= previous.active().version(),
            "active_version_never_decreases"
        );
        let (id, version) = (next.active().id(), next.active().version());
        assert!(
            previous.active().id() == id || !self.actives.contains(id),
            "key_id_never_flips_back: {version}"
        );
    }

    fn require_nothing_is_lost(&self, previous: &Registry, next: &Registry) {
        for record in previous.retained() {
            let id = record.key.id();
            assert!(
                matches!(next.lookup(id), Lookup::Known(_)) || self.approved_removals.contains(id),
                "what_decrypts_goes_on_decrypting: version {}",
                record.key.version()
            );
        }
    }

    fn require_removed_stays_removed(&mut self, next: &Registry) {
        let removed: HashSet<_> = next
            .records()
            .iter()
            .filter(|record| record.state == RecordState::Removed)
            .map(|record| record.key.id().clone())
            .collect();
        let restored = |id: &KeyId| self.approved_restorations.contains(id);
        let stay = self
            .removed
            .iter()
            .all(|id| removed.contains(id) || restored(id));
        let unknown = removed.iter().all(|id| next.lookup(id) == Lookup::Disabled);
        assert!(stay && unknown, "a_removed_version_is_never_rediscovered");
        self.removed = removed;
    }

    fn note_stable(&mut self, next: &Registry, settings: Settings, elapsed: u64) {
        let stable = |record: &&Record| {
            let count = record.bookkeeping.stable_observation_count();
            count.is_some_and(|count| count.get() >= settings.required.into())
        };
        let stable = next.pending().filter(stable).map(|record| record.key.id());
        match (stable, &self.stable_since) {
            (Some(id), Some((waiting, _))) if id == waiting => {}
            (stable, _) => self.stable_since = stable.map(|id| (id.clone(), elapsed)),
        }
    }

    /// Checks a step at its decision; after a crash, the next process may publish it.
    pub(crate) fn require_promotion_in_time(
        &self,
        previous: &Document,
        next: &Document,
        settings: Settings,
        elapsed: u64,
    ) {
        let promoted = next.registry().active();
        if promoted == previous.registry().active() {
            return;
        }
        let seen = self.observations.get(promoted.id()).copied();
        assert!(
            seen >= Some(settings.required),
            "no_promotion_without_observations: {seen:?}"
        );
        let waited = match &self.stable_since {
            _ if settings.delay == 0 => true,
            Some((id, since)) => id == promoted.id() && elapsed - since >= settings.delay,
            None => false,
        };
        assert!(
            waited,
            "no_promotion_before_its_wait: {:?}",
            self.stable_since
        );
        assert!(
            self.proven.contains(&promoted.version()),
            "no_promotion_without_proof"
        );
    }

    /// Every retained version of `next` must decrypt with the key read for it.
    pub(crate) fn require_covered(&self, next: &Document, key: &Transit) {
        for record in next.registry().retained() {
            assert!(
                key.decrypts(&record.key),
                "what_is_retained_decrypts_when_it_is_recorded: version {}",
                record.key.version()
            );
        }
    }

    pub(crate) fn require_memory_is_disk(&self, process: &Process, disk: &Disk) {
        let bytes = |document: Option<&Document>| document.map(|d| d.encode().into_bytes());
        let committed = bytes(process.committed.as_ref());
        let attempted = bytes(process.attempted());
        assert!(
            disk.state == committed || attempted.is_some() && disk.state == attempted,
            "memory_is_never_ahead_of_disk"
        );
        assert_eq!(
            process.published.as_deref(),
            process
                .committed
                .as_ref()
                .map(|document| &**document.registry()),
            "memory_is_never_ahead_of_disk"
        );
    }

    pub(crate) fn require_status_and_encrypt_agree(&self, process: &Process, health: &Health) {
        let Health::Healthy(active) = health else {
            return;
        };
        let registry = process.published.as_ref().expect("healthy without state");
        assert_eq!(
            active.key().id(),
            registry.active().id(),
            "status_and_encrypt_agree"
        );
        assert!(
            self.proven.contains(&active.key().version()),
            "only_a_proven_version_encrypts"
        );
    }

    /// Each object decryptable with the present key is known, or becomes known by one discovery.
    pub(crate) fn require_objects_are_found(
        &self,
        process: &Process,
        key: &Transit,
        rules: &RotationRules,
        path: &TransitKeyPath,
    ) {
        let (Some(document), Ok(profile)) = (&process.committed, key.read(path, None)) else {
            return;
        };
        let found = match discover(document, &profile, rules, 1) {
            Ok(found) => found,
            Err(refused) => {
                let mut retained = document.registry().retained();
                let lacking = retained.any(|record| !key.decrypts(&record.key));
                assert!(lacking, "a_good_key_is_never_refused: {refused}");
                return;
            }
        };
        let document = found.as_ref().map_or(document, |found| found.next());
        for object in &self.objects {
            let lookup = document.registry().lookup(object.id());
            let removed = self.removed.contains(object.id());
            assert!(
                matches!(lookup, Lookup::Known(_)) || removed || !key.decrypts(object),
                "what_transit_decrypts_is_found: version {}",
                object.version()
            );
        }
    }
}
