//! Entry point: parse, run, exit code.

use std::process::ExitCode;

use provider::{cli, config::Environment};

fn main() -> ExitCode {
    let exit = cli::run(
        std::env::args_os(),
        &Environment::of_process(),
        // Results pass through unchanged: a filter for terminals would drop bytes of them.
        &mut std::io::stdout().lock(),
        // Not locked: other threads tell on it how far they have come.
        &mut anstream::stderr(),
    );
    exit.into()
}
