//! What etcd holds, added up: per resource how its objects are protected, and per `key_id` what must
//! stay decryptable. No object is kept, so memory grows with what is different, not with the file.

use std::collections::{BTreeMap, HashMap};

use etcd_snapshot::{
    envelope::{DekSourceType, Envelope, EnvelopeError},
    file::OnProgress,
    revision::{Object, Revisions, Totals},
    value::{LocalCipher, Protection, Resource},
};
use kms_domain::{
    annotations::{Annotations, AnnotationsInvalid},
    digest::TextHash,
};

use super::{EtcdError, EtcdSource, Trust};

/// Which objects are counted, and what of them is kept.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The newest of each key, or all that compaction has left.
    pub revisions: Revisions,
    /// The `--etcd-prefix` of the API server, with a slash before it. Keys elsewhere are no objects
    /// of that API server and only counted. `None` takes the first part of each key for the prefix.
    pub prefix: Option<String>,
    /// Keep the names of the first few objects of every row.
    pub names: bool,
}

impl Wanted {
    /// Whether the key is one of that API server.
    #[must_use]
    pub fn includes(&self, key: &[u8]) -> bool {
        let prefix = self.prefix.as_deref();
        prefix.is_none_or(|prefix| is_below(key, prefix))
    }
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
    /// Values that the API server itself would refuse.
    pub damaged: Vec<DamagedValue>,
    /// How many of them there are; `damaged` has the first few.
    pub damaged_values: u64,
    /// Keys outside the wanted prefix.
    pub outside_prefix: u64,
    index: HashMap<Vec<u8>, GroupIndex>,
}

/// The name under which keys count that name no resource.
pub const NO_RESOURCE: &str = "(none)";

/// How a value is protected, as rows of a report tell it apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A KMS v2 message that the API server would refuse.
    Damaged,
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
    seeds: BTreeMap<DekSourceType, BTreeMap<Vec<u8>, u64>>,
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
/// Of a kept name, so that long keys do not fill the memory.
const NAME_BYTES: usize = 512;
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
        let reading = source.read(
            wanted.revisions,
            on_progress,
            || Tally::with_room_for(KEPT_BYTES),
            |tally, object| tally.add(wanted, object),
        )?;
        let tally = reading.gathered;
        if tally.is_full() {
            return Err(EtcdError::TooVaried { limit: KEPT_BYTES });
        }
        Ok(Self {
            source: source.name(),
            trust: reading.trust,
            totals: reading.totals,
            resources: tally.resources,
            groups: tally.groups,
            damaged: tally.damaged,
            damaged_values: tally.damaged_values,
            outside_prefix: tally.outside_prefix,
            index: tally.index,
        })
    }

    /// The group that a later reading's object belongs to; `None` if it was not there before.
    #[must_use]
    pub fn group_of(&self, provider: &str, envelope: &Envelope<'_>) -> Option<GroupIndex> {
        let identity = identity(provider, envelope);
        self.index.get(&identity).copied()
    }
}

impl Group {
    /// The hash that stands for the `key_id` in reports and metrics.
    #[must_use]
    pub fn key_id_hash(&self) -> TextHash {
        TextHash::of(&self.key_id)
    }

    /// Every distinct encrypted DEK source, and how many objects need it.
    pub fn seeds(&self) -> impl Iterator<Item = (Seed<'_>, u64)> {
        self.seeds.iter().flat_map(|(&kind, sources)| {
            sources.iter().map(move |(encrypted, &objects)| {
                let seed = Seed { kind, encrypted };
                (seed, objects)
            })
        })
    }

    /// Their number.
    #[must_use]
    pub fn distinct_seeds(&self) -> usize {
        self.seeds.values().map(BTreeMap::len).sum()
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
            Self::Damaged => "damaged",
        }
    }

    /// The name of the plugin, if there is one.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        match self {
            Self::KmsV2(provider) | Self::KmsV1(provider) => Some(provider),
            Self::Local(_)
            | Self::Unknown
            | Self::Plaintext
            | Self::NotAnObject
            | Self::Damaged => None,
        }
    }

    /// Whether it is encrypted, in whatever way.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        !matches!(self, Self::Plaintext | Self::NotAnObject)
    }
}

