//! What etcd holds, added up: per resource how its objects are protected, and per `key_id` what must
//! stay decryptable. No object is kept, so memory grows with what is different, not with the file.

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
    value::{LocalCipher, Resource},
};
use kms_domain::{
    annotations::{Annotations, AnnotationsInvalid},
    digest::TextHash,
    recovery::origin::{Lineage, StoredKeyId},
};
use superseded::Superseded;
pub(super) use tally::name;
use tally::{ResourceIndex, Tally, identity};

use super::{
    EtcdError, EtcdSource, Trust,
    prefix::{self, DEFAULT},
    unread::Unread,
};

/// Which revisions are counted, and what of them is kept. Every key is: an object that this key
/// protects needs it, whichever API server it belongs to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The newest of each key, or all that compaction has left.
    pub revisions: Revisions,
    /// The `--etcd-prefix` of the API server in question, with a slash before it; `None` if every API
    /// server of this etcd is.
    pub prefix: Option<String>,
    /// Keep the names of the first few objects of every row.
    pub names: bool,
}

impl Wanted {
    /// The prefix whose resources go by their names alone.
    fn known_prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or(DEFAULT)
    }

    /// Appends the name of the resource that `key` is of: `secrets`, or outside the known prefix
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

/// Between a resource and its prefix. No resource has a slash in its name.
const BELOW: &str = " below ";

/// The resource of a row without its prefix.
#[must_use]
pub fn without_prefix(resource: &str) -> &str {
    let split = resource.split_once(" below /");
    split.map_or(resource, |(resource, _)| resource)
}

/// All of it, of one reading to the end.
#[derive(Debug)]
pub struct Inventory {
    /// The file or the servers.
    pub source: String,
    /// What vouches for it.
    pub trust: Trust,
    /// What etcd held.
    pub totals: Totals,
    /// How the objects of each resource are protected. [`NO_RESOURCE`] has the keys that name none.
    pub resources: BTreeMap<String, BTreeMap<Protected, Count>>,
    /// What KMS v2 protects, by what is needed to decrypt it; in no order.
    pub groups: Vec<Group>,
    /// The same of superseded revisions, where they were read beside the newest; without seeds.
    pub superseded: Vec<Group>,
    /// Values that the API server itself would refuse.
    pub damaged: Vec<DamagedValue>,
    /// How many of them there are; `damaged` has the first few.
    pub damaged_values: u64,
    /// Newest keys that were read below the wanted prefix, else below `/registry`.
    pub keys_below: u64,
    /// All others, by prefix.
    pub keys_elsewhere: BTreeMap<String, u64>,
    /// The prefix that was wanted.
    pub prefix: Option<String>,
    /// Keys that were left unread.
    pub unread: Option<Unread>,
    index: HashMap<Vec<u8>, GroupIndex>,
}

/// The name under which keys count that name no resource.
pub const NO_RESOURCE: &str = "(none)";

/// How a value is protected, as rows of a report tell it apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protected {
    /// By a KMS v2 plugin, named as in the encryption configuration.
    KmsV2(String),
    /// By a KMS v1 plugin.
    KmsV1(String),
    /// By a key in the encryption configuration.
    Local(LocalCipher),
    /// In an unknown way.
    Unknown,
    /// Not at all.
    Plaintext,
    /// No API object.
    NotAnObject,
    /// A message under this name of a KMS v2 plugin that the API server would refuse.
    Damaged(String),
}

/// Objects added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Objects, or revisions of them where older ones are wanted.
    pub objects: u64,
    /// Of those, the ones that a later revision replaced or deleted.
    pub superseded: u64,
    /// Bytes of their stored values.
    pub bytes: u64,
    /// The revision that stored the first of them; 0 without any.
    pub first_revision: i64,
    /// The revision that stored the last of them; 0 without any.
    pub last_revision: i64,
    /// The keys of the first few, if wanted.
    pub names: Vec<String>,
}

/// What KMS v2 protects in one and the same way.
#[derive(Debug)]
pub struct Group {
    /// The name in the encryption configuration.
    pub provider: String,
    /// What the plugin answered; not checked.
    pub key_id: String,
    /// The annotations, as the plugin gets them back.
    pub annotations: Vec<(String, Vec<u8>)>,
    /// The annotations, read as this provider's.
    pub parsed: Result<Annotations, AnnotationsInvalid>,
    /// The objects.
    pub count: Count,
    /// How many of each resource.
    pub resources: BTreeMap<String, u64>,
    /// Of those, the ones that a later revision replaced or deleted.
    pub superseded: BTreeMap<String, u64>,
    /// The place of each in `uses`.
    seeds: BTreeMap<DekSourceType, BTreeMap<Vec<u8>, usize>>,
    uses: Vec<SeedUse>,
    /// Of seeds whose objects are of several resources: the objects of all but the first resource.
    uses_elsewhere: BTreeMap<(usize, ResourceIndex), u64>,
    /// The keys of the first few objects of a seed, if wanted and while there is room.
    names_of_seeds: BTreeMap<usize, Vec<String>>,
    resource_names: Arc<[String]>,
}

/// The objects of one seed. Nearly all seeds have objects of one resource.
#[derive(Debug, Clone, Copy, Default)]
struct SeedUse {
    objects: u64,
    /// The resource of the first object.
    resource: ResourceIndex,
}

/// The place of a group in [`Inventory::groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub usize);

/// One encrypted DEK source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed<'a> {
    /// What Decrypt would return.
    pub kind: DekSourceType,
    /// The ciphertext that the plugin answered.
    pub encrypted: &'a [u8],
}

