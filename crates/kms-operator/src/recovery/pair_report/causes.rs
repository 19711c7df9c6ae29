//! Causes of a verdict, with the objects that each concerns.

use kms_domain::{
    recovery::{
        pair::{Remedy, Verdict},
        resolve::{LiveKey, Resolution, ResolveError},
    },
    transit::{CreatedAt, TransitVersion},
};
use kms_node::{
    advice::{self, Advice, Cause, DataImpact, Found, NextStep, Site, texts},
    report::{counted, one_line, outcome::Outcome, table::Table, utc},
};

use super::{
    Facts,
    key_ids::{lost, untested},
};
use crate::recovery::{
    cause::{Context, ORDER, of_unanswered},
    truncated::few,
    verify_pair::Row,
};

/// A cause and its objects.
pub(super) struct Case {
    cause: &'static Cause,
    values: Vec<(&'static str, String)>,
    /// Objects or values; 0 where it is not a matter of single ones.
    objects: u64,
    versions: Vec<TransitVersion>,
    /// The finding with its values.
    found: String,
}

/// Causes after which the pair is not to be used as it is, although a part of it may decrypt.
const OF_KEY_AND_NAMES: [&Cause; 5] = [
    &advice::key::LOST,
    &advice::key::RECREATED,
    &advice::versions::ROLLED_BACK,
    &advice::versions::LOST,
    &advice::configuration::IDENTITY_CHANGED,
];

/// The deciding cause first.
pub(super) fn cases(facts: Facts<'_>) -> Vec<Case> {
    let pair = facts.pair;
    let context = Context::of(pair);
    let mut cases: Vec<Case> = Vec::new();
    for row in &pair.rows {
        let Some(cause) = context.of_row(row) else {
            continue;
        };
        // Both are told once for all rows, below.
        let unanswered = cause == &advice::openbao::INCONCLUSIVE && pair.unanswered.is_some();
        if cause == &advice::versions::BELOW_MINIMUM || unanswered {
            continue;
        }
        match cases.iter_mut().find(|case| case.cause == cause) {
            Some(case) => case.add(row),
            None => cases.push(Case::of(row, cause)),
        }
    }
    cases.extend(damaged(facts));
    cases.extend(pair.remedies.iter().filter_map(|it| remedy(facts, it)));
    if let Some(unanswered) = &pair.unanswered {
        cases.push(Case::plain(
            (of_unanswered(unanswered), Vec::new()),
            one_line(unanswered),
        ));
    }
    if let Some(unread) = pair.inventory.unread.as_ref().filter(|it| !it.is_allowed()) {
        cases.push(Case::plain(unread.cause("etcd", None), unread.describe()));
    }
    if pair.rows.is_empty() && pair.damaged == 0 {
        let keys = counted(pair.inventory.totals.keys, "key");
        let found = format!("no object of this provider among {keys}");
        cases.push(Case::plain(
            (&advice::evidence::NO_OBJECTS, Vec::new()),
            found,
        ));
    }
    cases.iter_mut().for_each(|case| case.add_recorded(facts));
    let rank = |case: &Case| {
        let known = ORDER.iter().position(|cause| *cause == case.cause);
        // Before the inconclusive ones.
        known.unwrap_or(ORDER.len().saturating_sub(3))
    };
    cases.sort_by_key(rank);
    cases
}

fn damaged(facts: Facts<'_>) -> Option<Case> {
    let damaged = facts.pair.damaged;
    let values = counted(damaged, "value");
    let found = format!("damaged under the name of this provider: {values}");
    let mut case = Case::plain((&advice::evidence::OBJECTS_DAMAGED, Vec::new()), found);
    case.objects = damaged;
    (damaged > 0).then_some(case)
}

fn remedy(facts: Facts<'_>, remedy: &Remedy) -> Option<Case> {
    let pair = facts.pair;
    let found = match remedy {
        Remedy::LowerMinDecryption(_) => &advice::versions::BELOW_MINIMUM,
        Remedy::RestoreVersions(_) => &advice::state::VERSIONS_REMOVED,
    };
    let mut case = Case::plain((found, remedy_values(facts, remedy)), String::new());
    case.found = match remedy {
        Remedy::LowerMinDecryption(lowest) => {
            case.objects = pair.rows.iter().map(untested).sum();
            let hidden = pair.rows.iter().filter(|row| untested(row) > 0);
            case.versions = hidden.filter_map(|row| row.version).collect();
            format!("the lowest needed version is {lowest}")
        }
        Remedy::RestoreVersions(versions) => {
            case.versions.clone_from(versions);
            "the state of this node has versions as removed".to_owned()
        }
    };
    Some(case)
}

/// Values of the commands of a remedy.
pub(super) fn remedy_values(facts: Facts<'_>, remedy: &Remedy) -> Vec<(&'static str, String)> {
    match remedy {
        Remedy::LowerMinDecryption(lowest) => {
            let mut values = vec![("lowest", lowest.to_string())];
            // In a copy that was made for the trial it is lowered already.
            if let LiveKey::Listed(profile) = facts.pair.lineage.live()
                && profile.min_decryption() != lowest.get()
            {
                values.push(("minimum", profile.min_decryption().to_string()));
            }
            values
        }
        Remedy::RestoreVersions(versions) => {
            let numbers: Vec<_> = versions.iter().map(ToString::to_string).collect();
            vec![("removed", numbers.join(","))]
        }
    }
}

impl Case {
    fn plain((cause, values): Found, found: String) -> Self {
        Self {
            cause,
            values,
            objects: 0,
            versions: Vec::new(),
            found,
        }
    }

