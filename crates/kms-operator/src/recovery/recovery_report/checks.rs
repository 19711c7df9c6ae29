//! Checks of the node, the key and the evidence.

use std::collections::BTreeSet;

use kms_domain::recovery::rebuild::{Found, OWN_STATE, PlanBlocker, RebuildPlan, Unreadable};
use kms_node::{
    config::Config,
    report::{CheckResult, ImpactClass, one_line},
    state::{LockError, StateError, rebuild::Remains},
};

use super::{causes::Advisor, stay_unreadable};
use crate::recovery::recover_state::{GatheredItem, InputError, Kind, Weighed};

/// Input of the checks.
#[derive(Clone, Copy)]
struct Checked<'a> {
    config: &'a Config,
    weighed: &'a Weighed,
    advisor: &'a Advisor<'a>,
}

/// Subject of a check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Provider,
    Directory,
    Remains,
    Key,
    Evidence,
    Identity,
    Mapped,
    Decrypts,
    Accounted,
    Active,
    Plan,
}

impl Subject {
    /// Those of every report. That of a plan is only told where it fails.
    const ALL: [Self; 10] = [
        Self::Provider,
        Self::Directory,
        Self::Remains,
        Self::Key,
        Self::Evidence,
        Self::Identity,
        Self::Mapped,
        Self::Decrypts,
        Self::Accounted,
        Self::Active,
    ];

    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Provider => ("provider.stopped", "Use of the state by a process"),
            Self::Directory => ("state.directory", "State directory"),
            Self::Remains => ("state.remains", "Remaining files of the state"),
            Self::Key => ("openbao.key", "Key and its settings"),
            Self::Evidence => ("evidence.read", "Reading of the evidence"),
            Self::Identity => ("evidence.identity", "Identity of the evidence"),
            Self::Mapped => ("key_ids.mapped", "Resolution of each key_id"),
            Self::Decrypts => ("deks.decrypt", "Decryption of the encrypted DEKs"),
            Self::Accounted => ("versions.accounted", "Versions in use by the evidence"),
            Self::Active => ("active.known", "Active version"),
            Self::Plan => ("plan.reviewed", "Match with the reviewed plan"),
        }
    }

    fn of_obstacle(input_error: &InputError) -> Self {
        match input_error {
            InputError::State(StateError::Lock(LockError::Locked { .. })) => Self::Provider,
            InputError::State(_) => Self::Directory,
            InputError::Connection(_)
            | InputError::Metadata(_)
            | InputError::NoKey(_)
            | InputError::Profile(_)
            | InputError::KeyMoved => Self::Key,
            InputError::Unanswered { .. } => Self::Decrypts,
            InputError::Etcd { .. }
            | InputError::Unread { .. }
            | InputError::Unhashed { .. }
            | InputError::Unreadable { .. }
            | InputError::Record { .. }
            | InputError::PeerDocument { .. }
            | InputError::PeerCheckpoint { .. }
            | InputError::PeerIsOwn { .. } => Self::Evidence,
            InputError::Outdated(_) => Self::Plan,
        }
    }

    fn of_refusal(refusal: &PlanBlocker) -> Self {
        match refusal {
            PlanBlocker::StateInPlace { .. }
            | PlanBlocker::OtherState { .. }
            | PlanBlocker::NothingToReplace { .. } => Self::Remains,
            PlanBlocker::NoEvidence | PlanBlocker::NoObjects { .. } => Self::Evidence,
            PlanBlocker::OtherIdentity { .. }
            | PlanBlocker::PeerNoPair { .. }
            | PlanBlocker::PeerUnanchored { .. }
            | PlanBlocker::AboveLatest { .. }
            | PlanBlocker::Recreated { .. }
            | PlanBlocker::Contradiction { .. }
            | PlanBlocker::NeverRotated { .. } => Self::Identity,
            PlanBlocker::Undecryptable { .. } => Self::Mapped,
            PlanBlocker::NotDecrypted { .. } | PlanBlocker::Untried { .. } => Self::Decrypts,
            PlanBlocker::Unresolved { .. }
            | PlanBlocker::Unreadable { .. }
            | PlanBlocker::AcceptanceIdle { .. } => Self::Accounted,
            PlanBlocker::ActiveUnusable { .. }
            | PlanBlocker::ActiveBlocked { .. }
            | PlanBlocker::ActiveUnproven { .. }
            | PlanBlocker::ActiveRemoved { .. }
            | PlanBlocker::Undecided { .. }
            | PlanBlocker::AssumptionWrong { .. }
            | PlanBlocker::AssumptionIdle { .. }
            | PlanBlocker::Document(_) => Self::Active,
        }
    }
}

pub(super) fn checks(
    config: &Config,
    weighed: &Weighed,
    advisor: &Advisor<'_>,
) -> Vec<CheckResult> {
    let checked = Checked {
        config,
        weighed,
        advisor,
    };
    let subjects = Subject::ALL.iter();
    let mut all: Vec<_> = subjects.map(|subject| check(checked, *subject)).collect();
    let of_plan = |it: &InputError| Subject::of_obstacle(it) == Subject::Plan;
    if checked.weighed.obstacles.iter().any(of_plan) {
        all.push(check(checked, Subject::Plan));
    }
    all
}

