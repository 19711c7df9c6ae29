//! Causes that block the rebuild of a registry state: in the evidence, its inputs, and the choices of
//! the operator.
//!
//! `{plan}` is the command line that was typed, without the options that apply or sample a plan or
//! accept unreadable objects; `{etcd}` are the options that name the etcd of the finding.

use kms_domain::recovery::rebuild::Limitation;

use super::{Cause, DataImpact, Step, act, key::PROVE_PAIR, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &NO_EVIDENCE,
    &STATE_IN_PLACE,
    &STATE_AHEAD,
    &STATE_UNFIT,
    &OTHER_STATE,
    &NOTHING_TO_REPLACE,
    &OTHER_IDENTITY,
    &OBJECTS_OF_OTHER_IDENTITY,
    &OBJECTS_OF_OTHER_PROVIDER,
    &PEER_NO_PAIR,
    &NO_OBJECTS,
    &TRIMMED,
    &OTHER_KEY,
    &NOT_DECRYPTED,
    &UNTRIED,
    &UNREADABLE_OBJECTS,
    &ACCEPTANCE_IDLE,
    &ACTIVE_UNPROVEN,
    &ACTIVE_REMOVED,
    &ACTIVE_UNUSABLE,
    &ACTIVE_BLOCKED,
    &NEVER_ROTATED,
    &CONTRADICTION,
    &UNRESOLVED,
    &UNDECIDED,
    &ASSUMPTION_WRONG,
    &ASSUMPTION_IDLE,
    &UNWRITABLE,
    &PROVIDER_RUNNING,
    &NO_DIRECTORY,
    &NEWER_STATE,
    &STATE_UNUSABLE,
    &KEY_UNASKED,
    &KEY_UNFIT,
    &KEY_CHANGED,
    &ETCD_FORM,
    &ETCD_UNREAD,
    &KEYS_LEFT_OUT,
    &KEYS_FORBIDDEN,
    &FILE_UNREADABLE,
    &NEWER_EVIDENCE,
    &RECORD_INVALID,
    &PEER_INVALID,
    &PEER_IS_OWN,
    &PLAN_OUTDATED,
    &PLANNED,
    &REBUILT,
];

/// Warning of each finding that casts doubt on the key.
pub const KEEP_KEY: &str =
    "do not rotate, trim or recreate the key, and do not delete the data in etcd";
const KEEP_STATE: &str = "do not delete the state or the checkpoint to make room";
const KEEP_FILES: &str = "do not delete the lock file, the state or the checkpoint";
const KEEP_ALL: &str = "do not delete the state, the checkpoint, the lock file or the key";
const KEEP_EVIDENCE: &str = "do not edit the evidence to have it accepted";
const KEEP_NUMBERS: &str = "do not rotate the key to reach the missing numbers: a new version decrypts \
    nothing of an old one";

const OF_THIS_CLUSTER: Step =
    act("if the evidence is of another cluster, give that of this one instead");
const FRESH_PEER: Step = act(
    "copy state and checkpoint together from a peer that serves, the checkpoint in the same directory \
     as FILE.checkpoint",
);
const ORIGINAL_KEY: Step = act("restore a backup of OpenBao that has the original key");

pub const NO_EVIDENCE: Cause = Cause {
    code: "no_evidence",
    headline: "neither etcd data, a backup record nor the state of a peer was given",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the evidence is missing, since the metadata of the key names neither the \
           version that the nodes use nor those that objects need",
    steps: &[
        run(
            "give state and checkpoint of a peer that serves, copied as FILE and FILE.checkpoint: the \
             best evidence",
            "{plan} --peer-state FILE",
        ),
        run("or etcd data", "{plan} --etcd-snapshot FILE"),
        run("or a backup record", "{plan} --record FILE"),
    ],
    warnings: &["do not recreate the key to return to version 1"],
    exit: Exit::CheckFailed,
};

