//! Causes in the comparison of control-plane nodes. `{nodes}` are the names of the nodes, `{again}` is
//! the command line.

use super::{Cause, DataImpact, Step, act, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &NO_ANSWER,
    &SAME_NODE,
    &OTHER_IDENTITY,
    &IDENTITY_UNDECIDED,
    &OTHER_KEY,
    &OTHER_KEY_UNDECIDED,
    &NO_STATE,
    &STATE_REFUSED,
    &BEHIND,
    &BEHIND_UNKNOWN,
    &PROMOTION_PENDING,
    &WAITING,
    &UNKNOWN_KEY,
    &MISSING_VERSIONS,
    &NOT_READY,
    &SERVING_UNKNOWN,
    &PROGRAMS_DIFFER,
];

const KEEP_KEYS: &str =
    "do not retire, trim or hide a version of the key, and do not rotate, before the nodes agree";
const KEEP_STATE: &str = "do not delete or edit the state files of any node";
const KEEP_ETCD: &str = "do not delete anything from etcd";
const KEEP_NAMES: &str = "do not change names in a configuration to make a node start or agree";
const NO_REWRITE: &str = "do not rewrite objects through a node that differs";
const NOT_SEEN: &str =
    "unknown: whether the node agrees was not seen, and no sign of a loss was seen";
const NAMES_APART: &str = "at risk: no data is lost yet; nodes of different names read nothing that \
    the other has written";

const AGAIN: Step = run("then compare again", "{again}");
const ANOTHER_SOURCE: Step =
    act("name {nodes} by --metrics, or by --state, in place of --socket, and compare again");
const RESTORE_STATE: Step = act(
    "on {nodes}: stop the provider, and put state and checkpoint back together, from a backup of that \
     node or a copy of a healthy peer",
);
const REBUILD_STATE: Step = run(
    "without a backup, rebuild them on {nodes} from evidence, first as a plan (also from --record FILE \
     or --etcd-snapshot FILE)",
    "bao-kms-provider recover-state --peer-state FILE --config {config}",
);

