//! Accumulates an [`Inventory`](super::Inventory), object by object.
//!
//! Resource, protection and group repeat from object to object. Each distinct value is stored once,
//! and counters refer to it by index.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use etcd_snapshot::{
    cache::EnvelopeCache,
    envelope::{Envelope, EnvelopeError},
    revision::Object,
    value::Protection,
};
use kms_domain::annotations::Annotations;

use super::{Count, DamagedValue, FEW, Group, GroupIndex, Protected, SeedUse, Wanted};
use crate::recovery::prefix;

/// Running sums.
#[derive(Default)]
pub(super) struct Tally {
    resources: Vec<ResourceTally>,
    /// Keyed by the stored name and by the printable name.
    resource_index: HashMap<Vec<u8>, ResourceIndex>,
    last_resource: ResourceIndex,
    /// Reused buffer for a resource name.
    resource_name: Vec<u8>,
    protections: Vec<Protected>,
    protection_index: HashMap<Protected, ProtectedIndex>,
    groups: Vec<GroupTally>,
    index: HashMap<Vec<u8>, GroupIndex>,
    familiar: EnvelopeCache<Place>,
    damaged: Vec<DamagedValue>,
    damaged_values: u64,
    keys_below: u64,
    /// Keyed by the stored prefix.
    keys_elsewhere: HashMap<Vec<u8>, u64>,
    /// Approximate size in bytes of all entries; `room` is its limit.
    kept: usize,
    room: usize,
}

/// Final sums.
pub(super) struct Sums {
    pub(super) resources: BTreeMap<String, BTreeMap<Protected, Count>>,
    pub(super) groups: Vec<Group>,
    pub(super) index: HashMap<Vec<u8>, GroupIndex>,
    pub(super) damaged: Vec<DamagedValue>,
    pub(super) damaged_values: u64,
    pub(super) keys_below: u64,
    pub(super) keys_elsewhere: BTreeMap<String, u64>,
}

struct ResourceTally {
    name: String,
    rows: BTreeMap<ProtectedIndex, Count>,
}

struct GroupTally {
    /// Full name of the provider; the group has the printable, truncated name.
    provider: String,
    protected: ProtectedIndex,
    resources: BTreeMap<ResourceIndex, u64>,
    superseded: BTreeMap<ResourceIndex, u64>,
    group: Group,
}

/// Position of an object.
#[derive(Debug, Clone, Copy)]
struct Place {
    group: GroupIndex,
    /// Index into [`Group::uses`].
    seed: usize,
}

/// Index into the resource names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ResourceIndex(usize);

impl ResourceIndex {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(usize::MAX);