pub const STATE_IN_PLACE: Cause = Cause {
    code: "state_in_place",
    headline: "this node has a valid state, so nothing needs to be rebuilt",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the state of this node is valid",
    steps: &[
        run("start the provider", "systemctl start bao-kms-provider"),
        run(
            "only if this very state is to be given up, make a plan that replaces it",
            "{plan} --replace --expected-state-hash {hash}",
        ),
    ],
    warnings: &[KEEP_STATE],
    exit: Exit::CheckFailed,
};

pub const STATE_AHEAD: Cause = Cause {
    code: "state_ahead_of_openbao",
    headline: "this node has a valid state that is newer than OpenBao, so the provider cannot start",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: objects of the versions that OpenBao lacks are readable only with a \
           later backup of OpenBao; older objects stay readable",
    steps: &[
        act("restore a later backup of OpenBao, made after the last rotation"),
        PROVE_PAIR,
        run(
            "only if no later backup is left anywhere and the restored etcd fits this OpenBao: stop \
             the provider, on every node",
            "systemctl stop bao-kms-provider",
        ),
        run(
            "then move state and checkpoint away, on every node, and keep them",
            "mv --no-clobber {state} {checkpoint} /root",
        ),
        run(
            "then plan the state again, from the restored etcd",
            "{plan}",
        ),
    ],
    warnings: &[
        "do not delete the state or the checkpoint: they are needed if the later backup is found",
        KEEP_NUMBERS,
    ],
    exit: Exit::CheckFailed,
};

pub const STATE_UNFIT: Cause = Cause {
    code: "state_in_place_unfit",
    headline: "this node has a valid state that does not fit the present OpenBao or configuration",
    impact: DataImpact::Unknown,
    data: "unknown: the other findings name the versions and objects concerned",
    steps: &[
        act("settle the other findings first"),
        run(
            "then check whether the provider can start with this state",
            "bao-kms-provider doctor --config {config}",
        ),
    ],
    warnings: &[KEEP_STATE],
    exit: Exit::CheckFailed,
};

pub const OTHER_STATE: Cause = Cause {
    code: "other_state",
    headline: "the state of this node is not the one to be replaced",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the state of this node is valid",
    steps: &[run(
        "review the state, and give its hash if it is to be given up",
        "bao-kms-provider inspect-state --config {config}",
    )],
    warnings: &[KEEP_STATE],
    exit: Exit::CheckFailed,
};

pub const NOTHING_TO_REPLACE: Cause = Cause {
    code: "nothing_to_replace",
    headline: "a state is to be replaced, but this node has no valid state",
    impact: DataImpact::NoneLost,
    data: "no data is lost: a state that is missing or damaged is rebuilt without --replace",
    steps: &[run("make a plan without --replace", "{keeping}")],
    warnings: &[KEEP_STATE],
    exit: Exit::CheckFailed,
};

pub const OTHER_IDENTITY: Cause = Cause {
    code: "evidence_of_other_identity",
    headline: "the evidence was made under other names than those of the configuration",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; a state made from this evidence would name other keys than \
           the stored objects, and none of them could be read",
    steps: &[
        act("if the evidence is of this cluster, change the differing settings in {config} back"),
        OF_THIS_CLUSTER,
    ],
    warnings: &["do not edit the evidence to fit"],
    exit: Exit::CheckFailed,
};

pub const OBJECTS_OF_OTHER_IDENTITY: Cause = Cause {
    code: "objects_of_other_identity",
    headline: "some objects were written under other names, others under those of the configuration",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; only a provider with the old names reads these objects, and \
           the names of the configuration are right for the others",
    steps: &[run(
        "test these objects with a configuration that has their names (FILE)",
        "bao-kms-provider verify-backup {etcd} --depth data --config FILE",
    )],
    warnings: &[
        "do not change the names in the configuration: the other objects need the present ones",
        KEEP_KEY,
    ],
    exit: Exit::CheckFailed,
};

pub const OBJECTS_OF_OTHER_PROVIDER: Cause = Cause {
    code: "objects_of_other_provider",
    headline: "objects were written by another provider of this key, or by another key of its names",
    impact: DataImpact::Unknown,
    data: "unknown: this configuration cannot test objects of another provider",
    steps: &[run(
        "test them with the configuration of that provider (FILE)",
        "bao-kms-provider verify-backup {etcd} --depth data --config FILE",
    )],
    warnings: &[KEEP_KEY],
    exit: Exit::CheckFailed,
};

