//! Whether another release of this provider reads the files of this node and the objects in etcd,
//! and whether this release reads what the other one writes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use etcd_snapshot::{file::OnProgress, revision::Revisions};
use kms_domain::annotations::{AAD_VERSION, PROVIDER, PROVIDER_MARKER};
use kms_node::{
    advice::{Cause, DataImpact, Site, release as causes},
    config::{Loaded, Origin},
    formats::{ASSOCIATED_DATA, Formats, KEY_ID},
    report::{CheckName, CheckResult, ImpactClass, counted, one_line},
};
use serde::Deserialize;
use serde_json::Value;

use crate::recovery::{
    EtcdError, EtcdSource,
    inventory::{Group, Inventory, Wanted},
};

const FORMATS: CheckName = CheckName("release.formats", "Formats of the other release");
const CONFIGURATION: CheckName =
    CheckName("release.configuration", "Settings for the other release");
const FILES: CheckName = CheckName("release.files", "State files for the other release");
const OBJECTS: CheckName = CheckName("release.objects", "Stored objects for the other release");
const WAY_BACK: CheckName = CheckName("release.way_back", "Way back from the other release");

/// Its checks, in their order.
pub const CHECKS: [CheckName; 5] = [FORMATS, CONFIGURATION, FILES, OBJECTS, WAY_BACK];

/// Size limit in bytes, far above any real file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Another release, as its `version --output json` describes it.
#[derive(Debug, Deserialize)]
pub struct Release {
    version: String,
    #[serde(flatten)]
    formats: Formats,
}

/// Error while reading the description of a release.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("cannot read {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no output of `version --output json` with formats", path.display())]
    Malformed {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Release {
    /// Reads a file that `version --output json` wrote.
    ///
    /// # Errors
    /// [`ReleaseError`], also for the output of a release without this list.
    pub fn read(path: &Path) -> Result<Self, ReleaseError> {
        let unreadable = |source| ReleaseError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut text = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        let mut file = file.take(MAX_FILE_BYTES);
        file.read_to_end(&mut text).map_err(unreadable)?;
        serde_json::from_slice(&text).map_err(|source| ReleaseError::Malformed {
            path: path.to_owned(),
            source,
        })
    }
}

/// The checks of [`CHECKS`], for the release described by `file`. `etcd` is evidence of the stored
/// objects, all of it.
pub fn examine(
    file: &Path,
    loaded: &Loaded,
    etcd: &[EtcdSource],
    on_progress: OnProgress<'_>,
) -> Vec<CheckResult> {
    let site = Site::new(&loaded.path, Some(&loaded.config));
    let release = match Release::read(file) {
        Ok(release) => release,
        Err(error) => {
            let failed = FORMATS.fail(one_line(&error));
            let failed = because(failed, &causes::FORMATS_UNREADABLE, &site);
            let rest = [CONFIGURATION, FILES, OBJECTS, WAY_BACK];
            let skipped = rest.map(|check| check.skip("because release.formats failed"));
            return [failed].into_iter().chain(skipped).collect();
        }
    };
    let examined = Examined {
        release: &release,
        loaded,
        site,
    };
    vec![
        FORMATS.pass().message(release.version.clone()),
        examined.configuration(),
        examined.files(),
        examined.objects(etcd, on_progress),
        examined.way_back(),
    ]
}

fn because(check: CheckResult, cause: &Cause, site: &Site<'_>) -> CheckResult {
    let class = match cause.impact {
        DataImpact::NoneLost => ImpactClass::ApiServerAvailability,
        _ => ImpactClass::DataRecovery,
    };
    check.because(cause.advise(site, &[])).impact_class(class)
}

struct Examined<'a> {
    release: &'a Release,
    loaded: &'a Loaded,
    site: Site<'a>,
}

