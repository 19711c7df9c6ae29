//! Causes of `retire-versions`, `restore-versions`, `rotation-plan` and `verify-rotation`.
//!
//! `{again}` is the command line that was typed, without the options that apply a plan.

use kms_domain::{
    registry::{
        RegistryConflict, document::ProgressProblem, retire::PlanRefused, rotation::RotationRefused,
    },
    transit::VersionProblem,
};

use super::{Cause, DataImpact, Step, act, key, restore, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &UNCHECKED,
    &PLANNED,
    &APPLIED,
    &NEEDED,
    &NEEDS_UNRESOLVED,
    &KEYS_UNREAD,
    &SOURCE_WITHOUT_OBJECTS,
    &NOTHING_BEFORE,
    &ABOVE_ACTIVE,
    &NO_VERSIONS,
    &NOT_RESTORABLE,
    &NEWEST_DISABLED,
    &SOURCE_UNVERIFIED,
    &OLDER_REVISIONS,
    &REMOVED_BEFORE,
    &PROMOTION_PENDING,
    &NOT_PROMOTED,
    &NO_ACTIVE_VERSION,
    &NOT_REWRITTEN,
    &REWRITTEN,
    &PARTLY_READ,
    &BACKUPS_NEED_VERSIONS,
    &OTHERWISE_PROTECTED,
    &SOURCE_UNREAD,
];

const KEEP_MINIMUM: &str = "do not raise min_decryption_version, and do not trim the key";
const NO_BLIND_APPLY: &str =
    "do not apply without the evidence: nothing else shows that no object needs the versions";
const KEEP_VERSIONS: &str = "do not retire an older version, do not raise min_decryption_version, and \
    do not trim the key";
const AGAIN: Step = run("then run it again with the same sources", "{again}");
const EXAMINE: Step = run(
    "see what is missing for each key_id, and what helps (FILE is the source that the check names)",
    "bao-kms-provider verify-backup --etcd-snapshot FILE --depth data --config {config}",
);
const REWRITE: Step = run(
    "write these objects again, under the active version",
    "kubectl get {resources} --all-namespaces -o json | kubectl replace -f -",
);
const REWRITE_ELSEWHERE: Step = run(
    "write these objects again, at the API server with that prefix",
    "kubectl get {elsewhere} --all-namespaces -o json | kubectl replace -f -",
);
const STOP: Step = run(
    "stop the provider of this node",
    "systemctl stop bao-kms-provider",
);
const APPLY: Step = run(
    "apply the plan",
    "{again} --apply --expected-state-hash {hash}",
);
const THIS_CLUSTER: Step = act(
    "name the etcd and the snapshots of this cluster, and compare transit.keyIdScope.providerName with \
     the EncryptionConfiguration; leave out a snapshot from before this provider was in use",
);

/// Facts that a plan without evidence leaves open.
pub const UNCHECKED_LIMITATION: &str = "This plan knows the state of this node and the live key, not \
    which objects and backups still need a version. Make sure by other means that no object in etcd \
    and no etcd backup that may be restored was written under a version before you retire it; until it \
    is trimmed in OpenBao, restore-versions brings it back.";

/// Facts that a plan with evidence leaves open.
pub const REVERSIBLE_LIMITATION: &str =
    "Until a version is trimmed in OpenBao, restore-versions brings it back.";

pub const UNCHECKED: Cause = Cause {
    code: "retirement_unchecked",
    headline: "the plan to retire versions was made without etcd data",
    impact: DataImpact::Unknown,
    data: "unknown: without etcd data it was not checked which objects and backups need the versions",
    steps: &[
        run(
            "better: let the plan read etcd and its backups (FILE), each with an option of its own",
            "{again} --etcd-snapshot FILE",
        ),
        act("review the versions"),
        STOP,
        APPLY,
    ],
    warnings: &[KEEP_MINIMUM],
    exit: Exit::Success,
};

