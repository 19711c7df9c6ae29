//! Every refusal message of rotation, retirement and restoration, as shown to an operator: cause,
//! data impact, next step, warning. A changed text appears as a change of `refusals.txt`.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic too")]

use std::{error::Error, fmt::Write as _, fs, path::Path};

use kms_domain::{
    bootstrap::BootstrapDenied,
    fingerprint::IdentityFingerprint,
    registry::{
        RecordState, RegistryConflict,
        document::{Generation, ProgressProblem, StateHash},
        retire::{NotRestorable, PlanOutdated, PlanRefused},
        rotation::RotationRefused,
    },
    transit::{CreatedAt, TransitVersion, VersionProblem},
};

fn version(number: u64) -> TransitVersion {
    TransitVersion::new(number).unwrap()
}

fn generation(number: u64) -> Generation {
    Generation::new(number).unwrap()
}

fn hash(last: char) -> StateHash {
    StateHash::parse(&format!("krs1.{}{last}", "A".repeat(42))).unwrap()
}

fn fingerprint(last: char) -> IdentityFingerprint {
    IdentityFingerprint::parse(&format!("cfg1.{}{last}", "A".repeat(42))).unwrap()
}

fn version_problems() -> Vec<VersionProblem> {
    vec![
        VersionProblem::AboveLatest {
            version: version(7),
            latest: version(6),
        },
        VersionProblem::Trimmed {
            version: version(1),
            minimum: 2,
        },
        VersionProblem::Hidden {
            version: version(2),
            minimum: 3,
        },
        VersionProblem::Unlisted(version(4)),
        VersionProblem::CreationTimeMismatch {
            version: version(3),
            recorded: CreatedAt::new(1_700_000_000).unwrap(),
            found: CreatedAt::new(1_800_000_000).unwrap(),
        },
    ]
}

fn progress_problems() -> Vec<ProgressProblem> {
    vec![
        ProgressProblem::Exhausted(generation(u64::MAX)),
        ProgressProblem::TooLarge(5_000_000),
        ProgressProblem::OtherFingerprint {
            previous: fingerprint('A'),
            next: fingerprint('E'),
        },
        ProgressProblem::Generation {
            previous: generation(4),
            next: generation(6),
        },
        ProgressProblem::NotLinked(hash('A')),
        ProgressProblem::ActiveLowered {
            previous: version(3),
            next: version(2),
        },
        ProgressProblem::Record {
            version: version(2),
            previous: RecordState::Retired,
            next: Some(RecordState::Removed),
        },
        ProgressProblem::Record {
            version: version(2),
            previous: RecordState::Pending,
            next: None,
        },
    ]
}

fn conflicts() -> [RegistryConflict; 2] {
    [
        RegistryConflict::VersionRollback {
            active: version(4),
            latest: version(3),
        },
        RegistryConflict::Retained(version_problems()),
    ]
}

fn refusals() -> Vec<Box<dyn Error>> {
    let mut all: Vec<Box<dyn Error>> = vec![Box::new(BootstrapDenied { latest: version(3) })];
    all.extend(conflicts().map(|conflict| RotationRefused::from(conflict).into()));
    for problem in version_problems() {
        all.push(Box::new(RotationRefused::Intermediate {
            active: version(1),
            latest: version(8),
            problem,
        }));
    }
    all.push(Box::new(RotationRefused::Disabled {
        latest: version(3),
        state: RecordState::Removed,
    }));
    for problem in progress_problems() {
        all.push(Box::new(RotationRefused::from(problem)));
    }
    all.push(Box::new(PlanRefused::NothingBefore));
    all.push(Box::new(PlanRefused::AboveActive {
        before: version(5),
        active: version(4),
    }));
    all.push(Box::new(PlanRefused::NoVersions));
    all.push(Box::new(PlanRefused::NotRestorable(vec![
        NotRestorable::Twice(version(2)),
        NotRestorable::Unknown(version(1)),
        NotRestorable::NotBelowActive {
            version: version(5),
            active: version(5),
        },
        NotRestorable::NotRemoved {
            version: version(3),
            state: RecordState::Retired,
        },
    ])));
    all.extend(conflicts().map(|conflict| PlanRefused::from(conflict).into()));
    all.push(Box::new(PlanRefused::from(ProgressProblem::TooLarge(
        5_000_000,
    ))));
    all.push(Box::new(PlanOutdated {
        expected: hash('A'),
        found: hash('E'),
    }));
    all
}

#[test]
fn every_refusal_reads_as_reviewed() {
    let mut text = String::new();
    for refusal in refusals() {
        writeln!(text, "{refusal}").unwrap();
        let mut cause = refusal.source();
        while let Some(problem) = cause {
            writeln!(text, "  because: {problem}").unwrap();
            cause = problem.source();
        }
        text.push('\n');
    }
    let reviewed = include_str!("refusals.txt");
    assert!(text == reviewed, "tests/refusals.txt should read:\n{text}");
}

/// The rules crate states facts; commands and flags belong to the program.
#[test]
fn no_sentence_names_a_command_or_a_flag() {
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in [
                "recover-state",
                "inspect-state",
                "compare-nodes",
                "retire-versions",
                "restore-versions",
                "rotation-plan",
                "verify-",
                "scan-etcd",
                " --",
            ] {
                assert!(!line.contains(word), "{}: {line}", path.display());
            }
        }
    }
}
