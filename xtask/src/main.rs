//! `cargo xtask`: the project's own commands, the same for people and CI.
//!
//! Each command is one file and works from a fresh checkout: it builds or fetches its requirements
//! first. The crate has few dependencies, because everyone waits for its build first.

mod bench;
mod circles;
mod demo;
mod dist;
mod fuzz;
mod go;
mod lint;
mod process;
mod prose;
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
                  Download the pinned test tools into target/tools and check their SHA-256;
                  with --kubernetes also build kube-apiserver and its programs, an OAuth
                  issuer, and SPIRE, which needs Go
  demo [--keep]   Build a release and show its main task on a real OpenBao
  test [--kubernetes] [--packages] [--long] [-- ARGS]
                  Run the test suite and count the tests with real servers;
                  --kubernetes adds the tests with a real kube-apiserver, OAuth issuer or SPIRE,
                  --packages adds those of packages and images, as root with Debian's tools;
                  --long adds the tests of many minutes;
                  ARGS go to `cargo test`, as in `test -- -p kms-domain -- a_name`
  lint            Check format, clippy, documentation, dependencies, generated code and English
  prose           Measure the English of docs, comments and messages
  proto [--check] Generate the code of the gRPC services, or compare it with the committed code
  fuzz [--seconds N] [TARGET]
                  Run each fuzz target for N seconds (60)
  dist [--arch amd64|arm64|all] [--only packages|images] [--out DIR] [--program FILE]
       [--builder URI] [--sign-key FILE] [--verify-reproducible]
                  Build the programs, packages, archives and images of a release for this machine's
                  architecture, or the named ones, into target/dist, with bills of materials;
                  --program packages a ready program instead, as the tests do;
                  --builder adds a statement of provenance, --sign-key a signature;
                  --verify-reproducible builds the commit twice and compares the digests
  bench [--quick] [--only PART] [--file OBJECTSxBYTES] [--output text|json]
                  Compare a release with direct Transit requests on a real OpenBao
";

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1).map(OsString::into_string);
    let outcome = match args.collect::<Result<Vec<_>, _>>() {
        Ok(args) => run(&args.iter().map(String::as_str).collect::<Vec<_>>()),
        Err(_) => Err(Error::Usage("an argument is invalid UTF-8".into())),
    };
    let (text, code) = match &outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure @ Error::Usage(_)) => (format!("{}\n{USAGE}", chain(failure)), 2),
        Err(failure) => (chain(failure), 1),
    };
    // If standard error is closed, the exit code still reports the failure.
    drop(io::stderr().write_all(text.as_bytes()));
    ExitCode::from(code)
}

fn run(args: &[&str]) -> Result<(), Error> {
    let Some((&command, options)) = args.split_first() else {
        return Err(Error::Usage("a command is required".into()));
    };
    match (command, options) {
        ("tools", []) => tools::packaged(),
        ("tools", ["--kubernetes"]) => {
            tools::packaged().and_then(|()| tools::kubernetes().map(drop))
        }
        ("demo", [] | ["--keep"]) => demo::run(options),
        ("test", _) => run_tests(options),
        ("lint", []) => lint::run(),
        ("prose", []) => prose::run(),
        ("proto", [] | ["--check"]) => proto::run(options),
        ("fuzz", _) => fuzz::run(options),
        ("dist", _) => dist::run(options),
        ("bench", _) => bench::run(options),
        ("help" | "--help" | "-h", _) => {
            process::say(USAGE.trim_end());
            Ok(())
        }
        _ => Err(Error::Usage(format!("unknown command: {}", args.join(" ")))),
    }
}

fn run_tests(options: &[&str]) -> Result<(), Error> {
    let end = options.iter().position(|option| *option == "--");
    let (flags, after) = options.split_at(end.unwrap_or(options.len()));
    let (mut reach, mut long) = (Reach::default(), false);
    for flag in flags {
        match *flag {
            "--kubernetes" => reach.kubernetes = true,
            "--packages" => reach.packages = true,
            "--long" => long = true,
            other => return Err(Error::Usage(format!("unknown option of test: {other}"))),
        }
    }
    test::run(reach, long, after.get(1..).unwrap_or_default())
}

/// The failure and its causes, one per line.
fn chain(failure: &Error) -> String {
    let mut text = format!("error: {failure}\n");
    let mut cause = failure.source();
    while let Some(error) = cause {
        text.push_str(&format!("  caused by: {error}\n"));
        cause = error.source();
    }
    text
}