pub const PLANNED: Cause = Cause {
    code: "versions_planned",
    headline: "the plan waits for its review",
    impact: DataImpact::Unknown,
    data: "unknown: a plan knows the sources that it has read, and no others",
    steps: &[act("review the versions"), STOP, APPLY],
    warnings: &[],
    exit: Exit::Success,
};

pub const APPLIED: Cause = Cause {
    code: "versions_changed",
    headline: "the versions in use on this node were changed",
    impact: DataImpact::Unknown,
    data: "unknown: the change concerns this node only",
    steps: &[
        run("start the provider", "systemctl start bao-kms-provider"),
        act("then do the same on the other nodes, each with a plan of its own"),
    ],
    warnings: &[],
    exit: Exit::Success,
};

pub const NEEDED: Cause = Cause {
    code: "versions_needed",
    headline: "objects need a version to be removed, so --apply is refused",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet, and all of it is readable as before; once a node has retired \
           the versions, its API server cannot read these objects",
    steps: &[
        REWRITE,
        REWRITE_ELSEWHERE,
        act(
            "keep each version for as long as the backup that needs it may be restored: {kept}. If a \
             backup only shows what etcd held before the objects were rewritten, save a new snapshot \
             in its place",
        ),
        AGAIN,
    ],
    warnings: &[
        "do not delete these objects, and do not edit etcd",
        KEEP_MINIMUM,
        "do not apply without the evidence: the versions are known to be needed",
    ],
    exit: Exit::CheckFailed,
};

pub const NEEDS_UNRESOLVED: Cause = Cause {
    code: "needs_unresolved",
    headline: "the version that some objects need is unknown",
    impact: DataImpact::Unknown,
    data: "unknown: these objects may need any version of the key",
    steps: &[EXAMINE, AGAIN],
    warnings: &[KEEP_MINIMUM, NO_BLIND_APPLY, "do not delete the objects"],
    exit: Exit::CheckFailed,
};

pub const KEYS_UNREAD: Cause = Cause {
    code: "source_keys_unread",
    headline: "etcd has keys that were not read",
    impact: DataImpact::Unknown,
    data: "unknown: objects among the unread keys may need any version of the key",
    steps: &[
        run("read all keys", "{unbounded}"),
        act(
            "read as an etcd user that may read every key of {refusing} (--cert, --key), or read a \
             snapshot of it",
        ),
        run(
            "or, if none of them is encrypted with this key, accept them as unread",
            "{again} --allow-unread-prefixes {prefixes}",
        ),
    ],
    warnings: &[KEEP_MINIMUM, NO_BLIND_APPLY],
    exit: Exit::Runtime,
};

pub const SOURCE_WITHOUT_OBJECTS: Cause = Cause {
    code: "source_without_objects",
    headline: "a source has no object of this provider, so it shows nothing about the key",
    impact: DataImpact::Unknown,
    data: "unknown: the source may be of another cluster, or from before this provider was in use",
    steps: &[THIS_CLUSTER, AGAIN],
    warnings: &[KEEP_MINIMUM, NO_BLIND_APPLY],
    exit: Exit::Runtime,
};

pub const NOTHING_BEFORE: Cause = Cause {
    code: "no_version_before",
    headline: "there is no version before 1",
    impact: DataImpact::NoneLost,
    data: "no data is lost: nothing was retired, and all data is readable as before",
    steps: &[act("name the lowest version to keep, at least 2")],
    warnings: &["do not guess the version from the newest one"],
    exit: Exit::CheckFailed,
};

pub const ABOVE_ACTIVE: Cause = Cause {
    code: "version_above_active",
    headline: "the lowest version to keep is above the active version",
    impact: DataImpact::NoneLost,
    data: "no data is lost: nothing was retired, and all data is readable as before",
    steps: &[run(
        "name a version up to the active one",
        "bao-kms-provider inspect-state --config {config}",
    )],
    warnings: &["do not retire a version that the last rotation has not replaced yet"],
    exit: Exit::CheckFailed,
};

