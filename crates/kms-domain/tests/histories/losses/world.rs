//! Three nodes, their etcd, their key, and their backups. A node's process is reduced to its
//! commits; the other histories test the commit itself.

use std::{collections::BTreeSet, num::NonZeroU64, sync::Arc, time::Duration};

use kms_domain::{
    bootstrap::bootstrap,
    digest::TextHash,
    key::{KeyScope, TransitKey},
    recovery::{
        claims::VersionClaims,
        rebuild::{
            Evidence, Found, Limitation, OwnFiles, PlanBlocker, PlanBlockers, RebuildPlan, rebuild,
        },
        record::BackupRecord,
    },
    registry::{
        Lookup,
        checkpoint::Checkpoint,
        document::Document,
        retire::plan_retirement,
        rotation::{ActivationWait, Counting, RotationRules, Step, discover, observe},
    },
    scope::{
        ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, OpenBaoInstanceId,
        ProviderName, TransitKeyPath, TransitMountId,
    },
    transit::{KeyProfile, TransitVersion},
};

use super::{
    Event, Incident, Loss, NODES,
    evidence::{self, Etcd, Harm, Stored},
};
use crate::transit::Transit;

/// Cases that the histories together must reach.
pub(crate) const CASES: &[&str] = &[
    "rebuilt from etcd alone",
    "rebuilt from a record alone",
    "rebuilt from a peer alone",
    "rebuilt from all three",
    "rebuilt on a surviving checkpoint",
    "rebuilt beside a surviving state",
    "rebuilt on an assurance",
    "rebuilt with a removed version",
    "rebuilt before a pending version",
    "rebuilt with unreadable objects",
    "rebuilt on an assurance with unreadable objects",
    "lost_promotion",
    "no_evidence",
    "no_objects",
    "undecided",
    "creation_time_mismatch",
    "newer_than_latest",
    "hidden",
    "trimmed",
    "not_decrypted",
    "annotation_mismatch",
    "unreadable_objects",
    "never_rotated",
    "unresolved",
    "active_unusable",
];

const RULES: RotationRules = RotationRules {
    required_observations: std::num::NonZeroU32::MIN,
    reject_version_rollback: true,
};

#[derive(Default)]
struct Node {
    document: Option<Document>,
    past: Vec<Document>,
    /// The last reported key, kept across losses.
    reported: Option<Arc<TransitKey>>,
}

pub(crate) struct World {
    pub(crate) reached: BTreeSet<&'static str>,
    scope: Arc<KeyScope>,
    path: TransitKeyPath,
    transit: Transit,
    past: Vec<Transit>,
    /// Also the next creation second, so all are unique.
    changes: u64,
    nodes: [Node; NODES],
    etcd: Etcd,
    snapshots: Vec<Etcd>,
    records: Vec<BackupRecord>,
    pairs: Vec<Document>,
}

impl World {
    pub(crate) fn new() -> Self {
        let scope = IdentityScope {
            provider_name: ProviderName::parse("p").unwrap(),
            cluster_id: ClusterId::parse("c").unwrap(),
            openbao_instance_id: OpenBaoInstanceId::parse("o").unwrap(),
            openbao_namespace: None,
            transit_mount_id: TransitMountId::parse("m").unwrap(),
            key_lineage_id: KeyLineageId::parse("l").unwrap(),
        };
        let mut world = Self {
            reached: BTreeSet::new(),
            scope: Arc::new(KeyScope::new(scope)),
            path: TransitKeyPath {
                mount_path: MountPath::parse("transit").unwrap(),
                key_name: KeyName::parse("kubernetes-etcd").unwrap(),
            },
            transit: Transit::new(1),
            past: Vec::new(),
            changes: 1,
            nodes: Default::default(),
            etcd: Etcd::default(),
            snapshots: Vec::new(),
            records: Vec::new(),
            pairs: Vec::new(),
        };
        world.happens(Event::Settle);
        world
    }

