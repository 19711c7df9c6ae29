//! `cargo xtask`: the project's own commands, the same for people and CI.
//!
//! Each command is one file, and each works from a fresh checkout: what it needs it builds or fetches first. The crate
//! keeps its dependencies few, because everybody waits for it to compile before anything else happens.

mod demo;
mod lint;
mod process;
mod proto;
mod test;
mod tools;

use std::error::Error as _;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use process::Error;

const USAGE: &str = "\
Usage: cargo xtask <command>

  tools           Fetch the pinned test tools into target/tools and check their SHA-256
  demo [--keep]   Build a release and show its main job on a real OpenBao
  test [-- ARGS]  Run the whole suite and count what ran against a real OpenBao;
                  ARGS go to `cargo test`, as in `test -- -p kms-domain -- a_name`
  lint            Check format, clippy, documentation, dependencies and generated code
  proto [--check] Generate the code for the protobuf service, or compare it with what is committed
";

fn main() -> ExitCode {
    let args = std::env::args_os()
        .skip(1)
        .map(OsString::into_string)
        .collect::<Result<Vec<_>, _>>();
    let Ok(args) = args else {
        return usage_error("an argument is not valid UTF-8");
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((&command, options)) = args.split_first() else {
        return usage_error("no command given");
    };
    let outcome = match (command, options) {
        ("tools", []) => tools::fetch().map(drop),
        ("demo", [] | ["--keep"]) => demo::run(options),
        ("test", []) => test::run(&[]),
        ("test", ["--", options @ ..]) => test::run(options),
        ("lint", []) => lint::run(),
        ("proto", [] | ["--check"]) => proto::run(options),
        ("help" | "--help" | "-h", _) => return print(&mut io::stdout(), USAGE, ExitCode::SUCCESS),
        _ => return usage_error(&format!("no such command: {}", args.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => print(&mut io::stderr(), &chain(&failure), ExitCode::FAILURE),
    }
}

fn usage_error(problem: &str) -> ExitCode {
    print(
        &mut io::stderr(),
        &format!("error: {problem}\n\n{USAGE}"),
        ExitCode::from(2),
    )
}

/// A closed pipe is the reader's wish and changes no result.
fn print(to: &mut impl io::Write, text: &str, code: ExitCode) -> ExitCode {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) | Err(_) => code,
    }
}

/// The failure and its causes, one a line.
fn chain(failure: &Error) -> String {
    let mut text = format!("error: {failure}\n");
    let mut cause = failure.source();
    while let Some(error) = cause {
        text.push_str(&format!("  caused by: {error}\n"));
        cause = error.source();
    }
    text
}
