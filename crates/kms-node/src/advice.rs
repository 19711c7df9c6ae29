//! The catalogue of causes: each fault that an operator sees, with its impact on the data, the next
//! steps and the warnings. One file a topic.
//!
//! A [`Cause`] is a constant with `{placeholders}`. [`Site`] fills in the values of one installation,
//! [`Cause::advise`] returns the finished [`Advice`]. `docs/operate/causes.md` is generated from
//! [`catalogue`].

/// Declares causes, and lists all of them as `ALL`. rustfmt leaves the declarations as they are.
macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $cause:expr;)*) => {
        pub const ALL: &[&Cause] = &[$(&$name),*];
        $($(#[$doc])* pub const $name: Cause = $cause;)*
    };
}

pub mod attestation;
pub mod cluster;
pub mod command;
pub mod configuration;
pub mod drill;
pub mod encryption_config;
pub mod evidence;
pub mod extract;
pub mod install;
pub mod key;
pub mod login;
pub mod node;
pub mod nodes;
pub mod oauth2;
pub mod openbao;
mod page;
pub mod pkcs11;
pub mod release;
pub mod restore;
pub mod retirement;
pub mod site;
pub mod snapshot;
pub mod spiffe;
pub mod state;
pub mod versions;

use schemars::JsonSchema;
use serde::Serialize;

pub use site::Site;

use crate::exit::Exit;

/// A fault, before its placeholders are filled in.
#[derive(Debug)]
pub struct Cause {
    /// Stable word of reports, unique in the catalogue.
    pub code: &'static str,
    /// The fault in one sentence.
    pub headline: &'static str,
    pub impact: DataImpact,
    /// Begin of the sentence on the data.
    claim: &'static str,
    /// Rest of that sentence.
    data: &'static str,
    /// In the order in which they are taken.
    pub steps: &'static [Step],
    /// Actions that lose data or hide the cause, as whole sentences.
    pub warnings: &'static [&'static str],
    /// Exit code of a command that ends with this cause.
    pub exit: Exit,
}

/// An action, before its placeholders are filled in.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub text: &'static str,
    /// One line for a shell; empty where no command does it.
    pub command: &'static str,
}

/// Effect of a cause on the stored data, if nothing else is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataImpact {
    /// Everything is readable again once the cause is fixed.
    NoneLost,
    /// Nothing is lost yet; a wrong step, or no step, can lose data.
    AtRisk,
    /// Some or all objects need a backup.
    LostWithoutBackup,
    /// The evidence does not decide.
    Unknown,
}

/// A cause with the values of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    pub code: &'static str,
    pub headline: String,
    pub impact: DataImpact,
    pub data: String,
    pub steps: Vec<NextStep>,
    pub warnings: Vec<&'static str>,
    pub exit: Exit,
}

/// An action that an operator can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NextStep {
    pub text: String,
    /// One line to paste into a shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Values of single placeholders, beside those of the [`Site`].
pub type Values<'a> = &'a [(&'static str, &'a str)];

/// A cause, and the values of its own placeholders.
pub type Found = (&'static Cause, Vec<(&'static str, String)>);

/// Warnings of every incident.
pub const NEVER: [&str; 8] = [
    "do not delete or overwrite the encrypted data in etcd",
    "do not recreate the Transit key: a new key of the same name decrypts nothing of the old one",
    "do not raise min_decryption_version, and do not trim or delete versions of the key",
    "do not change the provider name or another identity setting to make errors go away",
    "do not bypass the associated data (AAD), and do not edit values or annotations in etcd",
    "do not add identity to the EncryptionConfiguration as a repair: it decrypts nothing",
    "do not delete, edit or invent the state or its checkpoint",
    "do not log plaintext",
];
/// The warning of every result that leaves stored data in doubt.
pub const KEEP_ETCD: &str = NEVER[0];

/// Causes that deny a loss only for a key that was compared with the stored data.
pub const RELY_ON_THE_KEY: [&Cause; 8] = [
    &node::HEALTHY,
    &versions::ENCRYPTION_BLOCKED,
    &state::LOST,
    &state::CORRUPT,
    &state::CHECKPOINT_LOST,
    &node::NOT_RUNNING,
    &node::SOCKET_UNUSABLE,
    &node::UNHEALTHY,
];

/// The effect on the data of [`RELY_ON_THE_KEY`], where a command has not compared the key.
const KEY_NOT_COMPARED: &str = "unknown: this command does not compare the key with the stored \
    data; triage does, with --etcd-snapshot or --endpoints";

/// A step without a command.
const fn act(text: &'static str) -> Step {
    Step { text, command: "" }
}

