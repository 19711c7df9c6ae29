//! Are this etcd data and this OpenBao a compatible pair? Gathers what each of them says, tries every
//! encrypted DEK and, if wanted, every object, and lets the domain judge.
//!
//! Reads only. A decrypted DEK is kept until its objects are opened, an object's plaintext for the
//! moment of its check; both are wiped, and neither is shown.

mod opening;
mod trial;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU64,
    sync::Arc,
};

use etcd_snapshot::{file::OnProgress, revision::Revisions};
use kms_domain::{
    key::{KeyScope, TransitKey},
    recovery::{
        claims::VersionClaims,
        origin::{Lineage, LiveKey, Origin},
        pair::{Finding, Proof, Remedy, Verdict, judge, remedies},
    },
    transit::{KeyProfile, ProfileRefused, TransitVersion},
};
use openbao_client::failure::{Failure, FailureClass};
use opening::{FEW, Opened, OpenedGroup, Opening};
use trial::{Outcomes, Trial};

use super::{
    EtcdError, EtcdSource,
    inventory::{Group, GroupIndex, Inventory, Wanted},
};
use crate::{
    auth::CallFailure,
    config::Config,
    connection::{self, Access, Connection, ConnectionError},
};

/// What is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Depth {
    /// That every distinct encrypted DEK decrypts.
    #[default]
    Dek,
    /// That every object opens with its DEK too.
    Data,
}

/// What was found, and the verdict on it.
#[derive(Debug)]
pub struct Pair {
    /// What etcd holds.
    pub inventory: Inventory,
    /// What the key is, and what evidence says it was.
    pub lineage: Lineage,
    /// Why OpenBao did not answer everything.
    pub unanswered: Option<Unanswered>,
    /// The objects of the key under any provider name, by what they need; version by version.
    pub rows: Vec<Row>,
    /// Objects of the key under other provider names than the configured one, by name.
    pub under_other_names: BTreeMap<String, u64>,
    /// Damaged values under provider names that hold objects of the key. No API server reads them.
    pub damaged: u64,
    /// Damaged values under names of other providers, which are no part of the verdict.
    pub damaged_elsewhere: u64,
    /// Objects that were not there when etcd was read first.
    pub appeared: u64,
    /// The steps before the objects can be read.
    pub remedies: Vec<Remedy>,
    /// Over all rows.
    pub verdict: Verdict,
}

impl Pair {
    /// The version that `min_decryption_version` must be lowered to before all can be tried.
    #[must_use]
    pub fn lowered_minimum(&self) -> Option<TransitVersion> {
        self.remedies.iter().find_map(|remedy| match remedy {
            Remedy::LowerMinDecryption(version) => Some(*version),
            Remedy::RestoreVersions(_) => None,
        })
    }

    /// The same for a key whose `min_decryption_version` was lowered for the trial alone: lowering
    /// it remains the first step, and the objects below it are tried.
    #[must_use]
    pub fn after_lowering(mut self, minimum: TransitVersion) -> Self {
        self.remedies.insert(0, Remedy::LowerMinDecryption(minimum));
        let findings: Vec<_> = self.rows.iter().map(|row| row.finding.clone()).collect();
        self.verdict = verdict(&self.inventory, &findings, self.damaged, &self.remedies);
        self
    }
}

/// The objects of one `key_id` with the same origin.
#[derive(Debug)]
pub struct Row {
    /// What its objects need: by derivation, else by their annotations.
    pub version: Option<TransitVersion>,
    /// What stands for the `key_id`.
    pub key_id_hash: String,
    /// Where it comes from, and what became of it.
    pub finding: Finding,
    /// The objects by resource.
    pub resources: BTreeMap<String, u64>,
    /// Why seeds failed, and how many.
    pub seed_problems: BTreeMap<SeedProblem, u64>,
    /// Objects of the seeds that failed, by resource.
    pub refused: BTreeMap<String, u64>,
    /// The keys of the first few objects that cannot be decrypted, if wanted.
    pub undecryptable_names: Vec<String>,
    /// Objects that did not open though their DEK did, by resource.
    pub unopened: BTreeMap<String, u64>,
    /// The keys of the first few of those, if wanted.
    pub unopened_names: Vec<String>,
}

