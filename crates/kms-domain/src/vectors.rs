//! The shared vectors of `conformance/vectors` as values, for the tests beside each rule.

use std::sync::Arc;

use proptest::prelude::*;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    fingerprint::IdentityFingerprint,
    key::{KeyScope, TransitKey},
    registry::{Bookkeeping, Record, RecordState, Registry, document::Document},
    scope::{
        ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, Namespace, OpenBaoInstanceId,
        ProviderName, TransitKeyPath, TransitMountId,
    },
    transit::{CreatedAt, KeyEntry, KeyMetadata, KeyProfile, KeyVersions, TransitVersion},
};

macro_rules! vectors {
    ($file:literal) => {
        $crate::vectors::read(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../conformance/vectors/",
            $file
        )))
    };
}
pub(crate) use vectors;

pub(crate) fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

#[derive(Deserialize)]
pub(crate) struct KeyIds {
    pub(crate) keys: Vec<KeyVector>,
    pub(crate) malformed: Vec<Malformed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyVector {
    pub(crate) claim: String,
    scope: ScopeVector,
    transit_version: u64,
    transit_version_created_at_unix: u64,
    pub(crate) key_id: String,
    pub(crate) key_id_hash: String,
}

#[derive(Deserialize)]
pub(crate) struct Malformed {
    pub(crate) claim: String,
    pub(crate) text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScopeVector {
    provider_name: String,
    cluster_id: String,
    openbao_instance_id: String,
    openbao_namespace: Option<String>,
    transit_mount_id: String,
    transit_key_lineage_id: String,
}

impl ScopeVector {
    pub(crate) fn scope(&self) -> IdentityScope {
        let namespace = self.openbao_namespace.as_deref();
        IdentityScope {
            provider_name: ProviderName::parse(&self.provider_name).unwrap(),
            cluster_id: ClusterId::parse(&self.cluster_id).unwrap(),
            openbao_instance_id: OpenBaoInstanceId::parse(&self.openbao_instance_id).unwrap(),
            openbao_namespace: namespace.map(|text| Namespace::parse(text).unwrap()),
            transit_mount_id: TransitMountId::parse(&self.transit_mount_id).unwrap(),
            key_lineage_id: KeyLineageId::parse(&self.transit_key_lineage_id).unwrap(),
        }
    }
}

impl KeyVector {
    pub(crate) fn key(&self) -> Arc<TransitKey> {
        Arc::new(TransitKey::new(
            Arc::new(KeyScope::new(self.scope.scope())),
            version(self.transit_version),
            created_at(self.transit_version_created_at_unix),
        ))
    }
}

pub(crate) fn key_ids() -> KeyIds {
    vectors!("key_id.json")
}

/// The key of the vector with this claim.
pub(crate) fn key(claim: &str) -> Arc<TransitKey> {
    let vectors = key_ids().keys;
    vectors.iter().find(|v| v.claim == claim).unwrap().key()
}

pub(crate) fn version(number: u64) -> TransitVersion {
    TransitVersion::new(number).unwrap()
}

pub(crate) fn created_at(seconds: u64) -> CreatedAt {
    CreatedAt::new(seconds).unwrap()
}

/// The identity of the golden vector.
pub(crate) fn golden_scope() -> IdentityScope {
    key("golden, no namespace").scope().identity().clone()
}

pub(crate) fn path(mount_path: &str, key_name: &str) -> TransitKeyPath {
    TransitKeyPath {
        mount_path: MountPath::parse(mount_path).unwrap(),
        key_name: KeyName::parse(key_name).unwrap(),
    }
}

/// Records of the golden identity; version `n` was created at second `n`.
pub(crate) fn registry(states: &[(u64, RecordState)]) -> Registry {
    let scope = Arc::new(KeyScope::new(golden_scope()));
    let record = |&(number, state): &(u64, RecordState)| Record {
        key: Arc::new(TransitKey::new(
            Arc::clone(&scope),
            version(number),
            created_at(number),
        )),
        state,
        bookkeeping: Bookkeeping::default(),
    };
    Registry::new(states.iter().map(record).collect()).unwrap()
}

/// A first document with these records.
pub(crate) fn document(states: &[(u64, RecordState)]) -> Document {
    let path = path("transit", "kubernetes-etcd");
    let fingerprint = IdentityFingerprint::of(&golden_scope(), &path);
    Document::first(fingerprint, registry(states))
}

/// State document and text of the shared vector with this name.
pub(crate) fn pair(name: &str) -> (Document, String) {
    let file: serde_json::Value = vectors!("state.json");
    let pairs = file["pairs"].as_array().unwrap();
    let pair = pairs.iter().find(|pair| pair["name"] == name).unwrap();
    let text = pair["state"].as_str().unwrap();
    (Document::decode(text.as_bytes()).unwrap(), text.to_owned())
}

/// A sound key with these versions and creation seconds in its metadata, the newest last.
pub(crate) fn profile(
    created: &[(i64, i64)],
    min_available: i64,
    min_decryption: i64,
) -> KeyProfile {
    checked(KeyMetadata {
        min_available_version: min_available,
        min_decryption_version: min_decryption,
        ..metadata(created)
    })
}

/// A key that fits [`document`], with a complete list of versions.
pub(crate) fn sound_profile(latest: u64, min_available: i64, min_decryption: i64) -> KeyProfile {
    let latest = i64::try_from(latest).unwrap();
    let listed = min_available.max(min_decryption).max(1)..=latest;
    let created: Vec<_> = listed.map(|number| (number, number)).collect();
    profile(&created, min_available, min_decryption)
}

/// A key that fits [`document`] and encrypts only from `min_encryption` on.
pub(crate) fn blocking_profile(latest: i64, min_encryption: i64) -> KeyProfile {
    let created: Vec<_> = (1..=latest).map(|number| (number, number)).collect();
    checked(KeyMetadata {
        min_encryption_version: min_encryption,
        ..metadata(&created)
    })
}

fn metadata(created: &[(i64, i64)]) -> KeyMetadata {
    let entry = |(number, second): &(i64, i64)| (number.to_string(), KeyEntry::Created(*second));
    KeyMetadata {
        key_type: "aes256-gcm96".to_owned(),
        latest_version: created.last().unwrap().0,
        keys: KeyVersions(created.iter().map(entry).collect()),
        supports_encryption: true,
        supports_decryption: true,
        ..KeyMetadata::default()
    }
}

fn checked(metadata: KeyMetadata) -> KeyProfile {
    KeyProfile::check(&metadata, &KeyName::parse("kubernetes-etcd").unwrap()).unwrap()
}

/// Any identity, with many special characters.
pub(crate) fn any_scope() -> impl Strategy<Value = IdentityScope> {
    let name = || "[ab<>&\"\\\\/\u{1}\u{8}\u{7f}\u{2028}\u{2029}ß日]{1,6}|\\PC{1,6}";
    let names =
        [name(); 5].prop_filter_map("not names", |[provider, cluster, bao, mount, lineage]| {
            Some(IdentityScope {
                provider_name: ProviderName::parse(&provider).ok()?,
                cluster_id: ClusterId::parse(&cluster).ok()?,
                openbao_instance_id: OpenBaoInstanceId::parse(&bao).ok()?,
                openbao_namespace: None,
                transit_mount_id: TransitMountId::parse(&mount).ok()?,
                key_lineage_id: KeyLineageId::parse(&lineage).ok()?,
            })
        });
    let namespace = proptest::option::of("[a<&ß]{1,3}(/[a-c]{1,3}){0,2}");
    (names, namespace).prop_map(|(mut scope, namespace)| {
        scope.openbao_namespace = namespace.map(|text| Namespace::parse(&text).unwrap());
        scope
    })
}

/// Any key of any identity.
pub(crate) fn any_key() -> impl Strategy<Value = TransitKey> {
    let number = || 1..=u64::MAX / 2;
    (any_scope(), number(), number()).prop_map(|(scope, number, seconds)| {
        TransitKey::new(
            Arc::new(KeyScope::new(scope)),
            version(number),
            created_at(seconds),
        )
    })
}
