//! What state, backup record and etcd need of the key, beside what the key has.

use kms_domain::{
    key::TransitKey,
    recovery::{
        claims::VersionClaims,
        origin::{Gap, Origin},
        pair::{Remedy, Verdict as PairVerdict},
        rebuild::OWN_STATE,
        record::BackupRecord,
    },
    registry::{RecordState, Registry},
    transit::{KeyProfile, TransitVersion},
};
use openbao_client::failure::FailureClass;

use super::verdict::Verdict;
use crate::{
    config::Config,
    diagnose::{
        Question,
        facts::{Evidence, Facts},
    },
    recovery::{
        drift,
        verify_pair::{Pair, Row, Unanswered},
        witness::THE_RECORD,
    },
    report::{Check, one_line},
    state::StateError,
};

/// The configuration has the names under which data was encrypted. The code is a verdict's word.
pub const NAMES: Question = Question {
    id: "config.identity",
    title: "Same names as in state and record",
    needs: &[],
    judge: |facts| Some(vec![names(facts)?]),
};

/// The key has what the record says that it had. The code is a verdict's word.
pub const RECORD: Question = Question {
    id: "record.versions",
    title: "Versions of the backup record",
    needs: &[],
    judge: |facts| Some(vec![record(facts)?]),
};

/// Whether state, record or etcd data shows that the live key is the one that data was encrypted
/// with.
#[must_use]
pub fn shows_the_key(facts: &Facts) -> bool {
    let claims = claims(facts);
    let agrees = |profile| claims.iter().any(|claims| claims.agrees(profile));
    facts.etcd.iter().any(decrypts_all) || facts.usable_key().is_some_and(agrees)
}

/// The versions that the state and the record name.
#[must_use]
pub fn claims(facts: &Facts) -> Vec<VersionClaims> {
    let state = facts.registry();
    let state = state.map(|it| VersionClaims::of_registry(OWN_STATE, it));
    let record = facts.record.as_ref();
    let record = record.map(|it| VersionClaims::of_record(THE_RECORD, it));
    state.into_iter().chain(record).collect()
}

/// The key decrypts what etcd holds. The code is a verdict's word.
pub const ETCD: Question = Question {
    id: "etcd.decrypt",
    title: "Trial decryption of what etcd holds",
    needs: &[],
    judge: |facts| {
        if facts.etcd.is_empty() {
            let skipped = ETCD.skip("no --etcd-snapshot and no --endpoints were given");
            return Some(vec![skipped]);
        }
        Some(facts.etcd.iter().map(etcd).collect())
    },
};

/// What the state keeps readable, if the key does not have it.
#[must_use]
pub fn lost_to_state(facts: &Facts) -> Option<Verdict> {
    let retained = facts.registry()?.retained();
    worst(facts.usable_key()?, retained.map(|record| &*record.key))
}

/// The lowest version that only a limit keeps from decrypting.
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
        .filter(|key| gone(profile, key) == Some(Verdict::VersionsHidden))
        .map(|key| key.version());
    let pairs = facts.etcd.iter().filter_map(|it| it.pair.as_ref().ok());
    let remedies = pairs.flat_map(|pair| &pair.remedies);
    let needed = remedies.filter_map(|remedy| match remedy {
        Remedy::LowerMinDecryption(version) => Some(*version),
        Remedy::RestoreVersions(_) => None,
    });
    hidden.chain(needed).min()
}