pub const PEER_NO_PAIR: Cause = Cause {
    code: "peer_no_pair",
    headline: "the copy of a peer's state has no checkpoint, or that of another state",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the copy may be of an older state, whose active version the \
           peers have left",
    steps: &[FRESH_PEER],
    warnings: &["do not write the checkpoint by hand"],
    exit: Exit::CheckFailed,
};

pub const NO_OBJECTS: Cause = Cause {
    code: "etcd_without_objects",
    headline: "the etcd data has no object of this provider",
    impact: DataImpact::Unknown,
    data: "unknown: this etcd is of another cluster, or was saved before this cluster used the \
           provider, so it shows nothing about the key",
    steps: &[
        run(
            "list the providers and keys in it",
            "bao-kms-provider scan-etcd {etcd} --config {config}",
        ),
        act("give the etcd of this cluster, or a later snapshot of it"),
    ],
    warnings: &["do not continue with evidence that shows nothing"],
    exit: Exit::CheckFailed,
};

pub const TRIMMED: Cause = Cause {
    code: "needed_versions_trimmed",
    headline: "objects of the evidence need versions that were trimmed from the key",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: objects of the trimmed versions are readable only with a backup of \
           OpenBao from before the trimming; all others stay readable",
    steps: &[
        act("restore a backup of OpenBao from before version {missing} was trimmed"),
        PROVE_PAIR,
        act("or give a later etcd, if its objects no longer need the trimmed versions"),
    ],
    warnings: &[KEEP_KEY, KEEP_NUMBERS],
    exit: Exit::CheckFailed,
};

pub const OTHER_KEY: Cause = Cause {
    code: "evidence_of_other_key",
    headline: "the evidence has other versions than OpenBao under the same numbers: another key",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: if the evidence is of this cluster, the key was recreated, and only a \
           backup of OpenBao with the original key decrypts its objects",
    steps: &[ORIGINAL_KEY, PROVE_PAIR, OF_THIS_CLUSTER],
    warnings: &[KEEP_KEY],
    exit: Exit::CheckFailed,
};

pub const NOT_DECRYPTED: Cause = Cause {
    code: "deks_not_decrypted",
    headline: "OpenBao rejects encrypted DEKs: they were changed, or encrypted by another key",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: the objects of these DEKs are readable only with a backup of OpenBao \
           that has their key, or with an undamaged backup of etcd",
    steps: &[
        run(
            "find the cause",
            "bao-kms-provider verify-backup {etcd} --depth data --config {config}",
        ),
        act("then point {config} at the OpenBao that has the original key, or restore it"),
    ],
    warnings: &[KEEP_KEY],
    exit: Exit::CheckFailed,
};

pub const UNTRIED: Cause = Cause {
    code: "deks_untried",
    headline: "some encrypted DEKs were not tried",
    impact: DataImpact::Unknown,
    data: "unknown: no trial shows that the key decrypts the objects of these DEKs",
    steps: &[
        run("try again", "{plan}"),
        run(
            "or try only a NUMBER of each key_id, on purpose",
            "{plan} --sample NUMBER",
        ),
    ],
    warnings: &["do not sample where there is time to try all"],
    exit: Exit::CheckFailed,
};

pub const UNREADABLE_OBJECTS: Cause = Cause {
    code: "unreadable_objects",
    headline: "objects stay unreadable with this OpenBao and this configuration",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: {objects} cannot be read by any node that uses this OpenBao, with or \
           without the plan; the node can serve all others",
    steps: &[
        run(
            "try all encrypted DEKs, which gives the exact number",
            "{all}",
        ),
        act("restore the OpenBao storage or the etcd backup that has them"),
        act(
            "settle the other findings; if {beside} are lost for good, the next plan offers to accept them",
        ),
        run(
            "only if they are lost for good, review the table of unreadable objects, and make the \
             plan without them",
            "{plan} --accept-unreadable {lost}",
        ),
    ],
    warnings: &["do not accept objects that a backup still has, and do not delete them from etcd"],
    exit: Exit::CheckFailed,
};

