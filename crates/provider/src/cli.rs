//! The command line: one file a command, each with its options and a short run.
//!
//! Results go to the first writer, everything about failures to the second. Nothing here reads the
//! environment or ends the process.

mod benchmark;
mod compare_nodes;
mod completion;
mod config;
mod dev;
mod doctor;
mod drill;
mod etcd_source;
mod failure;
mod inspect_state;
mod key_id;
mod man;
mod pkcs11_helper;
mod policy;
mod probe;
mod progress;
mod record_backup;
mod recover_state;
mod restore_versions;
mod retire_versions;
mod review;
mod rotation_plan;
mod scan_etcd;
mod schema;
mod serve;
mod triage;
mod verify_backup;
mod verify_key;
mod verify_rotation;
mod version;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};
use kms_daemon::telemetry::log;
use kms_node::{
    advice::{Site, site::quoted},
    build_info::BuildInfo,
    clock::{Clock as _, SystemClock},
    config::{Environment, Flags, LoadError, Loaded},
    exit::Exit,
    node_files,
    report::{Output, ignore_broken_pipe, outcome::Outcome, text::Look},
};
use serde::Serialize;

use failure::{Failed, Failure};

const PROGRAM: &str = "bao-kms-provider";

/// Names of the commands, as results have them.
const COMMANDS: [&str; 26] = [
    "serve",
    "doctor",
    "triage",
    "probe",
    "dev",
    "config",
    "key-id",
    "inspect-state",
    "compare-nodes",
    "verify-key",
    "rotation-plan",
    "verify-rotation",
    "retire-versions",
    "restore-versions",
    "scan-etcd",
    "record-backup",
    "verify-backup",
    "recover-state",
    "drill",
    "benchmark",
    "policy",
    "version",
    "completion",
    "man",
    "schema",
    "pkcs11-helper",
];

/// Node-local Kubernetes KMS v2 provider backed by OpenBao Transit.
#[derive(Debug, Parser)]
#[command(
    name = PROGRAM,
    version = BuildInfo::CURRENT.version,
    after_help = "Exit codes: 0 success, 1 other failure, 2 usage, 3 configuration, \
                  4 a check failed, 5 serve failed or a store could not be read"
)]
struct Cli {
    #[command(flatten)]
    flags: GlobalFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// Refuses a global flag that the command would ignore.
    fn without_conflict(self) -> Result<Self, clap::Error> {
        if matches!(self.command, Some(Command::Dev(_))) && self.flags.config.is_some() {
            let text = "dev writes a configuration of its own, so --config has no effect; --dir names \
                        the place of the lab\n";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        Ok(self)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct GlobalFlags {
    /// Configuration file [env: BAO_KMS_PROVIDER_CONFIG] [default: /etc/openbao-kms/config.yaml]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Replaces logging.level: debug, info, warn or error
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Replaces server.metricsAddress; empty disables the listener
    #[arg(long, global = true, value_name = "HOST:PORT")]
    metrics_address: Option<String>,
    /// Replaces server.healthAddress; empty disables the listener
    #[arg(long, global = true, value_name = "HOST:PORT")]
    health_address: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Options),
    Doctor(doctor::Options),
    Triage(triage::Options),
    Probe(probe::Options),
    Dev(dev::Options),
    Config(config::Options),
    KeyId(key_id::Options),
    InspectState(inspect_state::Options),
    CompareNodes(compare_nodes::Options),
    VerifyKey(verify_key::Options),
    RotationPlan(rotation_plan::Options),
    VerifyRotation(verify_rotation::Options),
    RetireVersions(retire_versions::Options),
    RestoreVersions(restore_versions::Options),
    ScanEtcd(scan_etcd::Options),
    RecordBackup(record_backup::Options),
    VerifyBackup(verify_backup::Options),
    RecoverState(recover_state::Options),
    Drill(drill::Options),
    Benchmark(benchmark::Options),
    Policy(policy::Options),
    Version(version::Options),
    Completion(completion::Options),
    #[command(hide = true)]
    Man(man::Options),
    #[command(hide = true)]
    Schema(schema::Options),
    #[command(hide = true)]
    Pkcs11Helper(pkcs11_helper::Options),
}

/// What every command may use.
struct Context<'a> {
    flags: Flags,
    arguments: Vec<OsString>,
    line: Line,
    environment: &'a Environment,
    /// Whether results in text are coloured.
    color: bool,
    out: &'a mut dyn Write,
}

/// `--output` of the commands that have it.
#[derive(Debug, Args)]
struct OutputFlag {
    /// Output format: text or JSON
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value_t,
        value_name = "FORMAT"
    )]
    output: Output,
    /// Show every check and every row
    #[arg(long)]
    verbose: bool,
}

