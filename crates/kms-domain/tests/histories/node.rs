//! One node: its disk, its process, and the events on both. The process follows the order of the
//! provider's watcher: complete an interrupted commit, read, decide, probe, commit, publish, wait.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use kms_domain::{
    annotations::PluginVersion,
    bootstrap::bootstrap,
    health::{
        Breaker, DeepFailure, DeepOutcome, Freshness, Health, MetadataFailure, MetadataOutcome,
        assess,
    },
    prepare::prepare_encrypt,
    registry::{
        Record, RecordState, Registry,
        checkpoint::{Checkpoint, CheckpointStatus, Rollback},
        document::{Document, StateHash},
        retire::{Operation, Plan, PlanRefused, plan_restoration, plan_retirement},
        rotation::{
            ActivationWait, Change, Counting, RotationRefused, RotationRules, Step, discover,
            observe,
        },
    },
    scope::{
        ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, OpenBaoInstanceId,
        ProviderName, TransitKeyPath, TransitMountId,
    },
    transit::{KeyProfile, TransitVersion},
};

use crate::{
    Action, GOOD_PROBE, Reading, Restored, Settings,
    disk::{Commit, Disk, Fault, NextFault},
    invariants::Ledger,
    transit::Transit,
};

const PROBE_INTERVAL: u64 = 30;

/// Cases that the histories together must reach.
pub(crate) const CASES: &[&str] = &[
    "bootstrapped",
    "bootstrap denied",
    "counted",
    "discovered by a request",
    "promoted",
    "promoted over a skipped version",
    "postponed",
    "commit failed",
    "commit completed",
    "clock regression",
    "refused: conflict",
    "refused: intermediate",
    "encryption blocked",
    "encrypted",
    "retired",
    "restored",
    "plan outdated",
    "plan refused",
    "settled",
    "start: absent",
    "start: current",
    "start: behind",
    "start: missing first",
    "start: missing refused",
    "start: missing accepted",
    "start: document lost",
    "start: older",
    "start: other hash",
    "start: too far ahead",
    "start: not linked",
];

pub(crate) struct World {
    pub(crate) reached: BTreeSet<&'static str>,
    settings: Settings,
    rules: RotationRules,
    scope: IdentityScope,
    path: TransitKeyPath,
    transit: Transit,
    past: Vec<Transit>,
    /// Also the next creation second, so all are unique.
    changes: u64,
    disk: Disk,
    backups: Vec<Disk>,
    tampered: bool,
    parents: HashMap<StateHash, Option<StateHash>>,
    elapsed: u64,
    wall: u64,
    process: Option<Process>,
    ledger: Ledger,
}

