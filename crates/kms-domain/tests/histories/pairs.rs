//! Random histories of a key and of the objects under it: rotations, limits, trims, recreations of
//! the key with hidden versions, writes under both names of one plugin, removals on a node, records
//! at any time. At the end each verdict on the pair is compared with the model.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kms_domain::{
    annotations::PluginVersion,
    key::{KeyScope, TransitKey},
    prepare::preview,
    recovery::{
        claims::VersionClaims,
        pair::{Finding, Proof, Remedy, Verdict, judge, remedies},
        resolve::{KeyResolver, LiveKey, Resolution, ResolveError, StoredKeyId},
    },
    scope::{
        ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, OpenBaoInstanceId,
        ProviderName, TransitKeyPath, TransitMountId,
    },
    transit::{CreatedAt, KeyProfile, TransitVersion},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRunner},
};

use crate::transit::Transit;

const HISTORIES: u32 = 5_000;
/// The configured name, and another one in the `EncryptionConfiguration`.
const NAMES: [&str; 2] = ["p", "p-events"];

/// Cases that the histories together must reach.
const CASES: &[&str] = &[
    "compatible",
    "compatible-after",
    "incompatible",
    "inconclusive",
    "hidden",
    "recreated",
    "other_provider",
    "creation_time_mismatch",
    "newer_than_latest",
    "trimmed",
    "restore-versions",
    "an untested version is lost",
    "an untested version comes back",
];

/// One event.
#[derive(Debug, Clone, Copy)]
enum Event {
    Rotate,
    LimitDecryption(u64),
    Trim(u64),
    /// Resets OpenBao by this number of changes.
    Restore(usize),
    /// Deletes the key, recreates it under its name, rotates it, and hides its first versions.
    Recreate {
        rotations: u64,
        minimum: u64,
    },
    /// Writes under the version this far below the latest.
    Write {
        name: &'static str,
        below: u64,
    },
    /// Saves the current versions of a node, as a record or a state does.
    Save,
    /// Removes the versions below this one from the node's state.
    Remove(u64),
}

struct World {
    scope: Arc<KeyScope>,
    path: TransitKeyPath,
    transit: Transit,
    past: Vec<Transit>,
    /// Also the next creation second, so all are unique.
    changes: u64,
    objects: Vec<(&'static str, Arc<TransitKey>)>,
    claims: Vec<VersionClaims>,
    removed: Vec<Arc<TransitKey>>,
    reached: BTreeSet<&'static str>,
}

#[test]
fn a_verdict_on_a_pair_is_never_wrong_in_random_histories() {
    let mut runner = TestRunner::new(Config {
        cases: HISTORIES,
        rng_algorithm: RngAlgorithm::XorShift,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/histories/pairs/seeds.txt",
        ))),
        ..Config::default()
    });
    let reached = RefCell::new(BTreeMap::<_, u32>::new());
    let outcome = runner.run(&vec(event(), 1..30), |events| {
        let mut world = World::new();
        for event in events {
            world.happens(event);
        }
        world.require_true_verdicts();
        for what in world.reached {
            *reached.borrow_mut().entry(what).or_default() += 1;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let reached = reached.into_inner();
    let missed: Vec<_> = CASES
        .iter()
        .filter(|case| !reached.contains_key(*case))
        .collect();
    assert!(
        missed.is_empty(),
        "never reached {missed:?} in {reached:#?}"
    );
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Rotate),
        2 => (1..6u64).prop_map(Event::LimitDecryption),
        1 => (1..4u64).prop_map(Event::Trim),
        1 => (1..4usize).prop_map(Event::Restore),
        1 => (0..4u64, 1..4u64)
            .prop_map(|(rotations, minimum)| Event::Recreate { rotations, minimum }),
        8 => (select(&NAMES), 0..3u64).prop_map(|(name, below)| Event::Write { name, below }),
        2 => Just(Event::Save),
        1 => (1..5u64).prop_map(Event::Remove),
    ]
}

