//! Questions about a node and their answers, shared by the commands that diagnose.
//!
//! A [`Question`] is a value: what it is called, which other answers it needs, and how it judges
//! the [`Facts`] that its command has gathered. [`examine`] asks a command's list of them. Nothing
//! here writes, and what was gathered is what the provider itself uses: the same files under the
//! same user, the same server, the same socket.

pub mod capabilities;
pub mod configuration;
pub mod encryption_config;
pub mod facts;
pub mod hardening;
pub mod key;
pub mod login;
pub mod node;
pub mod running;
pub mod server;
pub mod state;

use std::collections::BTreeMap;

use openbao_client::failure::FailureClass;

use crate::{
    auth::CallFailure,
    config::Config,
    report::{Check, ImpactClass, Report},
};
use facts::Facts;

const NO_SERVICE: &str = "kube-apiserver cannot read or write encrypted objects through this node; \
    no data is lost";

/// A check that is still to be made.
pub struct Question {
    /// Stable.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// Skipped when one of these was skipped or has failed: the id of a question that comes
    /// earlier, or `id/code` for one cause of its failure.
    pub needs: &'static [&'static str],
    /// The answer, or several for several findings. `None` if the facts were not gathered.
    pub judge: fn(&Facts) -> Option<Vec<Check>>,
}

/// Asks the questions in their order. Those that build on a failure name it as the cause.
pub fn examine(questions: &[Question], facts: &Facts, report: &mut Report) {
    let mut failed: BTreeMap<String, &'static str> = BTreeMap::new();
    for question in questions {
        let cause = question.needs.iter().find_map(|need| failed.get(*need));
        let checks = match cause {
            Some(&cause) => vec![question.skip(format!("because {cause} failed"))],
            None => (question.judge)(facts).unwrap_or_else(|| vec![question.skip("not asked")]),
        };
        let root = cause.copied().unwrap_or(question.id);
        for check in checks {
            if check.blocks() {
                failed.insert(question.id.to_owned(), root);
                if let Some(code) = check.cause() {
                    failed.insert(format!("{}/{code}", question.id), root);
                }
            }
            report.push(check);
        }
    }
}

impl Question {
    /// As it should be.
    #[must_use]
    pub fn pass(&self) -> Check {
        Check::pass(self.id, self.title)
    }

    /// To be looked at.
    #[must_use]
    pub fn warn(&self, message: impl Into<String>) -> Check {
        Check::warn(self.id, self.title, message)
    }

    /// Not as it should be.
    #[must_use]
    pub fn fail(&self, message: impl Into<String>) -> Check {
        Check::fail(self.id, self.title, message)
    }

    /// Not asked.
    #[must_use]
    pub fn skip(&self, cause: impl Into<String>) -> Check {
        Check::skip(self.id, self.title, cause)
    }

    /// A failed question to OpenBao.
    fn unanswered(&self, failure: &CallFailure, class: ImpactClass, impact: &str) -> Check {
        let check = self
            .fail(crate::report::one_line(failure))
            .code(failure.class().map_or("auth_failed", FailureClass::label))
            .impact(impact)
            .impact_class(class);
        match call_remedy(failure) {
            Some(remedy) => check.remediation(remedy),
            None => check,
        }
    }
}

/// The start of a command for an administrator, in the namespace of the configuration.
#[must_use]
pub fn bao(config: &Config, command: &str) -> String {
    match &config.scope.openbao_namespace {
        Some(namespace) => format!("bao {command} -namespace={namespace}"),
        None => format!("bao {command}"),
    }
}

/// What to look at when OpenBao could not be used.
#[must_use]
pub fn call_remedy(failure: &CallFailure) -> Option<&'static str> {
    let Some(class) = failure.class() else {
        return Some(
            "check the token file and auth.jwt.*, and role, audience and keys of that login in \
             OpenBao",
        );
    };
    class_remedy(class)
}

fn class_remedy(class: FailureClass) -> Option<&'static str> {
    match class {
        FailureClass::Sealed => Some("unseal OpenBao; then try again"),
        FailureClass::ConnectionFailed
        | FailureClass::DnsFailed
        | FailureClass::Timeout
        | FailureClass::Unavailable => Some(
            "check that OpenBao runs and answers at openbao.address from this node: network, \
             firewall, DNS, active node",
        ),
        FailureClass::NotOpenBao => Some(
            "point openbao.address at OpenBao, or correct the route of the proxy, ingress or load \
             balancer that answered in its place",
        ),
        FailureClass::TlsFailed => Some(
            "compare openbao.caCertFile and openbao.tlsServerName with the certificate that the \
             server shows: openssl s_client -connect HOST:PORT",
        ),
        FailureClass::PermissionDenied => {
            Some("compare the policy of the role with: bao-kms-provider policy openbao")
        }
        FailureClass::NotFound | FailureClass::KeyMissing => Some(
            "check transit.mountPath and transit.keyName; if data is encrypted already, restore \
             OpenBao and do not create a key of that name",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::UNIX_EPOCH};

    use serde_json::{Value, json};

    use super::*;
    use crate::config::LoadError;

    const FIRST: Question = Question {
        id: "a.first",
        title: "First",
        needs: &[],
        judge: |_| {
            Some(vec![
                FIRST.fail("broken").code("odd"),
                FIRST.warn("strange"),
            ])
        },
    };

    fn question(id: &'static str, needs: &'static [&'static str]) -> Question {
        Question {
            id,
            title: "Other",
            needs,
            judge: |_| None,
        }
    }

    #[test]
    fn a_question_that_builds_on_a_failure_names_the_first_cause() {
        let facts = Facts::new(Err(LoadError::Malformed {
            path: PathBuf::new(),
            reason: String::new(),
        }));
        let questions = [
            FIRST,
            question("b.second", &["a.first"]),
            question("c.third", &["b.second"]),
            question("d.fourth", &["a.first/odd"]),
            question("e.fifth", &["a.first/even"]),
        ];
        let mut report = Report::new("test", UNIX_EPOCH);
        examine(&questions, &facts, &mut report);
        let report = serde_json::to_value(&report).unwrap();
        let said: Vec<&Value> = report["checks"]
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
        assert_eq!(report["firstFailure"], "a.first");
    }
}