/// A step that a command takes.
const fn run(text: &'static str, command: &'static str) -> Step {
    Step { text, command }
}

const fn cause(
    impact: DataImpact,
    claim: &'static str,
    [code, headline, data]: [&'static str; 3],
) -> Cause {
    Cause {
        code,
        headline,
        impact,
        claim,
        data,
        steps: &[],
        warnings: &[],
        exit: match impact {
            DataImpact::Unknown => Exit::Runtime,
            _ => Exit::CheckFailed,
        },
    }
}

const fn none_lost(code: &'static str, headline: &'static str, data: &'static str) -> Cause {
    cause(
        DataImpact::NoneLost,
        "no data is lost: ",
        [code, headline, data],
    )
}

const fn not_lost_yet(code: &'static str, headline: &'static str, data: &'static str) -> Cause {
    let claim = "at risk: no data is lost yet; ";
    cause(DataImpact::AtRisk, claim, [code, headline, data])
}

const fn at_risk(code: &'static str, headline: &'static str, data: &'static str) -> Cause {
    cause(DataImpact::AtRisk, "at risk: ", [code, headline, data])
}

const fn lost(code: &'static str, headline: &'static str, data: &'static str) -> Cause {
    let claim = "lost without a backup: ";
    cause(DataImpact::LostWithoutBackup, claim, [code, headline, data])
}

const fn unknown(code: &'static str, headline: &'static str, data: &'static str) -> Cause {
    cause(DataImpact::Unknown, "unknown: ", [code, headline, data])
}

/// Every cause, by topic: the heading of the topic and its causes.
#[must_use]
pub fn catalogue() -> [(&'static str, &'static [&'static Cause]); 23] {
    [
        ("Configuration", configuration::ALL),
        ("Installation of a node", install::ALL),
        ("Node and provider", node::ALL),
        ("Login", login::ALL),
        ("OAuth issuer", oauth2::ALL),
        ("SPIFFE agent", spiffe::ALL),
        ("PKCS#11 token", pkcs11::ALL),
        ("OpenBao", openbao::ALL),
        ("Key", key::ALL),
        ("Versions of the key", versions::ALL),
        ("Registry state", state::ALL),
        ("Evidence", evidence::ALL),
        ("Comparison of nodes", nodes::ALL),
        ("Command", command::ALL),
        ("Snapshots and running etcd", snapshot::ALL),
        ("Extraction of objects", extract::ALL),
        ("Restore drill", drill::ALL),
        ("Signed statements", attestation::ALL),
        ("Rebuild of the state", restore::ALL),
        ("EncryptionConfiguration", encryption_config::ALL),
        ("Rotation and retirement", retirement::ALL),
        ("Change of release", release::ALL),
        ("Cluster", cluster::ALL),
    ]
}

impl Cause {
    const fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    const fn steps(mut self, steps: &'static [Step]) -> Self {
        self.steps = steps;
        self
    }

    const fn warnings(mut self, warnings: &'static [&'static str]) -> Self {
        self.warnings = warnings;
        self
    }

    /// `impact` in a sentence.
    #[must_use]
    pub fn data(&self) -> String {
        format!("{}{}", self.claim, self.data)
    }

    /// The cause of this code.
    #[must_use]
    pub fn named(code: &str) -> Option<&'static Self> {
        let mut all = catalogue().into_iter().flat_map(|(_, causes)| causes);
        all.find(|cause| cause.code == code).copied()
    }

    /// Fills in the placeholders. A step whose placeholder has no value here is left out, such as a
    /// command that needs a configuration that could not be loaded.
    #[must_use]
    pub fn advise(&self, site: &Site<'_>, values: Values<'_>) -> Advice {
        let fill = |template| fill(template, site, values);
        Advice {
            code: self.code,
            headline: fill(self.headline).unwrap_or_else(|| self.headline.to_owned()),
            impact: self.impact,
            data: self.claim.to_owned() + &fill(self.data).unwrap_or_else(|| self.data.to_owned()),
            steps: self
                .steps
                .iter()
                .filter_map(|step| step.advise(site, values))
                .collect(),
            warnings: self.warnings.to_vec(),
            exit: self.exit,
        }
    }
}

/// Fills in the placeholders of a cause that was found.
#[must_use]
pub fn advise((cause, values): &Found, site: &Site<'_>) -> Advice {
    cause.advise(site, &texts(values))
}

/// Values of placeholders, as [`Cause::advise`] takes them.
#[must_use]
pub fn texts<'v>(values: &'v [(&'static str, String)]) -> Vec<(&'static str, &'v str)> {
    values.iter().map(|(name, it)| (*name, &**it)).collect()
}

impl Step {
    /// Fills in the placeholders; `None` where one of them has no value here.
    #[must_use]
    pub fn advise(&self, site: &Site<'_>, values: Values<'_>) -> Option<NextStep> {
        Some(NextStep {
            text: fill(self.text, site, values)?,
            command: match self.command {
                "" => None,
                command => Some(fill(command, site, values)?),
            },
        })
    }
}

impl Advice {
    /// Claims no more than a command knows that has not compared the key with the stored data.
    pub fn without_the_key(&mut self) {
        let relies_on_the_key = RELY_ON_THE_KEY.iter().any(|cause| cause.code == self.code);
        if self.impact == DataImpact::NoneLost && relies_on_the_key {
            self.impact = DataImpact::Unknown;
            KEY_NOT_COMPARED.clone_into(&mut self.data);
        }
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.code == other.code
    }
}

impl Eq for Cause {}

impl DataImpact {
    /// The word of reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoneLost => "none_lost",
            Self::AtRisk => "at_risk",
            Self::LostWithoutBackup => "lost_without_backup",
            Self::Unknown => "unknown",
        }
    }
}