    pub(crate) fn happens(&mut self, event: Event) {
        match event {
            Event::Rotate => self.change_key(Transit::rotate),
            Event::LimitDecryption(n) => self.change_key(|key, _| key.limit_decryption(n)),
            Event::Trim(n) => self.change_key(|key, _| key.trim(n)),
            Event::RestoreOpenBao(changes) => {
                if let Some(old) = nth_last(&self.past, changes).cloned() {
                    self.change_key(|key, _| *key = old);
                }
            }
            Event::RecreateKey => self.change_key(|key, second| *key = Transit::new(second)),
            Event::Probe(node) => self.probe(node),
            // Discovered, counted, promoted, and one more probe for a skipped version.
            Event::Settle => (0..4).for_each(|_| (0..NODES).for_each(|node| self.probe(node))),
            Event::Write { node, object } => self.write(node, object),
            Event::RewriteAll(node) => {
                let objects: Vec<_> = self.etcd.objects.keys().copied().collect();
                objects.iter().for_each(|object| self.write(node, *object));
            }
            Event::Delete(object) => self.etcd.delete(object),
            Event::Harm { object, harm } => {
                if let Some(stored) = self.etcd.objects.get_mut(&object) {
                    stored.harm = Some(harm);
                }
            }
            Event::Compact => self.etcd.superseded.clear(),
            Event::Retire { node, before } => self.retire(node, before),
            Event::SaveEtcd => self.snapshots.push(self.etcd.clone()),
            Event::SaveRecord(node) => {
                let document = self.nodes[node].document.as_ref();
                let noted = document
                    .zip(self.profile())
                    .and_then(|(document, profile)| {
                        evidence::note(document, &profile, &self.scope, &self.path)
                    });
                self.records.extend(noted);
            }
            Event::SavePair(node) => self.pairs.extend(self.nodes[node].document.clone()),
            Event::Incident(incident) => self.incident(incident),
        }
    }

    fn change_key(&mut self, change: impl FnOnce(&mut Transit, u64)) {
        self.past.push(self.transit.clone());
        self.changes += 1;
        change(&mut self.transit, self.changes);
    }

    fn profile(&self) -> Option<KeyProfile> {
        self.transit.read(&self.path, None).ok()
    }

    /// Probes a node with a state, or one without any state so far.
    fn probe(&mut self, index: usize) {
        let Some(profile) = self.profile() else {
            return;
        };
        let node = &self.nodes[index];
        let next = match &node.document {
            Some(document) => self.step(document, &profile),
            None if node.reported.is_none() => {
                bootstrap(&profile, self.scope.identity(), &self.path, self.changes).ok()
            }
            None => None,
        };
        if let Some(next) = next {
            self.nodes[index].commit(next);
        }
    }

    fn step(&self, document: &Document, profile: &KeyProfile) -> Option<Document> {
        let wait = ActivationWait::new(Duration::ZERO);
        let activation = wait.activation(Duration::ZERO);
        let counts = Counting::Counts;
        match observe(document, profile, &RULES, counts, activation, self.changes) {
            Ok(Step::Recorded(transition)) => Some(transition.into_next()),
            Ok(Step::Due(promotion)) => {
                let passes = self.transit.round_trips(promotion.candidate().version());
                passes.then(|| promotion.promote().into_next())
            }
            Ok(Step::Unchanged) | Err(_) => None,
        }
    }

    fn write(&mut self, node: usize, object: u8) {
        let Some(document) = &self.nodes[node].document else {
            return;
        };
        let key = document.registry().active();
        if self.transit.decrypts(key) && self.transit.round_trips(key.version()) {
            self.etcd.put(object, Arc::clone(key));
        }
    }

    /// Retires versions even if objects need them, as an operator may do by mistake.
    fn retire(&mut self, index: usize, before: u64) {
        let (Some(document), Some(profile)) = (&self.nodes[index].document, self.profile()) else {
            return;
        };
        let before = TransitVersion::new(before).unwrap_or(TransitVersion::FIRST);
        if let Ok(plan) = plan_retirement(document, before, &profile) {
            let reviewed = plan.state_hash().clone();
            if let Some(next) = plan.confirm(&reviewed).unwrap().into_next() {
                self.nodes[index].commit(next);
            }
        }
    }

