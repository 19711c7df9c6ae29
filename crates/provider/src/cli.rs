//! The command line: one file a command, each with its options and a short run.
//!
//! Results go to the first writer, everything about failures to the second. Nothing here reads the
//! environment or ends the process.

mod attest_flags;
mod backups;
mod benchmark;
mod cluster_flags;
mod compare_nodes;
mod completed;
mod completion;
mod config;
mod dev;
mod doctor;
mod drill;
mod etcd_source;
mod examples;
mod extract;
mod failure;
mod init;
mod inspect_state;
mod key_id;
mod man;
mod node;
mod openbao_flags;
mod pkcs11_helper;
mod policy;
mod probe;
mod progress;
mod record_backup;
mod recover_state;
mod repeat;
mod restore_versions;
mod retire_versions;
mod review;
mod rewrite;
mod rollout;
mod rotation_plan;
mod scan_etcd;
mod schema;
mod serve;
mod support_bundle;
mod triage;
mod verify_attestation;
mod verify_backup;
mod verify_key;
mod verify_rotation;
mod version;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind};
use kms_daemon::telemetry::log;
use kms_node::{
    advice::{Site, site::quoted},
    build_info::BuildInfo,
    clock::{Clock as _, SystemClock},
    config::{Environment, Flags, LoadError, Loaded},
    exit::Exit,
    node_files,
    report::{
        Output, ignore_broken_pipe, one_line,
        outcome::{OptionSource, Outcome},
        printable,
        text::Look,
    },
    state::disk::{self, DiskError},
};
use serde::Serialize;
use tokio::runtime::{self, Runtime};

use completed::{Completed, KUBEADM_ETCD};
use failure::{Failed, Failure};

const PROGRAM: &str = "bao-kms-provider";

