//! May the registry state be believed, does it belong here, and if there is none, may there be?

use std::error::Error;

use kms_domain::{
    bootstrap::{BootstrapDenied, bootstrap},
    registry::anchor::Anchor,
    scope::{IdentityScope, TransitKeyPath},
    transit::KeyProfile,
};

use super::Name;
use crate::{
    report::{Check, one_line},
    state::{StatePath, Stored},
};

/// State and checkpoint are valid and belong together.
pub const STATE: Name = ("registry.state", "State and checkpoint");

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
pub fn pair(path: &StatePath, stored: Result<&Stored, &dyn Error>) -> Check {
    let (id, title) = STATE;
    match stored.map(|stored| stored.anchor) {
        // The outer error tells the consequence, its causes the rule that is broken.
        Err(error) => match error.source() {
            Some(cause) => Check::fail(id, title, one_line(cause)).impact(error.to_string()),
            None => Check::fail(id, title, error.to_string()),
        },
        Ok(Anchor::Absent) => Check::fail(
            id,
            title,
            format!(
                "there is neither {} nor its checkpoint",
                path.document().display()
            ),
        )
        .impact("the provider may make a first state, if the key was never rotated")
        .remediation(RESTORE),
        Ok(anchor) => match caution(anchor) {
            None => Check::pass(id, title).message("current"),
            Some((message, impact)) => {
                let check = Check::warn(id, title, message).impact(impact);
                match anchor {
                    Anchor::Missing {
                        first_generation: false,
                    } => check.remediation(
                        "compare generation and hash with the other nodes; then restore both \
                         files, or start once with serve --accept-missing-checkpoint",
                    ),
                    _ => check,
                }
            }
        },
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
#[must_use]
pub fn pair_or_none(
    path: &StatePath,
    stored: Result<&Stored, &dyn Error>,
    bootstrap: Result<(), BootstrapDenied>,
) -> Check {
    let (id, title) = STATE;
    match (stored, bootstrap) {
        (
            Ok(Stored {
                anchor: Anchor::Absent,
                ..
            }),
            Ok(()),
        ) => Check::warn(id, title, format!("there is no state; {MAY_BOOTSTRAP}"))
            .impact("none on a new node")
            .remediation(RESTORE)
            .detail("bootstrapEligible", true),
        (
            Ok(Stored {
                anchor: Anchor::Absent,
                ..
            }),
            Err(denied),
        ) => Check::warn(id, title, denied.to_string())
            .impact("the provider does not start until there is a state")
            .detail("bootstrapEligible", false),
        (stored, _) => pair(path, stored),
    }
}

/// Why a first state may be made.
pub const MAY_BOOTSTRAP: &str =
    "the key was never rotated, so the provider makes the first state when it starts";

const RESTORE: &str = "if this node had a state, restore both files from a backup or a peer";
