//! A TCP proxy between a provider and a real server, with network faults. TLS passes through
//! unchanged.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    fs,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openbao_client::endpoint::Endpoint;
use rustix::net::sockopt::set_socket_linger;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

/// Pieces that a relay holds for each direction of a connection: up to 256 KiB.
const PIECES: usize = 64;

/// Fault on the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Bytes pass.
    Open,
    /// Bytes are held until the line opens.
    Held,
    /// Bytes on connections of the process with this PID are held until the line opens.
    HeldFrom(u32),
    /// Bytes are lost without an error: the other side vanished without a FIN. New connections are
    /// accepted, and their bytes are lost too.
    Silent,
    /// Requests pass, responses are lost.
    HalfOpen,
    /// Bytes pass this time after their arrival, as over a long way.
    Delayed(Duration),
    /// Bytes pass one by one at this interval.
    Slow(Duration),
    /// Existing and new connections are closed.
    Cut,
    /// Existing and new connections are reset.
    Reset,
}

/// A relay to one server. Drop closes it.
pub struct Relay {
    /// The `https` address to give to a client.
    pub address: String,
    rules: watch::Sender<Rules>,
    server: Arc<Mutex<String>>,
    accepting: JoinHandle<()>,
}

/// Sets the line of a relay.
#[derive(Clone)]
pub struct Switch(watch::Sender<Rules>);

/// Faults by connection. Connections are numbered from 0.
#[derive(Debug, Clone, Copy)]
struct Rules {
    accepted: u64,
    line: Line,
    /// Connections below this number have this line instead.
    former: Option<(u64, Line)>,
}

impl Rules {
    fn of(&self, connection: u64) -> Line {
        match self.former {
            Some((below, line)) if connection < below => line,
            _ => self.line,
        }
    }
}

impl Relay {
    /// Starts a relay with an open line to `server`, an IP address with a port.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn to(server: &Endpoint) -> Self {
        let relay = Self::to_nobody().await;
        relay.lead_to(server);
        relay
    }

    /// Starts a relay without a server. Connections are closed until `lead_to` sets one.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn to_nobody() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap());
        let (rules, watched) = watch::channel(Rules {
            accepted: 0,
            line: Line::Open,
            former: None,
        });
        let server = Arc::default();
        Self {
            address,
            accepting: tokio::spawn(accept(
                listener,
                Arc::clone(&server),
                rules.clone(),
                watched,
            )),
            rules,
            server,
        }
    }

    /// Sets the line of all existing and new connections.
    pub fn set(&self, line: Line) {
        self.switch().set(line);
    }

    /// Sets the line of existing connections and opens it for new ones: a server behind a load
    /// balancer failed, and the balancer routes new connections elsewhere.
    pub fn set_former(&self, line: Line) {
        self.rules.send_modify(|rules| {
            rules.line = Line::Open;
            rules.former = Some((rules.accepted, line));
        });
    }

    /// Sends new connections to this server; existing ones keep theirs.
    pub fn lead_to(&self, server: &Endpoint) {
        let address = server.address.to_string();
        address
            .trim_start_matches("https://")
            .clone_into(&mut lock(&self.server));
    }

    /// As [`Self::lead_to`], to this port of 127.0.0.1.
    pub fn lead_to_port(&self, port: u16) {
        *lock(&self.server) = format!("127.0.0.1:{port}");
    }

    /// A switch for the line. It stays valid after the relay is moved.
    #[must_use]
    pub fn switch(&self) -> Switch {
        Switch(self.rules.clone())
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.rules.borrow().accepted
    }
}

