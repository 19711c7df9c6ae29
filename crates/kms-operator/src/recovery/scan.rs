//! Report on etcd: protection of its objects, and key versions that must stay decryptable. Without
//! encryption or decryption; OpenBao is optional.

mod content;
mod picture;

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use etcd_snapshot::file::{Integrity, OnProgress};
use kms_domain::{
    key::KeyScope,
    recovery::{
        claims::VersionClaims,
        rebuild::OWN_STATE,
        resolve::{KeyResolver, LiveKey},
    },
    transit::KeyProfile,
};
use kms_node::{
    advice::{
        self, Site, advise,
        evidence::{LEGACY_LEFT, OTHERWISE_PROTECTED},
    },
    config::{Config, VaultKubernetesKms},
    connection,
    exit::Exit,
    report::{CheckName, CheckResult, counted, one_line, outcome::Outcome},
};
use schemars::JsonSchema;
use serde::Serialize;

use content::{Content, KeyIdRow};

use super::{
    EtcdError, EtcdSource, Trust,
    evidence_report::rewrite,
    inventory::{Inventory, Protected, Wanted, without_prefix},
    truncated::few,
    unread::Unread,
};

/// The members of `scan-etcd`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ScanEtcd {
    /// Absent if reading etcd failed.
    #[serde(flatten)]
    content: Option<Content>,
}