    fn incident(&mut self, incident: Incident) {
        let index = incident.node;
        let Some(own) = self.nodes[index].lose(incident.loss) else {
            return;
        };
        let Some(profile) = self.profile() else {
            return;
        };
        let evidence = self.evidence(&incident, own, profile);
        match self.recover(&evidence, &incident) {
            Ok((plan, granted)) => {
                self.note_success(&evidence, &plan, &granted);
                self.require_promises_kept(index, &incident, &evidence, &plan);
                self.nodes[index].commit(plan.next().clone());
                self.require_it_goes_on(index);
            }
            Err(refusals) => {
                let codes = refusals.all().iter().map(PlanBlocker::code);
                self.reached.extend(codes);
                self.require_refusal_was_needed(&incident, &evidence, &refusals);
            }
        }
    }

    fn etcd_of(&self, incident: &Incident) -> Option<&Etcd> {
        incident.etcd.and_then(|age| match age {
            0 => Some(&self.etcd),
            age => nth_last(&self.snapshots, age),
        })
    }

    fn evidence(&self, incident: &Incident, own: OwnFiles, key: KeyProfile) -> Evidence {
        let pair = incident.pair.and_then(|age| match age {
            0 => self.nodes[(incident.node + 1) % NODES].document.as_ref(),
            age => nth_last(&self.pairs, age),
        });
        let record = incident
            .record
            .and_then(|age| nth_last(&self.records, age + 1));
        let mut evidence = Evidence {
            scope: Arc::clone(&self.scope),
            path: self.path.clone(),
            key,
            own,
            replace: None,
            etcd: Vec::new(),
            records: record.into_iter().map(evidence::of_record).collect(),
            peers: pair.into_iter().map(evidence::of_pair).collect(),
            not_promoted: None,
            accepted: None,
        };
        if let Some(etcd) = self.etcd_of(incident) {
            let found = evidence::of_etcd(
                etcd,
                "etcd".to_owned(),
                &self.transit,
                &evidence.key,
                &self.scope,
                claims(&evidence),
            );
            evidence.etcd.push(found);
        }
        evidence
    }

    /// Acts as an operator: gives each requested assurance, if it is true.
    fn recover(
        &self,
        evidence: &Evidence,
        incident: &Incident,
    ) -> Result<(RebuildPlan, Evidence), PlanBlockers> {
        let refusals = match rebuild(evidence) {
            Ok(plan) => return Ok((plan, evidence.clone())),
            Err(refusals) => refusals,
        };
        let mut granted = evidence.clone();
        for refusal in refusals.all() {
            match refusal {
                PlanBlocker::Undecided { versions, .. } if incident.assures => {
                    granted.not_promoted = Some(versions.first);
                }
                PlanBlocker::Unreadable { objects, .. } if incident.accepts => {
                    granted.accepted = NonZeroU64::new(*objects);
                }
                _ => {}
            }
        }
        if let Some(first) = granted.not_promoted {
            let reported = self.nodes.iter().filter_map(|node| node.reported.as_ref());
            let mut usable = reported.filter(|key| self.transit.decrypts(key));
            if usable.any(|key| key.version() >= first) {
                return Err(refusals);
            }
        }
        rebuild(&granted).map(|plan| (plan, granted))
    }

    fn note_success(&mut self, evidence: &Evidence, plan: &RebuildPlan, granted: &Evidence) {
        let assured = granted.not_promoted.is_some();
        let accepted = granted.accepted.is_some();
        let limitations = plan.limitations().iter().map(Limitation::code);
        self.reached.extend(limitations);
        let counts = (
            evidence.etcd.len(),
            evidence.records.len(),
            evidence.peers.len(),
        );
        let own = &evidence.own;
        let next = plan.next().registry();
        let removed = next.records().len() > next.retained().count();
        for (reached, case) in [
            (counts == (1, 0, 0), "rebuilt from etcd alone"),
            (counts == (0, 1, 0), "rebuilt from a record alone"),
            (counts == (0, 0, 1), "rebuilt from a peer alone"),
            (counts == (1, 1, 1), "rebuilt from all three"),
            (
                own.checkpoint.valid().is_some(),
                "rebuilt on a surviving checkpoint",
            ),
            (
                own.document.valid().is_some(),
                "rebuilt beside a surviving state",
            ),
            (assured, "rebuilt on an assurance"),
            (removed, "rebuilt with a removed version"),
            (accepted, "rebuilt with unreadable objects"),
            (
                accepted && assured,
                "rebuilt on an assurance with unreadable objects",
            ),
            (
                next.active().version() < evidence.key.latest(),
                "rebuilt before a pending version",
            ),
        ] {
            if reached {
                self.reached.insert(case);
            }
        }
    }

