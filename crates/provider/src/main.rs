//! Entry point: parse, run, exit code.

use std::process::ExitCode;

use provider::{cli, config::Environment, hardening};

fn main() -> ExitCode {
    // Of every command: a token, a DEK or an unseal share may be in it.
    hardening::keep_memory_private();
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