fn names(facts: &Facts) -> Option<Check> {
    let config = facts.config()?;
    if let Err(StateError::OtherConfiguration { problem, .. }) = facts.stored.as_ref()? {
        let changed = NAMES.fail(problem.to_string());
        return Some(changed.code(Verdict::IdentityChanged.as_str()));
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
            .code(Verdict::EvidenceUnusable.as_str())
    } else {
        NAMES
            .fail(format!(
                "the record was made under other names than configured: {differing}"
            ))
            .code(Verdict::IdentityChanged.as_str())
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

/// A version that the state has retired for good since then is not needed any more.
fn record(facts: &Facts) -> Option<Check> {
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
    let needed: Vec<_> = record
        .note()
        .versions
        .values()
        .filter(|noted| noted.decryptable && !removed(&noted.key))
        .map(|noted| &*noted.key)
        .collect();
    let Some(verdict) = worst(profile, needed.iter().copied()) else {
        let message = format!("all {} are there", needed.len());
        return Some(RECORD.pass().message(message));
    };
    let missing: Vec<_> = needed
        .iter()
        .filter(|key| gone(profile, key) == Some(verdict))
        .map(|key| key.version().to_string())
        .collect();
    let outweighed = facts.etcd.iter().any(decrypts_all);
    let message = format!(
        "the record of {} has {}, and this OpenBao {}",
        record.note().recorded_at,
        versions(&missing),
        match verdict {
            Verdict::KeyRecreated => "has others, made at another time, under the same numbers",
            Verdict::OpenbaoRolledBack => "is from a time before",
            Verdict::VersionsHidden => "hides them by min_decryption_version",
            _ => "has them no more",
        }
    );
    Some(match outweighed {
        true => RECORD.warn(format!(
            "{message}; the etcd data that was tried needs none of that, a restore of the recorded \
             set may"
        )),
        false => RECORD.fail(message).code(verdict.as_str()),
    })
}

/// Whether all that the source holds of the key decrypts.
fn decrypts_all(evidence: &Evidence) -> bool {
    let pair = evidence.pair.as_ref();
    pair.is_ok_and(|pair| pair.verdict == PairVerdict::Compatible)
}

fn versions(numbers: &[String]) -> String {
    let word = if numbers.len() == 1 {
        "version"
    } else {
        "versions"
    };
    format!("{word} {}", numbers.join(", "))
}

/// What became of the keys that are needed, the worst first.
fn worst<'k>(
    profile: &KeyProfile,
    needed: impl Iterator<Item = &'k TransitKey>,
) -> Option<Verdict> {
    let gone: Vec<_> = needed.filter_map(|key| gone(profile, key)).collect();
    ORDER.into_iter().find(|verdict| gone.contains(verdict))
}

fn gone(profile: &KeyProfile, key: &TransitKey) -> Option<Verdict> {
    let version = key.version();
    match profile.created_at(version) {
        Some(live) if live == key.created_at() => None,
        Some(_) => Some(Verdict::KeyRecreated),
        None if version > profile.latest() => Some(Verdict::OpenbaoRolledBack),
        None if version.get() >= profile.min_available()
            && version.get() < profile.min_decryption() =>
        {
            Some(Verdict::VersionsHidden)
        }
        None => Some(Verdict::VersionsLost),
    }
}

/// Which finding decides where there are several.
const ORDER: [Verdict; 10] = [
    Verdict::KeyLost,
    Verdict::KeyRecreated,
    Verdict::OpenbaoRolledBack,
    Verdict::VersionsLost,
    Verdict::IdentityChanged,
    Verdict::ObjectsDamaged,
    Verdict::VersionsHidden,
    Verdict::NotOpenbao,
    Verdict::NotEstablished,
    Verdict::EvidenceUnusable,
];

fn etcd(evidence: &Evidence) -> Check {
    let source = &evidence.source;
    let pair = match &evidence.pair {
        Ok(pair) => pair,
        Err(error) => {
            let failed = ETCD.fail(one_line(error));
            return failed.code(Verdict::EvidenceUnusable.as_str());
        }
    };
    let decrypts = |row: &Row| row.finding.seeds.proven > 0;
    let nothing_decrypts = !pair.rows.iter().any(decrypts);
    let rows = pair.rows.iter();
    let found: Vec<_> = rows
        .filter_map(|row| of_row(row, nothing_decrypts))
        .collect();
    let damaged = (pair.damaged > 0).then(|| {
        let message = format!("{} values of this provider are damaged", pair.damaged);
        (Verdict::ObjectsDamaged, message)
    });
    let open = pair
        .unanswered
        .as_ref()
        .map(|unanswered| (of_unanswered(unanswered), one_line(unanswered)));
    let nothing = pair.rows.is_empty().then(|| {
        let keys = pair.inventory.totals.keys;
        let message = format!(
            "none of {keys} keys is of this provider: is it the right cluster, and the right \
             providerName?"
        );
        (Verdict::EvidenceUnusable, message)
    });
    let unread = pair.inventory.unread.as_ref();
    let unread = unread
        .filter(|unread| !unread.is_allowed())
        .map(|unread| (Verdict::NotEstablished, unread.describe()));
    let all: Vec<_> = found
        .into_iter()
        .chain(damaged)
        .chain(open)
        .chain(unread)
        .chain(nothing)
        .collect();
    let decides = ORDER
        .into_iter()
        .find_map(|verdict| all.iter().find(|(found, _)| *found == verdict));
    match decides {
        Some((verdict, message)) => ETCD
            .fail(format!("{source}: {message}"))
            .code(verdict.as_str()),
        None => ETCD.pass().message(proven(source, pair)),
    }
}

fn of_unanswered(unanswered: &Unanswered) -> Verdict {
    match unanswered.class() {
        Some(FailureClass::NotOpenBao) => Verdict::NotOpenbao,
        _ => Verdict::NotEstablished,
    }
}

fn proven(source: &str, pair: &Pair) -> String {
    let objects: u64 = pair.rows.iter().map(|row| row.finding.objects).sum();
    let seeds: u64 = pair.rows.iter().map(|row| row.finding.seeds.proven).sum();
    format!("{source}: all {seeds} encrypted DEKs of {objects} objects decrypt")
}

/// `nothing_decrypts` of all that this key is to decrypt.
fn of_row(row: &Row, nothing_decrypts: bool) -> Option<(Verdict, String)> {
    let finding = &row.finding;
    let objects = finding.objects;
    let seeds = finding.seeds;
    Some(match &finding.origin {
        Origin::Live(_) if nothing_decrypts && row.is_of_another_key() => (
            Verdict::KeyRecreated,
            format!(
                "the key decrypts nothing of {objects} objects that name it: it was made anew in the \
                 same second, or OpenBao's instanceId, the cluster's ID or the provider's name differ"
            ),
        ),
        Origin::Live(_) if seeds.failed > 0 => (
            Verdict::ObjectsDamaged,
            format!(
                "{} objects have DEKs that do not decrypt for another reason than the key",
                row.objects_of_failed_seeds()
            ),
        ),
        Origin::Live(_) if seeds.untried > 0 => (
            Verdict::NotEstablished,
            format!("{} encrypted DEKs were not tried", seeds.untried),
        ),
        Origin::Live(_) => return None,
        Origin::Known(key) => (
            Verdict::NotEstablished,
            format!("{objects} objects need version {}", key.version()),
        ),
        Origin::Gap(gap) => (of_gap(gap), format!("{objects} objects: {}", one_line(gap))),
    })
}

fn of_gap(gap: &Gap) -> Verdict {
    match gap {
        Gap::KeyId(_) | Gap::Annotations(_) | Gap::Foreign(_) => Verdict::ObjectsDamaged,
        Gap::OtherScope { .. } => Verdict::IdentityChanged,
        Gap::NewerThanLatest { .. } => Verdict::OpenbaoRolledBack,
        Gap::Trimmed { .. } => Verdict::VersionsLost,
        Gap::Hidden { .. } => Verdict::VersionsHidden,
        Gap::OtherCreation { .. } | Gap::Recreated { .. } => Verdict::KeyRecreated,
        Gap::NoKey { .. } => Verdict::KeyLost,
        Gap::OtherProvider { .. } | Gap::Unknown { .. } => Verdict::NotEstablished,
    }
}
