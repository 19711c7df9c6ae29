//! The checks behind a verdict. A title names the subject: it fits a passed and a failed check.

use std::collections::BTreeSet;

use kms_domain::{
    identity::require_identity,
    recovery::{
        claims::OtherSecond,
        pair::Proof,
        rebuild::OWN_STATE,
        resolve::{LiveKey, Resolution, ResolveError},
    },
    registry::{RegistryConflict, document::Document},
};
use kms_node::{
    advice::{self, Site},
    report::{CheckName, CheckResult, counted, one_line, utc},
};

use super::Facts;
use crate::recovery::{
    cause::of_unanswered,
    drift::Comparison,
    local_knowledge::THE_RECORD,
    scan,
    truncated::few,
    verify_pair::{Depth, Pair, Row},
};

pub(super) const OBJECTS: CheckName = CheckName("etcd.objects", "Objects of this provider in etcd");
pub(super) const KEY: CheckName = CheckName("openbao.key", "The key in OpenBao");
pub(super) const STATE: CheckName = CheckName("registry.state", "State of this node");
pub(super) const MAPPED: CheckName = CheckName("key_ids.mapped", "Versions of the stored key_ids");
pub(super) const DEKS: CheckName = CheckName("deks.decrypt", "Decryption of the encrypted DEKs");
pub(super) const DATA: CheckName = CheckName("data.open", "Decryption of the objects");
pub(super) const DRIFT: CheckName = CheckName("record.drift", "Comparison with the record");

/// All of them, in their order.
pub(super) fn checks(facts: Facts<'_>) -> [CheckResult; 8] {
    [
        scan::integrity(facts.pair.inventory.trust, &site(facts)),
        objects_check(facts),
        key_check(facts.pair),
        state_check(facts),
        mapped_check(facts.pair),
        proof_check(DEKS, facts.pair, |row| Some(row.finding.seeds)),
        match facts.depth {
            Depth::Dek => DATA.skip("give --depth data"),
            Depth::Data => proof_check(DATA, facts.pair, |row| row.finding.data),
        },
        drift_check(facts),
    ]
}

/// How many names of other providers are shown.
const FEW: usize = 5;