impl OutputFlag {
    /// Prints a result; its exit code is that of the command.
    fn show<R: Serialize>(
        &self,
        outcome: &Outcome<R>,
        context: &mut Context<'_>,
    ) -> Result<Exit, Failure> {
        let look = Look {
            color: context.color,
            verbose: self.verbose,
        };
        self.output.write(outcome, look, context.out)?;
        Ok(outcome.exit())
    }
}

/// Runs one command line, program name first.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    color: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let line = Line::of(&arguments);
    let cli = match Cli::try_parse_from(&arguments).and_then(Cli::without_conflict) {
        Ok(cli) => cli,
        Err(answer) => return show(&answer, &line, out, err),
    };
    let mut out = Counted { out, begun: false };
    let mut context = Context {
        flags: cli.flags.into(),
        arguments,
        line,
        environment,
        color,
        out: &mut out,
    };
    let done = match cli.command {
        Some(command) => command.run(&mut context),
        None => print_help(context.out),
    };
    let result = done.and_then(|exit| {
        ignore_broken_pipe(context.out.flush())?;
        Ok(exit)
    });
    let failure = match result {
        Ok(exit) => return exit,
        Err(failure) => failure,
    };
    let exit = failure.exit();
    if exit != Exit::Success {
        let loaded = context.load().ok();
        let path = context.flags.config_path(environment);
        let config = loaded.as_ref().map(|loaded| &loaded.config);
        let line = context.line;
        let advice = failure.advise(&Site::new(&path, config), &line);
        // A second document would follow the first.
        if line.json && !out.begun {
            let outcome = failure.outcome(&advice, &line, SystemClock.now());
            let written = Output::Json.write(&outcome, Look::default(), &mut out);
            written.and_then(|()| out.flush()).ok();
        }
        let mut text = Vec::new();
        // A vector takes every byte.
        failure.write(&advice, &mut text).ok();
        // Nobody is left to tell when standard error is closed.
        err.write_all(&log::of_errors(&text, environment.logs_to_journal()))
            .ok();
    }
    exit
}

/// A command line, as far as it can be read: also of one that the parser refuses.
struct Line {
    /// To be typed again.
    typed: String,
    /// The same without the options that apply a plan.
    planning: String,
    command: Option<&'static str>,
    /// Whether `--output json` is in it.
    json: bool,
}

impl Line {
    fn of(arguments: &[OsString]) -> Self {
        let texts: Vec<_> = arguments.iter().map(|it| it.to_string_lossy()).collect();
        let json = |text: &str| text.eq_ignore_ascii_case("json");
        let output = texts.iter().zip(texts.iter().skip(1));
        let mut output = output.filter(|(flag, _)| *flag == "--output");
        let mut joined = texts.iter().filter_map(|it| it.strip_prefix("--output="));
        let command = texts.iter().skip(1);
        let mut command = command.filter_map(|it| COMMANDS.into_iter().find(|name| name == it));
        let command = command.next();
        let applying: &[_] = match command {
            // Its --expected-state-hash names the state that --replace gives up.
            Some("recover-state") => &[("--apply", false), ("--expected-plan-hash", true)],
            _ => &[("--apply", false), ("--expected-state-hash", true)],
        };
        Self {
            typed: typed(arguments),
            planning: typed(&without(arguments, applying)),
            command,
            json: output.any(|(_, format)| json(format)) || joined.any(json),
        }
    }

    /// The command in results.
    fn name(&self) -> &'static str {
        self.command.unwrap_or(PROGRAM)
    }
}

/// A writer that records whether anything was written.
struct Counted<'a> {
    out: &'a mut dyn Write,
    begun: bool,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun = true;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Leaves out these flags, each with its value if it takes one.
fn without(arguments: &[OsString], left_out: &[(&str, bool)]) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let (name, has_value) = match text.split_once('=') {
            Some((name, _)) => (name, true),
            None => (&*text, false),
        };
        match left_out.iter().find(|(flag, _)| *flag == name) {
            None => kept.push(argument.clone()),
            Some((_, true)) if !has_value => {
                arguments.next();
            }
            Some(_) => {}
        }
    }
    kept
}

/// The program by its usual name, then the arguments as a shell takes them.
fn typed(arguments: &[OsString]) -> String {
    let mut line = PROGRAM.to_owned();
    for argument in arguments.iter().skip(1) {
        line.push(' ');
        line.push_str(&quoted(&argument.to_string_lossy()));
    }
    line
}

