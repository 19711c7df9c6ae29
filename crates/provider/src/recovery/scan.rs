//! What etcd holds, as a report: which objects are protected and how, and which versions of the key
//! must stay decryptable. Encrypts and decrypts nothing, and works without OpenBao.

mod content;

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::Arc,
    time::SystemTime,
};

use etcd_snapshot::file::{Integrity, OnProgress};
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        origin::{Lineage, LiveKey},
        rebuild::OWN_STATE,
    },
    transit::KeyProfile,
};
use schemars::JsonSchema;
use serde::Serialize;

use content::{Content, KeyIdRow};

use super::{
    EtcdError, EtcdSource, Trust,
    excerpt::few,
    inventory::{Inventory, Protected, Wanted, without_prefix},
};
use crate::{
    cli::exit::Exit,
    config::Config,
    connection,
    report::{Check, Render, Report, one_line},
};

/// The result of `scan-etcd`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scan {
    #[serde(flatten)]
    report: Report,
    verdict: Verdict,
    limitations: Vec<String>,
    /// Absent when etcd could not be read to its end.
    #[serde(flatten)]
    content: Option<Content>,
}

/// What a scan amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything was read, and is what Kubernetes writes.
    Complete,
    /// The same of the keys below a prefix; others were left unread.
    Limited,
    /// Something is damaged.
    Damaged,
    /// Etcd could not be read, or has no key of the API server in question.
    Inconclusive,
}

pub(crate) const READ: (&str, &str) = ("etcd.read", "Every object was read");
pub(super) const INTEGRITY: (&str, &str) = ("etcd.integrity", "Integrity of the source");
pub(super) const VALUES: (&str, &str) = ("etcd.values", "Stored values");
const PROTECTION: (&str, &str) = ("etcd.protection", "Encryption at rest");
pub(super) const KEY_IDS: (&str, &str) = ("etcd.key_ids", "Key IDs of this provider");

const PREFIX: (&str, &str) = ("etcd.prefix", "Keys below the prefix");

/// Whether these objects are a finding when they are not encrypted at all.
fn is_secrets(resource: &str) -> bool {
    without_prefix(resource) == "secrets"
}

/// Reads `source` and, where there is a configuration, what it takes to tell the versions.
#[must_use]
pub fn scan(
    source: &EtcdSource,
    wanted: &Wanted,
    config: Option<&Config>,
    on_progress: OnProgress<'_>,
    now: SystemTime,
) -> Scan {
    let mut scan = Scan {
        report: Report::new("scan-etcd", now),
        verdict: Verdict::Complete,
        limitations: Vec::new(),
        content: None,
    };
    if let Some(config) = config {
        scan.report.identify(&config.fingerprint());
    }
    match Inventory::gather(source, wanted, on_progress) {
        Ok(inventory) => scan.describe(&inventory, config),
        Err(error) => scan.not_read(&error),
    }
    scan.report.conclude(match scan.verdict {
        Verdict::Complete | Verdict::Limited => Exit::Success,
        Verdict::Damaged => Exit::CheckFailed,
        Verdict::Inconclusive => Exit::Runtime,
    });
    scan
}

