//! May the registry state be believed, does it belong here, and if there is none, may there be?

use kms_domain::{
    bootstrap::{BootstrapDenied, bootstrap},
    registry::anchor::{Anchor, Rollback},
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};

use super::{Question, facts::Facts};
use crate::{
    report::{Check, ImpactClass},
    state::{
        NEWER_RELEASE, StateError, StatePath, Stored,
        disk::{DiskError, Flaw},
    },
};

/// `doctor`: the provider can start with what is there.
pub const STATE: Question = Question {
    id: "registry.state",
    title: "State and checkpoint",
    needs: &[
        "config.validate",
        "config.files/state.path",
        "process.identity/other_user",
    ],
    judge: |facts| Some(vec![judge(facts, |state, found| state.fail(found))?]),
};

/// `verify-key`: state and checkpoint are valid and belong together; that the provider would not
/// start without the one or the other is a warning.
pub const PAIR: Question = Question {
    needs: &["config.validate"],
    judge: |facts| Some(vec![judge(facts, |state, found| state.warn(found))?]),
    ..STATE
};

/// [`Question::warn`] or [`Question::fail`], for what stops a start and harms nothing else.
type Obstacle = fn(&Question, String) -> Check;

/// Whether a first state may be made from the metadata of the key, once the provider starts.
///
/// # Errors
/// Why not.
pub fn may_bootstrap(
    profile: &KeyProfile,
    scope: &IdentityScope,
    key: &TransitKeyPath,
) -> Result<(), BootstrapDenied> {
    bootstrap(profile, scope, key, 0).map(drop)
}

/// What a reader makes of the pair of files, with nothing to compare it to.
#[must_use]
pub fn pair(path: &StatePath, stored: &Result<Stored, StateError>) -> Check {
    if matches!(stored, Ok(stored) if stored.anchor == Anchor::Absent) {
        return STATE
            .fail(absent(path))
            .code("absent")
            .impact("the provider may make a first state, if the key was never rotated")
            .impact_class(ImpactClass::DataRecovery)
            .remediation(RESTORE);
    }
    existing(path, stored, |state, found| state.warn(found))
}

fn existing(path: &StatePath, stored: &Result<Stored, StateError>, obstacle: Obstacle) -> Check {
    let stored = match stored {
        Ok(stored) => stored,
        Err(error) => return refused(path, error),
    };
    let Some((message, impact)) = caution(stored.anchor) else {
        return STATE.pass().message("current");
    };
    if stored.anchor
        == (Anchor::Missing {
            first_generation: false,
        })
    {
        return obstacle(&STATE, message.to_owned())
            .code("checkpoint_missing")
            .impact(impact)
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(
                "compare generation and hash with the other nodes; then rebuild both files with \
                 recover-state, or start once with serve --accept-missing-checkpoint",
            );
    }
    STATE
        .warn(message)
        .code("checkpoint_behind")
        .impact(impact)
        .impact_class(ImpactClass::Diagnosis)
}

/// A pair that no provider starts with.
fn refused(path: &StatePath, error: &StateError) -> Check {
    const TOGETHER: &str = "rebuild both files with recover-state, from a peer's state, a backup \
        record or etcd data, while the provider is stopped; do not edit them and do not delete the \
        checkpoint";
    let unknown = "it is not known which keys are in use: the provider does not start; nothing was \
        changed and no data is lost";
    let (code, class, impact, remedy) = match error {
        StateError::CorruptCheckpoint { .. } => (
            "corrupt_checkpoint",
            ImpactClass::DataRecovery,
            "an older state could not be told from the newest: the provider does not start",
            TOGETHER.to_owned(),
        ),
        StateError::CorruptDocument { .. } => {
            let class = ImpactClass::DataRecovery;
            ("corrupt_state", class, unknown, TOGETHER.to_owned())
        }
        StateError::RolledBack { .. } => (
            "rolled_back",
            ImpactClass::DataRecovery,
            "keys in use may be missing from the state: the provider does not start; nothing was \
             changed and no data is lost",
            TOGETHER.to_owned(),
        ),
        StateError::OtherConfiguration { .. } => (
            "other_configuration",
            ImpactClass::DataRecovery,
            "what is encrypted cannot be read under other names: the provider does not start",
            "change the configuration back; do not delete the state".to_owned(),
        ),
        StateError::OtherRelease { .. } => (
            "other_release",
            ImpactClass::DataRecovery,
            unknown,
            NEWER_RELEASE.to_owned(),
        ),
        StateError::Unreadable(error) => (
            "unreadable",
            ImpactClass::ApiServerAvailability,
            unknown,
            disk_remedy(path, error),
        ),
        StateError::NoDirectory { .. }
        | StateError::Lock(_)
        | StateError::CheckpointMissing { .. }
        | StateError::Repair(_) => {
            let class = ImpactClass::ApiServerAvailability;
            ("unreadable", class, unknown, TOGETHER.to_owned())
        }
    };
    STATE
        .fail(error.finding())
        .code(code)
        .impact(impact)
        .impact_class(class)
        .remediation(remedy)
}