pub const ACCEPTANCE_IDLE: Cause = Cause {
    code: "acceptance_idle",
    headline: "unreadable objects were accepted, but there are none to accept",
    impact: DataImpact::Unknown,
    data: "unknown: only the accepted number is wrong; other findings tell about the data",
    steps: &[run("make a plan without --accept-unreadable", "{plan}")],
    warnings: &["do not accept a number that no plan has shown"],
    exit: Exit::CheckFailed,
};

pub const ACTIVE_UNPROVEN: Cause = Cause {
    code: "active_unproven",
    headline: "no encrypted DEK proves the version that would encrypt",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the node would encrypt with a version that may be of another \
           key than the stored objects",
    steps: &[
        ORIGINAL_KEY,
        act(
            "or add the state of a peer that serves, or etcd data of which a DEK of that version \
             decrypts",
        ),
    ],
    warnings: &[KEEP_KEY],
    exit: Exit::CheckFailed,
};

pub const ACTIVE_REMOVED: Cause = Cause {
    code: "active_removed",
    headline: "a node or a record has removed the version that would be active",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; that node has left the version for a higher one, so the \
           key_id would change back",
    steps: &[
        run(
            "find the version that the peers encrypt with (NAME and URL of each)",
            "bao-kms-provider compare-nodes --metrics NAME=URL",
        ),
        run(
            "give the state of a peer that serves",
            "{plan} --peer-state FILE",
        ),
    ],
    warnings: &["do not leave that evidence out to continue"],
    exit: Exit::CheckFailed,
};

pub const ACTIVE_UNUSABLE: Cause = Cause {
    code: "active_unusable",
    headline: "OpenBao does not use the version that was promoted",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the node could not encrypt, so every write of a protected \
           object would fail",
    steps: &[
        run(
            "lower the minimum, as an administrator",
            "bao write {bao} {mount}/keys/{key}/config min_decryption_version={lowest}",
        ),
        act("restore a backup of OpenBao that has version {missing}"),
    ],
    warnings: &[KEEP_KEY],
    exit: Exit::CheckFailed,
};

pub const ACTIVE_BLOCKED: Cause = Cause {
    code: "active_blocked",
    headline: "min_encryption_version is above the version that was promoted",
    impact: DataImpact::NoneLost,
    data: "no data is lost: objects are readable, and every write of a protected object would fail",
    steps: &[run(
        "lower the minimum, as an administrator",
        "bao write {bao} {mount}/keys/{key}/config min_encryption_version={active}",
    )],
    warnings: &["do not rotate the key to get past the minimum"],
    exit: Exit::CheckFailed,
};

pub const NEVER_ROTATED: Cause = Cause {
    code: "key_never_rotated",
    headline: "the checkpoint of this node proves rotations, but the key was never rotated",
    impact: DataImpact::LostWithoutBackup,
    data: "lost without a backup: the key was recreated, or OpenBao was restored to a point before its \
           rotations; only a later backup of OpenBao decrypts objects of the rotated versions",
    steps: &[
        act("restore a backup of OpenBao from after the rotations"),
        PROVE_PAIR,
        run(
            "if recover-state made those generations (its journals are in the directory of {state}), \
             add etcd data to the evidence",
            "{plan} --etcd-snapshot FILE",
        ),
    ],
    warnings: &[KEEP_KEY],
    exit: Exit::CheckFailed,
};

pub const CONTRADICTION: Cause = Cause {
    code: "evidence_contradicts",
    headline: "two pieces of evidence have different keys under one number",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; each of the two keys decrypts only its own objects",
    steps: &[act(
        "find out which of the two is of another cluster, and leave it out",
    )],
    warnings: &["do not choose the evidence that happens to be accepted"],
    exit: Exit::CheckFailed,
};

