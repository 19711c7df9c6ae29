//! Checks kube-apiserver's `EncryptionConfiguration` for use with this provider, and lists the
//! treatment of each resource.
//!
//! Each problem is a separate check with its own code. The file may contain keys of other
//! providers, so messages quote only durations and names of resources and plugins, and a name only
//! if it has plain characters.

mod document;
mod endpoint;
pub mod find;
mod json;
mod legacy;
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

use kms_node::{
    advice::{Cause, Site, Values, encryption_config as causes},
    config::Config,
    report::{CheckResult, ImpactClass},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Check;
use document::{Document, Entry, Kms, Provider};
use find::Located;
use resource::Resource;

const ID: &str = "kubernetes.encryption_config";
const TITLE: &str = "EncryptionConfiguration";

/// Whether kube-apiserver's file selects this provider. Findings differ by code.
pub const ENCRYPTION_CONFIG: Check = Check {
    id: ID,
    title: TITLE,
    needs: &["config.validate"],
    evaluate: |facts| {
        let skipped = || vec![ENCRYPTION_CONFIG.skip("no --encryption-config was given")];
        Some(facts.encryption.clone().unwrap_or_else(skipped))
    },
};

/// Size limit in bytes, far above any real file.
const MAX_FILE_BYTES: usize = 256 * 1024;

/// Checks the file for kube-apiserver on this node. Returns at least one check; after successful
/// parsing, the first one has the detail `writers`.
#[must_use]
pub fn check_file(path: &Path, config: &Config) -> Vec<CheckResult> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(unread) => return vec![unread.check(path)],
    };
    match decode(&bytes) {
        Some(text) => check(&text, config),
        None => {
            let message = format!("{} is neither UTF-8 nor UTF-16 text", path.display());
            vec![refused("malformed", message, "save the file as UTF-8")]
        }
    }
}

/// Checks the file that kube-apiserver was found to use; messages name it. A file that this user
/// cannot read is a warning.
#[must_use]
pub fn check_located(located: &Located, config: &Config) -> Vec<CheckResult> {
    let (path, named_by) = match located {
        Located::File { path, named_by } => (path, named_by),
        Located::WithoutFlag { named_by } => {
            let message =
                format!("kube-apiserver ({named_by}) has no --encryption-provider-config");
            return vec![warn(&causes::NO_FILE, message, ImpactClass::Diagnosis)];
        }
        Located::Several(files) => {
            let files: Vec<_> = files.iter().map(|it| it.display().to_string()).collect();
            return vec![ENCRYPTION_CONFIG.skip(format!(
                "several kube-apiservers have different files, so name one with \
                 --encryption-config: {}",
                files.join(", ")
            ))];
        }
        Located::Nothing => {
            return vec![ENCRYPTION_CONFIG.skip(
                "no kube-apiserver was found on this node, and no --encryption-config was given",
            )];
        }
    };
    let place = format!("{} ({named_by})", path.display());
    let checks = check_file(path, config).into_iter().map(|check| {
        let message = format!("{place}: {}", check.found());
        let check = check.message(message);
        match check.cause() {
            Some("unreadable" | "missing") => check.as_warning(),
            _ => check,
        }
    });
    checks.collect()
}

/// Whether the file has this provider, by its name or its socket. `None` for a file that cannot be read or
/// parsed.
#[must_use]
pub fn has_provider(path: &Path, config: &Config) -> Option<bool> {
    let bytes = read(path).ok()?;
    let document = document::parse(&decode(&bytes)?).ok()?;
    Some(ours::is_in(&document, config))
}

/// Resources and wildcards with a rule in the file, in its order and syntax.
///
/// # Errors
/// The finding of a file that cannot be read or parsed.
pub fn ruled_resources(path: &Path) -> Result<Vec<String>, Box<CheckResult>> {
    Ok(ruled(path)?.resources)
}

/// Facts of a file, to recognize it in the metrics of kube-apiserver.
pub struct Ruled {
    /// Resources and wildcards with a rule, in its order and syntax.
    pub resources: Vec<String>,
    /// Whether plaintext Secrets are read.
    pub reads_plaintext: bool,
    /// Each rule with the KMS providers of its list, in the order of precedence.
    kms: Vec<(String, Vec<String>)>,
    /// SHA-256 of the file, as kube-apiserver shows it: `sha256:` and hexadecimal digits.
    pub hash: String,
}

impl Ruled {
    /// Whether the rule for this resource has the KMS provider.
    #[must_use]
    pub fn protects(&self, resource: &str, provider: &str) -> bool {
        let rule = self.kms.iter().find(|(rule, _)| covers(rule, resource));
        rule.is_some_and(|(_, names)| names.iter().any(|name| name == provider))
    }
}