    fn of(row: &Row, cause: &'static Cause) -> Self {
        let mut case = Self::plain((cause, Vec::new()), String::new());
        case.add(row);
        case
    }

    /// The row of the highest version decides the backup to restore.
    fn add(&mut self, row: &Row) {
        let finding = &row.finding;
        let objects = match &finding.origin {
            Resolution::Live(_) => lost(row),
            Resolution::Known(_) | Resolution::Unresolved(_) => finding.objects,
        };
        self.objects = self.objects.saturating_add(objects);
        let highest = self.versions.iter().max().copied();
        let known = row
            .version
            .filter(|version| !self.versions.contains(version));
        self.versions.extend(known);
        if !self.values.is_empty() && row.version <= highest {
            return;
        }

        self.found = match &finding.origin {
            Resolution::Unresolved(gap) => one_line(gap),
            Resolution::Live(_) => super::key_ids::proven(row),
            Resolution::Known(key) => format!("it needs version {}", key.version()),
        };
        let made = made(&finding.origin).map_or_else(String::new, |at| {
            format!(", which was made at {}", utc(at.get()))
        });
        let version = row.version.map(|version| ("highest", version.to_string()));
        self.values = version.into_iter().chain([("made", made)]).collect();
        if let Resolution::Unresolved(ResolveError::OtherProvider { provider, .. }) =
            &finding.origin
        {
            self.values.push(("provider", format!("{provider:?}")));
        }
    }

    fn add_recorded(&mut self, facts: Facts<'_>) {
        let note = facts.record.map(|record| record.note());
        let recorded = note.and_then(|note| Some((note, note.openbao.as_ref()?)));
        if let Some((note, openbao)) = recorded {
            self.values.push(("recorded_at", note.recorded_at.clone()));
            self.values.push(("openbao_sha256", openbao.sha256_hex()));
        }
    }

    fn advice(&self, site: &Site<'_>) -> Advice {
        self.cause.advise(site, &texts(&self.values))
    }

    fn sentence(&self) -> String {
        match self.objects {
            0 => self.found.clone(),
            objects => format!("{}: {}", counted(objects, "object"), self.found),
        }
    }
}

fn made(origin: &Resolution) -> Option<CreatedAt> {
    match origin {
        Resolution::Unresolved(ResolveError::NewerThanLatest { recorded, .. }) => *recorded,
        _ => None,
    }
}

/// Adds causes, steps and warnings to the result.
pub(super) fn add_advice<R>(
    facts: Facts<'_>,
    cases: &[Case],
    site: &Site<'_>,
    outcome: &mut Outcome<R>,
) {
    let advised: Vec<Advice> = cases.iter().map(|case| case.advice(site)).collect();
    if let Some(first) = cases.first() {
        outcome.set_found(first.sentence());
    }
    let several = cases.len() > 1;
    for (case, advice) in cases.iter().zip(&advised) {
        let of_others = |step: &NextStep| {
            let mut same = advised.iter().filter(|it| it.steps.contains(step));
            same.nth(1).is_some()
        };
        let steps = advice.steps.iter().map(|step| match case.objects {
            objects if several && objects > 0 && !of_others(step) => NextStep {
                text: format!(
                    "for {} ({}): {}",
                    counted(objects, "object"),
                    advice.code,
                    step.text
                ),
                command: step.command.clone(),
            },
            _ => step.clone(),
        });
        outcome.add_cause(&Advice {
            steps: steps.collect(),
            ..advice.clone()
        });
    }

    let verdict = facts.pair.verdict;
    if verdict != Verdict::Compatible {
        let again = advice::evidence::AGAIN.advise(site, &[("again", facts.line.again)]);
        outcome.add_steps(again);
        outcome.add_warnings([advice::KEEP_ETCD]);
    }
    let unfit = cases
        .iter()
        .any(|case| OF_KEY_AND_NAMES.contains(&case.cause));
    outcome.add_warnings(unfit.then_some(advice::key::NOT_IN_SERVICE));
    for remedy in &facts.pair.remedies {
        let values = remedy_values(facts, remedy);
        outcome.add_steps(advice::versions::RAISE_MINIMUM.advise(site, &texts(&values)));
    }
}

/// The gravest effect of the causes.
pub(super) fn gravest(cases: &[Case]) -> Option<(DataImpact, String)> {
    let lost = cases
        .iter()
        .find(|case| case.cause.impact == DataImpact::LostWithoutBackup);
    let case = lost.or(cases.first())?;
    Some((case.cause.impact, case.cause.data()))
}

/// One row a cause, where there are several.
pub(super) fn table(cases: &[Case]) -> Option<Table> {
    let versions = |case: &Case| {
        let versions: Vec<_> = case.versions.iter().map(ToString::to_string).collect();
        few(&versions, 0)
    };
    let table = Table::of("causes", cases)
        .column("cause", |case| case.cause.code)
        .column("objects", |case| Some(case.objects).filter(|it| *it > 0))
        .column("versions", versions)
        .column("meaning", |case| case.cause.headline);
    (cases.len() > 1).then(|| table.table())
}
