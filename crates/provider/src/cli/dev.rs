//! `dev`: the lab mode.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use kms_daemon::{
    lifecycle::{self, Hangup},
    serve::{ServeError, serve},
    telemetry::log,
};
use kms_node::{
    advice::NextStep,
    clock::{Clock as _, SystemClock},
    probe::{KmsClient, ProbeError, RoundTrip},
    report::{
        outcome::{Outcome, PASSED},
        shell,
        table::Table,
    },
    state::MissingCheckpoint,
};
use openbao_lab::binary::find_bao;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;

use super::{Context, Exit, Failure, OutputFlag, runtime};
use crate::dev::Lab;

const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// Serve from a private, real OpenBao in a directory of its own: a lab, not for keys that matter
///
/// Starts OpenBao with TLS and raft storage on loopback, sets up Transit, policy and JWT login,
/// writes a configuration, and serves until Ctrl-C. Then everything is removed again.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A new directory for the lab [default: a temporary one beside the socket]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// The `bao` program [default: BAO_BIN, then PATH, then target/tools]
    #[arg(long, value_name = "PATH")]
    bao: Option<PathBuf>,
    /// Make one Status, Encrypt and Decrypt, print a summary, and end
    #[arg(long)]
    once: bool,
    /// Leave the lab's files in place at the end
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: OutputFlag,
}

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let bao = find_bao(self.bao.as_deref())?;
        let program = bao.path().to_owned();
        lifecycle::prepare();
        let runtime = runtime()?;
        let done = runtime.block_on(async {
            let stop = lifecycle::stop_signal(Hangup::Stops).map_err(Failure::Runtime)?;
            let told = |step: std::fmt::Arguments<'_>| {
                // Progress is a courtesy.
                drop(writeln!(anstream::stderr(), "lab: {step}"));
            };
            let (dir, flags) = (self.dir.clone(), &context.flags);
            let lab = Lab::set_up(bao, dir, flags, context.environment, told).await?;
            let logging = &lab.loaded.config.logging;
            log::start(logging.level, logging.format);
            log::write_lines().map_err(Failure::Runtime)?;
            tracing::warn!(
                directory = %lab.directory().display(),
                problem = "its keys are not safe and go away with it",
                "lab.warning"
            );
            let done = if self.once {
                self.once(&lab, &program, stop, context).await
            } else {
                self.stay(&lab, stop, context).await
            };
            lab.take_down(self.keep).await?;
            done
        });
        runtime.shutdown_background();
        log::flush();
        done
    }

    /// One round trip through the socket.
    async fn once(
        &self,
        lab: &Lab,
        bao: &Path,
        interrupted: impl Future<Output = &'static str>,
        context: &mut Context<'_>,
    ) -> Result<Exit, Failure> {
        let (ready, is_ready) = oneshot::channel();
        let (done, is_done) = oneshot::channel::<()>();
        let stop = async {
            tokio::select! {
                _ = is_done => {}
                _ = interrupted => {}
            }
        };
        let ready = || {
            let _sent = ready.send(());
        };
        let serving = serve(
            &lab.loaded.config,
            MissingCheckpoint::Refuse,
            None,
            ready,
            stop,
        );
        let trying = async {
            let tried = match is_ready.await {
                Ok(()) => round_trip(&lab.socket).await,
                // Serving ended first; its own error says why.
                Err(_never_ready) => Err(ProbeError::Timeout),
            };
            drop(done);
            tried
        };
        let (served, tried) = tokio::join!(serving, trying);
        served.map_err(of_lab)?;
        let trip = tried.map_err(Failure::LabProbe)?;
        let outcome = Summary::outcome(&trip, bao, lab.directory(), self.keep);
        self.output.show(&outcome, context)
    }

    /// Serves until a signal.
    async fn stay(
        &self,
        lab: &Lab,
        stop: impl Future<Output = &'static str>,
        context: &mut Context<'_>,
    ) -> Result<Exit, Failure> {
        let mut shown = Ok(Exit::Success);
        let ready = || {
            let made = Made::outcome(lab, self.keep);
            shown = self.output.show(&made, context).and_then(|exit| {
                context.out.flush()?;
                Ok(exit)
            });
        };
        serve(
            &lab.loaded.config,
            MissingCheckpoint::Refuse,
            None,
            ready,
            async {
                stop.await;
            },
        )
        .await
        .map_err(of_lab)?;
        shown
    }
}