/// Reads the rules.
///
/// # Errors
/// The finding of a file that cannot be read or parsed.
pub fn ruled(path: &Path) -> Result<Ruled, Box<CheckResult>> {
    let bytes = read(path).map_err(|unread| unread.check(path))?;
    let malformed = || {
        let message = format!("{} cannot be parsed", path.display());
        refused(
            "malformed",
            message,
            "correct the file; `doctor` names the line",
        )
    };
    let text = decode(&bytes).ok_or_else(malformed)?;
    let document = document::parse(&text).map_err(|_| malformed())?;
    let entries = document.entries.iter().flat_map(Entry::resources);
    let treatment = writers::treatment(&document);
    Ok(Ruled {
        resources: entries.map(|it| it.to_string()).collect(),
        reads_plaintext: writers::reads_plaintext(&treatment),
        kms: writers::kms_names(&treatment),
        hash: hash(&bytes),
    })
}

/// SHA-256 in the notation of kube-apiserver's metrics.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let digits = digest.iter().map(|byte| format!("{byte:02x}"));
    digits.fold("sha256:".to_owned(), |hash, digits| hash + &digits)
}

/// Whether a rule applies to a resource, both as the file names them.
#[must_use]
pub fn covers(rule: &str, resource: &str) -> bool {
    Resource::parse(rule).covers(Resource::parse(resource))
}

/// Checks the text of the file; see [`check_file`].
#[must_use]
pub fn check(text: &str, config: &Config) -> Vec<CheckResult> {
    let document = match document::parse(text) {
        Ok(document) => document,
        Err(malformed) => {
            let message = format!("the file cannot be used: {malformed}");
            let correction = "correct the file; keys are those of apiserver.config.k8s.io/v1, with \
                capital letters as written there";
            return vec![refused("malformed", message, correction)];
        }
    };
    let mut checks = rules::check(&document);
    checks.extend(resource::check(&document));
    checks.extend(ours::check(&document, config));
    let treatment = writers::treatment(&document);
    checks.extend(writers::check(&treatment, &config.scope.provider_name));
    if let Some(reader) = &config.legacy.vault_kubernetes_kms {
        checks.extend(legacy::check(&document, &treatment, reader));
    }
    let summary = writers::summary(&treatment);
    if checks.is_empty() {
        checks.push(CheckResult::pass(ID, TITLE).message(summary));
    }
    if let Some(first) = checks.first_mut() {
        *first = first
            .clone()
            .detail("writers", writers::details(&treatment));
    }
    checks
}

/// Decodes like kube-apiserver: UTF-8, or UTF-16 with a byte order mark.
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

/// Failure before the text is available.
enum Unread {
    Failed(io::Error),
    TooLarge,
}

/// Allocates the final capacity at the start, because reallocation would leave unwiped copies of
/// key material.
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
    fn check(&self, path: &Path) -> CheckResult {
        let path = path.display();
        let (code, message) = match self {
            Self::Failed(error) => match error.kind() {
                io::ErrorKind::NotFound => ("missing", format!("{path} does not exist")),
                io::ErrorKind::PermissionDenied => {
                    ("unreadable", format!("access to {path} is denied"))
                }
                _ => ("unreadable", format!("{path} cannot be read: {error}")),
            },
            Self::TooLarge => (
                "too_large",
                format!("{path} is larger than {MAX_FILE_BYTES} bytes"),
            ),
        };
        fail(&causes::UNREADABLE, message, &[], ImpactClass::Diagnosis).code(code)
    }
}

/// Position in the file.
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
    /// All providers with their positions, in file order.
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

/// A problem that makes kube-apiserver reject the file.
fn refused(code: &'static str, message: impl Into<String>, correction: &str) -> CheckResult {
    let values = [("correction", correction)];
    let class = ImpactClass::ApiServerAvailability;
    fail(&causes::INVALID, message, &values, class).code(code)
}

fn fail(
    cause: &Cause,
    message: impl Into<String>,
    values: Values<'_>,
    class: ImpactClass,
) -> CheckResult {
    CheckResult::fail(ID, TITLE, message)
        .because(cause.advise(&Site::none(), values))
        .impact_class(class)
}

fn warn(cause: &Cause, message: impl Into<String>, class: ImpactClass) -> CheckResult {
    warn_with(cause, message, &[], class)
}

fn warn_with(
    cause: &Cause,
    message: impl Into<String>,
    values: Values<'_>,
    class: ImpactClass,
) -> CheckResult {
    CheckResult::warn(ID, TITLE, message)
        .because(cause.advise(&Site::none(), values))
        .impact_class(class)
}
