//! What systemd is told, by the protocol of `sd_notify(3)`: that a start takes its time, that the
//! socket accepts calls, that a stop is under way, and, as long as the serving thread turns, that
//! it does. Without a service manager that listens nothing is sent.

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

use tokio::time::{MissedTickBehavior, interval};

use crate::config::Environment;

/// What a start takes besides the first contact with OpenBao.
const START_MARGIN: Duration = Duration::from_secs(30);

/// The manager that started this process, if it wants to be told.
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
    /// Finds the manager. Connects at once: what lies outside the [boundary] may not be reached
    /// later.
    ///
    /// [boundary]: crate::hardening::boundary
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

    /// The start may take `at_most`, whatever the unit's limit is.
    pub fn starting(&self, at_most: Duration) {
        let limit = at_most.saturating_add(START_MARGIN).as_micros();
        self.tell(&format!(
            "EXTEND_TIMEOUT_USEC={limit}\nSTATUS=waiting for OpenBao"
        ));
    }

    /// The socket accepts calls.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// No new calls are accepted.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing calls under way");
    }

    /// Tells the manager twice in each of its periods that this task is polled. To be awaited
    /// beside the serving, in the same task; never ends.
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

    /// A manager that does not listen any more is not our trouble: it acts on silence.
    fn tell(&self, message: &str) {
        if let Some(listener) = &self.listener {
            listener.send(message).ok();
        }
    }
}

impl Listener {
    /// `@` stands for the abstract name space.
    fn connect(name: &str) -> io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that is slow to read must not hold up the serving.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        Ok(Self { socket, address })
    }

    /// Once more when the manager has made its socket anew.
    fn send(&self, message: &str) -> io::Result<usize> {
        let message = message.as_bytes();
        self.socket.send(message).or_else(|_| {
            self.socket.connect_addr(&self.address)?;
            self.socket.send(message)
        })
    }
}

/// The period in which the manager wants a sign, if it is this process that it watches.
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
