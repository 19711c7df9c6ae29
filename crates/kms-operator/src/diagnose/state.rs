//! The registry state: its validity, whether it belongs to this node and fits the key, and whether a
//! missing one may be created.

use kms_domain::{
    bootstrap::{BootstrapDenied, bootstrap},
    registry::checkpoint::{CheckpointStatus, Rollback},
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};
use kms_node::{
    advice::{self, Advice, Cause, Site},
    report::{CheckResult, ImpactClass, shell},
    state::{StateError, StatePath, Stored, disk::DiskError},
};

use super::{Check, facts::Facts, key};

/// `doctor`: the provider can start with these files.
pub const STATE: Check = Check {
    id: "registry.state",
    title: "State and checkpoint",
    needs: &[
        "config.validate",
        "config.files/state.path",
        "process.identity/other_user",
    ],
    evaluate: |facts| Some(vec![evaluate(facts, |state, found| state.fail(found))?]),
};

/// `verify-key`: state and checkpoint are valid and belong together; an obstacle to a start is a
/// warning.
pub const PAIR: Check = Check {
    needs: &["config.validate"],
    evaluate: |facts| Some(vec![evaluate(facts, |state, found| state.warn(found))?]),
    ..STATE
};

/// [`Check::warn`] or [`Check::fail`], for an obstacle to a start alone.
type Obstacle = fn(&Check, String) -> CheckResult;

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

/// The check of the two files alone, without key and node.
#[must_use]
pub fn pair(site: &Site<'_>, path: &StatePath, stored: &Result<Stored, StateError>) -> CheckResult {
    if matches!(stored, Ok(stored) if stored.anchor == CheckpointStatus::Absent) {
        return STATE
            .fail(absent(path))
            .because(advice::state::ABSENT.advise(site, &[]))
            .code("absent")
            .impact_class(ImpactClass::DataRecovery);
    }
    existing(site, path, stored, |state, found| state.warn(found))
}

fn existing(
    site: &Site<'_>,
    path: &StatePath,
    stored: &Result<Stored, StateError>,
    obstacle: Obstacle,
) -> CheckResult {
    let stored = match stored {
        Ok(stored) => stored,
        Err(error) => return refused(site, path, error),
    };
    let Some((message, impact)) = caution(stored.anchor) else {
        return STATE.pass().message("current");
    };
    if stored.anchor
        == (CheckpointStatus::Missing {
            first_generation: false,
        })
    {
        return obstacle(&STATE, message.to_owned())
            .because(advise(&advice::state::CHECKPOINT_LOST, site, path))
            .code("checkpoint_missing")
            .impact_class(ImpactClass::ApiServerAvailability);
    }
    STATE
        .warn(message)
        .code("checkpoint_behind")
        .impact(impact)
        .impact_class(ImpactClass::Diagnosis)
}

/// The advice for these files, which may not be those of the configuration.
fn advise(cause: &Cause, site: &Site<'_>, path: &StatePath) -> Advice {
    let (state, checkpoint) = (shell(&path.document()), shell(&path.checkpoint()));
    let values = [("state", &*state), ("checkpoint", &*checkpoint)];
    cause.advise(site, &values)
}

/// A pair that no provider starts with.
fn refused(site: &Site<'_>, files: &StatePath, error: &StateError) -> CheckResult {
    let (code, class) = match error {
        StateError::CorruptCheckpoint { .. } => ("corrupt_checkpoint", ImpactClass::DataRecovery),
        StateError::CorruptDocument { .. } => ("corrupt_state", ImpactClass::DataRecovery),
        StateError::RolledBack { .. } => ("rolled_back", ImpactClass::DataRecovery),
        StateError::OtherConfiguration { .. } => ("other_configuration", ImpactClass::DataRecovery),
        StateError::OtherRelease { .. } => ("other_release", ImpactClass::DataRecovery),
        StateError::OfPreview { .. } => ("of_preview", ImpactClass::DataRecovery),
        StateError::Unreadable(_)
        | StateError::NoDirectory { .. }
        | StateError::Lock(_)
        | StateError::CheckpointMissing { .. }
        | StateError::CheckpointWrite(_) => ("unreadable", ImpactClass::ApiServerAvailability),
    };
    let cause = advice::state::of_error(error);
    let advice = match error {
        StateError::Unreadable(DiskError::Unsafe { path, .. }) => {
            cause.advise(site, &[("path", &*shell(path))])
        }
        _ => advise(cause, site, files),
    };
    STATE
        .fail(error.finding())
        .because(advice)
        .code(code)
        .impact_class(class)
}

