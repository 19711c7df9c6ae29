//! `cargo xtask test`: runs the test suite and prints a summary of the tests run.
//!
//! Cargo prints the name of each test program on standard error, and the program prints its results
//! on standard output. Both share one pipe, so that results follow the name of their program.

mod ordinary_user;
mod tally;

use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::process::{Command, ExitStatus};

use crate::process::{self, Error, say};
use crate::tools::{self, BUILT_ONLY, LONG_ONLY, Tool};
use tally::{Server, Tally};

/// Tests beyond those of every run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reach {
    /// Those with a real kube-apiserver or OAuth issuer.
    pub(crate) kubernetes: bool,
    /// Those of packages and images, as root with Debian's tools.
    pub(crate) packages: bool,
}

/// Module name of long tests. Normal runs ignore them.
const LONG: &str = "long::";

/// Runs the suite with the pinned OpenBao and an etcd; `options` go to `cargo test`. With `long`,
/// runs the ignored tests of modules named `long` afterwards.
///
/// A run without options must include tests with a real OpenBao. As root it runs tests of the
/// program with OpenBao again as an ordinary user, because root passes every permission check; modules
/// that no user changes are left out. A run with Kubernetes must include tests with a real kube-apiserver.
pub(crate) fn run(reach: Reach, long: bool, options: &[&str]) -> Result<(), Error> {
    let openbao = tools::openbao()?;
    let mut tools = if reach.kubernetes {
        tools::kubernetes()?
    } else {
        tools::etcd()?
    };
    if long {
        tools.push(tools::earlier()?);
    }
    if long && reach.kubernetes {
        tools.extend(tools::kubernetes_for_long_tests()?);
    }

    let whole = options.is_empty();
    let mut options = options.to_vec();
    let skipped = without_program(reach, long, &tools);
    skip(&skipped, &mut options);
    let mut tally = Tally::default();

    let with_tools = |mut suite: Command| {
        suite.env("BAO_BIN", &openbao);
        suite.envs(tools.iter().map(|tool| (tool.variable, &tool.path)));
        suite
    };

    let mut outcome = stream(with_tools(suite(reach, &options)), &mut tally);
    if whole && outcome.is_ok() && ordinary_user::is_root() {
        outcome = ordinary_user::run_again(reach, &openbao, &tools, &mut tally);
    }

    if long && outcome.is_ok() {
        if !options.contains(&"--") {
            options.push("--");
        }
        options.extend(["--ignored", "--nocapture", LONG]);
        tally.begin_long();
        outcome = stream(with_tools(suite(reach, &options)), &mut tally);
    }

    say(&format!("\n{tally}"));
    for module in &skipped {
        say(&format!("NOT RUN, Go is missing: the tests of {module}"));
    }

    outcome?;
    if tally.ran() == 0 {
        return Err(Error::Refused("no test ran; check the filter".into()));
    }
    if whole && tally.against(Server::OpenBao) == 0 {
        return Err(Error::Refused(
            "no test ran with a real OpenBao; they must be in test programs named `openbao`".into(),
        ));
    }
    if long && tally.long() == 0 {
        return Err(Error::Refused(format!(
            "no long test ran; they must be ignored tests in modules named `{}`",
            LONG.trim_end_matches(':')
        )));
    }
    if reach.kubernetes && tally.against(Server::KubeApiserver) == 0 {
        return Err(Error::Refused(
            "no test ran with a real kube-apiserver; they must be in test programs named \
             `kubernetes`"
                .into(),
        ));
    }
    Ok(())
}

/// Unit, integration and documentation tests of the workspace, or of the packages in the options.
fn suite(reach: Reach, options: &[&str]) -> Command {
    let names_package = |option: &&str| option.starts_with("-p") || option.starts_with("--package");
    let all: &[&str] = if options.iter().any(names_package) {
        &[]
    } else {
        &["--workspace"]
    };
    let features = [
        (reach.kubernetes, "provider/kubernetes-tests"),
        (reach.kubernetes, "provider/issuer-tests"),
        (reach.packages, "provider/package-tests"),
    ];
    let features = features.iter().filter(|(wanted, _)| *wanted);
    let features = features.flat_map(|(_, feature)| ["--features", feature]);
    let features: Vec<&str> = features.collect();
    process::cargo(
        &[
            &["test", "--locked", "--no-fail-fast"],
            all,
            &features,
            options,
        ]
        .concat(),
    )
}

/// Modules of tests with a missing Go program. Long tests alone need some of the programs.
fn without_program(reach: Reach, long: bool, tools: &[Tool]) -> Vec<&'static str> {
    let missing = |variable| tools.iter().all(|tool| tool.variable != variable);
    let modules = BUILT_ONLY
        .into_iter()
        .filter(|(_, variable)| missing(*variable))
        .filter(|(_, variable)| long || !LONG_ONLY.contains(variable));
    let modules = modules.map(|(module, _)| module);
    modules.filter(|_| reach.kubernetes).collect()
}

/// Skips the tests of these modules.
fn skip<'a>(modules: &[&'a str], options: &mut Vec<&'a str>) {
    if !modules.is_empty() && !options.contains(&"--") {
        options.push("--");
    }
    options.extend(modules.iter().flat_map(|module| ["--skip", module]));
}

/// Runs the program to its end, forwards its output and counts the results in it.
fn stream(command: Command, tally: &mut Tally) -> Result<(), Error> {
    let program = process::name(&command);
    match watch(command, tally) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Failed { program, status }),
        Err(source) => Err(Error::Start { program, source }),
    }
}

/// Takes ownership of the command: its writing ends of the pipe must be closed for the output to
/// end.
fn watch(mut command: Command, tally: &mut Tally) -> io::Result<ExitStatus> {
    let (output, write) = io::pipe()?;
    command.stdout(write.try_clone()?).stderr(write);
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = command.spawn()?;
    drop(command);

    let (mut output, mut line) = (BufReader::new(output), Vec::new());
    while output.read_until(b'\n', &mut line)? > 0 {
        // Without a reader the tests still continue.
        drop(io::stdout().lock().write_all(&line));
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    child.wait()
}