impl World {
    fn new() -> Self {
        let scope = IdentityScope {
            provider_name: ProviderName::parse(NAMES[0]).unwrap(),
            cluster_id: ClusterId::parse("c").unwrap(),
            openbao_instance_id: OpenBaoInstanceId::parse("o").unwrap(),
            openbao_namespace: None,
            transit_mount_id: TransitMountId::parse("m").unwrap(),
            key_lineage_id: KeyLineageId::parse("l").unwrap(),
        };
        Self {
            scope: Arc::new(KeyScope::new(scope)),
            path: TransitKeyPath {
                mount_path: MountPath::parse("transit").unwrap(),
                key_name: KeyName::parse("kubernetes-etcd").unwrap(),
            },
            transit: Transit::new(1),
            past: Vec::new(),
            changes: 1,
            objects: Vec::new(),
            claims: Vec::new(),
            removed: Vec::new(),
            reached: BTreeSet::new(),
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Rotate => self.change_key(Transit::rotate),
            Event::LimitDecryption(minimum) => {
                self.change_key(|key, _| key.limit_decryption(minimum));
            }
            Event::Trim(minimum) => self.change_key(|key, _| key.trim(minimum)),
            Event::Restore(changes) => {
                let old = self.past.len().checked_sub(changes);
                if let Some(old) = old.and_then(|index| self.past.get(index)).cloned() {
                    self.change_key(|key, _| *key = old);
                }
            }
            Event::Recreate { rotations, minimum } => {
                self.change_key(|key, second| *key = Transit::new(second));
                (0..rotations).for_each(|_| self.change_key(Transit::rotate));
                self.change_key(|key, _| key.limit_decryption(minimum));
            }
            Event::Write { name, below } => {
                let listed = self.listed();
                let nth = usize::try_from(below).unwrap().min(listed.len() - 1);
                let key = &listed[listed.len() - 1 - nth];
                self.objects.push((name, Arc::clone(key)));
            }
            Event::Save => self.claims.push(VersionClaims {
                source: "a record".to_owned(),
                keys: self.listed(),
            }),
            Event::Remove(before) => {
                let listed = self.listed().into_iter();
                self.removed = listed.filter(|key| key.version().get() < before).collect();
            }
        }
    }

    fn change_key(&mut self, change: impl FnOnce(&mut Transit, u64)) {
        self.past.push(self.transit.clone());
        self.changes += 1;
        change(&mut self.transit, self.changes);
    }

    fn profile(&self) -> KeyProfile {
        self.transit.read(&self.path, None).unwrap()
    }

    /// The versions that decrypt now, ascending.
    fn listed(&self) -> Vec<Arc<TransitKey>> {
        let profile = self.profile();
        let derived = |(version, created_at): (TransitVersion, CreatedAt)| {
            Arc::new(TransitKey::new(
                Arc::clone(&self.scope),
                version,
                created_at,
            ))
        };
        let mut listed: Vec<_> = profile.listed().map(derived).collect();
        listed.sort_by_key(|key| key.version());
        listed
    }