fn absent(path: &StatePath) -> String {
    format!(
        "there is neither {} nor its checkpoint",
        path.document().display()
    )
}

/// The warning about a checkpoint, and its impact.
#[must_use]
pub fn caution(anchor: CheckpointStatus) -> Option<(&'static str, &'static str)> {
    match anchor {
        CheckpointStatus::Absent | CheckpointStatus::Current => None,
        CheckpointStatus::Behind => Some((
            "the checkpoint is one generation behind, as after an interrupted commit",
            "none: the next start of the provider completes it",
        )),
        CheckpointStatus::Missing {
            first_generation: true,
        } => Some((
            "the checkpoint is missing, as after an interrupted first commit",
            "none: the next start of the provider completes it",
        )),
        CheckpointStatus::Missing {
            first_generation: false,
        } => Some((
            "the checkpoint is missing, so nothing shows that this state is the newest",
            "the provider does not start with it",
        )),
    }
}

/// A missing state is a warning as long as the key allows a first one.
fn evaluate(facts: &Facts, obstacle: Obstacle) -> Option<CheckResult> {
    let (config, stored) = (facts.config()?, facts.stored.as_ref()?);
    if !matches!(stored, Ok(stored) if stored.anchor == CheckpointStatus::Absent) {
        let site = Site::new(facts.config_path(), Some(config));
        let current = matches!(stored, Ok(stored) if stored.anchor == CheckpointStatus::Current);
        if current && let Some((found, advice)) = key::contradiction(facts) {
            let message = format!("the files are valid, and do not fit the key: {found}");
            let check = STATE.warn(message).because(advice);
            return Some(check.impact_class(ImpactClass::DataRecovery));
        }
        let check = existing(&site, &config.state_path, stored, obstacle);
        return Some(match needs_rotations(facts, stored) {
            Some(doubt) => check.impact(doubt),
            None => check,
        });
    }

    let lost = |check: CheckResult| check.because(facts.advise(&advice::state::ABSENT, &[]));
    let check = match facts.usable_key() {
        None => lost(STATE.warn(absent(&config.state_path))).impact_class(ImpactClass::Diagnosis),
        Some(profile) => match may_bootstrap(profile, &config.scope, &config.key) {
            Ok(()) => lost(STATE.warn(format!("there is no state; {MAY_BOOTSTRAP}")))
                .impact_class(ImpactClass::Diagnosis)
                .detail("bootstrapEligible", true),
            Err(BootstrapDenied { latest }) => {
                let message = format!(
                    "there is no state, and the key has been rotated to version {latest}: the \
                     version in use is unknown, and the provider does not start"
                );
                obstacle(&STATE, message)
                    .because(facts.advise(&advice::state::LOST, &[]))
                    .impact_class(ImpactClass::DataRecovery)
                    .detail("bootstrapEligible", false)
            }
        },
    };
    Some(check.code("absent"))
}

/// The doubt about the key that a checkpoint without its state raises.
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
            "at risk: generation {} needs rotations, and the key is at version 1. Unless recover-state \
             wrote those generations, the key was recreated, or OpenBao restored to a point before its \
             rotations, and objects of the rotated versions are unreadable with it",
            checkpoint.generation()
        )
    })
}

/// Why a first state may be made.
pub const MAY_BOOTSTRAP: &str =
    "the key was never rotated, so the provider makes the first state when it starts";
