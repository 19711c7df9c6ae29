//! Is the server there, and unsealed? The one question that needs no token.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::{
    client::Client,
    failure::Failure,
    request::{Operation, Request},
};

/// What a server tells everybody about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealStatus {
    /// It has storage with keys and secrets.
    pub initialized: bool,
    /// It cannot read them.
    pub sealed: bool,
    /// The second in which its clock stood, when it said.
    pub date: Option<SystemTime>,
}

/// Asks once. The question is not known in namespaces, so the client's endpoint should have none.
///
/// # Errors
/// The classified failure; any of a status below 500 shows that a server answers all the same.
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
