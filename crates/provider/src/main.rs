//! Entry point: parse, run, exit code.

use std::{alloc::System, process::ExitCode};

use anstream::{AutoStream, ColorChoice};
use kms_node::{config::Environment, hardening};
use provider::cli;
use zeroizing_alloc::ZeroAlloc;

/// Wipes all memory that is given back, also the buffers of TLS, HTTP and JSON with plaintext.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    // For every command: a dump could hold a token, a DEK or an unseal share.
    hardening::keep_memory_private();
    let color = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    let exit = cli::run(
        std::env::args_os(),
        &Environment::of_process(),
        color,
        // Results are passed through unchanged: a terminal filter would drop bytes of them.
        &mut std::io::stdout().lock(),
        // Unlocked, because other threads report progress on it.
        &mut anstream::stderr(),
    );
    exit.into()
}
