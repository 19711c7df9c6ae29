//! Causes in the credential of this node and in its login.

use openbao_client::{
    credential_file::CredentialFileProblem,
    login::{LoginFailure, jwt::JwtProblem},
};

use super::{
    Cause, act, none_lost,
    openbao::{self, KEY_IS_IN_OPENBAO},
    run,
};

causes! {
    JWT_UNUSABLE = none_lost(
        "jwt_unusable",
        "the JWT is missing, unreadable, expired, or its claims differ from the configuration",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "if the issuer is gone, put a JWT of an emergency issuer with the same claims at {credential}, or \
         pin its public key in OpenBao's login, for as short a time as possible",
    )]);

    JWT_MISSING = none_lost("jwt_missing", "the JWT is missing", KEY_IS_IN_OPENBAO)
        .steps(&[act("start the software for the renewal of {credential} on this node, and read its \
            log")]);

    JWT_UNREADABLE = none_lost(
        "jwt_unreadable",
        "the file of the JWT is unreadable for the user of the provider, or its file system hangs",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("make {credential} a regular file with mode 0640, readable for the user of the provider"),
        act("if its file system hangs, mount it again, or keep the file on a local one"),
    ]);

    JWT_EXPIRED = none_lost(
        "jwt_expired",
        "the JWT has expired, expires too soon, or is not valid yet",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("have a new JWT issued, and replace {credential} with it by rename"),
        act("find out why the software for its renewal on this node stopped"),
        act("if the JWT is new, compare the clocks of this node, of the issuer and of OpenBao"),
    ]);

    JWT_MALFORMED = none_lost(
        "jwt_malformed",
        "the file of the JWT is empty, or holds something other than one JWT",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "have {credential} written with the JWT alone: three parts with dots, without byte order \
             mark, quotation marks, NUL bytes or line breaks inside",
        ),
        act("have a new JWT issued, if the file was damaged"),
    ]);

    JWT_NO_EXPIRY = none_lost(
        "jwt_no_expiry",
        "the JWT has no expiry (exp)",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "have the issuer set exp, with a life of some hours and renewal on this node, and replace \
         {credential} by rename",
    )])
    .warnings(&["do not use a JWT without an expiry: a stolen one is valid for ever"]);

    JWT_CLAIMS = none_lost(
        "jwt_claims",
        "the claims of the JWT differ from the configuration",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("have a JWT issued with the configured claims"),
        run(
            "or correct auth.jwt, if the role in OpenBao has other claims",
            "bao read {bao} {login}/role/{role}",
        ),
    ]);
}

/// The cause of a login that failed.
#[must_use]
pub fn of_failure(failure: &LoginFailure) -> &'static Cause {
    match failure {
        LoginFailure::JwtFile(problem) => match problem {
            CredentialFileProblem::Missing => &JWT_MISSING,
            CredentialFileProblem::Hangs
            | CredentialFileProblem::AbsolutePathRequired
            | CredentialFileProblem::Unreadable(_)
            | CredentialFileProblem::Symlink
            | CredentialFileProblem::NotRegular
            | CredentialFileProblem::UnsafePermissions { .. }
            | CredentialFileProblem::Changed
            | CredentialFileProblem::TooLarge { .. } => &JWT_UNREADABLE,
        },
        LoginFailure::Jwt(problem) => match problem {
            JwtProblem::Empty | JwtProblem::Malformed(_) => &JWT_MALFORMED,
            JwtProblem::NoExpiry => &JWT_NO_EXPIRY,
            JwtProblem::Expired { .. }
            | JwtProblem::NearExpiry { .. }
            | JwtProblem::NotYetValid(_)
            | JwtProblem::IssuedInFuture(_) => &JWT_EXPIRED,
            JwtProblem::Issuer | JwtProblem::Audience | JwtProblem::Subject => &JWT_CLAIMS,
        },
        LoginFailure::GivenToken => &openbao::TOKEN_REJECTED,
        LoginFailure::OpenBao(failure) => openbao::of_login_request(failure),
    }
}
