//! Histories that once led to a wrong verdict, cut down by hand to the events that matter.

use super::scenario::{
    Action::{self, RaiseEncryption, Recreate, Retire, Rotate, Serve, Trim, Write},
    Damage, Incident, OpenBaoState, Scenario, StateLoss,
};

/// The mistake, and a history that shows it.
pub(super) fn all() -> Vec<(&'static str, Scenario)> {
    vec![
        (
            "a hidden version of a recreated key counts as the needed one",
            history(
                [Serve, two_objects(false), RECREATED_AND_HIDDEN],
                StateLoss::Both,
            ),
        ),
        (
            "the same, though the state of the node knows another version 2 than the live one",
            drilled(history(
                [
                    Serve,
                    two_objects(false),
                    Rotate,
                    Serve,
                    RECREATED_AND_HIDDEN,
                ],
                StateLoss::Nothing,
            )),
        ),
        (
            "objects under the other name of one plugin are not judged once their version is gone",
            history(
                [
                    Serve,
                    two_objects(true),
                    Rotate,
                    Serve,
                    two_objects(false),
                    Trim(2),
                ],
                StateLoss::Both,
            ),
        ),
        (
            "a damaged value of another provider makes a pair incompatible",
            drilled(history(
                [
                    Serve,
                    two_objects(false),
                    Action::Damage(Damage::ForeignGarbage, 0),
                ],
                StateLoss::Both,
            )),
        ),
        (
            "one damaged object stands in the way of a rebuilt state",
            history(
                [
                    Serve,
                    two_objects(false),
                    Action::Damage(Damage::Dek, 0),
                    Rotate,
                    Serve,
                    two_objects(false),
                ],
                StateLoss::Both,
            ),
        ),
        (
            "the only object of the version that a replaced revision shows as promoted is damaged",
            history(
                [
                    Serve,
                    two_objects(false),
                    Rotate,
                    Serve,
                    Write {
                        second_name: false,
                        resource: 2,
                        fresh_dek: true,
                        latest: true,
                        objects: 1,
                    },
                    Action::Damage(Damage::Annotations, 0),
                ],
                StateLoss::Both,
            ),
        ),
        (
            "the state of the node has a needed version removed",
            history(
                [
                    Serve,
                    two_objects(false),
                    Rotate,
                    Serve,
                    two_objects(false),
                    Retire(2),
                ],
                StateLoss::Nothing,
            ),
        ),
        (
            "a limit for encryption is named before a loss, and denies it",
            history(
                [
                    Serve,
                    two_objects(false),
                    Action::Damage(Damage::Dek, 0),
                    Rotate,
                    RaiseEncryption(2),
                ],
                StateLoss::Nothing,
            ),
        ),
    ]
}

const RECREATED_AND_HIDDEN: Action = Recreate {
    rotations: 1,
    minimum: 2,
};

fn two_objects(second_name: bool) -> Action {
    Write {
        second_name,
        resource: 0,
        fresh_dek: true,
        latest: true,
        objects: 2,
    }
}

fn history<const N: usize>(actions: [Action; N], state: StateLoss) -> Scenario {
    Scenario {
        actions: actions.into(),
        incident: Incident {
            etcd: None,
            openbao: OpenBaoState::Now,
            state,
            record: None,
            peer: None,
            drill: false,
        },
    }
}

fn drilled(mut scenario: Scenario) -> Scenario {
    scenario.incident.drill = true;
    scenario
}
