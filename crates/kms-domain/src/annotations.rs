//! The annotations that Kubernetes stores with an encrypted object and returns for decryption.
//! Implements `docs/format/annotations.md`.
//!
//! They are untrusted input: an error names the rule and the annotation, never a value.

use std::collections::BTreeMap;

use crate::{
    digest::TextHash,
    key::{KeyScope, TransitKey},
    key_id::KeyId,
    transit::TransitVersion,
};

/// Annotation with [`PROVIDER_MARKER`].
pub const PROVIDER: &str = "provider.kms.openbao.org";
const KEY_ID_HASH: &str = "key-id-hash.kms.openbao.org";
const TRANSIT_KEY_VERSION: &str = "transit-key-version.kms.openbao.org";
const TRANSIT_MOUNT_HASH: &str = "transit-mount-hash.kms.openbao.org";
const TRANSIT_KEY_HASH: &str = "transit-key-hash.kms.openbao.org";
const OPENBAO_NAMESPACE_HASH: &str = "openbao-namespace-hash.kms.openbao.org";
const PLUGIN_VERSION: &str = "plugin-version.kms.openbao.org";
/// Annotation with the version of the associated data.
pub const AAD_VERSION: &str = "aad-version.kms.openbao.org";

/// Value of [`PROVIDER`] in every release of this provider.
pub const PROVIDER_MARKER: &str = "openbao-transit";
/// The version that this release writes and reads.
pub const AAD_VERSION_1: &str = "v1";

/// The build version of the encrypting program: non-empty, and ignored on decrypt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginVersion(String);

impl PluginVersion {
    /// Returns `None` for an empty text.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The text as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A well-formed set of annotations. [`prepare_decrypt`](crate::prepare::prepare_decrypt) checks
/// that it belongs to the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotations {
    key_id_hash: TextHash,
    transit_version: TransitVersion,
    mount_hash: TextHash,
    lineage_hash: TextHash,
    namespace_hash: Option<TextHash>,
    plugin_version: PluginVersion,
}

