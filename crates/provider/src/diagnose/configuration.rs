//! Can the configuration be read, is every value in it allowed, and are the files that it names fit
//! for use? Each problem is a finding of its own.

use std::io;

use super::{Question, facts::Facts};
use crate::{
    config::{LoadError, Problem},
    report::{Check, ImpactClass, one_line},
};

/// The file is one YAML document.
pub const LOAD: Question = Question {
    id: "config.load",
    title: "Config load",
    needs: &[],
    judge: |facts| {
        let check = match &facts.loaded {
            Ok(_) | Err(LoadError::Invalid { .. }) => LOAD.pass(),
            Err(error) => refused(LOAD.fail(one_line(error))).remediation(load_remedy(error)),
        };
        Some(vec![check])
    },
};

/// Every key and value is allowed. The files that they name are not examined.
pub const VALIDATE: Question = Question {
    id: "config.validate",
    title: "Config validation",
    needs: &["config.load"],
    judge: validate,
};

/// The files and directories are there, of the right kind, and safe from other users.
pub const FILES: Question = Question {
    id: "config.files",
    title: "Files and directories",
    needs: &["config.validate"],
    judge: |facts| match &facts.node.as_ref()?.files {
        Ok(()) => Some(vec![FILES.pass()]),
        // The group has a check of its own.
        Err(problems) => Some(or_pass(
            &FILES,
            problems
                .iter()
                .filter(|problem| problem.path != "server.socketGroup")
                .map(file)
                .collect(),
        )),
    },
};

const IMPACT: &str = "the provider does not start; no data is touched";

fn validate(facts: &Facts) -> Option<Vec<Check>> {
    let loaded = match &facts.loaded {
        Ok(loaded) => loaded,
        Err(LoadError::Invalid { problems, .. }) => {
            return Some(problems.iter().map(problem).collect());
        }
        Err(_) => return None,
    };
    if let Err(unsupported) = loaded.config.auth.jwt_file() {
        let check = VALIDATE
            .fail(unsupported.to_string())
            .code("unsupported_auth")
            .remediation("use a build that has this login, or log in with a token file");
        return Some(vec![refused(check)]);
    }
    let warnings = loaded.warnings.iter().map(|problem| {
        let check = VALIDATE.warn(
            Problem {
                hint: None,
                ..problem.clone()
            }
            .to_string(),
        );
        with_hint(check, problem).impact_class(ImpactClass::Diagnosis)
    });
    Some(or_pass(&VALIDATE, warnings.collect()))
}

fn or_pass(question: &Question, findings: Vec<Check>) -> Vec<Check> {
    if findings.is_empty() {
        vec![question.pass()]
    } else {
        findings
    }
}

fn load_remedy(error: &LoadError) -> &'static str {
    match error {
        LoadError::Unreadable { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => {
                "put the file back, or name it with --config or BAO_KMS_PROVIDER_CONFIG"
            }
            _ => "run as root or as the provider's user, such as with sudo -u openbao-kms",
        },
        LoadError::Malformed { .. } | LoadError::Invalid { .. } => {
            "correct the file; docs/configuration.md has a complete example"
        }
    }
}

fn problem(problem: &Problem) -> Check {
    let check = VALIDATE.fail(
        Problem {
            hint: None,
            ..problem.clone()
        }
        .to_string(),
    );
    let check = refused(check).remediation("correct the value; see docs/configuration.md");
    with_hint(check, problem)
}

fn file(problem: &Problem) -> Check {
    let check = FILES.fail(
        Problem {
            hint: None,
            ..problem.clone()
        }
        .to_string(),
    );
    let check = with_hint(refused(check), problem);
    match (problem.hint.is_some(), problem.path.as_str()) {
        (true, _) => check,
        (false, "state.path") => check.remediation(
            "create the directory with mode 0750, owned by the user that runs the provider; if \
             there was a state before, run recover-state then",
        ),
        (false, "server.socketPath") => check.remediation(
            "have the directory made at boot (RuntimeDirectory of the unit, or tmpfiles.d), with \
             mode 2750 and owned by the user that runs the provider",
        ),
        (false, "auth.jwt.jwtFile") => check
            .remediation("start whatever writes and renews the JWT on this node, and see its log"),
        (false, path) => check.remediation(format!("put the file back, or correct {path}")),
    }
}

/// The setting tells findings apart.
fn with_hint(check: Check, problem: &Problem) -> Check {
    let check = check.code(problem.path.as_str());
    match &problem.hint {
        Some(hint) => check.remediation(hint.as_str()),
        None => check,
    }
}

fn refused(check: Check) -> Check {
    check
        .impact(IMPACT)
        .impact_class(ImpactClass::ApiServerAvailability)
        .of_configuration()
}