/// Why an encrypted DEK is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeedProblem {
    /// No ciphertext of Transit, or one of another version than the `key_id` names.
    OtherCiphertext,
    /// OpenBao has a version of that number and second, and it is not the one that encrypted this,
    /// or the ciphertext or its binding was changed.
    NotDecrypted,
    /// It decrypts to something that is no DEK.
    NoDek,
}

/// Why OpenBao did not answer everything.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nothing to ask with.
    #[error("OpenBao could not be asked")]
    Connection(#[from] ConnectionError),
    /// The key's metadata is not known.
    #[error("the key's metadata could not be read")]
    Metadata(#[source] CallFailure),
    /// The key must not be used, so it is not tried.
    #[error("the key is not set up as the provider needs it, so nothing was tried")]
    Profile(#[source] ProfileRefused),
    /// OpenBao stopped answering.
    #[error("OpenBao did not decrypt to the end")]
    Decrypt(#[source] CallFailure),
    /// OpenBao answered something else than that a DEK decrypts or not.
    #[error("OpenBao did not try every DEK")]
    Item(#[source] Failure),
}

impl Unanswered {
    /// The class of the request that failed; `None` without a request, or without a login.
    #[must_use]
    pub fn class(&self) -> Option<FailureClass> {
        match self {
            Self::Metadata(failure) | Self::Decrypt(failure) => failure.class(),
            Self::Item(failure) => Some(failure.class()),
            Self::Connection(_) | Self::Profile(_) => None,
        }
    }
}

/// How the work comes on.
#[derive(Clone, Copy)]
pub struct Watch<'p> {
    /// The reading of what is needed.
    pub reading: OnProgress<'p>,
    /// The trial of the encrypted DEKs, which it counts.
    pub trying: OnProgress<'p>,
    /// The reading that opens the objects.
    pub opening: OnProgress<'p>,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Of the API server in question; see [`Wanted::prefix`].
    pub prefix: Option<String>,
    /// The versions that the state, a record or a peer name.
    pub claims: Vec<VersionClaims>,
    /// The versions that this node's state has as removed, so that it refuses their objects.
    pub removed: Vec<Arc<TransitKey>>,
    /// How far the proof goes.
    pub depth: Depth,
    /// At most how many distinct encrypted DEKs of each `key_id` are tried; `None` for all.
    pub sample: Option<NonZeroU64>,
    /// Keep the names of the first few objects that do not open.
    pub names: bool,
    /// Look at what superseded revisions were written under, too.
    pub superseded: bool,
}

/// Compares all of `source` with the configured key.
///
/// # Errors
/// When etcd gives no answer. An OpenBao that gives none is a finding.
pub fn verify(
    config: &Config,
    source: &EtcdSource,
    question: Question,
    watch: Watch<'_>,
) -> Result<Pair, EtcdError> {
    verify_with(config, Access::Configured, source, question, watch)
}

/// As [`verify`], with the key in the OpenBao that `access` names.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    config: &Config,
    access: Access,
    source: &EtcdSource,
    question: Question,
    watch: Watch<'_>,
) -> Result<Pair, EtcdError> {
    let Question {
        prefix,
        claims,
        removed,
        depth,
        sample,
        names,
        superseded,
    } = question;
    let wanted = Wanted {
        revisions: Revisions::Newest,
        prefix,
        names,
    };
    let inventory = match superseded {
        true => Inventory::gather_with_superseded(source, &wanted, watch.reading)?,
        false => Inventory::gather(source, &wanted, watch.reading)?,
    };
    let asked = connection::ask_as(config, access, async |openbao| {
        let (live, unread) = read_key(config, openbao).await;
        let scope = Arc::new(KeyScope::new(config.scope.clone()));
        let lineage = Lineage::new(scope, live, claims.iter().cloned());
        let mut trial = Trial::new(&inventory, &lineage, sample);
        let unanswered = match unread {
            None => trial.decrypt_all(openbao, watch.trying).await.err(),
            unread => unread,
        };
        (lineage, trial.outcomes, unanswered)
    });
    let (lineage, outcomes, unanswered) = asked.unwrap_or_else(|error| {
        let scope = Arc::new(KeyScope::new(config.scope.clone()));
        let lineage = Lineage::new(scope, LiveKey::Unknown, claims);
        (lineage, HashMap::new(), Some(error.into()))
    });
    let opened = match depth {
        Depth::Dek => None,
        Depth::Data => {
            let opening = Opening {
                inventory: &inventory,
                lineage: &lineage,
                outcomes: &outcomes,
                wanted: &wanted,
            };
            Some(opening.open_all(source, watch.opening)?)
        }
    };
    let rows = rows(&inventory, &lineage, &outcomes, opened.as_ref());
    let findings: Vec<_> = rows.iter().map(|row| row.finding.clone()).collect();
    let appeared = opened.map_or(0, |opened| opened.appeared);
    let remedies = remedies(&findings, &removed);
    let names = inventory.names_of_key(&lineage);
    let damaged = inventory.damaged_under(|name| names.contains(name));
    let damaged = damaged.fold(0, |sum: u64, (_, count)| sum.saturating_add(count.objects));
    let verdict = verdict(&inventory, &findings, damaged, &remedies);
    let under_other_names = under_other_names(&inventory, &lineage);
    drop(outcomes);
    Ok(Pair {
        damaged,
        damaged_elsewhere: inventory.damaged_values.saturating_sub(damaged),
        inventory,
        lineage,
        unanswered,
        rows,
        under_other_names,
        appeared,
        remedies,
        verdict,
    })
}

fn verdict(
    inventory: &Inventory,
    findings: &[Finding],
    damaged: u64,
    remedies: &[Remedy],
) -> Verdict {
    match judge(findings, damaged, remedies) {
        // Any object may be among keys that were left unread.
        Verdict::Compatible | Verdict::CompatibleAfter if inventory.has_open_keys() => {
            Verdict::Inconclusive
        }
        verdict => verdict,
    }
}

async fn read_key(config: &Config, openbao: &Connection) -> (LiveKey, Option<Unanswered>) {
    match openbao.key_metadata().await {
        Ok(metadata) => match KeyProfile::check(&metadata, &config.key.key_name) {
            Ok(profile) => (LiveKey::Listed(profile), None),
            Err(refused) => (LiveKey::Unknown, Some(Unanswered::Profile(refused))),
        },
        // Of a login that failed it would say nothing about the key.
        Err(CallFailure::OpenBao(failure)) if failure.class() == FailureClass::NotFound => {
            (LiveKey::Missing, None)
        }
        Err(failure) => (LiveKey::Unknown, Some(Unanswered::Metadata(failure))),
    }
}

fn under_other_names(inventory: &Inventory, lineage: &Lineage) -> BTreeMap<String, u64> {
    let configured = lineage.scope().identity().provider_name.as_str();
    let mut found = BTreeMap::new();
    for (_, group) in inventory.of_key(lineage) {
        if group.provider != configured {
            let count: &mut u64 = found.entry(group.provider.clone()).or_default();
            *count = count.saturating_add(group.count.objects);
        }
    }
    found
}

/// The versions that superseded revisions of the key's objects were written under.
pub(super) fn superseded(inventory: &Inventory, lineage: &Lineage) -> Vec<Origin> {
    let stored = inventory.superseded.iter().map(Group::stored);
    let owned = stored.filter(|stored| lineage.owns(*stored));
    owned.map(|stored| lineage.origin(stored)).collect()
}

/// Versions first, in ascending order; then what names none.
fn rows(
    inventory: &Inventory,
    lineage: &Lineage,
    outcomes: &Outcomes<'_>,
    opened: Option<&Opened>,
) -> Vec<Row> {
    let mut rows: BTreeMap<(bool, Option<TransitVersion>, String, &'static str), Row> =
        BTreeMap::new();
    for (index, group) in inventory.of_key(lineage) {
        let origin = lineage.origin(group.stored());
        let (version, word) = match &origin {
            Origin::Live(key) => (Some(key.version()), "live"),
            Origin::Known(key) => (Some(key.version()), "known"),
            Origin::Gap(gap) => (gap.version(), gap.code()),
        };
        let key_id_hash = group.key_id_hash().to_string();
        // Groups that differ in no more than the version of the program that wrote them.
        let row = rows
            .entry((version.is_none(), version, key_id_hash.clone(), word))
            .or_insert_with(|| Row {
                version,
                key_id_hash,
                finding: Finding {
                    origin,
                    objects: 0,
                    seeds: Proof::default(),
                    data: opened.map(|_| Proof::default()),
                },
                resources: BTreeMap::new(),
                seed_problems: BTreeMap::new(),
                refused: BTreeMap::new(),
                undecryptable_names: Vec::new(),
                unopened: BTreeMap::new(),
                unopened_names: Vec::new(),
            });
        row.add_group(index, group, outcomes);
        if let Some(opened) = opened.and_then(|opened| opened.groups.get(&index)) {
            row.add_opened(opened);
        }
    }
    for row in rows.values_mut() {
        row.finding.count_unopened();
    }
    rows.into_values().collect()
}

impl Row {
    /// Whether it is certain that the key had this version, not a claim of what etcd holds.
    #[must_use]
    pub fn is_of_the_key(&self) -> bool {
        matches!(self.finding.origin, Origin::Live(_) | Origin::Known(_))
    }

    /// Whether OpenBao has tried all of its DEKs and authenticated none: what another key of the same
    /// number and second does.
    #[must_use]
    pub fn is_of_another_key(&self) -> bool {
        let seeds = self.finding.seeds;
        let mut problems = self.seed_problems.keys();
        matches!(self.finding.origin, Origin::Live(_))
            && (seeds.proven, seeds.untried) == (0, 0)
            && seeds.failed > 0
            && problems.all(|problem| *problem == SeedProblem::NotDecrypted)
    }

    fn add_group(&mut self, index: GroupIndex, group: &Group, outcomes: &Outcomes<'_>) {
        let finding = &mut self.finding;
        finding.objects = finding.objects.saturating_add(group.count.objects);
        add_counts(&mut self.resources, &group.resources);
        let seeds = &mut finding.seeds;
        let mut names: Vec<&[String]> = Vec::new();
        if matches!(finding.origin, Origin::Gap(_)) {
            names.push(&group.count.names);
        }
        for (seed, _) in group.seeds() {
            match outcomes.get(&(index, seed)) {
                None => seeds.untried = seeds.untried.saturating_add(1),
                Some(Ok(_)) => seeds.proven = seeds.proven.saturating_add(1),
                Some(Err(problem)) => {
                    seeds.failed = seeds.failed.saturating_add(1);
                    let count = self.seed_problems.entry(*problem).or_default();
                    *count = count.saturating_add(1);
                    add_counts(&mut self.refused, &group.resources_of(seed));
                    names.push(group.names_of(seed));
                }
            }
        }
        let room = FEW.saturating_sub(self.undecryptable_names.len());
        let names = names.into_iter().flatten().take(room).cloned();
        self.undecryptable_names.extend(names);
    }

    /// Objects of the seeds that failed.
    #[must_use]
    pub fn objects_of_failed_seeds(&self) -> u64 {
        self.refused.values().copied().fold(0, u64::saturating_add)
    }

    fn add_opened(&mut self, opened: &OpenedGroup) {
        if let Some(data) = &mut self.finding.data {
            data.proven = data.proven.saturating_add(opened.proof.proven);
            data.failed = data.failed.saturating_add(opened.proof.failed);
        }
        add_counts(&mut self.unopened, &opened.unopened);
        let room = FEW.saturating_sub(self.unopened_names.len());
        let names = opened.names.values().take(room).cloned();
        self.unopened_names.extend(names);
    }
}

fn add_counts(into: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (name, more) in counts {
        let count = into.entry(name.clone()).or_default();
        *count = count.saturating_add(*more);
    }
}