/// What is being gathered.
#[derive(Default)]
struct Tally {
    resources: BTreeMap<String, BTreeMap<Protected, Count>>,
    groups: Vec<Group>,
    index: HashMap<Vec<u8>, GroupIndex>,
    damaged: Vec<DamagedValue>,
    damaged_values: u64,
    outside_prefix: u64,
    /// Bytes, roughly, of all that is kept, and how many they may be.
    kept: usize,
    room: usize,
    /// The group before with its provider's whole name. Most objects belong to the same, and
    /// comparing is cheaper than hashing.
    last: Option<(String, GroupIndex)>,
}

impl Tally {
    fn with_room_for(room: usize) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    fn is_full(&self) -> bool {
        self.kept > self.room
    }

    fn add(&mut self, wanted: &Wanted, object: Object<'_>) {
        if !wanted.includes(object.key) {
            self.outside_prefix = self.outside_prefix.saturating_add(1);
            return;
        }
        // It is an error by now; only the reading has yet to end.
        if self.is_full() {
            return;
        }
        let resource = Resource::of(object.key, wanted.prefix.as_deref()).map_or_else(
            || NO_RESOURCE.to_owned(),
            |resource| name(resource.to_string().as_bytes()),
        );
        let protection = Protection::of(object.value);
        let protected = match protection {
            Protection::KmsV2 { provider, message } => match Envelope::parse(message) {
                Ok(envelope) => {
                    self.add_to_group(wanted, &resource, provider, &envelope, object);
                    Protected::KmsV2(name(provider.as_bytes()))
                }
                Err(error) => {
                    self.add_damaged(&resource, error, object);
                    Protected::Damaged
                }
            },
            Protection::KmsV1 { provider } => Protected::KmsV1(name(provider.as_bytes())),
            Protection::Local { cipher, .. } => Protected::Local(cipher),
            Protection::Unknown => Protected::Unknown,
            Protection::Plaintext(_) => Protected::Plaintext,
            Protection::NotAnObject => Protected::NotAnObject,
        };
        let name_bytes = resource.len();
        let rows = self.resources.entry(resource).or_default();
        let before = rows.len();
        let row = rows.entry(protected).or_default();
        let mut kept = row.add(object, wanted.names);
        if rows.len() > before {
            kept = kept.saturating_add(name_bytes).saturating_add(ROW_BYTES);
        }
        self.keep(kept);
    }

    fn add_to_group(
        &mut self,
        wanted: &Wanted,
        resource: &str,
        provider: &str,
        envelope: &Envelope<'_>,
        object: Object<'_>,
    ) {
        let last = self.last.as_ref().filter(|(name, place)| {
            let group = self.groups.get(place.0);
            name == provider && group.is_some_and(|group| group.has(envelope))
        });
        let place = match last {
            Some((_, place)) => *place,
            None => self.find_group(provider, envelope),
        };
        let mut kept = 0_usize;
        if let Some(group) = self.groups.get_mut(place.0) {
            kept = group.count.add(object, wanted.names);
            let sources = group.seeds.entry(envelope.dek_source_type).or_default();
            kept = kept.saturating_add(increment(sources, envelope.encrypted_dek_source));
            kept = kept.saturating_add(increment(&mut group.resources, resource));
            if object.superseded {
                kept = kept.saturating_add(increment(&mut group.superseded, resource));
            }
        }
        self.keep(kept);
    }

    /// The group of such an object, a new one if need be, which becomes the last.
    fn find_group(&mut self, provider: &str, envelope: &Envelope<'_>) -> GroupIndex {
        let identity = identity(provider, envelope);
        let place = match self.index.get(&identity) {
            Some(place) => *place,
            None => {
                let place = GroupIndex(self.groups.len());
                self.groups.push(Group::new(provider, envelope));
                // Its parts are in the identity and in the group.
                self.keep(identity.len().saturating_mul(2));
                self.index.insert(identity, place);
                place
            }
        };
        self.last = Some((provider.to_owned(), place));
        place
    }

    fn add_damaged(&mut self, resource: &str, error: EnvelopeError, object: Object<'_>) {
        self.damaged_values = self.damaged_values.saturating_add(1);
        if self.damaged.len() < FEW {
            self.damaged.push(DamagedValue {
                resource: resource.to_owned(),
                key: name(object.key),
                revision: object.revision,
                error,
            });
        }
    }

