//! The steps of a drill as checks. A title names the subject: it fits a passed and a failed step.

use kms_domain::recovery::pair::Verdict;
use kms_node::{
    advice::drill,
    report::{CheckName, CheckResult, ImpactClass, one_line},
};

use crate::{
    drill::{
        DrillRun, Stage,
        age::{Ages, Span},
    },
    recovery::{local_knowledge::LocalKnowledge, pair_report::PairReport},
};

const LEFTOVERS: CheckName = CheckName("drill.leftovers", "Leftovers of earlier drills");
const RECORD: CheckName = CheckName("openbao.record", "OpenBao snapshot of the record");
const AGE: CheckName = CheckName("drill.age", "Age of the backups");
const REMOVED: CheckName = CheckName("drill.removed", "Removal of the copy");

/// Each step as a check.
const STAGES: [(Stage, CheckName); 6] = [
    (
        Stage::Isolation,
        CheckName("drill.isolation", "Isolation of the copy"),
    ),
    (
        Stage::Inputs,
        CheckName("drill.inputs", "Backups, shares and program"),
    ),
    (
        Stage::Restore,
        CheckName("openbao.restore", "Restore of the OpenBao snapshot"),
    ),
    (Stage::Unseal, CheckName("openbao.shares", "Unseal shares")),
    (
        Stage::Start,
        CheckName("openbao.start", "Start of the copy"),
    ),
    (
        Stage::Verify,
        CheckName("pair.verified", "Decryption with the restored key"),
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
    name: CheckName,
) -> CheckResult {
    if stage > rehearsal.stage {
        return name.skip("the drill ended before");
    }
    if stage == rehearsal.stage
        && let Some(failure) = &rehearsal.failure
        && pair.is_none()
    {
        return name.fail(one_line(failure)).code(failure.cause().0.code);
    }
    match stage {
        Stage::Isolation => isolation(rehearsal, name),
        Stage::Start => {
            let version = rehearsal.version.as_deref().unwrap_or("unknown");
            name.pass().message(format!("OpenBao {version}"))
        }
        Stage::Unseal => match rehearsal.audit_devices {
            None | Some(0) => name.pass(),
            Some(devices) => {
                let message = format!("its {devices} audit devices were removed from the copy");
                name.pass().message(message)
            }
        },
        Stage::Verify => match pair {
            Some(pair) => verified(pair, name),
            None => name.skip("nothing was verified"),
        },
        Stage::Inputs | Stage::Restore => name.pass(),
    }
}

fn verified(pair: &PairReport, name: CheckName) -> CheckResult {
    match pair.result.judged {
        Verdict::Compatible => name.pass(),
        Verdict::Inconclusive => name.skip(pair.headline()),
        Verdict::CompatibleAfter | Verdict::Incompatible => name
            .fail(pair.headline())
            .impact("a restore of these two backups would not bring all data back")
            .impact_class(ImpactClass::DataRecovery),
    }
}

fn isolation(rehearsal: &DrillRun, name: CheckName) -> CheckResult {
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
        name.pass().message(message)
    } else {
        name.warn(message)
            .impact("the copy may have revoked leases or rotated passwords in other systems")
            .code(drill::NOT_ISOLATED.code)
    }
}

fn leftovers(rehearsal: &DrillRun) -> CheckResult {
    let Some(leftovers) = &rehearsal.leftovers else {
        return LEFTOVERS.skip("the drill ended before");
    };
    if leftovers.is_empty() {
        return LEFTOVERS.pass();
    }
    let paths = leftovers.iter().map(|path| path.display().to_string());
    let paths: Vec<_> = paths.collect();
    LEFTOVERS
        .warn(format!("removed: {}", paths.join(", ")))
        .impact("copies of OpenBao's encrypted data lay there since the machine went down")
}

fn record(known: &LocalKnowledge, rehearsal: &DrillRun) -> CheckResult {
    let Some(record) = &known.record else {
        return RECORD.skip("no --record was given");
    };
    match (&record.note().openbao, &rehearsal.openbao) {
        (None, _) => RECORD.skip("the record names no OpenBao snapshot"),
        (_, None) => RECORD.skip("the drill ended before"),
        (Some(noted), Some(found)) if noted.sha256 == found.sha256 => RECORD.pass(),
        (Some(noted), Some(_)) => {
            let message = format!("the record has another one: {}", noted.sha256_hex());
            RECORD.warn(message).code(drill::OTHER_SNAPSHOT.code)
        }
    }
}

fn age(ages: &Ages) -> CheckResult {
    let Some(most) = ages.most else {
        return AGE.skip("no --max-age was given");
    };
    let too_old: Vec<_> = ages.too_old().map(|age| age.to_string()).collect();
    match (&*too_old, &ages.etcd, &ages.openbao) {
        ([], Some(_), Some(_)) => AGE.pass(),
        ([], ..) => AGE.skip("the drill ended before"),
        (too_old, ..) => {
            let most = Span(most);
            let message = format!(
                "older than {most}, or of unknown age: {}",
                too_old.join("; ")
            );
            AGE.fail(message)
                .impact("a restore would lose later changes")
                .impact_class(ImpactClass::DataRecovery)
                .code(drill::OUTDATED.code)
        }
    }
}

fn removed(rehearsal: &DrillRun) -> CheckResult {
    match &rehearsal.not_removed {
        None => REMOVED.pass(),
        Some((path, error)) => REMOVED
            .fail(format!("{}: {error}", path.display()))
            .code(drill::LEFTOVERS.code),
    }
}
