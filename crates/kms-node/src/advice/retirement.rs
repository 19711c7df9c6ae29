//! Causes of `retire-versions`, `restore-versions`, `rotation-plan` and `verify-rotation`.
//!
//! `{again}` is the command line that was typed, without the options that apply a plan.

use kms_domain::{
    registry::{
        RegistryConflict, document::ProgressProblem, retire::PlanRefused, rotation::RotationRefused,
    },
    transit::VersionProblem,
};

use super::{
    Cause, Step, act,
    evidence::{
        KEEP_MINIMUM, KEEP_VERSIONS, NO_BLIND_APPLY, REWRITE, REWRITE_ELSEWHERE, SAME_SOURCES,
    },
    key,
    node::{START, STOP},
    none_lost, not_lost_yet, restore, run,
    state::EDIT_NOTHING,
    unknown,
};
use crate::exit::Exit;

const REVIEW: Step = act("review the versions");
const APPLY: Step = run(
    "apply the plan",
    "{again} --apply --expected-state-hash {hash}",
);

/// Facts that a plan without evidence leaves open.
pub const UNCHECKED_LIMITATION: &str = "This plan knows the state of this node and the live key. Make sure \
    by other means that no object in etcd, and no etcd backup that may be restored, has a version before \
    you retire it; until it is trimmed in OpenBao, restore-versions brings it back.";

/// Facts that a plan with evidence leaves open.
pub const REVERSIBLE_LIMITATION: &str =
    "Until a version is trimmed in OpenBao, restore-versions brings it back.";

causes! {
    UNCHECKED = unknown(
        "retirement_unchecked",
        "the plan to retire versions was made without etcd data",
        "the objects and backups with these versions were not counted",
    )
    .exit(Exit::Success)
    .steps(&[
        run(
            "better: let the plan read etcd and its backups (FILE), each with an option of its own",
            "{again} --etcd-snapshot FILE",
        ),
        REVIEW,
        STOP,
        APPLY,
    ])
    .warnings(&[KEEP_MINIMUM]);

    PLANNED = unknown(
        "versions_planned",
        "the plan waits for its review",
        "the plan covers its own sources only",
    )
    .exit(Exit::Success)
    .steps(&[REVIEW, STOP, APPLY]);

    APPLIED = unknown(
        "versions_changed",
        "the versions in use on this node were changed",
        "the change concerns this node only",
    )
    .exit(Exit::Success)
    .steps(&[START, act("then do the same on the other nodes, each with a plan of its own")]);

    NEEDED = not_lost_yet(
        "versions_needed",
        "objects need a version to be removed, so --apply is refused",
        "once a node has retired the versions, its API server cannot read these objects",
    )
    .steps(&[
        REWRITE,
        REWRITE_ELSEWHERE,
        act(
            "keep each version for as long as the backup with its objects may be restored: {kept}. \
             If a backup shows etcd before a rewriting, save a new snapshot in its place",
        ),
        SAME_SOURCES,
    ])
    .warnings(&["do not delete these objects, and do not edit etcd", KEEP_MINIMUM, NO_BLIND_APPLY]);

    INVALID_CHOICE = none_lost(
        "version_choice_invalid",
        "the named versions cannot be retired or restored",
        "the state stays as it is, and all data is readable as before",
    )
    .steps(&[run(
        "retire versions below the active one, at least 2, or restore removed versions; this lists \
         them",
        "bao-kms-provider inspect-state --config {config}",
    )])
    .warnings(&["do not guess versions, and do not edit the state file"]);

    NEWEST_DISABLED = none_lost(
        "newest_version_disabled",
        "the newest version of the key is removed or rejected in the state of this node",
        "objects of retained versions are readable; encryption is refused until this is settled",
    )
    .steps(&[
        run(
            "compare this state with those of the other nodes",
            "bao-kms-provider inspect-state --config {config}",
        ),
        act("put state and checkpoint of a node with the version active in their place"),
    ])
    .warnings(&["do not recreate the key", EDIT_NOTHING]);

    OLDER_REVISIONS = none_lost(
        "older_revisions",
        "replaced or deleted revisions have versions to be removed",
        "only a watch from before these revisions were replaced fails, and its client lists again",
    )
    .exit(Exit::Success)
    .steps(&[act(
        "wait for the API server to compact etcd, by default at most ten minutes after the last \
         rewriting",
    )]);

    REMOVED_BEFORE = not_lost_yet(
        "removed_versions_needed",
        "objects need versions already removed on this node",
        "the API server of this node cannot read these objects",
    )
    .exit(Exit::Success)
    .steps(&[super::state::RESTORE_VERSIONS])
    .warnings(&[KEEP_VERSIONS]);

    PROMOTION_PENDING = none_lost(
        "promotion_pending",
        "a new version of the key waits for its promotion on this node",
        "this node encrypts with the active version until the promotion, and decrypts both",
    )
    .exit(Exit::Success)
    .steps(&[act("wait: the provider promotes the version after enough observations and time")]);

    NOT_PROMOTED = none_lost(
        "newest_version_not_promoted",
        "the key has a newer version than the active one",
        "objects are readable, but those rewritten now would have to be rewritten again",
    )
    .steps(&[
        run(
            "wait until every node has promoted the newest version (run this on each)",
            "bao-kms-provider rotation-plan --config {config}",
        ),
        act("then rewrite all objects"),
        SAME_SOURCES,
    ])
    .warnings(&[KEEP_VERSIONS]);

    NOT_REWRITTEN = not_lost_yet(
        "objects_under_older_versions",
        "objects are still under older versions",
        "without these versions the objects could not be read",
    )
    .steps(&[
        REWRITE,
        REWRITE_ELSEWHERE,
        run("then save a new snapshot", "etcdctl snapshot save {snapshot}"),
        SAME_SOURCES,
    ])
    .warnings(&[KEEP_VERSIONS]);

    REWRITTEN = unknown(
        "objects_rewritten",
        "every object in the source is under the active version",
        "only the versions of the objects were read, without decryption",
    )
    .exit(Exit::Success)
    .steps(&[
        act("keep these versions for backups: {kept}"),
        run(
            "once no backup that may be restored needs an older version, plan its retirement, with \
             the running etcd and every backup (FILE) as evidence",
            "bao-kms-provider retire-versions --before-version {active} --etcd-snapshot FILE \
             --config {config}",
        ),
    ]);

    BACKUPS_NEED_VERSIONS = not_lost_yet(
        "backups_need_versions",
        "backups need older versions",
        "without these versions the backups cannot be restored",
    )
    .exit(Exit::Success)
    .steps(&[act("keep the versions for as long as one of the backups may be restored")])
    .warnings(&[KEEP_VERSIONS]);
}

/// The cause of a plan that a rule forbids.
#[must_use]
pub fn of_plan(refused: &PlanRefused) -> &'static Cause {
    match refused {
        PlanRefused::NothingBefore
        | PlanRefused::AboveActive { .. }
        | PlanRefused::NoVersions
        | PlanRefused::NotRestorable(_) => &INVALID_CHOICE,
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
