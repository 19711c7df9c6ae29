//! Key versions required by state, backup record and etcd, compared with the live key.

use std::collections::{BTreeMap, BTreeSet};

use kms_domain::{
    key::TransitKey,
    recovery::{
        claims::VersionClaims,
        pair::{Remedy, Verdict as PairVerdict},
        rebuild::OWN_STATE,
        record::BackupRecord,
        resolve::{LiveKey, Resolution},
    },
    registry::{RecordState, Registry},
    transit::{KeyProfile, TransitVersion},
};
use kms_node::{
    advice::{self, Cause},
    auth::CallFailure,
    config::Config,
    report::{CheckResult, counted, one_line, table::Table, utc},
    state::StateError,
};
use openbao_client::failure::FailureClass;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    diagnose::{
        Check,
        facts::{Evidence, Facts},
    },
    recovery::{
        cause::{Context, ORDER},
        drift,
        local_knowledge::THE_RECORD,
        verify_pair::{Pair, Row, Unanswered},
    },
};

/// Identity of the configuration against state and record. The code is that of a cause.
pub const NAMES: Check = Check {
    id: "config.identity",
    title: "Names in configuration, state and record",
    needs: &[],
    evaluate: |facts| Some(vec![names(facts)?]),
};

/// Recorded versions against the live key. The code is that of a cause.
pub const RECORD: Check = Check {
    id: "record.versions",
    title: "Versions of the backup record",
    needs: &[],
    evaluate: |facts| Some(vec![record(facts)?]),
};

/// Whether state, record or etcd data proves that the live key encrypted the stored data.
#[must_use]
pub fn shows_the_key(facts: &Facts) -> bool {
    let claims = claims(facts);
    let agrees = |profile| claims.iter().any(|claims| claims.agrees(profile));
    facts.etcd.iter().any(decrypts_all) || facts.usable_key().is_some_and(agrees)
}

/// Versions named by the state and the record.
#[must_use]
pub fn claims(facts: &Facts) -> Vec<VersionClaims> {
    let state = facts.registry();
    let state = state.map(|it| VersionClaims::of_registry(OWN_STATE, it));
    let record = facts.record.as_ref();
    let record = record.map(|it| VersionClaims::of_record(THE_RECORD, it));
    state.into_iter().chain(record).collect()
}

/// Trial decryptions. The code is that of a cause.
pub const ETCD: Check = Check {
    id: "etcd.decrypt",
    title: "Trial decryption of the encrypted DEKs in etcd",
    needs: &[],
    evaluate: |facts| {
        if facts.etcd.is_empty() {
            let skipped = ETCD.skip("no --etcd-snapshot and no --endpoints were given");
            return Some(vec![skipped]);
        }
        let checks = facts.etcd.iter().map(|evidence| match &evidence.pair {
            Ok(pair) if facts.is_unused() && !holds_objects(pair) => ETCD.warn(format!(
                "{}: nothing was encrypted by such a provider yet",
                evidence.source
            )),
            _ => etcd(evidence),
        });
        Some(checks.collect())
    },
};

/// What the checks before have found of the key.
#[must_use]
pub fn live_key(facts: &Facts) -> LiveKey {
    match (facts.usable_key(), &facts.metadata) {
        (Some(profile), _) => LiveKey::Listed(profile.clone()),
        (None, Some(Err(CallFailure::OpenBao(failure)))) if failure.is_absence() => {
            LiveKey::Missing
        }
        _ => LiveKey::Unknown,
    }
}

/// The cause of a missing key on a node without a state, by the etcd data; `None` if that is
/// missing, unreadable or incomplete.
#[must_use]
pub fn of_absent_key(facts: &Facts) -> Option<&'static Cause> {
    let pairs = facts.etcd.iter().map(|evidence| evidence.pair.as_ref());
    let pairs: Vec<_> = pairs.collect::<Result<_, _>>().ok()?;
    if pairs.iter().any(|pair| holds_objects(pair)) {
        let failure = facts.metadata.as_ref().and_then(|it| it.as_ref().err());
        return Some(match failure {
            Some(CallFailure::OpenBao(failure)) if failure.is_missing_mount() => {
                &advice::openbao::MOUNT_MISSING
            }
            _ => &advice::key::LOST,
        });
    }
    let complete = |pair: &&Pair| !pair.inventory.has_open_keys();
    (!pairs.is_empty() && pairs.iter().all(complete)).then_some(&advice::key::FIRST_INSTALLATION)
}

/// Whether there are objects of this key, of another one of such a provider, or damaged ones.
fn holds_objects(pair: &Pair) -> bool {
    let inventory = &pair.inventory;
    let mut groups = inventory.groups.iter();
    inventory.damaged_values > 0 || groups.any(|group| group.parsed.is_ok())
}

