//! The directory of an installation: `init` writes it, and the commands of a node read it.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use kms_domain::digest::TextHash;
use kms_node::{
    advice::site::quoted,
    config::{self, Environment, Flags, LoadError, Loaded},
};
use serde::Deserialize;

use crate::{files::File, plan::Model};

const DIRECTORY_MODE: u32 = 0o750;

/// Why the files were not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{} has files; nothing is overwritten", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot write {}", path.display())]
    Failed {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Writes the files. The directory must be absent or empty, and is made with mode 0750.
///
/// # Errors
/// [`WriteError`]; after `Failed` some of the files may exist.
pub fn write(directory: &Path, files: &[File]) -> Result<(), WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError::Failed { path, source }
    };
    match fs::read_dir(directory) {
        Ok(entries) => {
            if entries.count() > 0 {
                return Err(WriteError::NotEmpty(directory.to_owned()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut builder = fs::DirBuilder::new();
            builder.mode(DIRECTORY_MODE).recursive(true);
            builder.create(directory).map_err(failed(directory))?;
        }
        Err(error) => return Err(failed(directory)(error)),
    }
    for file in files {
        let path = directory.join(file.name);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(file.mode);
        options
            .open(&path)
            .and_then(|mut open| {
                // The umask has cleared bits of the mode given at creation.
                open.set_permissions(fs::Permissions::from_mode(file.mode))?;
                open.write_all(file.content.as_bytes())?;
                open.sync_all()
            })
            .map_err(failed(&path))?;
    }
    Ok(())
}

/// Name of the summary, which lists the other files.
pub const SUMMARY: &str = "installation.json";
const CONFIGURATION: &str = "config.yaml";

/// Why a directory cannot be used for a node.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a summary of init: {rule}", path.display())]
    Malformed { path: PathBuf, rule: String },
    /// Files that differ from the summary, or are missing.
    #[error("changed since init, or missing: {}", files.join(", "))]
    Edited {
        directory: PathBuf,
        files: Vec<String>,
        /// Options of `init` beside values and directory, each with a space before it.
        options: String,
    },
    #[error("the configuration of the installation is unusable")]
    Configuration(#[source] LoadError),
}

/// A directory whose files are those that `init` wrote.
#[derive(Debug)]
pub struct Directory {
    pub path: PathBuf,
    pub model: Model,
    /// From the directory's own `config.yaml`.
    pub loaded: Loaded,
    files: BTreeMap<String, String>,
}

/// The members of `installation.json` that a node needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    schema_version: String,
    model: String,
    image: Option<String>,
    identity_fingerprint: String,
    socket_group: String,
    policy_name: String,
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    hash: String,
}

impl Directory {
    /// Reads the summary and all files that it lists.
    ///
    /// # Errors
    /// [`ReadError`]. A file that was changed after `init` is refused: the files depend on each other,
    /// and every node gets the same ones.
    pub fn read(directory: &Path) -> Result<Self, ReadError> {
        let path = directory.join(SUMMARY);
        let text = fs::read_to_string(&path).map_err(|source| ReadError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let malformed = |rule: String| ReadError::Malformed {
            path: path.clone(),
            rule,
        };
        let summary: Summary =
            serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if summary.schema_version != "v1" {
            return Err(malformed(
                "its schemaVersion is that of another release".to_owned(),
            ));
        }
        let model = summary
            .model()
            .ok_or_else(|| malformed("its model is incomplete".to_owned()))?;

        let mut files = BTreeMap::new();
        let mut edited = Vec::new();
        for Listed { name, hash } in &summary.files {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
            if name.starts_with('.') || !name.chars().all(plain) {
                return Err(malformed(
                    "it lists a name that is no file of init".to_owned(),
                ));
            }
            match fs::read_to_string(directory.join(name)) {
                Ok(content) if TextHash::of(&content).as_str() == hash => {
                    files.insert(name.clone(), content);
                }
                _ => edited.push(name.clone()),
            }
        }
        if !edited.is_empty() {
            return Err(ReadError::Edited {
                directory: directory.to_owned(),
                files: edited,
                options: summary.options(&model),
            });
        }
        let text = files.get(CONFIGURATION).map_or("", String::as_str);
        let file = directory.join(CONFIGURATION);
        let (flags, environment) = (Flags::default(), Environment::default());
        let loaded =
            config::parse(text, file, &flags, &environment).map_err(ReadError::Configuration)?;
        if loaded.config.fingerprint().as_str() != summary.identity_fingerprint {
            return Err(malformed(
                "its identityFingerprint is not that of config.yaml".to_owned(),
            ));
        }
        Ok(Self {
            path: directory.to_owned(),
            model,
            loaded,
            files,
        })
    }

    /// Content of a file; empty if `init` makes none of this name for the model.
    #[must_use]
    pub fn content(&self, name: &str) -> &str {
        self.files.get(name).map_or("", String::as_str)
    }
}

impl Summary {
    fn model(&self) -> Option<Model> {
        match (&*self.model, &self.image) {
            ("systemd", _) => Some(Model::Systemd),
            ("static-pod", Some(image)) => Some(Model::StaticPod {
                image: image.clone(),
                socket_gid: self.socket_group.parse().ok()?,
            }),
            _ => None,
        }
    }

    fn options(&self, model: &Model) -> String {
        let policy = quoted(&self.policy_name);
        match model {
            Model::Systemd => format!(" --policy-name {policy}"),
            Model::StaticPod { image, socket_gid } => format!(
                " --model static-pod --image {} --socket-gid {socket_gid} --policy-name {policy}",
                quoted(image)
            ),
        }
    }
}
