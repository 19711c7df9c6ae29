//! One running `serve`: its socket, its listeners, its log, its end.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use kms_node::kms_api::generated::{
    DecryptRequest, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_client::KeyManagementServiceClient,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::{schema::assert_fits, wait::wait_until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{interval, timeout},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::node::Finished;

/// Generous: many tests share two processors.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The outcome of `work`, which must not hang.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.unwrap()
}

/// A decryption under way.
pub(crate) type Call = JoinHandle<Result<Bytes, Status>>;

/// The reader of a provider's standard error.
pub(crate) struct LogReader(Arc<AtomicBool>);

impl LogReader {
    /// From now on nothing is read, but for what is being read.
    pub(crate) fn stall(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub(crate) fn go_on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// Killed when dropped.
pub(crate) struct Provider {
    child: Child,
    socket: PathBuf,
    out: PathBuf,
    log: PathBuf,
}

impl Provider {
    /// Starts `command`; its two output streams become files in `directory`.
    pub(crate) fn spawn(command: Command, directory: &Path, socket: PathBuf) -> Self {
        Self::spawn_on(Stdio::null(), command, directory, socket)
    }

    /// As there, with something on its standard input.
    pub(crate) fn spawn_on(
        stdin: Stdio,
        mut command: Command,
        directory: &Path,
        socket: PathBuf,
    ) -> Self {
        let [out, log] = Self::files(directory);
        let child = command
            .stdin(stdin)
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            socket,
            out,
            log,
        }
    }

    /// As [`Provider::spawn`], with a pipe as standard error, whose reader may stall.
    pub(crate) fn spawn_with_reader(
        mut command: Command,
        directory: &Path,
        socket: PathBuf,
    ) -> (Self, LogReader) {
        let [out, log] = Self::files(directory);
        let (mut pipe, stderr) = io::pipe().unwrap();
        let mut file = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(stderr)
            .spawn()
            .unwrap();
        // It holds the other end of the pipe.
        drop(command);
        let reader = LogReader(Arc::new(AtomicBool::new(true)));
        let flows = Arc::clone(&reader.0);
        thread::spawn(move || {
            let mut lines = [0; 4096];
            loop {
                while !flows.load(Ordering::Relaxed) {
                    thread::park_timeout(Duration::from_millis(10));
                }
                match pipe.read(&mut lines).unwrap() {
                    0 => return,
                    count => file.write_all(&lines[..count]).unwrap(),
                }
            }
        });
        let provider = Self {
            child,
            socket,
            out,
            log,
        };
        (provider, reader)
    }

    fn files(directory: &Path) -> [PathBuf; 2] {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        ["out", "log"].map(|kind| directory.join(format!("{number}.{kind}")))
    }

    /// Waits until the socket accepts calls.
    pub(crate) async fn ready(&mut self) {
        self.wait_for_event("serve.ready").await;
    }

    /// Waits until the log holds such an event.
    pub(crate) async fn wait_for_event(&mut self, message: &str) {
        wait_until(SOON, message, async || {
            let found = self.events(message).next().is_some();
            if !found {
                self.assert_running();
            }
            found
        })
        .await;
    }

    /// Waits until the socket accepts calls, which is `true`, or the process has ended.
    pub(crate) async fn ready_or_ended(&mut self) -> bool {
        let mut ready = false;
        wait_until(SOON, "a start or its end", async || {
            ready = self.events("serve.ready").next().is_some();
            ready || self.child.try_wait().unwrap().is_some()
        })
        .await;
        ready
    }

    pub(crate) fn assert_running(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}: {}", self.log());
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(mut self) -> Finished {
        let mut code = None;
        wait_until(SOON, "the end of the provider", async || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        })
        .await;
        Finished {
            code: code.unwrap().code(),
            out: fs::read_to_string(&self.out).unwrap(),
            err: self.log(),
        }
    }