/// Result of a scan, and its exit code.
type Verdict = (&'static str, Exit);

/// All keys were read, and all values are valid.
const COMPLETE: Verdict = ("complete", Exit::Success);
/// All keys below a prefix were read, and their values are valid; other keys were left unread.
const LIMITED: Verdict = ("limited", Exit::Success);
/// The source or a value is damaged.
const DAMAGED: Verdict = ("damaged", Exit::CheckFailed);
/// Reading etcd failed, or etcd has no key below the selected prefix.
const INCONCLUSIVE: Verdict = ("inconclusive", Exit::Runtime);

pub(crate) const READ: CheckName = CheckName("etcd.read", "Reading of etcd");
pub(super) const INTEGRITY: CheckName = CheckName("etcd.integrity", "Integrity of the source");
pub(super) const VALUES: CheckName = CheckName("etcd.values", "Stored values");
const LEGACY: CheckName = CheckName("etcd.legacy", "Objects of vault-kubernetes-kms");
const PROTECTION: CheckName = CheckName("etcd.protection", "Encryption at rest");
pub(super) const KEY_IDS: CheckName = CheckName("etcd.key_ids", "Key IDs of this provider");

const PREFIX: CheckName = CheckName("etcd.prefix", "Keys below the prefix");

/// Whether plaintext objects of this resource are a finding even if none are encrypted.
fn is_secrets(resource: &str) -> bool {
    without_prefix(resource) == "secrets"
}

/// Reads `source`. With a configuration, resolves versions from the key's metadata and the state.
///
/// # Errors
/// [`EtcdError`] if reading etcd fails: [`not_read`] reports it.
pub fn scan(
    source: &EtcdSource,
    wanted: &Wanted,
    config: Option<&Config>,
    site: &Site<'_>,
    on_progress: OnProgress<'_>,
    now: SystemTime,
) -> Result<Outcome<ScanEtcd>, EtcdError> {
    let inventory = Inventory::gather(source, wanted, on_progress)?;
    let mut limitations = Vec::new();
    let lineage = config.map(|config| lineage(config, &mut limitations));
    if lineage.is_none() {
        limitations.push(
            "without --config the Transit version of a key_id is the one in its annotations, unproven"
                .to_owned(),
        );
    }
    if matches!(inventory.trust, Trust::Live { .. }) {
        limitations.push(
            "a running etcd shows only the newest revision of each key; older ones, which a watch may \
             still read, are in a snapshot with --all-revisions"
                .to_owned(),
        );
    }
    let key_ids: Vec<KeyIdRow> = inventory
        .groups
        .iter()
        .map(|group| KeyIdRow::of(group, config, lineage.as_ref()))
        .collect();
    let known = known(&key_ids, config, site);
    let picture = picture::picture(&inventory, &key_ids, lineage.as_ref());
    let reader = config.and_then(|config| config.legacy.vault_kubernetes_kms.as_ref());
    let content = Content::of(&inventory, key_ids, reader);

    let tables = content.tables();
    let members = ScanEtcd {
        content: Some(content),
    };
    let mut outcome = Outcome::new("scan-etcd", now, members);
    outcome.identify_with(config);
    outcome.picture = picture;
    judge(&inventory, site, &mut outcome);
    outcome.add_tables(tables);

    let totals = inventory.totals;
    let read = format!(
        "{} at revision {}",
        counted(totals.keys, "key"),
        totals.revision
    );
    outcome.add_checks([
        READ.pass().message(read),
        integrity(inventory.trust, site),
        values(&inventory),
    ]);
    outcome.add_checks(no_keys(&inventory));
    outcome.add_checks(inventory.unread.as_ref().map(Unread::warning));
    outcome.add_checks([protection(&inventory, site), known]);
    outcome.add_checks(reader.map(|reader| legacy(&inventory, reader, site)));
    outcome.add_limitations(limitations);
    Ok(outcome)
}

/// The report after a failed reading of etcd.
#[must_use]
pub fn not_read(
    error: &EtcdError,
    config: Option<&Config>,
    site: &Site<'_>,
    now: SystemTime,
) -> Outcome<ScanEtcd> {
    let mut outcome = Outcome::new("scan-etcd", now, ScanEtcd { content: None });
    outcome.identify_with(config);
    let advice = advise(&error.cause(), site);
    let (verdict, exit) = match error.is_damage() {
        true => DAMAGED,
        false => INCONCLUSIVE,
    };
    let headline = format!("nothing is known of etcd: {}", advice.headline);
    outcome.conclude(verdict, exit, headline);
    outcome.set_found(one_line(error));
    outcome.add_cause(&advice);

    outcome.add_checks([READ.fail(one_line(error)).code(advice.code)]);
    outcome.add_checks(
        [INTEGRITY, VALUES, PROTECTION, KEY_IDS].map(|name| name.skip("etcd was not read")),
    );
    outcome
}

/// Verdict, headline and causes.
fn judge(inventory: &Inventory, site: &Site<'_>, outcome: &mut Outcome<ScanEtcd>) {
    let keys = counted(inventory.totals.keys, "key");
    let revision = inventory.totals.revision;
    let read = format!("etcd has {keys} at revision {revision}");
    let ((verdict, exit), headline) = match (
        inventory.damaged_values,
        no_keys(inventory),
        &inventory.unread,
    ) {
        (0, None, None) => (COMPLETE, format!("{read}, and every value is valid")),
        (0, None, Some(unread)) => (LIMITED, format!("{read}; {}", unread.describe())),
        (0, Some(_), _) => {
            outcome.add_cause(&advice::snapshot::NO_KEYS.advise(site, &[]));
            (
                INCONCLUSIVE,
                format!("{read}, and none below the prefix of the API server"),
            )
        }
        (damaged, ..) => {
            outcome.add_cause(&advice::evidence::VALUES_DAMAGED.advise(site, &[]));
            let damaged = counted(damaged, "value");
            (DAMAGED, format!("{read}; damaged: {damaged}"))
        }
    };
    outcome.conclude(verdict, exit, headline);
}

/// A prefix without keys is wrong, because every API server stores keys.
fn no_keys(inventory: &Inventory) -> Option<CheckResult> {
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
        true => format!("there is no key below {prefix}, nor elsewhere"),
        false => format!(
            "there is no key below {prefix}; keys by prefix: {}",
            few(&others, 0)
        ),
    };
    Some(PREFIX.fail(message).code(advice::snapshot::NO_KEYS.code))
}

/// Integrity status of the reading.
pub fn integrity(trust: Trust, site: &Site<'_>) -> CheckResult {
    match trust {
        Trust::File {
            damaged_meta: Some(page),
            ..
        } => INTEGRITY
            .warn(format!(
                "meta page {page} is damaged, so the other one decides"
            ))
            .because(advice::evidence::UNVERIFIED.advise(site, &[])),
        Trust::File {
            integrity: Integrity::Verified,
            ..
        } => INTEGRITY
            .pass()
            .message("the SHA-256 at the end of the file is right"),
        Trust::File {
            integrity: Integrity::NoHash,
            ..
        } => INTEGRITY
            .warn("the file has no SHA-256 at its end")
            .because(advice::evidence::UNVERIFIED.advise(site, &[])),
        Trust::Live { restarts: 0 } => INTEGRITY.pass().message("read at one revision"),
        Trust::Live { restarts } => INTEGRITY.pass().message(format!(
            "read at one revision; restarted {restarts} times, as compaction removed the revision"
        )),
    }
}

