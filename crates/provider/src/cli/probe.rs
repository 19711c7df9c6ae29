//! `probe`: a round trip through the socket of a running provider.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use kms_domain::key_id::KeyId;
use kms_node::{
    advice::{
        self, Advice, Cause, Site,
        site::{quoted, shell},
    },
    clock::{Clock as _, SystemClock},
    duration::parse_positive,
    probe::{KmsClient, ProbeError, RoundTrip},
    process_identity::ProcessIdentity,
    report::{
        CheckName, CheckResult,
        outcome::{Nothing, Outcome, PASSED},
        table::Table,
    },
};

use super::{Context, Exit, Failure, OutputFlag, repeat::RepeatFlags, runtime};

const SOCKET: CheckName = CheckName("socket.path", "Socket");
const IDENTITY: CheckName = CheckName("client.identity", "Identity of the client");
const SCOPE: CheckName = CheckName("socket.access_scope", "Access to the socket");
const STATUS: CheckName = CheckName("kms.status", "Status");
const ENCRYPT: CheckName = CheckName("kms.encrypt", "Encrypt");
const DECRYPT: CheckName = CheckName("kms.decrypt", "Decrypt");
const CONNECT: CheckName = CheckName("socket.connect", "Connection");
const KEY_ID: CheckName = CheckName("kms.key_id", "key_id");

/// Make one Status, Encrypt and Decrypt through the socket of a running provider
///
/// Needs no configuration, credentials or state: only the right to use the socket.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The provider's socket
    #[arg(long, value_name = "PATH", default_value = "/run/openbao-kms/kms.sock")]
    socket: PathBuf,
    /// For all calls together, such as 10s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_positive)]
    timeout: Duration,
    /// Fail unless this key_id is active
    #[arg(long, value_name = "KEY_ID", value_parser = key_id)]
    expected_key_id: Option<KeyId>,
    /// Take on user and groups of the one running process of this name, such as kube-apiserver;
    /// only root can
    #[arg(long, value_name = "NAME")]
    as_process: Option<String>,
    #[command(flatten)]
    repeat: RepeatFlags,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        // Only for the commands of the steps.
        let path = context.flags.config_path(context.environment);
        let loaded = context.load().ok();
        let site = Site::new(&path, loaded.as_ref().map(|loaded| &loaded.config));

        // Given up once, the rights of root do not come back.
        let mut client = None;
        let once = |_: &mut Context<'_>| {
            let mut outcome = Outcome::new("probe", SystemClock.now(), Nothing {});
            let trip = self.check(&site, &mut outcome, &mut client)?;
            outcome.conclude_by_checks();
            if let Some((identity, trip)) = trip {
                let headline = format!(
                    "Status, Encrypt and Decrypt succeeded with key_id {}",
                    trip.key_id
                );
                outcome.conclude(PASSED, Exit::Success, headline);
                outcome.add_table(table(&identity, &trip));
            }
            Ok(outcome)
        };
        let is_good = |outcome: &Outcome| outcome.exit() == Exit::Success;
        let outcome = self.repeat.run(&self.output, context, once, is_good)?;
        Ok(outcome.exit())
    }

    fn check(
        &self,
        site: &Site<'_>,
        outcome: &mut Outcome,
        client: &mut Option<ProcessIdentity>,
    ) -> Result<Option<(ProcessIdentity, RoundTrip)>, Failure> {
        let known = client.take();
        let Some(identity) = self.client_identity(site, outcome, known) else {
            return Ok(None);
        };
        *client = Some(identity.clone());
        if !self.check_socket(site, outcome, &identity) {
            return Ok(None);
        }
        let runtime = runtime()?;
        let done = runtime.block_on(async {
            let mut client = KmsClient::new(&self.socket, self.timeout)?;
            client.round_trip(self.expected_key_id.as_ref()).await
        });
        Ok(match done {
            Ok(trip) => {
                outcome.add_checks(passed(&trip));
                Some((identity, trip))
            }
            Err(error) => {
                let advice = self.advise(site, error.cause());
                outcome.add_checks(failed(&error, advice));
                None
            }
        })
    }

    fn advise(&self, site: &Site<'_>, cause: &Cause) -> Advice {
        let socket = shell(&self.socket);
        let mut values = vec![("probed", &*socket)];
        let process = self.as_process.as_deref().map(quoted);
        if let Some(process) = &process {
            values.push(("process", process));
        }
        cause.advise(site, &values)
    }

    /// Takes on the requested identity, unless this process has it, and names it.
    fn client_identity(
        &self,
        site: &Site<'_>,
        outcome: &mut Outcome,
        known: Option<ProcessIdentity>,
    ) -> Option<ProcessIdentity> {
        let assumed = match (&self.as_process, known) {
            (_, Some(known)) => Ok(known),
            (Some(name), None) => ProcessIdentity::of_process(name).and_then(|identity| {
                identity.assume()?;
                Ok(identity)
            }),
            (None, None) => ProcessIdentity::own(),
        };
        let (check, identity) = match assumed {
            Ok(identity) if identity.uid == 0 && self.as_process.is_none() => {
                let cause = &advice::node::PROBE_UNPROVEN;
                let message = format!("{identity}: {}", cause.headline);
                let check = IDENTITY.warn(message);
                (check.because(self.advise(site, cause)), Some(identity))
            }
            Ok(identity) => {
                let check = IDENTITY.pass().message(identity.to_string());
                (check, Some(identity))
            }
            Err(error) => {
                let check = IDENTITY.fail(error.to_string());
                let advice = self.advise(site, &advice::node::PROCESS_UNKNOWN);
                (check.because(advice), None)
            }
        };
        outcome.add_checks([check]);
        identity
    }

    fn check_socket(
        &self,
        site: &Site<'_>,
        outcome: &mut Outcome,
        identity: &ProcessIdentity,
    ) -> bool {
        let path = self.socket.display();
        let problem = match fs::symlink_metadata(&self.socket) {
            Ok(_) if !self.socket.is_absolute() => format!("{path} is not an absolute path"),
            Ok(found) if found.file_type().is_socket() => {
                outcome.add_checks([SOCKET.pass().message(path.to_string())]);
                if found.uid() == identity.uid && identity.uid != 0 {
                    let cause = &advice::node::PROBE_UNPROVEN;
                    let check = SCOPE.warn(cause.headline);
                    outcome.add_checks([check.because(self.advise(site, cause))]);
                }
                return true;
            }
            Ok(_) => format!("{path} is not a socket"),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                format!("access to {path} is denied to {identity}")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("{path} does not exist")
            }
            Err(error) => format!("{path} cannot be examined: {error}"),
        };
        let advice = self.advise(site, &advice::node::SOCKET_DENIED);
        outcome.add_checks([SOCKET.fail(problem).because(advice)]);
        false
    }
}