impl Switch {
    /// Sets the line of all existing and new connections.
    pub fn set(&self, line: Line) {
        self.0.send_modify(|rules| {
            rules.line = line;
            rules.former = None;
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    server: Arc<Mutex<String>>,
    rules: watch::Sender<Rules>,
    watched: watch::Receiver<Rules>,
) {
    let relay_port = listener.local_addr().unwrap().port();
    let mut connections = JoinSet::new();
    while let Ok((client, peer)) = listener.accept().await {
        let mut number = 0;
        rules.send_modify(|rules| {
            number = rules.accepted;
            rules.accepted += 1;
        });
        let line = Follow {
            rules: watched.clone(),
            number,
            client_port: peer.port(),
            relay_port,
            client: Arc::default(),
        };

        let server = lock(&server).clone();
        connections.spawn(connection(client, server, line));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(client: TcpStream, server: String, mut line: Follow) {
    match line.now() {
        Line::Cut => return,
        Line::Reset => return reset(&client),
        Line::Silent => {
            // Wait until the test sets another line.
            line.becomes(|line| line != Line::Silent).await;
            return;
        }
        Line::Open
        | Line::Held
        | Line::HeldFrom(_)
        | Line::HalfOpen
        | Line::Delayed(_)
        | Line::Slow(_) => {}
    }

    // As in a partition: a server that accepts one silent connection after another for the TLS
    // handshake, as OpenBao does between its members, would be blocked by it.
    line.becomes(|line| line != Line::Held).await;
    let Ok(server) = TcpStream::connect(&server).await else {
        return;
    };
    // Else the kernel holds the end of a message of several pieces until the receiver acknowledges the
    // piece before, up to 40 ms later.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (mut asked, mut answered) = (line.clone(), line.clone());
    let mut client = client;
    let mut server = server;
    {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::select! {
            () = pass(client_read, server_write, Direction::Request, &mut asked) => {}
            () = pass(server_read, client_write, Direction::Answer, &mut answered) => {}
            () = line.becomes(|line| matches!(line, Line::Cut | Line::Reset)) => {}
        }
    }

    if line.now() == Line::Reset {
        reset(&client);
    }
}

/// With a linger time of zero, the close of the socket sends a reset.
fn reset(client: &TcpStream) {
    set_socket_linger(client, Some(Duration::ZERO)).ok();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

/// Follows the line of one connection.
#[derive(Clone)]
struct Follow {
    rules: watch::Receiver<Rules>,
    number: u64,
    client_port: u16,
    relay_port: u16,
    /// A process, and whether it is the client. Kept, because a search in `/proc` for every piece
    /// takes longer than raft waits for an answer.
    client: Arc<Mutex<Option<(u32, bool)>>>,
}

impl Follow {
    fn now(&self) -> Line {
        self.of(&self.rules.borrow())
    }

    /// Resolves `HeldFrom` for the process of the client.
    fn of(&self, rules: &Rules) -> Line {
        match rules.of(self.number) {
            Line::HeldFrom(process) if self.is_client(process) => Line::Held,
            Line::HeldFrom(_) => Line::Open,
            line => line,
        }
    }

    fn is_client(&self, process: u32) -> bool {
        let mut client = lock(&self.client);
        match *client {
            Some((known, is_client)) if known == process => is_client,
            _ => {
                let is_client = has_socket(process, self.client_port, self.relay_port);
                *client = Some((process, is_client));
                is_client
            }
        }
    }

    /// Waits forever after the relay has ended: its connections end with it.
    async fn becomes(&mut self, wanted: impl Fn(Line) -> bool) {
        while !wanted(self.now()) {
            if self.rules.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

/// Whether the process has a TCP socket from port `from` to port `to`, both on 127.0.0.1.
fn has_socket(process: u32, from: u16, to: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    // Searched as text: the table has thousands of lines while other tests run.
    let ends = format!(": 0100007F:{from:04X} 0100007F:{to:04X} ");
    let Some((_, line)) = table.split_once(&ends) else {
        return false;
    };
    let inode = line.split_ascii_whitespace().nth(6).unwrap_or_default();
    let socket = format!("socket:[{inode}]");

    let descriptors = fs::read_dir(format!("/proc/{process}/fd"));
    let mut open = descriptors.into_iter().flatten().flatten();
    open.any(|descriptor| {
        let target = fs::read_link(descriptor.path()).unwrap_or_default();
        target.as_os_str() == socket.as_str()
    })
}

/// Copies bytes until one side closes.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    line: &mut Follow,
) {
    let (arrived, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let piece = bytes.get(..count).unwrap_or_default().to_vec();
            if arrived.send((Instant::now(), piece)).await.is_err() {
                return;
            }
        }
    };

    let write = async {
        while let Some((arrival, piece)) = pieces.recv().await {
            line.becomes(|line| line != Line::Held).await;
            let passed = match (line.now(), direction) {
                (Line::Silent, _) | (Line::HalfOpen, Direction::Answer) => Ok(()),
                (Line::Slow(apart), _) => one_by_one(&piece, &mut to, apart).await,
                (Line::Delayed(later), _) => {
                    sleep_until(arrival + later).await;
                    to.write_all(&piece).await
                }
                _ => to.write_all(&piece).await,
            };
            if passed.is_err() {
                return;
            }
        }
        // A vanished server sends no FIN either.
        line.becomes(|line| line != Line::Silent).await;
    };

    // Pieces on their way still arrive after the end of their sender.
    let read_to_the_end = async {
        read.await;
        pending().await
    };
    tokio::select! {
        () = write => {}
        () = read_to_the_end => {}
    }
}

async fn one_by_one(
    piece: &[u8],
    to: &mut (impl AsyncWrite + Unpin),
    apart: Duration,
) -> std::io::Result<()> {
    for byte in piece {
        sleep(apart).await;
        to.write_all(std::slice::from_ref(byte)).await?;
    }
    Ok(())
}
