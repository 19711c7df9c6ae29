//! Leader status of a server. Needs no token.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    client::Client,
    failure::Failure,
    request::{Operation, Request},
};

/// Role of a server in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// The server is active, or has no cluster.
    Itself,
    /// The server is a standby and forwards requests to a known active server.
    Another,
    /// The server is a standby without a known active server: requests fail.
    Nobody,
}

/// Sends one request. `sys/leader` exists only in the root namespace, so the client's endpoint
/// should have no namespace.
///
/// # Errors
/// The classified failure, also for a sealed server.
pub async fn leader(client: &Client, deadline: Duration) -> Result<Leader, Failure> {
    #[derive(Deserialize)]
    struct Body {
        ha_enabled: bool,
        // Left out by a server without a cluster.
        #[serde(default)]
        is_self: bool,
        #[serde(default)]
        leader_address: String,
    }
    let request = Request::get(Operation::Leader, "sys/leader");
    client
        .send_and_read(request, deadline, |answer| {
            let Body {
                ha_enabled,
                is_self,
                leader_address,
            } = answer.json()?;
            Ok(if !ha_enabled || is_self {
                Leader::Itself
            } else if leader_address.is_empty() {
                Leader::Nobody
            } else {
                Leader::Another
            })
        })
        .await
}
