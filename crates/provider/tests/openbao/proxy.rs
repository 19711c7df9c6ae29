//! A proxy in front of OpenBao, which answers in its place when a test says so.

use std::thread::{self, JoinHandle};

use serde_json::json;
use testkit::{
    fake::{FakeOpenBao, Reply, Rule, SERVER_NAME, Seen},
    files,
    openbao::shared_openbao,
};
use tokio::{runtime, sync::oneshot};

use crate::node::Node;

/// Runs on a thread of its own, while a test waits for a command, until it is dropped.
pub(crate) struct Proxy {
    proxy: FakeOpenBao,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Puts a proxy between this node and the shared server; it passes everything on.
    pub(crate) async fn of(node: &mut Node) -> Self {
        let server = shared_openbao().await;
        let (started, proxy) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let proxy = FakeOpenBao::in_front_of(server).await;
                started.send(proxy).ok().unwrap();
                ended.await.ok();
            });
        });
        let proxy = proxy.await.unwrap();
        let ca = node.tenant.ca_file();
        files::replace(&ca, proxy.ca_pem().as_bytes(), 0o644);
        node.config["openbao"]["address"] = json!(proxy.endpoint().address.to_string());
        node.config["openbao"]["tlsServerName"] = json!(SERVER_NAME);
        Self {
            proxy,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// From now on it answers requests to this path itself, and passes on all others.
    pub(crate) fn answers(&self, path: &str, reply: Reply) {
        self.answers_what_holds(path, "", reply);
    }

    /// As there, of the requests whose body holds this text.
    pub(crate) fn answers_what_holds(&self, path: &str, holds: &str, reply: Reply) {
        self.proxy.rules([Rule {
            path: path.to_owned(),
            holds: holds.to_owned(),
            percent: 100,
            reply,
        }]);
    }

    /// From now on this percentage of the requests to these paths gets no answer.
    pub(crate) fn loses(&self, percent: u64, paths: &[&str]) {
        self.proxy.rules(paths.iter().map(|path| Rule {
            path: (*path).to_owned(),
            holds: String::new(),
            percent,
            reply: Reply::Hang,
        }));
    }

    /// The requests so far that it answered itself, or lost.
    pub(crate) fn ruled(&self) -> usize {
        self.proxy.ruled()
    }

    /// It passes everything on.
    pub(crate) fn passes(&self) {
        self.proxy.rules([]);
    }

    /// The requests to this path so far.
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        let mut seen = self.proxy.seen();
        seen.retain(|request| request.target.ends_with(path));
        seen
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().map(JoinHandle::join);
    }
}
