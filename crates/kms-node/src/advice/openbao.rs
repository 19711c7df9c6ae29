//! Causes at OpenBao and on the connection to it.

use openbao_client::failure::FailureClass;

use super::{
    Cause, Step, act, at_risk, key, node, none_lost, not_lost_yet, run, unknown, versions,
};
use crate::{
    auth::{AuthFailure, CallFailure},
    connection::ConnectionError,
};

const ANSWERS_AGAIN: &str = "the key is in OpenBao's storage, and objects are readable again once OpenBao \
    answers";
pub(super) const KEY_IS_IN_OPENBAO: &str = "OpenBao keeps the key, and a running provider continues to serve \
    until its token expires";
const STATUS: Step = run("see its status", "bao status {server}");
const WRITE_POLICY: Step = run(
    "write the policy of the role again, as an administrator (NAME is its name)",
    "bao-kms-provider policy openbao --config {config} | bao policy write {bao} NAME -",
);
const NO_WIDER_POLICY: &str = "do not give the provider a root token or a wider policy";

causes! {
    UNREACHABLE = none_lost("openbao_unreachable", "OpenBao does not answer", ANSWERS_AGAIN)
        .steps(&[
            act(
                "check that OpenBao runs, and that network, firewall and DNS lead from this node \
                 to {address}",
            ),
            STATUS,
        ]);

    NOT_OPENBAO = unknown(
        "not_openbao",
        "the response is not from OpenBao",
        "a proxy, an ingress or a web server answered in OpenBao's place",
    )
    .steps(&[
        act(
            "point openbao.address at OpenBao, or correct the route of the proxy, ingress or load \
             balancer that answered",
        ),
        run(
            "identify the answering software: OpenBao sends JSON with `sealed`",
            "curl --include {curl}/v1/sys/seal-status",
        ),
    ])
    .warnings(&["do not restore OpenBao and do not create a key: the state of both is unknown"]);

    UNTRUSTED = none_lost(
        "openbao_untrusted",
        "OpenBao's certificate is not signed by the configured CA, or is for another name",
        ANSWERS_AGAIN,
    )
    .steps(&[
        act("compare {ca} with the CA bundle of a backup or of another node"),
        run(
            "compare the names in the certificate of the server with openbao.tlsServerName",
            "openssl s_client -connect {authority} </dev/null | openssl x509 -noout -subject \
             -issuer -dates -ext subjectAltName",
        ),
    ])
    .warnings(&["do not trust the CA of an unknown server at the address, and do not disable \
        verification"]);

    UNINITIALIZED = at_risk(
        "openbao_uninitialized",
        "this OpenBao has no storage: it was never initialized",
        "this server holds no key. Either it is the wrong server, or its storage is gone and only \
         a backup of OpenBao restores the data",
    )
    .steps(&[
        act("compare openbao.address {address} with another node: is it the right server?"),
        act("if it is, restore its storage from a backup of OpenBao"),
    ])
    .warnings(&[
        "do not run `bao operator init`, except as the first step of restoring a snapshot: a key \
         of a new OpenBao decrypts nothing",
    ]);

    SEALED = none_lost("openbao_sealed", "OpenBao is sealed", ANSWERS_AGAIN)
        .steps(&[run(
            "unseal it: repeat until the threshold is reached, or repair its auto-unseal",
            "bao operator unseal {server}",
        )]);

    NO_LEADER = none_lost("openbao_no_leader", "OpenBao's cluster has no active \
        server", ANSWERS_AGAIN)
        .steps(&[
            act("start and unseal the other servers of OpenBao: a majority elects the active one"),
            STATUS,
        ]);

    LOGIN_REFUSED = none_lost("login_refused", "OpenBao rejects the login", KEY_IS_IN_OPENBAO)
        .steps(&[
            run(
                "compare the role with the JWT and auth in {config}, as an administrator: \
                 bound_audiences, bound_subject, bound_claims",
                "bao read {bao} {login}/role/{role}",
            ),
            run(
                "compare its login method: bound_issuer, signing keys",
                "bao read {bao} {login}/config",
            ),
        ])
        .warnings(&[NO_WIDER_POLICY]);

    POLICY_INSUFFICIENT = none_lost(
        "policy_insufficient",
        "the policy of the token lacks permissions of the provider",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[WRITE_POLICY])
    .warnings(&[NO_WIDER_POLICY]);

    INCONCLUSIVE = unknown(
        "inconclusive",
        "unexpected response from OpenBao",
        "the result of a check is open",
    )
    .steps(&[act("read the log of OpenBao for the failed request, then check again")]);

    RATE_LIMITED = none_lost(
        "openbao_rate_limited",
        "OpenBao limits the rate of requests from this node",
        ANSWERS_AGAIN,
    )
    .steps(&[run(
        "raise the limit of this node, as an administrator (this lists the limits)",
        "bao list {server} sys/quotas/rate-limit",
    )]);

    LEASE_TOO_SHORT = none_lost(
        "lease_too_short",
        "OpenBao grants tokens with a shorter lease than auth.loginBeforeTokenExpiry needs",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[run(
        "have the role grant longer tokens, as an administrator",
        "bao write {bao} {login}/role/{role} role_type=jwt token_ttl=30m token_max_ttl=1h",
    )]);

    PASSED_OVER = none_lost(
        "address_unavailable",
        "an address of OpenBao does not serve, and another one does",
        "the provider uses {address_in_use}",
    )
    .steps(&[act("bring {address_passed_over} back, or remove it from the configuration")]);

    CA_BUNDLE_UNUSABLE = none_lost(
        "ca_bundle_unusable",
        "openbao.caCertFile is unreadable, or without a usable certificate",
        ANSWERS_AGAIN,
    )
    .steps(&[act("put the CA of OpenBao's certificate at {ca}, from a backup or another node")]);

    TOKEN_FILE_UNUSABLE = none_lost(
        "token_file_unusable",
        "the file of --token-file is unreadable, open to other users, or without a token",
        "OpenBao was not asked",
    )
    .steps(&[act(
        "put one token into a regular file with mode 0600, and name it by its absolute path",
    )]);

    POLICY_EXCESSIVE = not_lost_yet(
        "policy_excessive",
        "the policy of the token gives power over the key",
        "a holder of this token or of the node could change, delete or copy the key, and so all \
         encrypted data",
    )
    .steps(&[
        WRITE_POLICY,
        act("attach no other policy to the role, and set token_no_default_policy=true"),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    MOUNT_SETTINGS_DENIED = none_lost(
        "mount_settings_denied",
        "the policy of the token does not allow reading the settings of the Transit mount",
        "decryption continues, and the provider does not encrypt, since OpenBao could replace a \
         lost key unnoticed",
    )
    .steps(&[WRITE_POLICY])
    .warnings(&[NO_WIDER_POLICY]);
}

/// The cause of a failed call with the token.
#[must_use]
pub fn of_call(failure: &CallFailure) -> &'static Cause {
    match failure {
        CallFailure::OpenBao(failure) => of_class(failure.class()),
        CallFailure::Auth(failure) => of_login(failure),
    }
}

/// The cause of a missing token.
#[must_use]
pub fn of_login(failure: &AuthFailure) -> &'static Cause {
    match failure {
        AuthFailure::Login(failure) => node::of_jwt(failure),
        AuthFailure::Renewal(failure) => of_login_request(failure.class()),
        AuthFailure::ShortLease { .. } => &LEASE_TOO_SHORT,
        AuthFailure::Timeout => &UNREACHABLE,
        AuthFailure::Rejected => &LOGIN_REFUSED,
        AuthFailure::Stopped => &INCONCLUSIVE,
    }
}

