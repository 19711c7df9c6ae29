//! Another KMS v2 plugin beside this provider, in turns, on the same OpenBao.

use std::{
    env,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{files::SocketDir, tenant::KEY};
use tokio::{net::UnixStream, time::sleep};

use crate::{
    Extent, Progress,
    figures::SocketCalls,
    load::{self, Call, Sample, Side},
    provider_process::{self, Provider},
    report::{Report, Row},
    stage::Stage,
};

const SOON: Duration = Duration::from_secs(60);
const CROWD: usize = 64;

/// A plugin that serves already, or a program started for the measurement.
pub(crate) struct Peer {
    socket: PathBuf,
    started: Option<(Child, SocketDir)>,
}

impl Peer {
    /// A program gets the measured OpenBao, a token, the key and the path of its socket in its
    /// environment.
    pub(crate) async fn start(path: &Path, stage: &Stage) -> Self {
        let mut peer = if path.metadata().unwrap().file_type().is_socket() {
            let (socket, started) = (path.to_owned(), None);
            Self { socket, started }
        } else {
            Self::spawn(path, stage).await
        };
        let begin = Instant::now();
        while UnixStream::connect(&peer.socket).await.is_err() {
            let child = peer.started.as_mut();
            let ended = child.and_then(|(child, _)| child.try_wait().unwrap());
            let waiting = ended.is_none() && begin.elapsed() < SOON;
            assert!(waiting, "the peer is not at {}", peer.socket.display());
            sleep(Duration::from_millis(10)).await;
        }
        peer
    }

    async fn spawn(program: &Path, stage: &Stage) -> Self {
        let tenant = &stage.tenant;
        let limits = json!({"policies": [tenant.policy], "ttl": "1h"});
        let admin = stage.server.admin();
        let created = admin.write("auth/token/create", &limits).await.unwrap();
        let created: Value = created.json().unwrap();
        let sockets = SocketDir::new();
        let socket = sockets.socket();
        let child = Command::new(program)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("BAO_ADDR", stage.server.endpoint().address.to_string())
            .env("BAO_CACERT", tenant.ca_file())
            .env(
                "BAO_TOKEN",
                created["auth"]["client_token"].as_str().unwrap(),
            )
            .env("TRANSIT_MOUNT", &tenant.transit_mount)
            .env("TRANSIT_KEY", KEY)
            .env("KMS_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Some((child, sockets));
        Self { socket, started }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.started {
            // Both fail only after the process has ended.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Each kind of call through the provider and through the peer.
pub(crate) async fn measure(
    peer: &Peer,
    provider: &Provider,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    let (ours, _) = SocketCalls::prepare(provider.client()).await;
    let (theirs, _) = SocketCalls::prepare(provider_process::client(&peer.socket)).await;

    let pairs: [(&str, &Call, &Call); 3] = [
        ("status", &ours.status, &theirs.status),
        ("encrypt", &ours.encrypt, &theirs.encrypt),
        ("decrypt", &ours.decrypt, &theirs.decrypt),
    ];
    for (name, ours, theirs) in pairs {
        for (in_flight, block) in [(1, extent.alone), (CROWD, extent.crowded)] {
            let sides = [ours, theirs].map(|call| Side {
                call,
                in_flight,
                block,
            });
            let rounds = load::in_turns(extent.rounds, sides, |round| {
                progress.say(&format!(
                    "peer, {name}, {in_flight} in flight, round {round}"
                ));
            })
            .await;
            let named = |what: &str| format!("peer.{name}.{in_flight}.{what}");
            report.push(Row::of(named("p50"), "ms", &rounds, |it| it.percentile(50)));
            let rate = Row::of(named("rate"), "calls/s", &rounds, Sample::calls_per_second);
            report.push(rate);
        }
    }
    if let Some((child, _)) = &peer.started {
        let (ours, theirs) = (provider.memory(), provider_process::memory(child.id()));
        let mebibytes = |kibibytes: u32| f64::from(kibibytes) / 1024.0;
        let (ours, theirs) = (mebibytes(ours.resident), mebibytes(theirs.resident));
        let row = Row::new("peer.memory.resident", ours, "MiB");
        report.push(row.beside(theirs, ours / theirs));
    }
}
