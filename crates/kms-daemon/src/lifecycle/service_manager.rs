//! Notifications to systemd by the protocol of `sd_notify(3)`: the duration of a start, readiness,
//! a stop, and the watchdog signal of the serving thread. Without a listening service manager,
//! nothing is sent.

use std::{
    convert::Infallible,
    future::pending,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use kms_node::config::Environment;
use tokio::time::{MissedTickBehavior, interval};

/// Time of a start in addition to the first contact with OpenBao.
const START_MARGIN: Duration = Duration::from_secs(30);

/// The service manager of this process, if it listens for notifications.
#[derive(Debug)]
pub struct ServiceManager {
    listener: Option<Listener>,
    watchdog: Option<Duration>,
}

#[derive(Debug)]
struct Listener {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl ServiceManager {
    /// Finds and connects to the manager. It connects immediately, because the [sandbox] may later
    /// deny access to the socket.
    ///
    /// [sandbox]: kms_node::hardening::sandbox
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let listener = environment
            .variable("NOTIFY_SOCKET")
            .and_then(|name| Listener::connect(name).ok());
        Self {
            listener,
            watchdog: watchdog(environment, std::process::id()),
        }
    }

    /// Extends the start timeout to `at_most` plus a margin, overriding the limit of the unit.
    pub fn starting(&self, at_most: Duration) {
        let limit = at_most.saturating_add(START_MARGIN).as_micros();
        self.tell(&format!(
            "EXTEND_TIMEOUT_USEC={limit}\nSTATUS=waiting for OpenBao"
        ));
    }

    /// Reports readiness: the socket accepts calls.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// Reports a stop: new calls are refused.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing calls under way");
    }

    /// Sends two watchdog signals per period while this future is polled. Await it in the serving
    /// task; it never ends.
    pub async fn keep_alive(&self) -> Infallible {
        let Some(period) = self.watchdog else {
            return pending().await;
        };
        let mut beat = interval(period / 2);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    /// Send errors are ignored: the manager itself reacts to missing notifications.
    fn tell(&self, message: &str) {
        if let Some(listener) = &self.listener {
            listener.send(message).ok();
        }
    }
}

impl Listener {
    /// `@` stands for the abstract namespace.
    fn connect(name: &str) -> io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A slow manager must not block serving.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self { socket, address })
    }

    /// Reconnects once, because the manager may have recreated its socket.
    fn send(&self, message: &str) -> io::Result<usize> {
        let message = message.as_bytes();
        self.socket.send(message).or_else(|_| {
            self.socket.connect_addr(&self.address)?;
            self.socket.send(message)
        })
    }
}

/// The watchdog period, if the manager watches this process.
fn watchdog(environment: &Environment, own: u32) -> Option<Duration> {
    let number = |name| environment.variable(name)?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(own)) {
        return None;
    }
    let period = number("WATCHDOG_USEC").map(Duration::from_micros)?;
    (!period.is_zero()).then_some(period)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter();
        Environment {
            variables: variables
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            effective_uid: 0,
        }
    }

    #[test]
    fn a_manager_that_made_its_socket_anew_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let first = UnixDatagram::bind(&path).unwrap();
        let manager =
            ServiceManager::of(&environment(&[("NOTIFY_SOCKET", path.to_str().unwrap())]));
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = UnixDatagram::bind(&path).unwrap();
        manager.ready();
        let mut message = [0; 64];
        let length = second.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1\nSTATUS=serving");
    }

    #[test]
    fn only_a_watchdog_of_this_process_is_fed() {
        for (variables, period) in [
            (&[][..], None),
            (&[("WATCHDOG_USEC", "0")], None),
            (&[("WATCHDOG_USEC", "soon")], None),
            (&[("WATCHDOG_USEC", "2000000")], Some(2)),
            (
                &[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "7")],
                Some(2),
            ),
            (&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "8")], None),
        ] {
            let found = watchdog(&environment(variables), 7);
            assert_eq!(found, period.map(Duration::from_secs), "{variables:?}");
        }
    }
}