impl Scan {
    /// The exit code of the command.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.report.exit()
    }

    fn not_read(&mut self, error: &EtcdError) {
        let (id, title) = READ;
        let failed = Check::fail(id, title, one_line(error))
            .impact("nothing is known of what etcd holds; no part of it is shown as the whole");
        let failed = match error {
            error if error.is_damage() => failed.remediation(
                "do not rely on this file as a backup: copy it again, or save another snapshot",
            ),
            EtcdError::Live(_) => failed.remediation(
                "check that etcd answers at --endpoints, and that --cacert, --cert and --key are \
                 those of its clients; or read a snapshot",
            ),
            EtcdError::Open { .. }
            | EtcdError::Snapshot { .. }
            | EtcdError::Form { .. }
            | EtcdError::TooVaried { .. } => match error.next_step() {
                Some(step) => failed.remediation(step),
                None => failed,
            },
        };
        self.report.push(failed);
        for (id, title) in [INTEGRITY, VALUES, PROTECTION, KEY_IDS] {
            self.report
                .push(Check::skip(id, title, "etcd could not be read"));
        }
        self.verdict = match error.is_damage() {
            true => Verdict::Damaged,
            false => Verdict::Inconclusive,
        };
    }

    fn describe(&mut self, inventory: &Inventory, config: Option<&Config>) {
        let (id, title) = READ;
        let totals = inventory.totals;
        let read = format!("{} keys at revision {}", totals.keys, totals.revision);
        self.report.push(Check::pass(id, title).message(read));
        self.report.push(integrity(inventory.trust));
        self.report.push(values(inventory));
        self.verdict = self.judge(inventory);
        self.report.push(protection(inventory));

        let lineage = config.map(|config| lineage(config, &mut self.limitations));
        if lineage.is_none() {
            self.limitations.push(
                "without --config the Transit version of a key_id is what its annotations claim"
                    .to_owned(),
            );
        }
        if matches!(inventory.trust, Trust::Live { .. }) {
            self.limitations.push(
                "a running etcd shows only the newest revision of each key; older ones, which a \
                 watch may still read, are in a snapshot with --all-revisions"
                    .to_owned(),
            );
        }
        let key_ids: Vec<KeyIdRow> = inventory
            .groups
            .iter()
            .map(|group| KeyIdRow::of(group, config, lineage.as_ref()))
            .collect();
        self.report.push(known(&key_ids, config));
        self.content = Some(Content::of(inventory, key_ids));
    }

    fn judge(&mut self, inventory: &Inventory) -> Verdict {
        let no_keys = no_keys(inventory);
        let verdict = match (inventory.damaged_values, &no_keys, &inventory.unread) {
            (1.., ..) => Verdict::Damaged,
            (0, Some(_), _) => Verdict::Inconclusive,
            (0, None, Some(_)) => Verdict::Limited,
            (0, None, None) => Verdict::Complete,
        };
        if let Some(check) = no_keys {
            self.report.push(check);
        }
        if let Some(unread) = &inventory.unread {
            self.report.push(unread.warning());
        }
        verdict
    }
}

/// An API server has keys as long as it runs, so a prefix without one is another's.
fn no_keys(inventory: &Inventory) -> Option<Check> {
    let (id, title) = PREFIX;
    let (prefix, below) = inventory.prefixes().next()?;
    if below > 0 || (inventory.prefix.is_none() && !inventory.keys_elsewhere.is_empty()) {
        return None;
    }
    let others: Vec<_> = inventory
        .keys_elsewhere
        .iter()
        .map(|(prefix, keys)| format!("{prefix} {keys}"))
        .collect();
    let message = match others.is_empty() {
        true => format!("there is no key below {prefix}, nor any other that was read"),
        false => format!(
            "there is no key below {prefix}; keys by prefix: {}",
            few(&others, 0)
        ),
    };
    Some(
        Check::fail(id, title, message)
            .impact("nothing is established about the API server with this prefix")
            .remediation(
                "compare with the --etcd-prefix in the manifest of kube-apiserver (without it: \
                 /registry), and with its --etcd-servers",
            ),
    )
}

/// What vouches for the reading.
pub(crate) fn integrity(trust: Trust) -> Check {
    let (id, title) = INTEGRITY;
    match trust {
        Trust::File {
            damaged_meta: Some(page),
            ..
        } => Check::warn(
            id,
            title,
            format!("meta page {page} is not sound, so the other one decides"),
        )
        .impact("what was written last may be missing"),
        Trust::File {
            integrity: Integrity::Verified,
            ..
        } => Check::pass(id, title).message("the SHA-256 at the end of the file is right"),
        Trust::File {
            integrity: Integrity::NoHash,
            ..
        } => Check::warn(id, title, "the file has no SHA-256 at its end")
            .impact("damage that leaves the structure of the file whole stays unnoticed")
            .remediation("save snapshots with: etcdctl snapshot save FILE"),
        Trust::Live { restarts: 0 } => Check::pass(id, title).message("read at one revision"),
        Trust::Live { restarts } => Check::pass(id, title).message(format!(
            "read at one revision; begun anew {restarts} times, as compaction removed the one \
             being read"
        )),
    }
}

fn values(inventory: &Inventory) -> Check {
    let (id, title) = VALUES;
    let Some(first) = inventory.damaged.first() else {
        return Check::pass(id, title);
    };
    let damaged = inventory.damaged_values;
    Check::fail(
        id,
        title,
        format!(
            "{damaged} damaged; the first is of {} at revision {}: {}",
            first.resource, first.revision, first.error
        ),
    )
    .impact("kube-apiserver cannot read these objects, and lists of their resources fail")
    .remediation(
        "find them with --show-names and restore them from an earlier snapshot; keep a snapshot that \
         holds them as they are, and delete none of them before",
    )
}