impl Command {
    fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Serve(options) => options.run(context),
            Self::Doctor(options) => options.run(context),
            Self::Triage(options) => options.run(context),
            Self::Probe(options) => options.run(context),
            Self::Dev(options) => options.run(context),
            Self::Config(options) => options.run(context),
            Self::KeyId(options) => options.run(context),
            Self::InspectState(options) => options.run(context),
            Self::CompareNodes(options) => options.run(context),
            Self::VerifyKey(options) => options.run(context),
            Self::RotationPlan(options) => options.run(context),
            Self::VerifyRotation(options) => options.run(context),
            Self::RetireVersions(options) => options.run(context),
            Self::RestoreVersions(options) => options.run(context),
            Self::ScanEtcd(options) => options.run(context),
            Self::Benchmark(options) => options.run(context),
            Self::RecordBackup(options) => options.run(context),
            Self::VerifyBackup(options) => options.run(context),
            Self::RecoverState(options) => options.run(context),
            Self::Drill(options) => options.run(context),
            Self::Policy(options) => options.run(context),
            Self::Version(options) => options.run(context),
            Self::Completion(options) => options.run(context),
            Self::Man(options) => options.run(context),
            Self::Schema(options) => options.run(context),
            Self::Pkcs11Helper(options) => options.run(context),
        }
    }
}

impl Context<'_> {
    /// The checked configuration.
    fn load(&self) -> Result<Loaded, LoadError> {
        kms_node::config::load(&self.flags, self.environment)
    }

    /// The configuration, if `serve` accepts it and the files that it names.
    fn load_for_serve(&self, environment: &Environment) -> Result<Loaded, Failure> {
        let loaded = self.load()?;
        loaded.config.auth.supported()?;
        let user = environment.effective_uid;
        if let Some((owner, uid)) = node_files::foreign_state(&loaded.config, user) {
            let directory = loaded.config.state_path.directory().to_owned();
            return Err(Failure::ForeignState {
                directory,
                owner,
                uid,
                user,
            });
        }
        let path = || loaded.path.clone();
        node_files::check(&loaded.config, &loaded.path, environment).map_err(|problems| {
            LoadError::Invalid {
                path: path(),
                problems,
            }
        })?;
        Ok(loaded)
    }

    /// The command line without these flags, each with its value if it takes one.
    fn typed_without(&self, left_out: &[(&str, bool)]) -> String {
        typed(&without(&self.arguments, left_out))
    }
}

impl From<GlobalFlags> for Flags {
    fn from(flags: GlobalFlags) -> Self {
        Self {
            config: flags.config,
            log_level: flags.log_level,
            metrics_address: flags.metrics_address,
            health_address: flags.health_address,
        }
    }
}

fn print_help(out: &mut dyn Write) -> Result<Exit, Failure> {
    write!(out, "{}", Cli::command().render_help())?;
    Ok(Exit::Success)
}

/// Help and version are results; everything else is a usage error, which may be coloured.
fn show(answer: &clap::Error, line: &Line, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let text = answer.render();
    let (exit, written) = if answer.use_stderr() {
        if line.json {
            let outcome = Failed::usage(answer, line, SystemClock.now());
            let written = Output::Json.write(&outcome, Look::default(), out);
            written.and_then(|()| out.flush()).ok();
        }
        (Exit::Usage, write!(err, "{}", text.ansi()))
    } else {
        (Exit::Success, write!(out, "{text}"))
    };
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Unclassified,
        _ => exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_typed_again_as_a_shell_takes_it() {
        let line = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
            typed(&arguments)
        };
        assert_eq!(
            line(&["/opt/x", "retire-versions", "--before-version=2"]),
            "bao-kms-provider retire-versions --before-version=2"
        );
        let odd = line(&["x", "--etcd-snapshot", "/a b/it's", "", "$(id)"]);
        assert_eq!(
            shlex::split(&odd).unwrap(),
            [
                "bao-kms-provider",
                "--etcd-snapshot",
                "/a b/it's",
                "",
                "$(id)"
            ]
        );
    }

    #[test]
    fn a_refused_command_line_still_names_its_command_and_the_output() {
        let line = |text: &str| {
            let arguments: Vec<_> = text.split(' ').map(OsString::from).collect();
            let line = Line::of(&arguments);
            (line.command, line.json)
        };
        assert_eq!(line("x doctor --output json"), (Some("doctor"), true));
        assert_eq!(
            line("x --config c key-id --output=JSON --x"),
            (Some("key-id"), true)
        );
        assert_eq!(line("x nothing --output text"), (None, false));
    }

    #[test]
    fn every_command_has_its_name_in_results() {
        let command = Cli::command();
        let names: Vec<_> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        assert_eq!(names, COMMANDS);
    }

    #[test]
    fn flags_are_left_out_with_their_values() {
        let line = [
            "x",
            "--apply",
            "--sample",
            "3",
            "--record",
            "a",
            "--hash=h",
            "--apply=x",
            "-v",
        ];
        let line: Vec<_> = line.iter().map(OsString::from).collect();
        let flags = [("--apply", false), ("--sample", true), ("--hash", true)];
        assert_eq!(
            typed(&without(&line, &flags)),
            "bao-kms-provider --record a -v"
        );
    }
}