pub const NO_VERSIONS: Cause = Cause {
    code: "no_version_named",
    headline: "no version to restore was named",
    impact: DataImpact::NoneLost,
    data: "no data is lost: nothing was restored",
    steps: &[run(
        "name the removed versions that objects need",
        "bao-kms-provider inspect-state --config {config}",
    )],
    warnings: &["do not restore all of them to be safe"],
    exit: Exit::CheckFailed,
};

pub const NOT_RESTORABLE: Cause = Cause {
    code: "versions_not_restorable",
    headline: "only removed versions can be restored",
    impact: DataImpact::NoneLost,
    data: "no data is lost: nothing was restored",
    steps: &[run(
        "name only versions that are removed",
        "bao-kms-provider inspect-state --config {config}",
    )],
    warnings: &["do not edit the state file"],
    exit: Exit::CheckFailed,
};

pub const NEWEST_DISABLED: Cause = Cause {
    code: "newest_version_disabled",
    headline: "the newest version of the key is removed or rejected in the state of this node",
    impact: DataImpact::NoneLost,
    data: "no data is lost: objects of retained versions are readable; encryption is refused until this \
           is settled",
    steps: &[
        run(
            "compare this state with that of the other nodes",
            "bao-kms-provider inspect-state --config {config}",
        ),
        act("put state and checkpoint of a node on which the version is active in their place"),
    ],
    warnings: &["do not edit the state file, and do not recreate the key"],
    exit: Exit::CheckFailed,
};

pub const SOURCE_UNVERIFIED: Cause = Cause {
    code: "source_unverified",
    headline: "the integrity of a source could not be verified",
    impact: DataImpact::Unknown,
    data: "unknown: the source may lack objects that etcd has",
    steps: &[run(
        "save a snapshot with a hash",
        "etcdctl snapshot save FILE",
    )],
    warnings: &[],
    exit: Exit::Success,
};

pub const OLDER_REVISIONS: Cause = Cause {
    code: "older_revisions",
    headline: "replaced or deleted revisions have versions to be removed",
    impact: DataImpact::NoneLost,
    data: "no data is lost: only a watch that begins before these revisions were replaced fails, and \
           its client lists again",
    steps: &[act(
        "wait for the API server to compact etcd, by default at most ten minutes after the last \
         rewriting",
    )],
    warnings: &[],
    exit: Exit::Success,
};

pub const REMOVED_BEFORE: Cause = Cause {
    code: "removed_versions_needed",
    headline: "objects need versions that were removed on this node before",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; the API server of this node cannot read these objects",
    steps: &[run(
        "restore the versions",
        "bao-kms-provider restore-versions --versions {versions} --config {config}",
    )],
    warnings: &[KEEP_MINIMUM],
    exit: Exit::Success,
};

pub const PROMOTION_PENDING: Cause = Cause {
    code: "promotion_pending",
    headline: "a new version of the key waits for its promotion on this node",
    impact: DataImpact::NoneLost,
    data: "no data is lost: this node encrypts with the active version until the promotion, and decrypts \
           both",
    steps: &[act(
        "wait: the provider promotes the version when it was observed often and long enough",
    )],
    warnings: &[],
    exit: Exit::Success,
};

pub const NOT_PROMOTED: Cause = Cause {
    code: "newest_version_not_promoted",
    headline: "the key has a newer version than the active one",
    impact: DataImpact::NoneLost,
    data: "no data is lost: objects are readable, but those rewritten now would have to be rewritten \
           again",
    steps: &[
        run(
            "wait until every node has promoted the newest version (run this on each)",
            "bao-kms-provider rotation-plan --config {config}",
        ),
        act("then rewrite all objects"),
        AGAIN,
    ],
    warnings: &[KEEP_VERSIONS],
    exit: Exit::CheckFailed,
};

pub const NO_ACTIVE_VERSION: Cause = Cause {
    code: "no_active_version",
    headline: "this node has no state, so it has no active version",
    impact: DataImpact::Unknown,
    data: "unknown: without the active version, the versions of the objects prove nothing",
    steps: &[
        run("start the provider", "systemctl start bao-kms-provider"),
        act(
            "or put state and checkpoint back, from a backup of this node or a copy of a healthy peer",
        ),
        AGAIN,
    ],
    warnings: &[KEEP_VERSIONS],
    exit: Exit::Runtime,
};

