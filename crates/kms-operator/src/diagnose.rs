//! Checks of a node, shared by the commands that diagnose.
//!
//! A [`Check`] is a value: its name, the checks that it needs, and its evaluation of the [`Facts`] that
//! the command has gathered. [`examine`] evaluates the checks of a command. Nothing here changes a file;
//! `state.disk` writes and removes one of its own. The facts come from the same files, user, server and
//! socket that the provider uses.

pub mod capabilities;
pub mod configuration;
pub mod encryption_config;
pub mod facts;
pub mod hardening;
pub mod key;
pub mod login;
pub mod node;
pub mod release;
pub mod running;
pub mod server;
pub mod state;

use std::collections::BTreeMap;

use kms_node::{
    auth::CallFailure,
    exit::Exit,
    report::{CheckResult, ImpactClass, one_line, outcome::Outcome, table::Table},
};
use openbao_client::failure::FailureClass;

use facts::Facts;

/// A check that is still to be made.
pub struct Check {
    pub id: &'static str,
    /// Neutral noun phrase: it stands beside each status.
    pub title: &'static str,
    /// Skipped when one of these was skipped or has failed: the id of an earlier check, or `id/code`
    /// for one cause of its failure.
    pub needs: &'static [&'static str],
    /// The result, or several for several findings. `None` if the facts were not gathered.
    pub evaluate: fn(&Facts) -> Option<Vec<CheckResult>>,
}

/// Evaluates the checks in their order. Those that build on a failure name it as the cause.
#[must_use]
pub fn examine(checks: &[Check], facts: &Facts) -> Vec<CheckResult> {
    let mut all = Vec::new();
    let mut failed: BTreeMap<String, &'static str> = BTreeMap::new();
    for check in checks {
        let cause = check.needs.iter().find_map(|need| failed.get(*need));
        let results = match cause {
            Some(&cause) => vec![check.skip(format!("because {cause} failed"))],
            None => (check.evaluate)(facts).unwrap_or_else(|| vec![check.skip("not asked")]),
        };
        let root = cause.copied().unwrap_or(check.id);
        for result in results {
            if result.blocks() {
                failed.insert(result.id().to_owned(), root);
                if let Some(code) = result.cause() {
                    failed.insert(format!("{}/{code}", result.id()), root);
                }
            }
            all.push(result);
        }
    }
    all
}

/// Concludes by the checks, with the facts that they established.
pub fn conclude(outcome: &mut Outcome, checks: Vec<CheckResult>) {
    let failures = checks.iter().filter(|check| check.failed());
    let warnings: Vec<_> = failures.flat_map(CheckResult::warnings).copied().collect();
    outcome.add_table(facts(&checks));
    outcome.add_checks(checks);
    outcome.conclude_by_checks();
    if outcome.exit() != Exit::Success {
        // Those of the first failure come first.
        outcome.add_warnings(warnings);
        outcome.add_warnings([DELETE_NOTHING]);
    }
}

/// Warning of every failure.
const DELETE_NOTHING: &str = "do not delete an object, a state file or a key because of a finding: none \
    means that an object is damaged";

/// Checks whose results an operator compares between nodes, or with a record.
const FACTS: [&str; 7] = [
    "kubernetes.encryption_config",
    "registry.state",
    "state.lock",
    "transit.metadata",
    "key_id.deterministic",
    "transit.version_restrictions",
    "kms.status",
];

/// The facts that passed checks established.
fn facts(checks: &[CheckResult]) -> Table {
    let mut table = Table::new("facts", ["check", "result"]);
    for check in checks.iter().filter(|check| FACTS.contains(&check.id())) {
        if let Some(fact) = check.established() {
            table.row([check.id(), fact]);
        }
    }
    table
}

impl Check {
    /// A passed check.
    #[must_use]
    pub fn pass(&self) -> CheckResult {
        CheckResult::pass(self.id, self.title)
    }

    /// A warning.
    #[must_use]
    pub fn warn(&self, message: impl Into<String>) -> CheckResult {
        CheckResult::warn(self.id, self.title, message)
    }

    /// A failure.
    #[must_use]
    pub fn fail(&self, message: impl Into<String>) -> CheckResult {
        CheckResult::fail(self.id, self.title, message)
    }

    /// A skipped check.
    #[must_use]
    pub fn skip(&self, cause: impl Into<String>) -> CheckResult {
        CheckResult::skip(self.id, self.title, cause)
    }

    /// A failed call to OpenBao. The code is the class of the failure.
    fn unanswered(&self, failure: &CallFailure, facts: &Facts, class: ImpactClass) -> CheckResult {
        let cause = match failure {
            CallFailure::Auth(failure) => facts.of_login(failure),
            failure => facts.of_call(failure),
        };
        self.fail(one_line(failure))
            .because(facts.advise(cause, &[]))
            .code(failure.class().map_or("auth_failed", FailureClass::label))
            .impact_class(class)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;
    use kms_node::config::LoadError;

    const FIRST: Check = Check {
        id: "a.first",
        title: "First",
        needs: &[],
        evaluate: |_| {
            Some(vec![
                FIRST.fail("broken").code("odd"),
                FIRST.warn("strange"),
            ])
        },
    };

    fn check(id: &'static str, needs: &'static [&'static str]) -> Check {
        Check {
            id,
            title: "Other",
            needs,
            evaluate: |_| None,
        }
    }

    #[test]
    fn a_question_that_builds_on_a_failure_names_the_first_cause() {
        let facts = Facts::new(
            "test",
            Err(LoadError::Malformed {
                path: PathBuf::new(),
                reason: String::new(),
            }),
        );
        let checks = [
            FIRST,
            check("b.second", &["a.first"]),
            check("c.third", &["b.second"]),
            check("d.fourth", &["a.first/odd"]),
            check("e.fifth", &["a.first/even"]),
        ];
        let results = serde_json::to_value(examine(&checks, &facts)).unwrap();
        let said: Vec<&Value> = results
            .as_array()
            .unwrap()
            .iter()
            .map(|check| &check["message"])
            .collect();
        let because = "because a.first failed";
        assert_eq!(
            json!(said),
            json!(["broken", "strange", because, because, because, "not asked"])
        );
    }
}
