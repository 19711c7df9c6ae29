//! `cargo xtask test`: the whole suite, and a closing count that says what was really run.
//!
//! Cargo names each test program on its standard error and the programs report on their standard
//! output. Both go through one pipe, so that a result belongs to the program named last.

mod ordinary_user;
mod tally;

use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::process::{Command, ExitStatus};

use crate::process::{self, Error, say};
use crate::tools::{self, OF_OURS, Tool};
use tally::{Server, Tally};

/// How far a run goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All that needs no Go.
    Plain,
    /// The tests of a real kube-apiserver too.
    Kubernetes,
}

/// The module of every test that is too long for each run. Such a test is ignored there.
const LONG: &str = "long::";

/// Runs the suite with the pinned OpenBao and an etcd; `options` go to `cargo test`. With `long` the
/// ignored tests of modules named `long` follow.
///
/// The whole suite, which is a run without options, must have met a real OpenBao. When it runs as
/// root, the tests of the program against OpenBao run once more as an ordinary user, because root
/// passes every permission check. A run with Kubernetes must have met a real kube-apiserver.
pub(crate) fn run(reach: Reach, long: bool, options: &[&str]) -> Result<(), Error> {
    let openbao = tools::openbao()?;
    let tools = match reach {
        Reach::Plain => tools::etcd()?,
        Reach::Kubernetes => tools::kubernetes()?,
    };
    let whole = options.is_empty();
    let mut options = options.to_vec();
    let skipped = without_program(reach, &tools);
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
        say(&format!("NOT RUN, for want of Go: the tests of {module}"));
    }
    outcome?;
    if tally.ran() == 0 {
        return Err(Error::Refused(
            "no test ran; does the filter name a test?".into(),
        ));
    }
    if whole && tally.against(Server::OpenBao) == 0 {
        return Err(Error::Refused(
            "no test ran against a real OpenBao; they are expected in test programs named `openbao`"
                .into(),
        ));
    }
    if long && tally.long() == 0 {
        return Err(Error::Refused(format!(
            "no long test ran; they are ignored tests in modules named `{}`",
            LONG.trim_end_matches(':')
        )));
    }
    if reach == Reach::Kubernetes && tally.against(Server::KubeApiserver) == 0 {
        return Err(Error::Refused(
            "no test ran against a real kube-apiserver; they are expected in test programs named \
             `kubernetes`, and without them --kubernetes has no meaning"
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
    let features: &[&str] = match reach {
        Reach::Plain => &[],
        Reach::Kubernetes => &["--features", "provider/kubernetes-tests"],
    };
    process::cargo(
        &[
            &["test", "--locked", "--no-fail-fast"],
            all,
            features,
            options,
        ]
        .concat(),
    )
}

/// Modules of tests whose program only Go makes, and that is not there.
fn without_program(reach: Reach, tools: &[Tool]) -> Vec<&'static str> {
    let missing = |variable| tools.iter().all(|tool| tool.variable != variable);
    let modules = OF_OURS
        .into_iter()
        .filter(|(_, variable)| missing(*variable));
    let modules = modules.map(|(module, _)| module);
    modules.filter(|_| reach == Reach::Kubernetes).collect()
}

/// Leaves out the tests of some modules.
fn skip<'a>(modules: &[&'a str], options: &mut Vec<&'a str>) {
    if !modules.is_empty() && !options.contains(&"--") {
        options.push("--");
    }
    options.extend(modules.iter().flat_map(|module| ["--skip", module]));
}

/// Runs the program to its end, passes its output on as it comes and counts the results in it.
fn stream(command: Command, tally: &mut Tally) -> Result<(), Error> {
    let program = process::name(&command);
    match watch(command, tally) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Failed { program, status }),
        Err(source) => Err(Error::Start { program, source }),
    }
}

/// Takes the command whole: our writing ends of the pipe must close for the output to end.
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
        // Nobody reading is no reason to break off the tests.
        drop(io::stdout().lock().write_all(&line));
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    child.wait()
}
