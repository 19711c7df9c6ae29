//! The result of `triage`: the cause of the first failure, with its advice.

use std::time::SystemTime;

use kms_node::{
    advice::{self, Cause, DataImpact, NEVER, NextStep, RELY_ON_THE_KEY},
    exit::Exit,
    report::{CheckResult, outcome::Outcome, shell},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::evidence::{lowest_hidden, shows_the_key};
use crate::diagnose::facts::Facts;

/// The members of `triage`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Triage {
    /// The check that failed first; absent when all passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<&'static str>,
}

const KEY_NOT_SHOWN: &str = "unknown: OpenBao has a key of that name, and nothing proves that the stored \
    data was encrypted with it. Give --etcd-snapshot or --endpoints";

/// The result of a walk that stopped at this check, or passed all of them.
#[must_use]
pub fn outcome(
    stopped: Option<(&'static Cause, CheckResult)>,
    checks: Vec<CheckResult>,
    facts: &Facts,
    now: SystemTime,
) -> Outcome<Triage> {
    let (cause, stopped_at) = match &stopped {
        Some((cause, check)) => (*cause, Some(check)),
        None => (&advice::node::HEALTHY, None),
    };
    let members = Triage {
        stopped_at: stopped_at.map(CheckResult::id),
    };
    let mut outcome = Outcome::new("triage", now, members);
    if let Some(config) = facts.config() {
        outcome.identify(&config.fingerprint());
    }

    let lowest = lowest_hidden(facts).map_or(1, |version| version.get());
    let lowest = lowest.to_string();
    let mut advice = facts.advise(cause, &[("lowest", &*lowest)]);
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
    outcome.conclude_with(&advice);
    if let Some(check) = stopped_at {
        outcome.set_found(check.found());
        if cause != &advice::node::NOT_PERMITTED {
            let again = format!(
                "bao-kms-provider triage --config {}",
                shell(facts.config_path())
            );
            outcome.add_step(NextStep::run("then repeat the checks", again));
        }
        outcome.add_warnings(NEVER);
    }
    outcome.add_checks(checks);
    outcome.add_limitations(limitations(stopped_at.is_some(), facts));
    outcome
}

fn limitations(stopped: bool, facts: &Facts) -> Vec<&'static str> {
    let mut all = Vec::new();
    let mut add = |applies: bool, text| all.extend(applies.then_some(text));
    add(
        stopped,
        "Only the first failure is named; the checks after it were not made.",
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
        !facts.etcd.is_empty(),
        "No object was opened: values that were moved or changed in etcd go unnoticed. verify-backup \
         --depth data opens every one.",
    );
    add(true, "Only this node was checked.");
    all
}
