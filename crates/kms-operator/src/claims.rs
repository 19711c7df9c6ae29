//! No report contradicts itself: a headline denies a loss only where nothing is lost and nothing is
//! untested.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::UNIX_EPOCH};

use kms_domain::{
    annotations::AnnotationsInvalid,
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    recovery::{
        claims::OtherSecond,
        pair::{Finding, Proof, Verdict as PairVerdict, judge, remedies},
        rebuild::PlanBlocker,
        resolve::{Claimed, KeyResolver, LiveKey, Resolution, ResolveError},
    },
    transit::{CreatedAt, TransitVersion},
};
use kms_node::{
    advice::{DataImpact, catalogue},
    config::{Config, Environment, Flags, Loaded, load},
    report::{Output, outcome::Outcome, text::Look},
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde::Serialize;

use crate::recovery::{
    drift::Comparison,
    inventory::Inventory,
    pair_report::{self, Facts, Line, PairReport},
    recover_state::Weighed,
    recovery_report::{Run, Typed},
    verify_pair::{Depth, Pair, Row, SeedProblem},
};

/// Whether a text denies a loss, in whatever words of the reports.
pub(crate) fn denies_loss(text: &str) -> bool {
    let denies = |words: &str| {
        let mut after = text.split(words).skip(1);
        after.any(|rest| !rest.starts_with(" yet"))
    };
    [
        "no object is lost",
        "no data is lost",
        "nothing is lost",
        "none is lost",
        "loses no data",
    ]
    .into_iter()
    .any(denies)
}

/// The objects of a pair as the test counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) lost: u64,
    pub(crate) untested: u64,
}

impl Counted {
    pub(crate) fn of(pair: &Pair) -> Self {
        let mut counted = Self {
            lost: pair.damaged,
            untested: 0,
        };
        for row in &pair.rows {
            let finding = &row.finding;
            match &finding.origin {
                Resolution::Unresolved(
                    ResolveError::Hidden { .. }
                    | ResolveError::OtherProvider { .. }
                    | ResolveError::Unknown { .. },
                )
                | Resolution::Known(_) => counted.untested += finding.objects,
                Resolution::Unresolved(_) => counted.lost += finding.objects,
                Resolution::Live(_) => {
                    let data = finding.data.unwrap_or_default();
                    counted.lost += row.objects_of_failed_seeds() + data.failed;
                    counted.untested += finding.seeds.untried + data.untried;
                }
            }
        }
        counted
    }
}

pub(crate) fn config() -> Config {
    loaded().config
}

fn loaded() -> Loaded {
    let flags = Flags {
        config: Some("../provider/tests/config/good/minimal.yaml".into()),
        ..Flags::default()
    };
    load(&flags, &Environment::default()).unwrap()
}

/// Anything that a verification may find.
pub(crate) fn any_pair() -> impl Strategy<Value = Pair> {
    let parts = (vec(any_row(), 0..5), 0..2u64, 0..3u64, any::<bool>());
    parts.prop_map(|(rows, damaged, damaged_elsewhere, removed)| {
        let removed = if removed { vec![key(2)] } else { Vec::new() };
        Pair {
            damaged_elsewhere,
            ..pair(rows, damaged, &removed)
        }
    })
}

