//! Seal status of a server. Needs no token.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::{
    client::Client,
    failure::Failure,
    request::{Operation, Request},
};

/// Public status of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealStatus {
    /// The server's storage is initialized.
    pub initialized: bool,
    /// The server cannot decrypt its storage.
    pub sealed: bool,
    /// The `Date` header, in whole seconds of the server's clock.
    pub date: Option<SystemTime>,
}

/// Sends one request. `sys/seal-status` exists only in the root namespace, so the client's endpoint
/// should have no namespace.
///
/// # Errors
/// The classified failure. One with a status below 500 still shows that a server responds.
pub async fn seal_status(client: &Client, deadline: Duration) -> Result<SealStatus, Failure> {
    #[derive(Deserialize)]
    struct Body {
        initialized: bool,
        sealed: bool,
    }
    let request = Request::get(Operation::SealStatus, "sys/seal-status");
    client
        .send_and_read(request, deadline, |answer| {
            let Body {
                initialized,
                sealed,
            } = answer.json()?;
            Ok(SealStatus {
                initialized,
                sealed,
                date: answer.date(),
            })
        })
        .await
}
