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
pub mod exit;
mod failure;
mod inspect_state;
mod key_id;
mod man;
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

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{
    build_info::BuildInfo,
    config::{Environment, Flags, LoadError, Loaded},
    report::{Output, unless_unread},
};
use exit::Exit;
use failure::Failure;

/// Node-local Kubernetes KMS v2 provider backed by OpenBao Transit.
#[derive(Debug, Parser)]
#[command(
    name = "bao-kms-provider",
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
}

/// What every command may use.
struct Context<'a> {
    flags: Flags,
    arguments: Vec<OsString>,
    /// The command line, to be typed again.
    typed: String,
    environment: &'a Environment,
    out: &'a mut dyn Write,
}

/// `--output` of the commands that have it.
#[derive(Debug, Args)]
struct OutputFlag {
    /// Form of the result
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value_t,
        value_name = "FORM"
    )]
    output: Output,
}

/// Runs one command line, program name first.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let typed = typed(&arguments);
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(answer) => return show(&answer, out, err),
    };
    let mut context = Context {
        flags: cli.flags.into(),
        arguments,
        typed,
        environment,
        out,
    };
    let done = match cli.command {
        Some(command) => command.run(&mut context),
        None => print_help(context.out),
    };
    let result = done.and_then(|exit| {
        unless_unread(context.out.flush())?;
        Ok(exit)
    });
    result.unwrap_or_else(|failure| {
        // Nobody is left to tell when standard error is closed.
        failure.write(err).ok();
        failure.exit()
    })
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
    let mut line = "bao-kms-provider".to_owned();
    for argument in arguments.iter().skip(1) {
        let argument = argument.to_string_lossy();
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=./:,@+%".contains(letter);
        match !argument.is_empty() && argument.chars().all(plain) {
            true => line.push_str(&format!(" {argument}")),
            false => line.push_str(&format!(" '{}'", argument.replace('\'', r"'\''"))),
        }
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
        }
    }
}

impl Context<'_> {
    /// The checked configuration.
    fn load(&self) -> Result<Loaded, LoadError> {
        crate::config::load(&self.flags, self.environment)
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
fn show(answer: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let text = answer.render();
    let (exit, written) = if answer.use_stderr() {
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
        assert_eq!(
            line(&["x", "--etcd-snapshot", "/a b/it's", "", "$(id)"]),
            r"bao-kms-provider --etcd-snapshot '/a b/it'\''s' '' '$(id)'"
        );
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