fn disk_remedy(state: &StatePath, error: &DiskError) -> String {
    match error {
        DiskError::Unsafe {
            path,
            flaw: Flaw::TooOpen { .. },
        } => format!(
            "compare the file with a peer or a backup; if it is still yours, run `chmod 0640 {}`",
            path.display()
        ),
        _ => format!(
            "let the owner of {} be the user that runs the provider, with mode 0640 of the files \
             in it; run doctor as root or as that user",
            state.directory().display()
        ),
    }
}

fn absent(path: &StatePath) -> String {
    format!(
        "there is neither {} nor its checkpoint",
        path.document().display()
    )
}

/// What a reader warns of, and what follows from it.
#[must_use]
pub fn caution(anchor: Anchor) -> Option<(&'static str, &'static str)> {
    match anchor {
        Anchor::Absent | Anchor::Current => None,
        Anchor::Behind => Some((
            "the checkpoint is one generation behind, as a commit that was cut short leaves it",
            "none: the next start of the provider completes it",
        )),
        Anchor::Missing {
            first_generation: true,
        } => Some((
            "the checkpoint is missing, as a first commit that was cut short leaves it",
            "none: the next start of the provider completes it",
        )),
        Anchor::Missing {
            first_generation: false,
        } => Some((
            "the checkpoint is missing, so nothing shows that this state is the newest",
            "the provider does not start with it",
        )),
    }
}

/// No state is only worth a look as long as the key allows a first one.
fn judge(facts: &Facts, obstacle: Obstacle) -> Option<Check> {
    let (config, stored) = (facts.config()?, facts.stored.as_ref()?);
    if !matches!(stored, Ok(stored) if stored.anchor == Anchor::Absent) {
        let check = existing(&config.state_path, stored, obstacle);
        return Some(match needs_rotations(facts, stored) {
            Some(doubt) => check.impact(doubt),
            None => check,
        });
    }
    let Some(profile) = facts.usable_key() else {
        let check = STATE
            .warn(absent(&config.state_path))
            .impact("whether there may be a first one shows when the key can be used")
            .impact_class(ImpactClass::Diagnosis)
            .remediation(RESTORE);
        return Some(check.code("absent"));
    };
    let check = match may_bootstrap(profile, &config.scope, &config.key) {
        Ok(()) => STATE
            .warn(format!("there is no state; {MAY_BOOTSTRAP}"))
            .impact("none on a new node")
            .impact_class(ImpactClass::Diagnosis)
            .remediation(RESTORE)
            .detail("bootstrapEligible", true),
        Err(denied) => obstacle(&STATE, denied.to_string())
            .impact("the provider does not start until there is a state")
            .impact_class(ImpactClass::DataRecovery)
            .remediation("run recover-state, with a peer's state, a backup record or etcd data")
            .detail("bootstrapEligible", false),
    };
    Some(check.code("absent"))
}

/// What a checkpoint without its state says against the key.
fn needs_rotations(facts: &Facts, stored: &Result<Stored, StateError>) -> Option<String> {
    let Err(StateError::RolledBack {
        problem: Rollback::DocumentLost { checkpoint },
        ..
    }) = stored
    else {
        return None;
    };
    let key = facts.usable_key()?;
    checkpoint.needs_rotations_of(key).then(|| {
        format!(
            "generation {} needs rotations, but the key is at version 1: unless recover-state made \
             those generations, the key was recreated or OpenBao restored to a point before its \
             rotations, and objects under the rotated versions cannot be read with it",
            checkpoint.generation()
        )
    })
}

/// Why a first state may be made.
pub const MAY_BOOTSTRAP: &str =
    "the key was never rotated, so the provider makes the first state when it starts";

const RESTORE: &str = "if this node had a state, rebuild it with recover-state";
