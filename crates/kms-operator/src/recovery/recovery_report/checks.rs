//! Checks of the node, the key and the evidence.

use std::collections::BTreeSet;

use kms_domain::recovery::rebuild::{Found, RebuildPlan, Unreadable};
use kms_node::{
    config::Config,
    report::{CheckName, CheckResult, ImpactClass, one_line},
    state::rebuild::Remains,
};

use super::{
    causes::{
        ACCOUNTED, ACTIVE, Blocking, DECRYPTS, DIRECTORY, EVIDENCE, IDENTITY, KEY, MAPPED, PLAN,
        PROVIDER, REMAINS,
    },
    stay_unreadable,
};
use crate::recovery::recover_state::{GatheredItem, Kind, Weighed};

/// Those of every report. That of a plan is only told where it fails.
const ALL: [CheckName; 10] = [
    PROVIDER, DIRECTORY, REMAINS, KEY, EVIDENCE, IDENTITY, MAPPED, DECRYPTS, ACCOUNTED, ACTIVE,
];

pub(super) fn checks(
    config: &Config,
    weighed: &Weighed,
    findings: &[Blocking],
) -> Vec<CheckResult> {
    let unread = findings
        .iter()
        .any(|it| it.is_input && it.subject == EVIDENCE);
    let outdated = findings.iter().any(|it| it.subject == PLAN);
    let mut checks = Vec::new();
    for subject in ALL.into_iter().chain(outdated.then_some(PLAN)) {
        let findings: Vec<_> = findings.iter().filter(|it| it.subject == subject).collect();
        checks.push(match findings.is_empty() {
            true => passed(config, weighed, subject, unread),
            false => failed(subject, &findings),
        });
    }
    checks
}

fn failed(subject: CheckName, findings: &[&Blocking]) -> CheckResult {
    let told: Vec<_> = findings
        .iter()
        .map(|it| match &*it.evidence {
            [one] => format!("{one}: {}", it.message),
            _ => it.message.clone(),
        })
        .collect();
    let impacts: BTreeSet<_> = findings.iter().map(|it| &*it.advice.data).collect();
    let failed = subject
        .fail(told.join("; "))
        .impact(Vec::from_iter(impacts).join("; "))
        .impact_class(ImpactClass::DataRecovery);
    match findings.iter().any(|it| it.of_configuration) {
        true => failed.of_configuration(),
        false => failed,
    }
}

/// `unread` if a part of the evidence was not read.
fn passed(config: &Config, weighed: &Weighed, subject: CheckName, unread: bool) -> CheckResult {
    // Nothing was weighed without the files and the key, nor as a whole without all evidence.
    let could_weigh = weighed.remains.is_some() && weighed.key.is_some();
    let weighed_all = could_weigh && !unread;
    let skip = || subject.skip("what comes before it failed");
    match subject {
        // A plan only tells; the application takes the lock.
        PROVIDER => match &weighed.holder {
            None => subject.pass(),
            Some(holder) => subject.warn(format!(
                "process {} ({}) holds it",
                holder.pid, holder.program
            )),
        },
        DIRECTORY => match &weighed.remains {
            Some(_) => {
                let path = config.state_path.directory();
                subject.pass().message(path.display().to_string())
            }
            None => skip(),
        },
        REMAINS => match &weighed.remains {
            Some(remains) => subject.pass().message(describe(remains)),
            None => skip(),
        },
        KEY => match &weighed.key {
            Some(key) => subject.pass().message(format!(
                "latest version {}, min_available_version {}, min_decryption_version {}, \
                 min_encryption_version {}",
                key.latest(),
                key.min_available(),
                key.min_decryption(),
                key.min_encryption()
            )),
            None => skip(),
        },
        EVIDENCE if could_weigh => {
            let read = weighed.items.len();
            subject.pass().message(format!("{read} read"))
        }
        MAPPED | DECRYPTS if weighed_all => match has_etcd(&weighed.items) {
            true => match accepted(weighed, subject) {
                0 => subject.pass(),
                objects => subject.warn(format!("{}, as accepted", stay_unreadable(objects))),
            },
            false => subject.skip("no etcd data was given"),
        },
        IDENTITY | ACCOUNTED if weighed_all => subject.pass(),
        ACTIVE => match &weighed.plan {
            Some(plan) => subject.pass().message(format!(
                "version {}",
                plan.next().registry().active().version()
            )),
            None => skip(),
        },
        _ => skip(),
    }
}

/// Objects in a plan that fail the check and are accepted.
fn accepted(weighed: &Weighed, subject: CheckName) -> u64 {
    let unreadable = weighed.plan.iter().flat_map(RebuildPlan::unreadable);
    let of_subject = unreadable.filter(|it| match it.is_refused() {
        true => subject == DECRYPTS,
        false => subject == MAPPED,
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
        Found::Legacy(document) => {
            format!(
                "a state of a preview, of generation {}",
                document.generation()
            )
        }
        Found::Valid(document) => format!("a state of generation {}", document.generation()),
    };
    let checkpoint = match &remains.files.checkpoint {
        Found::Nothing => "no checkpoint".to_owned(),
        Found::Damaged { .. } => match &remains.checkpoint_problem {
            Some(problem) => format!("a damaged checkpoint ({})", one_line(problem)),
            None => "a damaged checkpoint".to_owned(),
        },
        Found::Valid(checkpoint) | Found::Legacy(checkpoint) => {
            format!("a checkpoint of generation {}", checkpoint.generation())
        }
    };
    format!("{document} and {checkpoint}")
}
