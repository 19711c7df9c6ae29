//! Ports for a server that cannot be asked which one it took.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
};

/// Below the range from which Linux takes the ports of outgoing connections, so that those of other
/// programs do not take ours between choosing and binding.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// When a hundred ports are all taken, what stood in the way of the last.
pub fn free_port() -> io::Result<u16> {
    let mut attempts = 100;
    loop {
        let mut random = [0; 2];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random bytes"))?;
        let port = PORTS.start + u16::from_ne_bytes(random) % (PORTS.end - PORTS.start);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) if attempts == 0 => return Err(error),
            Err(_) => attempts -= 1,
        }
    }
}
