//! Hardening of the running provider, as `/proc` shows it. Landlock of another process does not show
//! there, so it is tried here: the result is that of the next start.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use kms_node::{
    advice::{Site, node},
    config::{Config, Enforcement},
    hardening::{Outcome, sandbox},
    report::{CheckResult, ImpactClass},
};
use rustix::process::Pid;

use super::{Check, facts::Facts as Gathered};

/// A second line of defence; serving does not depend on it.
pub const HARDENING: Check = Check {
    id: "process.hardening",
    title: "Process hardening",
    needs: &["config.validate", "state.lock"],
    evaluate,
};

/// Attributes of a process in `/proc`.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    core_dumps: bool,
    /// `None` where it does not show: files of root's processes always belong to root.
    traceable: Option<bool>,
    capabilities: bool,
    new_privileges: bool,
    locked_kib: u64,
    /// By the service manager or the container runtime.
    system_calls_filtered: bool,
}

fn evaluate(facts: &Gathered) -> Option<Vec<CheckResult>> {
    let daemon = facts.node.as_ref()?.provider();
    let site = Site::new(facts.config_path(), facts.config());
    Some(vec![check(&site, facts.config()?, daemon)])
}

/// Examines the process `daemon`; without one, only the sandbox of its next start.
#[must_use]
pub fn check(site: &Site<'_>, config: &Config, daemon: Option<Pid>) -> CheckResult {
    let Check { id, title, .. } = HARDENING;
    let wanted = config.hardening;
    let landlock = match wanted.landlock {
        Enforcement::Disabled => Outcome::Disabled,
        Enforcement::BestEffort | Enforcement::Required => sandbox::trial(config),
    };
    let detailed = |check: CheckResult| check.detail("landlock", landlock.as_str());
    if let (Enforcement::Required, Outcome::Refused(reason)) = (wanted.landlock, &landlock) {
        let failed = CheckResult::fail(
            id,
            title,
            format!("hardening.landlock is required, but {reason}"),
        );
        return detailed(failed)
            .because(node::HARDENING_REFUSED.advise(site, &[]))
            .impact_class(ImpactClass::ApiServerAvailability);
    }
    let Some(pid) = daemon else {
        return detailed(CheckResult::skip(id, title, "no provider runs here"));
    };
    let facts = match facts(&Path::new("/proc").join(pid.as_raw_nonzero().to_string())) {
        Ok(facts) => facts,
        Err(error) => {
            let cause = format!("the provider's process {pid} is unreadable: {error}");
            return detailed(CheckResult::skip(id, title, cause));
        }
    };
    let mut missing = facts.missing(wanted.lock_memory);
    if let Outcome::Refused(reason) = &landlock {
        missing.push(format!("Landlock: {reason}"));
    }
    let check = if missing.is_empty() {
        CheckResult::pass(id, title)
    } else {
        CheckResult::warn(id, title, missing.join("; "))
            .because(node::HARDENING_INCOMPLETE.advise(site, &[]))
            .impact_class(ImpactClass::Diagnosis)
    };
    detailed(check)
        .detail("pid", pid.as_raw_nonzero().get())
        .detail("lockedKib", facts.locked_kib)
        .detail("systemCallsFiltered", facts.system_calls_filtered)
}

impl Facts {
    fn missing(&self, lock_memory: Enforcement) -> Vec<String> {
        let unlocked = lock_memory != Enforcement::Disabled && self.locked_kib == 0;
        [
            (self.core_dumps, "a crash may leave a core dump"),
            (
                self.traceable == Some(true),
                "other processes of its user may trace it",
            ),
            (self.capabilities, "it holds capabilities"),
            (self.new_privileges, "it may gain privileges"),
            (unlocked, "its memory may be swapped out"),
        ]
        .into_iter()
        .filter(|(is_missing, _)| *is_missing)
        .map(|(_, what)| what.to_owned())
        .collect()
    }
}

fn facts(process: &Path) -> io::Result<Facts> {
    let status = fs::read_to_string(process.join("status"))?;
    let limits = fs::read_to_string(process.join("limits"))?;
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.map(str::to_owned)
            .ok_or_else(|| io::Error::other(format!("it has no {name}")))
    };
    let user = field(&status, "Uid:")?;
    Ok(Facts {
        core_dumps: field(&limits, "Max core file size")? != "0",
        traceable: (user != "0").then_some(fs::metadata(process.join("status"))?.uid() != 0),
        capabilities: field(&status, "CapEff:")?
            .bytes()
            .any(|digit| digit != b'0'),
        new_privileges: field(&status, "NoNewPrivs:")? != "1",
        locked_kib: field(&status, "VmLck:")?.parse().unwrap_or_default(),
        system_calls_filtered: field(&status, "Seccomp:")? == "2",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_gave_nothing_up_misses_all_of_it() {
        let facts = Facts {
            core_dumps: true,
            traceable: Some(true),
            capabilities: true,
            new_privileges: true,
            locked_kib: 0,
            system_calls_filtered: false,
        };
        assert_eq!(facts.missing(Enforcement::BestEffort).len(), 5);
        assert_eq!(facts.missing(Enforcement::Disabled).len(), 4);
    }

    #[test]
    fn this_process_can_be_looked_at_and_may_gain_privileges() {
        let own = facts(Path::new("/proc/self")).unwrap();
        assert!(own.new_privileges);
        assert!(facts(Path::new("/proc/none")).is_err());
    }
}
