//! Does kube-apiserver's `EncryptionConfiguration` fit this provider, and what does it do to which
//! resource?
//!
//! Each problem is a check of its own with its code. The file may hold keys of other providers, so
//! nothing of its content is repeated but durations and the names of resources and plugins, and a
//! name only if it is plain.

mod document;
mod endpoint;
mod json;
mod ours;
mod resource;
mod rules;
mod scalar;
mod value;
mod writers;
mod yaml;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use zeroize::Zeroizing;

use super::Question;
use crate::{
    config::Config,
    report::{Check, ImpactClass},
};
use document::{Document, Kms, Provider};

const ID: &str = "kubernetes.encryption_config";
const TITLE: &str = "EncryptionConfiguration";

/// kube-apiserver's file leads to this provider. The codes of its findings tell them apart.
pub const ENCRYPTION_CONFIG: Question = Question {
    id: ID,
    title: TITLE,
    needs: &["config.validate"],
    judge: |facts| {
        let skipped = || vec![ENCRYPTION_CONFIG.skip("no --encryption-config was given")];
        Some(facts.encryption.clone().unwrap_or_else(skipped))
    },
};

/// Far above any real file of this kind.
const MAX_FILE_BYTES: usize = 256 * 1024;

/// Judges the file for kube-apiserver on this node. At least one check; the first one has the
/// detail `writers` whenever the file could be understood.
#[must_use]
pub fn check_file(path: &Path, config: &Config) -> Vec<Check> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(unread) => return vec![unread.check(path)],
    };
    match decode(&bytes) {
        Some(text) => check(&text, config),
        None => {
            let message = format!("{} is neither UTF-8 nor UTF-16 text", path.display());
            vec![refused("malformed", message).remediation("save the file as UTF-8")]
        }
    }
}

/// Judges the text of such a file; see [`check_file`].
#[must_use]
pub fn check(text: &str, config: &Config) -> Vec<Check> {
    let document = match document::parse(text) {
        Ok(document) => document,
        Err(malformed) => {
            let message = format!("the file cannot be used: {malformed}");
            return vec![refused("malformed", message).remediation(
                "correct the file; keys are those of apiserver.config.k8s.io/v1, with capital \
                 letters as written there",
            )];
        }
    };
    let mut checks = rules::check(&document);
    checks.extend(resource::check(&document));
    checks.extend(ours::check(&document, config));
    let treatment = writers::treatment(&document);
    checks.extend(writers::check(&treatment, &config.scope.provider_name));
    let summary = writers::summary(&treatment);
    if checks.is_empty() {
        checks.push(Check::pass(ID, TITLE).message(summary));
    }
    if let Some(first) = checks.first_mut() {
        *first = first
            .clone()
            .detail("writers", writers::details(&treatment));
    }
    checks
}

/// kube-apiserver reads UTF-8, and UTF-16 with its mark.
fn decode(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let number: fn([u8; 2]) -> u16 = match bytes.get(..2) {
        Some([0xff, 0xfe]) => u16::from_le_bytes,
        Some([0xfe, 0xff]) => u16::from_be_bytes,
        _ => {
            return str::from_utf8(bytes)
                .ok()
                .map(|text| Zeroizing::new(text.to_owned()));
        }
    };
    let (units, rest) = bytes.get(2..)?.as_chunks::<2>();
    let units: Zeroizing<Vec<_>> = Zeroizing::new(units.iter().copied().map(number).collect());
    let text = String::from_utf16(&units).ok()?;
    rest.is_empty().then_some(Zeroizing::new(text))
}

/// Why there is no text to judge.
enum Unread {
    Failed(io::Error),
    TooLarge,
}

/// Room for the largest file is there from the start, so that no smaller buffer with a part of it
/// is left behind unwiped.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Unread> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES + 1));
    let file = File::open(path).map_err(Unread::Failed)?;
    let limit = u64::try_from(MAX_FILE_BYTES + 1).unwrap_or(u64::MAX);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(Unread::Failed)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Unread::TooLarge);
    }
    Ok(bytes)
}

impl Unread {
    fn check(&self, path: &Path) -> Check {
        const NEXT: &str =
            "name the file that kube-apiserver gets with --encryption-provider-config";
        let path = path.display();
        let (code, message, remedy) = match self {
            Self::Failed(error) => match error.kind() {
                io::ErrorKind::NotFound => ("missing", format!("{path} does not exist"), NEXT),
                io::ErrorKind::PermissionDenied => (
                    "unreadable",
                    format!("access to {path} is denied"),
                    "run doctor as root, or let the user that runs it read this file",
                ),
                _ => (
                    "unreadable",
                    format!("{path} cannot be read: {error}"),
                    NEXT,
                ),
            },
            Self::TooLarge => (
                "too_large",
                format!("{path} is larger than {MAX_FILE_BYTES} bytes"),
                NEXT,
            ),
        };
        Check::fail(ID, TITLE, message)
            .code(code)
            .impact("it is not known what kube-apiserver encrypts, and with which provider")
            .impact_class(ImpactClass::Diagnosis)
            .remediation(remedy)
    }
}

/// Where something stands in the file.
#[derive(Clone, Copy)]
struct Place {
    entry: usize,
    provider: Option<usize>,
    /// `None` in a JSON file.
    line: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resources[{}]", self.entry)?;
        if let Some(provider) = self.provider {
            write!(f, ".providers[{provider}]")?;
        }
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        Ok(())
    }
}

impl Document {
    /// Every provider with its place, in the order of the file.
    fn providers(&self) -> impl Iterator<Item = (Place, &Provider)> {
        let entries = self.entries.iter().enumerate();
        entries.flat_map(|(entry, of)| {
            let elements = of.providers.iter().enumerate();
            elements.flat_map(move |(provider, element)| {
                let place = Place {
                    entry,
                    provider: Some(provider),
                    line: element.line,
                };
                element.kinds.iter().map(move |kind| (place, kind))
            })
        })
    }

    fn kms(&self) -> impl Iterator<Item = (Place, &Kms)> {
        self.providers()
            .filter_map(|(place, provider)| match provider {
                Provider::Kms(kms) => Some((place, kms)),
                Provider::Identity | Provider::Local { .. } => None,
            })
    }
}

/// A problem for which kube-apiserver does not take the file.
fn refused(code: &'static str, message: impl Into<String>) -> Check {
    Check::fail(ID, TITLE, message)
        .code(code)
        .impact(
            "kube-apiserver does not start with this file, or keeps the previous one if it \
             reloads; no data is touched",
        )
        .impact_class(ImpactClass::ApiServerAvailability)
}