impl Examined<'_> {
    /// Only settings that are given count: another release has its own defaults.
    fn configuration(&self) -> CheckResult {
        let accepted = &self.release.formats.settings;
        let written = self.loaded.settings.iter();
        let written = written
            .filter(|setting| !matches!(setting.origin, Origin::Default | Origin::Inferred { .. }));
        let refused: Vec<String> = written
            .filter_map(|setting| {
                let Some(known) = accepted.iter().find(|known| known.path == setting.path) else {
                    return Some(setting.path.to_owned());
                };
                match &setting.value {
                    Value::String(word)
                        if !known.values.is_empty() && !known.values.contains(word) =>
                    {
                        Some(format!("{}: {word}", setting.path))
                    }
                    _ => None,
                }
            })
            .collect();
        if refused.is_empty() {
            let read = format!("all settings are known to {}", self.release.version);
            return CONFIGURATION.pass().message(read);
        }
        let message = format!("{} refuses {}", self.release.version, refused.join(", "));
        let failed = CONFIGURATION.fail(message).detail("settings", refused);
        because(failed, &causes::CONFIGURATION_REFUSED, &self.site)
    }

    fn files(&self) -> CheckResult {
        let schemas = match self.loaded.config.state().schemas() {
            Ok(schemas) => schemas,
            Err(error) => return FILES.skip(format!("because {}", one_line(&error))),
        };
        if schemas.is_empty() {
            return FILES.skip("there are no state files");
        }
        let formats = &self.release.formats;
        let refused: Vec<String> = schemas
            .iter()
            .filter(|(_, schema)| !formats.reads_file(schema))
            .map(|(path, schema)| format!("{} (schema {schema:?})", path.display()))
            .collect();
        if refused.is_empty() {
            let read = format!("{} reads state and checkpoint", self.release.version);
            return FILES.pass().message(read);
        }
        let message = format!(
            "{} does not read {}",
            self.release.version,
            refused.join(", ")
        );
        because(FILES.fail(message), &causes::FILES_REFUSED, &self.site)
    }

    fn objects(&self, etcd: &[EtcdSource], on_progress: OnProgress<'_>) -> CheckResult {
        let unknown = |message: &str| {
            OBJECTS
                .warn(format!("unknown: {message}"))
                .code("no_evidence")
                .impact("unknown: the other release may be unable to read stored objects")
                .remediation("repeat with --etcd-snapshot or --endpoints")
                .impact_class(ImpactClass::Diagnosis)
        };
        let mut stored = Stored::default();
        for source in etcd {
            if let Err(error) = stored.add(source, on_progress) {
                let message = format!("unknown: {}", one_line(&error));
                return OBJECTS.fail(message).code("etcd_unread").impact(
                    "unknown: the other release may be unable to read stored objects; nothing was \
                     changed",
                );
            }
        }
        if etcd.is_empty() {
            return unknown("no etcd data was given");
        }
        let formats = &self.release.formats;
        let refused: Vec<String> = stored
            .versions
            .iter()
            .filter(|((format, version), _)| !formats.reads(format, version))
            .map(|((format, version), objects)| {
                format!("{} with {format} {version:?}", counted(*objects, "object"))
            })
            .collect();
        if refused.is_empty() && stored.has_open_keys {
            return unknown("keys of the running etcd were left unread");
        }
        if refused.is_empty() {
            let objects = counted(stored.objects, "object");
            let read = format!(
                "{} reads all, {objects} of this provider",
                self.release.version
            );
            return OBJECTS.pass().message(read);
        }
        let message = format!(
            "{} does not read {}",
            self.release.version,
            refused.join(", ")
        );
        because(OBJECTS.fail(message), &causes::OBJECTS_REFUSED, &self.site)
    }

    fn way_back(&self) -> CheckResult {
        let ours = Formats::ours();
        let written = self.release.formats.formats.iter();
        let unread: Vec<String> = written
            .filter(|format| !ours.reads(&format.name, &format.writes))
            .map(|format| format!("{} {:?}", format.name, format.writes))
            .collect();
        if unread.is_empty() {
            let read = format!(
                "this release reads all formats that {} writes",
                self.release.version
            );
            return WAY_BACK.pass().message(read);
        }
        let version = &self.release.version;
        let message = format!(
            "{version} writes {}, unread by this release",
            unread.join(", ")
        );
        because(WAY_BACK.warn(message), &causes::NO_WAY_BACK, &self.site)
    }
}

/// Formats of the stored objects of this provider, under any provider name.
#[derive(Default)]
struct Stored {
    objects: u64,
    /// Keys may need any format.
    has_open_keys: bool,
    /// Objects of each format and version.
    versions: BTreeMap<(&'static str, String), u64>,
}

impl Stored {
    fn add(&mut self, source: &EtcdSource, on_progress: OnProgress<'_>) -> Result<(), EtcdError> {
        let wanted = Wanted {
            revisions: Revisions::Newest,
            prefix: None,
            names: false,
        };
        let inventory = Inventory::gather(source, &wanted, on_progress)?;
        self.has_open_keys |= inventory.has_open_keys();
        for group in inventory.groups.iter().filter(|group| is_ours(group)) {
            self.objects += group.count.objects;
            let prefix = group.key_id.split_inclusive('.').next().unwrap_or_default();
            let associated = annotation(group, AAD_VERSION).unwrap_or_default();
            for (format, version) in [(KEY_ID, prefix), (ASSOCIATED_DATA, &associated)] {
                let known = (format, version.to_owned());
                *self.versions.entry(known).or_default() += group.count.objects;
            }
        }
        Ok(())
    }
}

/// Every release writes the same marker.
fn is_ours(group: &Group) -> bool {
    annotation(group, PROVIDER).is_some_and(|marker| marker == PROVIDER_MARKER)
}

/// Control characters and invalid UTF-8 of the untrusted value are replaced when it is shown.
fn annotation(group: &Group, name: &str) -> Option<String> {
    let mut annotations = group.annotations.iter();
    let (_, value) = annotations.find(|(known, _)| known == name)?;
    Some(String::from_utf8_lossy(value).chars().take(64).collect())
}
