//! The steps of a drill as checks. A title names the subject: it fits a passed and a failed step.

use kms_domain::recovery::pair::Verdict;
use kms_node::{
    advice::drill,
    report::{CheckResult, ImpactClass, one_line},
};

use crate::{
    drill::{
        DrillRun, Stage,
        age::{Ages, Hours},
    },
    recovery::{local_knowledge::LocalKnowledge, pair_report::PairReport},
};

/// Identifier and title of a check. Stable.
type Name = (&'static str, &'static str);

const LEFTOVERS: Name = ("drill.leftovers", "Leftovers of earlier drills");
const RECORD: Name = ("openbao.record", "OpenBao snapshot of the record");
const AGE: Name = ("drill.age", "Age of the backups");
const REMOVED: Name = ("drill.removed", "Removal of the copy");

/// Each step as a check.
const STAGES: [(Stage, Name); 6] = [
    (
        Stage::Isolation,
        ("drill.isolation", "Isolation of the copy"),
    ),
    (
        Stage::Inputs,
        ("drill.inputs", "Backups, shares and program"),
    ),
    (
        Stage::Restore,
        ("openbao.restore", "Restore of the OpenBao snapshot"),
    ),
    (Stage::Unseal, ("openbao.shares", "Unseal shares")),
    (Stage::Start, ("openbao.start", "Start of the copy")),
    (
        Stage::Verify,
        ("pair.verified", "Decryption with the restored key"),
    ),
];

/// All of them, in their order.
pub(super) fn checks(
    known: &LocalKnowledge,
    rehearsal: &DrillRun,
    ages: &Ages,
    pair: Option<&PairReport>,
) -> Vec<CheckResult> {
    let mut checks = Vec::new();
    for (stage, name) in STAGES {
        checks.push(stage_check(rehearsal, pair, stage, name));
        match stage {
            Stage::Isolation => checks.push(leftovers(rehearsal)),
            Stage::Inputs => {
                checks.push(record(known, rehearsal));
                checks.push(age(ages));
            }
            Stage::Restore | Stage::Unseal | Stage::Start | Stage::Verify => {}
        }
    }
    checks.push(removed(rehearsal));
    checks
}

fn stage_check(
    rehearsal: &DrillRun,
    pair: Option<&PairReport>,
    stage: Stage,
    (id, title): Name,
) -> CheckResult {
    if stage > rehearsal.stage {
        return CheckResult::skip(id, title, "the drill ended before");
    }
    if stage == rehearsal.stage
        && let Some(failure) = &rehearsal.failure
        && pair.is_none()
    {
        return CheckResult::fail(id, title, one_line(failure)).code(failure.cause().0.code);
    }
    match stage {
        Stage::Isolation => isolation(rehearsal, (id, title)),
        Stage::Start => {
            let version = rehearsal.version.as_deref().unwrap_or("unknown");
            CheckResult::pass(id, title).message(format!("OpenBao {version}"))
        }
        Stage::Unseal => match rehearsal.audit_devices {
            None | Some(0) => CheckResult::pass(id, title),
            Some(devices) => {
                let message = format!("its {devices} audit devices were removed from the copy");
                CheckResult::pass(id, title).message(message)
            }
        },
        Stage::Verify => match pair {
            Some(pair) => verified(pair, (id, title)),
            None => CheckResult::skip(id, title, "nothing was verified"),
        },
        Stage::Inputs | Stage::Restore => CheckResult::pass(id, title),
    }
}

fn verified(pair: &PairReport, (id, title): Name) -> CheckResult {
    match pair.result.judged {
        Verdict::Compatible => CheckResult::pass(id, title),
        Verdict::Inconclusive => CheckResult::skip(id, title, pair.headline()),
        Verdict::CompatibleAfter | Verdict::Incompatible => {
            CheckResult::fail(id, title, pair.headline())
                .impact("a restore of these two backups would not bring all data back")
                .impact_class(ImpactClass::DataRecovery)
        }
    }
}

fn isolation(rehearsal: &DrillRun, (id, title): Name) -> CheckResult {
    let isolation = &rehearsal.isolation;
    let network = match &isolation.interfaces {
        Ok(interfaces) if interfaces.is_empty() => "there is no network but loopback".to_owned(),
        Ok(interfaces) => {
            let names: Vec<_> = interfaces.iter().map(String::as_str).collect();
            format!("this machine's network is there ({})", names.join(", "))
        }
        Err(error) => format!("whether there is a network is unknown ({error})"),
    };
    let confined = match &isolation.confined {
        Ok(()) => "the kernel kept the copy from TCP connections and from other files".to_owned(),
        Err(why) => format!("the kernel did not confine the copy: {why}"),
    };
    let message = format!("{network}; {confined}");
    if isolation.holds() {
        CheckResult::pass(id, title).message(message)
    } else {
        CheckResult::warn(id, title, message)
            .impact("the copy may have revoked leases or rotated passwords in other systems")
            .code(drill::NOT_ISOLATED.code)
    }
}

fn leftovers(rehearsal: &DrillRun) -> CheckResult {
    let (id, title) = LEFTOVERS;
    let Some(leftovers) = &rehearsal.leftovers else {
        return CheckResult::skip(id, title, "the drill ended before");
    };
    if leftovers.is_empty() {
        return CheckResult::pass(id, title);
    }
    let paths = leftovers.iter().map(|path| path.display().to_string());
    let paths: Vec<_> = paths.collect();
    CheckResult::warn(id, title, format!("removed: {}", paths.join(", ")))
        .impact("copies of OpenBao's encrypted data lay there since the machine went down")
}

fn record(known: &LocalKnowledge, rehearsal: &DrillRun) -> CheckResult {
    let (id, title) = RECORD;
    let Some(record) = &known.record else {
        return CheckResult::skip(id, title, "no --record was given");
    };
    match (&record.note().openbao, &rehearsal.openbao) {
        (None, _) => CheckResult::skip(id, title, "the record names no OpenBao snapshot"),
        (_, None) => CheckResult::skip(id, title, "the drill ended before"),
        (Some(noted), Some(found)) if noted.sha256 == found.sha256 => CheckResult::pass(id, title),
        (Some(noted), Some(_)) => {
            let message = format!("the record has another one: {}", noted.sha256_hex());
            CheckResult::warn(id, title, message).code(drill::OTHER_SNAPSHOT.code)
        }
    }
}

fn age(ages: &Ages) -> CheckResult {
    let (id, title) = AGE;
    let Some(most) = ages.most else {
        return CheckResult::skip(id, title, "no --max-age was given");
    };
    let too_old: Vec<_> = ages.too_old().map(|age| age.to_string()).collect();
    match (&*too_old, &ages.etcd, &ages.openbao) {
        ([], Some(_), Some(_)) => CheckResult::pass(id, title),
        ([], ..) => CheckResult::skip(id, title, "the drill ended before"),
        (too_old, ..) => {
            let most = Hours(most);
            let message = format!("older than {most}: {}", too_old.join("; "));
            CheckResult::fail(id, title, message)
                .impact("a restore would lose what was written since")
                .impact_class(ImpactClass::DataRecovery)
                .code(drill::OUTDATED.code)
        }
    }
}

fn removed(rehearsal: &DrillRun) -> CheckResult {
    let (id, title) = REMOVED;
    match &rehearsal.not_removed {
        None => CheckResult::pass(id, title),
        Some((path, error)) => CheckResult::fail(id, title, format!("{}: {error}", path.display()))
            .code(drill::COPY_LEFT.code),
    }
}
