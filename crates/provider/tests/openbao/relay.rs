//! A line between the provider and OpenBao that can be held or cut: TLS passes through unchanged.

use openbao_client::endpoint::Endpoint;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What happens to bytes on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// They pass.
    Open,
    /// They are kept until the line opens.
    Held,
    /// Connections are closed, old and new.
    Cut,
}

/// Closed when dropped.
pub(crate) struct Relay {
    pub(crate) address: String,
    line: watch::Sender<Line>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// An open line to `server`, whose address must be an IP address with a port.
    pub(crate) async fn to(server: &Endpoint) -> Self {
        let server = server.address.to_string();
        let server = server.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let (line, watched) = watch::channel(Line::Open);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *watched.borrow() == Line::Cut {
                    continue;
                }
                let (read, write) = client.into_split();
                let (answers, requests) = TcpStream::connect(&server).await.unwrap().into_split();
                tokio::spawn(pass(read, requests, watched.clone()));
                tokio::spawn(pass(answers, write, watched.clone()));
            }
        });
        Self {
            address,
            line,
            accepting,
        }
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut cut = line.clone();
    let passing = async {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let opened = line.wait_for(|line| *line == Line::Open).await.is_ok();
            if !opened || to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = passing => {}
        _ = cut.wait_for(|line| *line == Line::Cut) => {}
    }
}
