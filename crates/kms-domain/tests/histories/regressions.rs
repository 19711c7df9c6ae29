//! Histories that broke an invariant under a deliberate mistake in the rules. Shrunk by the random
//! search, then by hand.

use crate::{
    Action::{
        self, Discover, LimitDecryption, PeerEncrypts, RestoreFiles, RestoreOpenBao, Retire,
        Rotate, RotateUndisturbed, StepClock, Unretire, Wait,
    },
    GOOD_PROBE, Reading, Restored, Settings,
    disk::Fault,
};

/// The mistake, and a history to reveal it.
pub(crate) const ALL: &[(&str, Settings, &[Action])] = &[
    (
        "a skipped version is not recorded",
        settings(1, 60),
        &[GOOD_PROBE, Rotate, PeerEncrypts, Rotate, GOOD_PROBE],
    ),
    (
        "an observation too soon counts",
        settings(2, 0),
        &[GOOD_PROBE, Rotate, GOOD_PROBE, GOOD_PROBE],
    ),
    (
        "a discovery counts",
        settings(2, 0),
        &[GOOD_PROBE, Rotate, DISCOVERY],
    ),
    (
        "a version is promoted without its wait",
        settings(1, 60),
        &[GOOD_PROBE, Rotate],
    ),
    (
        "the wait of an overtaken version promotes the next one",
        settings(1, 60),
        &[GOOD_PROBE, Rotate, Wait(30), GOOD_PROBE, Wait(60), Rotate],
    ),
    (
        "the wait of an overtaken version holds up the next one for ever",
        settings(1, 60),
        &[GOOD_PROBE, Rotate, Wait(30), GOOD_PROBE, Rotate],
    ),
    (
        "a version is promoted before it is stable",
        settings(3, 0),
        &[GOOD_PROBE, Rotate],
    ),
    (
        "a candidate that fails its probe is promoted",
        settings(1, 0),
        &[GOOD_PROBE, Rotate, Wait(30), FAILING_PROBE],
    ),
    (
        "a removed version decrypts",
        settings(1, 0),
        &[GOOD_PROBE, RotateUndisturbed, RETIRE_BEFORE_2],
    ),
    (
        "a retirement takes the version at its limit too",
        settings(1, 0),
        &[
            GOOD_PROBE,
            RotateUndisturbed,
            RotateUndisturbed,
            RETIRE_BEFORE_2,
        ],
    ),
    (
        "a hidden version is restored",
        settings(1, 0),
        &[
            GOOD_PROBE,
            RotateUndisturbed,
            RETIRE_BEFORE_2,
            LimitDecryption(2),
            RESTORE_1,
        ],
    ),
    (
        "a plan for an older state is carried out",
        settings(1, 60),
        &[
            GOOD_PROBE,
            RotateUndisturbed,
            Retire {
                before: 1,
                outdated: true,
                fault: Fault::None,
            },
        ],
    ),
    (
        "a version of other key material is accepted",
        settings(2, 60),
        &[GOOD_PROBE, Rotate, GOOD_PROBE, RestoreOpenBao(1), Rotate],
    ),
    (
        "times follow the clock back",
        settings(2, 0),
        &[GOOD_PROBE, Rotate, GOOD_PROBE, StepClock(-91)],
    ),
    (
        "an old state without its checkpoint is accepted",
        settings(1, 0),
        &[
            GOOD_PROBE,
            RotateUndisturbed,
            RestoreFiles {
                age: 0,
                files: Restored::StateAlone,
            },
        ],
    ),
    (
        "a state far ahead of its checkpoint is accepted",
        settings(1, 0),
        &[
            GOOD_PROBE,
            RotateUndisturbed,
            RotateUndisturbed,
            RestoreFiles {
                age: 2,
                files: Restored::Checkpoint,
            },
        ],
    ),
];

const DISCOVERY: Action = Discover {
    reading: Reading::Good,
    fault: Fault::None,
};

const FAILING_PROBE: Action = Action::Probe {
    reading: Reading::Good,
    deep_passes: false,
    fault: Fault::None,
};

/// The model adds 1.
const RETIRE_BEFORE_2: Action = Retire {
    before: 1,
    outdated: false,
    fault: Fault::None,
};

const RESTORE_1: Action = Unretire {
    version: 1,
    fault: Fault::None,
};

const fn settings(required: u32, delay: u64) -> Settings {
    Settings {
        required,
        delay,
        reject_rollback: true,
    }
}
