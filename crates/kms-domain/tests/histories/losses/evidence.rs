//! Evidence after a loss, in the input format of a rebuild.

use std::{collections::BTreeMap, sync::Arc};

use kms_domain::{
    annotations::{Annotations, PluginVersion},
    key::{KeyScope, TransitKey},
    prepare::preview,
    recovery::{
        claims::VersionClaims,
        pair::{Finding, Proof},
        rebuild::{EtcdEvidence, EtcdFinding, PeerEvidence, RecordEvidence},
        record::{BackupRecord, LimitsInfo, Note, StateInfo, VersionInfo},
        resolve::{KeyResolver, LiveKey, Resolution, StoredKeyId},
    },
    registry::{checkpoint::Checkpoint, document::Document},
    scope::TransitKeyPath,
    transit::{CreatedAt, KeyProfile, TransitVersion},
};

use crate::transit::Transit;

/// Contents of one etcd.
#[derive(Debug, Clone, Default)]
pub(crate) struct Etcd {
    /// By name.
    pub(crate) objects: BTreeMap<u8, Stored>,
    /// The keys of replaced and deleted revisions that are not compacted yet.
    pub(crate) superseded: Vec<Arc<TransitKey>>,
}

/// An object.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The key that encrypted it.
    pub(crate) key: Arc<TransitKey>,
    pub(crate) harm: Option<Harm>,
}

/// Change of the stored bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Its DEK no longer decrypts.
    Dek,
    /// It has the annotations of another key_id.
    Annotations,
}

impl Stored {
    /// Whether it can be read now.
    pub(crate) fn opens(&self, transit: &Transit) -> bool {
        self.harm.is_none() && transit.decrypts(&self.key)
    }
}

impl Etcd {
    pub(crate) fn put(&mut self, name: u8, key: Arc<TransitKey>) {
        self.delete(name);
        self.objects.insert(name, Stored { key, harm: None });
    }

    pub(crate) fn delete(&mut self, name: u8) {
        let replaced = self.objects.remove(&name);
        self.superseded.extend(replaced.map(|stored| stored.key));
    }
}

/// Result of reading `etcd` and trying each of its DEKs.
pub(crate) fn of_etcd(
    etcd: &Etcd,
    name: String,
    transit: &Transit,
    profile: &KeyProfile,
    scope: &Arc<KeyScope>,
    known: impl IntoIterator<Item = VersionClaims>,
) -> EtcdEvidence {
    let live = LiveKey::Listed(profile.clone());
    let lineage = KeyResolver::new(Arc::clone(scope), live, known);
    let plugin_version = PluginVersion::new("v0.0.0").unwrap();
    let annotations = |key: &TransitKey| preview(key, &plugin_version).annotations;
    let origin = |key: &TransitKey, annotations: &Annotations| {
        lineage.origin(StoredKeyId {
            provider: key.scope().identity().provider_name.as_str(),
            key_id: key.id().as_str(),
            annotations: Ok(annotations),
        })
    };
    let another = TransitKey::new(
        Arc::clone(scope),
        TransitVersion::new(u64::MAX >> 1).unwrap(),
        CreatedAt::new(1).unwrap(),
    );
    // By key_id, and by whether the annotations are its own.
    let mut groups: BTreeMap<(&str, bool), Vec<&Stored>> = BTreeMap::new();
    for stored in etcd.objects.values() {
        let foreign = stored.harm == Some(Harm::Annotations);
        let group = (stored.key.id().as_str(), foreign);
        groups.entry(group).or_default().push(stored);
    }
    let finding = |((_, foreign), group): ((&str, bool), Vec<&Stored>)| {
        let origin = match foreign {
            true => origin(&group[0].key, &annotations(&another)),
            false => origin(&group[0].key, &annotations(&group[0].key)),
        };
        let closed = group.iter().filter(|stored| !stored.opens(transit));
        let closed = u64::try_from(closed.count()).unwrap();
        let objects = u64::try_from(group.len()).unwrap();
        let seeds = match &origin {
            Resolution::Live(_) => Proof {
                proven: (closed < objects).into(),
                failed: (closed > 0).into(),
                untried: 0,
            },
            Resolution::Known(_) | Resolution::Unresolved(_) => Proof {
                untried: 1,
                ..Proof::default()
            },
        };
        EtcdFinding {
            finding: Finding {
                origin,
                objects,
                seeds,
                data: None,
            },
            unreadable: BTreeMap::from([("secrets".to_owned(), closed)]),
            names: Vec::new(),
        }
    };
    EtcdEvidence {
        content: name.clone(),
        name,
        findings: groups.into_iter().map(finding).collect(),
        superseded: etcd
            .superseded
            .iter()
            .map(|key| origin(key, &annotations(key)))
            .collect(),
        damaged: 0,
        doubts: Vec::new(),
        sample: None,
    }
}

/// The record of `record-backup`; `None` if the command refuses because state and key do not fit.
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
        state: StateInfo {
            generation: document.generation(),
            hash: document.hash().clone(),
            checkpoint: "current".to_owned(),
        },
        limits: LimitsInfo::of(profile),
        versions: VersionInfo::all(scope, document, profile),
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
