//! Compatibility check of etcd data and OpenBao. Reads both, decrypts every distinct encrypted DEK
//! and, on request, every object. The domain crate derives the verdict.
//!
//! Read-only. A decrypted DEK stays in memory until its objects are decrypted, the plaintext of an
//! object until it is authenticated. Both are wiped afterwards, and are never printed.

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
        pair::{Finding, Proof, Remedy, Verdict, judge, remedies},
        resolve::{KeyResolver, LiveKey, Resolution},
    },
    transit::{KeyProfile, ProfileRefused, TransitVersion},
};
use kms_node::{
    auth::CallFailure,
    config::Config,
    connection::{self, Access, Connection, ConnectionError},
};
use openbao_client::failure::{Failure, FailureClass};
use opening::{FEW, Opened, OpenedGroup, Opening};
use trial::{Outcomes, Trial};

use super::{
    EtcdError, EtcdSource,
    inventory::{Group, GroupIndex, Inventory, Wanted},
};

/// Depth of the proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Depth {
    /// That every distinct encrypted DEK decrypts.
    #[default]
    Dek,
    /// That every object opens with its DEK too.
    Data,
}

/// Findings and verdict.
#[derive(Debug)]
pub struct Pair {
    pub inventory: Inventory,
    /// Versions of the live key and of the claims.
    pub lineage: KeyResolver,
    /// Reason for incomplete answers from OpenBao.
    pub unanswered: Option<Unanswered>,
    /// Objects of the key under any provider name, one row per version, `key_id` and resolution.
    pub rows: Vec<Row>,
    /// Objects of the key under provider names other than the configured one, by name.
    pub under_other_names: BTreeMap<String, u64>,
    /// Damaged values under provider names with objects of the key. No API server can read them.
    pub damaged: u64,
    /// Damaged values under other provider names. The verdict ignores them.
    pub damaged_elsewhere: u64,
    /// Objects of groups that are new since the first reading.
    pub appeared: u64,
    /// Required steps before the objects are readable, in order.
    pub remedies: Vec<Remedy>,
    /// Verdict over all rows.
    pub verdict: Verdict,
}

impl Pair {
    /// Required value of `min_decryption_version`, if it must be lowered first.
    #[must_use]
    pub fn lowered_minimum(&self) -> Option<TransitVersion> {
        self.remedies.iter().find_map(|remedy| match remedy {
            Remedy::LowerMinDecryption(version) => Some(*version),
            Remedy::RestoreVersions(_) => None,
        })
    }

    /// The result for a key with a `min_decryption_version` lowered for this trial only. Lowering
    /// it remains the first step, although the objects below the minimum were tried.
    #[must_use]
    pub fn after_lowering(mut self, minimum: TransitVersion) -> Self {
        self.remedies.insert(0, Remedy::LowerMinDecryption(minimum));
        let findings: Vec<_> = self.rows.iter().map(|row| row.finding.clone()).collect();
        self.verdict = verdict(&self.inventory, &findings, self.damaged, &self.remedies);
        self
    }
}

/// Objects with equal `key_id` and resolution.
#[derive(Debug)]
pub struct Row {
    /// Required version: from the resolved key, otherwise from the annotations.
    pub version: Option<TransitVersion>,
    /// Printable hash of the `key_id`.
    pub key_id_hash: String,
    /// Resolution of the `key_id`, and trial results.
    pub finding: Finding,
    /// Number of objects per resource.
    pub resources: BTreeMap<String, u64>,
    /// Number of failed encrypted DEKs per cause.
    pub seed_problems: BTreeMap<SeedProblem, u64>,
    /// Number of objects of failed encrypted DEKs per resource.
    pub refused: BTreeMap<String, u64>,
    /// Keys of the first few undecryptable objects, if requested.
    pub undecryptable_names: Vec<String>,
    /// Objects per resource that failed authentication although their DEK is correct.
    pub unopened: BTreeMap<String, u64>,
    /// Keys of the first few of them, if requested.
    pub unopened_names: Vec<String>,
}

/// Defect of an encrypted DEK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeedProblem {
    /// The value is no Transit ciphertext, or its version differs from the `key_id`.
    OtherCiphertext,
    /// OpenBao has a version with this number and creation second, but authentication failed: it is
    /// another key, or the ciphertext or its associated data changed.
    NotDecrypted,
    /// The plaintext is no DEK.
    NoDek,
}

