//! Privileges dropped by the daemon before it reads a secret. Implements
//! `docs/operate/hardening.md`.
//!
//! Most measures apply to the calling thread and to threads it starts later, so they come before
//! the runtime. A measure refused by the kernel is reported; it is fatal only if the configuration
//! requires the measure.

mod capabilities;
pub mod files;
pub mod sandbox;

use rustix::{
    io,
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::set_no_new_privs,
};

use crate::config::{Config, Enforcement};
use sandbox::Sandbox;

/// Outcome of each measure.
#[derive(Debug)]
pub struct Hardened {
    /// Core dumps are disabled.
    pub core_dumps: Outcome,
    /// Only root may trace the process or read its memory.
    pub tracing: Outcome,
    /// All memory is locked against swapping.
    pub memory_lock: Outcome,
    /// All capabilities are dropped.
    pub capabilities: Outcome,
    /// `no_new_privs`: a started program cannot gain privileges.
    pub no_new_privileges: Outcome,
    /// Access is limited to the files and ports of the [`Sandbox`].
    pub landlock: Outcome,
}

/// Outcome of one measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The measure is fully in force.
    Enforced,
    /// The kernel supports only a part of the measure; the text names the missing part.
    Partial(String),
    /// The measure is disabled in the configuration.
    Disabled,
    /// The measure failed, with the reason.
    Refused(String),
}

/// A measure required by the configuration is not in force.
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

/// Hardens the calling thread, threads it starts later, and process-wide attributes. It must be the
/// only running thread.
///
/// # Errors
/// [`NotHardened`]; some measures may then be in force.
pub fn harden(config: &Config) -> Result<Hardened, NotHardened> {
    let wanted = config.hardening;
    Ok(Hardened {
        core_dumps: refused_or_enforced(forbid_core_dumps()),
        tracing: refused_or_enforced(set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        // Comes before dropping capabilities: raising the limit needs one.
        memory_lock: wanted_only("hardening.lockMemory", wanted.lock_memory, || {
            lock_memory().map_or_else(Outcome::Refused, |()| Outcome::Enforced)
        })?,
        capabilities: capabilities::drop_all(config),
        no_new_privileges: refused_or_enforced(set_no_new_privs(true)),
        landlock: wanted_only("hardening.landlock", wanted.landlock, || {
            sandbox::enforce_on_process(Sandbox::of(config).as_ref())
        })?,
    })
}

/// Disables core dumps and limits access to this process's memory to root, for every command.
/// Errors are ignored here; `serve` reports them.
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

    /// Logs every outcome, and the reason of every refusal.
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

    /// Why a wanted measure is not in force; `None` for an enforced or disabled one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Enforced | Self::Disabled => None,
            Self::Partial(reason) | Self::Refused(reason) => Some(reason),
        }
    }
}

/// Applies a measure if it is enabled; a refusal of a required one is an error.
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

/// Requires an unlimited `RLIMIT_MEMLOCK`: under a finite limit, a later allocation would fail and
/// abort the daemon.
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