pub const NO_ANSWER: Cause = Cause {
    code: "node_no_answer",
    headline: "a node gives no answer",
    impact: DataImpact::Unknown,
    data: NOT_SEEN,
    steps: &[
        act("bring {nodes} or the connection back, or name its state file with --state"),
        AGAIN,
    ],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const SAME_NODE: Cause = Cause {
    code: "same_node",
    headline: "one node is given more than once",
    impact: DataImpact::Unknown,
    data: NOT_SEEN,
    steps: &[
        act(
            "give each of {nodes} once, by an address, socket or state file of its own: a forwarded \
             port may lead to the wrong node",
        ),
        AGAIN,
    ],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const OTHER_IDENTITY: Cause = Cause {
    code: "other_identity_on_nodes",
    headline: "a node is configured for another cluster, key or provider name",
    impact: DataImpact::AtRisk,
    data: NAMES_APART,
    steps: &[
        run(
            "on {nodes}: stop the provider",
            "systemctl stop bao-kms-provider",
        ),
        run(
            "on {nodes} and on another node: compare the names, and change those of {nodes} back",
            "bao-kms-provider config --config {config}",
        ),
        AGAIN,
    ],
    warnings: &[KEEP_NAMES, NO_REWRITE, KEEP_STATE],
    exit: Exit::CheckFailed,
};

pub const IDENTITY_UNDECIDED: Cause = Cause {
    code: "identity_undecided",
    headline: "the nodes have different names, and no majority has the same",
    impact: DataImpact::AtRisk,
    data: NAMES_APART,
    steps: &[act(
        "find the right names of {nodes}: compare again with --config or with more nodes, or compare \
         with a backup record",
    )],
    warnings: &[KEEP_NAMES, NO_REWRITE, KEEP_STATE],
    exit: Exit::CheckFailed,
};

const KEYS_APART: &str = "unknown: one side uses a recreated key or another OpenBao, so neither reads \
    what the other writes";

pub const OTHER_KEY: Cause = Cause {
    code: "other_key",
    headline: "a node uses another key than the others under the same version number",
    impact: DataImpact::Unknown,
    data: KEYS_APART,
    steps: &[
        run(
            "on {nodes}: stop the provider",
            "systemctl stop bao-kms-provider",
        ),
        run(
            "on {nodes} and on another node: compare the key",
            "bao-kms-provider verify-key --config {config}",
        ),
        act("set openbao.address of all nodes to the OpenBao that holds the original key"),
        AGAIN,
    ],
    warnings: &[
        "do not create or recreate a key",
        KEEP_KEYS,
        NO_REWRITE,
        KEEP_ETCD,
    ],
    exit: Exit::CheckFailed,
};

pub const OTHER_KEY_UNDECIDED: Cause = Cause {
    code: "other_key_undecided",
    headline: "the nodes use different keys under the same version number, and no majority the same",
    impact: DataImpact::Unknown,
    data: KEYS_APART,
    steps: &[
        run(
            "on each of {nodes}: find the key that decrypts the objects in etcd",
            "bao-kms-provider verify-backup --etcd-snapshot FILE --config {config}",
        ),
        act("set openbao.address of all nodes to the OpenBao that holds that key"),
        AGAIN,
    ],
    warnings: OTHER_KEY.warnings,
    exit: Exit::CheckFailed,
};

const STATE_ON_OTHERS: &str = "no data is lost: OpenBao keeps the key, and the other nodes have the \
    versions in use; the provider does not start on this node after a rotation";

pub const NO_STATE: Cause = Cause {
    code: "no_state",
    headline: "a node has no registry state",
    impact: DataImpact::NoneLost,
    data: STATE_ON_OTHERS,
    steps: &[RESTORE_STATE, REBUILD_STATE, AGAIN],
    warnings: &["do not write a state by hand", KEEP_KEYS],
    exit: Exit::CheckFailed,
};

pub const STATE_REFUSED: Cause = Cause {
    code: "state_refused",
    headline: "the registry state of a node is damaged, rolled back, or without its checkpoint",
    impact: DataImpact::NoneLost,
    data: "no data is lost: OpenBao keeps the key, and the other nodes have the versions in use; the \
           provider does not start on this node",
    steps: &[RESTORE_STATE, REBUILD_STATE, AGAIN],
    warnings: &[KEEP_STATE, KEEP_KEYS],
    exit: Exit::CheckFailed,
};

pub const BEHIND: Cause = Cause {
    code: "behind",
    headline: "a node encrypts with an older version, and does not know the newest",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; objects of this node are readable as long as OpenBao keeps \
           the older version",
    steps: &[
        act(
            "if the provider of {nodes} is stopped: find out whether its state was restored from an old \
             backup, start it, and wait for its promotion",
        ),
        run(
            "if it runs: see on {nodes} why its probes do not find the newer version",
            "bao-kms-provider verify-key --config {config}",
        ),
        AGAIN,
    ],
    warnings: &[KEEP_KEYS, KEEP_STATE],
    exit: Exit::CheckFailed,
};

pub const BEHIND_UNKNOWN: Cause = Cause {
    code: "behind_unknown",
    headline: "a node encrypts with an older version, and its socket does not show whether it knows \
               the newest",
    impact: DataImpact::Unknown,
    data: "unknown: whether the node follows was not seen; its objects are readable as long as OpenBao \
           keeps the older version",
    steps: &[ANOTHER_SOURCE],
    warnings: &[KEEP_KEYS],
    exit: Exit::Runtime,
};

pub const PROMOTION_PENDING: Cause = Cause {
    code: "promotion_pending_on_nodes",
    headline: "a rotation has not reached every node: one has still to promote the newest version",
    impact: DataImpact::NoneLost,
    data: "no data is lost: all nodes read both versions",
    steps: &[run(
        "wait for the promotion on {nodes}, and compare again",
        "{again}",
    )],
    warnings: &[KEEP_KEYS],
    exit: Exit::CheckFailed,
};

pub const WAITING: Cause = Cause {
    code: "waiting",
    headline: "a rotation has begun: a version newer than the active one waits for its promotion",
    impact: DataImpact::NoneLost,
    data: "no data is lost: all nodes read both versions",
    steps: PROMOTION_PENDING.steps,
    warnings: &[KEEP_KEYS],
    exit: Exit::CheckFailed,
};

pub const UNKNOWN_KEY: Cause = Cause {
    code: "unknown_key",
    headline: "a node uses another key_id than the others, and no node knows its version",
    impact: DataImpact::Unknown,
    data: "unknown: either a rotation is under way, or the node uses another key",
    steps: &[ANOTHER_SOURCE],
    warnings: &[KEEP_KEYS],
    exit: Exit::Runtime,
};

pub const MISSING_VERSIONS: Cause = Cause {
    code: "missing_versions",
    headline: "a node does not read versions that the others read",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the other nodes read the objects of these versions; through this node \
           kube-apiserver cannot",
    steps: &[run(
        "expected while you retire versions node by node; else restore them on {nodes}, with the \
         versions named above as N",
        "bao-kms-provider restore-versions --versions N --config {config}",
    )],
    warnings: &[
        "do not delete an object that one node cannot read",
        "do not trim or hide a version that a node still reads",
    ],
    exit: Exit::CheckFailed,
};

pub const NOT_READY: Cause = Cause {
    code: "not_ready",
    headline: "the provider of a node does not serve",
    impact: DataImpact::NoneLost,
    data: "no data is lost: kube-apiserver writes no encrypted object through this node, and etcd stays \
           as it is",
    steps: &[
        run(
            "on {nodes}: find the cause, and bring the provider back before the next node",
            "bao-kms-provider triage --config {config}",
        ),
        AGAIN,
    ],
    warnings: &[KEEP_ETCD],
    exit: Exit::CheckFailed,
};

pub const SERVING_UNKNOWN: Cause = Cause {
    code: "serving_unknown",
    headline: "a state file does not show whether the provider of its node serves",
    impact: DataImpact::Unknown,
    data: "unknown: whether the provider serves was not seen; if it is stopped, the next node must \
           keep serving",
    steps: &[act(
        "name {nodes} by --metrics or --socket in place of --state, and compare again",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const PROGRAMS_DIFFER: Cause = Cause {
    code: "programs_differ",
    headline: "the nodes run different releases of the provider",
    impact: DataImpact::NoneLost,
    data: "no data is lost: these releases read each other's objects and states",
    steps: &[act("finish the upgrade, one node at a time")],
    warnings: &[],
    exit: Exit::CheckFailed,
};
