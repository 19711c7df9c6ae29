//! What people have at hand after a loss, in the form that a rebuild takes.

use std::{collections::BTreeMap, sync::Arc};

use kms_domain::{
    annotations::PluginVersion,
    key::{KeyScope, TransitKey},
    prepare::preview,
    recovery::{
        claims::VersionClaims,
        origin::{Lineage, LiveKey, Origin, StoredKeyId},
        pair::{Finding, Proof},
        rebuild::{EtcdEvidence, PeerEvidence, RecordEvidence},
        record::{BackupRecord, Note, NotedLimits, NotedState, NotedVersion},
    },
    registry::{anchor::Checkpoint, document::Document},
    scope::TransitKeyPath,
    transit::KeyProfile,
};

use crate::transit::Transit;

/// Objects by name, each with the key that encrypted it last.
pub(crate) type Etcd = BTreeMap<u8, Arc<TransitKey>>;

/// What reading `etcd` and trying each DEK of it finds.
pub(crate) fn of_etcd(
    etcd: &Etcd,
    name: String,
    transit: &Transit,
    profile: &KeyProfile,
    scope: &Arc<KeyScope>,
    known: impl IntoIterator<Item = VersionClaims>,
) -> EtcdEvidence {
    let live = LiveKey::Listed(profile.clone());
    let lineage = Lineage::new(Arc::clone(scope), live, known);
    let mut objects: BTreeMap<&str, (&Arc<TransitKey>, u64)> = BTreeMap::new();
    for key in etcd.values() {
        objects.entry(key.id().as_str()).or_insert((key, 0)).1 += 1;
    }
    let plugin_version = PluginVersion::new("v0.0.0").unwrap();
    let finding = |(key, objects): (&Arc<TransitKey>, u64)| {
        let annotations = preview(key, &plugin_version).annotations;
        let origin = lineage.origin(StoredKeyId {
            provider: key.scope().identity().provider_name.as_str(),
            key_id: key.id().as_str(),
            annotations: Ok(&annotations),
        });
        let mut seeds = Proof::default();
        match (&origin, transit.decrypts(key)) {
            (Origin::Live(_), true) => seeds.proven = 1,
            (Origin::Live(_), false) => seeds.failed = 1,
            (Origin::Known(_) | Origin::Gap(_), _) => seeds.untried = 1,
        }
        Finding {
            origin,
            objects,
            seeds,
            data: None,
        }
    };
    EtcdEvidence {
        content: name.clone(),
        name,
        findings: objects.into_values().map(finding).collect(),
        damaged: 0,
        doubts: Vec::new(),
        sample: None,
    }
}

/// What `record-backup` writes; nothing where it refuses, since state and key do not fit.
pub(crate) fn note(
    document: &Document,
    profile: &KeyProfile,
    scope: &Arc<KeyScope>,
    path: &TransitKeyPath,
) -> Option<BackupRecord> {
    profile.require_retained(document.registry()).ok()?;
    let note = Note {
        recorded_at: "2024-05-15T20:00:00Z".to_owned(),
        plugin_version: "v0.0.0".to_owned(),
        scope: Arc::clone(scope),
        path: path.clone(),
        state: NotedState {
            generation: document.generation(),
            hash: document.hash().clone(),
            checkpoint: "current".to_owned(),
        },
        limits: NotedLimits::of(profile),
        versions: NotedVersion::all(scope, document, profile),
        etcd: None,
        openbao: None,
    };
    Some(BackupRecord::new(note).unwrap())
}

pub(crate) fn of_record(record: &BackupRecord) -> RecordEvidence {
    RecordEvidence {
        name: "the record".to_owned(),
        record: record.clone(),
    }
}

pub(crate) fn of_pair(document: &Document) -> PeerEvidence {
    PeerEvidence {
        name: "the peer".to_owned(),
        document: document.clone(),
        checkpoint: Some(Checkpoint::of(document)),
    }
}
