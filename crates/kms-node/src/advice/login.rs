//! Causes in the credential of this node and in its login.

use openbao_client::{
    credential_file::CredentialFileProblem,
    login::{
        LoginFailure, approle::WrappingProblem, certificate::CertificateProblem, jwt::JwtProblem,
        secret_file::SecretProblem, token_file::TokenFileProblem,
    },
};

use super::{
    Cause, act, none_lost, oauth2,
    openbao::{self, KEY_IS_IN_OPENBAO},
    pkcs11, run, spiffe,
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

    SECRET_MISSING = none_lost(
        "secret_missing",
        "the file of the login's secret is missing",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "write a new secret ID, password or token to {credential} with mode 0640, readable for the user \
         of the provider",
    )]);

    SECRET_UNREADABLE = none_lost(
        "secret_unreadable",
        "the file of the login's secret is unreadable for the user of the provider, or its file system \
         hangs",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "make {credential} a regular file with mode 0640, readable for the user of the provider",
        ),
        act("if its file system hangs, mount it again, or keep the secret on a local one"),
    ]);

    SECRET_MALFORMED = none_lost(
        "secret_malformed",
        "the file of the login's secret is empty, or holds something other than the secret alone",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "write {credential} with the secret alone, in one line: a secret ID or, with wrapped: true, its \
         wrapping token; a password; or a token",
    )]);

    SECRET_ID_INTERCEPTED = none_lost(
        "secret_id_intercepted",
        "the wrapping token of the secret ID was unwrapped before, or has expired: by an earlier start \
         of this provider, or by somebody else",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "if the provider did not log in with this token before, treat the secret ID as stolen: \
             revoke the secret IDs of the role, and look up the unwrapping in OpenBao's audit log",
        ),
        run(
            "create another one for the role ROLE, as an administrator, and replace {credential} with \
             it by rename",
            "bao write {bao} -wrap-ttl=15m -field=wrapping_token -f {login}/role/ROLE/secret-id",
        ),
    ])
    .warnings(&["do not use a token that somebody else may have unwrapped: its secret ID is known"]);

    SECRET_ID_SUBSTITUTED = none_lost(
        "secret_id_substituted",
        "the wrapping token was created by another path than the secret-id of a role of this login \
         method",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "find out who wrote {credential}: a token of another path may have been put there in place \
             of the right one",
        ),
        run(
            "create a wrapped secret ID for the role ROLE, as an administrator",
            "bao write {bao} -wrap-ttl=15m -field=wrapping_token -f {login}/role/ROLE/secret-id",
        ),
    ])
    .warnings(&["do not unwrap that token by hand before its origin is known"]);

    SECRET_ID_RESERVED = none_lost(
        "secret_id_reserved",
        "the secret ID is wrapped, so the provider alone can log in with it, once",
        "this command has no login of its own; that of the provider is not affected",
    )
    .steps(&[
        act("read the provider's own view of its login from its log, its metrics and its /ready"),
        act(
            "for a command with a login, copy {config} and write another auth.method into the copy",
        ),
    ]);

    TOKEN_REJECTED = none_lost(
        "token_file_rejected",
        "OpenBao rejects the token of the file: it has expired, was revoked, or is of another namespace \
         or cluster",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "create a token with the policy of the provider (POLICY), as an administrator",
            "bao token create {bao} -orphan -policy=POLICY -ttl=1h -explicit-max-ttl=24h -field=token",
        ),
        act("replace {credential} with it by rename; the provider reads it at the next login"),
    ]);

    TOKEN_LOOKUP_DENIED = none_lost(
        "token_lookup_denied",
        "the policies of the token deny the lookup of its own end (auth/token/lookup-self)",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "create the token with the policy default beside that of the provider, or permit read on \
         auth/token/lookup-self in the latter",
    )]);

    TOKEN_IS_ROOT = none_lost(
        "token_is_root",
        "the token of the file is a root token, which the provider refuses",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("revoke the root token, unless other people need it now, and remove it from {credential}"),
        run(
            "create a token with the policy of the provider (POLICY) instead, as an administrator",
            "bao token create {bao} -orphan -policy=POLICY -ttl=2h -explicit-max-ttl=24h -field=token",
        ),
    ])
    .warnings(&["do not keep a root token on a node: it permits everything in OpenBao"]);

    TOKEN_FILE_LIMITED = none_lost(
        "token_file_limited",
        "the token of the file ends after a number of requests",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act("create a token without -use-limit, and replace {credential} with it by rename")]);

    TOKEN_ENDS = none_lost(
        "token_ends",
        "the token of the file ends soon, and OpenBao does not renew it any further",
        "calls go on until the token ends, and then fail until there is another one",
    )
    .steps(&[
        act("if the usual login works again, go back to it: the token was for an emergency"),
        run(
            "otherwise create another token with the policy of the provider (POLICY), as an \
             administrator, and replace {credential} with it by rename",
            "bao token create {bao} -orphan -policy=POLICY -ttl=1h -explicit-max-ttl=24h -field=token",
        ),
    ]);

    CERT_MISSING = none_lost(
        "cert_missing",
        "the file of the client certificate or of its private key is missing",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "start the software for the renewal of {credential} and {key_file} on this node, and read its log",
    )]);

    CERT_UNREADABLE = none_lost(
        "cert_unreadable",
        "the file of the client certificate or of its private key is unreadable for the user of the \
         provider, or its file system hangs",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "make {key_file} a regular file with mode 0640, readable for the user of the provider, or a \
             symbolic link to one in the same directory",
        ),
        act("if its file system hangs, mount it again, or keep the files on a local one"),
    ]);

    CERT_EXPIRED = none_lost(
        "cert_expired",
        "the client certificate, or one of its chain, has expired, expires too soon, or is not valid yet",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "show the dates of the certificate",
            "openssl x509 -noout -subject -issuer -dates -in {credential}",
        ),
        act("have a new certificate issued, and replace {credential} with it by rename"),
        act("if it is new, compare the clocks of this node and of its issuer"),
    ]);

    CERT_MALFORMED = none_lost(
        "cert_malformed",
        "the files of the client certificate hold something other than a PEM chain and its private key",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "write the certificates to {credential}, that of the node first, and the private key without a \
         password to auth.cert.keyFile",
    )]);

    CERT_KEY_FOREIGN = none_lost(
        "cert_key_foreign",
        "the private key belongs to another certificate than the first one of the chain",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("if a renewal is just replacing both files, wait: the provider reads them again"),
        act("otherwise put the certificate of the node first in {credential}, or its own key beside it"),
    ]);

    CERT_UNSUITABLE = none_lost(
        "cert_unsuitable",
        "the client certificate excludes client authentication, or its chain is signed with an old digest",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "show its usage and signature",
            "openssl x509 -noout -ext extendedKeyUsage -text -in {credential}",
        ),
        act(
            "have it issued again with the extended key usage clientAuth, and signed with SHA-256 or \
             newer",
        ),
    ]);

    FALLBACK_IN_USE = none_lost(
        "fallback_in_use",
        "the provider uses its standby identity, since the login by auth.method fails",
        "calls succeed until the standby identity ends as well",
    )
    .steps(&[
        run(
            "find the cause of the failed login, and its remedy",
            "bao-kms-provider doctor --config {config}",
        ),
        act("the provider returns to auth.method by itself as soon as that login works"),
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
        LoginFailure::OAuth2(problem) => oauth2::of_problem(*problem),
        LoginFailure::Spiffe(problem) => spiffe::of_problem(*problem),
        LoginFailure::Secret(problem) => of_secret(*problem),
        LoginFailure::Wrapping(problem) => match problem {
            WrappingProblem::NotAToken => &SECRET_MALFORMED,
            WrappingProblem::Used => &SECRET_ID_INTERCEPTED,
            WrappingProblem::OtherPath | WrappingProblem::NoSecretId => &SECRET_ID_SUBSTITUTED,
            WrappingProblem::Reserved => &SECRET_ID_RESERVED,
        },
        LoginFailure::Token(problem) => match problem {
            TokenFileProblem::NotAToken => &SECRET_MALFORMED,
            TokenFileProblem::Rejected => &TOKEN_REJECTED,
            TokenFileProblem::LookupDenied => &TOKEN_LOOKUP_DENIED,
            TokenFileProblem::Root => &TOKEN_IS_ROOT,
            TokenFileProblem::LimitedUses(_) => &TOKEN_FILE_LIMITED,
            TokenFileProblem::NearExpiry { .. } => &TOKEN_ENDS,
        },
        LoginFailure::CertificateFile(problem) | LoginFailure::KeyFile(problem) => match problem {
            CredentialFileProblem::Missing => &CERT_MISSING,
            _ => &CERT_UNREADABLE,
        },
        LoginFailure::Certificate(problem) => of_certificate(*problem),
        LoginFailure::PinFile(_) => &pkcs11::PIN_FILE,
        LoginFailure::Pkcs11(problem) => pkcs11::of_token(problem),
        LoginFailure::OpenBao(failure) => openbao::of_login_request(failure),
    }
}

fn of_secret(problem: SecretProblem) -> &'static Cause {
    match problem {
        SecretProblem::File(CredentialFileProblem::Missing) => &SECRET_MISSING,
        SecretProblem::File(_) => &SECRET_UNREADABLE,
        SecretProblem::Empty | SecretProblem::Characters => &SECRET_MALFORMED,
    }
}

fn of_certificate(problem: CertificateProblem) -> &'static Cause {
    match problem {
        CertificateProblem::NotYetValid { .. }
        | CertificateProblem::Expired { .. }
        | CertificateProblem::NearExpiry { .. } => &CERT_EXPIRED,
        CertificateProblem::NotPem
        | CertificateProblem::Empty
        | CertificateProblem::PrivateKey
        | CertificateProblem::Malformed(_)
        | CertificateProblem::NoKey
        | CertificateProblem::UnusableKey => &CERT_MALFORMED,
        CertificateProblem::ForeignKey => &CERT_KEY_FOREIGN,
        CertificateProblem::WeakSignature(_) | CertificateProblem::Usage => &CERT_UNSUITABLE,
    }
}
