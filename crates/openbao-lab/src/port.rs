//! Ports for servers that cannot report their own choice of port.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Below the Linux range for outgoing connections: a connection of another program cannot take the
/// port between choice and bind.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A process reuses a port only after all others, so that a stopped server finds its port free at
/// its next start. Each process begins at a random port.
static NEXT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().build_hasher().finish()));

/// Returns a port of 127.0.0.1 that was just free.
///
/// # Errors
/// The error of the last attempt, after 101 taken ports.
pub fn free_port() -> io::Result<u16> {
    let mut attempts = 100;
    loop {
        let place = NEXT.fetch_add(1, Ordering::Relaxed) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(place).map_err(io::Error::other)?;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if attempts == 0 => return Err(error),
            Err(_) => attempts -= 1,
        }
    }
}