/// The cause of a failed login request. Every refusal concerns the login.
#[must_use]
pub fn of_login_request(class: FailureClass) -> &'static Cause {
    match class {
        FailureClass::RateLimited => &RATE_LIMITED,
        class if class.is_outage() => of_class(class),
        _ => &LOGIN_REFUSED,
    }
}

/// The cause of a failed request.
#[must_use]
pub fn of_class(class: FailureClass) -> &'static Cause {
    match class {
        FailureClass::Sealed => &SEALED,
        FailureClass::TlsFailed => &UNTRUSTED,
        FailureClass::NotOpenBao => &NOT_OPENBAO,
        FailureClass::RateLimited => &RATE_LIMITED,
        FailureClass::Unavailable
        | FailureClass::DnsFailed
        | FailureClass::ConnectionFailed
        | FailureClass::Timeout => &UNREACHABLE,
        FailureClass::Unauthenticated => &LOGIN_REFUSED,
        FailureClass::PermissionDenied => &POLICY_INSUFFICIENT,
        FailureClass::NotFound | FailureClass::KeyMissing => &key::LOST,
        FailureClass::VersionTooOld => &versions::BELOW_MINIMUM,
        FailureClass::VersionBelowMinimum => &versions::ENCRYPTION_BLOCKED,
        FailureClass::DecryptFailed
        | FailureClass::VersionTooNew
        | FailureClass::InvalidRequest
        | FailureClass::InvalidAnswer
        | FailureClass::Unknown => &INCONCLUSIVE,
    }
}

/// The cause of a connection that could not be set up.
#[must_use]
pub fn of_connection(error: &ConnectionError) -> &'static Cause {
    match error {
        ConnectionError::CaBundle { .. } | ConnectionError::CaFile { .. } => &CA_BUNDLE_UNUSABLE,
        ConnectionError::TokenFile { .. } | ConnectionError::Token { .. } => &TOKEN_FILE_UNUSABLE,
        ConnectionError::Client(_) => &super::configuration::INVALID,
        ConnectionError::UnsupportedAuth(_) => &super::configuration::UNSUPPORTED_LOGIN,
        ConnectionError::Runtime(_) => &INCONCLUSIVE,
    }
}
