//! Inventory of etcd: per resource the protection of its objects, and per `key_id` the encrypted
//! DEKs that must stay decryptable. Objects are counted, then dropped, so memory grows with the
//! number of distinct values rather than with the file.

mod superseded;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use etcd_snapshot::{
    envelope::{DekSourceType, Envelope, EnvelopeError},
    file::OnProgress,
    revision::{Object, Revisions, Totals},
    value::{LocalCipher, Protection, Resource},
};
use kms_domain::{
    annotations::{Annotations, AnnotationsInvalid},
    digest::TextHash,
    recovery::resolve::{KeyResolver, StoredKeyId},
};
use superseded::Superseded;
pub(super) use tally::name;
use tally::{ResourceIndex, Tally, identity};

use super::{
    EtcdError, EtcdSource, Trust,
    prefix::{self, DEFAULT},
    unread::Unread,
};

/// Revisions to count, and details to keep. Keys of every API server are counted, because all
/// objects that a Transit key protects need it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The newest revision of each key, or all revisions since the last compaction.
    pub revisions: Revisions,
    /// The `--etcd-prefix` of the selected API server, with a leading slash; `None` selects all API
    /// servers of this etcd.
    pub prefix: Option<String>,
    /// Keep the names of the first `FEW` objects of every row.
    pub names: bool,
}

impl Wanted {
    /// Resources below this prefix are listed by name alone.
    fn known_prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or(DEFAULT)
    }

    /// Appends the resource name of `key`: `secrets`, or outside the known prefix
    /// `secrets below /openshift.io`, or [`NO_RESOURCE`].
    pub(super) fn append_resource(&self, key: &[u8], text: &mut Vec<u8>) {
        let known = self.known_prefix();
        if let Some(resource) = Resource::of(key, Some(known)) {
            resource.append_to(text);
            return;
        }
        let prefix = std::str::from_utf8(prefix::of_key(key, known)).ok();
        let elsewhere = prefix.filter(|prefix| prefix.starts_with('/'));
        let resource = elsewhere.and_then(|prefix| Resource::of(key, Some(prefix)));
        match elsewhere.zip(resource) {
            Some((prefix, resource)) => {
                resource.append_to(text);
                text.extend_from_slice(BELOW.as_bytes());
                text.extend_from_slice(prefix.as_bytes());
            }
            None => text.extend_from_slice(NO_RESOURCE.as_bytes()),
        }
    }
}

/// Separates a resource from its prefix. Unambiguous: a resource name contains no slash.
const BELOW: &str = " below ";

/// Resource name of a row, without its prefix.
#[must_use]
pub fn without_prefix(resource: &str) -> &str {
    let split = resource.split_once(" below /");
    split.map_or(resource, |(resource, _)| resource)
}

/// Result of one complete reading.
#[derive(Debug)]
pub struct Inventory {
    /// Path of the file, or URLs of the members.
    pub source: String,
    /// Integrity status of the source.
    pub trust: Trust,
    /// Revision of the reading, and number of keys and superseded revisions.
    pub totals: Totals,
    /// Objects of each resource by protection. Keys without a resource name are under
    /// [`NO_RESOURCE`].
    pub resources: BTreeMap<String, BTreeMap<Protected, Count>>,
    /// KMS v2 objects, grouped by provider name, `key_id` and annotations; unordered.
    pub groups: Vec<Group>,
    /// Groups of superseded revisions, without encrypted DEKs. Filled by
    /// [`Inventory::gather_with_superseded`] only.
    pub superseded: Vec<Group>,
    /// The first `FEW` values that the API server itself would refuse.
    pub damaged: Vec<DamagedValue>,
    /// Total of such values.
    pub damaged_values: u64,
    /// Number of newest keys below the selected prefix, or below `/registry` without one.
    pub keys_below: u64,
    /// Number of all other newest keys, by prefix.
    pub keys_elsewhere: BTreeMap<String, u64>,
    /// The selected prefix.
    pub prefix: Option<String>,
    /// Keys outside the permitted or requested range of a running etcd.
    pub unread: Option<Unread>,
    index: HashMap<Vec<u8>, GroupIndex>,
}

/// Row name of keys without a resource name.
pub const NO_RESOURCE: &str = "(none)";

/// Protection of a value, as distinguished by the rows of a report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protected {
    /// KMS v2, with the provider name from the encryption configuration.
    KmsV2(String),
    /// KMS v1, with the provider name.
    KmsV1(String),
    /// A local key in the encryption configuration.
    Local(LocalCipher),
    /// An unknown transformer prefix.
    Unknown,
    /// Stored unencrypted.
    Plaintext,
    /// Neither encrypted nor an API object.
    NotAnObject,
    /// KMS v2 under this provider name, with a message that the API server would refuse.
    Damaged(String),
}

