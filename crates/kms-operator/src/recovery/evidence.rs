//! Reads etcd and its backups to determine the key versions needed by their objects. Fails unless
//! all sources are read completely.

use std::collections::BTreeMap;

use etcd_snapshot::{
    file::{OnProgress, Progress},
    revision::Revisions,
};
use kms_domain::recovery::{
    evidence::{Evidence, Stored, Usage},
    resolve::KeyResolver,
};

use super::{
    EtcdError, EtcdSource, Trust,
    inventory::{Count, Group, Inventory, Protected, Wanted},
    unread::Unread,
};

#[derive(Debug)]
pub struct EvidenceSources {
    sources: Vec<EtcdSource>,
    prefix: Option<String>,
}

/// Sources with a progress callback.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub sources: &'a EvidenceSources,
    /// Progress over all sources, with an equal share for each.
    pub on_progress: OnProgress<'a>,
}

/// Result of one source, without its objects.
#[derive(Debug)]
pub struct SourceRead {
    /// Path of the file, or URLs of the members.
    pub name: String,
    /// Integrity status of the source.
    pub trust: Trust,
    /// Revision of the reading.
    pub revision: i64,
    /// Keys outside the permitted or requested range of a running etcd.
    pub unread: Option<Unread>,
    /// Key versions needed by its objects.
    pub evidence: Evidence,
    /// For each resource with objects of this provider: the number of its objects under other
    /// protection.
    pub otherwise: BTreeMap<String, BTreeMap<Protected, u64>>,
}

/// Failed reading of a source.
#[derive(Debug, thiserror::Error)]
#[error(
    "the evidence could not be read, so it is not known which versions of the key the objects in \
     {source_name} need; nothing was changed and no data is lost. Mend the cause, or name a sound \
     copy, and try again; do not retire a version on the strength of the other sources alone"
)]
pub struct EvidenceUnread {
    /// Path of the file, or URLs of the members.
    pub source_name: String,
    #[source]
    pub cause: Box<EtcdError>,
}

impl EvidenceSources {
    /// `None` if `sources` is empty. Resources below `prefix` are listed by name alone.
    #[must_use]
    pub fn new(sources: Vec<EtcdSource>, prefix: Option<String>) -> Option<Self> {
        (!sources.is_empty()).then_some(Self { sources, prefix })
    }

    /// In the order of reading.
    pub fn iter(&self) -> impl Iterator<Item = &EtcdSource> {
        self.sources.iter()
    }
}

impl Asked<'_> {
    /// Reads all sources.
    ///
    /// # Errors
    /// [`EvidenceUnread`] for the first source that fails.
    pub fn read(&self, lineage: &KeyResolver) -> Result<Vec<SourceRead>, EvidenceUnread> {
        let EvidenceSources { sources, prefix } = self.sources;
        let wanted = Wanted {
            revisions: Revisions::All,
            prefix: prefix.clone(),
            names: false,
        };
        let shares = u64::try_from(sources.len()).unwrap_or(u64::MAX);
        let read = |(done, source): (u64, &EtcdSource)| {
            let in_all = |progress: Progress| {
                let before = progress.total.saturating_mul(done);
                (self.on_progress)(Progress {
                    done: before.saturating_add(progress.done),
                    total: progress.total.saturating_mul(shares),
                });
            };
            match Inventory::gather(source, &wanted, &in_all) {
                Ok(inventory) => Ok(SourceRead::of(&inventory, lineage)),
                Err(cause) => Err(EvidenceUnread {
                    source_name: source.name(),
                    cause: Box::new(cause),
                }),
            }
        };
        (0..).zip(sources).map(read).collect()
    }
}

impl SourceRead {
    fn of(inventory: &Inventory, lineage: &KeyResolver) -> Self {
        let provider = lineage.scope().identity().provider_name.as_str();
        let stored = inventory.groups.iter().map(|group| Stored {
            key_id: group.stored(),
            usage: usage(group),
        });
        let names = inventory.names_of_key(lineage);
        let damaged = damaged(inventory, |name| names.contains(name));
        let evidence = Evidence::new(lineage, stored, damaged);
        let unread = inventory.unread.clone();
        Self {
            name: inventory.source.clone(),
            trust: inventory.trust,
            revision: inventory.totals.revision,
            evidence: match &unread {
                Some(unread) if !unread.is_allowed() => evidence.with_unread_keys(),
                _ => evidence,
            },
            unread,
            otherwise: otherwise(inventory, provider),
        }
    }

    /// Whether all of its keys were read, and every object of this provider among them is known.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let evidence = &self.evidence;
        self.unread.is_none() && evidence.unknown_objects() == 0 && evidence.objects() > 0
    }

    /// Whether the source is a running etcd.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.trust, Trust::Live { .. })
    }
}

fn usage(group: &Group) -> Usage {
    let older = group.superseded.clone();
    let newest = group.resources.iter().filter_map(|(resource, all)| {
        let replaced = older.get(resource).copied().unwrap_or(0);
        let newest = all.saturating_sub(replaced);
        (newest > 0).then(|| (resource.clone(), newest))
    });
    Usage {
        newest: newest.collect(),
        older,
    }
}

fn damaged(inventory: &Inventory, of: impl Fn(&str) -> bool) -> Usage {
    let mut usage = Usage::default();
    for (resource, count) in inventory.damaged_under(of) {
        for (counts, more) in [
            (&mut usage.newest, newest(count)),
            (&mut usage.older, count.superseded),
        ] {
            if more > 0 {
                let sum: &mut u64 = counts.entry(resource.to_owned()).or_default();
                *sum = sum.saturating_add(more);
            }
        }
    }
    usage
}

fn otherwise(inventory: &Inventory, provider: &str) -> BTreeMap<String, BTreeMap<Protected, u64>> {
    let own = Protected::KmsV2(provider.to_owned());
    let mut found = BTreeMap::new();
    for (resource, rows) in &inventory.resources {
        if rows.get(&own).is_none_or(|count| newest(count) == 0) {
            continue;
        }
        let others: BTreeMap<_, _> = rows
            .iter()
            .filter(|(protected, _)| match protected {
                Protected::Damaged(_) | Protected::NotAnObject => false,
                protected => **protected != own,
            })
            .map(|(protected, count)| (protected.clone(), newest(count)))
            .filter(|(_, objects)| *objects > 0)
            .collect();
        if !others.is_empty() {
            found.insert(resource.clone(), others);
        }
    }
    found
}

fn newest(count: &Count) -> u64 {
    count.objects.saturating_sub(count.superseded)
}
