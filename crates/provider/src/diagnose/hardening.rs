//! Is the running provider as hardened as it set out to be, as far as the kernel shows it? What the
//! kernel does not show of another process, Landlock, is tried here: what a start would get.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::process::Pid;

use super::{Question, facts::Facts as Gathered};
use crate::{
    config::{Config, Enforcement},
    hardening::{Outcome, boundary},
    report::Check,
};

/// A second line of defence; serving does not depend on it.
pub const HARDENING: Question = Question {
    id: "process.hardening",
    title: "Process hardening",
    needs: &["config.validate", "state.lock"],
    judge,
};

/// What `/proc` shows of a process.
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

fn judge(facts: &Gathered) -> Option<Vec<Check>> {
    let daemon = facts.node.as_ref()?.provider();
    Some(vec![check(facts.config()?, daemon)])
}

/// Looks at the process `daemon`; without one only at what its next start would get.
#[must_use]
pub fn check(config: &Config, daemon: Option<Pid>) -> Check {
    let Question { id, title, .. } = HARDENING;
    let wanted = config.hardening;
    let landlock = match wanted.landlock {
        Enforcement::Disabled => Outcome::Disabled,
        Enforcement::BestEffort | Enforcement::Required => boundary::trial(config),
    };
    let detailed = |check: Check| check.detail("landlock", landlock.as_str());
    if let (Enforcement::Required, Outcome::Refused(reason)) = (wanted.landlock, &landlock) {
        let failed = Check::fail(
            id,
            title,
            format!("hardening.landlock is required, but {reason}"),
        );
        return detailed(failed)
            .impact("the next start of the provider is refused; the running one serves on")
            .remediation("mend that, or set hardening.landlock to best-effort");
    }
    let Some(pid) = daemon else {
        return detailed(Check::skip(id, title, "no provider runs here"));
    };
    let facts = match facts(&Path::new("/proc").join(pid.as_raw_nonzero().to_string())) {
        Ok(facts) => facts,
        Err(error) => {
            let cause = format!("the provider's process {pid} cannot be looked at: {error}");
            return detailed(Check::skip(id, title, cause));
        }
    };
    let mut missing = facts.missing(wanted.lock_memory);
    if let Outcome::Refused(reason) = &landlock {
        missing.push(format!("Landlock: {reason}"));
    }
    let check = if missing.is_empty() {
        Check::pass(id, title)
    } else {
        Check::warn(id, title, missing.join("; "))
            .impact("an attacker who takes over the process would be less confined; it serves on")
            .remediation(
                "look for process.not_hardened in its log; docs/operate/hardening.md has each \
                 measure",
            )
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