/// Sums over a set of objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Objects; revisions of objects with [`Revisions::All`].
    pub objects: u64,
    /// Those of them that a later revision replaced or deleted.
    pub superseded: u64,
    /// Size of the stored values in bytes.
    pub bytes: u64,
    /// Lowest revision of any of them; 0 if empty.
    pub first_revision: i64,
    /// Highest revision of any of them; 0 if empty.
    pub last_revision: i64,
    /// The keys of the first `FEW`, if requested.
    pub names: Vec<String>,
}

/// KMS v2 objects with equal provider name, `key_id` and annotations.
#[derive(Debug)]
pub struct Group {
    /// Provider name in the encryption configuration.
    pub provider: String,
    /// `key_id` from the plugin; unvalidated.
    pub key_id: String,
    /// Annotations as stored, and as Kubernetes returns them to the plugin.
    pub annotations: Vec<(String, Vec<u8>)>,
    /// Annotations parsed in the format of this provider.
    pub parsed: Result<Annotations, AnnotationsInvalid>,
    /// Sums over all its objects.
    pub count: Count,
    /// Number of objects per resource.
    pub resources: BTreeMap<String, u64>,
    /// Number per resource of those that a later revision replaced or deleted.
    pub superseded: BTreeMap<String, u64>,
    /// Index into `uses` of each encrypted DEK.
    seeds: BTreeMap<DekSourceType, BTreeMap<Vec<u8>, usize>>,
    uses: Vec<SeedUse>,
    /// Of DEKs shared by several resources: number of objects per resource, without the first
    /// resource.
    uses_elsewhere: BTreeMap<(usize, ResourceIndex), u64>,
    /// The keys of the first `FEW` objects of a DEK, if requested, up to half of the memory limit.
    names_of_seeds: BTreeMap<usize, Vec<String>>,
    resource_names: Arc<[String]>,
}

/// Objects of one encrypted DEK. Nearly always they belong to a single resource.
#[derive(Debug, Clone, Copy, Default)]
struct SeedUse {
    objects: u64,
    /// Resource of its first object.
    resource: ResourceIndex,
}

/// Index into [`Inventory::groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub usize);

/// One encrypted DEK source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed<'a> {
    /// Kind of secret that Decrypt returns.
    pub kind: DekSourceType,
    /// Ciphertext from the plugin.
    pub encrypted: &'a [u8],
}

/// A value whose message the API server would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedValue {
    pub resource: String,
    /// Key of the object; print it only if names were requested.
    pub key: String,
    pub revision: i64,
    pub error: EnvelopeError,
}

/// Limit of the names kept per row, and of the damaged values kept.
const FEW: usize = 10;
/// Memory limit in bytes. A cluster with one DEK per write, as in Kubernetes 1.25, needs about 200
/// bytes per object.
const KEPT_BYTES: usize = 512 << 20;

impl Inventory {
    /// Reads all of `source`.
    ///
    /// # Errors
    /// [`EtcdError`] if the reading is incomplete or exceeds the memory limit.
    pub fn gather(
        source: &EtcdSource,
        wanted: &Wanted,
        on_progress: OnProgress<'_>,
    ) -> Result<Self, EtcdError> {
        Self::read(source, wanted, wanted.revisions, on_progress)
    }

    /// Reads the newest revisions of `source` and, in the same pass, the groups of its superseded
    /// revisions.
    ///
    /// # Errors
    /// Same as [`Inventory::gather`].
    pub fn gather_with_superseded(
        source: &EtcdSource,
        wanted: &Wanted,
        on_progress: OnProgress<'_>,
    ) -> Result<Self, EtcdError> {
        let newest = Wanted {
            revisions: Revisions::Newest,
            ..wanted.clone()
        };
        Self::read(source, &newest, Revisions::All, on_progress)
    }

    fn read(
        source: &EtcdSource,
        wanted: &Wanted,
        revisions: Revisions,
        on_progress: OnProgress<'_>,
    ) -> Result<Self, EtcdError> {
        let reading = source.read(
            revisions,
            on_progress,
            || (Tally::with_room_for(KEPT_BYTES), Superseded::default()),
            |(tally, superseded), object| match wanted.revisions {
                Revisions::Newest if object.superseded => superseded.add(object),
                Revisions::Newest | Revisions::All | Revisions::At(_) => tally.add(wanted, object),
            },
        )?;

        let (tally, superseded) = reading.gathered;
        if tally.is_full() || superseded.kept() > KEPT_BYTES {
            return Err(EtcdError::TooVaried { limit: KEPT_BYTES });
        }

        let sums = tally.finish();
        Ok(Self {
            source: source.name(),
            trust: reading.trust,
            totals: reading.totals,
            resources: sums.resources,
            groups: sums.groups,
            superseded: superseded.finish(),
            damaged: sums.damaged,
            damaged_values: sums.damaged_values,
            keys_below: sums.keys_below,
            keys_elsewhere: sums.keys_elsewhere,
            prefix: wanted.prefix.clone(),
            unread: reading.unread,
            index: sums.index,
        })
    }

