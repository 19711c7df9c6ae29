//! The result of `triage`: the cause of the first failure, with its advice.

use std::time::SystemTime;

use kms_node::{
    advice::{self, Cause, DataImpact, NEVER, NextStep, RELY_ON_THE_KEY, catalogue},
    exit::Exit,
    report::{CheckResult, outcome::Outcome, shell},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    evidence::{self, Need, lowest_hidden, shows_the_key, undecrypted},
    service::{self, Service},
};
use crate::diagnose::facts::Facts;

/// The members of `triage`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Triage {
    /// The check that failed first; absent when all passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<&'static str>,
    /// Stored objects of the key by version and resource; absent without etcd data.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objects: Vec<Need>,
    /// Calls through the socket of the running provider, made after a failed check.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Service>,
}

const KEY_NOT_SHOWN: &str = "unknown: OpenBao has a key of that name, and nothing proves that the stored \
    data was encrypted with it. Give --etcd-snapshot or --endpoints";

/// The result of a walk that stopped at this check, or passed all of them. `verbose` has all
/// warnings.
#[must_use]
pub fn outcome(
    stopped: Option<(&'static Cause, CheckResult)>,
    checks: Vec<CheckResult>,
    facts: &Facts,
    verbose: bool,
    now: SystemTime,
) -> Outcome<Triage> {
    let (cause, stopped_at) = match &stopped {
        Some((cause, check)) => (*cause, Some(check)),
        None => (&advice::node::HEALTHY, None),
    };
    let members = Triage {
        stopped_at: stopped_at.map(CheckResult::id),
        objects: evidence::needs(facts),
        service: service::service(facts, now),
    };
    let mut outcome = Outcome::new("triage", now, members);
    if let Some(config) = facts.config() {
        outcome.identify(&config.fingerprint());
    }

    let lowest = lowest_hidden(facts).map_or(1, |version| version.get());
    let lowest = lowest.to_string();
    let of_check = stopped_at.and_then(CheckResult::advice);
    let mut advice = match of_check.filter(|advice| advice.code == cause.code) {
        Some(advice) => advice.clone(),
        None => facts.advise(cause, &[("lowest", &*lowest)]),
    };
    // Only the name of the key and its version numbers were examined.
    // As `doctor`, `config` and `serve` end with the same finding.
    let of_configuration = stopped_at.is_some_and(CheckResult::is_of_configuration);
    if of_configuration && advice.exit == Exit::CheckFailed {
        advice.exit = Exit::Configuration;
    }
    let relies_on_the_key = RELY_ON_THE_KEY.contains(&cause);
    if cause.impact == DataImpact::NoneLost && relies_on_the_key && !shows_the_key(facts) {
        advice.impact = DataImpact::Unknown;
        KEY_NOT_SHOWN.clone_into(&mut advice.data);
    }
    // The failed check knows the file, the user or the setting.
    let own = stopped_at.map(CheckResult::next_steps).unwrap_or_default();
    if cause != &advice::node::NOT_PERMITTED {
        advice.steps.splice(0..0, own);
    }
    let own = match verbose {
        true => advice.warnings.clone(),
        false => advice.warnings.drain(..).take(FEW_WARNINGS).collect(),
    };
    advice.warnings.clear();
    outcome.conclude_with(&advice);
    if let Some(check) = stopped_at {
        let undecrypted = undecrypted(&outcome.result.objects);
        outcome.set_found(match undecrypted {
            Some(undecrypted) => format!("{}; {undecrypted}", check.found()),
            None => check.found().to_owned(),
        });
        if cause != &advice::node::NOT_PERMITTED {
            let again = format!(
                "bao-kms-provider triage --config {}{}",
                shell(facts.config_path()),
                facts.options
            );
            outcome.add_step(NextStep::run("then repeat the checks", again));
        }
        let fitting = fitting(cause);
        let room = match verbose {
            true => fitting.len() + NEVER.len(),
            false => FEW_WARNINGS.saturating_sub(own.len()),
        };
        outcome.add_warnings(own);
        outcome.add_warnings(fitting.into_iter().chain(NEVER).take(room));
    }
    if let Some(service) = &outcome.result.service {
        outcome.add_table(service::table(service));
    }
    outcome.add_table(evidence::table(&outcome.result.objects));
    outcome.add_checks(checks);
    outcome.add_limitations(limitations(stopped_at.is_some(), facts));
    outcome
}

/// Warnings that are printed without `--verbose`.
const FEW_WARNINGS: usize = 2;

/// The warnings of every incident that are closest to the cause.
fn fitting(cause: &Cause) -> [&'static str; 2] {
    let [etcd, key, _, names, _, identity, state, _] = NEVER;
    let topics = catalogue();
    let topic = topics.iter().find(|(_, causes)| causes.contains(&cause));
    match topic.map(|(topic, _)| *topic) {
        Some("Configuration") => [names, etcd],
        Some("Node and provider") => [etcd, identity],
        Some("Registry state") => [state, etcd],
        Some("EncryptionConfiguration") => [identity, names],
        _ => [etcd, key],
    }
}

fn limitations(stopped: bool, facts: &Facts) -> Vec<&'static str> {
    let mut all = Vec::new();
    let mut add = |applies: bool, text| all.extend(applies.then_some(text));
    add(
        stopped,
        "Only the first failure is named; the checks after it were not made.",
    );
    add(
        facts.etcd.iter().any(|evidence| !evidence.tried),
        "The etcd data was counted, and no decryption was tried, since an earlier check failed.",
    );
    // Before the key was examined, the first says it all.
    let key_seen = facts.usable_key().is_some();
    add(
        key_seen && facts.etcd.is_empty(),
        "No etcd data was tried, so it is unproven that the key decrypts all stored objects. Give \
         --etcd-snapshot or --endpoints.",
    );
    add(
        key_seen && facts.etcd.is_empty() && facts.record.is_none() && facts.registry().is_none(),
        "Without state, record and etcd data it is unproven that this key encrypted the stored data.",
    );
    add(
        facts.etcd.iter().any(|evidence| evidence.tried),
        "No object was opened: values that were moved or changed in etcd go unnoticed. verify-backup \
         --depth data opens every one.",
    );
    add(true, "Only this node was checked.");
    all
}