/// Secrets that nothing protects, and resources of which only a part is protected.
fn protection(inventory: &Inventory) -> Check {
    let (id, title) = PROTECTION;
    let findings: Vec<String> = inventory
        .resources
        .iter()
        .filter(|(resource, _)| inventory.concerns(resource))
        .filter_map(|(resource, rows)| {
            let plaintext = rows.get(&Protected::Plaintext)?.objects;
            let encrypted: u64 = rows
                .iter()
                .filter(|(protected, _)| protected.encrypts())
                .map(|(_, count)| count.objects)
                .sum();
            (is_secrets(resource) || encrypted > 0)
                .then(|| format!("{plaintext} of {} {resource}", plaintext + encrypted))
        })
        .collect();
    if findings.is_empty() {
        return Check::pass(id, title)
            .message("no secret, and no resource that is otherwise encrypted, is in plaintext");
    }
    Check::warn(id, title, format!("in plaintext: {}", few(&findings, 0)))
        .impact("whoever reads etcd or a backup of it reads these objects")
        .remediation(
            "name the resources in the EncryptionConfiguration, then rewrite them: \
             kubectl get RESOURCE -A -o json | kubectl replace -f -",
        )
}

/// Of the configured provider alone.
fn known(rows: &[KeyIdRow], config: Option<&Config>) -> Check {
    let (id, title) = KEY_IDS;
    let Some(config) = config else {
        return Check::skip(id, title, "give --config to compare");
    };
    let provider = &config.scope.provider_name;
    let ours = || rows.iter().filter(|row| row.is_ours);
    let strangers: Vec<&KeyIdRow> = ours().filter(|row| row.gap.is_some()).collect();
    let Some(first) = strangers.first() else {
        let versions: BTreeSet<u64> = ours().filter_map(|row| row.transit_version).collect();
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        return Check::pass(id, title).message(match versions.is_empty() {
            true => format!("etcd holds nothing of provider {provider}"),
            false => format!("needed Transit versions: {}", few(&versions, 0)),
        });
    };
    let reason = first.gap.as_deref().unwrap_or_default();
    Check::warn(
        id,
        title,
        format!(
            "{} of {} are not of a version that is known here; {}: {reason}",
            strangers.len(),
            ours().count(),
            first.key_id_hash
        ),
    )
    .impact("objects under them may not be decryptable")
    .remediation("verify-backup tells for each what is missing and what helps")
}

/// What is known of the key without failing where OpenBao does.
fn lineage(config: &Config, limitations: &mut Vec<String>) -> Lineage {
    let scope = Arc::new(KeyScope::new(config.scope.clone()));
    let live = profile(config)
        .map_err(|reason| {
            limitations.push(format!(
                "the key's metadata could not be used, so versions are derived from the state \
                 alone, else taken from the annotations: {reason}"
            ));
        })
        .map_or(LiveKey::Unknown, LiveKey::Listed);
    let stored = match config.state().load() {
        Ok(stored) => stored.document,
        Err(error) => {
            limitations.push(format!("the state could not be used: {}", one_line(&error)));
            None
        }
    };
    let claims = stored.map(|it| VersionClaims::of_registry(OWN_STATE, it.registry()));
    Lineage::new(scope, live, claims)
}

fn profile(config: &Config) -> Result<KeyProfile, String> {
    let metadata = connection::ask_for_key(config)
        .map_err(|error| one_line(&error))?
        .map_err(|error| one_line(&error))?;
    KeyProfile::check(&metadata, &config.key.key_name).map_err(|error| one_line(&error))
}

impl Render for Scan {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.report.text(out)?;
        if let Some(content) = &self.content {
            content.text(out)?;
        }
        for limitation in &self.limitations {
            writeln!(out, "limitation: {limitation}")?;
        }
        let verdict = match self.verdict {
            Verdict::Complete => "complete",
            Verdict::Limited => "limited",
            Verdict::Damaged => "damaged",
            Verdict::Inconclusive => "inconclusive",
        };
        writeln!(out, "verdict: {verdict}")
    }
}