    /// Keys of the first few damaged values; empty unless names were requested.
    #[must_use]
    pub fn damaged_names(&self) -> Vec<String> {
        let named =
            self.resources
                .values()
                .flat_map(|rows| rows.iter())
                .any(|(protected, count)| {
                    matches!(protected, Protected::Damaged(_)) && !count.names.is_empty()
                });
        let damaged = self.damaged.iter().filter(|_| named);
        damaged.map(|value| value.key.clone()).collect()
    }

    /// Inventory of an etcd without keys.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self {
            source: "etcd".to_owned(),
            trust: Trust::Live { restarts: 0 },
            totals: Totals {
                revision: 1,
                compacted: None,
                keys: 0,
                superseded: 0,
            },
            resources: BTreeMap::new(),
            groups: Vec::new(),
            superseded: Vec::new(),
            damaged: Vec::new(),
            damaged_values: 0,
            keys_below: 0,
            keys_elsewhere: BTreeMap::new(),
            prefix: None,
            unread: None,
            index: HashMap::new(),
        }
    }

    /// Groups of the key, under any provider name.
    pub fn of_key<'i, 'l>(
        &'i self,
        lineage: &'l KeyResolver,
    ) -> impl Iterator<Item = (GroupIndex, &'i Group)> + use<'i, 'l> {
        let groups = self.groups.iter().enumerate();
        groups
            .filter(|(_, group)| lineage.owns(group.stored()))
            .map(|(index, group)| (GroupIndex(index), group))
    }

    /// Provider names of the stored objects of the key, and the configured one.
    #[must_use]
    pub fn names_of_key<'a>(&'a self, lineage: &'a KeyResolver) -> BTreeSet<&'a str> {
        let configured = lineage.scope().identity().provider_name.as_str();
        let stored = self.of_key(lineage).map(|(_, group)| &*group.provider);
        stored.chain([configured]).collect()
    }

    /// Damaged values per resource under the provider names that satisfy `of`.
    pub fn damaged_under(&self, of: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &Count)> {
        let rows = self.resources.iter().flat_map(|(resource, rows)| {
            let rows = rows.iter();
            rows.map(move |(protected, count)| (&**resource, protected, count))
        });
        rows.filter_map(move |(resource, protected, count)| match protected {
            Protected::Damaged(provider) if of(provider) => Some((resource, count)),
            _ => None,
        })
    }

    /// Whether this resource belongs to a selected API server.
    #[must_use]
    pub fn concerns(&self, resource: &str) -> bool {
        self.prefix.is_none() || without_prefix(resource) == resource
    }

    /// Whether any keys stayed unread without permission of the operator. Such keys may need any
    /// version.
    #[must_use]
    pub fn has_open_keys(&self) -> bool {
        self.unread.as_ref().is_some_and(|it| !it.is_allowed())
    }

    /// Number of newest keys per prefix, starting with the selected one or `/registry`.
    pub fn prefixes(&self) -> impl Iterator<Item = (&str, u64)> {
        let known = self.prefix.as_deref().unwrap_or(DEFAULT);
        let elsewhere = self.keys_elsewhere.iter();
        let elsewhere = elsewhere.map(|(prefix, keys)| (prefix.as_str(), *keys));
        [(known, self.keys_below)].into_iter().chain(elsewhere)
    }

    /// Group of an object from a later reading; `None` if the group is new since this reading.
    #[must_use]
    pub fn group_of(&self, provider: &str, envelope: &Envelope<'_>) -> Option<GroupIndex> {
        let identity = identity(provider, envelope);
        self.index.get(&identity).copied()
    }
}

