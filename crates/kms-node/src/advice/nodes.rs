//! Causes in the comparison of control-plane nodes. `{nodes}` are the names of the nodes, `{again}` is
//! the command line.

use super::{Cause, Step, act, node::STOP, none_lost, not_lost_yet, run, unknown};
use crate::exit::Exit;

const KEEP_KEYS: &str =
    "do not retire, trim or hide a version of the key, and do not rotate, before the nodes agree";
const KEEP_STATE: &str = "do not delete or edit the state files of any node";
const KEEP_NAMES: &str = "do not change names in a configuration to make a node start or agree";
const KEEP_ETCD: &str = "do not delete anything from etcd";
const NO_REWRITE: &str = "do not rewrite objects through a differing node";
const NOT_SEEN: &str = "the node was not compared";

const AGAIN: Step = run("then compare again", "{again}");

causes! {
    NO_ANSWER = unknown("node_no_answer", "a node gives no answer", NOT_SEEN)
        .steps(&[
            act("bring {nodes} or the connection back, or name its state file with --state"),
            AGAIN,
        ]);

    SAME_NODE = unknown("same_node", "one node is given more than once", NOT_SEEN)
        .steps(&[
            act(
                "give each of {nodes} once, by an address, socket or state file of its own: a \
                 forwarded port may lead to the wrong node",
            ),
            AGAIN,
        ]);

    OTHER_IDENTITY = not_lost_yet(
        "other_identity_on_nodes",
        "a node is configured for another cluster, key or provider name",
        "nodes of different names cannot read each other's objects",
    )
    .steps(&[
        run("on {nodes}: stop the provider", STOP.command),
        run(
            "on {nodes} and on another node: compare the names, and change the wrong ones back",
            "bao-kms-provider config --config {config}",
        ),
        act(
            "without a majority, find the right names in a backup record, or compare again with \
             --config or with more nodes",
        ),
        AGAIN,
    ])
    .warnings(&[KEEP_NAMES, NO_REWRITE, KEEP_STATE]);

    OTHER_KEY = unknown(
        "other_key",
        "nodes use different keys under the same version number",
        "one side uses a recreated key or another OpenBao, so neither reads the other's objects",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        run("on {nodes}: stop the provider", STOP.command),
        run(
            "on {nodes} and on another node: compare the key",
            "bao-kms-provider verify-key --config {config}",
        ),
        run(
            "without a majority, find the key of the objects in etcd, on each of {nodes}",
            "bao-kms-provider verify-backup --etcd-snapshot FILE --config {config}",
        ),
        act("set openbao.address of all nodes to the OpenBao of the original key"),
        AGAIN,
    ])
    .warnings(&["do not create or recreate a key", KEEP_KEYS, NO_REWRITE, KEEP_ETCD]);

    NO_STATE = none_lost(
        "no_state",
        "the registry state of a node is missing, damaged, rolled back, or without its checkpoint",
        "OpenBao keeps the key, and the other nodes have the versions in use; the provider of this \
         node may be unable to start",
    )
    .steps(&[
        act(
            "on {nodes}: stop the provider, and put state and checkpoint back together, from a \
             backup of that node or a copy of a healthy peer",
        ),
        run(
            "without a backup, rebuild them on {nodes} from evidence, first as a plan (also from \
             --record FILE or --etcd-snapshot FILE)",
            "bao-kms-provider recover-state --peer-state FILE --config {config}",
        ),
        AGAIN,
    ])
    .warnings(&[KEEP_STATE, KEEP_KEYS]);

    BEHIND = not_lost_yet(
        "behind",
        "a node encrypts with an older version, and lacks the newest",
        "objects of this node are readable as long as OpenBao keeps the older version",
    )
    .steps(&[
        act(
            "if the provider of {nodes} is stopped: find out whether its state was restored from \
             an old backup, start it, and wait for its promotion",
        ),
        run(
            "if it runs: see on {nodes} why its probes do not find the newer version",
            "bao-kms-provider verify-key --config {config}",
        ),
        AGAIN,
    ])
    .warnings(&[KEEP_KEYS, KEEP_STATE]);

    VERSION_UNKNOWN = unknown(
        "node_version_unknown",
        "a node uses another key_id than the others, and its source does not show the reason",
        "a rotation may be under way, or the node uses another key; its objects are readable as \
         long as OpenBao keeps their version",
    )
    .steps(&[act(
        "name {nodes} by --metrics, or by --state, in place of --socket, and compare again",
    )])
    .warnings(&[KEEP_KEYS]);

    PROMOTION_PENDING = none_lost(
        "promotion_pending_on_nodes",
        "a rotation has not reached every node: one has still to promote the newest version",
        "all nodes read both versions",
    )
    .steps(&[run("wait for the promotion on {nodes}, and compare again", "{again}")])
    .warnings(&[KEEP_KEYS]);

    MISSING_VERSIONS = none_lost(
        "missing_versions",
        "a node does not read all versions of the others",
        "the other nodes read the objects of these versions; through this node kube-apiserver \
         cannot",
    )
    .steps(&[run(
        "expected while you retire versions node by node; else restore them on {nodes}, with the \
         versions named above as N",
        "bao-kms-provider restore-versions --versions N --config {config}",
    )])
    .warnings(&[
        "do not delete an object unreadable through one node",
        "do not trim or hide a version in use on any node",
    ]);

    NOT_READY = none_lost(
        "not_ready",
        "the provider of a node does not serve",
        "kube-apiserver waits for this node, and etcd stays as it is",
    )
    .steps(&[
        run(
            "on {nodes}: find the cause, and bring the provider back before the next node",
            "bao-kms-provider triage --config {config}",
        ),
        AGAIN,
    ])
    .warnings(&[KEEP_ETCD]);

    SERVING_UNKNOWN = unknown(
        "serving_unknown",
        "a state file does not show whether the provider of its node serves",
        "the provider may be stopped; the next node must keep serving",
    )
    .steps(&[act(
        "name {nodes} by --metrics or --socket in place of --state, and compare again",
    )]);

    PROGRAMS_DIFFER = none_lost(
        "programs_differ",
        "the nodes run different releases of the provider",
        "these releases read each other's objects and states",
    )
    .steps(&[act("finish the upgrade, one node at a time")]);
}