/// The skipped trial decryption of a source whose objects were counted.
#[must_use]
pub fn counted_only(evidence: &Evidence) -> CheckResult {
    let source = &evidence.source;
    let message = match &evidence.pair {
        Ok(pair) => {
            let objects = pair.rows.iter().map(|row| row.finding.objects).sum::<u64>();
            format!(
                "{source}: not tried; {} counted",
                counted(objects, "object")
            )
        }
        Err(error) => one_line(error),
    };
    ETCD.skip(message)
}

/// Objects of one resource that need one version of the key.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Need {
    /// Path of the file, or URLs of the members.
    source: String,
    /// Absent if the objects name no version.
    #[serde(skip_serializing_if = "Option::is_none")]
    transit_version: Option<u64>,
    resource: String,
    objects: u64,
    /// Objects of this resource under the key.
    of: u64,
    /// `decrypts`, `fails`, `untried`, or the code of the reason why this OpenBao lacks the version.
    result: &'static str,
}

/// The stored objects of the key by version and resource.
#[must_use]
pub fn needs(facts: &Facts) -> Vec<Need> {
    let mut needs = Vec::new();
    for Evidence { source, pair, .. } in &facts.etcd {
        let Ok(pair) = pair else { continue };
        let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
        for (resource, objects) in pair.rows.iter().flat_map(|row| &row.resources) {
            *totals.entry(resource).or_default() += objects;
        }
        for row in &pair.rows {
            for (resource, objects) in &row.resources {
                needs.push(Need {
                    source: source.clone(),
                    transit_version: row.version.map(TransitVersion::get),
                    resource: resource.clone(),
                    objects: *objects,
                    of: totals.get(&**resource).copied().unwrap_or_default(),
                    result: result(row),
                });
            }
        }
    }
    needs
}

fn result(row: &Row) -> &'static str {
    let seeds = row.finding.seeds;
    match &row.finding.origin {
        Resolution::Live(_) if seeds.failed > 0 => "fails",
        Resolution::Live(_) if seeds.untried == 0 && seeds.proven > 0 => DECRYPTS,
        Resolution::Live(_) | Resolution::Known(_) => "untried",
        Resolution::Unresolved(gap) => gap.code(),
    }
}

const DECRYPTS: &str = "decrypts";

/// The objects that this OpenBao was not seen to decrypt, for example `200 of 800 secrets need
/// version 1`; `None` without such objects.
#[must_use]
pub fn undecrypted(needs: &[Need]) -> Option<String> {
    let mut versions: BTreeMap<(Option<u64>, &str), Vec<String>> = BTreeMap::new();
    for need in needs.iter().filter(|need| need.result != DECRYPTS) {
        let Need {
            objects,
            of,
            resource,
            ..
        } = need;
        let place = (need.transit_version, &*need.source);
        let counts = versions.entry(place).or_default();
        counts.push(format!("{objects} of {of} {resource}"));
    }
    let sources: BTreeSet<_> = needs.iter().map(|need| &need.source).collect();
    let sentence = |((version, source), counts): (&(Option<u64>, &str), &Vec<String>)| {
        let version = version.map_or("an unknown version".to_owned(), |it| {
            format!("version {it}")
        });
        let place = match sources.len() {
            1 => String::new(),
            _ => format!(" in {source}"),
        };
        format!("{}{place} need {version}", counts.join(", "))
    };
    let all: Vec<_> = versions.iter().map(sentence).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The rows of [`needs`].
#[must_use]
pub fn table(needs: &[Need]) -> Table {
    let columns = ["version", "resource", "objects", "of", "result", "source"];
    let mut table = Table::new("objects of the key by version", columns);
    for need in needs {
        let version = need
            .transit_version
            .map_or("unknown".to_owned(), |it| it.to_string());
        table.row([
            version,
            need.resource.clone(),
            need.objects.to_string(),
            need.of.to_string(),
            need.result.to_owned(),
            need.source.clone(),
        ]);
    }
    table
}

/// The worst cause among the retained versions that the live key lacks.
#[must_use]
pub fn lost_to_state(facts: &Facts) -> Option<&'static Cause> {
    let retained = facts.registry()?.retained();
    worst(facts.usable_key()?, retained.map(|record| &*record.key))
}

/// The lowest required version below `min_decryption_version`.
#[must_use]
pub fn lowest_hidden(facts: &Facts) -> Option<TransitVersion> {
    let profile = facts.usable_key()?;
    let of_state = facts.registry().into_iter().flat_map(Registry::retained);
    let of_record = facts
        .record
        .iter()
        .flat_map(|it| it.note().versions.values());
    let known = of_state
        .map(|it| &it.key)
        .chain(of_record.map(|it| &it.key));
    let hidden = known
        .filter(|key| gone(profile, key) == Some(&advice::versions::BELOW_MINIMUM))
        .map(|key| key.version());
    let pairs = facts.etcd.iter().filter_map(|it| it.pair.as_ref().ok());
    let remedies = pairs.flat_map(|pair| &pair.remedies);
    let needed = remedies.filter_map(|remedy| match remedy {
        Remedy::LowerMinDecryption(version) => Some(*version),
        Remedy::RestoreVersions(_) => None,
    });
    hidden.chain(needed).min()
}