pub const UNRESOLVED: Cause = Cause {
    code: "version_unresolved",
    headline: "the evidence has a version in use that OpenBao does not decrypt",
    impact: DataImpact::Unknown,
    data: "unknown: objects of that version could not be read, and nothing shows that there are none",
    steps: &[
        run(
            "lower the minimum, as an administrator",
            "bao write {bao} {mount}/keys/{key}/config min_decryption_version={lowest}",
        ),
        run(
            "or add etcd data, live or a current snapshot, that shows that no object needs the version",
            "{plan} --etcd-snapshot FILE",
        ),
    ],
    warnings: &["do not trim the key"],
    exit: Exit::CheckFailed,
};

pub const UNDECIDED: Cause = Cause {
    code: "promotion_undecided",
    headline: "the key has versions beyond the highest that the evidence shows as promoted",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; if a node has promoted a later version, this node would \
           encrypt with an older one than its peers, and the key_id would change back",
    steps: &[
        run(
            "give etcd data from after the rotation: objects of a later version show its promotion",
            "{unassumed} --etcd-snapshot FILE",
        ),
        run(
            "if the cluster has other nodes, wait until a peer has promoted the newest version (run \
             this there), then give its state",
            "bao-kms-provider rotation-plan",
        ),
        run(
            "only if this is the only node, or no node has promoted any of them, assert it. If that \
             is wrong, this node encrypts with an older version again until it has promoted the \
             newest one itself, and no data is lost",
            "{unassumed} --assume-not-promoted {first}",
        ),
    ],
    warnings: &["do not assert it to continue faster, and do not rotate the key again"],
    exit: Exit::CheckFailed,
};

pub const ASSUMPTION_WRONG: Cause = Cause {
    code: "assumption_wrong",
    headline: "a version that is asserted not to be promoted was promoted",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; this node would return to a version that the nodes have left",
    steps: &[run("make a plan without the assertion", "{unassumed}")],
    warnings: &["do not guess the version"],
    exit: Exit::CheckFailed,
};

pub const ASSUMPTION_IDLE: Cause = Cause {
    code: "assumption_idle",
    headline: "the asserted version is above the latest version of the key",
    impact: DataImpact::Unknown,
    data: "unknown: the assertion changes nothing; other findings tell about the data",
    steps: &[run("make a plan without the assertion", "{unassumed}")],
    warnings: &["do not guess the version"],
    exit: Exit::CheckFailed,
};

