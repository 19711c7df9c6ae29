//! Causes that end a command before it has a result, whatever it examines.

use super::{Cause, act, none_lost, run, unknown};
use crate::exit::Exit;

const NOTHING_EXAMINED: &str = "the stored data was not examined";

causes! {
    INVALID_USAGE = unknown("invalid_usage", "the command line is invalid", NOTHING_EXAMINED)
        .exit(Exit::Usage)
        .steps(&[run("see the options of the command", "bao-kms-provider {command} --help")]);

    ERROR = unknown(
        "error",
        "the operating system refused an operation of this command",
        NOTHING_EXAMINED,
    )
    .exit(Exit::Unclassified);

    OUTPUT_NOT_WRITTEN = unknown(
        "output_not_written",
        "the file with the result exists already, or could not be written",
        NOTHING_EXAMINED,
    )
    .exit(Exit::Unclassified)
    .steps(&[act(
        "name a new file in a writable directory with free space, and run the command again: \
         existing files are never overwritten",
    )]);

    LAB_FAILED = none_lost(
        "lab_failed",
        "the lab failed",
        "a lab has a key and files of its own",
    )
    .exit(Exit::Unclassified)
    .steps(&[act("correct the cause above, and start another lab")]);
}
