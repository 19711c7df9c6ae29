//! Clients that misbehave: none of them keeps others out, or takes more memory or descriptors than
//! the provider can spare.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::Request;
use testkit::wait::wait_until;
use tokio::task::{JoinHandle, JoinSet};

use crate::{
    node::{Node, QUIET, TIMING},
    provider::{Provider, SOON, soon, to_decrypt},
};

const MEMORY_BOUND: f64 = 64.0 * 1024.0 * 1024.0;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty frame of settings.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn connect(socket: &Path, first: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(first).unwrap();
    stream
}

/// A connection that speaks HTTP/2, and what completes at its end.
async fn speak(socket: &Path) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let end = tokio::spawn(async move { drop(connection.await) });
    (requests, end)
}

fn request(method: &str) -> Request<()> {
    let uri = format!("http://localhost/v2.KeyManagementService/{method}");
    Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// Begins a request whose message has 60 KiB, and keeps back its last byte.
async fn begin(requests: SendRequest<Bytes>) -> Result<SendStream<Bytes>, h2::Error> {
    const MESSAGE: usize = 60 << 10;
    let mut requests = requests.ready().await?;
    let (_answer, mut body) = requests.send_request(request("Decrypt"), false)?;
    let mut bytes = vec![b'x'; 5 + MESSAGE - 1];
    bytes[0] = 0;
    bytes[1..5].copy_from_slice(&u32::try_from(MESSAGE).unwrap().to_be_bytes());
    body.send_data(bytes.into(), false)?;
    Ok(body)
}

/// Whether the other side has closed it.
fn is_closed(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

async fn evictions(provider: &Provider, reason: &str) -> f64 {
    let series = format!(r#"socket_evictions_total{{reason="{reason}"}}"#);
    provider.metric(&series).await
}

#[tokio::test]
async fn five_hundred_idle_connections_keep_nobody_out() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let socket = node.sockets.socket();
    let mut kept = provider.client();
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    kept.decrypt(to_decrypt(&encrypted)).await.unwrap();
    let before = provider.memory().await;

    // Without a preface, with half of one, and with all that makes a connection.
    let greeting = [PREFACE, SETTINGS].concat();
    let firsts = [&[][..], &PREFACE[..12], &greeting];
    let mut silent: Vec<_> = (0..500)
        .map(|number: usize| connect(&socket, firsts[number % 3]))
        .collect();
    for _ in 0..20 {
        assert_eq!(soon(provider.status()).await.healthz, "ok");
        kept.decrypt(to_decrypt(&encrypted)).await.unwrap();
    }
    let connections = provider.metric("socket_connections").await;
    assert!(connections <= 256.0, "{connections}");
    assert!(evictions(&provider, "full").await >= 244.0);
    let memory = provider.memory().await;
    assert!(memory - before < MEMORY_BOUND, "{before} to {memory}");

    wait_until(SOON, "the end of those without a preface", async || {
        let mut prefaceless = silent
            .iter_mut()
            .enumerate()
            .filter(|(number, _)| number % 3 < 2);
        prefaceless.all(|(_, stream)| is_closed(stream))
    })
    .await;
    kept.decrypt(to_decrypt(&encrypted)).await.unwrap();
}

#[tokio::test]
async fn thousands_of_unfinished_requests_take_little_memory_and_keep_nobody_out() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let socket = node.sockets.socket();
    let mut good = provider.client();
    let encrypted = provider.encrypt(b"seed").await.unwrap();
    let before = provider.memory().await;
    let mut most = before;

    let mut attacks = JoinSet::new();
    for _ in 0..4 {
        let socket = socket.clone();
        attacks.spawn(async move {
            loop {
                let (requests, end) = speak(&socket).await;
                let mut held = Vec::new();
                for _ in 0..1000 {
                    match begin(requests.clone()).await {
                        Ok(body) => held.push(body),
                        Err(_closed) => break,
                    }
                }
                end.await.unwrap();
            }
        });
    }
    let mut rounds = 0;
    wait_until(SOON, "attackers that lose their connections", async || {
        for _ in 0..10 {
            good.decrypt(to_decrypt(&encrypted)).await.unwrap();
            provider.status().await;
        }
        rounds += 1;
        most = provider.memory().await.max(most);
        rounds >= 10 && evictions(&provider, "memory").await >= 8.0
    })
    .await;
    assert!(most - before < MEMORY_BOUND, "{before} to {most}");
    println!(
        "resident memory grew by {:.1} MiB",
        (most - before) / f64::from(1 << 20)
    );
    attacks.shutdown().await;
    wait_until(SOON, "the end of the attack", async || {
        let in_flight = r#"grpc_in_flight{method="decrypt"}"#;
        provider.metric("socket_connections").await <= 2.0
            && provider.metric(in_flight).await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_request_that_does_not_end_is_refused_and_counted() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let (requests, _end) = speak(&node.sockets.socket()).await;
    let _body = begin(requests).await.unwrap();
    let refused = r#"grpc_requests_total{method="decrypt",status="deadline_exceeded"}"#;
    wait_until(SOON, "the refusal", async || {
        provider.metric(refused).await == 1.0
    })
    .await;
}

/// A connection that makes a call and takes no byte of its answer.
async fn take_nothing(socket: &Path) -> (ResponseFuture, JoinHandle<()>) {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    let end = tokio::spawn(async move { drop(connection.await) });
    let mut requests = requests.ready().await.unwrap();
    let (answer, mut body) = requests.send_request(request("Status"), false).unwrap();
    let empty = Bytes::from_static(&[0; 5]);
    body.send_data(empty, true).unwrap();
    (answer, end)
}

#[tokio::test]
async fn answers_that_nobody_takes_keep_nobody_out_and_delay_no_stop() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let socket = node.sockets.socket();
    let mut untaken = Vec::new();
    for _ in 0..256 {
        untaken.push(take_nothing(&socket).await);
    }
    let answered = r#"grpc_requests_total{method="status",status="ok"}"#;
    wait_until(SOON, "answers to all", async || {
        provider.metric(answered).await >= 256.0
    })
    .await;
    assert_eq!(soon(provider.status()).await.healthz, "ok");
    let asked = Instant::now();
    let stopped = provider.stop().await;
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    // What calls under way may take.
    assert!(asked.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn clients_leave_descriptors_for_openbao_and_the_state() {
    let node = Node::new(TIMING).await;
    let mut provider = node.spawn_with_descriptors(64);
    provider.ready().await;
    let encrypted = provider.encrypt(b"old").await.unwrap();
    let socket = node.sockets.socket();
    let greeting = [PREFACE, SETTINGS].concat();
    let _silent: Vec<_> = (0..100).map(|_| connect(&socket, &greeting)).collect();
    let addresses = [provider.health_address(), provider.metrics_url()];
    let _slow: Vec<_> = (0..50)
        .map(|number: usize| {
            let address = addresses[number % 2].trim_start_matches("http://");
            TcpStream::connect(address).unwrap()
        })
        .collect();
    assert!(provider.process_metric("process_open_fds").await < 64.0);

    let requests = vec![to_decrypt(&encrypted); 48];
    for call in provider.decrypt_each_at_once(&requests) {
        assert_eq!(call.await.unwrap().unwrap(), &b"old"[..]);
    }
    node.rotate().await;
    provider.encrypt_under(2).await;
    assert_eq!(provider.health("/ready").await.0, 200);
    let failures = r#"socket_accept_failures_total{reason="no_descriptors"}"#;
    assert_eq!(provider.metric(failures).await, 0.0);
}

#[tokio::test]
async fn slow_clients_of_the_health_listener_keep_nobody_out() {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let address = provider.health_address();
    let slow: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(b"GET /live HT").unwrap();
            stream
        })
        .collect();
    let asked = Instant::now();
    for _ in 0..10 {
        assert_eq!(soon(provider.health("/live")).await.0, 200);
        assert_eq!(soon(provider.health("/ready")).await.0, 200);
    }
    // The time that a slow client may take by itself.
    assert!(asked.elapsed() < Duration::from_secs(2));
    drop(slow);
}
