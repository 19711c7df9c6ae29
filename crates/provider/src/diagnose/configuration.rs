//! Can the configuration be read, and is every value in it allowed?

use super::{Name, skipped};
use crate::{
    config::{LoadError, Loaded},
    report::{Check, one_line},
};

/// The file is one YAML document.
pub const LOAD: Name = ("config.load", "Config load");
/// Every key and value is allowed. The files that they name are not examined.
pub const VALIDATE: Name = ("config.validate", "Config validation");

const IMPACT: &str = "the provider does not start; no data is touched";

/// Both checks.
#[must_use]
pub fn checks(loaded: &Result<Loaded, LoadError>) -> [Check; 2] {
    let pass = |(id, title): Name| Check::pass(id, title);
    let fail = |(id, title): Name, message: String| Check::fail(id, title, message).impact(IMPACT);
    match loaded {
        Ok(Loaded { config, .. }) if let Err(unsupported) = config.auth.jwt_file() => {
            [pass(LOAD), fail(VALIDATE, unsupported.to_string())]
        }
        Ok(Loaded { warnings, .. }) if warnings.is_empty() => [pass(LOAD), pass(VALIDATE)],
        Ok(Loaded { warnings, .. }) => {
            let (id, title) = VALIDATE;
            let remarks: Vec<_> = warnings.iter().map(ToString::to_string).collect();
            [pass(LOAD), Check::warn(id, title, remarks.join("; "))]
        }
        Err(error @ LoadError::Invalid { problems, .. }) => {
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let check = fail(VALIDATE, error.to_string())
                .detail("problems", problems)
                .remediation("correct every problem; `config` lists them");
            [pass(LOAD), check]
        }
        Err(error) => [fail(LOAD, one_line(error)), skipped(VALIDATE)],
    }
}