/// A set that this provider cannot have written (class `annotation_invalid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationsInvalid {
    /// A value is not UTF-8.
    #[error("an annotation value is not UTF-8")]
    NotUtf8,
    /// The set is empty.
    #[error("there are no annotations")]
    Empty,
    /// A key, known or unknown, that Kubernetes would refuse.
    #[error("an annotation key is not a DNS name with at least one dot")]
    MalformedKey,
    /// A required annotation is missing.
    #[error("the annotation {0} is missing")]
    Missing(&'static str),
    /// Written by another provider.
    #[error("the provider annotation names another provider")]
    OtherProvider,
    /// A malformed hash annotation.
    #[error("the annotation {0} is not a SHA-256 hash in canonical base64url")]
    MalformedHash(&'static str),
    /// The Transit version must be a canonical decimal number from 1.
    #[error("the Transit version annotation is not a canonical positive decimal number")]
    MalformedVersion,
    /// The plugin version is empty.
    #[error("the plugin version annotation is empty")]
    EmptyPluginVersion,
    /// The associated data has an unknown format version.
    #[error("the associated data version is not supported")]
    UnsupportedAadVersion,
}

/// Well-formed annotations of another key (class `aad_mismatch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the annotation {annotation} belongs to another key than the key_id")]
pub struct AnnotationMismatch {
    /// The first differing annotation.
    pub annotation: &'static str,
}

impl Annotations {
    /// Reads the annotations of a decrypt request. Unknown keys are ignored if well formed.
    ///
    /// # Errors
    /// The first violated rule, in the order of `docs/format/annotations.md` section 2.
    pub fn parse<'a>(
        entries: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, AnnotationsInvalid> {
        let texts: BTreeMap<&str, &str> = entries
            .into_iter()
            .map(|(key, value)| Ok((key, std::str::from_utf8(value)?)))
            .collect::<Result<_, std::str::Utf8Error>>()
            .map_err(|_| AnnotationsInvalid::NotUtf8)?;

        let required = |name| {
            texts
                .get(name)
                .copied()
                .ok_or(AnnotationsInvalid::Missing(name))
        };
        let hash =
            |name, text| TextHash::parse(text).map_err(|_| AnnotationsInvalid::MalformedHash(name));
        let required_hash = |name| hash(name, required(name)?);

        if texts.is_empty() {
            return Err(AnnotationsInvalid::Empty);
        }
        if !texts.keys().all(|key| is_dns_name(key)) {
            return Err(AnnotationsInvalid::MalformedKey);
        }
        if required(PROVIDER)? != PROVIDER_MARKER {
            return Err(AnnotationsInvalid::OtherProvider);
        }

        let key_id_hash = required_hash(KEY_ID_HASH)?;
        let mount_hash = required_hash(TRANSIT_MOUNT_HASH)?;
        let lineage_hash = required_hash(TRANSIT_KEY_HASH)?;
        let namespace_hash = texts
            .get(OPENBAO_NAMESPACE_HASH)
            .map(|text| hash(OPENBAO_NAMESPACE_HASH, text))
            .transpose()?;
        let transit_version = TransitVersion::parse(required(TRANSIT_KEY_VERSION)?)
            .ok_or(AnnotationsInvalid::MalformedVersion)?;
        let plugin_version = PluginVersion::new(required(PLUGIN_VERSION)?)
            .ok_or(AnnotationsInvalid::EmptyPluginVersion)?;

        if required(AAD_VERSION)? != AAD_VERSION_1 {
            return Err(AnnotationsInvalid::UnsupportedAadVersion);
        }

        Ok(Self {
            key_id_hash,
            transit_version,
            mount_hash,
            lineage_hash,
            namespace_hash,
            plugin_version,
        })
    }

    /// The Transit version claimed by the writer.
    #[must_use]
    pub fn transit_version(&self) -> TransitVersion {
        self.transit_version
    }

    /// Key and value of every annotation, as in an encrypt response.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let mut entries = vec![
            (PROVIDER, PROVIDER_MARKER.to_owned()),
            (KEY_ID_HASH, self.key_id_hash.to_string()),
            (TRANSIT_KEY_VERSION, self.transit_version.to_string()),
            (TRANSIT_MOUNT_HASH, self.mount_hash.to_string()),
            (TRANSIT_KEY_HASH, self.lineage_hash.to_string()),
            (PLUGIN_VERSION, self.plugin_version.0.clone()),
            (AAD_VERSION, AAD_VERSION_1.to_owned()),
        ];
        if let Some(hash) = &self.namespace_hash {
            entries.push((OPENBAO_NAMESPACE_HASH, hash.to_string()));
        }
        entries
    }

    /// The configuration keys of names with another hash in the annotations than in `scope`.
    /// Provider name, cluster and instance have no annotation, so they are not compared.
    #[must_use]
    pub fn names_outside(&self, scope: &KeyScope) -> Vec<&'static str> {
        [
            (
                "openbao.namespace",
                self.namespace_hash == scope.namespace_hash,
            ),
            (
                "transit.keyIdScope.transitMountId",
                self.mount_hash == scope.mount_hash,
            ),
            (
                "transit.keyIdScope.keyLineageId",
                self.lineage_hash == scope.lineage_hash,
            ),
        ]
        .into_iter()
        .filter_map(|(name, equal)| (!equal).then_some(name))
        .collect()
    }

    /// Checks that the annotations were written with `key_id`. The key itself may be unknown.
    pub(crate) fn require_key_id(&self, key_id: &KeyId) -> Result<(), AnnotationMismatch> {
        let annotation = KEY_ID_HASH;
        match self.key_id_hash == key_id.hash() {
            true => Ok(()),
            false => Err(AnnotationMismatch { annotation }),
        }
    }

    pub(crate) fn for_key(key: &TransitKey, plugin_version: &PluginVersion) -> Self {
        let scope = key.scope();
        Self {
            key_id_hash: key.id_hash().clone(),
            transit_version: key.version(),
            mount_hash: scope.mount_hash.clone(),
            lineage_hash: scope.lineage_hash.clone(),
            namespace_hash: scope.namespace_hash.clone(),
            plugin_version: plugin_version.clone(),
        }
    }

    /// Requires every hash and the version of `key`; the plugin version is ignored.
    pub(crate) fn require_match(&self, key: &TransitKey) -> Result<(), AnnotationMismatch> {
        let scope = key.scope();
        let comparisons = [
            (TRANSIT_KEY_VERSION, self.transit_version == key.version()),
            (KEY_ID_HASH, self.key_id_hash == *key.id_hash()),
            (
                OPENBAO_NAMESPACE_HASH,
                self.namespace_hash == scope.namespace_hash,
            ),
            (TRANSIT_MOUNT_HASH, self.mount_hash == scope.mount_hash),
            (TRANSIT_KEY_HASH, self.lineage_hash == scope.lineage_hash),
        ];
        match comparisons.into_iter().find(|(_, equal)| !equal) {
            Some((annotation, _)) => Err(AnnotationMismatch { annotation }),
            None => Ok(()),
        }
    }
}

