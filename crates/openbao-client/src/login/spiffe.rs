//! Login with a JWT-SVID from the SPIFFE Workload API.
//!
//! Each login asks the agent of this node for a JWT-SVID, over its Unix socket and on a connection of
//! its own. The agent identifies this process by the socket, so there is no secret on the node.

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/workload.proto by `cargo xtask proto`"
)]
#[rustfmt::skip]
pub mod generated;
mod problem;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, timeout_at};
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

use crate::login::{
    LoginFailure, Pending,
    jwt::{ClaimRules, Jwt, JwtRole, JwtSource},
};
use generated::{Jwtsvid, JwtsvidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient};

pub use problem::{ResponseProblem, SocketProblem, SpiffeProblem};

/// Limit of a response, in bytes.
const MAX_RESPONSE: usize = 1 << 20;

/// Limit of a response's headers, in bytes.
const MAX_HEADERS: u32 = 64 << 10;

/// Limit of a check without a login.
const CHECK_DEADLINE: Duration = Duration::from_secs(5);

/// A login with a JWT-SVID.
pub struct SpiffeLogin {
    role: JwtRole,
    socket: PathBuf,
    rules: ClaimRules,
}

impl SpiffeLogin {
    /// A login by the role. The Workload API is at `socket`. The SVID must follow `rules`: their
    /// subject is the requested SPIFFE ID, their audience the requested one.
    #[must_use]
    pub fn new(role: JwtRole, socket: PathBuf, rules: ClaimRules) -> Self {
        Self {
            role,
            socket,
            rules,
        }
    }

    /// Asks for the SVID, and checks its claims.
    async fn fetch(&self, now: SystemTime, deadline: Instant) -> Result<Jwt, SpiffeProblem> {
        let fetched = timeout_at(deadline, self.ask_agent()).await;
        let svid = fetched.map_err(|_| SpiffeProblem::Timeout)??;
        let jwt = Jwt::parse(svid.as_bytes()).map_err(SpiffeProblem::Svid)?;
        jwt.check(&self.rules, now).map_err(SpiffeProblem::Svid)?;
        Ok(jwt)
    }

    async fn ask_agent(&self) -> Result<Zeroizing<String>, SpiffeProblem> {
        let mut agent = self.connect().await?;
        let id = self.rules.expected_subject.clone().unwrap_or_default();
        let audience = &self.rules.expected_audience;

        let mut svids = match request(&mut agent, audience, &id).await {
            // An agent gives the same refusal for a process without any identity.
            Err(SpiffeProblem::NoIdentity) if !id.is_empty() => {
                request(&mut agent, audience, "").await?;
                return Err(SpiffeProblem::OtherIdentity);
            }
            svids => svids?,
        };
        match svids.iter().position(|svid| svid.spiffe_id == id) {
            Some(place) => Ok(svids.swap_remove(place).svid.into()),
            None if svids.is_empty() => Err(SpiffeProblem::Response(ResponseProblem::Empty)),
            None => Err(SpiffeProblem::OtherIdentity),
        }
    }

    async fn connect(&self) -> Result<SpiffeWorkloadApiClient<Channel>, SpiffeProblem> {
        let failed =
            |error: tonic::transport::Error| SpiffeProblem::Socket(SocketProblem::of(&error));
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()));
        let endpoint = endpoint
            .map_err(failed)?
            .http2_max_header_list_size(MAX_HEADERS);
        let channel = endpoint.connect().await.map_err(failed)?;
        Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_RESPONSE))
    }
}

async fn request(
    agent: &mut SpiffeWorkloadApiClient<Channel>,
    audience: &[String],
    spiffe_id: &str,
) -> Result<Vec<Jwtsvid>, SpiffeProblem> {
    let mut request = Request::new(JwtsvidRequest {
        audience: audience.to_vec(),
        spiffe_id: spiffe_id.to_owned(),
    });
    // Required by the specification: a server that is led to forward requests rarely controls headers.
    let metadata = request.metadata_mut();
    metadata.insert("workload.spiffe.io", MetadataValue::from_static("true"));
    match agent.fetch_jwtsvid(request).await {
        Ok(response) => Ok(response.into_inner().svids),
        Err(status) => Err(SpiffeProblem::of(&status)),
    }
}

impl JwtSource for SpiffeLogin {
    fn role(&self) -> &JwtRole {
        &self.role
    }

    /// Asks for an SVID. The agent replaces it before each login, so it has no expiry for the caller.
    fn examine(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        Box::pin(async move {
            self.obtain(now, Instant::now() + CHECK_DEADLINE).await?;
            Ok(None)
        })
    }

    fn obtain(&self, now: SystemTime, deadline: Instant) -> Pending<'_, Result<Jwt, LoginFailure>> {
        Box::pin(async move {
            let fetched = self.fetch(now, deadline).await;
            fetched.map_err(LoginFailure::Spiffe)
        })
    }
}
