//! Causes at the SPIFFE agent of this node, and in the identity that it gives the provider.

use openbao_client::login::{
    jwt::JwtProblem,
    spiffe::{SocketProblem, SpiffeProblem},
};

use super::{Cause, Step, act, none_lost, openbao::KEY_IS_IN_OPENBAO, run};

const HEALTH: Step = run(
    "see whether the agent is healthy",
    "spire-agent healthcheck -socketPath {workload_socket} -verbose",
);
const ENTRY: Step = run(
    "see the registration entry, on the SPIRE server",
    "spire-server entry show -spiffeID {spiffe_id}",
);
const EMERGENCY: Step = act(
    "if the agent stays away longer than the token of this node lives, use the emergency identity: \
     auth.jwt.source: file with a JWT of an emergency issuer",
);

causes! {
    AGENT_UNREACHABLE = none_lost(
        "spiffe_agent_unreachable",
        "the SPIFFE agent of this node does not answer",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "start the agent, and compare its socket with auth.jwt.spiffe.workloadAPISocket in {config}: \
             {workload_socket}",
        ),
        HEALTH,
        act("keep the socket outside of /tmp and /var/tmp: the unit of the provider has its own ones"),
        EMERGENCY,
    ]);

    SOCKET_DENIED = none_lost(
        "spiffe_socket_denied",
        "the user of the provider has no access to the socket of the SPIFFE agent",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "see the modes and owners on the way to the socket",
            "namei -l {workload_socket}",
        ),
        act("let the user of the provider pass each directory, and write to the socket"),
    ]);

    AGENT_UNAVAILABLE = none_lost(
        "spiffe_agent_unavailable",
        "the SPIFFE agent answers, but cannot issue a JWT-SVID",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "read the log of the agent: it needs its server for a new JWT-SVID, and refuses requests \
             before its own attestation",
        ),
        HEALTH,
        EMERGENCY,
    ]);

    NO_IDENTITY = none_lost(
        "spiffe_no_identity",
        "the SPIFFE agent has no identity for this process",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "run this command as the user of the provider: the agent knows a process by its user and \
             its program",
        ),
        ENTRY,
        run(
            "create a missing entry there, with the SPIFFE ID of this agent (AGENT) and the number of the \
             provider's user (UID)",
            "spire-server entry create -spiffeID {spiffe_id} -parentID AGENT -selector unix:uid:UID \
             -jwtSVIDTTL 600",
        ),
    ]);

    OTHER_IDENTITY = none_lost(
        "spiffe_other_identity",
        "the SPIFFE agent has another identity for this process than the configured one",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        ENTRY,
        act(
            "compare its selectors with the user and the program of the provider, and its parent with the \
             SPIFFE ID of this agent",
        ),
        act("or correct auth.jwt.expectedSubject in {config}, and bound_subject of the role in OpenBao"),
    ]);

    REQUEST_REFUSED = none_lost(
        "spiffe_request_refused",
        "the SPIFFE agent refuses the audience or the SPIFFE ID of the request",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "compare expectedAudience and expectedSubject of auth.jwt in {config} with the trust domain and \
         the rules of the agent; its log names the reason",
    )]);

    NOT_WORKLOAD_API = none_lost(
        "spiffe_response_unusable",
        "the response is not that of a SPIFFE Workload API",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run("see the process behind the socket", "ss -xlp src {workload_socket}"),
        act(
            "set auth.jwt.spiffe.workloadAPISocket in {config} to the socket of the agent for workloads, \
             not to one of its administration",
        ),
    ]);

    SVID_DATES = none_lost(
        "spiffe_svid_dates",
        "the JWT-SVID has expired, expires too soon, or is not valid yet",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "raise the life of JWT-SVIDs in the registration entry (-jwtSVIDTTL) above twice \
             auth.jwt.minRemainingTtl: an agent keeps an SVID until half of its life is over",
        ),
        act("compare the clocks of this node, of the SPIRE server and of OpenBao"),
    ]);

    SVID_CLAIMS = none_lost(
        "spiffe_svid_claims",
        "the claims of the JWT-SVID differ from the configuration",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "compare auth.jwt.expectedIssuer in {config} with jwt_issuer of the SPIRE server; empty, the \
             setting leaves the check to OpenBao",
        ),
        run("see the claims that the role accepts", "bao read {bao} {login}/role/{role}"),
    ]);
}

/// The cause of a missing or unusable JWT-SVID.
#[must_use]
pub fn of_problem(problem: SpiffeProblem) -> &'static Cause {
    match problem {
        SpiffeProblem::Socket(SocketProblem::Denied) => &SOCKET_DENIED,
        SpiffeProblem::Socket(
            SocketProblem::Missing | SocketProblem::Refused | SocketProblem::Failed,
        )
        | SpiffeProblem::Timeout => &AGENT_UNREACHABLE,
        SpiffeProblem::Unavailable => &AGENT_UNAVAILABLE,
        SpiffeProblem::NoIdentity => &NO_IDENTITY,
        SpiffeProblem::OtherIdentity => &OTHER_IDENTITY,
        SpiffeProblem::Refused => &REQUEST_REFUSED,
        SpiffeProblem::Response(_) => &NOT_WORKLOAD_API,
        SpiffeProblem::Svid(problem) => match problem {
            JwtProblem::Empty | JwtProblem::Malformed(_) | JwtProblem::NoExpiry => {
                &NOT_WORKLOAD_API
            }
            JwtProblem::Expired { .. }
            | JwtProblem::NearExpiry { .. }
            | JwtProblem::NotYetValid(_)
            | JwtProblem::IssuedInFuture(_) => &SVID_DATES,
            JwtProblem::Issuer | JwtProblem::Audience | JwtProblem::Subject => &SVID_CLAIMS,
        },
    }
}
