//! A running `serve`, observed from outside.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kms_node::kms_api::generated::{
    StatusRequest, key_management_service_client::KeyManagementServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::wait::wait_until;
use tokio::{net::UnixStream, time::sleep};
use tonic::transport::{Channel, Endpoint};

const SOON: Duration = Duration::from_secs(60);

pub(crate) type KmsClient = KeyManagementServiceClient<Channel>;

/// Killed when dropped.
pub(crate) struct Provider {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
    /// Time from the start of the process to its first response through the socket.
    pub(crate) start: Duration,
}

/// Resident memory in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: u32,
    /// Without file pages, such as the program itself.
    pub(crate) anonymous: u32,
}

impl Provider {
    pub(crate) async fn start(mut command: Command, log: PathBuf, socket: PathBuf) -> Self {
        let begin = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut provider = Self {
            child,
            socket,
            log,
            start: Duration::ZERO,
        };
        while UnixStream::connect(&provider.socket).await.is_err() {
            let ended = provider.child.try_wait().unwrap();
            let waiting = ended.is_none() && begin.elapsed() < SOON;
            assert!(waiting, "the provider is not there: {}", provider.log());
            sleep(Duration::from_millis(1)).await;
        }
        let status = provider.client().status(StatusRequest {}).await.unwrap();
        provider.start = begin.elapsed();
        assert_eq!(status.into_inner().healthz, "ok");
        provider
    }

    /// A client with its own connection.
    pub(crate) fn client(&self) -> KmsClient {
        client(&self.socket)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sum over all samples of a metric with this text in the labels.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        self.metrics()
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn memory(&self) -> Memory {
        memory(self.child.id())
    }

    /// CPU time of the process so far, in user and kernel mode.
    pub(crate) fn computed(&self) -> Duration {
        computed(self.child.id())
    }

    /// File names of the loaded shared libraries.
    pub(crate) fn libraries(&self) -> BTreeSet<String> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap();
        maps.lines()
            .filter_map(|line| {
                Path::new(line.get(line.find('/')?..)?)
                    .file_name()?
                    .to_str()
            })
            .filter(|name| name.contains(".so"))
            .map(ToOwned::to_owned)
            .collect()
    }

    /// Terminates the process and waits for its end.
    pub(crate) async fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        wait_until(SOON, "the end of the provider", async || {
            self.child.try_wait().unwrap().is_some()
        })
        .await;
    }

    fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(self.metrics_address()).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn metrics_address(&self) -> String {
        let log = self.log();
        let event = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|event| event["message"] == "metrics.listening");
        event.unwrap()["address"].as_str().unwrap().to_owned()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // Both fail only after the process has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Connects at the first call, in the runtime of that call.
pub(crate) fn client(socket: &Path) -> KmsClient {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    KeyManagementServiceClient::new(endpoint.connect_lazy())
}

/// CPU time of a process so far, in user and kernel mode.
pub(crate) fn computed(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may contain any text. Linux counts hundredths of a second.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Memory of a process.
pub(crate) fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.unwrap().trim().trim_end_matches(" kB");
        number.parse().unwrap()
    };
    Memory {
        resident: value("VmRSS:"),
        anonymous: value("RssAnon:"),
    }
}