fn pair(rows: Vec<Row>, damaged: u64, removed: &[Arc<TransitKey>]) -> Pair {
    let findings: Vec<_> = rows.iter().map(|row| row.finding.clone()).collect();
    let remedies = remedies(&findings, removed);
    let scope = Arc::clone(key(1).scope());
    Pair {
        inventory: Inventory::empty(),
        lineage: KeyResolver::new(scope, LiveKey::Unknown, []),
        unanswered: None,
        under_other_names: BTreeMap::new(),
        damaged,
        damaged_elsewhere: 0,
        appeared: 0,
        verdict: judge(&findings, damaged, &remedies),
        remedies,
        rows,
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    let proof = || (0..3u64, 0..2u64, 0..2u64);
    let parts = (any_origin(), 1..5u64, proof(), option::of(proof()));
    parts.prop_map(|(origin, objects, (proven, failed, untried), data)| {
        let live = matches!(origin, Resolution::Live(_));
        let seeds = match live {
            true => Proof {
                // An object has a DEK.
                proven: proven.max(u64::from(failed + untried == 0)),
                failed,
                untried,
            },
            false => Proof {
                untried: 1,
                ..Proof::default()
            },
        };
        let data = data.map(|(proven, failed, untried)| match live {
            true => Proof {
                proven,
                failed,
                untried,
            },
            false => Proof {
                untried: objects,
                ..Proof::default()
            },
        });
        let refused = (seeds.failed > 0).then(|| ("secrets".to_owned(), seeds.failed));
        let problems = (seeds.failed > 0).then_some((SeedProblem::NotDecrypted, seeds.failed));
        let unopened = data.filter(|data| data.failed > 0);
        let unopened = unopened.map(|data| ("secrets".to_owned(), data.failed));
        let finding = Finding {
            origin,
            objects: objects.max(seeds.failed),
            seeds,
            data,
        };
        Row {
            seed_problems: problems.into_iter().collect(),
            refused: refused.into_iter().collect(),
            unopened: unopened.into_iter().collect(),
            ..row(finding)
        }
    })
}

fn row(finding: Finding) -> Row {
    let version = match &finding.origin {
        Resolution::Live(key) | Resolution::Known(key) => Some(key.version()),
        Resolution::Unresolved(gap) => gap.version(),
    };
    Row {
        version,
        key_id_hash: "hash".to_owned(),
        resources: BTreeMap::from([("secrets".to_owned(), finding.objects)]),
        finding,
        seed_problems: BTreeMap::new(),
        refused: BTreeMap::new(),
        undecryptable_names: Vec::new(),
        unopened: BTreeMap::new(),
        unopened_names: Vec::new(),
    }
}

fn any_origin() -> impl Strategy<Value = Resolution> {
    let (version, live) = (version(2), key(2).created_at());
    let hidden = |claimed| ResolveError::Hidden {
        version,
        minimum: 3,
        claimed,
    };
    let gaps = [
        hidden(Claimed::No),
        hidden(Claimed::Yes),
        hidden(Claimed::OtherKey),
        ResolveError::KeyId(KeyId::parse("").unwrap_err()),
        ResolveError::Annotations(AnnotationsInvalid::Empty),
        ResolveError::IdentityMismatch { names: Vec::new() },
        ResolveError::NewerThanLatest {
            version,
            latest: version,
            recorded: None,
        },
        ResolveError::Trimmed {
            version,
            minimum: 3,
        },
        ResolveError::Recreated {
            version,
            evidence: "the record".to_owned(),
            contradiction: OtherSecond {
                version,
                recorded: live,
                live,
            },
        },
        ResolveError::OtherProvider {
            version,
            provider: "another".to_owned(),
        },
        ResolveError::CreationTimeMismatch {
            version,
            live,
            recorded: None,
        },
        ResolveError::NoKey { version },
        ResolveError::Unknown { version },
    ];
    let gaps = gaps
        .into_iter()
        .map(Resolution::Unresolved)
        .collect::<Vec<_>>();
    prop_oneof![
        4 => (1..4u64).prop_map(|number| Resolution::Live(key(number))),
        1 => Just(Resolution::Known(key(2))),
        2 => select(gaps),
    ]
}

fn version(number: u64) -> TransitVersion {
    TransitVersion::new(number).unwrap()
}

fn key(number: u64) -> Arc<TransitKey> {
    let scope = Arc::new(KeyScope::new(config().scope));
    let created_at = CreatedAt::new(number).unwrap();
    Arc::new(TransitKey::new(scope, version(number), created_at))
}

fn verified(pair: &Pair) -> PairReport {
    let config = config();
    let facts = Facts {
        config: &config,
        config_path: Path::new("/etc/config.yaml"),
        pair,
        depth: Depth::Data,
        state: Err("none"),
        record: None,
        compared: &Comparison::default(),
        rehearsed: false,
        line: Line {
            etcd: "--etcd-snapshot etcd.db",
            again: "bao-kms-provider verify-backup",
        },
    };
    pair_report::outcome(facts, UNIX_EPOCH)
}

/// Objects of the key that decrypt.
fn readable(objects: u64) -> Row {
    let proof = Proof {
        proven: objects,
        ..Proof::default()
    };
    row(Finding {
        origin: Resolution::Live(key(1)),
        objects,
        seeds: proof,
        data: Some(proof),
    })
}

fn unresolved(gap: ResolveError) -> Row {
    row(Finding {
        origin: Resolution::Unresolved(gap),
        objects: 1,
        seeds: Proof::default(),
        data: None,
    })
}

/// Verdict, headline, finding and effect on the data.
pub(crate) fn said_first<R: Serialize>(outcome: &Outcome<R>) -> String {
    let mut text = Vec::new();
    let written = Output::Text.write(outcome, Look::default(), &mut text);
    written.unwrap();
    first_lines(&String::from_utf8(text).unwrap())
}

/// The lines before steps and warnings.
pub(crate) fn first_lines(text: &str) -> String {
    let first = text.lines().take_while(|line| !line.starts_with("next: "));
    let first = first.take_while(|line| !line.is_empty() && !line.starts_with("do not "));
    first.collect::<Vec<_>>().join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_pair_is_called_whole_only_if_nothing_is_lost_and_nothing_untested(pair in any_pair()) {
        let report = verified(&pair);
        let counted = Counted::of(&pair);
        let headline = said_first(&report);
        if denies_loss(&headline) || report.result.judged == PairVerdict::Compatible {
            prop_assert_eq!(counted, Counted::default(), "{}", headline);
        }
        let incompatible = report.result.judged == PairVerdict::Incompatible;
        prop_assert_eq!(incompatible, counted.lost > 0, "{}", headline);
        prop_assert!(!headline.contains("\n0 "), "{}", headline);
    }
}

#[test]
fn a_cause_denies_a_loss_exactly_where_none_is_lost() {
    for cause in catalogue().into_iter().flat_map(|(_, causes)| causes) {
        let none_lost = cause.impact == DataImpact::NoneLost;
        assert_eq!(denies_loss(&cause.data()), none_lost, "{}", cause.code);
        assert!(!denies_loss(cause.headline), "{}", cause.code);
    }
}

#[test]
fn a_refused_recovery_denies_no_loss() {
    let lost = PlanBlocker::NotDecrypted {
        evidence: "etcd.db".to_owned(),
        version: version(1),
        deks: 1,
    };
    let weighed = Weighed {
        refusals: vec![lost, PlanBlocker::NoEvidence],
        ..Weighed::default()
    };
    let run = Run {
        loaded: &loaded(),
        typed: &Typed::default(),
        now: UNIX_EPOCH,
    };
    let outcome = run.refused(&weighed);
    let mut text = Vec::new();
    outcome.text(Look::default(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let top = text.split("\n\n").next().unwrap();
    assert!(top.contains("data: lost_without_backup - "), "{top}");
    assert!(!denies_loss(top), "{top}");
}

#[test]
fn names_that_fit_the_other_objects_are_kept() {
    let other = || {
        unresolved(ResolveError::IdentityMismatch {
            names: vec!["openbao.instanceId"],
        })
    };
    let part = verified(&pair(vec![readable(6), other()], 0, &[]));
    let part = serde_json::to_value(&part).unwrap();
    assert_eq!(part["cause"], "other_identity");
    let headline = part["headline"].as_str().unwrap();
    assert!(headline.starts_with("1 of 7 objects"), "{headline}");
    assert!(
        headline.ends_with("; the other 6 can be read"),
        "{headline}"
    );
    let steps = part["nextSteps"].to_string();
    assert!(
        steps.contains("keep the names in /etc/config.yaml"),
        "{steps}"
    );
    assert!(!steps.contains("back to the old names"), "{steps}");

    let all = verified(&pair(vec![other()], 0, &[]));
    let all = serde_json::to_value(&all).unwrap();
    assert_eq!(all["cause"], "identity_changed");
    assert!(
        all["nextSteps"]
            .to_string()
            .contains("back to the old names")
    );
}

#[test]
fn damaged_objects_keep_no_others_out_of_service() {
    let damaged = verified(&pair(vec![readable(6)], 1, &[]));
    let said = |word: &str| damaged.warnings().iter().any(|it| it.contains(word));
    assert!(!said("into service"));
    let steps = serde_json::to_string(damaged.next_steps()).unwrap();
    assert!(steps.contains("once the others are in service"), "{steps}");
    assert!(damaged.headline().ends_with("; the other 6 can be read"));

    let trimmed = unresolved(ResolveError::Trimmed {
        version: version(1),
        minimum: 2,
    });
    let trimmed = verified(&pair(vec![trimmed], 0, &[]));
    let mut warnings = trimmed.warnings().iter();
    assert!(warnings.any(|it| it.starts_with("do not put this pair into service before")));
}

#[test]
fn one_step_names_the_highest_of_the_missing_versions() {
    let missing = |number| {
        unresolved(ResolveError::NewerThanLatest {
            version: version(number),
            latest: version(1),
            recorded: CreatedAt::new(number),
        })
    };
    let rows = vec![readable(1), missing(3), missing(4), missing(2)];
    let report = verified(&pair(rows, 0, &[]));
    let steps = report.next_steps().iter();
    let named: Vec<_> = steps
        .filter(|it| it.text.contains(" has version "))
        .collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert_eq!(
        named[0].text,
        "take one that has version 4 of the key, which was made at 1970-01-01T00:00:04Z"
    );
}

#[test]
fn with_several_causes_each_step_names_its_objects() {
    let missing = unresolved(ResolveError::NoKey {
        version: version(2),
    });
    let report = verified(&pair(vec![missing], 2, &[]));
    let steps = report.next_steps().iter();
    let of_damaged = steps.filter(|it| it.text.starts_with("for 2 objects (objects_damaged): "));
    assert_eq!(of_damaged.count(), 2, "{:?}", report.next_steps());
}

/// Of a check, the title stands beside `[pass]` as well as `[fail]`.
#[test]
fn no_title_of_a_check_claims_its_result() {
    let report = serde_json::to_value(verified(&pair(vec![readable(1)], 1, &[]))).unwrap();
    for check in report["checks"].as_array().unwrap() {
        let title = check["title"].as_str().unwrap().to_lowercase();
        for claim in ["every", "nothing", "none", " is ", " has ", " are "] {
            assert!(!title.contains(claim), "{title}");
        }
    }
}
