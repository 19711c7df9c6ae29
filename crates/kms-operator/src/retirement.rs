//! Retires and restores key versions on this node: gathers facts, plans in the domain crate and,
//! after an operator's review, commits the plan. Implements `docs/format/state-document.md` section
//! 10.
//!
//! Access to OpenBao is read-only.

use std::{path::PathBuf, sync::Arc};

use kms_domain::{
    recovery::{
        claims::VersionClaims,
        evidence::{Retirement, judge_retirement},
        rebuild::OWN_STATE,
        resolve::{KeyResolver, LiveKey},
    },
    registry::{
        checkpoint::CheckpointStatus,
        document::{Document, StateHash},
        retire::{Plan, PlanOutdated, PlanRefused, plan_restoration, plan_retirement},
    },
    transit::{KeyProfile, ProfileRefused, TransitVersion},
};
use kms_node::{
    auth::CallFailure,
    config::Config,
    connection::{self, ConnectionError},
    state::{CommitError, MissingCheckpoint, StateError, Stored},
};

use crate::recovery::{
    evidence::{Asked, EvidenceUnread},
    evidence_report::states,
    retirement_report::Findings,
};

/// Requested operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Remove retired versions below a version from use.
    Retire {
        /// The lowest version to keep.
        before: TransitVersion,
    },
    /// Return removed versions to use.
    Restore { versions: Vec<TransitVersion> },
}

/// Result of a plan or its application.
#[derive(Debug)]
pub struct Outcome {
    /// The planned or applied change.
    pub plan: Plan,
    /// Findings from the evidence, if any was given.
    pub findings: Option<Findings>,
    /// Whether the state equals the plan.
    pub applied: bool,
}

/// Failure to plan or apply.
#[derive(Debug, thiserror::Error)]
pub enum RetirementError {
    /// The state is unusable.
    #[error(transparent)]
    State(#[from] StateError),
    /// No state exists.
    #[error(
        "there is no registry state at {}, so there is no version to retire or restore; nothing \
         was changed and no data is lost. If this node ever served, run recover-state; do not \
         start over with a new key",
        .0.display()
    )]
    NoState(PathBuf),
    /// Setting up the OpenBao client failed.
    #[error("{UNREAD}")]
    Connection(#[from] ConnectionError),
    /// Reading the key's metadata failed.
    #[error("{UNREAD}")]
    Metadata(#[from] CallFailure),
    /// The key's properties do not permit its use.
    #[error(
        "the key is not set up as this node relies on, so nothing was changed; no data is lost. \
         Correct in OpenBao what is named below and try again; do not recreate the key"
    )]
    Profile(#[from] ProfileRefused),
    /// Reading the evidence failed.
    #[error(transparent)]
    Evidence(#[from] EvidenceUnread),
    /// A domain rule forbids the operation.
    #[error(transparent)]
    Refused(#[from] PlanRefused),
    /// The state differs from the reviewed one.
    #[error(transparent)]
    Outdated(#[from] PlanOutdated),
    /// The change may be incomplete on disk.
    #[error(
        "the reviewed change could not be stored; no data is lost, and the state is the old or the \
         new one. Mend the cause and see with `inspect-state` which one it is: if the old one, \
         apply again; if the new one, the next start of the provider completes it. Do not delete \
         or edit either file"
    )]
    Commit(#[from] CommitError),
}

const UNREAD: &str = "the key's metadata could not be read from OpenBao, so it is not certain that \
     every version that is kept can be read; nothing was changed and no data is lost. Mend the \
     cause and try again; do not change the state by hand";

/// Plans the change and checks it with `evidence`. Read-only, without a lock.
///
/// # Errors
/// [`RetirementError`].
pub fn plan(
    config: &Config,
    wanted: &Wanted,
    evidence: Option<Asked<'_>>,
) -> Result<Outcome, RetirementError> {
    let document = document(config, config.state().load()?)?;
    plan_for(config, &document, wanted, evidence)
}

/// Applies the plan for the state with the hash `reviewed`, under the writer lock, unless
/// `evidence` forbids it.
///
/// The state is compared before any request, and read again before the write. The evidence is read
/// again in between, regardless of its result at the review.
///
/// # Errors
/// [`RetirementError`]. Except after [`RetirementError::Commit`], the only possible change is the
/// completed checkpoint of an interrupted commit.
pub fn apply(
    config: &Config,
    wanted: &Wanted,
    reviewed: &StateHash,
    evidence: Option<Asked<'_>>,
) -> Result<Outcome, RetirementError> {
    let locked = config.state().lock()?;
    let document = document(config, locked.load()?)?;
    if document.hash() != reviewed {
        return Err(RetirementError::Outdated(PlanOutdated {
            expected: reviewed.clone(),
            found: document.hash().clone(),
        }));
    }

    let outcome = plan_for(config, &document, wanted, evidence)?;
    if !outcome.may_be_applied() {
        return Ok(outcome);
    }

    let plan = outcome.plan.confirm(reviewed)?;
    let mut writer = locked.start_writing(MissingCheckpoint::Refuse)?;
    writer.carry_out(plan.clone())?;
    Ok(Outcome {
        plan: plan.into_plan(),
        applied: true,
        ..outcome
    })
}

impl Outcome {
    /// Whether the evidence permits the change.
    #[must_use]
    pub fn may_be_applied(&self) -> bool {
        let findings = self.findings.as_ref();
        findings.is_none_or(|findings| findings.verdict == Retirement::Allowed)
    }
}

/// The state to plan for. It must meet the requirements of a writer; otherwise the review and the
/// reading of evidence would be in vain.
fn document(config: &Config, stored: Stored) -> Result<Document, RetirementError> {
    let (state, checkpoint) = (config.state_path.document(), config.state_path.checkpoint());
    let unanchored = CheckpointStatus::Missing {
        first_generation: false,
    };
    if stored.anchor == unanchored {
        return Err(StateError::CheckpointMissing { state, checkpoint }.into());
    }
    stored.document.ok_or(RetirementError::NoState(state))
}

fn plan_for(
    config: &Config,
    document: &Document,
    wanted: &Wanted,
    evidence: Option<Asked<'_>>,
) -> Result<Outcome, RetirementError> {
    let metadata = connection::ask_for_key(config)??;
    let profile = KeyProfile::check(&metadata, &config.key.key_name)?;
    let plan = match wanted {
        Wanted::Retire { before } => plan_retirement(document, *before, &profile),
        Wanted::Restore { versions } => plan_restoration(document, versions, &profile),
    }?;
    let findings = match evidence {
        Some(evidence) => Some(find(document, &plan, profile, evidence)?),
        None => None,
    };
    Ok(Outcome {
        plan,
        findings,
        applied: false,
    })
}

fn find(
    document: &Document,
    plan: &Plan,
    profile: KeyProfile,
    evidence: Asked<'_>,
) -> Result<Findings, EvidenceUnread> {
    let registry = document.registry();
    let lineage = KeyResolver::new(
        Arc::clone(registry.scope()),
        LiveKey::Listed(profile),
        [VersionClaims::of_registry(OWN_STATE, registry)],
    );
    let sources = evidence.read(&lineage)?;
    let removed: Vec<_> = plan.removed().iter().map(|key| key.version()).collect();
    Ok(Findings {
        verdict: judge_retirement(&removed, sources.iter().map(|source| &source.evidence)),
        states: states(registry),
        sources,
    })
}
