//! `cargo xtask`: the project's own commands, the same for people and CI.
//!
//! Each command is one file, and each works from a fresh checkout: what it needs it builds or
//! fetches first. The crate keeps its dependencies few, because everybody waits for it to compile
//! before anything else happens.

mod bench;
mod demo;
mod fuzz;
mod go;
mod lint;
mod process;
mod proto;
mod test;
mod tools;

use std::error::Error as _;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use process::Error;
use test::Reach;

const USAGE: &str = "\
Usage: cargo xtask <command>

  tools [--kubernetes]
                  Fetch the pinned test tools into target/tools and check their SHA-256;
                  if asked, build kube-apiserver and what belongs to it, which needs Go
  demo [--keep]   Build a release and show its main job on a real OpenBao
  test [--kubernetes] [--long] [-- ARGS]
                  Run the whole suite, with the tests of a real kube-apiserver if asked, and count
                  the tests that ran against real servers; --long then runs the tests that take
                  many minutes;
                  ARGS go to `cargo test`, as in `test -- -p kms-domain -- a_name`
  lint            Check format, clippy, documentation, dependencies and generated code
  proto [--check] Generate the code for the protobuf service, or compare it with what is committed
  fuzz [--seconds N] [TARGET]
                  Run each fuzz target for N seconds (60)
  bench [--quick] [--output text|json]
                  Measure a release beside direct Transit calls on a real OpenBao
";

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1).map(OsString::into_string);
    let outcome = match args.collect::<Result<Vec<_>, _>>() {
        Ok(args) => run(&args.iter().map(String::as_str).collect::<Vec<_>>()),
        Err(_) => Err(Error::Usage("an argument is not valid UTF-8".into())),
    };
    let (text, code) = match &outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure @ Error::Usage(_)) => (format!("{}\n{USAGE}", chain(failure)), 2),
        Err(failure) => (chain(failure), 1),
    };
    // A closed standard error leaves the exit code to tell.
    drop(io::stderr().write_all(text.as_bytes()));
    ExitCode::from(code)
}

fn run(args: &[&str]) -> Result<(), Error> {
    let Some((&command, options)) = args.split_first() else {
        return Err(Error::Usage("no command given".into()));
    };
    match (command, options) {
        ("tools", []) => tools::packaged(),
        ("tools", ["--kubernetes"]) => {
            tools::packaged().and_then(|()| tools::kubernetes().map(drop))
        }
        ("demo", [] | ["--keep"]) => demo::run(options),
        ("test", _) => run_tests(options),
        ("lint", []) => lint::run(),
        ("proto", [] | ["--check"]) => proto::run(options),
        ("fuzz", _) => fuzz::run(options),
        ("bench", _) => bench::run(options),
        ("help" | "--help" | "-h", _) => {
            process::say(USAGE.trim_end());
            Ok(())
        }
        _ => Err(Error::Usage(format!("no such command: {}", args.join(" ")))),
    }
}

fn run_tests(options: &[&str]) -> Result<(), Error> {
    let end = options.iter().position(|option| *option == "--");
    let (flags, after) = options.split_at(end.unwrap_or(options.len()));
    let (mut reach, mut long) = (Reach::Plain, false);
    for flag in flags {
        match *flag {
            "--kubernetes" => reach = Reach::Kubernetes,
            "--long" => long = true,
            other => return Err(Error::Usage(format!("no such option of test: {other}"))),
        }
    }
    test::run(reach, long, after.get(1..).unwrap_or_default())
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
