//! How a verdict was established, check by check.

use std::collections::BTreeSet;

use kms_domain::{
    fingerprint::require_identity,
    recovery::{
        claims::OtherSecond,
        origin::{Gap, LiveKey, Origin},
        pair::Proof,
        rebuild::OWN_STATE,
    },
};

use super::Facts;
use crate::{
    recovery::{
        drift::Comparison,
        excerpt::few,
        scan,
        verify_pair::{Depth, Pair, Row},
        witness::THE_RECORD,
    },
    report::{Check, one_line},
};

/// Identifier and title of a check. Stable.
pub(super) type Name = (&'static str, &'static str);

pub(super) const OBJECTS: Name = (
    "etcd.objects",
    "etcd holds objects of this provider, none damaged",
);
pub(super) const KEY: Name = ("openbao.key", "OpenBao answers for the key");
pub(super) const STATE: Name = ("registry.state", "The state of this node is evidence");
pub(super) const MAPPED: Name = ("key_ids.mapped", "Every key_id is a version of the key");
pub(super) const DEKS: Name = ("deks.decrypt", "Every encrypted DEK decrypts");
pub(super) const DATA: Name = ("data.open", "Every object opens with its DEK");
pub(super) const DRIFT: Name = ("record.drift", "Nothing has changed since the record");

/// All of them, in their order.
pub(super) fn checks(facts: Facts<'_>) -> [Check; 8] {
    [
        scan::integrity(facts.pair.inventory.trust),
        objects_check(facts),
        key_check(facts.pair),
        state_check(facts),
        mapped_check(facts.pair),
        proof_check(DEKS, facts.pair, |row| Some(row.finding.seeds)),
        match facts.depth {
            Depth::Dek => Check::skip(DATA.0, DATA.1, "give --depth data"),
            Depth::Data => proof_check(DATA, facts.pair, |row| row.finding.data),
        },
        drift_check(facts),
    ]
}

/// How many names of other providers are shown.
const FEW: usize = 5;

fn objects_check(facts: Facts<'_>) -> Check {
    let (id, title) = OBJECTS;
    let inventory = &facts.pair.inventory;
    let ours: u64 = facts.pair.rows.iter().map(|row| row.finding.objects).sum();
    let keys = inventory.totals.keys;
    let provider = facts.config.scope.provider_name.as_str();
    let pair = facts.pair;
    if pair.damaged > 0 {
        let damaged = pair.damaged;
        Check::fail(
            id,
            title,
            format!("{damaged} values of this provider are damaged"),
        )
        .impact("the API server refuses them, and with them every list of their resource")
        .remediation("list them with scan-etcd --show-names; restore an earlier etcd snapshot")
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
        Check::warn(id, title, message).remediation(
            "compare with transit.keyIdScope.providerName, or take the snapshot of this cluster",
        )
    } else if pair.damaged_elsewhere > 0 {
        let damaged = pair.damaged_elsewhere;
        let message = format!(
            "{ours} of {keys} keys; {damaged} values under other provider names are damaged, which \
             does not concern this key"
        );
        Check::warn(id, title, message)
            .impact("the API server refuses them, and with them every list of their resource")
            .remediation(
                "list them with scan-etcd --show-names, and ask the owner of that provider",
            )
    } else if pair.under_other_names.is_empty() {
        Check::pass(id, title).message(format!("{ours} of {keys} keys"))
    } else {
        let names = pair.under_other_names.iter().take(FEW);
        let names: Vec<_> = names
            .map(|(name, count)| format!("{count} under {name}"))
            .collect();
        let message = format!("{ours} of {keys} keys, of them {}", names.join(", "));
        Check::pass(id, title).message(message)
    }
}

fn key_check(pair: &Pair) -> Check {
    let (id, title) = KEY;
    match (&pair.unanswered, pair.lineage.live()) {
        (Some(unanswered), _) => Check::fail(id, title, one_line(unanswered)),
        (None, LiveKey::Listed(profile)) => Check::pass(id, title).message(format!(
            "latest version {}, min_available_version {}, min_decryption_version {}",
            profile.latest(),
            profile.min_available(),
            profile.min_decryption()
        )),
        (None, LiveKey::Missing | LiveKey::Unknown) => {
            Check::fail(id, title, "OpenBao answers, and has no such key")
        }
    }
}