    fn keep(&mut self, bytes: usize) {
        self.kept = self.kept.saturating_add(bytes);
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

impl Group {
    /// Whether the plugin answered the same for it, the provider aside.
    fn has(&self, envelope: &Envelope<'_>) -> bool {
        let annotations = self.annotations.iter();
        let annotations = annotations.map(|(key, value)| (key.as_str(), value.as_slice()));
        self.key_id == envelope.key_id && annotations.eq(envelope.annotations.iter().copied())
    }

    fn new(provider: &str, envelope: &Envelope<'_>) -> Self {
        let annotations = envelope.annotations.iter();
        Self {
            provider: name(provider.as_bytes()),
            key_id: envelope.key_id.to_owned(),
            annotations: annotations
                .clone()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            parsed: Annotations::parse(annotations.copied()),
            count: Count::default(),
            resources: BTreeMap::new(),
            superseded: BTreeMap::new(),
            seeds: BTreeMap::new(),
        }
    }
}

/// Bytes, roughly, of a row or a map's entry beside what it owns.
const ROW_BYTES: usize = 100;

/// Counts one more; returns how many bytes it kept.
fn increment<K, Q>(counts: &mut BTreeMap<K, u64>, of: &Q) -> usize
where
    K: Ord + std::borrow::Borrow<Q>,
    Q: Ord + ToOwned<Owned = K> + AsRef<[u8]> + ?Sized,
{
    if let Some(count) = counts.get_mut(of) {
        *count = count.saturating_add(1);
        return 0;
    }
    counts.insert(of.to_owned(), 1);
    of.as_ref().len().saturating_add(ROW_BYTES)
}

/// What makes a group the same, without ambiguity.
fn identity(provider: &str, envelope: &Envelope<'_>) -> Vec<u8> {
    let mut identity = Vec::new();
    let mut part = |bytes: &[u8]| {
        identity.extend_from_slice(&bytes.len().to_le_bytes());
        identity.extend_from_slice(bytes);
    };
    part(provider.as_bytes());
    part(envelope.key_id.as_bytes());
    for (key, value) in &envelope.annotations {
        part(key.as_bytes());
        part(value);
    }
    identity
}

fn is_below(key: &[u8], prefix: &str) -> bool {
    key.strip_prefix(prefix.as_bytes())
        .is_some_and(|rest| rest.starts_with(b"/"))
}

/// A key as text, cut if it is long. Control characters, which could steer a terminal, are escaped.
fn name(key: &[u8]) -> String {
    let cut = key.get(..NAME_BYTES).unwrap_or(key);
    if let Ok(text) = std::str::from_utf8(cut)
        && !text.contains(char::is_control)
    {
        return text.to_owned();
    }
    cut.utf8_chunks()
        .flat_map(|chunk| {
            let invalid = (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            chunk.valid().chars().chain(invalid)
        })
        .flat_map(|c| {
            let plain = (!c.is_control()).then_some(c);
            let escaped = c.is_control().then(|| c.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope<'a>(key_id: &'a str, source: &'a [u8], kind: DekSourceType) -> Vec<u8> {
        let field = |number: u8, bytes: &[u8]| {
            let length = u8::try_from(bytes.len()).unwrap();
            [&[number << 3 | 2, length][..], bytes].concat()
        };
        let mut value = b"k8s:enc:kms:v2:ours:".to_vec();
        value.extend(field(1, &[7; 60]));
        value.extend(field(2, key_id.as_bytes()));
        value.extend(field(3, source));
        if kind == DekSourceType::HkdfSeed {
            value.extend([5 << 3, 1]);
        }
        value
    }

    fn tally(prefix: Option<&str>, objects: &[(&str, &[u8], i64, bool)]) -> Tally {
        let wanted = Wanted {
            revisions: Revisions::All,
            prefix: prefix.map(str::to_owned),
            names: true,
        };
        let mut tally = Tally::with_room_for(KEPT_BYTES);
        for (key, value, revision, superseded) in objects {
            let object = Object {
                key: key.as_bytes(),
                value,
                revision: *revision,
                superseded: *superseded,
            };
            tally.add(&wanted, object);
        }
        tally
    }

    #[test]
    fn objects_add_up_by_resource_and_by_what_decrypts_them() {
        let first = envelope("k1", b"vault:v1:a", DekSourceType::HkdfSeed);
        let second = envelope("k1", b"vault:v1:b", DekSourceType::HkdfSeed);
        let old = envelope("k1", b"vault:v1:a", DekSourceType::AesGcmKey);
        let other = envelope("k2", b"vault:v2:a", DekSourceType::HkdfSeed);
        let tally = tally(
            None,
            &[
                ("/registry/secrets/a/1", &first, 9, false),
                ("/registry/secrets/a/2", &first, 7, false),
                ("/registry/secrets/a/1", &second, 5, true),
                ("/registry/configmaps/a/3", &old, 4, false),
                ("/registry/secrets/a/4", &other, 3, false),
                ("/registry/secrets/a/5", b"k8s\0plain", 2, false),
            ],
        );
        let [one, two] = &tally.groups[..] else {
            panic!("{:?}", tally.groups);
        };
        assert_eq!((one.count.objects, one.count.superseded), (4, 1));
        assert_eq!((one.count.first_revision, one.count.last_revision), (4, 9));
        assert_eq!(one.resources["secrets"], 3);
        assert_eq!(one.superseded, [("secrets".to_owned(), 1)].into());
        assert_eq!(one.distinct_seeds(), 3);
        let counts: Vec<u64> = one.seeds().map(|(_, objects)| objects).collect();
        assert_eq!(counts, [1, 2, 1]);
        assert_eq!((two.key_id.as_str(), two.count.objects), ("k2", 1));
        let secrets = &tally.resources["secrets"];
        let ours = &secrets[&Protected::KmsV2("ours".to_owned())];
        assert_eq!(ours.objects, 4);
        let sizes = 2 * first.len() + second.len() + other.len();
        assert_eq!(ours.bytes, u64::try_from(sizes).unwrap());
        assert_eq!(
            secrets[&Protected::Plaintext].names,
            ["/registry/secrets/a/5"]
        );
    }

    #[test]
    fn the_same_answers_under_another_provider_are_another_group() {
        let ours = envelope("k1", b"vault:v1:a", DekSourceType::HkdfSeed);
        let prefix = b"k8s:enc:kms:v2:ours:".len();
        let other = [b"k8s:enc:kms:v2:other:", &ours[prefix..]].concat();
        let key = "/registry/secrets/a/1";
        let objects = [&ours, &other, &other, &ours].map(|value| (key, &value[..], 2, false));
        let found = tally(None, &objects).groups;
        let found: Vec<_> = found
            .iter()
            .map(|group| (group.provider.as_str(), group.count.objects))
            .collect();
        assert_eq!(found, [("ours", 2), ("other", 2)]);
    }

    #[test]
    fn a_message_that_kubernetes_refuses_is_damaged_and_not_lost_from_the_count() {
        let cut = envelope("k1", b"vault:v1:a", DekSourceType::HkdfSeed);
        let cut = &cut[..cut.len() - 3];
        let tally = tally(None, &[("/registry/secrets/a/\x1b[2J", cut, 2, false)]);
        assert_eq!(tally.damaged_values, 1);
        assert_eq!(tally.resources["secrets"][&Protected::Damaged].objects, 1);
        assert!(tally.groups.is_empty());
        let escaped = r"/registry/secrets/a/\u{1b}[2J";
        assert_eq!(tally.damaged[0].key, escaped);
    }

    #[test]
    fn keys_outside_a_wanted_prefix_are_only_counted() {
        let objects: [(&str, &[u8], i64, bool); 3] = [
            ("/registry/secrets/a/1", b"k8s\0", 2, false),
            ("/registry-2/secrets/a/1", b"k8s\0", 3, false),
            ("no-slash", b"k8s\0", 4, false),
        ];
        let below = tally(Some("/registry"), &objects);
        assert_eq!((below.outside_prefix, below.resources.len()), (2, 1));
        let all = tally(None, &objects);
        assert_eq!(all.outside_prefix, 0);
        assert_eq!(all.resources[NO_RESOURCE][&Protected::Plaintext].objects, 1);
    }

    #[test]
    fn more_variety_than_there_is_room_for_ends_the_count() {
        let values: Vec<Vec<u8>> = (0..100_u8)
            .map(|n| envelope("k", &[n; 40], DekSourceType::HkdfSeed))
            .collect();
        let wanted = Wanted {
            revisions: Revisions::All,
            prefix: None,
            names: false,
        };
        let mut tally = Tally::with_room_for(5_000);
        let mut add = |value: &[u8]| {
            let object = Object {
                key: b"/registry/secrets/a/1",
                value,
                revision: 2,
                superseded: false,
            };
            tally.add(&wanted, object);
            tally.is_full()
        };
        // Any number of objects that differ in nothing that is kept.
        assert!(!(0..1_000).any(|_| add(&values[0])));
        assert!(values.iter().any(|value| add(value)));
        assert!(tally.groups[0].distinct_seeds() < 50);
    }
}