pub const UNWRITABLE: Cause = Cause {
    code: "state_unwritable",
    headline: "the state document cannot be made",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the node has no state until this is settled",
    steps: &[act("keep all files, and report this message")],
    warnings: &["do not edit the state, the checkpoint or the evidence"],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_RUNNING: Cause = Cause {
    code: "provider_running",
    headline: "a running process uses the state",
    impact: DataImpact::NoneLost,
    data: "no data is lost: a state in use is never replaced, and nothing was changed",
    steps: &[
        run("see the process", "ps -fp {pid}"),
        run(
            "stop the provider of this node",
            "systemctl stop bao-kms-provider",
        ),
        run("run the same command again", "{whole}"),
    ],
    warnings: &[KEEP_FILES],
    exit: Exit::CheckFailed,
};

pub const NO_DIRECTORY: Cause = Cause {
    code: "no_directory",
    headline: "the state directory is missing",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the directory holds the state only",
    steps: &[run(
        "create it, owned by the USER that runs the provider",
        "install --directory --mode 0750 --owner USER {directory}",
    )],
    warnings: &[KEEP_FILES],
    exit: Exit::CheckFailed,
};

pub const NEWER_STATE: Cause = Cause {
    code: "newer_state",
    headline: "a newer release of the provider wrote the state or the checkpoint of this node",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the files may name keys that a state rebuilt by this release \
           would not know",
    steps: &[
        act("use the release that wrote them"),
        run(
            "only to give up their content, plan with this release",
            "{plan} --replace-newer-release",
        ),
    ],
    warnings: &[KEEP_FILES],
    exit: Exit::CheckFailed,
};

pub const STATE_UNUSABLE: Cause = Cause {
    code: "state_unusable",
    headline: "the state directory or a file in it is unsafe or unreadable",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the provider would refuse a state there, or others could \
           replace it",
    steps: &[act(
        "run this command as the user of the provider, and correct the modes and owners that the \
         finding names",
    )],
    warnings: &[KEEP_FILES],
    exit: Exit::CheckFailed,
};

pub const KEY_UNASKED: Cause = Cause {
    code: "key_unasked",
    headline: "OpenBao gave no answer about the key",
    impact: DataImpact::Unknown,
    data: "unknown: nothing shows that the key decrypts the stored objects",
    steps: &[
        run(
            "find the fault and fix it",
            "bao-kms-provider verify-key --config {config}",
        ),
        run("then try again", "{plan}"),
    ],
    warnings: &["do not rotate the key meanwhile"],
    exit: Exit::Runtime,
};

pub const KEY_UNFIT: Cause = Cause {
    code: "key_settings_unfit",
    headline: "the settings of the key are not those that the provider needs",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet, but no provider would serve with this key",
    steps: &[
        run(
            "see what to correct in OpenBao, and how",
            "bao-kms-provider verify-key --config {config}",
        ),
        run("then make a new plan", "{plan}"),
    ],
    warnings: &["do not recreate the key to change its settings"],
    exit: Exit::CheckFailed,
};

pub const KEY_CHANGED: Cause = Cause {
    code: "key_changed_meanwhile",
    headline: "the key was changed while the evidence was read",
    impact: DataImpact::Unknown,
    data: "unknown: nothing shows that the changed key decrypts the stored objects",
    steps: &[run("make a new plan when nobody changes the key", "{plan}")],
    warnings: &["do not rotate the key meanwhile"],
    exit: Exit::Runtime,
};

pub const ETCD_FORM: Cause = Cause {
    code: "etcd_file_form",
    headline: "the file is not a plain etcd snapshot",
    impact: DataImpact::Unknown,
    data: "unknown: this evidence was not examined",
    steps: &[act("give an etcd snapshot: {form}")],
    warnings: &[KEEP_EVIDENCE],
    exit: Exit::Runtime,
};

pub const ETCD_UNREAD: Cause = Cause {
    code: "etcd_unread",
    headline: "the etcd data was not read to its end",
    impact: DataImpact::Unknown,
    data: "unknown: no part of etcd stands for the whole",
    steps: &[act(
        "copy the snapshot again and compare its hash, or use another",
    )],
    warnings: &[KEEP_EVIDENCE],
    exit: Exit::Runtime,
};

const UNREAD_PREFIXES: Step = act(
    "or name the unread prefixes with --allow-unread-prefixes, if none of their objects is encrypted \
     with this key",
);
const PART_OF_ETCD: &str = "do not leave a version out because a part of etcd does not need it";

pub const KEYS_LEFT_OUT: Cause = Cause {
    code: "etcd_keys_left_out",
    headline: "--etcd-prefix-only leaves keys of the running etcd unread",
    impact: DataImpact::Unknown,
    data: "unknown: the unread keys may hold objects of this key",
    steps: &[
        run("plan without --etcd-prefix-only", "{unbounded}"),
        UNREAD_PREFIXES,
    ],
    warnings: &[PART_OF_ETCD],
    exit: Exit::Runtime,
};

pub const KEYS_FORBIDDEN: Cause = Cause {
    code: "etcd_keys_forbidden",
    headline: "the etcd user may not read all keys",
    impact: DataImpact::Unknown,
    data: "unknown: the unread keys may hold objects of this key",
    steps: &[
        act("read as an etcd user that may read every key (--cert, --key), or give a snapshot"),
        UNREAD_PREFIXES,
    ],
    warnings: &[PART_OF_ETCD],
    exit: Exit::Runtime,
};

pub const FILE_UNREADABLE: Cause = Cause {
    code: "evidence_file_unreadable",
    headline: "a file of the evidence cannot be read",
    impact: DataImpact::Unknown,
    data: "unknown: this evidence was not examined",
    steps: &[act("name a file that exists and that this user may read")],
    warnings: &[KEEP_EVIDENCE],
    exit: Exit::Runtime,
};

pub const NEWER_EVIDENCE: Cause = Cause {
    code: "newer_evidence",
    headline: "a newer release of the provider wrote the evidence",
    impact: DataImpact::Unknown,
    data: "unknown: this release cannot read the evidence",
    steps: &[act("use the release that wrote it, or give other evidence")],
    warnings: &[KEEP_EVIDENCE],
    exit: Exit::Runtime,
};

pub const RECORD_INVALID: Cause = Cause {
    code: "record_untrusted",
    headline: "the backup record was changed or damaged",
    impact: DataImpact::Unknown,
    data: "unknown: none of its content can be trusted",
    steps: &[act("use another copy of the record")],
    warnings: &[KEEP_EVIDENCE],
    exit: Exit::CheckFailed,
};

pub const PEER_INVALID: Cause = Cause {
    code: "peer_invalid",
    headline: "the copy of a peer's state or checkpoint was changed or damaged",
    impact: DataImpact::Unknown,
    data: "unknown: none of its content can be trusted",
    steps: &[FRESH_PEER],
    warnings: &[KEEP_EVIDENCE],
    exit: Exit::CheckFailed,
};

pub const PEER_IS_OWN: Cause = Cause {
    code: "peer_is_own",
    headline: "the state of this node was given as that of a peer",
    impact: DataImpact::Unknown,
    data: "unknown: the state of this node cannot prove itself",
    steps: &[act(
        "name the copy of a peer; the remaining files of this node are examined in any case",
    )],
    warnings: &["do not copy the state of this node to give it as that of a peer"],
    exit: Exit::CheckFailed,
};

pub const PLAN_OUTDATED: Cause = Cause {
    code: "plan_outdated",
    headline: "evidence, key or files have changed since the plan was reviewed",
    impact: DataImpact::NoneLost,
    data: "no data is lost: nothing was changed",
    steps: &[
        run("make a new plan, and review it", "{plan}"),
        act("then apply it with its own hash"),
    ],
    warnings: &["do not apply with a hash that you have not reviewed"],
    exit: Exit::CheckFailed,
};

pub const PLANNED: Cause = Cause {
    code: "state_planned",
    headline: "the evidence leads to a state, and the plan waits for its review",
    impact: DataImpact::Unknown,
    data: "unknown: the plan counts the objects that stay unreadable, and its limitations name what \
           was not tried",
    steps: &[
        act("review evidence, versions and limitations"),
        run(
            "stop the provider of this node: process {pid} ({program}) holds the state",
            "systemctl stop bao-kms-provider",
        ),
        run(
            "with the provider of this node stopped, apply the plan",
            "{whole} --apply --expected-plan-hash {plan_hash}",
        ),
    ],
    warnings: &[KEEP_ALL],
    exit: Exit::Success,
};

pub const REBUILT: Cause = Cause {
    code: "state_rebuilt",
    headline: "the state and its checkpoint were rebuilt from evidence, and are in place",
    impact: DataImpact::Unknown,
    data: "unknown: verify-backup tests the objects of etcd",
    steps: &[
        run("start the provider", "systemctl start bao-kms-provider"),
        run(
            "compare generation, hash and active key_id with those of a peer",
            "bao-kms-provider inspect-state --config {config}",
        ),
        run(
            "test every object of this etcd",
            "bao-kms-provider verify-backup {etcd} --depth data --config {config}",
        ),
    ],
    warnings: &[KEEP_ALL],
    exit: Exit::Success,
};

/// A limitation of a plan, with the action that settles it.
#[must_use]
pub fn limitation(limitation: &Limitation) -> String {
    let action = match limitation {
        Limitation::Sampled { .. } => "verify-backup tries all",
        Limitation::OtherProvider { .. } => {
            "Run verify-backup with the configuration of that provider too"
        }
        Limitation::Unreadable(_) => {
            "They need the OpenBao storage or the etcd backup that has them"
        }
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
        | Limitation::Damaged { .. }
        | Limitation::Doubtful { .. }
        | Limitation::LostPromotion { .. }
        | Limitation::Assumed(_)
        | Limitation::NoLowerBound
        | Limitation::OtherChain(_) => return limitation.to_string(),
    };
    format!("{limitation}. {action}")
}