/// A value whose message the API server would refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedValue {
    /// Of the object.
    pub resource: String,
    /// The name of the object; show it only where names are wanted.
    pub key: String,
    /// The revision that stored it.
    pub revision: i64,
    /// What is wrong.
    pub error: EnvelopeError,
}

/// How many names, and how many damaged values, are kept.
const FEW: usize = 10;
/// What may be kept in all. A cluster that makes a DEK for each write, as Kubernetes 1.25 did, needs
/// some 200 bytes an object.
const KEPT_BYTES: usize = 512 << 20;

impl Inventory {
    /// Reads all of `source`.
    ///
    /// # Errors
    /// Whatever keeps the reading from its end.
    pub fn gather(
        source: &EtcdSource,
        wanted: &Wanted,
        on_progress: OnProgress<'_>,
    ) -> Result<Self, EtcdError> {
        Self::read(source, wanted, wanted.revisions, on_progress)
    }

    /// Reads the newest revisions of `source` and, in the same pass, what its superseded revisions
    /// are protected with.
    ///
    /// # Errors
    /// As [`Inventory::gather`].
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
                Revisions::Newest | Revisions::All => tally.add(wanted, object),
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

    /// Of an etcd without keys.
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

    /// The objects of the key, under any provider name.
    pub fn of_key<'i, 'l>(
        &'i self,
        lineage: &'l Lineage,
    ) -> impl Iterator<Item = (GroupIndex, &'i Group)> + use<'i, 'l> {
        let groups = self.groups.iter().enumerate();
        groups
            .filter(|(_, group)| lineage.owns(group.stored()))
            .map(|(index, group)| (GroupIndex(index), group))
    }

    /// The provider names under which objects of the key are stored, the configured one included.
    #[must_use]
    pub fn names_of_key<'a>(&'a self, lineage: &'a Lineage) -> BTreeSet<&'a str> {
        let configured = lineage.scope().identity().provider_name.as_str();
        let stored = self.of_key(lineage).map(|(_, group)| &*group.provider);
        stored.chain([configured]).collect()
    }

    /// The damaged values by resource, as far as `of` wants their provider name.
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

    /// Whether the resource of this row belongs to the API server in question.
    #[must_use]
    pub fn concerns(&self, resource: &str) -> bool {
        self.prefix.is_none() || without_prefix(resource) == resource
    }

    /// Whether keys were left unread without the operator's word that they need no version.
    #[must_use]
    pub fn has_open_keys(&self) -> bool {
        self.unread.as_ref().is_some_and(|it| !it.is_allowed())
    }

    /// Keys that were read by prefix, the one in question first.
    pub fn prefixes(&self) -> impl Iterator<Item = (&str, u64)> {
        let known = self.prefix.as_deref().unwrap_or(DEFAULT);
        let elsewhere = self.keys_elsewhere.iter();
        let elsewhere = elsewhere.map(|(prefix, keys)| (prefix.as_str(), *keys));
        [(known, self.keys_below)].into_iter().chain(elsewhere)
    }

    /// The group that a later reading's object belongs to; `None` if it was not there before.
    #[must_use]
    pub fn group_of(&self, provider: &str, envelope: &Envelope<'_>) -> Option<GroupIndex> {
        let identity = identity(provider, envelope);
        self.index.get(&identity).copied()
    }
}

impl Group {
    /// What names the key of its objects.
    #[must_use]
    pub fn stored(&self) -> StoredKeyId<'_> {
        StoredKeyId {
            provider: &self.provider,
            key_id: &self.key_id,
            annotations: self.parsed.as_ref().map_err(|invalid| *invalid),
        }
    }

    /// The hash that stands for the `key_id` in reports and metrics.
    #[must_use]
    pub fn key_id_hash(&self) -> TextHash {
        TextHash::of(&self.key_id)
    }

    /// Every distinct encrypted DEK source, and how many objects need it.
    pub fn seeds(&self) -> impl Iterator<Item = (Seed<'_>, u64)> {
        self.seeds.iter().flat_map(move |(&kind, sources)| {
            sources.iter().filter_map(move |(encrypted, &place)| {
                let seed = Seed { kind, encrypted };
                Some((seed, self.uses.get(place)?.objects))
            })
        })
    }

    /// The objects of a seed by resource.
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

    /// The keys of the first few objects of a seed, if they were wanted.
    #[must_use]
    pub fn names_of(&self, seed: Seed<'_>) -> &[String] {
        let names = self.place_of(seed);
        let names = names.and_then(|place| self.names_of_seeds.get(&place));
        names.map(Vec::as_slice).unwrap_or_default()
    }

    fn place_of(&self, seed: Seed<'_>) -> Option<usize> {
        self.seeds.get(&seed.kind)?.get(seed.encrypted).copied()
    }

    /// The one of them that is equal to `seed`.
    #[must_use]
    pub fn find_seed(&self, seed: Seed<'_>) -> Option<Seed<'_>> {
        let sources = self.seeds.get(&seed.kind)?;
        let (encrypted, _) = sources.get_key_value(seed.encrypted)?;
        Some(Seed {
            kind: seed.kind,
            encrypted,
        })
    }

    /// Their number.
    #[must_use]
    pub fn distinct_seeds(&self) -> usize {
        self.uses.len()
    }
}

impl Protected {
    /// The word in reports.
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

    /// The name of the plugin, if there is one.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        match self {
            Self::KmsV2(provider) | Self::KmsV1(provider) | Self::Damaged(provider) => {
                Some(provider)
            }
            Self::Local(_) | Self::Unknown | Self::Plaintext | Self::NotAnObject => None,
        }
    }

    /// Whether it is encrypted, in whatever way.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        !matches!(self, Self::Plaintext | Self::NotAnObject)
    }
}

impl Count {
    /// Returns how many bytes it kept.
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