impl Group {
    /// Key identity stored with its objects.
    #[must_use]
    pub fn stored(&self) -> StoredKeyId<'_> {
        StoredKeyId {
            provider: &self.provider,
            key_id: &self.key_id,
            annotations: self.parsed.as_ref().map_err(|invalid| *invalid),
        }
    }

    /// Hash of the `key_id` for reports and metrics.
    #[must_use]
    pub fn key_id_hash(&self) -> TextHash {
        TextHash::of(&self.key_id)
    }

    /// All distinct encrypted DEKs, each with its number of objects.
    pub fn seeds(&self) -> impl Iterator<Item = (Seed<'_>, u64)> {
        self.seeds.iter().flat_map(move |(&kind, sources)| {
            sources.iter().filter_map(move |(encrypted, &place)| {
                let seed = Seed { kind, encrypted };
                Some((seed, self.uses.get(place)?.objects))
            })
        })
    }

    /// Number of objects per resource of one encrypted DEK.
    #[must_use]
    pub fn resources_of(&self, seed: Seed<'_>) -> BTreeMap<String, u64> {
        let Some((place, used)) = self
            .place_of(seed)
            .and_then(|place| Some((place, self.uses.get(place)?)))
        else {
            return BTreeMap::new();
        };
        let all = (place, ResourceIndex::FIRST)..=(place, ResourceIndex::LAST);
        let elsewhere = self.uses_elsewhere.range(all);
        let elsewhere = elsewhere.map(|((_, resource), objects)| (*resource, *objects));
        let elsewhere: Vec<_> = elsewhere.collect();
        let counted = elsewhere.iter().map(|(_, objects)| *objects);
        let here = counted.fold(used.objects, u64::saturating_sub);
        let all = elsewhere.into_iter().chain([(used.resource, here)]);
        all.filter_map(|(resource, objects)| {
            let name = self.resource_names.get(resource.place())?;
            Some((name.clone(), objects))
        })
        .collect()
    }

    /// Keys of the first `FEW` objects of one encrypted DEK, if requested.
    #[must_use]
    pub fn names_of(&self, seed: Seed<'_>) -> &[String] {
        let names = self.place_of(seed);
        let names = names.and_then(|place| self.names_of_seeds.get(&place));
        names.map(Vec::as_slice).unwrap_or_default()
    }

    fn place_of(&self, seed: Seed<'_>) -> Option<usize> {
        self.seeds.get(&seed.kind)?.get(seed.encrypted).copied()
    }

    /// The equal encrypted DEK in this group, with the lifetime of the group.
    #[must_use]
    pub fn find_seed(&self, seed: Seed<'_>) -> Option<Seed<'_>> {
        let sources = self.seeds.get(&seed.kind)?;
        let (encrypted, _) = sources.get_key_value(seed.encrypted)?;
        Some(Seed {
            kind: seed.kind,
            encrypted,
        })
    }

    #[must_use]
    pub fn distinct_seeds(&self) -> usize {
        self.uses.len()
    }
}

/// By the prefix of the value alone, so that damage stays undetected.
impl From<Protection<'_>> for Protected {
    fn from(protection: Protection<'_>) -> Self {
        match protection {
            Protection::KmsV2 { provider, .. } => Self::KmsV2(name(provider.as_bytes())),
            Protection::KmsV1 { provider } => Self::KmsV1(name(provider.as_bytes())),
            Protection::Local { cipher, .. } => Self::Local(cipher),
            Protection::Unknown => Self::Unknown,
            Protection::Plaintext(_) => Self::Plaintext,
            Protection::NotAnObject => Self::NotAnObject,
        }
    }
}

impl Protected {
    /// Code in reports.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::KmsV2(_) => "kms-v2",
            Self::KmsV1(_) => "kms-v1",
            Self::Local(LocalCipher::AesCbc) => "aescbc",
            Self::Local(LocalCipher::AesGcm) => "aesgcm",
            Self::Local(LocalCipher::Secretbox) => "secretbox",
            Self::Unknown => "unknown",
            Self::Plaintext => "plaintext",
            Self::NotAnObject => "not-an-object",
            Self::Damaged(_) => "damaged",
        }
    }

    /// The provider name of a KMS plugin.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        match self {
            Self::KmsV2(provider) | Self::KmsV1(provider) | Self::Damaged(provider) => {
                Some(provider)
            }
            Self::Local(_) | Self::Unknown | Self::Plaintext | Self::NotAnObject => None,
        }
    }

    #[must_use]
    pub fn encrypts(&self) -> bool {
        !matches!(self, Self::Plaintext | Self::NotAnObject)
    }
}

impl Count {
    /// Returns the number of bytes kept.
    fn add(&mut self, object: Object<'_>, names: bool) -> usize {
        let revision = object.revision;
        self.first_revision = match self.objects {
            0 => revision,
            _ => self.first_revision.min(revision),
        };
        self.last_revision = self.last_revision.max(revision);
        self.objects = self.objects.saturating_add(1);
        self.superseded = self.superseded.saturating_add(object.superseded.into());
        let bytes = u64::try_from(object.value.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        if !names || self.names.len() >= FEW {
            return 0;
        }
        let name = name(object.key);
        let kept = name.len();
        self.names.push(name);
        kept
    }
}
