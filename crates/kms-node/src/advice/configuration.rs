//! Causes in the configuration file.

use super::{Cause, DataImpact, act, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &LOST,
    &INVALID,
    &IDENTITY_CHANGED,
    &UNSUPPORTED_LOGIN,
    &UNSAFE_POLICY_PATH,
];

const READABLE_UNDER_THE_SAME_NAMES: &str = "no data is lost: objects are readable again once the \
    provider runs with the same names as before";

pub const LOST: Cause = Cause {
    code: "config_lost",
    headline: "the configuration file is missing",
    impact: DataImpact::NoneLost,
    data: READABLE_UNDER_THE_SAME_NAMES,
    steps: &[
        act(
            "restore {config} from configuration management or from a backup, or name another file \
             with --config",
        ),
        act(
            "compare providerName, clusterId, instanceId, namespace, transitMountId, keyLineageId, \
             mountPath and keyName with a backup record or another node: each must be as before",
        ),
    ],
    warnings: &[],
    exit: Exit::Configuration,
};

pub const INVALID: Cause = Cause {
    code: "config_invalid",
    headline: "the configuration file is not YAML, or has invalid settings",
    impact: DataImpact::NoneLost,
    data: READABLE_UNDER_THE_SAME_NAMES,
    steps: &[
        act("correct {setting}: {correction}"),
        run(
            "list every problem, then correct it",
            "bao-kms-provider config --config {config}",
        ),
    ],
    warnings: &[],
    exit: Exit::Configuration,
};

pub const IDENTITY_CHANGED: Cause = Cause {
    code: "identity_changed",
    headline: "the names in the configuration differ from those of the state, the record or etcd",
    impact: DataImpact::AtRisk,
    data: "no data is lost yet: stored objects are readable under their old names only, and objects \
           written under the new names are not readable under the old ones",
    steps: &[
        act("change these settings in {config} back to the old names"),
        act(
            "if the new names are right, the state or the evidence belongs to another cluster: give \
             that of this cluster",
        ),
    ],
    warnings: &["do not delete the state to make it fit the configuration"],
    exit: Exit::Configuration,
};

pub const UNSUPPORTED_LOGIN: Cause = Cause {
    code: "login_unsupported",
    headline: "this build lacks the configured login method",
    impact: DataImpact::NoneLost,
    data: READABLE_UNDER_THE_SAME_NAMES,
    steps: &[act(
        "use a build that has this login method, or set auth.method to jwt and auth.jwt.source to \
         file in {config}",
    )],
    warnings: &[],
    exit: Exit::Configuration,
};

pub const UNSAFE_POLICY_PATH: Cause = Cause {
    code: "policy_path_unsafe",
    headline: "the mount path or the key name would grant more in a policy than is meant",
    impact: DataImpact::NoneLost,
    data: "no data is lost: nothing was changed",
    steps: &[act("write the policy by hand, or move the mount")],
    warnings: &["do not grant paths with + or * for this provider"],
    exit: Exit::Unclassified,
};