    fn require_promises_kept(
        &self,
        index: usize,
        incident: &Incident,
        evidence: &Evidence,
        plan: &RebuildPlan,
    ) {
        for key in claims(evidence).into_iter().flat_map(|it| it.keys) {
            assert!(
                self.transit.decrypts(&key) || evidence.key.created_at(key.version()).is_none(),
                "evidence_of_another_key_is_never_accepted: version {}",
                key.version()
            );
        }
        let next = plan.next();
        let registry = next.registry();
        for record in registry.retained() {
            assert!(
                self.transit.decrypts(&record.key),
                "what_is_rebuilt_decrypts: version {}",
                record.key.version()
            );
        }
        let active = registry.active().version();
        assert!(
            self.transit.round_trips(active),
            "the_rebuilt_active_version_encrypts: {active}"
        );
        // A version that OpenBao has lost leaves no evidence.
        let reported = self.nodes.iter().filter_map(|node| node.reported.as_ref());
        for key in reported.filter(|key| self.transit.decrypts(key)) {
            assert!(
                active >= key.version(),
                "no_version_flips_back: {active} after {}",
                key.version()
            );
        }
        let etcd = self.etcd_of(incident);
        let superseded = etcd.into_iter().flat_map(|etcd| &etcd.superseded);
        for key in superseded.filter(|key| self.transit.decrypts(key)) {
            assert!(
                active >= key.version(),
                "no_trace_of_a_promotion_is_undercut: {active} after {}",
                key.version()
            );
        }
        let found = discover(next, &evidence.key, &RULES, 1);
        let found =
            found.unwrap_or_else(|refused| panic!("a_good_key_is_never_refused: {refused}"));
        let found = found.as_ref().map_or(next, |found| found.next());
        let looked_at = etcd.into_iter().flat_map(|etcd| etcd.objects.values());
        let closed = looked_at.clone().filter(|it| !it.opens(&self.transit));
        let accepted = plan.unreadable().iter().map(|it| it.objects());
        assert_eq!(
            accepted.sum::<u64>(),
            closed.count() as u64,
            "exactly_the_unreadable_objects_are_accepted"
        );
        let named = looked_at
            .clone()
            .filter(|it| it.harm != Some(Harm::Annotations));
        assert!(
            !named.clone().any(|it| hides(&evidence.key, &it.key)),
            "an_object_of_a_hidden_version_is_never_given_up"
        );
        for stored in self.etcd.objects.values().chain(looked_at) {
            assert!(
                !stored.opens(&self.transit)
                    || matches!(found.registry().lookup(stored.key.id()), Lookup::Known(_)),
                "every_object_that_can_be_read_is_found: version {}",
                stored.key.version()
            );
        }
        let own = &evidence.own;
        if let Some(checkpoint) = own.checkpoint.valid() {
            assert_eq!(
                (next.generation().get(), next.previous_hash()),
                (checkpoint.generation().get() + 1, Some(checkpoint.hash())),
                "a_surviving_checkpoint_is_followed"
            );
        }
        let before = self.nodes[index].past.last();
        if own.document.valid().is_some() || own.checkpoint.valid().is_some() {
            assert!(
                before.is_some_and(|before| before.hash() != next.hash()),
                "a_rebuilt_document_is_none_from_before"
            );
        }
    }