pub(crate) struct Process {
    pub(crate) committed: Option<Document>,
    attempted: Option<Document>,
    pub(crate) published: Option<Arc<Registry>>,
    metadata: MetadataOutcome,
    deep: DeepOutcome,
    wait: ActivationWait,
    last_counted: u64,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            reached: BTreeSet::new(),
            settings,
            rules: RotationRules {
                required_observations: settings.required.try_into().unwrap(),
                reject_version_rollback: settings.reject_rollback,
            },
            scope: IdentityScope {
                provider_name: ProviderName::parse("p").unwrap(),
                cluster_id: ClusterId::parse("c").unwrap(),
                openbao_instance_id: OpenBaoInstanceId::parse("o").unwrap(),
                openbao_namespace: None,
                transit_mount_id: TransitMountId::parse("m").unwrap(),
                key_lineage_id: KeyLineageId::parse("l").unwrap(),
            },
            path: TransitKeyPath {
                mount_path: MountPath::parse("transit").unwrap(),
                key_name: KeyName::parse("kubernetes-etcd").unwrap(),
            },
            transit: Transit::new(1),
            past: Vec::new(),
            changes: 1,
            disk: Disk::default(),
            backups: Vec::new(),
            tampered: false,
            parents: HashMap::new(),
            elapsed: 0,
            wall: 1_000,
            process: None,
            ledger: Ledger::default(),
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Rotate => self.change_key(|key, second| key.rotate(second)),
            Action::RotateUndisturbed => {
                self.act(Action::Rotate);
                self.settle();
            }
            Action::LimitDecryption(n) => self.change_key(|key, _| key.limit_decryption(n)),
            Action::LimitEncryption(n) => self.change_key(|key, _| key.limit_encryption(n)),
            Action::Trim(n) => self.change_key(|key, _| key.trim(n)),
            Action::RestoreOpenBao(changes) => {
                let old = self.as_of(changes);
                self.change_key(|key, _| *key = old);
            }
            Action::Probe {
                reading,
                deep_passes,
                fault,
            } => self.run(|world, process| world.probe(process, reading, deep_passes, fault)),
            Action::Discover { reading, fault } => {
                self.run(|world, process| world.discover(process, reading, fault));
            }
            // Time alone changes nothing that an invariant covers.
            Action::Wait(seconds) => {
                self.elapsed += seconds;
                self.wall += seconds;
                return;
            }
            Action::StepClock(seconds) => {
                self.wall = self.wall.saturating_add_signed(seconds);
                return;
            }
            Action::Encrypt => self.encrypt(),
            Action::PeerEncrypts => self.ledger.written(self.transit.newest(&self.scope)),
            Action::Crash => self.process = None,
            Action::Start { accept_missing } => self.start(accept_missing),
            Action::RestoreFiles { age, files } => self.restore_files(age, files),
            Action::LoseDocument => self.tamper(|disk| disk.state = None),
            Action::LoseBoth => self.tamper(|disk| *disk = Disk::default()),
            Action::Retire {
                before,
                outdated,
                fault,
            } => {
                let before = version(self.limit(before));
                let asked = |record: &Record| {
                    record.state == RecordState::Retired && record.key.version() < before
                };
                self.change_by_plan(outdated, fault, asked, |document, profile| {
                    plan_retirement(document, before, profile)
                });
            }
            Action::Unretire {
                version: number,
                fault,
            } => {
                let number = version(self.removed(number));
                let asked = |record: &Record| record.key.version() == number;
                self.change_by_plan(false, fault, asked, |document, profile| {
                    plan_restoration(document, &[number], profile)
                });
            }
        }
        if let Some(process) = &self.process {
            self.ledger.require_memory_is_disk(process, &self.disk);
            self.ledger
                .require_objects_are_found(process, &self.transit, &self.rules, &self.path);
            let health = process.health();
            self.ledger
                .require_status_and_encrypt_agree(process, &health);
        }
    }

    /// Runs for a while without faults. Then the newest version must encrypt, unless OpenBao lacks
    /// a required version or the state is refused.
    pub(crate) fn settle(&mut self) {
        let probes = 2 * u64::from(self.settings.required) + self.settings.delay / PROBE_INTERVAL;
        for _ in 0..probes + 2 {
            self.act(Action::Wait(PROBE_INTERVAL));
            self.act(GOOD_PROBE);
        }
        let Some(Process {
            committed: Some(document),
            ..
        }) = &self.process
        else {
            return;
        };
        let mut retained = document.registry().retained();
        if retained.all(|record| self.transit.decrypts(&record.key)) {
            let health = self.process.as_ref().map(Process::health);
            let newest = self.transit.newest(&self.scope);
            assert!(
                matches!(&health, Some(Health::Healthy(active)) if *active.key() == *newest),
                "a_rotation_that_nothing_hinders_ends: {health:?}"
            );
            self.reached.insert("settled");
        }
    }

    fn probe(
        &mut self,
        process: &mut Process,
        reading: Reading,
        deep_passes: bool,
        fault: Fault,
    ) -> Result<(), Stopped> {
        let fault = NextFault::new(fault);
        self.complete(process, &fault)?;
        let (key, profile) = self.read(process, reading)?;
        let Some(document) = process.committed.clone() else {
            return self.first_document(process, &profile, &fault);
        };
        let counting = if self.elapsed - process.last_counted >= PROBE_INTERVAL {
            process.last_counted = self.elapsed;
            self.ledger.observed(&key.newest(&self.scope));
            Counting::Counts
        } else {
            Counting::TooSoon
        };
        let activation = process.wait.activation(Duration::from_secs(self.elapsed));
        let step = observe(
            &document,
            &profile,
            &self.rules,
            counting,
            activation,
            self.wall,
        );
        let mut proven = false;
        let transition = match step {
            Err(refused) => return Err(self.refused(process, &refused)),
            Ok(Step::Unchanged) => None,
            Ok(Step::Recorded(transition)) => Some(transition),
            Ok(Step::Due(promotion)) => {
                let version = promotion.candidate().version();
                proven = deep_passes && self.transit.round_trips(version);
                if proven {
                    self.ledger.proved(version);
                    Some(promotion.promote())
                } else {
                    self.reached.insert("postponed");
                    promotion.postpone()
                }
            }
        };
        if let Some(transition) = transition {
            if transition.clock_regression().is_some() {
                self.reached.insert("clock regression");
            }
            let change = transition.change();
            let next = transition.into_next();
            self.ledger.require_covered(&next, &key);
            let (settings, elapsed) = (self.settings, self.elapsed);
            self.ledger
                .require_promotion_in_time(&document, &next, settings, elapsed);
            self.commit(process, next, &fault)?;
            match change {
                Change::Discovered => {}
                Change::Counted => drop(self.reached.insert("counted")),
                Change::Promoted => self.promoted(process, &document),
            }
            // A promotion and its proof are published together.
            if change == Change::Promoted && proven {
                process.deep = DeepOutcome::Passed;
            }
        }
        self.publish(process);
        let (elapsed, required) = (self.elapsed, self.rules.required_observations);
        if let Some(registry) = &process.published {
            let elapsed = Duration::from_secs(elapsed);
            process.wait.observed(registry, required, elapsed);
        }
        self.verified(process, &profile);
        self.probe_active(process, deep_passes);
        Ok(())
    }

    fn discover(
        &mut self,
        process: &mut Process,
        reading: Reading,
        fault: Fault,
    ) -> Result<(), Stopped> {
        let fault = NextFault::new(fault);
        self.complete(process, &fault)?;
        let (key, profile) = self.read(process, reading)?;
        let Some(document) = process.committed.clone() else {
            return self.first_document(process, &profile, &fault);
        };
        match discover(&document, &profile, &self.rules, self.wall) {
            Err(refused) => return Err(self.refused(process, &refused)),
            Ok(None) => {}
            Ok(Some(transition)) => {
                self.ledger.require_covered(transition.next(), &key);
                self.commit(process, transition.into_next(), &fault)?;
                self.publish(process);
                self.reached.insert("discovered by a request");
            }
        }
        self.verified(process, &profile);
        Ok(())
    }

    fn first_document(
        &mut self,
        process: &mut Process,
        profile: &KeyProfile,
        fault: &NextFault,
    ) -> Result<(), Stopped> {
        let Ok(first) = bootstrap(profile, &self.scope, &self.path, self.wall) else {
            self.reached.insert("bootstrap denied");
            return Err(process.failed(MetadataFailure::StateUnavailable));
        };
        self.commit(process, first, fault)?;
        self.publish(process);
        self.verified(process, profile);
        self.reached.insert("bootstrapped");
        Ok(())
    }

    fn read(
        &mut self,
        process: &mut Process,
        reading: Reading,
    ) -> Result<(Transit, KeyProfile), Stopped> {
        let (key, omitted) = match reading {
            Reading::Good => (self.transit.clone(), None),
            Reading::Failed => return Err(process.failed(MetadataFailure::MetadataReadFailed)),
            Reading::Stale(changes) => (self.as_of(changes), None),
            Reading::Partial(version) => (self.transit.clone(), Some(version)),
        };
        match key.read(&self.path, omitted) {
            Ok(profile) => Ok((key, profile)),
            Err(_) => Err(process.failed(MetadataFailure::ProfileInvalid)),
        }
    }

    fn complete(&mut self, process: &mut Process, fault: &NextFault) -> Result<(), Stopped> {
        let Some(attempted) = process.attempted.take() else {
            return Ok(());
        };
        self.commit(process, attempted, fault)?;
        self.publish(process);
        self.reached.insert("commit completed");
        Ok(())
    }

    fn commit(
        &mut self,
        process: &mut Process,
        next: Document,
        fault: &NextFault,
    ) -> Result<(), Stopped> {
        match self.write(process.committed.as_ref(), &next, fault) {
            Commit::Done => {
                process.committed = Some(next);
                Ok(())
            }
            Commit::Failed => {
                process.attempted = Some(next);
                self.reached.insert("commit failed");
                Err(process.failed(MetadataFailure::StateSaveFailed))
            }
            Commit::Crashed => Err(Stopped::Process),
        }
    }

    fn write(
        &mut self,
        committed: Option<&Document>,
        next: &Document,
        fault: &NextFault,
    ) -> Commit {
        let hash = |document: &Document| document.hash().clone();
        self.parents.insert(hash(next), committed.map(hash));
        self.ledger.may_be_on_disk(committed, Some(next));
        let outcome = self.disk.commit(next, fault);
        if outcome == Commit::Done {
            self.ledger.may_be_on_disk(Some(next), None);
            self.backups.push(self.disk.clone());
        }
        outcome
    }

    /// Passes the committed document on to Status, Encrypt and Decrypt.
    fn publish(&mut self, process: &mut Process) {
        let Some(document) = &process.committed else {
            return;
        };
        let elapsed = self.elapsed;
        self.ledger.published(document, self.settings, elapsed);
        let same = |old: &Arc<Registry>| old.active() == document.registry().active();
        if !process.published.as_ref().is_some_and(same) {
            let active = document.registry().active();
            let proven = self.ledger.is_proven(active.version());
            process.deep = if proven {
                DeepOutcome::Passed
            } else {
                DeepOutcome::Pending
            };
        }
        process.published = Some(Arc::clone(document.registry()));
    }

    fn verified(&mut self, process: &mut Process, profile: &KeyProfile) {
        let Some(registry) = &process.published else {
            return;
        };
        process.metadata = if profile.blocks_encryption(registry.active().version()) {
            self.reached.insert("encryption blocked");
            MetadataOutcome::Failed(MetadataFailure::EncryptionBlocked)
        } else {
            MetadataOutcome::Verified
        };
    }

    fn probe_active(&mut self, process: &mut Process, deep_passes: bool) {
        let Some(registry) = &process.published else {
            return;
        };
        if process.deep == DeepOutcome::Passed || process.metadata != MetadataOutcome::Verified {
            return;
        }
        let version = registry.probe_key().version();
        process.deep = if deep_passes && self.transit.round_trips(version) {
            self.ledger.proved(version);
            DeepOutcome::Passed
        } else {
            DeepOutcome::Failed(DeepFailure::Failed)
        };
    }

    fn refused(&mut self, process: &mut Process, refused: &RotationRefused) -> Stopped {
        self.reached.insert(match refused {
            RotationRefused::Conflict(_) => "refused: conflict",
            RotationRefused::Intermediate { .. } => "refused: intermediate",
            other => panic!("never by these rules: {other}"),
        });
        process.failed(refused.failure())
    }

    fn promoted(&mut self, process: &Process, before: &Document) {
        self.reached.insert("promoted");
        let active = |document: &Document| document.registry().active().version().get();
        let after = process.committed.as_ref().map_or(0, active);
        if after > active(before) + 1 {
            self.reached.insert("promoted over a skipped version");
        }
    }

    fn encrypt(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        if let Health::Healthy(active) = process.health() {
            let prepared = prepare_encrypt(&active, &PluginVersion::new("v0.0.0").unwrap());
            assert_eq!(prepared.version, active.key().version());
            assert_eq!(&prepared.key_id, active.key().id());
            let registry = process.published.as_ref().unwrap();
            // OpenBao may have changed since the last probe: it may refuse, or be another one.
            if self.transit.decrypts(registry.active())
                && self.transit.round_trips(prepared.version)
            {
                self.ledger.written(Arc::clone(registry.active()));
                self.reached.insert("encrypted");
            }
        }
    }

    fn start(&mut self, accept_missing: bool) {
        if self.process.is_some() {
            return;
        }
        let expected = self.expected_start(accept_missing);
        let found = self.disk.anchor();
        let named = match &found {
            Ok(CheckpointStatus::Absent) => "start: absent",
            Ok(CheckpointStatus::Current) => "start: current",
            Ok(CheckpointStatus::Behind) => "start: behind",
            Ok(CheckpointStatus::Missing {
                first_generation: true,
            }) => "start: missing first",
            Ok(CheckpointStatus::Missing {
                first_generation: false,
            }) if accept_missing => "start: missing accepted",
            Ok(CheckpointStatus::Missing {
                first_generation: false,
            }) => "start: missing refused",
            Err(Rollback::DocumentLost { .. }) => "start: document lost",
            Err(Rollback::Older { .. }) => "start: older",
            Err(Rollback::OtherHash { .. }) => "start: other hash",
            Err(Rollback::TooFarAhead { .. }) => "start: too far ahead",
            Err(Rollback::NotLinked { .. }) => "start: not linked",
        };
        self.reached.insert(named);
        assert_eq!(
            named, expected,
            "every_start_continues_or_refuses_with_the_right_reason"
        );
        if found.is_err() || named == "start: missing refused" {
            assert!(
                self.tampered,
                "every_start_continues_or_refuses_with_the_right_reason: {named}"
            );
            return;
        }
        let document = self.disk.document();
        self.repair(document.as_ref());
        self.ledger.started(document.as_ref(), self.tampered);
        self.tampered = false;
        let mut process = Process {
            committed: document,
            attempted: None,
            published: None,
            metadata: MetadataOutcome::Unverified,
            deep: DeepOutcome::Pending,
            wait: ActivationWait::new(Duration::from_secs(self.settings.delay)),
            last_counted: self.elapsed,
        };
        self.publish(&mut process);
        self.process = Some(process);
    }

    /// Derived from the history of the files, independent of their content.
    fn expected_start(&self, accept_missing: bool) -> &'static str {
        let (document, checkpoint) = match (self.disk.document(), self.disk.accepted()) {
            (None, None) => return "start: absent",
            (None, Some(_)) => return "start: document lost",
            (Some(document), None) => {
                return match self.parents.get(document.hash()) {
                    Some(None) => "start: missing first",
                    _ if accept_missing => "start: missing accepted",
                    _ => "start: missing refused",
                };
            }
            (Some(document), Some(checkpoint)) => (document, checkpoint),
        };
        let follows = self.parents.get(document.hash()) == Some(&Some(checkpoint.hash().clone()));
        let ahead =
            i128::from(document.generation().get()) - i128::from(checkpoint.generation().get());
        match ahead {
            _ if document.hash() == checkpoint.hash() => "start: current",
            _ if follows => "start: behind",
            ..0 => "start: older",
            0 => "start: other hash",
            1 => "start: not linked",
            _ => "start: too far ahead",
        }
    }

    fn repair(&mut self, document: Option<&Document>) {
        let checkpoint = document.map(|document| Checkpoint::of(document).encode().into_bytes());
        self.disk.checkpoint = checkpoint;
    }

    fn restore_files(&mut self, age: usize, files: Restored) {
        let Some(index) = self.backups.len().checked_sub(1 + age) else {
            return;
        };
        let backup = self.backups[index].clone();
        self.tamper(|disk| match files {
            Restored::Pair => *disk = backup,
            Restored::State => disk.state = backup.state,
            Restored::Checkpoint => disk.checkpoint = backup.checkpoint,
            Restored::StateAlone => {
                disk.state = backup.state;
                disk.checkpoint = None;
            }
        });
    }

    /// Stops the provider and changes its files.
    fn tamper(&mut self, change: impl FnOnce(&mut Disk)) {
        self.process = None;
        change(&mut self.disk);
        self.tampered = true;
    }

    fn change_by_plan(
        &mut self,
        outdated: bool,
        fault: Fault,
        asked: impl Fn(&Record) -> bool,
        plan: impl FnOnce(&Document, &KeyProfile) -> Result<Plan, PlanRefused>,
    ) {
        self.process = None;
        let (Ok(CheckpointStatus::Current | CheckpointStatus::Behind), Some(document)) =
            (self.disk.anchor(), self.disk.document())
        else {
            return;
        };
        let Ok(profile) = self.transit.read(&self.path, None) else {
            return;
        };
        let Ok(plan) = plan(&document, &profile) else {
            self.reached.insert("plan refused");
            return;
        };
        self.ledger.require_covered(plan.next(), &self.transit);
        let expected = match &self.backups[..] {
            [first, ..] if outdated => first.document().unwrap().hash().clone(),
            _ => plan.state_hash().clone(),
        };
        let is_outdated = expected != *document.hash();
        let Ok(confirmed) = plan.confirm(&expected) else {
            assert!(is_outdated, "a_plan_is_confirmed_by_its_hash_alone");
            self.reached.insert("plan outdated");
            return;
        };
        assert!(!is_outdated, "a_plan_is_confirmed_by_its_hash_alone");
        self.reached.insert(match confirmed.plan().operation() {
            Operation::Retire { .. } => "retired",
            Operation::Restore => "restored",
        });
        self.ledger.approved(&document, asked, confirmed.plan());
        self.repair(Some(&document));
        if let Some(next) = confirmed.into_next() {
            self.write(Some(&document), &next, &NextFault::new(fault));
        }
    }

    /// A limit for retirement: mostly a valid one, including both neighbours of the valid range.
    fn limit(&self, number: u64) -> u64 {
        let document = self.disk.document();
        let active = document.map_or(1, |d| d.registry().active().version().get());
        1 + number % (active + 1)
    }

    /// Mostly a removed version.
    fn removed(&self, number: u64) -> u64 {
        let document = self.disk.document();
        let records = document.iter().flat_map(|d| d.registry().records());
        let mut removed = records.filter(|record| record.state == RecordState::Removed);
        let found = removed.find(|record| record.key.version().get() >= number);
        found.map_or(number, |record| record.key.version().get())
    }

    /// Starts a stopped provider first, as its supervisor does.
    fn run(&mut self, work: impl FnOnce(&mut Self, &mut Process) -> Result<(), Stopped>) {
        self.start(false);
        let Some(mut process) = self.process.take() else {
            return;
        };
        match work(self, &mut process) {
            Ok(()) | Err(Stopped::Step) => self.process = Some(process),
            Err(Stopped::Process) => {}
        }
    }

    fn change_key(&mut self, change: impl FnOnce(&mut Transit, u64)) {
        self.past.push(self.transit.clone());
        self.changes += 1;
        change(&mut self.transit, self.changes);
    }

    fn as_of(&self, changes: usize) -> Transit {
        let index = self.past.len().checked_sub(changes);
        let old = index.and_then(|index| self.past.get(index));
        old.unwrap_or(&self.transit).clone()
    }
}

/// Effect of a probe that ended early.
enum Stopped {
    Step,
    Process,
}

impl Process {
    pub(crate) fn health(&self) -> Health {
        let registry = self.published.as_deref();
        assess(
            registry,
            Freshness::Fresh,
            self.metadata,
            self.deep,
            Breaker::Closed,
        )
    }

    fn failed(&mut self, failure: MetadataFailure) -> Stopped {
        self.metadata = MetadataOutcome::Failed(failure);
        Stopped::Step
    }

    pub(crate) fn attempted(&self) -> Option<&Document> {
        self.attempted.as_ref()
    }
}

fn version(number: u64) -> TransitVersion {
    TransitVersion::new(number).unwrap()
}
