//! May the registry state be believed, does it belong here, and if there is none, may there be?

use std::error::Error;

use kms_domain::{
    bootstrap::{BootstrapDenied, bootstrap},
    registry::anchor::Anchor,
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};

use super::{Question, facts::Facts};
use crate::{
    report::{Check, ImpactClass, one_line},
    state::{StateError, StatePath, Stored},
};

/// State and checkpoint are valid and belong together.
pub const STATE: Question = Question {
    id: "registry.state",
    title: "State and checkpoint",
    needs: &[
        "config.validate",
        "config.files/state.path",
        "process.identity/other_user",
    ],
    judge: |facts| Some(vec![pair_or_none(facts)?]),
};

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
    let anchor = match stored {
        Ok(stored) => stored.anchor,
        Err(error) => {
            // The outer error tells consequence and remedy, its causes the rule that is broken.
            let found = error.source().map_or_else(|| error.to_string(), one_line);
            return STATE
                .fail(found)
                .code(code(error))
                .impact(error.to_string())
                .impact_class(class(error));
        }
    };
    match caution(anchor) {
        None if anchor == Anchor::Absent => STATE
            .fail(absent(path))
            .code("absent")
            .impact("the provider may make a first state, if the key was never rotated")
            .impact_class(ImpactClass::DataRecovery)
            .remediation(RESTORE),
        None => STATE.pass().message("current"),
        Some((message, impact)) => {
            let check = STATE
                .warn(message)
                .impact(impact)
                .impact_class(ImpactClass::Diagnosis);
            match anchor {
                Anchor::Missing {
                    first_generation: false,
                } => check
                    .code("checkpoint_missing")
                    .impact_class(ImpactClass::ApiServerAvailability)
                    .remediation(
                        "compare generation and hash with the other nodes; then restore both \
                         files, or start once with serve --accept-missing-checkpoint",
                    ),
                _ => check.code("checkpoint_behind"),
            }
        }
    }
}

fn absent(path: &StatePath) -> String {
    format!(
        "there is neither {} nor its checkpoint",
        path.document().display()
    )
}

fn code(error: &StateError) -> &'static str {
    match error {
        StateError::CorruptCheckpoint { .. } => "corrupt_checkpoint",
        StateError::CorruptDocument { .. } => "corrupt_state",
        StateError::RolledBack { .. } => "rolled_back",
        StateError::OtherConfiguration { .. } => "other_configuration",
        StateError::NoDirectory { .. }
        | StateError::Lock(_)
        | StateError::Unreadable(_)
        | StateError::CheckpointMissing { .. }
        | StateError::Repair(_) => "unreadable",
    }
}

fn class(error: &StateError) -> ImpactClass {
    match error {
        StateError::CorruptCheckpoint { .. }
        | StateError::CorruptDocument { .. }
        | StateError::RolledBack { .. }
        | StateError::OtherConfiguration { .. } => ImpactClass::DataRecovery,
        StateError::NoDirectory { .. }
        | StateError::Lock(_)
        | StateError::Unreadable(_)
        | StateError::CheckpointMissing { .. }
        | StateError::Repair(_) => ImpactClass::ApiServerAvailability,
    }
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

/// As [`pair`], but no state is only worth a look: the key tells whether there may be a first one.
fn pair_or_none(facts: &Facts) -> Option<Check> {
    let (config, stored) = (facts.config()?, facts.stored.as_ref()?);
    if !matches!(stored, Ok(stored) if stored.anchor == Anchor::Absent) {
        return Some(pair(&config.state_path, stored));
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
        Err(denied) => STATE
            .warn(denied.to_string())
            .impact("the provider does not start until there is a state")
            .impact_class(ImpactClass::ApiServerAvailability)
            .detail("bootstrapEligible", false),
    };
    Some(check.code("absent"))
}

/// Why a first state may be made.
pub const MAY_BOOTSTRAP: &str =
    "the key was never rotated, so the provider makes the first state when it starts";

const RESTORE: &str = "if this node had a state, restore both files from a backup or a peer";
