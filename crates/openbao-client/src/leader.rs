//! Does this server do the work, or who does? Needs no token.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    client::Client,
    failure::Failure,
    request::{Operation, Request},
};

/// The part of a server in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// It does the work itself, or has no cluster.
    Itself,
    /// It is a standby, which forwards requests to an active server that it knows.
    Another,
    /// It is a standby, and knows no active server: nobody does the work.
    Nobody,
}

/// Asks once. The question is not known in namespaces, so the client's endpoint should have none.
///
/// # Errors
/// The classified failure; a sealed server does not answer it.
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
