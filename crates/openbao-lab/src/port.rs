//! Ports for a server that cannot be asked which one it took.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Below the range from which Linux takes the ports of outgoing connections, so that those of other
/// programs do not take ours between choosing and binding.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A process gives no port out a second time until it has tried them all, so that a server that is
/// down finds its port free when it comes back. Another process begins elsewhere.
static NEXT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().build_hasher().finish()));

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// When a hundred ports are all taken, what stood in the way of the last.
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