fn names(facts: &Facts) -> Option<CheckResult> {
    let config = facts.config()?;
    if let Err(StateError::OtherConfiguration { problem, .. }) = facts.stored.as_ref()? {
        let changed = NAMES.fail(problem.to_string());
        return Some(changed.code(advice::configuration::IDENTITY_CHANGED.code));
    }
    let state = facts.registry().is_some();
    let Some(record) = &facts.record else {
        return Some(match state {
            true => NAMES.pass().message("those of the state"),
            false => NAMES.skip("there is neither a valid state nor a record to compare with"),
        });
    };
    let differing = differing(record, config);
    Some(if differing.is_empty() {
        NAMES.pass().message(match state {
            true => "those of state and record",
            false => "those of the record",
        })
    } else if state {
        NAMES
            .fail(format!(
                "the record is of another key or cluster than state and configuration: {differing}"
            ))
            .code(advice::evidence::UNUSABLE.code)
    } else {
        NAMES
            .fail(format!(
                "the record was made under other names than configured: {differing}"
            ))
            .code(advice::configuration::IDENTITY_CHANGED.code)
    })
}

fn differing(record: &BackupRecord, config: &Config) -> String {
    let recorded = record.note();
    if recorded.fingerprint() == config.fingerprint() {
        return String::new();
    }
    let recorded = drift::names(recorded.scope.identity(), &recorded.path);
    let configured = drift::names(&config.scope, &config.key);
    let differing: Vec<_> = recorded
        .into_iter()
        .zip(configured)
        .filter(|(recorded, configured)| recorded != configured)
        .map(|((name, recorded), (_, configured))| {
            format!("{name} is {configured:?}, recorded {recorded:?}")
        })
        .collect();
    differing.join("; ")
}

/// A version removed by the state since then is no longer required.
fn record(facts: &Facts) -> Option<CheckResult> {
    let Some(record) = &facts.record else {
        return Some(RECORD.skip("no --record was given"));
    };
    let profile = facts.usable_key()?;
    let removed = |key: &TransitKey| {
        facts.registry().is_some_and(|registry| {
            registry.records().iter().any(|record| {
                record.key.version() == key.version() && record.state == RecordState::Removed
            })
        })
    };
    let needed: Vec<&TransitKey> = record
        .note()
        .versions
        .values()
        .filter(|noted| noted.decryptable && !removed(&noted.key))
        .map(|noted| &*noted.key)
        .collect();
    let Some(cause) = worst(profile, needed.iter().copied()) else {
        let message = format!("all {} are there", needed.len());
        return Some(RECORD.pass().message(message));
    };
    let missing: Vec<_> = needed
        .iter()
        .filter(|key| gone(profile, key) == Some(cause))
        .collect();
    let outweighed = facts.etcd.iter().any(decrypts_all);
    let message = format!(
        "the record of {} has {}, and this OpenBao {}",
        record.note().recorded_at,
        versions(&missing),
        state_of(cause, profile, &missing)
    );
    Some(match outweighed {
        true => RECORD.warn(format!(
            "{message}; the etcd data that was tried needs none of that, a restore of the recorded \
             set may"
        )),
        false => RECORD.fail(message).code(cause.code),
    })
}

/// State of the recorded versions in the live key.
fn state_of(cause: &Cause, profile: &KeyProfile, missing: &[&&TransitKey]) -> String {
    if cause == &advice::key::RECREATED {
        let times = missing.iter().filter_map(|key| {
            let live = profile.created_at(key.version())?;
            let (live, recorded) = (utc(live.get()), utc(key.created_at().get()));
            Some(format!(
                "version {} at {live} instead of {recorded}",
                key.version()
            ))
        });
        let times: Vec<_> = times.collect();
        return format!(
            "has others of the same numbers, created at another time: {}",
            times.join(", ")
        );
    }
    let state = if cause == &advice::versions::ROLLED_BACK {
        "was restored to an earlier point"
    } else if cause == &advice::versions::BELOW_MINIMUM {
        "has min_decryption_version above them"
    } else {
        "lacks them"
    };
    state.to_owned()
}

/// Whether all encrypted DEKs of the source decrypt.
fn decrypts_all(evidence: &Evidence) -> bool {
    let pair = evidence.pair.as_ref();
    evidence.tried && pair.is_ok_and(|pair| pair.verdict == PairVerdict::Compatible)
}