    pub(super) fn place(self) -> usize {
        self.0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ProtectedIndex(usize);

/// Limit of a kept name in bytes, because keys may be long.
const NAME_BYTES: usize = 512;
/// Approximate overhead in bytes of a row or map entry, without its owned data.
pub(super) const ROW_BYTES: usize = 100;

impl Tally {
    pub(super) fn with_room_for(room: usize) -> Self {
        Self {
            room,
            ..Self::default()
        }
    }

    /// Whether the memory limit was exceeded. The sums are then incomplete.
    pub(super) fn is_full(&self) -> bool {
        self.kept > self.room
    }

    pub(super) fn add(&mut self, wanted: &Wanted, object: Object<'_>) {
        // The reading fails after its last object; until then all objects are ignored.
        if self.is_full() {
            return;
        }
        if !object.superseded {
            self.count_key(object.key, wanted.known_prefix());
        }

        let resource = self.resource_of(object.key, wanted);
        let protected = match Protection::of(object.value) {
            Protection::KmsV2 { provider, message } => {
                match self.add_to_group(wanted, resource, provider, message, object) {
                    Ok(protected) => protected,
                    Err(error) => {
                        self.add_damaged(resource, error, object);
                        self.protected(Protected::Damaged(name(provider.as_bytes())))
                    }
                }
            }
            other => self.protected(other.into()),
        };

        let Some(resource) = self.resources.get_mut(resource.0) else {
            return;
        };
        let before = resource.rows.len();
        let row = resource.rows.entry(protected).or_default();
        let mut kept = row.add(object, wanted.names);
        if resource.rows.len() > before {
            kept = kept.saturating_add(ROW_BYTES);
        }
        self.keep(kept);
    }

    fn count_key(&mut self, key: &[u8], known: &str) {
        if prefix::is_below(key, known) {
            self.keys_below = self.keys_below.saturating_add(1);
            return;
        }
        let prefix = prefix::of_key(key, known);
        let prefix = prefix.get(..NAME_BYTES).unwrap_or(prefix);
        if let Some(keys) = self.keys_elsewhere.get_mut(prefix) {
            *keys = keys.saturating_add(1);
            return;
        }
        self.keep(prefix.len().saturating_mul(2).saturating_add(ROW_BYTES));
        self.keys_elsewhere.insert(prefix.to_vec(), 1);
    }

    /// Index of the resource name in the key.
    fn resource_of(&mut self, key: &[u8], wanted: &Wanted) -> ResourceIndex {
        let mut stored = std::mem::take(&mut self.resource_name);
        stored.clear();
        wanted.append_resource(key, &mut stored);
        stored.truncate(NAME_BYTES);
        let last = self.resources.get(self.last_resource.0);
        if last.is_none_or(|last| last.name.as_bytes() != stored) {
            self.last_resource = self.find_resource(&stored);
        }
        self.resource_name = stored;
        self.last_resource
    }

    fn find_resource(&mut self, stored: &[u8]) -> ResourceIndex {
        if let Some(index) = self.resource_index.get(stored) {
            return *index;
        }
        let shown = name(stored);
        let index = match self.resource_index.get(shown.as_bytes()) {
            Some(index) => *index,
            None => {
                let index = ResourceIndex(self.resources.len());
                self.keep_name(shown.as_bytes(), index);
                self.keep(shown.len());
                self.resources.push(ResourceTally {
                    name: shown,
                    rows: BTreeMap::new(),
                });
                index
            }
        };
        if !self.resource_index.contains_key(stored) {
            self.keep_name(stored, index);
        }
        index
    }

    fn keep_name(&mut self, name: &[u8], index: ResourceIndex) {
        self.keep(name.len().saturating_add(ROW_BYTES));
        self.resource_index.insert(name.to_vec(), index);
    }

    fn protected(&mut self, protected: Protected) -> ProtectedIndex {
        if let Some(index) = self.protection_index.get(&protected) {
            return *index;
        }
        let index = ProtectedIndex(self.protections.len());
        let name = protected.provider().map_or(0, str::len);
        self.keep(name.saturating_mul(2).saturating_add(ROW_BYTES));
        self.protections.push(protected.clone());
        self.protection_index.insert(protected, index);
        index
    }

    fn add_to_group(
        &mut self,
        wanted: &Wanted,
        resource: ResourceIndex,
        provider: &str,
        message: &[u8],
        object: Object<'_>,
    ) -> Result<ProtectedIndex, EnvelopeError> {
        let of_provider = |place: &Place| {
            let group = self.groups.get(place.group.0);
            group.is_some_and(|group| group.provider == provider)
        };
        let familiar = self.familiar.recognise(message).map(|(_, place)| place);
        let place = match familiar.filter(of_provider) {
            Some(place) => place,
            None => {
                let envelope = Envelope::parse(message)?;
                let place = self.find_place(provider, &envelope);
                self.familiar.learn(message, &envelope, place);
                place
            }
        };

        let Some(tally) = self.groups.get_mut(place.group.0) else {
            return Ok(self.protected(Protected::KmsV2(name(provider.as_bytes()))));
        };
        let group = &mut tally.group;
        let mut kept = group.count.add(object, wanted.names);
        kept = kept.saturating_add(group.use_seed(place.seed, resource));
        // Names of DEKs are optional and may be as many as objects, so they use half of the room.
        if wanted.names && self.kept < self.room / 2 {
            kept = kept.saturating_add(group.name_seed(place.seed, object));
        }
        kept = kept.saturating_add(increment(&mut tally.resources, resource));
        if object.superseded {
            kept = kept.saturating_add(increment(&mut tally.superseded, resource));
        }
        let protected = tally.protected;
        self.keep(kept);
        Ok(protected)
    }

    /// Group and DEK of this envelope; adds them if they are new.
    fn find_place(&mut self, provider: &str, envelope: &Envelope<'_>) -> Place {
        let group = self.find_group(provider, envelope);
        let Some(GroupTally { group: found, .. }) = self.groups.get_mut(group.0) else {
            return Place { group, seed: 0 };
        };
        let sources = found.seeds.entry(envelope.dek_source_type).or_default();
        let seed = match sources.get(envelope.encrypted_dek_source) {
            Some(seed) => *seed,
            None => {
                let seed = found.uses.len();
                found.uses.push(SeedUse::default());
                let source = envelope.encrypted_dek_source;
                sources.insert(source.to_vec(), seed);
                self.keep(source.len().saturating_add(ROW_BYTES));
                seed
            }
        };
        Place { group, seed }
    }

    fn find_group(&mut self, provider: &str, envelope: &Envelope<'_>) -> GroupIndex {
        let identity = identity(provider, envelope);
        if let Some(index) = self.index.get(&identity) {
            return *index;
        }
        let protected = self.protected(Protected::KmsV2(name(provider.as_bytes())));
        let index = GroupIndex(self.groups.len());
        self.groups.push(GroupTally {
            provider: provider.to_owned(),
            protected,
            resources: BTreeMap::new(),
            superseded: BTreeMap::new(),
            group: Group::new(provider, envelope),
        });
        // The identity and the group each hold a copy.
        self.keep(identity.len().saturating_mul(2));
        self.index.insert(identity, index);
        index
    }

    fn add_damaged(&mut self, resource: ResourceIndex, error: EnvelopeError, object: Object<'_>) {
        self.damaged_values = self.damaged_values.saturating_add(1);
        let resource = self.resources.get(resource.0);
        if self.damaged.len() < FEW {
            self.damaged.push(DamagedValue {
                resource: resource.map_or_else(String::new, |resource| resource.name.clone()),
                key: name(object.key),
                revision: object.revision,
                error,
            });
        }
    }

    fn keep(&mut self, bytes: usize) {
        self.kept = self.kept.saturating_add(bytes);
    }

    /// Resolves all indices.
    pub(super) fn finish(self) -> Sums {
        let names: Vec<&str> = self.resources.iter().map(|it| it.name.as_str()).collect();
        let named = |(resource, objects): (ResourceIndex, u64)| {
            let name = names.get(resource.0)?;
            Some(((*name).to_owned(), objects))
        };
        let resource_names: Arc<[String]> = names.iter().map(|name| (*name).to_owned()).collect();

        let groups = self.groups.into_iter().map(|tally| Group {
            resource_names: Arc::clone(&resource_names),
            resources: tally.resources.into_iter().filter_map(named).collect(),
            superseded: tally.superseded.into_iter().filter_map(named).collect(),
            ..tally.group
        });
        let groups = groups.collect();

        let protections = &self.protections;
        let resources = self.resources.into_iter().map(|tally| {
            let rows = tally.rows.into_iter();
            let rows = rows.filter_map(|(protected, count)| {
                let protected = protections.get(protected.0)?;
                Some((protected.clone(), count))
            });
            (tally.name, rows.collect())
        });

        let mut keys_elsewhere: BTreeMap<String, u64> = BTreeMap::new();
        for (prefix, keys) in self.keys_elsewhere {
            let sum = keys_elsewhere.entry(name(&prefix)).or_default();
            *sum = sum.saturating_add(keys);
        }

        Sums {
            resources: resources.collect(),
            groups,
            index: self.index,
            damaged: self.damaged,
            damaged_values: self.damaged_values,
            keys_below: self.keys_below,
            keys_elsewhere,
        }
    }
}

/// Returns the approximate number of bytes of a new entry, 0 for a known one.
fn increment<K: Ord>(counts: &mut BTreeMap<K, u64>, counted: K) -> usize {
    let before = counts.len();
    let count = counts.entry(counted).or_default();
    *count = count.saturating_add(1);
    counts
        .len()
        .saturating_sub(before)
        .saturating_mul(ROW_BYTES)
}

impl Group {
    /// Returns the approximate number of bytes kept.
    fn use_seed(&mut self, seed: usize, resource: ResourceIndex) -> usize {
        let Some(used) = self.uses.get_mut(seed) else {
            return 0;
        };
        if used.objects == 0 {
            used.resource = resource;
        }
        used.objects = used.objects.saturating_add(1);
        if used.resource == resource {
            return 0;
        }
        increment(&mut self.uses_elsewhere, (seed, resource))
    }

    /// Returns the approximate number of bytes kept.
    fn name_seed(&mut self, seed: usize, object: Object<'_>) -> usize {
        let names = self.names_of_seeds.entry(seed).or_default();
        if names.len() >= FEW {
            return 0;
        }
        let name = name(object.key);
        let kept = name.len().saturating_add(ROW_BYTES);
        names.push(name);
        kept
    }

    pub(super) fn new(provider: &str, envelope: &Envelope<'_>) -> Self {
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
            uses: Vec::new(),
            uses_elsewhere: BTreeMap::new(),
            names_of_seeds: BTreeMap::new(),
            resource_names: Arc::default(),
        }
    }
}

/// Unambiguous key of a group: provider name, `key_id` and annotations, each with its length.
pub(super) fn identity(provider: &str, envelope: &Envelope<'_>) -> Vec<u8> {
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

/// Key as text, truncated to [`NAME_BYTES`]. Escapes control characters, which could control a
/// terminal.
pub(in crate::recovery) fn name(key: &[u8]) -> String {
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
    use etcd_snapshot::{
        envelope::DekSourceType,
        revision::{Object, Revisions},
    };

    use super::*;
    use crate::recovery::inventory::{KEPT_BYTES, NO_RESOURCE, without_prefix};

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

    fn tally(prefix: Option<&str>, objects: &[(&str, &[u8], i64, bool)]) -> Sums {
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
        tally.finish()
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
        let of_seeds: Vec<_> = one
            .seeds()
            .map(|(seed, _)| (one.resources_of(seed), one.names_of(seed).to_vec()))
            .collect();
        let of = |resource: &str, names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let objects = u64::try_from(names.len()).unwrap();
            (BTreeMap::from([(resource.to_owned(), objects)]), names)
        };
        assert_eq!(
            of_seeds,
            [
                of("configmaps", &["/registry/configmaps/a/3"]),
                of(
                    "secrets",
                    &["/registry/secrets/a/1", "/registry/secrets/a/2"]
                ),
                of("secrets", &["/registry/secrets/a/1"]),
            ]
        );
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
    fn a_seed_counts_its_objects_by_resource() {
        let value = envelope("k1", b"vault:v1:a", DekSourceType::HkdfSeed);
        let keys = ["secrets/a/1", "leases/b/1", "secrets/a/2", "leases/b/2"];
        let keys = keys.map(|key| format!("/registry/{key}"));
        let objects: Vec<_> = keys.iter().map(|key| (&**key, &*value, 2, false)).collect();
        let found = tally(None, &objects).groups;
        let (seed, _) = found[0].seeds().next().unwrap();
        let expected = [("secrets".to_owned(), 2), ("leases".to_owned(), 2)];
        assert_eq!(found[0].resources_of(seed), BTreeMap::from(expected));
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
        let damaged = Protected::Damaged("ours".to_owned());
        assert_eq!(tally.resources["secrets"][&damaged].objects, 1);
        assert!(tally.groups.is_empty());
        let escaped = r"/registry/secrets/a/\u{1b}[2J";
        assert_eq!(tally.damaged[0].key, escaped);
    }

    #[test]
    fn objects_under_every_prefix_count_and_show_whose_they_are() {
        let ours = envelope("k1", b"vault:v1:a", DekSourceType::HkdfSeed);
        let objects: [(&str, &[u8], i64, bool); 6] = [
            ("/registry/secrets/a/1", b"k8s\0", 2, false),
            ("/registry-2/secrets/a/1", &ours, 3, false),
            ("/registry-2/secrets/a/1", &ours, 2, true),
            ("/registry-2/x.io/widgets/a/1", &ours, 4, false),
            ("no/slash/before", &ours, 5, false),
            ("/registry", &ours, 6, false),
        ];
        for (wanted, below, [main, other, widgets]) in [
            (
                None,
                1,
                [
                    "secrets",
                    "secrets below /registry-2",
                    "widgets.x.io below /registry-2",
                ],
            ),
            (
                Some("/registry-2"),
                2,
                ["secrets below /registry", "secrets", "widgets.x.io"],
            ),
        ] {
            let all = tally(wanted, &objects);
            assert_eq!(all.groups[0].count.objects, 5);
            let resources: Vec<_> = all.groups[0].resources.iter().collect();
            let mut expected = [
                (&NO_RESOURCE.to_owned(), &2),
                (&other.to_owned(), &2),
                (&widgets.to_owned(), &1),
            ];
            expected.sort_unstable();
            assert_eq!(resources, expected);
            assert_eq!(all.resources[main][&Protected::Plaintext].objects, 1);
            assert_eq!(all.keys_below, below);
            let elsewhere: u64 = all.keys_elsewhere.values().sum();
            assert_eq!(below + elsewhere, 5, "{:?}", all.keys_elsewhere);
            assert_eq!(all.keys_elsewhere["no"], 1);
        }
        assert_eq!(without_prefix("secrets below /registry-2"), "secrets");
        assert_eq!(without_prefix("widgets.x.io"), "widgets.x.io");
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
        // Equal objects use no further memory, in any number.
        assert!(!(0..1_000).any(|_| add(&values[0])));
        assert!(values.iter().any(|value| add(value)));
        assert!(tally.finish().groups[0].distinct_seeds() < 50);
    }
}
