//! What was asked of the node, the key and the evidence, check by check.

use kms_domain::recovery::rebuild::{Found, OWN_STATE, RebuildPlan, Refusal, Unreadable};

use crate::{
    config::Config,
    recovery::recover_state::{Exhibited, Kind, Obstacle, Weighed},
    report::{Check, ImpactClass, one_line},
    state::{LockError, StateError, rebuild::Remains},
};

/// What the checks are made of.
#[derive(Clone, Copy)]
pub(super) struct Checked<'a> {
    pub(super) config: &'a Config,
    pub(super) weighed: &'a Weighed,
}

/// What a check is about.
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
            Self::Provider => ("provider.stopped", "No process uses the state"),
            Self::Directory => ("state.directory", "The state directory can be used"),
            Self::Remains => ("state.remains", "What is left of the state may be replaced"),
            Self::Key => ("openbao.key", "The key is there and may be used"),
            Self::Evidence => ("evidence.read", "The evidence was read and shows something"),
            Self::Identity => (
                "evidence.identity",
                "The evidence is of this configuration and of this key",
            ),
            Self::Mapped => ("key_ids.mapped", "Every key_id is a version of the key"),
            Self::Decrypts => ("deks.decrypt", "The encrypted DEKs decrypt"),
            Self::Accounted => (
                "versions.accounted",
                "No version is given up that may be needed",
            ),
            Self::Active => ("active.known", "The version that encrypts is known"),
            Self::Plan => ("plan.reviewed", "The plan is the one that was reviewed"),
        }
    }

    fn of_obstacle(obstacle: &Obstacle) -> Self {
        match obstacle {
            Obstacle::State(StateError::Lock(LockError::Locked { .. })) => Self::Provider,
            Obstacle::State(_) => Self::Directory,
            Obstacle::Connection(_)
            | Obstacle::Metadata(_)
            | Obstacle::NoKey(_)
            | Obstacle::Profile(_)
            | Obstacle::KeyMoved => Self::Key,
            Obstacle::Unanswered { .. } => Self::Decrypts,
            Obstacle::Etcd { .. }
            | Obstacle::Unread { .. }
            | Obstacle::Unhashed { .. }
            | Obstacle::Unreadable { .. }
            | Obstacle::Record { .. }
            | Obstacle::PeerDocument { .. }
            | Obstacle::PeerCheckpoint { .. }
            | Obstacle::PeerIsOwn { .. } => Self::Evidence,
            Obstacle::Outdated(_) => Self::Plan,
        }
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::StateInPlace { .. }
            | Refusal::OtherState { .. }
            | Refusal::NothingToReplace { .. } => Self::Remains,
            Refusal::NoEvidence | Refusal::NoObjects { .. } => Self::Evidence,
            Refusal::OtherIdentity { .. }
            | Refusal::PeerNoPair { .. }
            | Refusal::PeerUnanchored { .. }
            | Refusal::AboveLatest { .. }
            | Refusal::Recreated { .. }
            | Refusal::Contradiction { .. }
            | Refusal::NeverRotated { .. } => Self::Identity,
            Refusal::Undecryptable { .. } => Self::Mapped,
            Refusal::NotDecrypted { .. } | Refusal::Untried { .. } => Self::Decrypts,
            Refusal::Unaccounted { .. }
            | Refusal::Unreadable { .. }
            | Refusal::AcceptanceIdle { .. } => Self::Accounted,
            Refusal::ActiveUnusable { .. }
            | Refusal::ActiveBlocked { .. }
            | Refusal::ActiveUnproven { .. }
            | Refusal::ActiveRemoved { .. }
            | Refusal::Undecided { .. }
            | Refusal::AssumptionWrong { .. }
            | Refusal::AssumptionIdle { .. }
            | Refusal::Document(_) => Self::Active,
        }
    }
}

pub(super) fn checks(checked: Checked<'_>) -> Vec<Check> {
    let subjects = Subject::ALL.iter();
    let mut all: Vec<_> = subjects.map(|subject| check(checked, *subject)).collect();
    let of_plan = |it: &Obstacle| Subject::of_obstacle(it) == Subject::Plan;
    if checked.weighed.obstacles.iter().any(of_plan) {
        all.push(check(checked, Subject::Plan));
    }
    all
}

fn check(checked: Checked<'_>, subject: Subject) -> Check {
    let weighed = checked.weighed;
    let (id, title) = subject.name();
    let obstacles = weighed.obstacles.iter();
    let obstacles = obstacles.filter(|it| Subject::of_obstacle(it) == subject);
    let refusals = weighed.refusals.iter();
    let refusals: Vec<_> = refusals
        .filter(|it| Subject::of_refusal(it) == subject)
        .collect();
    let told: Vec<_> = obstacles
        .map(|it| about(it.evidence().as_slice(), &one_line(it)))
        .chain(
            refusals
                .iter()
                .map(|it| about(it.evidence(), &it.to_string())),
        )
        .collect();
    if !told.is_empty() {
        let failed =
            Check::fail(id, title, told.join("; ")).impact_class(ImpactClass::DataRecovery);
        // What is left of this node's own state names another configuration.
        let own = |it: &&Refusal| matches!(it, Refusal::OtherIdentity { evidence, .. } if evidence == OWN_STATE);
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

fn passed(checked: Checked<'_>, subject: Subject) -> Check {
    let weighed = checked.weighed;
    let (id, title) = subject.name();
    // Nothing was weighed without the files and the key, nor as a whole without all evidence.
    let could_weigh = weighed.remains.is_some() && weighed.key.is_some();
    let unread = |it: &Obstacle| Subject::of_obstacle(it) == Subject::Evidence;
    let weighed_all = could_weigh && !weighed.obstacles.iter().any(unread);
    let skip = || Check::skip(id, title, "what comes before it failed");
    match subject {
        // A plan only tells; the application takes the lock.
        Subject::Provider => match &weighed.holder {
            None => Check::pass(id, title),
            Some(holder) => Check::warn(
                id,
                title,
                format!("process {} ({}) holds it", holder.pid, holder.program),
            )
            .remediation("stop it before the plan is applied"),
        },
        Subject::Directory => match &weighed.remains {
            Some(_) => {
                let path = checked.config.state_path.directory();
                Check::pass(id, title).message(path.display().to_string())
            }
            None => skip(),
        },
        Subject::Remains => match &weighed.remains {
            Some(remains) => Check::pass(id, title).message(describe(remains)),
            None => skip(),
        },
        Subject::Key => match &weighed.key {
            Some(key) => Check::pass(id, title).message(format!(
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
            let read = weighed.exhibits.len();
            Check::pass(id, title).message(format!("{read} read"))
        }
        Subject::Mapped | Subject::Decrypts if weighed_all => match has_etcd(&weighed.exhibits) {
            true => match accepted(weighed, subject) {
                0 => Check::pass(id, title),
                objects => Check::warn(
                    id,
                    title,
                    format!("{objects} objects stay unreadable, as accepted"),
                ),
            },
            false => Check::skip(id, title, "no etcd data was given"),
        },
        Subject::Identity | Subject::Accounted if weighed_all => Check::pass(id, title),
        Subject::Active => match &weighed.plan {
            Some(plan) => Check::pass(id, title).message(format!(
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

fn has_etcd(exhibits: &[Exhibited]) -> bool {
    let etcd = |it: &Exhibited| matches!(it.kind, Kind::Etcd | Kind::EtcdSnapshot);
    exhibits.iter().any(etcd)
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