fn is_dns_name(key: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    key.len() <= 253 && key.contains('.') && key.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, vectors};
    use proptest::prelude::*;
    use serde::Deserialize;

    type Set = BTreeMap<String, String>;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Vectors {
        plugin_version: String,
        written: BTreeMap<String, Set>,
        read: Vec<Edit>,
    }

    #[derive(Deserialize)]
    struct Edit {
        claim: String,
        against: String,
        set: Set,
        remove: Vec<String>,
        result: String,
    }

    fn read(set: &Set) -> Result<Annotations, AnnotationsInvalid> {
        Annotations::parse(
            set.iter()
                .map(|(key, value)| (key.as_str(), value.as_bytes())),
        )
    }

    fn written(annotations: &Annotations) -> Set {
        let entries = annotations.entries().into_iter();
        entries
            .map(|(key, value)| (key.to_owned(), value))
            .collect()
    }

    #[test]
    fn every_vector_is_written() {
        let vectors: Vectors = vectors!("annotations.json");
        let plugin_version = PluginVersion::new(&vectors.plugin_version).unwrap();
        for (claim, set) in vectors.written {
            let annotations = Annotations::for_key(&vectors::key(&claim), &plugin_version);
            assert_eq!(written(&annotations), set, "{claim}");
        }
    }

    #[test]
    fn every_edit_has_its_result() {
        let vectors: Vectors = vectors!("annotations.json");
        for edit in vectors.read {
            let mut set = vectors.written[&edit.against].clone();
            set.retain(|key, _| !edit.remove.contains(key));
            set.extend(edit.set);
            let result = match read(&set) {
                Err(_) => "annotation_invalid",
                Ok(annotations) => match annotations.require_match(&vectors::key(&edit.against)) {
                    Err(_) => "aad_mismatch",
                    Ok(()) => "accepted",
                },
            };
            assert_eq!(result, edit.result, "{}", edit.claim);
        }
    }

    #[test]
    fn rules_are_checked_in_their_order() {
        let vectors: Vectors = vectors!("annotations.json");
        let golden = &vectors.written["golden, no namespace"];
        let mut set = Set::new();
        let mut problems = Vec::new();
        // Each step repairs the problem of the previous step only.
        let mut step = |set: &mut Set, key: &str, value: Option<&str>| {
            problems.push(read(set).unwrap_err());
            let value = value.map_or_else(|| golden[key].clone(), str::to_owned);
            set.insert(key.to_owned(), value);
        };
        step(&mut set, AAD_VERSION, Some("v2"));
        step(&mut set, PROVIDER, Some("other"));
        step(&mut set, PROVIDER, None);
        step(&mut set, KEY_ID_HASH, None);
        step(&mut set, TRANSIT_MOUNT_HASH, Some("x"));
        step(&mut set, TRANSIT_MOUNT_HASH, None);
        step(&mut set, TRANSIT_KEY_HASH, None);
        step(&mut set, TRANSIT_KEY_VERSION, Some("03"));
        step(&mut set, TRANSIT_KEY_VERSION, None);
        step(&mut set, PLUGIN_VERSION, Some(""));
        step(&mut set, PLUGIN_VERSION, None);
        step(&mut set, AAD_VERSION, None);
        assert!(read(&set).is_ok());
        assert_eq!(
            problems,
            [
                AnnotationsInvalid::Empty,
                AnnotationsInvalid::Missing(PROVIDER),
                AnnotationsInvalid::OtherProvider,
                AnnotationsInvalid::Missing(KEY_ID_HASH),
                AnnotationsInvalid::Missing(TRANSIT_MOUNT_HASH),
                AnnotationsInvalid::MalformedHash(TRANSIT_MOUNT_HASH),
                AnnotationsInvalid::Missing(TRANSIT_KEY_HASH),
                AnnotationsInvalid::Missing(TRANSIT_KEY_VERSION),
                AnnotationsInvalid::MalformedVersion,
                AnnotationsInvalid::Missing(PLUGIN_VERSION),
                AnnotationsInvalid::EmptyPluginVersion,
                AnnotationsInvalid::UnsupportedAadVersion,
            ]
        );
        set.insert("no/dns".to_owned(), String::new());
        assert_eq!(read(&set), Err(AnnotationsInvalid::MalformedKey));
        let not_utf8 = [("x.example.org", &b"\xff"[..])];
        assert_eq!(
            Annotations::parse(not_utf8),
            Err(AnnotationsInvalid::NotUtf8)
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_matches_its_own_key_only(
            key in vectors::any_key(),
            other in vectors::any_key(),
            plugin_version in ".+",
        ) {
            let plugin_version = PluginVersion::new(&plugin_version).unwrap();
            let annotations = Annotations::for_key(&key, &plugin_version);
            prop_assert_eq!(&read(&written(&annotations)).unwrap(), &annotations);
            prop_assert_eq!(annotations.require_match(&key), Ok(()));
            prop_assert_eq!(annotations.require_match(&other).is_ok(), key == other);
        }

        #[test]
        fn hostile_sets_never_panic(set in proptest::collection::btree_map(".*", ".*", 0..4)) {
            prop_assert!(read(&set).is_err());
        }
    }
}
