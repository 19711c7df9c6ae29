//! The progress file: cluster, encryption, and for each resource the revision at which its rewrite
//! began. It holds neither names nor content of objects.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use kms_node::{
    advice::{Found, cluster, site::shell},
    state::disk::{self, DiskError},
};
use serde::{Deserialize, Serialize};

use crate::encryption::Encryption;

const SCHEMA: &str = "bao-kms-provider/rewrite-progress/v1";

/// The file and its content.
#[derive(Debug)]
pub struct ProgressFile {
    path: PathBuf,
    document: Document,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    schema: String,
    /// uid of the namespace kube-system.
    cluster: String,
    namespace: Option<String>,
    /// Of the API server at the begin.
    encryption: Option<Encryption>,
    resources: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    /// resourceVersion of the first list.
    started: String,
    finished: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    #[error("cannot read the progress file {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a progress file of this release", .0.display())]
    Invalid(PathBuf),
    #[error("the progress file {} belongs to another {what}", path.display())]
    Other { path: PathBuf, what: &'static str },
    #[error("the progress file was not written")]
    Unsaved(#[source] Box<DiskError>),
    #[error("cannot remove the progress file {}", path.display())]
    NotRemoved {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ProgressError {
    /// The cause in the catalogue, with its values.
    #[must_use]
    pub fn found(&self) -> Found {
        let (cause, path) = match self {
            Self::Invalid(path) => (&cluster::PROGRESS_INVALID, path),
            Self::Other { path, .. } => (&cluster::PROGRESS_OF_OTHER, path),
            Self::Unreadable { .. } | Self::Unsaved(_) | Self::NotRemoved { .. } => {
                return (&cluster::PROGRESS_UNSAVED, Vec::new());
            }
        };
        (cause, vec![("progress", shell(path))])
    }
}

impl ProgressFile {
    /// Continues the rewrite of the file, or begins one. Writes nothing.
    ///
    /// # Errors
    /// The file cannot be read, or belongs to another rewrite.
    pub fn open(
        path: &Path,
        cluster: &str,
        namespace: Option<&str>,
        encryption: Option<&Encryption>,
    ) -> Result<Self, ProgressError> {
        let path = path.to_owned();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let document = Document {
                    schema: SCHEMA.to_owned(),
                    cluster: cluster.to_owned(),
                    namespace: namespace.map(str::to_owned),
                    encryption: encryption.cloned(),
                    resources: BTreeMap::new(),
                };
                return Ok(Self { path, document });
            }
            Err(source) => return Err(ProgressError::Unreadable { path, source }),
        };
        let document: Option<Document> = serde_json::from_slice(&text).ok();
        let Some(document) = document.filter(|it| it.schema == SCHEMA) else {
            return Err(ProgressError::Invalid(path));
        };
        let differences = [
            (document.cluster != cluster, "cluster"),
            (document.namespace.as_deref() != namespace, "namespace"),
            // Objects written since the begin are skipped, so they must have this encryption.
            (document.encryption.as_ref() != encryption, "encryption"),
        ];
        match differences.into_iter().find(|(differs, _)| *differs) {
            Some((_, what)) => Err(ProgressError::Other { path, what }),
            None => Ok(Self { path, document }),
        }
    }

    /// The revision at which the rewrite of the resource began: `now`, unless it has begun before.
    ///
    /// # Errors
    /// It could not be saved.
    pub fn begin(&mut self, resource: &str, now: &str) -> Result<String, ProgressError> {
        if let Some(entry) = self.document.resources.get(resource) {
            return Ok(entry.started.clone());
        }
        let entry = Entry {
            started: now.to_owned(),
            finished: false,
        };
        self.document.resources.insert(resource.to_owned(), entry);
        self.save()?;
        Ok(now.to_owned())
    }

    /// Whether every object of the resource was done.
    #[must_use]
    pub fn is_finished(&self, resource: &str) -> bool {
        let entry = self.document.resources.get(resource);
        entry.is_some_and(|it| it.finished)
    }

    /// # Errors
    /// It could not be saved.
    pub fn finish(&mut self, resource: &str) -> Result<(), ProgressError> {
        match self.document.resources.get_mut(resource) {
            Some(entry) if !entry.finished => {
                entry.finished = true;
                self.save()
            }
            _ => Ok(()),
        }
    }

    /// Removes the file of a rewrite without open objects: the next one begins from the start.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn remove(&self) -> Result<(), ProgressError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                let path = self.path.clone();
                Err(ProgressError::NotRemoved { path, source })
            }
            _ => Ok(()),
        }
    }

    fn save(&self) -> Result<(), ProgressError> {
        let unsaved = |error| ProgressError::Unsaved(Box::new(error));
        let text = serde_json::to_vec_pretty(&self.document);
        // A document of texts and flags always has a JSON form.
        let text = text.unwrap_or_default();
        disk::replace_private(&self.path, &text).map_err(unsaved)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_rewrite_continues_and_another_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("progress.json");
        let key = |hash: &str| Encryption {
            key_id_hashes: [("kms".to_owned(), hash.to_owned())].into(),
            configuration_hash: None,
        };
        let open = |cluster: &str, namespace, hash: &str| {
            ProgressFile::open(&path, cluster, namespace, Some(&key(hash)))
        };
        let mut file = open("c", None, "k").unwrap();
        assert_eq!(file.begin("secrets", "7").unwrap(), "7");
        file.begin("configmaps", "8").unwrap();
        file.finish("secrets").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut again = open("c", None, "k").unwrap();
        assert!(again.is_finished("secrets") && !again.is_finished("configmaps"));
        assert_eq!(again.begin("configmaps", "99").unwrap(), "8");
        for (cluster, namespace, hash, what) in [
            ("d", None, "k", "cluster"),
            ("c", Some("n"), "k", "namespace"),
            ("c", None, "l", "encryption"),
        ] {
            let refused = open(cluster, namespace, hash).unwrap_err().to_string();
            assert!(refused.ends_with(what), "{refused}");
        }
        again.remove().unwrap();
        again.remove().unwrap();
        disk::replace_private(&path, b"{}").unwrap();
        let invalid = open("c", None, "k").unwrap_err();
        assert!(matches!(invalid, ProgressError::Invalid(_)));
    }
}
