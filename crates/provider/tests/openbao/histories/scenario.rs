//! What happens in a round, and how it is drawn.

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    strategy::{Strategy, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// A history and the incident at its end.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) actions: Vec<Action>,
    pub(super) incident: Incident,
}

/// One event. Versions are taken modulo those that the key has at that moment.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// An API server writes.
    Write {
        /// Under the second of the names that one plugin may have in an EncryptionConfiguration.
        second_name: bool,
        resource: usize,
        /// The API server has restarted.
        fresh_dek: bool,
        /// Under the latest version, else under the one that was written last.
        latest: bool,
        objects: usize,
    },
    /// Another plugin's object, which this key does not concern.
    WriteForeign,
    Delete(usize),
    Rotate,
    /// This node serves until it has promoted the latest version, if it starts.
    Serve,
    Raise(u64),
    /// The minimum for encryption alone.
    RaiseEncryption(u64),
    LowerAll,
    Trim(u64),
    /// The key is deleted and another one made under its name.
    Recreate {
        rotations: u64,
        minimum: u64,
    },
    /// `retire-versions --apply` without evidence, whether or not objects need the versions.
    Retire(u64),
    /// Somebody removes state and checkpoint, so that the provider starts anew.
    ForgetState,
    Compact,
    Damage(Damage, usize),
    SaveEtcd,
    SaveOpenBao,
    SaveState,
    Record {
        with_etcd: bool,
    },
}

/// What becomes of one stored value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Damage {
    /// A byte of the encrypted DEK.
    Dek,
    /// The encrypted DEK is that of another object.
    DekOfAnother,
    /// The annotations are those of another version.
    Annotations,
    /// The value is that of another etcd key.
    Moved,
    /// A new value of the configured provider's name that no plugin wrote.
    Garbage,
    /// The same under a name that no EncryptionConfiguration has.
    ForeignGarbage,
}

/// Which backups meet, and what else is lost. Indexes are taken modulo what there is.
#[derive(Debug, Clone)]
pub(super) struct Incident {
    /// `None` is what etcd holds now.
    pub(super) etcd: Option<usize>,
    pub(super) openbao: OpenBaoState,
    pub(super) state: StateLoss,
    /// Whether a record, if there is one, is given to the commands.
    pub(super) record: Option<usize>,
    /// Whether a copy of a state, if there is one, is given to `recover-state`.
    pub(super) peer: Option<usize>,
    /// A drill takes ten seconds, so only some rounds have one.
    pub(super) drill: bool,
}

#[derive(Debug, Clone)]
pub(super) enum OpenBaoState {
    Now,
    Snapshot(usize),
    KeyDeleted,
}

#[derive(Debug, Clone)]
pub(super) enum StateLoss {
    Nothing,
    Both,
    State,
    Checkpoint,
    /// An older pair is put back.
    RolledBack(usize),
}

impl Scenario {
    /// The same for the same seed, as long as the strategies stay the same.
    pub(super) fn drawn(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let (actions, incident) = (vec(action(), 6..26), incident())
            .new_tree(&mut runner)
            .unwrap()
            .current();
        // Most of what can go wrong needs an object and a state.
        let first = [
            Action::Serve,
            Action::Write {
                second_name: false,
                resource: 0,
                fresh_dek: true,
                latest: true,
                objects: 2,
            },
        ];
        Self {
            actions: first.into_iter().chain(actions).collect(),
            incident,
        }
    }
}

fn action() -> impl Strategy<Value = Action> {
    let write = (
        prop::bool::weighted(0.3),
        0..4usize,
        any::<bool>(),
        prop::bool::weighted(0.8),
        1..4usize,
    );
    let write =
        write.prop_map(
            |(second_name, resource, fresh_dek, latest, objects)| Action::Write {
                second_name,
                resource,
                fresh_dek,
                latest,
                objects,
            },
        );
    let recreate =
        (0..4u64, 1..4u64).prop_map(|(rotations, minimum)| Action::Recreate { rotations, minimum });
    let damage = select(vec![
        Damage::Dek,
        Damage::DekOfAnother,
        Damage::Annotations,
        Damage::Moved,
        Damage::Garbage,
        Damage::ForeignGarbage,
    ]);
    prop_oneof![
        10 => write,
        1 => Just(Action::WriteForeign),
        1 => (0..8usize).prop_map(Action::Delete),
        7 => Just(Action::Rotate),
        3 => Just(Action::Serve),
        3 => (1..5u64).prop_map(Action::Raise),
        1 => (1..5u64).prop_map(Action::RaiseEncryption),
        1 => Just(Action::LowerAll),
        1 => (1..5u64).prop_map(Action::Trim),
        1 => recreate,
        1 => (2..5u64).prop_map(Action::Retire),
        1 => Just(Action::ForgetState),
        1 => Just(Action::Compact),
        1 => (damage, 0..8usize).prop_map(|(damage, index)| Action::Damage(damage, index)),
        2 => Just(Action::SaveEtcd),
        2 => Just(Action::SaveOpenBao),
        2 => Just(Action::SaveState),
        2 => any::<bool>().prop_map(|with_etcd| Action::Record { with_etcd }),
    ]
}

fn incident() -> impl Strategy<Value = Incident> {
    let openbao = prop_oneof![
        6 => Just(OpenBaoState::Now),
        4 => (0..8usize).prop_map(OpenBaoState::Snapshot),
        1 => Just(OpenBaoState::KeyDeleted),
    ];
    let state = prop_oneof![
        4 => Just(StateLoss::Nothing),
        3 => Just(StateLoss::Both),
        1 => Just(StateLoss::State),
        1 => Just(StateLoss::Checkpoint),
        1 => (0..8usize).prop_map(StateLoss::RolledBack),
    ];
    let index = || option::weighted(0.5, 0..8usize);
    let parts = (
        option::weighted(0.4, 0..8usize),
        openbao,
        state,
        index(),
        index(),
        select(vec![true, false, false, false, false]),
    );
    parts.prop_map(|(etcd, openbao, state, record, peer, drill)| Incident {
        etcd,
        openbao,
        state,
        record,
        peer,
        drill,
    })
}