fn state_check(facts: Facts<'_>) -> Check {
    let (id, title) = STATE;
    let config = facts.config;
    match facts.state {
        Err(cause) => Check::skip(id, title, cause),
        Ok(document) => match require_identity(document, &config.scope, &config.key) {
            Ok(()) => match contradiction(facts.pair, OWN_STATE) {
                Some(other) => Check::fail(id, title, other.to_string()).impact(OTHER_KEY),
                None => Check::pass(id, title),
            },
            Err(other) => Check::warn(id, title, other.to_string()).remediation(
                "if this node's state is the right one, change the configuration back",
            ),
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

const OTHER_KEY: &str = "from that version on the live key is another one: it was recreated, or OpenBao \
    was restored and the key rotated again. It does not decrypt what the recorded versions encrypted";

fn mapped_check(pair: &Pair) -> Check {
    let (id, title) = MAPPED;
    let objects = |of: fn(&Origin) -> bool| -> u64 {
        let rows = pair.rows.iter().filter(|row| of(&row.finding.origin));
        rows.map(|row| row.finding.objects).sum()
    };
    let open = objects(|it| matches!(it, Origin::Known(_) | Origin::Gap(Gap::Unknown { .. })));
    let live = objects(|it| matches!(it, Origin::Live(_)));
    let other_provider = objects(|it| matches!(it, Origin::Gap(Gap::OtherProvider { .. })));
    let gaps = objects(|it| matches!(it, Origin::Gap(_))).saturating_sub(other_provider);
    if pair.rows.is_empty() {
        Check::skip(id, title, "there are none")
    } else if open > 0 {
        Check::skip(id, title, "OpenBao did not tell which versions the key has")
    } else if gaps > 0 {
        Check::fail(
            id,
            title,
            format!("{gaps} objects need what the key does not give"),
        )
    } else if other_provider > 0 {
        let message = format!(
            "{other_provider} objects under other provider names have key_ids that this configuration \
             does not give"
        );
        Check::skip(id, title, message)
    } else {
        let key_ids = pair.rows.len();
        Check::pass(id, title).message(format!("{key_ids} key_ids of {live} objects"))
    }
}

/// The answer for a check whose prerequisite failed.
pub(super) fn skipped((id, title): Name) -> Check {
    Check::skip(id, title, "an earlier check failed")
}

fn proof_check((id, title): Name, pair: &Pair, of: fn(&Row) -> Option<Proof>) -> Check {
    let mut sum = Proof::default();
    for proof in pair.rows.iter().filter_map(of) {
        sum.proven = sum.proven.saturating_add(proof.proven);
        sum.failed = sum.failed.saturating_add(proof.failed);
        sum.untried = sum.untried.saturating_add(proof.untried);
    }
    let Proof {
        proven,
        failed,
        untried,
    } = sum;
    let counts = format!("{proven} do, {failed} do not, {untried} were not tried");
    if failed > 0 {
        Check::fail(id, title, counts)
    } else if proven == 0 || untried > 0 {
        Check::skip(id, title, counts)
    } else {
        Check::pass(id, title).message(format!("{proven} of {proven}"))
    }
}

fn drift_check(facts: Facts<'_>) -> Check {
    let (id, title) = DRIFT;
    let Some(record) = facts.record else {
        return Check::skip(id, title, "no --record was given");
    };
    if let Some(other) = contradiction(facts.pair, THE_RECORD) {
        return Check::fail(id, title, other.to_string()).impact(OTHER_KEY);
    }
    let at = &record.note().recorded_at;
    let Comparison {
        drift,
        not_compared,
    } = facts.compared;
    let fields: Vec<_> = drift.iter().map(|it| it.field.as_str()).collect();
    let missing = few(not_compared, 0);
    match (fields.is_empty(), not_compared.is_empty()) {
        (true, true) => Check::pass(id, title).message(format!("made at {at}")),
        (true, false) => {
            let message =
                format!("no compared fact has changed since {at}; not compared: {missing}");
            Check::skip(id, title, message)
        }
        (false, compared_all) => {
            let message = format!("changed since {at}: {}", fields.join(", "));
            let missing = match compared_all {
                true => String::new(),
                false => format!("; not compared: {missing}"),
            };
            Check::warn(id, title, format!("{message}{missing}"))
        }
    }
}
