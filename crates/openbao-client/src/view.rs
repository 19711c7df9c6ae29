//! The present state of a client's connections, for a report. Reading it does not wait.

use std::{net::SocketAddr, time::Duration};

use crate::{addresses::Role, failure::FailureClass, turns::Purpose};

/// The connections and turns of a client at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientView {
    /// The addresses, in the order of the configuration.
    pub addresses: Vec<AddressView>,
    /// Turns for each purpose.
    pub turns: Vec<TurnsView>,
}

/// One configured address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressView {
    /// As configured.
    pub address: String,
    /// The part of its server in the cluster; `None` for the only address.
    pub role: Option<Role>,
    /// The peers behind it that have a connection or a failure.
    pub peers: Vec<PeerView>,
}

/// One IP address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// The peer.
    pub peer: SocketAddr,
    /// Connections that carry a request, or are being closed.
    pub in_use: usize,
    /// Connections that wait for a request.
    pub idle: usize,
    /// Age of each connection, the oldest first.
    pub ages: Vec<Duration>,
    /// The last failure, and the time since; also after a later success.
    pub last_failure: Option<(FailureClass, Duration)>,
}

impl PeerView {
    pub(crate) fn of(peer: SocketAddr) -> Self {
        Self {
            peer,
            in_use: 0,
            idle: 0,
            ages: Vec::new(),
            last_failure: None,
        }
    }
}

/// The turns of one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnsView {
    /// The purpose.
    pub purpose: Purpose,
    /// Requests that have a turn.
    pub in_use: usize,
    /// Requests that can have one.
    pub limit: usize,
}
