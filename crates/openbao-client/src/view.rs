//! Snapshot of a client's connections, for reports. Reading it returns at once.

pub use crate::pool::PeerView;
use crate::{addresses::Role, turns::Purpose};

/// Connections and turns of a client at one moment.
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
    /// Role of its server in the cluster; `None` with a single address.
    pub role: Option<Role>,
    /// Peers behind it with a connection or a failure.
    pub peers: Vec<PeerView>,
}

/// The turns of one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnsView {
    /// The purpose.
    pub purpose: Purpose,
    /// Requests with a turn.
    pub in_use: usize,
    /// Limit of concurrent requests.
    pub limit: usize,
}
