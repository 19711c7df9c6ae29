//! What the exit code of the program tells. Documented and stable.

use std::process::ExitCode;

/// The exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: a failure without a code of its own.
    Unclassified,
    /// 2: the command line cannot be understood.
    Usage,
    /// 3: the configuration cannot be loaded or is invalid, a value from a flag included.
    Configuration,
    /// 4: a diagnostic check failed.
    CheckFailed,
    /// 5: `serve` failed after its configuration was accepted, or a store could not be read.
    Runtime,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Unclassified => 1,
            Self::Usage => 2,
            Self::Configuration => 3,
            Self::CheckFailed => 4,
            Self::Runtime => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
