//! `dev`: the lab mode.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use openbao_lab::binary::find_bao;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::{runtime, sync::oneshot};

use super::{Context, Failure, OutputFlag, exit::Exit};
use crate::{
    dev::Lab,
    lifecycle::{self, Hangup},
    probe::{KmsClient, ProbeError, RoundTrip},
    report::Render,
    serve::serve,
    state::MissingCheckpoint,
    telemetry::log,
};

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
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::Runtime)?;
        let done = runtime.block_on(async {
            let stop = lifecycle::stop_signal(Hangup::Stops).map_err(Failure::Runtime)?;
            let told = |step: std::fmt::Arguments<'_>| {
                // Progress is a courtesy.
                drop(writeln!(anstream::stderr(), "lab: {step}"));
            };
            let lab = Lab::set_up(bao, self.dir.clone(), context.environment, told).await?;
            let logging = &lab.loaded.config.logging;
            log::start(logging.level, logging.format);
            log::write_lines().map_err(Failure::Runtime)?;
            tracing::warn!(
                directory = %lab.directory().display(),
                problem = "its keys are not safe and go away with it",
                "lab.warning"
            );
            let done = if self.once {
                self.once(&lab, &program, stop, context.out).await
            } else {
                self.stay(&lab, stop, context.out).await
            };
            lab.take_down(self.keep).await?;
            done
        });
        runtime.shutdown_background();
        log::flush();
        done.map(|()| Exit::Success)
    }

    /// One round trip through the socket.
    async fn once(
        &self,
        lab: &Lab,
        bao: &Path,
        interrupted: impl Future<Output = &'static str>,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
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
        served?;
        let trip = tried.map_err(Failure::LabProbe)?;
        let summary = Summary::of(&trip, bao, lab.directory(), self.keep);
        Ok(self.output.output.write(&summary, out)?)
    }

    /// Serves until a signal.
    async fn stay(
        &self,
        lab: &Lab,
        stop: impl Future<Output = &'static str>,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let mut shown = Ok(());
        let ready = || {
            let made = Made::of(lab, self.keep);
            shown = self
                .output
                .output
                .write(&made, out)
                .and_then(|()| out.flush());
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
        .await?;
        Ok(shown?)
    }
}

async fn round_trip(socket: &Path) -> Result<RoundTrip, ProbeError> {
    let mut client = KmsClient::new(socket, PROBE_DEADLINE)?;
    client.round_trip(None).await
}

/// What one round trip showed.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary<'a> {
    schema_version: &'static str,
    command: &'static str,
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
    fn of(trip: &'a RoundTrip, bao: &'a Path, directory: &'a Path, keep: bool) -> Self {
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        Self {
            schema_version: "v1",
            command: "dev",
            bao,
            key_id: trip.key_id.as_str(),
            ciphertext_bytes: trip.ciphertext_bytes,
            ciphertext_prefix: &trip.ciphertext_prefix,
            annotations: trip.annotations,
            status_ms: ms(trip.status),
            encrypt_ms: ms(trip.encrypt),
            decrypt_ms: ms(trip.decrypt),
            kept: keep.then_some(directory),
        }
    }
}

impl Render for Summary<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "A key was wrapped and unwrapped through KMS v2 with a real OpenBao."
        )?;
        writeln!(out, "  bao         {}", self.bao.display())?;
        writeln!(out, "  key_id      {}", self.key_id)?;
        writeln!(
            out,
            "  ciphertext  {} bytes, {}..., {} annotations",
            self.ciphertext_bytes, self.ciphertext_prefix, self.annotations
        )?;
        writeln!(out, "  Status      {:.2} ms", self.status_ms)?;
        writeln!(out, "  Encrypt     {:.2} ms", self.encrypt_ms)?;
        writeln!(out, "  Decrypt     {:.2} ms", self.decrypt_ms)?;
        match self.kept {
            Some(directory) => writeln!(out, "The lab's files stay in {}", directory.display()),
            None => writeln!(out, "The lab is stopped and removed."),
        }
    }
}

/// What a lab consists of.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made<'a> {
    schema_version: &'static str,
    command: &'static str,
    directory: &'a Path,
    socket: &'a Path,
    config: PathBuf,
    bao_addr: String,
    bao_ca_cert: PathBuf,
    root_token_file: PathBuf,
    keep: bool,
}

impl<'a> Made<'a> {
    fn of(lab: &'a Lab, keep: bool) -> Self {
        let directory = lab.directory();
        Self {
            schema_version: "v1",
            command: "dev",
            directory,
            socket: &lab.socket,
            config: directory.join("config.yaml"),
            bao_addr: lab.address(),
            bao_ca_cert: lab.ca_file(),
            root_token_file: directory.join("root-token"),
            keep,
        }
    }
}

impl Render for Made<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let config = self.config.display();
        writeln!(out, "The lab serves KMS v2 on {}", self.socket.display())?;
        writeln!(out, "Everything it made is in {}", self.directory.display())?;
        writeln!(out, "Try in another terminal:")?;
        writeln!(
            out,
            "  bao-kms-provider probe --socket {}",
            self.socket.display()
        )?;
        writeln!(out, "  bao-kms-provider config --config {config}")?;
        let state = self.directory.join("state/key-registry.json");
        writeln!(out, "  bao-kms-provider inspect-state {}", state.display())?;
        writeln!(
            out,
            "  export BAO_ADDR={} BAO_CACERT={}",
            self.bao_addr,
            self.bao_ca_cert.display()
        )?;
        writeln!(
            out,
            "  export BAO_TOKEN=$(cat {})",
            self.root_token_file.display()
        )?;
        writeln!(out, "  bao read transit/keys/kubernetes-etcd")?;
        let end = if self.keep {
            "stop it; its files stay"
        } else {
            "stop and remove it"
        };
        writeln!(out, "Press Ctrl-C to {end}.")
    }
}
