//! Network access of a restored OpenBao, which holds production credentials and leases.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use kms_node::report::one_line;
use openbao_lab::confinement;

/// Isolation of the copy from other systems.
#[derive(Debug)]
pub struct Isolation {
    /// Interfaces with routes to other machines.
    pub interfaces: io::Result<BTreeSet<String>>,
    /// Whether the kernel denies the copy TCP connections and foreign files; otherwise the reason.
    pub confined: Result<(), String>,
}

impl Isolation {
    /// Examines this process and this kernel.
    #[must_use]
    pub fn found() -> Self {
        Self {
            interfaces: interfaces(),
            confined: confinement::trial().map_err(|error| one_line(&error)),
        }
    }

    /// Whether loopback works. In a new network namespace it exists, but is down.
    #[must_use]
    pub fn loopback_is_up() -> bool {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        listener.is_ok_and(|listener| {
            let address = listener.local_addr();
            address.and_then(TcpStream::connect).is_ok()
        })
    }

    /// Whether loopback is the only network.
    #[must_use]
    pub fn no_network(&self) -> bool {
        self.interfaces.as_ref().is_ok_and(BTreeSet::is_empty)
    }

    /// Whether one of both measures isolates the copy.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.no_network() || self.confined.is_ok()
    }
}

/// Evaluates routes rather than interfaces: the kernel may add inactive tunnel interfaces to any
/// namespace.
fn interfaces() -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (file, read) in [
        ("/proc/self/net/route", ipv4 as fn(&str) -> Option<&str>),
        ("/proc/self/net/ipv6_route", ipv6),
    ] {
        let routes = match fs::read_to_string(file) {
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            routes => routes?,
        };
        found.extend(routes.lines().filter_map(read).map(str::to_owned));
    }
    found.remove("lo");
    Ok(found)
}

const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// Fields: interface, destination, gateway, flags and more. The first line is a heading.
fn ipv4(line: &str) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let interface = fields.next()?;
    leads_somewhere(fields.nth(2)?).then_some(interface)
}

/// Flags and interface are the last two of ten fields.
fn ipv6(line: &str) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let flags = fields.nth(8)?;
    let interface = fields.next()?;
    leads_somewhere(flags).then_some(interface)
}

fn leads_somewhere(flags: &str) -> bool {
    u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UP != 0 && flags & REJECT == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_routes_that_lead_somewhere_count() {
        let heading = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask";
        assert_eq!(ipv4(heading), None);
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        assert_eq!(ipv4(default), Some("eth0"));
        let rejected = "*\t0000000A\t00000000\t0201\t0\t0\t0\t000000FF\t0\t0\t0";
        assert_eq!(ipv4(rejected), None);
        let zero = "0".repeat(32);
        let route = |flags: &str, interface: &str| {
            format!("{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 {flags}    {interface}")
        };
        assert_eq!(ipv6(&route("00000003", "eth0")), Some("eth0"));
        assert_eq!(ipv6(&route("80200001", "lo")), Some("lo"));
        assert_eq!(ipv6(&route("00200200", "lo")), None);
    }
}