fn check(checked: Checked<'_>, subject: Subject) -> CheckResult {
    let weighed = checked.weighed;
    let (id, title) = subject.name();
    let obstacles = weighed.obstacles.iter();
    let obstacles: Vec<_> = obstacles
        .filter(|it| Subject::of_obstacle(it) == subject)
        .collect();
    let refusals = weighed.refusals.iter();
    let refusals: Vec<_> = refusals
        .filter(|it| Subject::of_refusal(it) == subject)
        .collect();
    let told: Vec<_> = obstacles
        .iter()
        .map(|it| about(it.evidence().as_slice(), &one_line(it)))
        .chain(
            refusals
                .iter()
                .map(|it| about(it.evidence(), &it.to_string())),
        )
        .collect();
    if !told.is_empty() {
        let advisor = checked.advisor;
        let of_inputs = obstacles.iter().map(|it| advisor.of_input(it).data);
        let of_blockers = refusals.iter().map(|it| advisor.of_blocker(it).data);
        let impacts: BTreeSet<_> = of_inputs.chain(of_blockers).collect();
        let failed = CheckResult::fail(id, title, told.join("; "))
            .impact(Vec::from_iter(impacts).join("; "))
            .impact_class(ImpactClass::DataRecovery);
        // The remains of this node's own state name another configuration.
        let own = |it: &&PlanBlocker| matches!(it, PlanBlocker::OtherIdentity { evidence, .. } if evidence == OWN_STATE);
        return match refusals.iter().copied().any(|it| own(&it)) {
            true => failed.of_configuration(),
            false => failed,
        };
    }
    passed(checked, subject)
}

fn about(evidence: &[String], text: &str) -> String {
    match evidence {
        [one] => format!("{one}: {text}"),
        _ => text.to_owned(),
    }
}

fn passed(checked: Checked<'_>, subject: Subject) -> CheckResult {
    let weighed = checked.weighed;
    let (id, title) = subject.name();
    // Nothing was weighed without the files and the key, nor as a whole without all evidence.
    let could_weigh = weighed.remains.is_some() && weighed.key.is_some();
    let unread = |it: &InputError| Subject::of_obstacle(it) == Subject::Evidence;
    let weighed_all = could_weigh && !weighed.obstacles.iter().any(unread);
    let skip = || CheckResult::skip(id, title, "what comes before it failed");
    match subject {
        // A plan only tells; the application takes the lock.
        Subject::Provider => match &weighed.holder {
            None => CheckResult::pass(id, title),
            Some(holder) => CheckResult::warn(
                id,
                title,
                format!("process {} ({}) holds it", holder.pid, holder.program),
            ),
        },
        Subject::Directory => match &weighed.remains {
            Some(_) => {
                let path = checked.config.state_path.directory();
                CheckResult::pass(id, title).message(path.display().to_string())
            }
            None => skip(),
        },
        Subject::Remains => match &weighed.remains {
            Some(remains) => CheckResult::pass(id, title).message(describe(remains)),
            None => skip(),
        },
        Subject::Key => match &weighed.key {
            Some(key) => CheckResult::pass(id, title).message(format!(
                "latest version {}, min_available_version {}, min_decryption_version {}, \
                 min_encryption_version {}",
                key.latest(),
                key.min_available(),
                key.min_decryption(),
                key.min_encryption()
            )),
            None => skip(),
        },
        Subject::Evidence if could_weigh => {
            let read = weighed.items.len();
            CheckResult::pass(id, title).message(format!("{read} read"))
        }
        Subject::Mapped | Subject::Decrypts if weighed_all => match has_etcd(&weighed.items) {
            true => match accepted(weighed, subject) {
                0 => CheckResult::pass(id, title),
                objects => CheckResult::warn(
                    id,
                    title,
                    format!("{}, as accepted", stay_unreadable(objects)),
                ),
            },
            false => CheckResult::skip(id, title, "no etcd data was given"),
        },
        Subject::Identity | Subject::Accounted if weighed_all => CheckResult::pass(id, title),
        Subject::Active => match &weighed.plan {
            Some(plan) => CheckResult::pass(id, title).message(format!(
                "version {}",
                plan.next().registry().active().version()
            )),
            None => skip(),
        },
        Subject::Evidence
        | Subject::Identity
        | Subject::Accounted
        | Subject::Mapped
        | Subject::Decrypts
        | Subject::Plan => skip(),
    }
}

/// Objects in a plan that fail the check and are accepted.
fn accepted(weighed: &Weighed, subject: Subject) -> u64 {
    let unreadable = weighed.plan.iter().flat_map(RebuildPlan::unreadable);
    let of_subject = unreadable.filter(|it| match it.is_refused() {
        true => subject == Subject::Decrypts,
        false => subject == Subject::Mapped,
    });
    of_subject
        .map(Unreadable::objects)
        .fold(0, u64::saturating_add)
}

fn has_etcd(items: &[GatheredItem]) -> bool {
    let etcd = |it: &GatheredItem| matches!(it.kind, Kind::Etcd | Kind::EtcdSnapshot);
    items.iter().any(etcd)
}

fn describe(remains: &Remains) -> String {
    let document = match &remains.files.document {
        Found::Nothing => "no state".to_owned(),
        Found::Damaged { .. } => match &remains.document_problem {
            Some(problem) => format!("a damaged state ({})", one_line(problem)),
            None => "a damaged state".to_owned(),
        },
        Found::Valid(document) => format!("a state of generation {}", document.generation()),
    };
    let checkpoint = match &remains.files.checkpoint {
        Found::Nothing => "no checkpoint".to_owned(),
        Found::Damaged { .. } => match &remains.checkpoint_problem {
            Some(problem) => format!("a damaged checkpoint ({})", one_line(problem)),
            None => "a damaged checkpoint".to_owned(),
        },
        Found::Valid(checkpoint) => {
            format!("a checkpoint of generation {}", checkpoint.generation())
        }
    };
    format!("{document} and {checkpoint}")
}