    fn require_true_verdicts(&mut self) {
        let lowered = {
            let mut transit = self.transit.clone();
            transit.limit_decryption(1);
            transit
        };
        let comes_back = |key: &TransitKey| lowered.decrypts(key);
        let lost = self.objects.iter().any(|(_, key)| !comes_back(key));

        let (verdict, findings, steps) = self.verdict(&self.claims);
        self.reached.insert(verdict.as_str());
        self.reached
            .extend(findings.iter().filter_map(|it| code(&it.origin)));
        let restores = |steps: &[Remedy]| {
            let mut steps = steps.iter();
            steps.any(|step| matches!(step, Remedy::RestoreVersions(_)))
        };
        if restores(&steps) {
            self.reached.insert("restore-versions");
        }
        let has = |wanted: fn(&ResolveError) -> bool| {
            let mut findings = findings.iter();
            findings.any(|it| matches!(&it.origin, Resolution::Unresolved(gap) if wanted(gap)))
        };
        let untested = has(|gap| matches!(gap, ResolveError::Hidden { .. }));
        let elsewhere = has(|gap| matches!(gap, ResolveError::OtherProvider { .. }));
        let judged: u64 = findings.iter().map(|it| it.objects).sum();
        assert_eq!(judged, self.objects.len() as u64, "every_object_is_judged");
        match verdict {
            Verdict::Compatible => {
                let now = |key: &TransitKey| self.transit.decrypts(key) && !self.is_removed(key);
                assert!(
                    self.objects.iter().all(|(_, key)| now(key)),
                    "what_is_compatible_can_be_read"
                );
            }
            Verdict::CompatibleAfter => {
                assert!(!lost || untested, "only_what_is_untested_may_be_lost_after");
                self.reached.extend(untested.then_some(match lost {
                    true => "an untested version is lost",
                    false => "an untested version comes back",
                }));
            }
            Verdict::Incompatible => assert!(lost, "what_is_incompatible_has_lost_an_object"),
            Verdict::Inconclusive => assert!(
                untested || elsewhere || self.objects.is_empty(),
                "what_was_tried_is_decided"
            ),
        }

        // With a lowered limit, every version is tested.
        self.transit = lowered;
        let (verdict, findings, steps) = self.verdict(&[]);
        let elsewhere = findings
            .iter()
            .any(|it| code(&it.origin) == Some("other_provider"));
        let expected = match (self.objects.is_empty(), lost) {
            (true, _) => Verdict::Inconclusive,
            (false, true) if elsewhere => return,
            (false, true) => Verdict::Incompatible,
            (false, false) if restores(&steps) => Verdict::CompatibleAfter,
            (false, false) => Verdict::Compatible,
        };
        assert_eq!(verdict, expected, "a_lowered_key_decides_everything");
        let refused = self.objects.iter().any(|(_, key)| self.is_removed(key));
        if !lost && refused {
            assert!(restores(&steps), "a_needed_removed_version_is_restored");
        }
    }

    fn is_removed(&self, key: &TransitKey) -> bool {
        self.removed.iter().any(|removed| removed.id() == key.id())
    }

    /// The verdict of `verify-backup`.
    fn verdict(&self, claims: &[VersionClaims]) -> (Verdict, Vec<Finding>, Vec<Remedy>) {
        let live = LiveKey::Listed(self.profile());
        let lineage = KeyResolver::new(Arc::clone(&self.scope), live, claims.iter().cloned());
        let plugin_version = PluginVersion::new("v0.0.0").unwrap();
        let finding = |(provider, key): &(&'static str, Arc<TransitKey>)| {
            let annotations = preview(key, &plugin_version).annotations;
            let stored = StoredKeyId {
                provider,
                key_id: key.id().as_str(),
                annotations: Ok(&annotations),
            };
            assert!(lineage.owns(stored), "every_object_of_the_key_is_owned");
            let origin = lineage.origin(stored);
            let mut seeds = Proof::default();
            match (&origin, self.transit.decrypts(key)) {
                (Resolution::Live(_), true) => seeds.proven = 1,
                (Resolution::Live(_), false) => seeds.failed = 1,
                (Resolution::Known(_) | Resolution::Unresolved(_), _) => seeds.untried = 1,
            }
            Finding {
                origin,
                objects: 1,
                seeds,
                data: None,
            }
        };
        let findings: Vec<_> = self.objects.iter().map(finding).collect();
        let steps = remedies(&findings, &self.removed);
        (judge(&findings, 0, &steps), findings, steps)
    }
}

fn code(origin: &Resolution) -> Option<&'static str> {
    match origin {
        Resolution::Unresolved(gap) => Some(gap.code()),
        Resolution::Live(_) | Resolution::Known(_) => None,
    }
}