    /// Asks the process to end and waits for it.
    pub(crate) async fn stop(self) -> Finished {
        self.signal(Signal::TERM);
        self.ended().await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What others may see of the process: arguments and environment.
    pub(crate) fn process_files(&self) -> [String; 2] {
        ["cmdline", "environ"].map(|file| {
            let path = format!("/proc/{}/{file}", self.child.id());
            match fs::read(path) {
                // A hardened process hides its environment from all but root.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => String::new(),
                read => String::from_utf8(read.unwrap()).unwrap(),
            }
        })
    }

    /// Everything on standard error so far, with every line of what has been answered.
    pub(crate) fn log(&self) -> String {
        // Lines are written by a thread of their own, which sleeps when it has written them all.
        while self.thread_state("log").is_some_and(|state| state != 'S') {
            thread::sleep(Duration::from_millis(1));
        }
        fs::read_to_string(&self.log).unwrap()
    }

    /// The state of a thread by its name, as in `/proc`; `None` without such a thread.
    fn thread_state(&self, name: &str) -> Option<char> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()?;
        let of = |thread: io::Result<fs::DirEntry>| {
            let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
            let (start, rest) = stat.rsplit_once(") ")?;
            let named = start.rsplit_once('(')?.1 == name;
            rest.chars().next().filter(|_| named)
        };
        threads.into_iter().find_map(of)
    }

