//! `probe`: a round trip through the socket of a running provider.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use kms_domain::key_id::KeyId;
use tokio::runtime;

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{
    clock::{Clock as _, SystemClock},
    config::positive_duration,
    probe::{KmsClient, ProbeError, RoundTrip},
    process_identity::ProcessIdentity,
    report::{Check, Report},
};

const SOCKET: (&str, &str) = ("socket.path", "Socket");
const STATUS: (&str, &str) = ("kms.status", "KMS Status");
const ENCRYPT: (&str, &str) = ("kms.encrypt", "KMS Encrypt");
const DECRYPT: (&str, &str) = ("kms.decrypt", "KMS Decrypt");
const KEY_ID: (&str, &str) = ("kms.key_id", "Key ID");

/// Make one Status, Encrypt and Decrypt through the socket of a running provider
///
/// Needs no configuration, credentials or state: only the right to use the socket.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The provider's socket
    #[arg(long, value_name = "PATH", default_value = "/run/openbao-kms/kms.sock")]
    socket: PathBuf,
    /// For all calls together, such as 10s
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = positive_duration)]
    timeout: Duration,
    /// Fail unless this key_id is active
    #[arg(long, value_name = "KEY_ID", value_parser = key_id)]
    expected_key_id: Option<KeyId>,
    /// Take on user and groups of the one running process of this name, such as kube-apiserver;
    /// only root can
    #[arg(long, value_name = "NAME")]
    as_process: Option<String>,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let mut report = Report::new("probe", SystemClock.now());
        self.check(&mut report)?;
        self.output.output.write(&report, context.out)?;
        Ok(report.exit())
    }

    fn check(&self, report: &mut Report) -> Result<(), Failure> {
        let identity = self.client_identity(report);
        let Some(identity) = identity else {
            return Ok(());
        };
        if !self.check_socket(report, &identity) {
            return Ok(());
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::Runtime)?;
        let outcome = runtime.block_on(async {
            let mut client = KmsClient::new(&self.socket, self.timeout)?;
            client.round_trip(self.expected_key_id.as_ref()).await
        });
        match outcome {
            Ok(trip) => report_success(report, &trip),
            Err(error) => report_failure(report, &error),
        }
        Ok(())
    }

    /// Takes on the identity that was asked for, and says which one it is.
    fn client_identity(&self, report: &mut Report) -> Option<ProcessIdentity> {
        const ID: &str = "client.identity";
        const TITLE: &str = "Client identity";
        let assumed = match &self.as_process {
            Some(name) => ProcessIdentity::of_process(name).and_then(|identity| {
                identity.assume()?;
                Ok(identity)
            }),
            None => ProcessIdentity::own(),
        };
        match assumed {
            Ok(identity) if identity.uid == 0 && self.as_process.is_none() => {
                let remark = format!(
                    "{identity}: root can open any socket, so this proves nothing about another user's access"
                );
                report.push(
                    Check::warn(ID, TITLE, remark)
                        .remediation("repeat with --as-process kube-apiserver"),
                );
                Some(identity)
            }
            Ok(identity) => {
                report.push(Check::pass(ID, TITLE).message(identity.to_string()));
                Some(identity)
            }
            Err(error) => {
                report.push(Check::fail(ID, TITLE, error.to_string()));
                None
            }
        }
    }

    fn check_socket(&self, report: &mut Report, identity: &ProcessIdentity) -> bool {
        let (id, title) = SOCKET;
        let path = self.socket.display();
        let problem = match fs::symlink_metadata(&self.socket) {
            Ok(_) if !self.socket.is_absolute() => format!("{path} is not an absolute path"),
            Ok(found) if found.file_type().is_socket() => {
                report.push(Check::pass(id, title).message(path.to_string()));
                if found.uid() == identity.uid && identity.uid != 0 {
                    report.push(
                        Check::warn(
                            "socket.access_scope",
                            "Socket access",
                            "this user owns the socket, so access through its group is not shown",
                        )
                        .remediation("repeat as the API server's user"),
                    );
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
            Err(error) => format!("{path} cannot be looked at: {error}"),
        };
        report.push(
            Check::fail(id, title, problem)
                .impact("an API server with this identity cannot read or write encrypted objects; no data is lost")
                .remediation("is the provider running, and is the caller in the socket's group? See server.socketPath and server.socketGroup"),
        );
        false
    }
}

fn report_success(report: &mut Report, trip: &RoundTrip) {
    let ms = |took: Duration| format!("{:.2} ms", took.as_secs_f64() * 1e3);
    let (id, title) = STATUS;
    report.push(Check::pass(id, title).message(format!("ok in {}", ms(trip.status))));
    let (id, title) = ENCRYPT;
    let message = format!(
        "{} bytes ({}...), {} annotations in {}",
        trip.ciphertext_bytes,
        trip.ciphertext_prefix,
        trip.annotations,
        ms(trip.encrypt)
    );
    report.push(Check::pass(id, title).message(message));
    let (id, title) = DECRYPT;
    report.push(Check::pass(id, title).message(format!("same bytes in {}", ms(trip.decrypt))));
    let (id, title) = KEY_ID;
    report.push(Check::pass(id, title).message(trip.key_id.to_string()));
}

/// What came before the failed check has passed; what comes after it was not tried.
fn report_failure(report: &mut Report, error: &ProbeError) {
    let (passed, failed): (&[_], _) = match error {
        ProbeError::Connect(_) | ProbeError::Random(_) => (&[], ("socket.connect", "Connection")),
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
    for (id, title) in passed {
        report.push(Check::pass(id, title));
    }
    let (id, title) = failed;
    report.push(Check::fail(id, title, error.to_string()));
    let tried = |check| check == failed || passed.contains(&check);
    for check in [STATUS, ENCRYPT, DECRYPT, KEY_ID] {
        if !tried(check) {
            report.push(Check::skip(check.0, check.1, "an earlier check failed"));
        }
    }
}

fn key_id(text: &str) -> Result<KeyId, &'static str> {
    KeyId::parse(text).map_err(|_| "must be obk2. and 43 characters, as Status answers it")
}
