//! Causes in the configuration file.

use super::{Cause, act, none_lost, not_lost_yet, run};
use crate::exit::Exit;

const SAME_NAMES: &str = "objects are readable again once the provider runs with the same names as \
    before";
/// The step after a foreign piece of evidence.
pub(super) const OF_THIS_CLUSTER: super::Step =
    act("if the evidence is of another cluster, give that of this one instead");

causes! {
    LOST = none_lost("config_lost", "the configuration file is missing", SAME_NAMES)
        .exit(Exit::Configuration)
        .steps(&[
            act(
                "if the provider served on this node before, restore {config} from configuration \
                 management or from a backup, or name another file with --config",
            ),
            act(
                "compare providerName, clusterId, instanceId, namespace, transitMountId, \
                 keyLineageId, mountPath and keyName with a backup record or another node: each \
                 must be as before",
            ),
            run(
                "at a first installation, make the file with the others",
                "bao-kms-provider init --new-key --out openbao-kms",
            ),
        ]);

    INVALID = none_lost(
        "config_invalid",
        "the configuration file is not YAML, or has invalid settings",
        SAME_NAMES,
    )
    .exit(Exit::Configuration)
    .steps(&[
        act("correct {setting}: {correction}"),
        run("list every problem, then correct it", "bao-kms-provider config --config {config}"),
    ]);

    IDENTITY_CHANGED = not_lost_yet(
        "identity_changed",
        "the names in the configuration differ from those of the state, the record or etcd",
        "stored objects are readable under their old names only, and objects written under the new \
         names are not readable under the old ones",
    )
    .exit(Exit::Configuration)
    .steps(&[act("change these settings in {config} back to the old names"), OF_THIS_CLUSTER])
    .warnings(&["do not delete the state, and do not edit the evidence, to make them fit"]);

    UNSUPPORTED_LOGIN = none_lost(
        "login_unsupported",
        "this build lacks the configured login method",
        SAME_NAMES,
    )
    .exit(Exit::Configuration)
    .steps(&[act(
        "use a build with this login method, or set auth.method to jwt and auth.jwt.source to file \
         in {config}",
    )]);

    VALUES_INVALID = none_lost(
        "values_invalid",
        "the values of the installation are incomplete, or break rules",
        "nothing was written, in OpenBao or on this machine",
    )
    .exit(Exit::Configuration)
    .steps(&[
        act("correct each setting above in the file of values, or by --set PATH=VALUE"),
        run("see every setting with its rule", "bao-kms-provider config schema"),
    ]);

    UNSAFE_POLICY_PATH = none_lost(
        "policy_path_unsafe",
        "the mount path or the key name would grant additional paths in a policy",
        "nothing was changed",
    )
    .exit(Exit::Unclassified)
    .steps(&[act("write the policy by hand, or move the mount")])
    .warnings(&["do not grant paths with + or * for this provider"]);
}
