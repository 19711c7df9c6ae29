//! Random histories of three nodes with one key: rotations and promotions, writes, retirements, and
//! backups of every kind at any time. Then a node loses its state and is recovered from a random
//! part of the evidence, fresh or stale. A rebuilt registry must keep the promises named in
//! `world.rs`. A refusal is correct if the evidence is insufficient, but not if the evidence was
//! complete.

use std::{cell::RefCell, collections::BTreeMap};

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRunner},
};

use self::{evidence::Harm, world::World};

mod evidence;
mod world;

const HISTORIES: u32 = 10_000;
pub(crate) const NODES: usize = 3;

/// One event. Ages count back from the newest of its kind.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Rotate,
    LimitDecryption(u64),
    Trim(u64),
    /// Resets OpenBao's storage by this number of changes.
    RestoreOpenBao(usize),
    /// Recreates the key under the same name.
    RecreateKey,
    Probe(usize),
    /// Probes all nodes until the newest version is active on each.
    Settle,
    Write {
        node: usize,
        object: u8,
    },
    /// A storage migration through one node.
    RewriteAll(usize),
    Delete(u8),
    /// Changes the stored bytes of an object.
    Harm {
        object: u8,
        harm: Harm,
    },
    /// etcd removes replaced and deleted revisions.
    Compact,
    Retire {
        node: usize,
        before: u64,
    },
    SaveEtcd,
    SaveRecord(usize),
    SavePair(usize),
    Incident(Incident),
}

/// A node loses files and is recovered from the available evidence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incident {
    pub(crate) node: usize,
    pub(crate) loss: Loss,
    /// 0 is the running etcd.
    pub(crate) etcd: Option<usize>,
    pub(crate) record: Option<usize>,
    /// 0 is the current pair of the next node.
    pub(crate) pair: Option<usize>,
    /// Whether the operator asserts that a version was not promoted, if that is true.
    pub(crate) assures: bool,
    /// Whether the operator accepts unreadable objects.
    pub(crate) accepts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Both,
    /// The checkpoint survives.
    State,
    /// The state survives.
    Checkpoint,
    StateDamaged,
    /// An older state beside the present checkpoint.
    RolledBack(usize),
}

#[test]
fn a_rebuilt_registry_is_never_wrong_in_random_histories() {
    let mut runner = TestRunner::new(Config {
        cases: HISTORIES,
        rng_algorithm: RngAlgorithm::XorShift,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/histories/losses/seeds.txt",
        ))),
        ..Config::default()
    });
    let reached = RefCell::new(BTreeMap::<_, u32>::new());
    let outcome = runner.run(&vec(event(), 1..60), |events| {
        let mut world = World::new();
        for event in events {
            world.happens(event);
        }
        for what in world.reached {
            *reached.borrow_mut().entry(what).or_default() += 1;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let reached = reached.into_inner();
    let missed: Vec<_> = world::CASES
        .iter()
        .filter(|case| !reached.contains_key(*case))
        .collect();
    assert!(
        missed.is_empty(),
        "never reached {missed:?} in {reached:#?}"
    );
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 0..NODES;
    prop_oneof![
        6 => Just(Event::Rotate),
        1 => (0..6u64).prop_map(Event::LimitDecryption),
        1 => (0..4u64).prop_map(Event::Trim),
        1 => (1..4usize).prop_map(Event::RestoreOpenBao),
        1 => Just(Event::RecreateKey),
        10 => node().prop_map(Event::Probe),
        10 => Just(Event::Settle),
        14 => (node(), 0..5u8).prop_map(|(node, object)| Event::Write { node, object }),
        3 => node().prop_map(Event::RewriteAll),
        2 => (0..5u8).prop_map(Event::Delete),
        2 => (0..5u8, select(vec![Harm::Dek, Harm::Annotations]))
            .prop_map(|(object, harm)| Event::Harm { object, harm }),
        1 => Just(Event::Compact),
        2 => (node(), 0..6u64).prop_map(|(node, before)| Event::Retire { node, before }),
        5 => Just(Event::SaveEtcd),
        5 => node().prop_map(Event::SaveRecord),
        5 => node().prop_map(Event::SavePair),
        8 => incident().prop_map(Event::Incident),
    ]
}

fn incident() -> impl Strategy<Value = Incident> {
    let loss = prop_oneof![
        3 => Just(Loss::Both),
        1 => Just(Loss::State),
        1 => Just(Loss::Checkpoint),
        1 => Just(Loss::StateDamaged),
        1 => (1..4usize).prop_map(Loss::RolledBack),
    ];
    // Mostly fresh evidence.
    let age = || option::weighted(0.5, select(vec![0, 0, 0, 1, 2, 3]));
    let answers = any::<(bool, bool)>();
    let parts = (0..NODES, loss, age(), age(), age(), answers);
    parts.prop_map(
        |(node, loss, etcd, record, pair, (assures, accepts))| Incident {
            node,
            loss,
            etcd,
            record,
            pair,
            assures,
            accepts,
        },
    )
}
