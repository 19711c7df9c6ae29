//! Random histories of one node: rotations, observations, discoveries, failures at any step,
//! crashes, restarts, restored files, retirements, limits, clock steps. After every step the named
//! invariants of `invariants.rs` must hold. `losses.rs` does the same for three nodes and their
//! backups.
//!
//! `node.rs` follows the provider's watcher step by step. Transit and the disk are models in
//! memory; the disk is a model of bytes.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests may panic too"
)]

use std::collections::BTreeMap;

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRunner},
};

use self::{
    disk::{Cut, Fault},
    node::World,
};

mod disk;
mod invariants;
mod losses;
mod node;
mod pairs;
mod regressions;
mod transit;

const HISTORIES: u32 = 10_000;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Rotate,
    /// Rotates, and probes without faults until the new version is active.
    RotateUndisturbed,
    LimitDecryption(u64),
    LimitEncryption(u64),
    Trim(u64),
    /// Resets OpenBao's storage by this number of changes.
    RestoreOpenBao(usize),
    Probe {
        reading: Reading,
        deep_passes: bool,
        fault: Fault,
    },
    Discover {
        reading: Reading,
        fault: Fault,
    },
    /// Advances both clocks.
    Wait(u64),
    StepClock(i64),
    /// An API server writes an object through this node.
    Encrypt,
    /// Another node is ahead and writes an object under the newest version.
    PeerEncrypts,
    Crash,
    Start {
        accept_missing: bool,
    },
    /// Restores earlier files while the provider is stopped.
    RestoreFiles {
        /// In commits.
        age: usize,
        files: Restored,
    },
    LoseDocument,
    LoseBoth,
    Retire {
        /// Modulo the possible limits.
        before: u64,
        outdated: bool,
        fault: Fault,
    },
    Unretire {
        /// This version, or the next higher removed one.
        version: u64,
        fault: Fault,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    Good,
    Failed,
    /// The metadata as of this number of changes ago.
    Stale(usize),
    /// The metadata without this version.
    Partial(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restored {
    Pair,
    /// The state, beside the present checkpoint.
    State,
    /// The checkpoint, beside the present state.
    Checkpoint,
    /// The state; the checkpoint is deleted.
    StateAlone,
}

/// The settings of one history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) required: u32,
    pub(crate) delay: u64,
    pub(crate) reject_rollback: bool,
}

pub(crate) const GOOD_PROBE: Action = Action::Probe {
    reading: Reading::Good,
    deep_passes: true,
    fault: Fault::None,
};

#[test]
fn invariants_hold_in_random_histories() {
    let mut runner = TestRunner::new(Config {
        cases: HISTORIES,
        // The default takes more time than all histories together.
        rng_algorithm: RngAlgorithm::XorShift,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/histories/seeds.txt",
        ))),
        ..Config::default()
    });
    let reached = std::cell::RefCell::new(BTreeMap::<_, u32>::new());
    let outcome = runner.run(&history(), |(settings, actions)| {
        let mut world = World::new(settings);
        for action in actions {
            world.act(action);
        }
        world.settle();
        for what in world.reached {
            *reached.borrow_mut().entry(what).or_default() += 1;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    // A model that misses the hard cases proves nothing.
    let reached = reached.into_inner();
    let missed: Vec<_> = node::CASES
        .iter()
        .filter(|case| !reached.contains_key(*case))
        .collect();
    assert!(
        missed.is_empty(),
        "never reached {missed:?} in {reached:#?}"
    );
}

#[test]
fn invariants_hold_in_histories_that_once_broke_them() {
    for (claim, settings, actions) in regressions::ALL {
        println!("{claim}");
        let mut world = World::new(*settings);
        for action in *actions {
            world.act(*action);
        }
        world.settle();
    }
}

fn history() -> impl Strategy<Value = (Settings, Vec<Action>)> {
    let settings = (1..=3u32, select(vec![0, 60, 120]), any::<bool>()).prop_map(
        |(required, delay, reject_rollback)| Settings {
            required,
            delay,
            reject_rollback,
        },
    );
    let actions = (prop::bool::weighted(0.9), vec(action(), 1..60)).prop_map(|(sound, mut all)| {
        if sound {
            all.insert(0, GOOD_PROBE);
        }
        all
    });
    (settings, actions)
}

fn action() -> impl Strategy<Value = Action> {
    let cut = || {
        select(vec![
            Cut::BeforeState,
            Cut::BeforeCheckpoint,
            Cut::AfterCheckpoint,
        ])
    };
    let fault = move || {
        prop_oneof![
            8 => Just(Fault::None),
            1 => cut().prop_map(Fault::Fails),
            1 => cut().prop_map(Fault::Crashes),
        ]
    };
    let reading = || {
        prop_oneof![
            12 => Just(Reading::Good),
            1 => Just(Reading::Failed),
            1 => (1..4usize).prop_map(Reading::Stale),
            1 => (1..6u64).prop_map(Reading::Partial),
        ]
    };
    let files = select(vec![
        Restored::Pair,
        Restored::State,
        Restored::Checkpoint,
        Restored::StateAlone,
    ]);
    prop_oneof![
        6 => Just(Action::Rotate),
        2 => Just(Action::RotateUndisturbed),
        2 => (0..4u64).prop_map(Action::LimitDecryption),
        1 => (0..6u64).prop_map(Action::LimitEncryption),
        1 => (0..3u64).prop_map(Action::Trim),
        1 => (1..4usize).prop_map(Action::RestoreOpenBao),
        30 => (reading(), prop::bool::weighted(0.9), fault()).prop_map(
            |(reading, deep_passes, fault)| Action::Probe { reading, deep_passes, fault }
        ),
        4 => (reading(), fault()).prop_map(|(reading, fault)| Action::Discover { reading, fault }),
        20 => select(vec![1, 29, 30, 30, 30, 60, 120]).prop_map(Action::Wait),
        2 => (-500..500i64).prop_map(Action::StepClock),
        4 => Just(Action::Encrypt),
        3 => Just(Action::PeerEncrypts),
        2 => Just(Action::Crash),
        3 => prop::bool::weighted(0.3).prop_map(|accept_missing| Action::Start { accept_missing }),
        4 => (0..6usize, files).prop_map(|(age, files)| Action::RestoreFiles { age, files }),
        1 => prop_oneof![Just(Action::LoseDocument), Just(Action::LoseBoth)],
        4 => (0..8u64, prop::bool::weighted(0.1), fault())
            .prop_map(|(before, outdated, fault)| Action::Retire { before, outdated, fault }),
        4 => (1..5u64, fault()).prop_map(|(version, fault)| Action::Unretire { version, fault }),
    ]
}
