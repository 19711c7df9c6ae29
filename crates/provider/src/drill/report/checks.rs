//! How a drill went, step by step.

use kms_domain::recovery::pair::Verdict;

use crate::{
    drill::{
        Rehearsal, Stage,
        age::{Ages, Hours},
    },
    recovery::{pair_report::PairReport, witness::Witnesses},
    report::{Check, ImpactClass, one_line},
};

/// Identifier and title of a check. Stable.
type Name = (&'static str, &'static str);

const LEFTOVERS: Name = ("drill.leftovers", "Earlier drills have left nothing");
const RECORD: Name = (
    "openbao.record",
    "The OpenBao snapshot is that of the record",
);
const AGE: Name = ("drill.age", "The backups are young enough");
const REMOVED: Name = ("drill.removed", "Nothing of the copy is left");

/// Each step as a check.
const STAGES: [(Stage, Name); 6] = [
    (
        Stage::Isolation,
        ("drill.isolation", "The copy cannot reach other systems"),
    ),
    (
        Stage::Inputs,
        ("drill.inputs", "Backups, shares and program are there"),
    ),
    (
        Stage::Restore,
        ("openbao.restore", "OpenBao takes the snapshot"),
    ),
    (
        Stage::Unseal,
        ("openbao.shares", "The shares open the snapshot"),
    ),
    (
        Stage::Start,
        ("openbao.start", "The copy is unsealed and serves"),
    ),
    (
        Stage::Verify,
        ("pair.verified", "Every object opens with the restored key"),
    ),
];

const ISOLATE: &str = "run it with packaging/systemd/bao-kms-drill.service, or in another way without \
     a network, such as: systemd-run --pipe -p PrivateNetwork=yes";

/// All of them, in their order.
pub(super) fn checks(
    witnesses: &Witnesses,
    rehearsal: &Rehearsal,
    ages: &Ages,
    pair: Option<&PairReport>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for (stage, name) in STAGES {
        checks.push(stage_check(rehearsal, pair, stage, name));
        match stage {
            Stage::Isolation => checks.push(leftovers(rehearsal)),
            Stage::Inputs => {
                checks.push(record(witnesses, rehearsal));
                checks.push(age(ages));
            }
            Stage::Restore | Stage::Unseal | Stage::Start | Stage::Verify => {}
        }
    }
    checks.push(removed(rehearsal));
    checks
}

fn stage_check(
    rehearsal: &Rehearsal,
    pair: Option<&PairReport>,
    stage: Stage,
    (id, title): Name,
) -> Check {
    if stage > rehearsal.stage {
        return Check::skip(id, title, "the drill ended before");
    }
    if stage == rehearsal.stage
        && let Some(failure) = &rehearsal.failure
        && pair.is_none()
    {
        let check = Check::fail(id, title, one_line(failure));
        return match failure.next_step() {
            Some(step) => check.remediation(step),
            None => check,
        };
    }
    match stage {
        Stage::Isolation => isolation(rehearsal, (id, title)),
        Stage::Start => {
            let version = rehearsal.version.as_deref().unwrap_or("unknown");
            Check::pass(id, title).message(format!("OpenBao {version}"))
        }
        Stage::Unseal => match rehearsal.audit_devices {
            None | Some(0) => Check::pass(id, title),
            Some(devices) => {
                let message = format!("its {devices} audit devices were removed from the copy");
                Check::pass(id, title).message(message)
            }
        },
        Stage::Verify => match pair {
            Some(pair) => verified(pair, (id, title)),
            None => Check::skip(id, title, "nothing was verified"),
        },
        Stage::Inputs | Stage::Restore => Check::pass(id, title),
    }
}

fn verified(pair: &PairReport, (id, title): Name) -> Check {
    match pair.verdict() {
        Verdict::Compatible => Check::pass(id, title),
        Verdict::Inconclusive => Check::skip(id, title, pair.summary()),
        Verdict::CompatibleAfter | Verdict::Incompatible => Check::fail(id, title, pair.summary())
            .impact("a restore of these two backups would not bring all data back")
            .impact_class(ImpactClass::DataRecovery),
    }
}

fn isolation(rehearsal: &Rehearsal, (id, title): Name) -> Check {
    let isolation = &rehearsal.isolation;
    let network = match &isolation.interfaces {
        Ok(interfaces) if interfaces.is_empty() => "there is no network but loopback".to_owned(),
        Ok(interfaces) => {
            let names: Vec<_> = interfaces.iter().map(String::as_str).collect();
            format!("this machine's network is there ({})", names.join(", "))
        }
        Err(error) => format!("whether there is a network cannot be told ({error})"),
    };
    let confined = match &isolation.confined {
        Ok(()) => "the kernel kept the copy from TCP connections and from other files".to_owned(),
        Err(why) => format!("the kernel did not confine the copy: {why}"),
    };
    let message = format!("{network}; {confined}");
    if isolation.holds() {
        Check::pass(id, title).message(message)
    } else {
        Check::warn(id, title, message)
            .impact("the copy may have revoked leases or rotated passwords in other systems")
            .remediation(ISOLATE)
    }
}

fn leftovers(rehearsal: &Rehearsal) -> Check {
    let (id, title) = LEFTOVERS;
    let Some(leftovers) = &rehearsal.leftovers else {
        return Check::skip(id, title, "the drill ended before");
    };
    if leftovers.is_empty() {
        return Check::pass(id, title);
    }
    let paths = leftovers.iter().map(|path| path.display().to_string());
    let paths: Vec<_> = paths.collect();
    Check::warn(id, title, format!("removed: {}", paths.join(", ")))
        .impact("copies of OpenBao's encrypted data lay there since the machine went down")
}

fn record(witnesses: &Witnesses, rehearsal: &Rehearsal) -> Check {
    let (id, title) = RECORD;
    let Some(record) = &witnesses.record else {
        return Check::skip(id, title, "no --record was given");
    };
    match (&record.note().openbao, &rehearsal.openbao) {
        (None, _) => Check::skip(id, title, "the record names no OpenBao snapshot"),
        (_, None) => Check::skip(id, title, "the drill ended before"),
        (Some(noted), Some(found)) if noted.sha256 == found.sha256 => Check::pass(id, title),
        (Some(noted), Some(_)) => {
            let message = format!("the record has another one: {}", noted.sha256_hex());
            Check::warn(id, title, message).remediation("compare the files of the backup set")
        }
    }
}

fn age(ages: &Ages) -> Check {
    let (id, title) = AGE;
    let Some(most) = ages.most else {
        return Check::skip(id, title, "no --max-age was given");
    };
    let too_old: Vec<_> = ages.too_old().map(|age| age.to_string()).collect();
    match (&*too_old, &ages.etcd, &ages.openbao) {
        ([], Some(_), Some(_)) => Check::pass(id, title),
        ([], ..) => Check::skip(id, title, "the drill ended before"),
        (too_old, ..) => {
            let most = Hours(most);
            let message = format!("older than {most}: {}", too_old.join("; "));
            Check::fail(id, title, message)
                .impact("a restore would lose what was written since")
                .impact_class(ImpactClass::DataRecovery)
                .remediation("see why the backup job has put no newer snapshots there")
        }
    }
}

fn removed(rehearsal: &Rehearsal) -> Check {
    let (id, title) = REMOVED;
    match &rehearsal.not_removed {
        None => Check::pass(id, title),
        Some((path, error)) => Check::fail(id, title, format!("{}: {error}", path.display()))
            .remediation("remove it; it holds a copy of OpenBao's encrypted data"),
    }
}
