//! What the daemon gives up before it reads a secret. Implements `docs/operate/hardening.md`.
//!
//! Most of it holds for the calling thread and the threads that it starts later, so it comes before
//! the runtime. A measure that the kernel refuses is reported and is fatal only if the
//! configuration requires it.

pub mod boundary;
mod capabilities;
pub mod files;

use rustix::{
    io,
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::set_no_new_privs,
};

use crate::config::{Config, Enforcement};
use boundary::Boundary;

/// What became of every measure.
#[derive(Debug)]
pub struct Hardened {
    /// No memory image after a crash.
    pub core_dumps: Outcome,
    /// Nobody but root may trace the process or read its memory.
    pub tracing: Outcome,
    /// No memory is swapped out.
    pub memory_lock: Outcome,
    /// None are left.
    pub capabilities: Outcome,
    /// No program that it might start gains any.
    pub no_new_privileges: Outcome,
    /// No files and ports but the [`Boundary`]'s.
    pub landlock: Outcome,
}

/// What became of one measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is in force.
    Enforced,
    /// The kernel does not know all of it; what it does not, follows a colon.
    Partial(String),
    /// The configuration does not want it.
    Disabled,
    /// Nothing of it is in force, and why.
    Refused(String),
}

/// A measure that the configuration requires is not in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{setting} is required, but {reason}; nothing was served, so kube-apiserver cannot read or \
     write encrypted objects through this node; no data is lost. Mend that, or set it to \
     best-effort"
)]
pub struct NotHardened {
    setting: &'static str,
    reason: String,
}

/// Hardens the calling thread, the threads that it starts from now on, and what the process has
/// only once. No other thread may run yet.
///
/// # Errors
/// [`NotHardened`]; measures are then in force in part.
pub fn harden(config: &Config) -> Result<Hardened, NotHardened> {
    let wanted = config.hardening;
    Ok(Hardened {
        core_dumps: refused_or_enforced(forbid_core_dumps()),
        tracing: refused_or_enforced(set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        // While there is still the capability to raise the limit.
        memory_lock: wanted_only("hardening.lockMemory", wanted.lock_memory, || {
            lock_memory().map_or_else(Outcome::Refused, |()| Outcome::Enforced)
        })?,
        capabilities: capabilities::drop_all(config),
        no_new_privileges: refused_or_enforced(set_no_new_privs(true)),
        landlock: wanted_only("hardening.landlock", wanted.landlock, || {
            boundary::enforce_on_process(Boundary::of(config).as_ref())
        })?,
    })
}

/// No memory image of this process or one that it starts after a crash, and nobody but root reads
/// its memory. A kernel that refuses changes nothing that could be mended; `serve` says so.
pub fn keep_memory_private() {
    forbid_core_dumps().ok();
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
}

impl Hardened {
    /// Each measure by its name in the log.
    #[must_use]
    pub fn measures(&self) -> [(&'static str, &Outcome); 6] {
        [
            ("core_dumps", &self.core_dumps),
            ("tracing", &self.tracing),
            ("memory_lock", &self.memory_lock),
            ("capabilities", &self.capabilities),
            ("no_new_privileges", &self.no_new_privileges),
            ("landlock", &self.landlock),
        ]
    }

    /// Logs every outcome, and why a measure was refused.
    pub fn log(&self) {
        tracing::info!(
            core_dumps = self.core_dumps.as_str(),
            tracing = self.tracing.as_str(),
            memory_lock = self.memory_lock.as_str(),
            capabilities = self.capabilities.as_str(),
            no_new_privileges = self.no_new_privileges.as_str(),
            landlock = self.landlock.as_str(),
            "process.hardened"
        );
        for (measure, outcome) in self.measures() {
            if let Outcome::Refused(reason) = outcome {
                tracing::warn!(measure, reason, "process.not_hardened");
            }
        }
    }
}

impl Outcome {
    /// The word in the log.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Partial(_) => "partial",
            Self::Disabled => "disabled",
            Self::Refused(_) => "refused",
        }
    }

    /// What is not in force although it is wanted.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Enforced | Self::Disabled => None,
            Self::Partial(reason) | Self::Refused(reason) => Some(reason),
        }
    }
}

/// Takes a measure if it is wanted, and insists if it is required.
fn wanted_only(
    setting: &'static str,
    wanted: Enforcement,
    take: impl FnOnce() -> Outcome,
) -> Result<Outcome, NotHardened> {
    match (wanted, take) {
        (Enforcement::Disabled, _) => Ok(Outcome::Disabled),
        (Enforcement::BestEffort, take) => Ok(take()),
        (Enforcement::Required, take) => match take() {
            Outcome::Refused(reason) => Err(NotHardened { setting, reason }),
            taken => Ok(taken),
        },
    }
}

fn refused_or_enforced(done: io::Result<()>) -> Outcome {
    match done {
        Ok(()) => Outcome::Enforced,
        Err(errno) => Outcome::Refused(format!("the kernel refused it: {errno}")),
    }
}

fn forbid_core_dumps() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)
}

/// Under a finite limit an allocation of a later day would fail, and with it the daemon.
fn lock_memory() -> Result<(), String> {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && setrlimit(Resource::Memlock, unlimited).is_err()
    {
        return Err(format!(
            "only {bytes} bytes may be locked: set LimitMEMLOCK=infinity in the unit"
        ));
    }
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(all).map_err(|errno| format!("memory cannot be locked: {errno}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_and_refused_ends_the_start_and_nothing_else_does() {
        let setting = "hardening.landlock";
        let refuse = || Outcome::Refused("the kernel has no Landlock".to_owned());
        let error = wanted_only(setting, Enforcement::Required, refuse).unwrap_err();
        assert!(error.to_string().starts_with(
            "hardening.landlock is required, but the kernel has no Landlock; nothing was served"
        ));
        let tried = wanted_only(setting, Enforcement::BestEffort, refuse);
        assert_eq!(tried, Ok(refuse()));
        let partial = || Outcome::Partial("an old kernel".to_owned());
        let taken = wanted_only(setting, Enforcement::Required, partial);
        assert_eq!(taken, Ok(partial()));
        let untried = wanted_only(setting, Enforcement::Disabled, || unreachable!());
        assert_eq!(untried, Ok(Outcome::Disabled));
    }
}