fn versions(keys: &[&&TransitKey]) -> String {
    let numbers: Vec<_> = keys.iter().map(|key| key.version().to_string()).collect();
    let word = if numbers.len() == 1 {
        "version"
    } else {
        "versions"
    };
    format!("{word} {}", numbers.join(", "))
}

/// The worst cause among the needed versions that the live key lacks.
fn worst<'k>(
    profile: &KeyProfile,
    needed: impl Iterator<Item = &'k TransitKey>,
) -> Option<&'static Cause> {
    let gone: Vec<_> = needed.filter_map(|key| gone(profile, key)).collect();
    ORDER.into_iter().find(|cause| gone.contains(cause))
}

fn gone(profile: &KeyProfile, key: &TransitKey) -> Option<&'static Cause> {
    let version = key.version();
    match profile.created_at(version) {
        Some(live) if live == key.created_at() => None,
        Some(_) => Some(&advice::key::RECREATED),
        None if version > profile.latest() => Some(&advice::versions::ROLLED_BACK),
        None if version.get() >= profile.min_available()
            && version.get() < profile.min_decryption() =>
        {
            Some(&advice::versions::BELOW_MINIMUM)
        }
        None => Some(&advice::versions::LOST),
    }
}

fn etcd(evidence: &Evidence) -> CheckResult {
    let source = &evidence.source;
    let pair = match &evidence.pair {
        Ok(pair) => pair,
        Err(error) => {
            let failed = ETCD.fail(one_line(error));
            return failed.code(advice::evidence::UNUSABLE.code);
        }
    };
    let context = Context::of(pair);
    let rows = pair.rows.iter();
    let found: Vec<_> = rows
        .filter_map(|row| {
            let cause = context.of_row(row)?;
            Some((cause, message(row, cause)))
        })
        .collect();
    let damaged = (pair.damaged > 0).then(|| {
        let message = format!(
            "{} of this provider damaged",
            counted(pair.damaged, "value")
        );
        (&advice::evidence::OBJECTS_DAMAGED, message)
    });
    let open = pair
        .unanswered
        .as_ref()
        .map(|unanswered| (of_answer(unanswered), one_line(unanswered)));
    let nothing = pair.rows.is_empty().then(|| {
        let keys = pair.inventory.totals.keys;
        let message = format!(
            "none of {} is of this provider: compare the cluster and providerName",
            counted(keys, "key")
        );
        (&advice::evidence::UNUSABLE, message)
    });
    let unread = pair.inventory.unread.as_ref();
    let unread = unread
        .filter(|unread| !unread.is_allowed())
        .map(|unread| (&advice::openbao::INCONCLUSIVE, unread.describe()));
    let all: Vec<_> = found
        .into_iter()
        .chain(damaged)
        .chain(open)
        .chain(unread)
        .chain(nothing)
        .collect();
    let decides = ORDER
        .into_iter()
        .find_map(|cause| all.iter().find(|(found, _)| *found == cause));
    match decides {
        Some((cause, message)) => ETCD.fail(format!("{source}: {message}")).code(cause.code),
        None => ETCD.pass().message(proven(source, pair)),
    }
}

/// A failed call fails the check of the key as well; only a foreign response decides here.
fn of_answer(unanswered: &Unanswered) -> &'static Cause {
    match unanswered.class() {
        Some(FailureClass::NotOpenBao) => &advice::openbao::NOT_OPENBAO,
        _ => &advice::openbao::INCONCLUSIVE,
    }
}

fn proven(source: &str, pair: &Pair) -> String {
    let objects: u64 = pair.rows.iter().map(|row| row.finding.objects).sum();
    let seeds: u64 = pair.rows.iter().map(|row| row.finding.seeds.proven).sum();
    format!(
        "{source}: decrypted {} of {}",
        counted(seeds, "encrypted DEK"),
        counted(objects, "object")
    )
}

/// Finding of a row with this cause.
fn message(row: &Row, cause: &Cause) -> String {
    let finding = &row.finding;
    let objects = counted(finding.objects, "object");
    match &finding.origin {
        Resolution::Live(_) if cause == &advice::key::RECREATED => format!(
            "the key decrypts none of the {objects} of its key_id: it was recreated in the same second, \
             or instanceId, clusterId or providerName differ"
        ),
        Resolution::Live(_) if finding.seeds.failed > 0 => format!(
            "{} of the right key version fail to decrypt: their encrypted DEKs are damaged",
            counted(row.objects_of_failed_seeds(), "object")
        ),
        Resolution::Live(_) => format!(
            "{} were not tried",
            counted(finding.seeds.untried, "encrypted DEK")
        ),
        Resolution::Known(key) => format!("{objects} need version {}", key.version()),
        Resolution::Unresolved(gap) => format!("{objects}: {}", one_line(gap)),
    }
}