    /// The node then rotates like the others.
    fn require_it_goes_on(&mut self, index: usize) {
        for _ in 0..4 {
            self.probe(index);
        }
        let document = self.nodes[index].document.as_ref().unwrap();
        let newest = self.transit.newest(self.scope.identity());
        assert_eq!(
            document.registry().active().id(),
            newest.id(),
            "a_rebuilt_node_rotates_on"
        );
    }

    /// Fresh evidence of an intact key is sufficient, also with lost objects once they are
    /// accepted.
    fn require_refusal_was_needed(
        &self,
        incident: &Incident,
        evidence: &Evidence,
        refusals: &PlanBlockers,
    ) {
        if incident.loss != Loss::Both || incident.record.is_some() {
            return;
        }
        let latest = evidence.key.latest();
        let newest = self.transit.newest(self.scope.identity());
        let enough = match (incident.etcd, incident.pair, &evidence.peers[..]) {
            (None, Some(0), [peer]) => {
                let registry = peer.document.registry();
                let mut retained = registry.retained();
                registry.active().version() == latest
                    && retained.all(|record| self.transit.decrypts(&record.key))
            }
            (Some(0), None, _) => {
                let mut objects = self.etcd.objects.values();
                let settled = |stored: &Stored| {
                    stored.opens(&self.transit)
                        || incident.accepts
                            && (stored.harm == Some(Harm::Annotations)
                                || !hides(&evidence.key, &stored.key))
                };
                let newest =
                    |stored: &Stored| stored.key.id() == newest.id() && stored.opens(&self.transit);
                objects.clone().any(newest) && objects.all(settled)
            }
            _ => false,
        };
        assert!(!enough, "fresh_evidence_suffices: {refusals}");
    }
}

impl Node {
    fn commit(&mut self, next: Document) {
        self.reported = Some(Arc::clone(next.registry().active()));
        self.past.push(next.clone());
        self.document = Some(next);
    }

    /// The remaining files; `None` if nothing was lost.
    fn lose(&mut self, loss: Loss) -> Option<OwnFiles> {
        let lost = self.document.take().or_else(|| self.past.last().cloned())?;
        let checkpoint = Found::Valid(Checkpoint::of(&lost));
        let damaged = || Found::Damaged {
            content: TextHash::of("damaged"),
        };
        Some(match loss {
            Loss::Both => OwnFiles {
                document: Found::Nothing,
                checkpoint: Found::Nothing,
            },
            Loss::State => OwnFiles {
                document: Found::Nothing,
                checkpoint,
            },
            // A first state is valid without its checkpoint.
            Loss::Checkpoint if lost.previous_hash().is_none() => {
                self.document = Some(lost);
                return None;
            }
            Loss::Checkpoint => OwnFiles {
                document: Found::Valid(lost),
                checkpoint: Found::Nothing,
            },
            Loss::StateDamaged => OwnFiles {
                document: damaged(),
                checkpoint,
            },
            Loss::RolledBack(age) => match nth_last(&self.past, age + 1) {
                Some(old) => OwnFiles {
                    document: Found::Valid(old.clone()),
                    checkpoint,
                },
                None => {
                    self.document = Some(lost);
                    return None;
                }
            },
        })
    }
}

/// Whether lowering `min_decryption_version` may make the version readable.
fn hides(profile: &KeyProfile, key: &TransitKey) -> bool {
    (profile.min_available()..profile.min_decryption()).contains(&key.version().get())
}

/// Claims of states and records.
fn claims(evidence: &Evidence) -> Vec<VersionClaims> {
    let own = evidence.own.document.valid().into_iter();
    let states = own.chain(evidence.peers.iter().map(|peer| &peer.document));
    let of_states = states.map(|it| VersionClaims::of_registry("a state", it.registry()));
    let records = evidence.records.iter();
    let of_records = records.map(|it| VersionClaims::of_record("a record", &it.record));
    of_states.chain(of_records).collect()
}

/// 1 is the last.
fn nth_last<T>(all: &[T], nth: usize) -> Option<&T> {
    all.len().checked_sub(nth).and_then(|index| all.get(index))
}
