//! Causes at the OAuth 2.0 issuer, and in the credential of its client on this node.

use openbao_client::{
    failure::FailureClass,
    login::{
        jwt::JwtProblem,
        oauth2::{OAuth2Problem, ResponseProblem, TokenError},
    },
};

use super::{Cause, act, none_lost, openbao::KEY_IS_IN_OPENBAO, run};

causes! {
    SECRET_UNUSABLE = none_lost(
        "oauth_secret_unusable",
        "the file with the client secret or the private key of the OAuth client is missing, unreadable, \
         unsafe or empty",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("make {credential} a regular file with mode 0640, readable for the user of the provider"),
        act("a secret is one line of text without NUL bytes; write it again from its source, by rename"),
    ]);

    KEY_UNUSABLE = none_lost(
        "oauth_key_unusable",
        "the private key of the OAuth client cannot sign",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "put a PEM private key without passphrase at {credential}: EC P-256 or P-384, Ed25519, or RSA \
         from 2048 bits; its public key must be registered for the client at the issuer",
    )]);

    CA_UNUSABLE = none_lost(
        "oauth_ca_unusable",
        "the CA certificates for the OAuth issuer are missing or unusable",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "set auth.jwt.oauth2.caCertFile in {config} to a PEM file with the CA of the issuer, or install \
         the package ca-certificates of this system and leave the setting empty",
    )]);

    UNREACHABLE = none_lost(
        "oauth_issuer_unreachable",
        "the OAuth issuer does not answer",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "check that the issuer runs, and that network, firewall and DNS lead from this node to it \
             without a proxy: the provider uses none",
        ),
        run("see its answer; any HTTP status shows that it is reached", "curl -sSI {issuer}"),
        act(
            "if the issuer stays away longer than the token of this node lives, use the emergency \
             identity: auth.jwt.source: file with a JWT of an emergency issuer",
        ),
    ]);

    UNTRUSTED = none_lost(
        "oauth_issuer_untrusted",
        "the certificate of the OAuth issuer is not trusted",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run("see the reason", "curl -sSI {issuer}"),
        act(
            "if the issuer has a new CA, put its certificate into the file of \
             auth.jwt.oauth2.caCertFile; empty, the setting trusts the CAs of this system",
        ),
        act("if the certificate has expired, have it renewed at the issuer"),
    ])
    .warnings(&["do not trust the CA of an unknown server: it would receive the secret of the client"]);

    CLIENT_REFUSED = none_lost(
        "oauth_client_refused",
        "the OAuth issuer does not accept the client or its secret",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "at the issuer, check that the client of auth.jwt.oauth2.clientId exists, is enabled, and may \
             use the client credentials grant by auth.jwt.oauth2.authMethod",
        ),
        act(
            "if its secret or key was replaced, write the new one to {credential} by rename; the next \
             login uses it without a restart",
        ),
        act(
            "with private_key_jwt, compare keyId, the algorithm and assertionAudience with the issuer, \
             and the clocks of both",
        ),
    ]);

    REQUEST_REFUSED = none_lost(
        "oauth_request_refused",
        "the OAuth issuer refuses the token request, such as its scope or audience",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "compare scopes, audience and resources of auth.jwt.oauth2 in {config} with those granted to the \
         client at the issuer; its log names the parameter",
    )]);

    NOT_AN_ISSUER = none_lost(
        "oauth_response_unusable",
        "the response is not that of an OAuth token endpoint",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run("see what answers", "curl -sSI {issuer}"),
        act(
            "set auth.jwt.oauth2.tokenUrl in {config} to the token_endpoint that the issuer publishes; \
             redirects are never followed",
        ),
    ]);

    TOKEN_OPAQUE = none_lost(
        "oauth_token_opaque",
        "the OAuth issuer gives opaque access tokens, which OpenBao cannot verify",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "have the issuer give this client access tokens in JWT form, with an expiry; many issuers do so \
         only for a requested audience or resource",
    )]);

    TOKEN_UNUSABLE = none_lost(
        "oauth_token_unusable",
        "the access token is malformed, or has no expiry (exp)",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act("have the issuer give this client access tokens as signed JWTs with exp")]);

    TOKEN_DATES = none_lost(
        "oauth_token_dates",
        "the access token has expired, expires too soon, or is not valid yet",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "raise the life of access tokens of this client at the issuer above \
             auth.jwt.minRemainingTtl, with a margin of some minutes",
        ),
        act("compare the clocks of this node, of the issuer and of OpenBao"),
    ]);

    TOKEN_CLAIMS = none_lost(
        "oauth_token_claims",
        "the claims of the access token differ from the configuration",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "compare expectedIssuer, expectedAudience and expectedSubject of auth.jwt in {config} with the \
             client at the issuer; the audience often has to be requested by auth.jwt.oauth2.audience",
        ),
        run(
            "or correct them, if the role in OpenBao has other claims",
            "bao read {bao} {login}/role/{role}",
        ),
    ]);
}

/// The cause of a missing or unusable access token.
#[must_use]
pub fn of_problem(problem: OAuth2Problem) -> &'static Cause {
    match problem {
        OAuth2Problem::SecretFile(_) | OAuth2Problem::SecretContent | OAuth2Problem::KeyFile(_) => {
            &SECRET_UNUSABLE
        }
        OAuth2Problem::Key(_) => &KEY_UNUSABLE,
        OAuth2Problem::CaFile(_) | OAuth2Problem::Ca(_) => &CA_UNUSABLE,
        OAuth2Problem::Request(transport) => match transport.class() {
            FailureClass::TlsFailed => &UNTRUSTED,
            _ => &UNREACHABLE,
        },
        OAuth2Problem::Unavailable(_) => &UNREACHABLE,
        OAuth2Problem::Rejected { error, .. } => match error {
            TokenError::InvalidClient
            | TokenError::InvalidGrant
            | TokenError::UnauthorizedClient
            | TokenError::UnsupportedGrantType => &CLIENT_REFUSED,
            TokenError::InvalidRequest | TokenError::InvalidScope | TokenError::InvalidTarget => {
                &REQUEST_REFUSED
            }
            TokenError::Redirect | TokenError::Other => &NOT_AN_ISSUER,
        },
        OAuth2Problem::Response(ResponseProblem::Opaque) => &TOKEN_OPAQUE,
        OAuth2Problem::Response(_) => &NOT_AN_ISSUER,
        OAuth2Problem::Token(problem) => match problem {
            JwtProblem::Empty | JwtProblem::Malformed(_) | JwtProblem::NoExpiry => &TOKEN_UNUSABLE,
            JwtProblem::Expired { .. }
            | JwtProblem::NearExpiry { .. }
            | JwtProblem::NotYetValid(_)
            | JwtProblem::IssuedInFuture(_) => &TOKEN_DATES,
            JwtProblem::Issuer | JwtProblem::Audience | JwtProblem::Subject => &TOKEN_CLAIMS,
        },
    }
}