impl NextStep {
    /// On one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.command {
            Some(command) => format!("{}: {command}", self.text),
            None => self.text.clone(),
        }
    }

    /// A step without a command.
    #[must_use]
    pub fn act(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            command: None,
        }
    }

    /// A step that a command takes.
    #[must_use]
    pub fn run(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            command: Some(command.into()),
        }
    }
}

/// `None` when a placeholder has no value.
fn fill(template: &str, site: &Site<'_>, values: Values<'_>) -> Option<String> {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        filled.push_str(before);
        match values.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => filled.push_str(value),
            None => filled.push_str(&site.value(name)?),
        }
        rest = after;
    }
    filled.push_str(rest);
    Some(filled)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    fn all() -> impl Iterator<Item = &'static Cause> {
        catalogue()
            .into_iter()
            .flat_map(|(_, causes)| causes)
            .copied()
    }

    #[test]
    fn each_code_is_a_word_of_its_own() {
        let mut seen = BTreeSet::new();
        for cause in all() {
            let code = cause.code;
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(!code.is_empty() && code.chars().all(plain), "{code}");
            assert!(seen.insert(code), "{code}");
            assert_eq!(Cause::named(code), Some(cause));
        }
    }

    #[test]
    fn no_two_causes_have_one_headline_or_the_same_data_and_steps() {
        let mut seen = BTreeSet::new();
        for cause in all() {
            assert!(seen.insert(cause.headline.to_owned()), "{}", cause.headline);
            let advice = format!("{} {:?}", cause.data(), cause.steps);
            assert!(
                cause.steps.is_empty() || seen.insert(advice),
                "{}",
                cause.code
            );
        }
    }

    #[test]
    fn a_scan_that_is_to_name_objects_shows_names() {
        for step in all().flat_map(|cause| cause.steps) {
            let names = step.text.starts_with("name ") && step.command.contains("scan-etcd");
            assert!(
                !names || step.command.contains("--show-names"),
                "{}",
                step.command
            );
        }
    }

    #[test]
    fn each_text_is_a_sentence_of_its_kind() {
        for cause in all() {
            let code = cause.code;
            for text in [cause.headline, cause.data] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{code}: {text}");
            }
            for warning in cause.warnings {
                assert!(warning.starts_with("do not "), "{code}: {warning}");
            }
            for step in cause.steps {
                assert!(!step.text.is_empty(), "{code}");
                assert!(!step.text.ends_with(['.', ':']), "{code}: {}", step.text);
                assert!(!step.command.contains('\n'), "{code}: {}", step.command);
            }
            // A cause that can lose data says what must not be done.
            let harmless = matches!(cause.impact, DataImpact::NoneLost | DataImpact::Unknown);
            assert!(harmless || !cause.warnings.is_empty(), "{code}");
        }
    }

    #[test]
    fn a_step_without_its_value_is_left_out() {
        const CAUSE: Cause = none_lost(
            "sample",
            "the file {file} is gone",
            "{objects} objects wait",
        )
        .steps(&[
            run("look at it", "ls {file}"),
            run("ask OpenBao", "curl {address}"),
        ]);
        let site = Site::new(Path::new("/etc/c.yaml"), None);
        let advice = CAUSE.advise(&site, &[("file", "/a"), ("objects", "3")]);
        assert_eq!(advice.headline, "the file /a is gone");
        assert_eq!(advice.data, "no data is lost: 3 objects wait");
        assert_eq!(advice.steps, [NextStep::run("look at it", "ls /a")]);
    }
}