fn values(inventory: &Inventory) -> CheckResult {
    let Some(first) = inventory.damaged.first() else {
        return VALUES.pass();
    };
    let damaged = inventory.damaged_values;
    VALUES
        .fail(format!(
            "{damaged} damaged; the first is of {} at revision {}: {}",
            first.resource, first.revision, first.error
        ))
        .impact("kube-apiserver cannot read these objects, and lists of their resources fail")
        .code(advice::evidence::VALUES_DAMAGED.code)
}

/// Secrets in plaintext, and partly encrypted resources.
fn protection(inventory: &Inventory, site: &Site<'_>) -> CheckResult {
    let (resources, findings): (Vec<&str>, Vec<String>) = inventory
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
            let found = format!("{plaintext} of {} {resource}", plaintext + encrypted);
            (is_secrets(resource) || encrypted > 0).then_some((resource.as_str(), found))
        })
        .unzip();
    if findings.is_empty() {
        return PROTECTION
            .pass()
            .message("no secret, and no resource with encrypted objects, is in plaintext");
    }
    PROTECTION
        .warn(format!("in plaintext: {}", few(&findings, 0)))
        .because(advise(&(&OTHERWISE_PROTECTED, rewrite(resources)), site))
}

/// Objects of the provider that this node reads at a second socket.
fn legacy(inventory: &Inventory, reader: &VaultKubernetesKms, site: &Site<'_>) -> CheckResult {
    let name = reader.provider_name.as_str();
    let (resources, left): (Vec<&str>, Vec<String>) = inventory
        .resources
        .iter()
        .filter_map(|(resource, rows)| {
            let count = rows.get(&Protected::KmsV2(name.to_owned()))?;
            let left = format!("{} {resource}", count.objects);
            Some((resource.as_str(), left))
        })
        .unzip();
    match left.is_empty() {
        true => LEGACY
            .pass()
            .message(format!("etcd holds nothing of provider {name}")),
        false => LEGACY
            .warn(format!("of provider {name} are left: {}", few(&left, 0)))
            .because(advise(&(&LEGACY_LEFT, rewrite(resources)), site)),
    }
}

/// Covers the configured provider only.
fn known(rows: &[KeyIdRow], config: Option<&Config>, site: &Site<'_>) -> CheckResult {
    let Some(config) = config else {
        return KEY_IDS.skip("give --config to compare");
    };

    let provider = &config.scope.provider_name;
    let ours = || rows.iter().filter(|row| row.is_ours);
    let strangers: Vec<&KeyIdRow> = ours().filter(|row| row.gap.is_some()).collect();
    let Some(first) = strangers.first() else {
        let versions: BTreeSet<u64> = ours().filter_map(|row| row.transit_version).collect();
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        return KEY_IDS.pass().message(match versions.is_empty() {
            true => format!("etcd holds nothing of provider {provider}"),
            false => format!("needed Transit versions: {}", few(&versions, 0)),
        });
    };

    let reason = first.gap.as_deref().unwrap_or_default();
    KEY_IDS
        .warn(format!(
            "{} of {} are of unknown versions; {}: {reason}",
            strangers.len(),
            ours().count(),
            first.key_id_hash
        ))
        .because(advice::evidence::KEY_IDS_UNKNOWN.advise(site, &[]))
}

/// Known versions of the key. A failure of OpenBao or of the state becomes a limitation.
fn lineage(config: &Config, limitations: &mut Vec<String>) -> KeyResolver {
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
    KeyResolver::new(scope, live, claims)
}

fn profile(config: &Config) -> Result<KeyProfile, String> {
    let metadata = connection::ask_for_key(config)
        .map_err(|error| one_line(&error))?
        .map_err(|error| one_line(&error))?;
    KeyProfile::check(&metadata, &config.key.key_name).map_err(|error| one_line(&error))
}
