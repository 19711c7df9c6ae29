//! The configuration file, its settings, and the files that they name. Each problem is a finding of its
//! own.

use std::io;

use kms_node::{
    advice::{self, Cause, site::quoted},
    config::{LoadError, Problem},
    report::{CheckResult, ImpactClass, one_line},
};

use super::{Check, facts::Facts};

/// The file is one YAML document.
pub const LOAD: Check = Check {
    id: "config.load",
    title: "Configuration file",
    needs: &[],
    evaluate: |facts| {
        let check = match &facts.loaded {
            Ok(_) | Err(LoadError::Invalid { .. }) => LOAD.pass(),
            Err(error) => {
                let advice = facts.advise(unloaded(error), &[]);
                refused(LOAD.fail(one_line(error)).because(advice))
            }
        };
        Some(vec![check])
    },
};

/// Every key and value is allowed. The files that they name are not examined.
pub const VALIDATE: Check = Check {
    id: "config.validate",
    title: "Settings",
    needs: &["config.load"],
    evaluate: validate,
};

/// The files and directories are there, of the right kind, and safe from other users.
pub const FILES: Check = Check {
    id: "config.files",
    title: "Files and directories",
    needs: &["config.validate"],
    evaluate: |facts| match &facts.node.as_ref()?.files {
        Ok(()) => Some(vec![FILES.pass()]),
        // The group has a check of its own.
        Err(problems) => Some(or_pass(
            &FILES,
            problems
                .iter()
                .filter(|problem| problem.path != "server.socketGroup")
                .map(|problem| file(facts, problem))
                .collect(),
        )),
    },
};

/// The cause of a configuration that could not be loaded.
#[must_use]
pub fn unloaded(error: &LoadError) -> &'static Cause {
    match error {
        LoadError::Unreadable { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => &advice::node::NOT_PERMITTED,
            _ => &advice::configuration::LOST,
        },
        LoadError::Malformed { .. } | LoadError::Invalid { .. } => &advice::configuration::INVALID,
    }
}

fn validate(facts: &Facts) -> Option<Vec<CheckResult>> {
    let loaded = match &facts.loaded {
        Ok(loaded) => loaded,
        Err(LoadError::Invalid { problems, .. }) => {
            let all = problems.iter().map(|problem| invalid(facts, problem));
            return Some(all.collect());
        }
        Err(_) => return None,
    };
    if let Err(unsupported) = loaded.config.auth.supported() {
        let check = VALIDATE
            .fail(unsupported.to_string())
            .because(facts.advise(&advice::configuration::UNSUPPORTED_LOGIN, &[]))
            .code("unsupported_auth");
        return Some(vec![refused(check)]);
    }
    let warnings = loaded.warnings.iter().map(|problem| {
        let check = VALIDATE
            .warn(finding(problem))
            .code(problem.path.as_str())
            .impact_class(ImpactClass::Diagnosis);
        match &problem.hint {
            Some(hint) => check.remediation(hint.as_str()),
            None => check,
        }
    });
    Some(or_pass(&VALIDATE, warnings.collect()))
}

fn or_pass(check: &Check, findings: Vec<CheckResult>) -> Vec<CheckResult> {
    if findings.is_empty() {
        vec![check.pass()]
    } else {
        findings
    }
}

/// The problem without its hint, which is a step.
fn finding(problem: &Problem) -> String {
    let problem = Problem {
        hint: None,
        ..problem.clone()
    };
    problem.to_string()
}

fn invalid(facts: &Facts, problem: &Problem) -> CheckResult {
    let mut values = vec![("setting", &*problem.path)];
    if let Some(hint) = &problem.hint {
        values.push(("correction", hint));
    }
    let advice = facts.advise(&advice::configuration::INVALID, &values);
    let check = VALIDATE.fail(finding(problem)).because(advice);
    refused(check.code(problem.path.as_str()))
}

/// The code is the setting.
fn file(facts: &Facts, problem: &Problem) -> CheckResult {
    let (setting, path) = (&*problem.path, problem.value.as_deref().unwrap_or_default());
    let quoted = quoted(path);
    let hint = problem.hint.as_deref();
    let (cause, values) = match (
        hint,
        hint.and_then(|hint| hint.strip_prefix(COMMAND)),
        setting,
    ) {
        (_, Some(command), _) => (&advice::node::MISCONFIGURED, vec![("fix", command)]),
        (Some(hint), None, _) => (&advice::node::MISCONFIGURED, vec![("correction", hint)]),
        (None, _, "state.path") => (&advice::node::STATE_DIRECTORY_MISSING, Vec::new()),
        (None, _, "server.socketPath") => (&advice::node::SOCKET_DIRECTORY_UNUSABLE, Vec::new()),
        (None, _, "auth.jwt.jwtFile") => (&advice::login::JWT_MISSING, Vec::new()),
        (None, _, setting) => (
            &advice::node::MISCONFIGURED,
            vec![("missing", &*quoted), ("setting", setting)],
        ),
    };
    let check = FILES
        .fail(finding(problem))
        .because(facts.advise(cause, &values));
    refused(check.code(setting))
}

/// The start of a hint that is a command.
const COMMAND: &str = "run: ";

fn refused(check: CheckResult) -> CheckResult {
    check
        .impact_class(ImpactClass::ApiServerAvailability)
        .of_configuration()
}