fn of_lab(error: ServeError) -> Failure {
    Failure::LabServe(Box::new(error))
}

async fn round_trip(socket: &Path) -> Result<RoundTrip, ProbeError> {
    let mut client = KmsClient::new(socket, PROBE_DEADLINE)?;
    client.round_trip(None).await
}

/// The members of `dev --once`: a round trip.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary<'a> {
    bao: &'a Path,
    key_id: &'a str,
    ciphertext_bytes: usize,
    ciphertext_prefix: &'a str,
    annotations: usize,
    status_ms: f64,
    encrypt_ms: f64,
    decrypt_ms: f64,
    /// Only with `--keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'a Path>,
}

impl<'a> Summary<'a> {
    fn outcome(
        trip: &'a RoundTrip,
        bao: &'a Path,
        directory: &'a Path,
        keep: bool,
    ) -> Outcome<Self> {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let members = Self {
            bao,
            key_id: trip.key_id.as_str(),
            ciphertext_bytes: trip.ciphertext_bytes,
            ciphertext_prefix: &trip.ciphertext_prefix,
            annotations: trip.annotations,
            status_ms: ms(trip.status),
            encrypt_ms: ms(trip.encrypt),
            decrypt_ms: ms(trip.decrypt),
            kept: keep.then_some(directory),
        };
        let mut facts = Table::new("round trip", ["name", "value"]);
        facts.facts("bao", [bao.display()]);
        facts.facts("key_id", [members.key_id]);
        let ciphertext = format!(
            "{} bytes, {}..., {} annotations",
            members.ciphertext_bytes, members.ciphertext_prefix, members.annotations
        );
        facts.facts("ciphertext", [ciphertext]);
        for (call, ms) in [
            ("Status", members.status_ms),
            ("Encrypt", members.encrypt_ms),
            ("Decrypt", members.decrypt_ms),
        ] {
            facts.row([call, &format!("{ms:.2} ms")]);
        }
        let lab = match members.kept {
            Some(directory) => format!("stopped, with its files in {}", directory.display()),
            None => "stopped and removed".to_owned(),
        };
        facts.row(["lab", &lab]);

        let mut outcome = Outcome::new("dev", SystemClock.now(), members);
        outcome.conclude(
            PASSED,
            Exit::Success,
            "a key was wrapped and unwrapped through KMS v2 with a real OpenBao",
        );
        outcome.add_table(facts);
        outcome
    }
}

/// The members of `dev`: the parts of a lab.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made<'a> {
    directory: &'a Path,
    socket: &'a Path,
    config: PathBuf,
    bao_addr: String,
    bao_ca_cert: PathBuf,
    root_token_file: PathBuf,
    keep: bool,
}

impl<'a> Made<'a> {
    fn outcome(lab: &'a Lab, keep: bool) -> Outcome<Self> {
        let (directory, socket) = (lab.directory(), &lab.socket);
        let members = Self {
            directory,
            socket,
            config: directory.join("config.yaml"),
            bao_addr: lab.address(),
            bao_ca_cert: lab.ca_file(),
            root_token_file: directory.join("root-token"),
            keep,
        };
        let state = directory.join("state/key-registry.json");
        let steps = [
            (
                "make a round trip",
                format!("bao-kms-provider probe --socket {}", shell(socket)),
            ),
            (
                "see its settings",
                format!(
                    "bao-kms-provider config --config {}",
                    shell(&members.config)
                ),
            ),
            (
                "see its state",
                format!("bao-kms-provider inspect-state {}", shell(&state)),
            ),
            (
                "use its OpenBao",
                format!(
                    "export BAO_ADDR={} BAO_CACERT={} BAO_TOKEN=$(cat {})",
                    members.bao_addr,
                    shell(&members.bao_ca_cert),
                    shell(&members.root_token_file)
                ),
            ),
            (
                "read its key",
                "bao read transit/keys/kubernetes-etcd".to_owned(),
            ),
        ];
        let end = match keep {
            true => "press Ctrl-C to stop it; its files stay",
            false => "press Ctrl-C to stop and remove it",
        };
        let headline = format!("the lab serves KMS v2 on {}", socket.display());
        let mut outcome = Outcome::new("dev", SystemClock.now(), members);
        outcome.conclude(PASSED, Exit::Success, headline);
        for (text, command) in steps {
            outcome.add_step(NextStep::run(text, command));
        }
        outcome.add_step(NextStep::act(end));
        outcome
    }
}