pub const NOT_REWRITTEN: Cause = Cause {
    code: "objects_under_older_versions",
    headline: "objects are still under older versions",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; without these versions the objects could not be read",
    steps: &[
        REWRITE,
        REWRITE_ELSEWHERE,
        run(
            "then save a new snapshot",
            "etcdctl snapshot save {snapshot}",
        ),
        AGAIN,
    ],
    warnings: &[KEEP_VERSIONS],
    exit: Exit::CheckFailed,
};

pub const REWRITTEN: Cause = Cause {
    code: "objects_rewritten",
    headline: "every object in the source is under the active version",
    impact: DataImpact::Unknown,
    data: "unknown: only the versions of the objects were read, and none was decrypted",
    steps: &[
        act("keep these versions, which backups need: {kept}"),
        run(
            "once no backup that may be restored needs an older version, plan its retirement, with \
             the running etcd and every backup (FILE) as evidence",
            "bao-kms-provider retire-versions --before-version {active} --etcd-snapshot FILE --config {config}",
        ),
    ],
    warnings: &[],
    exit: Exit::Success,
};

pub const PARTLY_READ: Cause = Cause {
    code: "objects_partly_read",
    headline: "the objects that were read are under the active version, and others were not read",
    impact: DataImpact::Unknown,
    data: "unknown: objects among the unread keys may need any version of the key",
    steps: &[
        run("read all keys", "{unbounded}"),
        act(
            "read as an etcd user that may read every key of {refusing} (--cert, --key), or read a \
             snapshot of it",
        ),
    ],
    warnings: &[KEEP_VERSIONS],
    exit: Exit::Success,
};

pub const BACKUPS_NEED_VERSIONS: Cause = Cause {
    code: "backups_need_versions",
    headline: "backups need older versions",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; without these versions the backups cannot be restored",
    steps: &[act(
        "keep the versions for as long as one of the backups may be restored",
    )],
    warnings: &[KEEP_MINIMUM],
    exit: Exit::Success,
};

pub const OTHERWISE_PROTECTED: Cause = Cause {
    code: "objects_otherwise_protected",
    headline: "objects of the same resources are not encrypted by this provider",
    impact: DataImpact::NoneLost,
    data: "no data is lost: these objects stay as they are, encrypted otherwise or in plaintext, however \
           often this key is rotated",
    steps: &[act(
        "name this provider first for these resources in the EncryptionConfiguration, and rewrite them \
         like the others",
    )],
    warnings: &[],
    exit: Exit::Success,
};

pub const SOURCE_UNREAD: Cause = Cause {
    code: "source_unread",
    headline: "a source could not be read",
    impact: DataImpact::Unknown,
    data: "unknown: the other sources do not stand for this one",
    steps: &[
        act("give an etcd snapshot: {form}"),
        act("fix the cause, or name a sound copy of {source}"),
        AGAIN,
    ],
    warnings: &[KEEP_VERSIONS],
    exit: Exit::Runtime,
};

/// The cause of a plan that a rule forbids.
#[must_use]
pub fn of_plan(refused: &PlanRefused) -> &'static Cause {
    match refused {
        PlanRefused::NothingBefore => &NOTHING_BEFORE,
        PlanRefused::AboveActive { .. } => &ABOVE_ACTIVE,
        PlanRefused::NoVersions => &NO_VERSIONS,
        PlanRefused::NotRestorable(_) => &NOT_RESTORABLE,
        PlanRefused::Conflict(conflict) => key::of_conflict(conflict),
        PlanRefused::Progress(problem) => of_progress(problem),
    }
}

/// The cause of a key that the node does not follow.
#[must_use]
pub fn of_rotation(refused: &RotationRefused) -> &'static Cause {
    match refused {
        RotationRefused::Conflict(conflict) => key::of_conflict(conflict),
        RotationRefused::Intermediate { problem, .. } => key::of_version(problem),
        RotationRefused::Disabled { .. } => &NEWEST_DISABLED,
        RotationRefused::Progress(problem) => of_progress(problem),
    }
}

