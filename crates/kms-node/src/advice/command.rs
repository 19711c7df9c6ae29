//! Causes that end a command before it has a result, whatever it examines.

use super::{Cause, DataImpact, act, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &INVALID_USAGE,
    &ERROR,
    &FILE_EXISTS,
    &OUTPUT_NOT_WRITTEN,
    &LAB_FAILED,
];

const NOTHING_EXAMINED: &str = "unknown: nothing was examined, and no sign of a loss was seen";

pub const INVALID_USAGE: Cause = Cause {
    code: "invalid_usage",
    headline: "the command line is invalid",
    impact: DataImpact::Unknown,
    data: NOTHING_EXAMINED,
    steps: &[run(
        "see the options of the command",
        "bao-kms-provider {command} --help",
    )],
    warnings: &[],
    exit: Exit::Usage,
};

pub const ERROR: Cause = Cause {
    code: "error",
    headline: "the operating system refused an operation of this command",
    impact: DataImpact::Unknown,
    data: NOTHING_EXAMINED,
    steps: &[],
    warnings: &[],
    exit: Exit::Unclassified,
};

pub const FILE_EXISTS: Cause = Cause {
    code: "file_exists",
    headline: "the file to write exists already, and was not changed",
    impact: DataImpact::Unknown,
    data: NOTHING_EXAMINED,
    steps: &[act(
        "name another file: records and reports are never overwritten",
    )],
    warnings: &[],
    exit: Exit::Unclassified,
};

pub const OUTPUT_NOT_WRITTEN: Cause = Cause {
    code: "output_not_written",
    headline: "the file with the result could not be written",
    impact: DataImpact::Unknown,
    data: NOTHING_EXAMINED,
    steps: &[act(
        "name a file in a directory with free space that this user may write, and run it again",
    )],
    warnings: &[],
    exit: Exit::Unclassified,
};

pub const LAB_FAILED: Cause = Cause {
    code: "lab_failed",
    headline: "the lab failed",
    impact: DataImpact::NoneLost,
    data: "no data is lost: a lab has a key and files of its own",
    steps: &[act("correct the cause above, and start another lab")],
    warnings: &[],
    exit: Exit::Unclassified,
};
