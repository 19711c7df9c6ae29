//! A node's state directory, documents to put there, and a disk that fails.

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    io::{self, Write as _},
    ops::RangeInclusive,
    os::{
        fd::BorrowedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use kms_domain::{
    fingerprint::IdentityFingerprint,
    key_id::KeyId,
    registry::{
        checkpoint::Checkpoint,
        document::{Document, DocumentError},
    },
    scope::{
        ClusterId, IdentityScope, KeyLineageId, KeyName, MountPath, OpenBaoInstanceId,
        ProviderName, TransitKeyPath, TransitMountId,
    },
    transit::{CreatedAt, TransitVersion},
};
use kms_node::state::{
    MissingCheckpoint, StateError, StatePath, StateReader, StateWriter,
    disk::{Disk, SystemDisk},
};
use tempfile::TempDir;

pub(crate) const DOCUMENT: &str = "key-registry.json";
pub(crate) const CHECKPOINT: &str = "key-registry.json.checkpoint";
const LOCK: &str = "key-registry.json.lock";

/// A private state directory.
pub(crate) struct Node {
    directory: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        // So that files get their modes from the code and not from the umask of whoever tests.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A node that holds `document` and the checkpoint of `anchored`.
    pub(crate) fn with(document: Option<&Document>, anchored: Option<&Document>) -> Self {
        let node = Self::new();
        node.put(document, anchored);
        node
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn put(&self, document: Option<&Document>, anchored: Option<&Document>) {
        self.put_text(DOCUMENT, document.map(Document::encode));
        let checkpoint = anchored.map(|document| Checkpoint::of(document).encode());
        self.put_text(CHECKPOINT, checkpoint);
    }

    pub(crate) fn put_text(&self, name: &str, text: Option<String>) {
        let path = self.file(name);
        match text {
            Some(text) => {
                let mut file = File::create(&path).unwrap();
                file.write_all(text.as_bytes()).unwrap();
                set_mode(&path, 0o640);
            }
            None if path.exists() => fs::remove_file(path).unwrap(),
            None => {}
        }
    }

    pub(crate) fn reader(&self) -> StateReader {
        self.reader_for(scope(), key_path())
    }

    pub(crate) fn reader_for(&self, scope: IdentityScope, key_path: TransitKeyPath) -> StateReader {
        let path = StatePath::parse(&self.file(DOCUMENT)).unwrap();
        StateReader::new(path, scope, key_path)
    }

    pub(crate) fn writer(&self, missing: MissingCheckpoint) -> Result<StateWriter, StateError> {
        self.reader().lock()?.start_writing(missing)
    }

    pub(crate) fn writer_on(&self, disk: FailingDisk) -> StateWriter {
        let locked = self.reader().lock().unwrap();
        let disk = Box::new(disk);
        let writer = locked.start_writing_on(disk, MissingCheckpoint::Refuse);
        writer.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Every file but the lock, with what a write would change.
    pub(crate) fn content(&self) -> BTreeMap<OsString, (u64, u32, Vec<u8>)> {
        fs::read_dir(self.directory.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name() != LOCK)
            .map(|entry| {
                let facts = entry.metadata().unwrap();
                let bytes = fs::read(entry.path()).unwrap();
                (
                    entry.file_name(),
                    (facts.ino(), facts.mode() & 0o7777, bytes),
                )
            })
            .collect()
    }

    /// Asserts that there are exactly the pair of `document`, both with mode 0640, and the lock.
    #[track_caller]
    pub(crate) fn assert_holds(&self, document: &Document) {
        let content = self.content();
        let names: Vec<_> = content.keys().collect();
        assert_eq!(names, [DOCUMENT, CHECKPOINT]);
        for (name, (_, mode, bytes)) in &content {
            assert_eq!(*mode, 0o640, "{name:?}");
            let expected = if name == DOCUMENT {
                document.encode()
            } else {
                Checkpoint::of(document).encode()
            };
            assert_eq!(bytes, expected.as_bytes(), "{name:?}");
        }
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn scope() -> IdentityScope {
    IdentityScope {
        provider_name: ProviderName::parse("openbao-kms-workload-a").unwrap(),
        cluster_id: ClusterId::parse("workload-a").unwrap(),
        openbao_instance_id: OpenBaoInstanceId::parse("bao-prod-a").unwrap(),
        openbao_namespace: None,
        transit_mount_id: TransitMountId::parse("transit-prod-primary").unwrap(),
        key_lineage_id: KeyLineageId::parse("01HXEXAMPLEKEYLINEAGEID").unwrap(),
    }
}

pub(crate) fn key_path() -> TransitKeyPath {
    TransitKeyPath {
        mount_path: MountPath::parse("transit").unwrap(),
        key_name: KeyName::parse("kubernetes-etcd").unwrap(),
    }
}

/// The first document of a chain; `observed` makes it differ from others of its generation.
pub(crate) fn first(observed: u64) -> Document {
    document(1, None, observed)
}

/// The document after `previous`.
pub(crate) fn after(previous: &Document, observed: u64) -> Document {
    document(previous.generation().get() + 1, Some(previous), observed)
}

/// Any valid document, whether or not it follows what it says.
pub(crate) fn document(generation: u64, previous: Option<&Document>, observed: u64) -> Document {
    let previous_hash = previous.map_or(String::new(), |previous| {
        format!(r#""previousHash":"{}","#, previous.hash())
    });
    let fingerprint = IdentityFingerprint::of(&scope(), &key_path());
    let created_at = CreatedAt::new(1_700_000_060).unwrap();
    let key_id = KeyId::derive(&scope(), TransitVersion::FIRST, created_at);
    let text = |hash: &str| {
        format!(
            r#"{{"schemaVersion":"keyregistry.openbao-kms/v1alpha2",
            "identityFingerprint":"{fingerprint}","generation":{generation},{previous_hash}
            "currentHash":"{hash}","activeKeyId":"{key_id}","snapshots":[{{
            "providerName":"openbao-kms-workload-a","clusterId":"workload-a",
            "openbaoInstanceId":"bao-prod-a","transitMountId":"transit-prod-primary",
            "transitKeyLineageId":"01HXEXAMPLEKEYLINEAGEID","transitVersion":1,
            "transitVersionCreatedAtUnix":{created_at},"kubernetesKeyId":"{key_id}",
            "state":"active","aadMode":"aad.required","observedAtUnix":{observed},
            "promotedAtUnix":{observed}}}]}}"#
        )
    };
    // A wrong hash is answered with the right one.
    let wrong = format!("krs1.{}", "A".repeat(43));
    let hash = match Document::decode(text(&wrong).as_bytes()) {
        Err(DocumentError::HashMismatch { computed, .. }) => computed,
        other => panic!("expected a wrong hash, got {other:?}"),
    };
    Document::decode(text(hash.as_str()).as_bytes()).unwrap()
}

/// A whole error as it is printed.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Where in a call the disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Nothing of the call happens.
    Before,
    /// Half of the bytes are written; other calls do not happen.
    Midway,
    /// The call happens, yet the caller hears of a failure, or the process ends there.
    After,
}

impl Moment {
    pub(crate) const ALL: [Self; 3] = [Self::Before, Self::Midway, Self::After];
}

/// The real disk, on which some calls fail, counted from 0.
pub(crate) struct FailingDisk {
    calls: usize,
    failing: RangeInclusive<usize>,
    moment: Moment,
}

impl FailingDisk {
    pub(crate) fn at(call: usize, moment: Moment) -> Self {
        Self::during(call..=call, moment)
    }

    pub(crate) fn during(failing: RangeInclusive<usize>, moment: Moment) -> Self {
        Self {
            calls: 0,
            failing,
            moment,
        }
    }

    fn call(&mut self, work: impl FnOnce(Moment) -> io::Result<()>) -> io::Result<()> {
        let failing = self.failing.contains(&self.calls);
        self.calls += 1;
        if !failing {
            return work(Moment::After);
        }
        work(self.moment)?;
        Err(io::Error::other("the disk is broken"))
    }
}

impl Disk for FailingDisk {
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.call(|until| match until {
            Moment::Before => Ok(()),
            Moment::Midway => SystemDisk.write(file, &bytes[..bytes.len() / 2]),
            Moment::After => SystemDisk.write(file, bytes),
        })
    }

    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.call(|until| match until {
            Moment::Before | Moment::Midway => Ok(()),
            Moment::After => SystemDisk.sync(file),
        })
    }

    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.call(|until| match until {
            Moment::Before | Moment::Midway => Ok(()),
            Moment::After => SystemDisk.rename(directory, from, to),
        })
    }
}