/// The lowest version below `min_decryption_version` that the state needs.
#[must_use]
pub fn lowest_hidden(refused: &RotationRefused) -> Option<String> {
    match refused {
        RotationRefused::Conflict(conflict) => lowest_of(conflict),
        RotationRefused::Intermediate { problem, .. } => lowest(std::slice::from_ref(problem)),
        RotationRefused::Disabled { .. } | RotationRefused::Progress(_) => None,
    }
}

/// The lowest version below `min_decryption_version` that the state needs.
#[must_use]
pub fn lowest_of(conflict: &RegistryConflict) -> Option<String> {
    match conflict {
        RegistryConflict::Retained(problems) => lowest(problems),
        _ => None,
    }
}

fn lowest(problems: &[VersionProblem]) -> Option<String> {
    let hidden = problems.iter().filter_map(|problem| match problem {
        VersionProblem::Hidden { version, .. } => Some(*version),
        _ => None,
    });
    Some(hidden.min()?.to_string())
}

fn of_progress(_: &ProgressProblem) -> &'static Cause {
    &restore::UNWRITABLE
}

/// The worst of the problems decides.
#[cfg(test)]
mod tests {
    use kms_domain::{
        registry::{RecordState, document::Generation},
        transit::{CreatedAt, TransitVersion},
    };

    use super::*;

    fn version(number: u64) -> TransitVersion {
        TransitVersion::new(number).unwrap()
    }

    fn problems() -> Vec<VersionProblem> {
        let (version, second) = (version(2), CreatedAt::new(1).unwrap());
        vec![
            VersionProblem::AboveLatest {
                version,
                latest: version,
            },
            VersionProblem::Trimmed {
                version,
                minimum: 3,
            },
            VersionProblem::Hidden {
                version,
                minimum: 3,
            },
            VersionProblem::Unlisted(version),
            VersionProblem::CreationTimeMismatch {
                version,
                recorded: second,
                found: second,
            },
        ]
    }

    #[test]
    fn every_refusal_says_what_to_do_and_what_not() {
        let conflicts = || {
            let single = problems()
                .into_iter()
                .map(|it| RegistryConflict::Retained(vec![it]));
            single.chain([RegistryConflict::VersionRollback {
                active: version(2),
                latest: version(1),
            }])
        };
        let progress = || ProgressProblem::Exhausted(Generation::FIRST);
        let plans = conflicts().map(PlanRefused::from).chain([
            PlanRefused::NothingBefore,
            PlanRefused::AboveActive {
                before: version(2),
                active: version(1),
            },
            PlanRefused::NoVersions,
            PlanRefused::NotRestorable(Vec::new()),
            PlanRefused::from(progress()),
        ]);
        let intermediate = problems()
            .into_iter()
            .map(|problem| RotationRefused::Intermediate {
                active: version(1),
                latest: version(3),
                problem,
            });
        let rotations = conflicts()
            .map(RotationRefused::from)
            .chain(intermediate)
            .chain([
                RotationRefused::Disabled {
                    latest: version(2),
                    state: RecordState::Removed,
                },
                RotationRefused::from(progress()),
            ]);
        let causes = plans
            .map(|it| of_plan(&it))
            .chain(rotations.map(|it| of_rotation(&it)));
        for cause in causes {
            assert!(!cause.steps.is_empty(), "{}", cause.code);
            assert!(!cause.warnings.is_empty(), "{}", cause.code);
        }
    }

    #[test]
    fn the_lowest_hidden_version_is_the_minimum_to_set() {
        let hidden = |number| VersionProblem::Hidden {
            version: version(number),
            minimum: 4,
        };
        let conflict = RegistryConflict::Retained(vec![hidden(3), hidden(2)]);
        assert_eq!(lowest_hidden(&conflict.into()).as_deref(), Some("2"));
    }
}