    /// Where standard error goes.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// Everything on standard output so far.
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    /// The log's events with this message.
    pub(crate) fn events(&self, message: &str) -> impl Iterator<Item = Value> {
        let lines: Vec<Value> = self
            .log()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|event: &Value| event["message"] == message)
            .collect();
        lines.into_iter()
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self) -> KeyManagementServiceClient<Channel> {
        let path = format!("unix://{}", self.socket.display());
        KeyManagementServiceClient::new(Endpoint::from_shared(path).unwrap().connect_lazy())
    }

    pub(crate) async fn status(&self) -> StatusResponse {
        let answer = self.client().status(StatusRequest {}).await;
        answer.unwrap().into_inner()
    }

    pub(crate) async fn encrypt(&self, plaintext: &[u8]) -> Result<EncryptResponse, Status> {
        let request = EncryptRequest {
            plaintext: Bytes::copy_from_slice(plaintext),
            uid: "test".to_owned(),
        };
        Ok(self.client().encrypt(request).await?.into_inner())
    }

    /// Encrypts until the answer is of this version of the key; none may be refused on the way.
    pub(crate) async fn encrypt_under(&self, version: u64) -> EncryptResponse {
        let prefix = format!("vault:v{version}:");
        let mut encrypted = self.encrypt(b"seed").await.unwrap();
        wait_until(SOON, &prefix, async || {
            if encrypted.ciphertext.starts_with(prefix.as_bytes()) {
                return true;
            }
            encrypted = self.encrypt(b"seed").await.unwrap();
            false
        })
        .await;
        encrypted
    }

    /// Asserts that Encrypt refuses, as it does whenever Status is unhealthy.
    pub(crate) async fn assert_encrypt_refused(&self) {
        assert_eq!(self.status().await.healthz, "unhealthy");
        let refused = self.encrypt(b"seed").await.err().unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.message(), "status unhealthy");
    }

    /// Asks for Status all the time, until told to finish.
    pub(crate) fn watch_status(&self) -> StatusWatch {
        let (finish, mut finished) = oneshot::channel();
        let mut client = self.client();
        let watching = tokio::spawn(async move {
            let mut pace = interval(Duration::from_millis(5));
            let mut key_ids: Vec<String> = Vec::new();
            let mut last = false;
            while !last {
                last = tokio::select! {
                    biased;
                    _ = &mut finished => true,
                    _ = pace.tick() => false,
                };
                let status = client.status(StatusRequest {}).await.unwrap().into_inner();
                assert_eq!(status.healthz, "ok", "after {key_ids:?}");
                if key_ids.last() != Some(&status.key_id) {
                    key_ids.push(status.key_id);
                }
            }
            key_ids
        });
        StatusWatch { finish, watching }
    }

    pub(crate) async fn decrypt(&self, request: DecryptRequest) -> Result<Bytes, Status> {
        Ok(self.client().decrypt(request).await?.into_inner().plaintext)
    }

    /// This many calls under way at the same time, on one connection.
    pub(crate) fn decrypt_at_once(&self, count: usize, request: &DecryptRequest) -> Vec<Call> {
        self.decrypt_each_at_once(&vec![request.clone(); count])
    }

    /// As there, with one call for each request.
    pub(crate) fn decrypt_each_at_once(&self, requests: &[DecryptRequest]) -> Vec<Call> {
        let client = self.client();
        let call = |request: &DecryptRequest| {
            let (mut client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { Ok(client.decrypt(request).await?.into_inner().plaintext) })
        };
        requests.iter().map(call).collect()
    }

    /// `/live`, `/ready` or `/why`: the HTTP status and the body.
    pub(crate) async fn health(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get("health.listening", path).await;
        let body = serde_json::from_str(&body).unwrap();
        if let Some(schema @ ("ready" | "why")) = path.strip_prefix('/') {
            assert_fits(schema, &body);
        }
        (status, body)
    }

    /// The codes on `/ready`; none when it is ready.
    pub(crate) async fn reasons(&self) -> Vec<String> {
        let (status, body) = self.health("/ready").await;
        let reasons: Vec<String> = serde_json::from_value(body["reasons"].clone()).unwrap();
        assert_eq!(status == 200, reasons.is_empty(), "{body}");
        reasons
    }

    /// Waits until `/ready` gives exactly these reasons.
    pub(crate) async fn wait_for_reasons(&self, reasons: &[&str]) {
        let awaited = format!("the reasons {reasons:?}");
        wait_until(SOON, &awaited, async || self.reasons().await == reasons).await;
    }

    /// All metrics, as OpenMetrics.
    pub(crate) async fn metrics(&self) -> String {
        self.metrics_as("application/openmetrics-text").await.1
    }

    /// The content type and all metrics for a client that accepts this.
    pub(crate) async fn metrics_as(&self, accept: &str) -> (String, String) {
        let (head, body) = self.fetch("metrics.listening", "/metrics", accept).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        let content_type = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        (content_type.unwrap().1.to_owned(), body)
    }

    /// The value of one series, such as `ready` or `auth_login_total{status="ok"}`; zero when it
    /// is not there.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let series = format!("openbao_kms_{series} ");
        let metrics = self.metrics().await;
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(&series));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// How many encryptions and decryptions OpenBao was asked for, probes included.
    pub(crate) async fn transit_calls(&self) -> f64 {
        let metrics = self.metrics().await;
        let calls = [
            "transit_encrypt",
            "transit_decrypt",
            "transit_batch_decrypt",
        ]
        .map(|operation| format!(r#"openbao_requests_total{{operation="{operation}""#));
        metrics
            .lines()
            .filter(|line| calls.iter().any(|calls| line.contains(calls)))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Resident memory in bytes.
    pub(crate) async fn memory(&self) -> f64 {
        self.process_metric("process_resident_memory_bytes").await
    }

    /// The value of a metric of the process.
    pub(crate) async fn process_metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(&format!("{name} ")));
        value.unwrap().parse().unwrap()
    }

    /// Where `/live` and `/ready` are served.
    pub(crate) fn health_address(&self) -> String {
        self.address("health.listening")
    }

    /// Where `/metrics` is served.
    pub(crate) fn metrics_url(&self) -> String {
        format!("http://{}", self.address("metrics.listening"))
    }

    fn address(&self, listening: &str) -> String {
        let event = self.events(listening).next();
        event.unwrap()["address"].as_str().unwrap().to_owned()
    }

    async fn get(&self, listening: &str, path: &str) -> (u16, String) {
        let (head, body) = self.fetch(listening, path, "*/*").await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body)
    }

    /// The head and the body of an answer.
    async fn fetch(&self, listening: &str, path: &str, accept: &str) -> (String, String) {
        let address = self.address(listening);
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

/// Watches that Status is healthy.
pub(crate) struct StatusWatch {
    finish: oneshot::Sender<()>,
    watching: JoinHandle<Vec<String>>,
}

impl StatusWatch {
    /// The key_ids since the start of the watch, without repetition. Status was never unhealthy.
    pub(crate) async fn key_ids(self) -> Vec<String> {
        // A watch that has failed no longer listens, and says so below.
        self.finish.send(()).ok();
        self.watching.await.unwrap()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The request that gives back what was encrypted.
pub(crate) fn to_decrypt(encrypted: &EncryptResponse) -> DecryptRequest {
    DecryptRequest {
        ciphertext: encrypted.ciphertext.clone(),
        uid: "test".to_owned(),
        key_id: encrypted.key_id.clone(),
        annotations: encrypted.annotations.clone(),
    }
}

/// Asserts that a failed Decrypt says this sentence, this of the data, and not to delete it.
#[track_caller]
pub(crate) fn assert_decrypt_refused(refused: &Status, sentence: &str, of_the_data: &str) {
    let said = refused.message().strip_prefix(sentence);
    let advice = said.and_then(|rest| rest.strip_prefix(": "));
    let advice = advice.unwrap_or_else(|| panic!("{sentence:?} is missing: {refused:?}"));
    assert!(
        advice.contains(of_the_data),
        "{of_the_data:?} is missing: {advice}"
    );
    assert!(advice.ends_with("; do not delete the object"), "{advice}");
}
