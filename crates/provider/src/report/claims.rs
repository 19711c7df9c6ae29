//! No report contradicts itself: a headline denies a loss only where nothing is lost and nothing is
//! untested.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::UNIX_EPOCH};

use kms_domain::{
    annotations::AnnotationsInvalid,
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    recovery::{
        claims::OtherSecond,
        origin::{Claimed, Gap, Lineage, LiveKey, Origin},
        pair::{Finding, Proof, Verdict as PairVerdict, judge, remedies},
        rebuild::Refusal,
    },
    transit::{CreatedAt, TransitVersion},
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    config::{Config, Environment, Flags, load},
    recovery::{
        drift::Comparison,
        inventory::Inventory,
        pair_report::{Facts, PairReport},
        recover_state::Weighed,
        recovery_report::{RecoveryReport, Typed},
        verify_pair::{Depth, Pair, Row, SeedProblem},
    },
    report::Render,
    triage::verdict::{DataImpact, Verdict},
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
                Origin::Gap(
                    Gap::Hidden { .. } | Gap::OtherProvider { .. } | Gap::Unknown { .. },
                )
                | Origin::Known(_) => counted.untested += finding.objects,
                Origin::Gap(_) => counted.lost += finding.objects,
                Origin::Live(_) => {
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
    let flags = Flags {
        config: Some("tests/config/good/minimal.yaml".into()),
        ..Flags::default()
    };
    load(&flags, &Environment::default()).unwrap().config
}

/// Anything that a verification may find.
pub(crate) fn any_pair() -> impl Strategy<Value = Pair> {
    let parts = (vec(any_row(), 0..5), 0..2u64, 0..3u64, any::<bool>());
    parts.prop_map(|(rows, damaged, damaged_elsewhere, removed)| {
        let findings: Vec<_> = rows.iter().map(|row| row.finding.clone()).collect();
        let removed = if removed { vec![key(2)] } else { Vec::new() };
        let remedies = remedies(&findings, &removed);
        let scope = Arc::clone(key(1).scope());
        Pair {
            inventory: Inventory::empty(),
            lineage: Lineage::new(scope, LiveKey::Unknown, []),
            unanswered: None,
            under_other_names: BTreeMap::new(),
            damaged,
            damaged_elsewhere,
            appeared: 0,
            verdict: judge(&findings, damaged, &remedies),
            remedies,
            rows,
        }
    })
}

fn any_row() -> impl Strategy<Value = Row> {
    let proof = || (0..3u64, 0..2u64, 0..2u64);
    let parts = (any_origin(), 1..5u64, proof(), option::of(proof()));
    parts.prop_map(|(origin, objects, (proven, failed, untried), data)| {
        let live = matches!(origin, Origin::Live(_));
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
        Row {
            version: Some(version(1)),
            key_id_hash: "hash".to_owned(),
            finding: Finding {
                origin,
                objects: objects.max(seeds.failed),
                seeds,
                data,
            },
            resources: BTreeMap::new(),
            seed_problems: problems.into_iter().collect(),
            refused: refused.into_iter().collect(),
            undecryptable_names: Vec::new(),
            unopened: BTreeMap::new(),
            unopened_names: Vec::new(),
        }
    })
}

fn any_origin() -> impl Strategy<Value = Origin> {
    let (version, live) = (version(2), key(2).created_at());
    let hidden = |claimed| Gap::Hidden {
        version,
        minimum: 3,
        claimed,
    };
    let gaps = [
        hidden(Claimed::No),
        hidden(Claimed::Yes),
        hidden(Claimed::OtherKey),
        Gap::KeyId(KeyId::parse("").unwrap_err()),
        Gap::Annotations(AnnotationsInvalid::Empty),
        Gap::OtherScope { names: Vec::new() },
        Gap::NewerThanLatest {
            version,
            latest: version,
            recorded: None,
        },
        Gap::Trimmed {
            version,
            minimum: 3,
        },
        Gap::Recreated {
            version,
            evidence: "the record".to_owned(),
            contradiction: OtherSecond {
                version,
                recorded: live,
                live,
            },
        },
        Gap::OtherProvider {
            version,
            provider: "another".to_owned(),
        },
        Gap::OtherCreation {
            version,
            live,
            recorded: None,
        },
        Gap::NoKey { version },
        Gap::Unknown { version },
    ];
    let gaps = gaps.into_iter().map(Origin::Gap).collect::<Vec<_>>();
    prop_oneof![
        4 => (1..4u64).prop_map(|number| Origin::Live(key(number))),
        1 => Just(Origin::Known(key(2))),
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

/// The lines before the details.
pub(crate) fn headline(report: &impl Render) -> String {
    let mut text = Vec::new();
    report.text(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    text.lines().take(2).collect::<Vec<_>>().join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_pair_is_called_whole_only_if_nothing_is_lost_and_nothing_untested(pair in any_pair()) {
        let config = config();
        let facts = Facts {
            config: &config,
            config_path: Path::new("/etc/config.yaml"),
            pair: &pair,
            depth: Depth::Data,
            state: Err("none"),
            record: None,
            compared: &Comparison::default(),
            rehearsed: false,
        };
        let report = PairReport::new(facts, UNIX_EPOCH);
        let counted = Counted::of(&pair);
        let headline = headline(&report);
        if denies_loss(&headline) || report.verdict() == PairVerdict::Compatible {
            prop_assert_eq!(counted, Counted::default(), "{}", headline);
        }
        let incompatible = report.verdict() == PairVerdict::Incompatible;
        prop_assert_eq!(incompatible, counted.lost > 0, "{}", headline);
        prop_assert!(!headline.contains("\n0 "), "{}", headline);
    }
}

#[test]
fn triage_denies_a_loss_exactly_where_it_says_none_lost() {
    for verdict in Verdict::ALL {
        let denies = denies_loss(verdict.meaning()) || verdict.meaning().contains("is not lost");
        let none_lost = verdict.data() == DataImpact::NoneLost;
        assert_eq!(denies, none_lost, "{}", verdict.as_str());
        assert!(!denies_loss(verdict.headline()), "{}", verdict.as_str());
    }
}

#[test]
fn a_refused_recovery_says_nothing_of_the_data() {
    let lost = Refusal::NotDecrypted {
        evidence: "etcd.db".to_owned(),
        version: version(1),
        deks: 1,
    };
    let weighed = Weighed {
        refusals: vec![lost],
        ..Weighed::default()
    };
    let typed = Typed {
        whole: "bao-kms-provider recover-state".to_owned(),
        planning: "bao-kms-provider recover-state".to_owned(),
    };
    let report = RecoveryReport::refused(&config(), &weighed, &typed, UNIX_EPOCH);
    assert!(!denies_loss(&headline(&report)), "{}", headline(&report));
}