/// Cause of incomplete answers from OpenBao.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Setting up the OpenBao client failed.
    #[error("OpenBao could not be asked")]
    Connection(#[from] ConnectionError),
    #[error("the key's metadata could not be read")]
    Metadata(#[source] CallFailure),
    /// The key's properties do not permit its use, so its versions are left untested.
    #[error("the key is not set up as the provider needs it, so nothing was tried")]
    Profile(#[source] ProfileRefused),
    /// A decrypt request failed.
    #[error("OpenBao did not decrypt to the end")]
    Decrypt(#[source] CallFailure),
    /// OpenBao returned an inconclusive error for one ciphertext.
    #[error("OpenBao did not try every DEK")]
    Item(#[source] Failure),
}

impl Unanswered {
    /// Class of the failed request; `None` without a request or login.
    #[must_use]
    pub fn class(&self) -> Option<FailureClass> {
        match self {
            Self::Metadata(failure) | Self::Decrypt(failure) => failure.class(),
            Self::Item(failure) => Some(failure.class()),
            Self::Connection(_) | Self::Profile(_) => None,
        }
    }
}

/// Progress callbacks.
#[derive(Clone, Copy)]
pub struct Watch<'p> {
    /// First reading of etcd.
    pub reading: OnProgress<'p>,
    /// Trial of the encrypted DEKs; counts them.
    pub trying: OnProgress<'p>,
    /// Second reading of etcd, with decryption of the objects.
    pub opening: OnProgress<'p>,
}

#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Prefix of the selected API server; see [`Wanted::prefix`].
    pub prefix: Option<String>,
    /// Versions from the state, from records and from peers.
    pub claims: Vec<VersionClaims>,
    /// Versions marked as removed in this node's state. The node refuses their objects.
    pub removed: Vec<Arc<TransitKey>>,
    pub depth: Depth,
    /// Maximum number of distinct encrypted DEKs tried per `key_id`; `None` for all.
    pub sample: Option<NonZeroU64>,
    /// Keep the keys of the first few objects that fail.
    pub names: bool,
    /// Include the groups of superseded revisions.
    pub superseded: bool,
}

/// Compares all of `source` with the configured key.
///
/// # Errors
/// [`EtcdError`] if reading etcd fails. A failure of OpenBao is part of the result.
pub fn verify(
    config: &Config,
    source: &EtcdSource,
    options: VerifyOptions,
    watch: Watch<'_>,
) -> Result<Pair, EtcdError> {
    verify_with(config, Access::Configured, source, options, watch)
}

/// Same as [`verify`], with the key of the OpenBao in `access`.
///
/// # Errors
/// Same as [`verify`].
pub fn verify_with(
    config: &Config,
    access: Access,
    source: &EtcdSource,
    options: VerifyOptions,
    watch: Watch<'_>,
) -> Result<Pair, EtcdError> {
    let wanted = Wanted {
        revisions: Revisions::Newest,
        prefix: options.prefix,
        names: options.names,
    };
    let inventory = match options.superseded {
        true => Inventory::gather_with_superseded(source, &wanted, watch.reading)?,
        false => Inventory::gather(source, &wanted, watch.reading)?,
    };

    let asked = connection::ask_as(config, access, async |openbao| {
        let (live, unread) = read_key(config, openbao).await;
        let scope = Arc::new(KeyScope::new(config.scope.clone()));
        let lineage = KeyResolver::new(scope, live, options.claims.iter().cloned());
        let mut trial = Trial::new(&inventory, &lineage, options.sample);
        let unanswered = match unread {
            None => trial.decrypt_all(openbao, watch.trying).await.err(),
            unread => unread,
        };
        (lineage, trial.outcomes, unanswered)
    });
    let (lineage, outcomes, unanswered) = asked.unwrap_or_else(|error| {
        let scope = Arc::new(KeyScope::new(config.scope.clone()));
        let lineage = KeyResolver::new(scope, LiveKey::Unknown, options.claims.iter().cloned());
        (lineage, HashMap::new(), Some(error.into()))
    });

    let opened = match options.depth {
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
    let appeared = opened.map_or(0, |opened| opened.appeared);
    drop(outcomes);
    let pair = compared(inventory, lineage, rows, &options.removed);
    Ok(Pair {
        unanswered,
        appeared,
        ..pair
    })
}

/// Counts the objects of all of `source` by the version that they need, without a request to
/// OpenBao. `live` is what is known of the key.
///
/// # Errors
/// [`EtcdError`] if reading etcd fails.
pub fn count(
    config: &Config,
    source: &EtcdSource,
    prefix: Option<String>,
    claims: Vec<VersionClaims>,
    live: LiveKey,
    reading: OnProgress<'_>,
) -> Result<Pair, EtcdError> {
    let wanted = Wanted {
        revisions: Revisions::Newest,
        prefix,
        names: false,
    };
    let inventory = Inventory::gather(source, &wanted, reading)?;
    let scope = Arc::new(KeyScope::new(config.scope.clone()));
    let lineage = KeyResolver::new(scope, live, claims);
    let rows = rows(&inventory, &lineage, &HashMap::new(), None);
    Ok(compared(inventory, lineage, rows, &[]))
}

fn compared(
    inventory: Inventory,
    lineage: KeyResolver,
    rows: Vec<Row>,
    removed: &[Arc<TransitKey>],
) -> Pair {
    let findings: Vec<_> = rows.iter().map(|row| row.finding.clone()).collect();
    let remedies = remedies(&findings, removed);

    let names = inventory.names_of_key(&lineage);
    let damaged = inventory.damaged_under(|name| names.contains(name));
    let damaged = damaged.fold(0, |sum: u64, (_, count)| sum.saturating_add(count.objects));
    let verdict = verdict(&inventory, &findings, damaged, &remedies);
    let under_other_names = under_other_names(&inventory, &lineage);

    Pair {
        damaged,
        damaged_elsewhere: inventory.damaged_values.saturating_sub(damaged),
        inventory,
        lineage,
        unanswered: None,
        rows,
        under_other_names,
        appeared: 0,
        remedies,
        verdict,
    }
}

fn verdict(
    inventory: &Inventory,
    findings: &[Finding],
    damaged: u64,
    remedies: &[Remedy],
) -> Verdict {
    match judge(findings, damaged, remedies) {
        // Unread keys may contain objects of this key.
        Verdict::Compatible | Verdict::CompatibleAfter if inventory.has_open_keys() => {
            Verdict::Inconclusive
        }
        verdict => verdict,
    }
}

/// The metadata of the key, or the reason for its absence.
pub async fn read_key(config: &Config, openbao: &Connection) -> (LiveKey, Option<Unanswered>) {
    match openbao.key_metadata().await {
        Ok(metadata) => match KeyProfile::check(&metadata, &config.key.key_name) {
            Ok(profile) => (LiveKey::Listed(profile), None),
            Err(refused) => (LiveKey::Unknown, Some(Unanswered::Profile(refused))),
        },
        // Matches a response from OpenBao only: a failed login says nothing about the key.
        Err(CallFailure::OpenBao(failure)) if failure.is_absence() => (LiveKey::Missing, None),
        Err(failure) => (LiveKey::Unknown, Some(Unanswered::Metadata(failure))),
    }
}

fn under_other_names(inventory: &Inventory, lineage: &KeyResolver) -> BTreeMap<String, u64> {
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

/// Resolutions of the key's superseded revisions.
pub(super) fn superseded(inventory: &Inventory, lineage: &KeyResolver) -> Vec<Resolution> {
    let stored = inventory.superseded.iter().map(Group::stored);
    let owned = stored.filter(|stored| lineage.owns(*stored));
    owned.map(|stored| lineage.origin(stored)).collect()
}

/// Rows by ascending version; rows without a version last.
fn rows(
    inventory: &Inventory,
    lineage: &KeyResolver,
    outcomes: &Outcomes<'_>,
    opened: Option<&Opened>,
) -> Vec<Row> {
    let mut rows: BTreeMap<(bool, Option<TransitVersion>, String, &'static str), Row> =
        BTreeMap::new();
    for (index, group) in inventory.of_key(lineage) {
        let origin = lineage.origin(group.stored());
        let (version, word) = match &origin {
            Resolution::Live(key) => (Some(key.version()), "live"),
            Resolution::Known(key) => (Some(key.version()), "known"),
            Resolution::Unresolved(gap) => (gap.version(), gap.code()),
        };
        let key_id_hash = group.key_id_hash().to_string();
        // Merges groups that differ only in the provider's program version.
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
    /// Whether the live key, a record, a state file or a peer names this version, not etcd alone.
    #[must_use]
    pub fn is_of_the_key(&self) -> bool {
        matches!(
            self.finding.origin,
            Resolution::Live(_) | Resolution::Known(_)
        )
    }

    /// Whether OpenBao rejected all encrypted DEKs of a listed version. Typical of another key with
    /// the same version number and creation second.
    #[must_use]
    pub fn is_of_another_key(&self) -> bool {
        let seeds = self.finding.seeds;
        let mut problems = self.seed_problems.keys();
        matches!(self.finding.origin, Resolution::Live(_))
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
        if matches!(finding.origin, Resolution::Unresolved(_)) {
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

    /// Number of objects of failed encrypted DEKs.
    #[must_use]
    pub fn objects_of_failed_seeds(&self) -> u64 {
        self.refused.values().copied().fold(0, u64::saturating_add)
    }

    fn add_opened(&mut self, opened: &OpenedGroup) {
        if let Some(data) = &mut self.finding.data {
            *data = data.plus(opened.proof);
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