fn table(identity: &ProcessIdentity, trip: &RoundTrip) -> Table {
    let title = format!("calls of {identity}");
    let mut table = Table::new(title, ["call", "time", "result"]);
    let encrypted = encrypted(trip);
    for (call, took, result) in [
        ("Status", trip.status, "ok"),
        ("Encrypt", trip.encrypt, &encrypted),
        ("Decrypt", trip.decrypt, "the same bytes"),
    ] {
        table.row([call, &milliseconds(took), result]);
    }
    table
}

fn milliseconds(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1e3)
}

fn encrypted(trip: &RoundTrip) -> String {
    format!(
        "{} bytes ({}...), {} annotations",
        trip.ciphertext_bytes, trip.ciphertext_prefix, trip.annotations
    )
}

fn passed(trip: &RoundTrip) -> [CheckResult; 4] {
    let encrypt = format!("{} in {}", encrypted(trip), milliseconds(trip.encrypt));
    let decrypt = format!("same bytes in {}", milliseconds(trip.decrypt));
    [
        STATUS
            .pass()
            .message(format!("ok in {}", milliseconds(trip.status))),
        ENCRYPT.pass().message(encrypt),
        DECRYPT.pass().message(decrypt),
        KEY_ID.pass().message(trip.key_id.to_string()),
    ]
}

/// The checks before the failed one passed; those after it are skipped.
fn failed(error: &ProbeError, advice: Advice) -> Vec<CheckResult> {
    let (passed, failed): (&[_], _) = match error {
        ProbeError::Connect(_) | ProbeError::Random(_) => (&[], CONNECT),
        ProbeError::Call {
            call: "Decrypt", ..
        }
        | ProbeError::WrongPlaintext => (&[STATUS, ENCRYPT], DECRYPT),
        ProbeError::Call {
            call: "Encrypt", ..
        }
        | ProbeError::EmptyCiphertext => (&[STATUS], ENCRYPT),
        ProbeError::Call { .. }
        | ProbeError::ApiVersion
        | ProbeError::Unhealthy
        | ProbeError::Timeout => (&[], STATUS),
        ProbeError::ForeignKeyId | ProbeError::UnexpectedKeyId { .. } => (&[STATUS], KEY_ID),
        ProbeError::KeyChanged => (&[STATUS, ENCRYPT], KEY_ID),
    };
    let tried = |check: &CheckName| *check == failed || passed.contains(check);
    let skipped = [STATUS, ENCRYPT, DECRYPT, KEY_ID]
        .into_iter()
        .filter(|check| !tried(check))
        .map(|name| name.skip("an earlier check failed"));
    let failed = failed.fail(error.to_string()).because(advice);
    passed
        .iter()
        .map(|name| name.pass())
        .chain([failed])
        .chain(skipped)
        .collect()
}

fn key_id(text: &str) -> Result<KeyId, &'static str> {
    KeyId::parse(text).map_err(|_| "must be obk2. and 43 characters, as Status answers it")
}
