//! Causes that block the rebuild of a registry state: in the evidence, its inputs, and the choices of
//! the operator.
//!
//! `{plan}` is the command line that was typed, without the options that apply or sample a plan or
//! accept unreadable objects; `{etcd}` are the options that name the etcd of the finding.

use kms_domain::recovery::rebuild::Limitation;

use super::{
    Cause, Step, act,
    configuration::OF_THIS_CLUSTER,
    evidence::KEEP_EVIDENCE,
    key::{KEEP_KEY, LATER_OPENBAO, ORIGINAL_KEY, PROVE_PAIR},
    lost,
    node::{START, STOP},
    none_lost, not_lost_yet, run, unknown,
    versions::{KEEP_NUMBERS, LOWER_MINIMUM},
};
use crate::exit::Exit;

const KEEP_ALL: &str = "do not delete the state, the checkpoint, the lock file or the key";
const FRESH_PEER: Step = act(
    "copy state and checkpoint together from a serving peer, the checkpoint in the same directory as \
     FILE.checkpoint",
);
const NO_GUESS: &str = "do not guess a version or a number to have a plan accepted";
const TRY_OBJECTS: Step = run(
    "test every object of this etcd",
    "bao-kms-provider verify-backup {etcd} --depth data --config {config}",
);

causes! {
    NO_EVIDENCE = none_lost(
        "no_evidence",
        "neither etcd data, a backup record nor the state of a peer was given",
        "the evidence is missing: the metadata of the key lack the versions of nodes and objects",
    )
    .steps(&[
        run(
            "give state and checkpoint of a serving peer, copied as FILE and FILE.checkpoint: the \
             best evidence",
            "{plan} --peer-state FILE",
        ),
        run("or etcd data", "{plan} --etcd-snapshot FILE"),
        run("or a backup record", "{plan} --record FILE"),
    ])
    .warnings(&["do not recreate the key to return to version 1"]);

    STATE_IN_PLACE = none_lost(
        "state_in_place",
        "this node has a valid state, so nothing needs to be rebuilt",
        "the state of this node is valid",
    )
    .steps(&[
        START,
        run(
            "only to give up this very state, make a plan to replace it",
            "{keeping} --replace --expected-state-hash {hash}",
        ),
    ])
    .warnings(&[KEEP_ALL]);

    STATE_AHEAD = lost(
        "state_ahead_of_openbao",
        "this node has a valid state newer than OpenBao, so the provider cannot start",
        "objects of the versions missing in OpenBao are readable only with a later backup of \
         OpenBao; older objects stay readable",
    )
    .steps(&[
        LATER_OPENBAO,
        PROVE_PAIR,
        run(
            "only if no later backup is left anywhere and the restored etcd fits this OpenBao: \
             stop the provider, on every node",
            "systemctl stop {unit}",
        ),
        run(
            "then move state and checkpoint away, on every node, and keep them",
            "mv --no-clobber {state} {checkpoint} /root",
        ),
        run("then plan the state again, from the restored etcd", "{plan}"),
    ])
    .warnings(&[
        "do not delete the state or the checkpoint: they are needed if the later backup is found",
        KEEP_NUMBERS,
    ]);

    STATE_UNFIT = unknown(
        "state_in_place_unfit",
        "this node has a valid state for another OpenBao or configuration",
        "the other findings name the versions and objects concerned",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("settle the other findings first"),
        run(
            "then check whether the provider can start with this state",
            "bao-kms-provider doctor --config {config}",
        ),
    ])
    .warnings(&[KEEP_ALL]);

    OPTION_UNFIT = unknown(
        "option_unfit",
        "an option of the command contradicts the evidence or has no effect",
        "the option alone is wrong; other findings tell about the data",
    )
    .exit(Exit::CheckFailed)
    .steps(&[run("make a plan without the option", "{without}")])
    .warnings(&[NO_GUESS]);

    PEER_INVALID = unknown(
        "peer_invalid",
        "the copy of a peer's state is damaged, outdated, without its checkpoint, or of this node \
         itself",
        "the copy proves nothing, and may be of an older state than the peers use",
    )
    .exit(Exit::CheckFailed)
    .steps(&[FRESH_PEER])
    .warnings(&[KEEP_EVIDENCE]);

    OTHER_KEY = lost(
        "evidence_of_other_key",
        "the evidence has other versions than OpenBao under the same numbers: another key",
        "if the evidence is of this cluster, the key was recreated, and only a backup of OpenBao \
         with the original key decrypts its objects",
    )
    .steps(&[ORIGINAL_KEY, PROVE_PAIR, OF_THIS_CLUSTER])
    .warnings(&[KEEP_KEY]);

    NOT_DECRYPTED = lost(
        "deks_not_decrypted",
        "OpenBao rejects encrypted DEKs: they were changed, or encrypted by another key",
        "the objects of these DEKs are readable only with a backup of OpenBao that has their key, \
         or with an undamaged backup of etcd",
    )
    .steps(&[
        TRY_OBJECTS,
        act("then point {config} at the OpenBao of the original key, or restore it"),
    ])
    .warnings(&[KEEP_KEY]);

    UNTRIED = unknown(
        "deks_untried",
        "some encrypted DEKs were not tried",
        "their objects may be unreadable",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        run("try again", "{plan}"),
        run("or try only a NUMBER of each key_id, on purpose", "{plan} --sample NUMBER"),
    ])
    .warnings(&["do not sample where there is time to try all"]);

    UNREADABLE_OBJECTS = lost(
        "unreadable_objects",
        "objects stay unreadable with this OpenBao and this configuration",
        "{objects} cannot be read by any node that uses this OpenBao, with or without the plan; \
         the node can serve all others",
    )
    .steps(&[
        run("try all encrypted DEKs for the exact number", "{all}"),
        act("restore their OpenBao storage or their etcd backup"),
        act("settle the other findings; if {beside} are lost for good, the next plan offers to \
            accept them"),
        run(
            "only if they are lost for good, review the table of unreadable objects, and make the \
             plan without them",
            "{plan} --accept-unreadable {lost}",
        ),
    ])
    .warnings(&["do not accept objects with a backup, and do not delete them from etcd"]);

    ACTIVE_UNPROVEN = not_lost_yet(
        "active_unproven",
        "the version to encrypt with is unproven by any encrypted DEK",
        "the node could encrypt with a version of another key than the stored objects",
    )
    .steps(&[
        ORIGINAL_KEY,
        act("or add the state of a serving peer, or etcd data with a readable DEK of that version"),
    ])
    .warnings(&[KEEP_KEY]);

    ACTIVE_REMOVED = not_lost_yet(
        "active_removed",
        "a node or a record has removed the version to be active",
        "that node has left the version for a higher one, so the key_id would change back",
    )
    .steps(&[
        run(
            "find the active version of the peers (NAME and URL of each)",
            "bao-kms-provider compare-nodes --metrics NAME=URL",
        ),
        run("give the state of a serving peer", "{plan} --peer-state FILE"),
    ])
    .warnings(&["do not leave the evidence out to continue"]);

    ACTIVE_UNUSABLE = not_lost_yet(
        "active_unusable",
        "OpenBao does not use the promoted version",
        "the node could not encrypt, so every write of a protected object would fail",
    )
    .steps(&[LOWER_MINIMUM, act("restore a backup of OpenBao with version {missing}")])
    .warnings(&[KEEP_KEY]);

    NEVER_ROTATED = lost(
        "key_never_rotated",
        "the checkpoint of this node proves rotations, but the key was never rotated",
        "the key was recreated, or OpenBao was restored to a point before its rotations; only a \
         later backup of OpenBao decrypts objects of the rotated versions",
    )
    .steps(&[
        LATER_OPENBAO,
        PROVE_PAIR,
        run(
            "if recover-state made those generations (its journals are in the directory of \
             {state}), add etcd data to the evidence",
            "{plan} --etcd-snapshot FILE",
        ),
    ])
    .warnings(&[KEEP_KEY]);

    CONTRADICTION = not_lost_yet(
        "evidence_contradicts",
        "two pieces of evidence have different keys under one number",
        "each of the two keys decrypts only its own objects",
    )
    .steps(&[act("find out which of the two is of another cluster, and leave it out")])
    .warnings(&["do not choose the evidence by its acceptance"]);

    UNRESOLVED = unknown(
        "version_unresolved",
        "the evidence shows a version in use, and OpenBao does not decrypt it",
        "objects of the version are unread, and their number is open",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        LOWER_MINIMUM,
        run(
            "or add etcd data, live or a current snapshot, without objects of the version",
            "{plan} --etcd-snapshot FILE",
        ),
    ])
    .warnings(&[KEEP_KEY]);

    UNDECIDED = not_lost_yet(
        "promotion_undecided",
        "the key has versions beyond the highest one with evidence of its promotion",
        "if a node has promoted a later version, this node would encrypt with an older one than \
         its peers, and the key_id would change back",
    )
    .steps(&[
        run(
            "give etcd data from after the rotation: objects of a later version show its promotion",
            "{unassumed} --etcd-snapshot FILE",
        ),
        run(
            "if the cluster has other nodes, wait until a peer has promoted the newest version \
             (run this there), then give its state",
            "bao-kms-provider rotation-plan --config {config}",
        ),
        run(
            "only if this is the only node, or no node has promoted any of them, assert it. If \
             that is wrong, this node encrypts with an older version again until it has promoted \
             the newest one itself, and no data is lost",
            "{unassumed} --assume-not-promoted {first}",
        ),
    ])
    .warnings(&["do not assert it to continue faster, and do not rotate the key again"]);

    UNWRITABLE = none_lost(
        "state_unwritable",
        "the state document cannot be made",
        "the node has no state until this is settled",
    )
    .steps(&[act("keep all files, and report this message")])
    .warnings(&["do not edit the state, the checkpoint or the evidence"]);

    PROVIDER_RUNNING = none_lost(
        "provider_running",
        "a running process uses the state",
        "a state in use stays in place",
    )
    .steps(&[
        run("see the process", "ps -fp {pid}"),
        STOP,
        run("run the same command again", "{whole}"),
    ])
    .warnings(&[KEEP_ALL]);

    KEY_UNASKED = unknown(
        "key_unasked",
        "OpenBao gave no answer about the key, or the key was changed meanwhile",
        "the key was not compared with the stored objects",
    )
    .steps(&[
        run("find the fault and fix it", "bao-kms-provider verify-key --config {config}"),
        run("then make a new plan, when nobody changes the key", "{plan}"),
    ])
    .warnings(&[KEEP_KEY]);

    PLAN_OUTDATED = none_lost(
        "plan_outdated",
        "evidence, key or files have changed since the plan was reviewed",
        "nothing was changed",
    )
    .steps(&[
        run("make a new plan, and review it", "{plan}"),
        act("then apply it with its own hash"),
    ])
    .warnings(&["do not apply with an unreviewed hash"]);

    PLANNED = unknown(
        "state_planned",
        "the evidence leads to a state, and the plan waits for its review",
        "the plan counts the unreadable objects, and its limitations name the untried parts",
    )
    .exit(Exit::Success)
    .steps(&[
        act("review evidence, versions and limitations"),
        run(
            "stop the provider of this node: process {pid} ({program}) holds the state",
            "systemctl stop {unit}",
        ),
        run(
            "with the provider of this node stopped, apply the plan",
            "{whole} --apply --expected-plan-hash {plan_hash}",
        ),
    ])
    .warnings(&[KEEP_ALL]);

    REBUILT = unknown(
        "state_rebuilt",
        "the state and its checkpoint were rebuilt from evidence, and are in place",
        "verify-backup tests the objects of etcd",
    )
    .exit(Exit::Success)
    .steps(&[
        START,
        run(
            "compare generation, hash and active key_id with those of a peer",
            "bao-kms-provider inspect-state --config {config}",
        ),
        TRY_OBJECTS,
    ])
    .warnings(&[KEEP_ALL]);
}

/// A limitation of a plan, with the action that settles it.
#[must_use]
pub fn limitation(limitation: &Limitation) -> String {
    let action = match limitation {
        Limitation::Sampled { .. } => "verify-backup tries all",
        Limitation::OtherProvider { .. } => {
            "Run verify-backup with the configuration of the other provider too"
        }
        Limitation::Unreadable(_) => "They need their OpenBao storage or their etcd backup",
        Limitation::NeverRotated(_) => {
            "The journals of recover-state are in the directory of the state"
        }
        Limitation::UnneededThen { .. } => {
            "If an object needs it after all, restore-versions takes it back into use once OpenBao \
             decrypts it"
        }
        Limitation::LeftOut(_) => {
            "If min_decryption_version is lowered later, run recover-state with --replace, since the \
             provider itself looks for new versions only"
        }
        Limitation::NoEtcd
        | Limitation::Unbound { .. }
        | Limitation::Damaged { .. }
        | Limitation::Doubtful { .. }
        | Limitation::LostPromotion { .. }
        | Limitation::Assumed(_)
        | Limitation::NoLowerBound
        | Limitation::OtherChain(_) => return limitation.to_string(),
    };
    format!("{limitation}. {action}")
}
