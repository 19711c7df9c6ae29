//! Retiring and restoring key versions on this node: gather, let the domain plan, and, once an
//! operator has reviewed the plan, commit it. Implements `docs/format/state-document.md`
//! section 10.
//!
//! OpenBao is read and never changed.

use std::{path::PathBuf, sync::Arc};

use kms_domain::{
    recovery::{
        claims::VersionClaims,
        evidence::{Retirement, judge_retirement},
        origin::{Lineage, LiveKey},
        rebuild::OWN_STATE,
    },
    registry::{
        anchor::Anchor,
        document::{Document, StateHash},
        retire::{Plan, PlanOutdated, PlanRefused, plan_restoration, plan_retirement},
    },
    transit::{KeyProfile, ProfileRefused, TransitVersion},
};

use crate::{
    auth::CallFailure,
    config::Config,
    connection::{self, ConnectionError},
    recovery::{
        evidence::{Asked, EvidenceUnread},
        evidence_report::states,
        retirement_report::Findings,
    },
    state::{CommitError, MissingCheckpoint, StateError, Stored},
};

/// What the operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// That retired versions below this one decrypt no more.
    Retire {
        /// The lowest version to keep.
        before: TransitVersion,
    },
    /// That these removed versions decrypt again.
    Restore {
        /// Exactly these.
        versions: Vec<TransitVersion>,
    },
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What would be done, or was.
    pub plan: Plan,
    /// What the evidence says of it, if any was given.
    pub findings: Option<Findings>,
    /// Whether the state has become what was planned.
    pub applied: bool,
}

/// Why nothing was planned or applied.
#[derive(Debug, thiserror::Error)]
pub enum RetirementError {
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no state to change.
    #[error(
        "there is no registry state at {}, so there is no version to retire or restore; nothing \
         was changed and no data is lost. If this node ever served, run recover-state; do not \
         start over with a new key",
        .0.display()
    )]
    NoState(PathBuf),
    /// OpenBao could not be asked.
    #[error("{UNREAD}")]
    Connection(#[from] ConnectionError),
    /// OpenBao did not tell what the key has.
    #[error("{UNREAD}")]
    Metadata(#[from] CallFailure),
    /// The key must not be used.
    #[error(
        "the key is not set up as this node relies on, so nothing was changed; no data is lost. \
         Correct in OpenBao what is named below and try again; do not recreate the key"
    )]
    Profile(#[from] ProfileRefused),
    /// Whether a version is needed could not be learned.
    #[error(transparent)]
    Evidence(#[from] EvidenceUnread),
    /// The domain refuses.
    #[error(transparent)]
    Refused(#[from] PlanRefused),
    /// The state is not the reviewed one.
    #[error(transparent)]
    Outdated(#[from] PlanOutdated),
    /// The change is not durable.
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

/// What would be done, and what `evidence` says of it. Changes nothing and takes no lock.
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

/// Does what was planned for the state with the hash `reviewed`, under the writer's lock, unless
/// `evidence` is against it.
///
/// The state is compared before anything is asked or computed, and read once more before it is
/// written. The evidence is read in between, whatever it said when the plan was reviewed.
///
/// # Errors
/// [`RetirementError`]; but for [`RetirementError::Commit`] nothing was changed, other than a
/// checkpoint that an interrupted commit had left behind.
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
    /// Whether nothing that was read is against it.
    #[must_use]
    pub fn may_be_applied(&self) -> bool {
        let findings = self.findings.as_ref();
        findings.is_none_or(|findings| findings.verdict == Retirement::Allowed)
    }
}

/// The state to plan for: the one that a writer would accept, so that no plan is reviewed and no
/// evidence read in vain.
fn document(config: &Config, stored: Stored) -> Result<Document, RetirementError> {
    let (state, checkpoint) = (config.state_path.document(), config.state_path.checkpoint());
    let unanchored = Anchor::Missing {
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
    let lineage = Lineage::new(
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