fn site(facts: Facts<'_>) -> Site<'_> {
    Site::new(facts.config_path, Some(facts.config))
}

fn objects_check(facts: Facts<'_>) -> CheckResult {
    let inventory = &facts.pair.inventory;
    let ours: u64 = facts.pair.rows.iter().map(|row| row.finding.objects).sum();
    let keys = inventory.totals.keys;
    let provider = facts.config.scope.provider_name.as_str();
    let pair = facts.pair;
    if pair.damaged > 0 {
        let damaged = counted(pair.damaged, "value");
        let message = format!("damaged under the name of this provider: {damaged}");
        OBJECTS
            .fail(message)
            .impact("the API server refuses them, and with them every list of their resource")
            .code(advice::evidence::OBJECTS_DAMAGED.code)
    } else if ours == pair.under_other_names.values().sum::<u64>() {
        let others: BTreeSet<_> = inventory.groups.iter().map(|it| &*it.provider).collect();
        let others: Vec<_> = others.into_iter().take(FEW).collect();
        let others = match others.is_empty() {
            true => "none".to_owned(),
            false => others.join(", "),
        };
        let message = format!(
            "none of {keys} keys is of provider {provider}; KMS v2 providers there: {others}"
        );
        OBJECTS
            .warn(message)
            .code(advice::evidence::NO_OBJECTS.code)
    } else if pair.damaged_elsewhere > 0 {
        let damaged = counted(pair.damaged_elsewhere, "value");
        let message = format!(
            "{ours} of {keys} keys; damaged under other provider names, which does not concern this \
             key: {damaged}"
        );
        OBJECTS
            .warn(message)
            .because(advice::evidence::DAMAGED_OF_OTHERS.advise(&site(facts), &[]))
    } else if pair.under_other_names.is_empty() {
        OBJECTS.pass().message(format!("{ours} of {keys} keys"))
    } else {
        let names = pair.under_other_names.iter().take(FEW);
        let names: Vec<_> = names
            .map(|(name, count)| format!("{count} under {name}"))
            .collect();
        let message = format!("{ours} of {keys} keys, of them {}", names.join(", "));
        OBJECTS.pass().message(message)
    }
}

fn key_check(pair: &Pair) -> CheckResult {
    match (&pair.unanswered, pair.lineage.live()) {
        (Some(unanswered), _) => KEY
            .fail(one_line(unanswered))
            .code(of_unanswered(unanswered).code),
        (None, LiveKey::Listed(profile)) => KEY.pass().message(format!(
            "latest version {}, min_available_version {}, min_decryption_version {}",
            profile.latest(),
            profile.min_available(),
            profile.min_decryption()
        )),
        (None, LiveKey::Missing | LiveKey::Unknown) => KEY
            .fail("OpenBao answers, and has no such key")
            .code(advice::key::LOST.code),
    }
}

fn state_check(facts: Facts<'_>) -> CheckResult {
    let config = facts.config;
    match facts.state {
        Err(cause) => STATE.skip(cause),
        Ok(document) => match require_identity(document, &config.scope, &config.key) {
            Ok(()) => match contradiction(facts.pair, OWN_STATE) {
                Some(other) => other_key(STATE, other, "by the state of this node"),
                None => conflict(facts.pair, document).map_or_else(
                    || STATE.pass(),
                    |conflict| {
                        STATE
                            .warn(conflict.to_string())
                            .because(advice::state::CONFLICT.advise(&site(facts), &[]))
                    },
                ),
            },
            Err(other) => STATE
                .warn(other.to_string())
                .because(advice::configuration::IDENTITY_CHANGED.advise(&site(facts), &[])),
        },
    }
}

/// The lowest version by which `source` shows that the live key is another one from there on.
fn contradiction(pair: &Pair, source: &str) -> Option<OtherSecond> {
    let LiveKey::Listed(profile) = pair.lineage.live() else {
        return None;
    };
    let mut claims = pair.lineage.claims().iter();
    let claims = claims.find(|claims| claims.source == source)?;
    claims.other_seconds(profile).min_by_key(|it| it.version)
}

/// A state of other versions than the live key has.
fn conflict(pair: &Pair, document: &Document) -> Option<RegistryConflict> {
    let LiveKey::Listed(profile) = pair.lineage.live() else {
        return None;
    };
    profile.require_retained(document.registry()).err()
}

/// A changed creation time of a version proves another key.
fn other_key(name: CheckName, other: OtherSecond, source: &str) -> CheckResult {
    let OtherSecond {
        version,
        recorded,
        live,
    } = other;
    let (live, recorded) = (utc(live.get()), utc(recorded.get()));
    let message =
        format!("version {version} was created at {live} in OpenBao, at {recorded} {source}");
    name.fail(message)
        .impact(OTHER_KEY)
        .code(advice::key::RECREATED.code)
}

const OTHER_KEY: &str = "from that version on the live key is another one: it was recreated, or OpenBao \
    was restored and the key rotated again. It does not decrypt what the recorded versions encrypted";

fn mapped_check(pair: &Pair) -> CheckResult {
    let objects = |of: fn(&Resolution) -> bool| -> u64 {
        let rows = pair.rows.iter().filter(|row| of(&row.finding.origin));
        rows.map(|row| row.finding.objects).sum()
    };
    let open = objects(|it| {
        matches!(
            it,
            Resolution::Known(_) | Resolution::Unresolved(ResolveError::Unknown { .. })
        )
    });
    let live = objects(|it| matches!(it, Resolution::Live(_)));
    let other_provider = objects(|it| {
        matches!(
            it,
            Resolution::Unresolved(ResolveError::OtherProvider { .. })
        )
    });
    let gaps = objects(|it| matches!(it, Resolution::Unresolved(_))).saturating_sub(other_provider);
    if pair.rows.is_empty() {
        MAPPED.skip("there are none")
    } else if open > 0 {
        MAPPED.skip("the versions of the key are unknown")
    } else if gaps > 0 {
        MAPPED.fail(format!(
            "{} without a version of the key",
            counted(gaps, "object")
        ))
    } else if other_provider > 0 {
        let message = format!(
            "{} under other provider names, whose key_ids this configuration does not give",
            counted(other_provider, "object")
        );
        MAPPED.skip(message)
    } else {
        let key_ids = pair.rows.len();
        let (key_ids, live) = (counted(key_ids, "key_id"), counted(live, "object"));
        MAPPED.pass().message(format!("{key_ids} of {live}"))
    }
}

fn proof_check(name: CheckName, pair: &Pair, of: fn(&Row) -> Option<Proof>) -> CheckResult {
    let sum = pair.rows.iter().filter_map(of);
    let Proof {
        proven,
        failed,
        untried,
    } = sum.fold(Proof::default(), Proof::plus);
    let counts = format!("{proven} decrypted, {failed} not, {untried} untried");
    if failed > 0 {
        name.fail(counts)
    } else if proven == 0 || untried > 0 {
        name.skip(counts)
    } else {
        name.pass().message(format!("{proven} of {proven}"))
    }
}

fn drift_check(facts: Facts<'_>) -> CheckResult {
    let Some(record) = facts.record else {
        return DRIFT.skip("no --record was given");
    };
    if let Some(other) = contradiction(facts.pair, THE_RECORD) {
        return other_key(DRIFT, other, "by the record");
    }
    let at = &record.note().recorded_at;
    let Comparison {
        drift,
        not_compared,
    } = facts.compared;
    let fields: Vec<_> = drift.iter().map(|it| it.field.as_str()).collect();
    let missing = few(not_compared, 0);
    match (fields.is_empty(), not_compared.is_empty()) {
        (true, true) => DRIFT.pass().message(format!("made at {at}")),
        (true, false) => {
            let message =
                format!("no compared fact has changed since {at}; not compared: {missing}");
            DRIFT.skip(message)
        }
        (false, compared_all) => {
            let message = format!("changed since {at}: {}", fields.join(", "));
            let missing = match compared_all {
                true => String::new(),
                false => format!("; not compared: {missing}"),
            };
            DRIFT.warn(format!("{message}{missing}"))
        }
    }
}