/// Declares the commands in their groups, each by the module with its options.
macro_rules! commands {
    ($($group:literal { $($(#[$hidden:meta])? $command:ident: $module:ident, $name:literal;)* })*) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($($(#[$hidden])? #[command(name = $name)] $command($module::Options),)*)*
        }

        /// Names of the commands, as results have them.
        const COMMANDS: &[&str] = &[$($($name),*),*];

        /// The same by the headings of the help text.
        const GROUPS: &[(&str, &[&str])] = &[$(($group, &[$($name),*])),*];

        impl Command {
            fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
                match self {
                    $($(Self::$command(options) => options.run(context),)*)*
                }
            }
        }
    };
}

commands! {
    "Installation" {
        Init: init, "init";
        Node: node, "node";
    }
    "Service" {
        Serve: serve, "serve";
        Dev: dev, "dev";
    }
    "Diagnosis" {
        Triage: triage, "triage";
        Doctor: doctor, "doctor";
        Probe: probe, "probe";
        CompareNodes: compare_nodes, "compare-nodes";
        SupportBundle: support_bundle, "support-bundle";
        Benchmark: benchmark, "benchmark";
    }
    "Configuration, state and key" {
        Config: config, "config";
        InspectState: inspect_state, "inspect-state";
        VerifyKey: verify_key, "verify-key";
        KeyId: key_id, "key-id";
        Policy: policy, "policy";
    }
    "Encryption of a cluster" {
        Rollout: rollout, "rollout";
        Rewrite: rewrite, "rewrite";
    }
    "Rotation" {
        RotationPlan: rotation_plan, "rotation-plan";
        VerifyRotation: verify_rotation, "verify-rotation";
        RetireVersions: retire_versions, "retire-versions";
        RestoreVersions: restore_versions, "restore-versions";
    }
    "Backup and recovery" {
        RecordBackup: record_backup, "record-backup";
        Backups: backups, "backups";
        VerifyBackup: verify_backup, "verify-backup";
        ScanEtcd: scan_etcd, "scan-etcd";
        RecoverState: recover_state, "recover-state";
        Extract: extract, "extract";
        Drill: drill, "drill";
        VerifyAttestation: verify_attestation, "verify-attestation";
    }
    "Program" {
        Version: version, "version";
        Completion: completion, "completion";
        #[command(hide = true)]
        Man: man, "man";
        #[command(hide = true)]
        Schema: schema, "schema";
        #[command(hide = true)]
        Pkcs11Helper: pkcs11_helper, "pkcs11-helper";
    }
}

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
    fn read(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let mut command = examples::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    }

    /// Refuses a global flag that the command would ignore.
    fn without_conflict(self) -> Result<Self, clap::Error> {
        if matches!(self.command, Some(Command::Dev(_))) && self.flags.config.is_some() {
            let text = "dev writes a configuration of its own, so --config has no effect; --dir names \
                        the place of the lab\n";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        let flags = &self.flags;
        let replaced = [
            &flags.log_level,
            &flags.metrics_address,
            &flags.health_address,
        ];
        let any = flags.config.is_some() || replaced.into_iter().any(Option::is_some);
        if matches!(self.command, Some(Command::Init(_))) && any {
            let text = "init makes a configuration, so the flags of a running provider have no effect; \
                        --set has the value of a setting\n";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, text));
        }
        if matches!(self.command, Some(Command::Node(_))) && any {
            let text = "node has the configuration of its installation, so the flags of a running \
                        provider have no effect\n";
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

/// What every command may use.
struct Context<'a> {
    flags: Flags,
    /// As typed, with the options that were left out and found elsewhere.
    arguments: Vec<OsString>,
    line: Line,
    sources: Vec<OptionSource>,
    environment: &'a Environment,
    /// Whether results in text are coloured.
    color: bool,
    out: &'a mut dyn Write,
    /// Receives the result in place of `out`.
    captured: Option<&'a mut Report>,
    /// Exit code of the last result that was shown. A later failure of an output replaces only success.
    concluded: Exit,
}

/// The result of a command in both forms.
#[derive(Default)]
struct Report {
    text: Vec<u8>,
    json: Vec<u8>,
    /// Why the command ended without its own result.
    failure: Option<String>,
}

impl Report {
    fn capture<R: Serialize>(&mut self, outcome: &Outcome<R>) -> io::Result<()> {
        let look = Look {
            color: false,
            verbose: true,
        };
        Output::Text.write(outcome, look, &mut self.text)?;
        Output::Json.write(outcome, look, &mut self.json)
    }
}

/// Options of the commands with a result.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
struct OutputFlag {
    /// Output format: text, JSON or YAML
    #[arg(
        short,
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
    /// Print no result: the exit code is the answer
    #[arg(short, long, conflicts_with_all = ["output", "verbose"])]
    quiet: bool,
}

impl OutputFlag {
    /// The result as it is printed.
    fn render<R: Serialize>(
        &self,
        outcome: &Outcome<R>,
        context: &Context<'_>,
    ) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let look = Look {
            color: context.color,
            verbose: self.verbose,
        };
        if !self.quiet {
            self.output.write(outcome, look, &mut text)?;
        }
        Ok(text)
    }

    /// Prints a result; its exit code is that of the command.
    fn show<R: Serialize>(
        &self,
        outcome: &Outcome<R>,
        context: &mut Context<'_>,
    ) -> Result<Exit, Failure> {
        if let Some(report) = &mut context.captured {
            report.capture(outcome)?;
            return Ok(outcome.exit());
        }
        context.concluded = outcome.exit();
        let text = self.render(outcome, context)?;
        ignore_broken_pipe(context.out.write_all(&text))?;
        Ok(outcome.exit())
    }
}

/// `--output` and `--html` of the commands with a picture.
#[derive(Debug, Args)]
struct PageFlags {
    #[command(flatten)]
    output: OutputFlag,
    /// Also write the result to a new file, as an HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl PageFlags {
    /// Refuses an existing file before the work. The write refuses it too.
    fn require_new(&self) -> Result<(), Failure> {
        match &self.html {
            Some(path) if path.symlink_metadata().is_ok() => {
                let path = path.clone();
                Err(Failure::PageFile(DiskError::Exists { path }))
            }
            _ => Ok(()),
        }
    }

    /// Prints a result, then writes its page; its exit code is that of the command.
    fn show<R: Serialize>(
        &self,
        outcome: &Outcome<R>,
        context: &mut Context<'_>,
    ) -> Result<Exit, Failure> {
        self.output.show(outcome, context)?;
        self.write_page(outcome)
    }

    /// Writes the page of a result that is shown; its exit code is that of the command.
    fn write_page<R>(&self, outcome: &Outcome<R>) -> Result<Exit, Failure> {
        if let Some(path) = &self.html {
            let page = outcome.html();
            disk::create_new(path, page.as_bytes()).map_err(Failure::PageFile)?;
        }
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
    let typed = arguments.into_iter().collect();
    let Completed { arguments, sources } =
        Completed::new(typed, environment, Path::new(KUBEADM_ETCD));
    let line = Line::of(&arguments);
    let cli = match Cli::read(&arguments).and_then(Cli::without_conflict) {
        Ok(cli) => cli,
        Err(answer) => return show(&answer, &line, &sources, out, err),
    };
    let mut out = Counted { out, begun: false };
    let mut context = Context {
        flags: cli.flags.into(),
        arguments,
        line,
        sources,
        environment,
        color,
        out: &mut out,
        captured: None,
        concluded: Exit::Success,
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
    let exit = match context.concluded {
        Exit::Success => failure.exit(),
        concluded => concluded,
    };
    if exit != Exit::Success {
        let loaded = context.load().ok();
        let path = context.flags.config_path(environment);
        let config = loaded.as_ref().map(|loaded| &loaded.config);
        let (line, sources) = (context.line, context.sources);
        let mut advice = failure.advise(&Site::new(&path, config), &line);
        advice.exit = exit;
        // A second document would follow the first.
        if let Some(format) = line.format
            && !out.begun
        {
            let mut outcome = failure.outcome(&advice, &line, SystemClock.now());
            outcome.set_sources(&sources);
            let written = format.write(&outcome, Look::default(), &mut out);
            written.and_then(|()| out.flush()).ok();
        }
        let mut text = Vec::new();
        // A vector takes every byte.
        failure.write(&advice, &mut text).ok();
        for source in &sources {
            writeln!(text, "  note: {source}").ok();
        }
        let text = String::from_utf8_lossy(&text);
        let text = printable(&text);
        // Nobody is left to tell when standard error is closed.
        err.write_all(&log::of_errors(
            text.as_bytes(),
            environment.logs_to_journal(),
        ))
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
    /// The format of `--output`, if it is one for programs.
    format: Option<Output>,
}

impl Line {
    fn of(arguments: &[OsString]) -> Self {
        let texts: Vec<_> = arguments.iter().map(|it| it.to_string_lossy()).collect();
        let format = |text: &str| {
            let formats = [("json", Output::Json), ("yaml", Output::Yaml)];
            let mut formats = formats.into_iter();
            let found = formats.find(|(name, _)| text.eq_ignore_ascii_case(name));
            found.map(|(_, format)| format)
        };
        let next = texts.iter().zip(texts.iter().skip(1));
        let next = next.filter(|(flag, _)| matches!(&***flag, "--output" | "-o"));
        let joined = texts.iter().filter_map(|it| {
            let short = || it.strip_prefix("-o").map(|it| it.trim_start_matches('='));
            it.strip_prefix("--output=").or_else(short)
        });
        let mut formats = next.map(|(_, value)| &**value).chain(joined);
        let command = texts.iter().skip(1);
        let mut command = command.filter_map(|it| COMMANDS.iter().find(|name| *name == it));
        let command = command.next().copied();
        let applying: &[_] = match command {
            // Its --expected-state-hash names the state that --replace gives up.
            Some("recover-state") => &[("--apply", false), ("--expected-plan-hash", true)],
            Some("rewrite") => &[("--storage-version-migration", false)],
            _ => &[("--apply", false), ("--expected-state-hash", true)],
        };
        Self {
            typed: typed(arguments),
            planning: typed(&without(arguments, applying)),
            command,
            format: formats.find_map(format),
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

/// A runtime on this thread.
fn runtime() -> Result<Runtime, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::Runtime)
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

    /// The result of another command with its default options. It runs on a thread of its own:
    /// some commands become the user of the provider, which holds for their thread.
    fn report(&self, command: &str) -> Report {
        let mut arguments = vec![PROGRAM.into(), command.into(), "--verbose".into()];
        if let Some(path) = &self.flags.config {
            arguments.extend(["--config".into(), path.clone().into_os_string()]);
        }
        let (flags, environment) = (self.flags.clone(), self.environment);
        let ran = thread::scope(|scope| {
            let ran = scope.spawn(|| capture(flags, arguments, environment));
            ran.join()
        });
        ran.unwrap_or_else(|_panic| Report {
            failure: Some("the command ended unexpectedly".to_owned()),
            ..Report::default()
        })
    }

    /// Names a typed option that replaces a part of the configuration.
    fn add_source(&mut self, option: &str, value: &Option<String>) {
        let is_known = self.sources.iter().any(|it| it.option == option);
        if let (false, Some(value)) = (is_known, value) {
            self.sources.push(OptionSource {
                option: option.to_owned(),
                value: value.clone(),
                source: "command line",
            });
        }
    }

    /// The command line for a later run: without new files of this run, which exist by then.
    fn again(&self) -> String {
        self.typed_without(&[])
    }

    /// The same without these flags, each with its value if it takes one.
    fn typed_without(&self, left_out: &[(&str, bool)]) -> String {
        let written = [
            ("--html", true),
            ("--report", true),
            ("--attest", true),
            ("--sign-key", true),
            ("--sign-transit", true),
        ];
        typed(&without(
            &self.arguments,
            &[&written[..], left_out].concat(),
        ))
    }
}

impl From<GlobalFlags> for Flags {
    fn from(flags: GlobalFlags) -> Self {
        Self {
            config: flags.config,
            log_level: flags.log_level,
            metrics_address: flags.metrics_address,
            health_address: flags.health_address,
            ..Self::default()
        }
    }
}

/// Runs a command and captures its result.
fn capture(flags: Flags, arguments: Vec<OsString>, environment: &Environment) -> Report {
    let line = Line::of(&arguments);
    let path = flags.config_path(environment);
    let mut report = Report::default();
    let command = Cli::read(&arguments).ok().and_then(|cli| cli.command);
    let Some(command) = command else {
        report.failure = Some("the command is unknown".to_owned());
        return report;
    };
    let mut context = Context {
        flags,
        arguments,
        line,
        sources: Vec::new(),
        environment,
        color: false,
        out: &mut io::sink(),
        captured: Some(&mut report),
        concluded: Exit::Success,
    };
    let done = command.run(&mut context);
    if let Err(failure) = done {
        let loaded = context.load().ok();
        let config = loaded.as_ref().map(|loaded| &loaded.config);
        let line = context.line;
        let advice = failure.advise(&Site::new(&path, config), &line);
        let outcome = failure.outcome(&advice, &line, SystemClock.now());
        report.failure = Some(match report.capture(&outcome) {
            Ok(()) => one_line(&failure),
            Err(error) => error.to_string(),
        });
    }
    report
}

fn print_help(out: &mut dyn Write) -> Result<Exit, Failure> {
    write!(out, "{}", examples::command().render_help())?;
    Ok(Exit::Success)
}

/// Help and version are results; everything else is a usage error, which may be coloured.
fn show(
    answer: &clap::Error,
    line: &Line,
    sources: &[OptionSource],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let text = answer.render();
    let (exit, written) = if answer.use_stderr() {
        if let Some(format) = line.format {
            let mut outcome = Failed::usage(answer, line, SystemClock.now());
            outcome.set_sources(sources);
            let written = format.write(&outcome, Look::default(), out);
            written.and_then(|()| out.flush()).ok();
        }
        let mut text = text.ansi().to_string();
        for source in sources {
            text.push_str(&format!("note: {source}\n"));
        }
        (Exit::Usage, write!(err, "{text}"))
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
            (line.command, line.format)
        };
        let json = Some(Output::Json);
        assert_eq!(line("x doctor --output json"), (Some("doctor"), json));
        assert_eq!(
            line("x --config c key-id --output=JSON --x"),
            (Some("key-id"), json)
        );
        for short in ["-o yaml", "-oyaml", "-o=yaml"] {
            let (_, format) = line(&format!("x doctor {short}"));
            assert_eq!(format, Some(Output::Yaml), "{short}");
        }
        assert_eq!(line("x nothing --output text"), (None, None));
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
