//! Causes at OpenBao and on the connection to it.

use openbao_client::failure::FailureClass;

use super::{Cause, DataImpact, act, key, node, run, versions};
use crate::{
    auth::{AuthFailure, CallFailure},
    connection::ConnectionError,
    exit::Exit,
};

pub const ALL: &[&Cause] = &[
    &UNREACHABLE,
    &NOT_OPENBAO,
    &UNTRUSTED,
    &UNINITIALIZED,
    &SEALED,
    &NO_LEADER,
    &LOGIN_REFUSED,
    &POLICY_INSUFFICIENT,
    &INCONCLUSIVE,
    &RATE_LIMITED,
    &LEASE_TOO_SHORT,
    &PASSED_OVER,
    &CA_BUNDLE_UNUSABLE,
    &POLICY_EXCESSIVE,
    &MOUNT_SETTINGS_DENIED,
    &RENEWAL_DENIED,
];

const UNREACHABLE_IS_NOT_LOST: &str = "no data is lost: the key is in OpenBao's storage, and objects \
    are readable again once OpenBao answers";
pub(super) const KEY_IS_IN_OPENBAO: &str = "no data is lost: OpenBao keeps the key, and a running \
    provider continues to serve until its token expires";

pub const UNREACHABLE: Cause = Cause {
    code: "openbao_unreachable",
    headline: "OpenBao does not answer",
    impact: DataImpact::NoneLost,
    data: UNREACHABLE_IS_NOT_LOST,
    steps: &[
        act(
            "check that OpenBao runs, and that network, firewall and DNS lead from this node to \
             {address}",
        ),
        run("see its status", "bao status {server}"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NOT_OPENBAO: Cause = Cause {
    code: "not_openbao",
    headline: "the response is not from OpenBao",
    impact: DataImpact::Unknown,
    data: "unknown: a proxy, an ingress or a web server answered in OpenBao's place, and no sign of a \
           loss was seen",
    steps: &[
        act(
            "point openbao.address at OpenBao, or correct the route of the proxy, ingress or load \
             balancer that answered",
        ),
        run(
            "identify the software that answers: OpenBao sends JSON with `sealed`",
            "curl --include --cacert {ca} {address}/v1/sys/seal-status",
        ),
    ],
    warnings: &["do not restore OpenBao and do not create a key: the state of both is unknown"],
    exit: Exit::Runtime,
};

pub const UNTRUSTED: Cause = Cause {
    code: "openbao_untrusted",
    headline: "OpenBao's certificate is not signed by the configured CA, or is for another name",
    impact: DataImpact::NoneLost,
    data: UNREACHABLE_IS_NOT_LOST,
    steps: &[
        act("compare {ca} with the CA bundle of a backup or of another node"),
        run(
            "compare the names in the certificate of the server with openbao.tlsServerName",
            "openssl s_client -connect {authority} </dev/null | openssl x509 -noout -subject -issuer -dates -ext subjectAltName",
        ),
    ],
    warnings: &[
        "do not trust the CA of an unknown server at the address, and do not disable verification",
    ],
    exit: Exit::CheckFailed,
};

pub const UNINITIALIZED: Cause = Cause {
    code: "openbao_uninitialized",
    headline: "this OpenBao has no storage: it was never initialized",
    impact: DataImpact::AtRisk,
    data: "at risk: this server holds no key. Either it is the wrong server, or its storage is gone \
           and only a backup of OpenBao restores the data",
    steps: &[
        act("compare openbao.address {address} with another node: is it the right server?"),
        act("if it is, restore its storage from a backup of OpenBao"),
    ],
    warnings: &[
        "do not run `bao operator init`, except as the first step of restoring a snapshot: a key of a \
         new OpenBao decrypts nothing",
    ],
    exit: Exit::CheckFailed,
};

pub const SEALED: Cause = Cause {
    code: "openbao_sealed",
    headline: "OpenBao is sealed",
    impact: DataImpact::NoneLost,
    data: UNREACHABLE_IS_NOT_LOST,
    steps: &[run(
        "unseal it: repeat until the threshold is reached, or repair its auto-unseal",
        "bao operator unseal {server}",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NO_LEADER: Cause = Cause {
    code: "openbao_no_leader",
    headline: "OpenBao's cluster has no active server",
    impact: DataImpact::NoneLost,
    data: UNREACHABLE_IS_NOT_LOST,
    steps: &[
        act("start and unseal the other servers of OpenBao: a majority elects the active one"),
        run("see its status", "bao status {server}"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const LOGIN_REFUSED: Cause = Cause {
    code: "login_refused",
    headline: "OpenBao rejects the login",
    impact: DataImpact::NoneLost,
    data: KEY_IS_IN_OPENBAO,
    steps: &[
        run(
            "compare the role with the JWT and auth in {config}, as an administrator: \
             bound_audiences, bound_subject, bound_claims",
            "bao read {bao} {login}/role/{role}",
        ),
        run(
            "compare its login method: bound_issuer, signing keys",
            "bao read {bao} {login}/config",
        ),
    ],
    warnings: &["do not give the provider a root token or a wider policy"],
    exit: Exit::CheckFailed,
};

pub const POLICY_INSUFFICIENT: Cause = Cause {
    code: "policy_insufficient",
    headline: "the policy of the token lacks permissions of the provider",
    impact: DataImpact::NoneLost,
    data: KEY_IS_IN_OPENBAO,
    steps: &[run(
        "write the policy of the role again, as an administrator (NAME is its name)",
        "bao-kms-provider policy openbao --config {config} | bao policy write {bao} NAME -",
    )],
    warnings: &["do not give the provider a root token or a wider policy"],
    exit: Exit::CheckFailed,
};

pub const INCONCLUSIVE: Cause = Cause {
    code: "inconclusive",
    headline: "unexpected response from OpenBao",
    impact: DataImpact::Unknown,
    data: "unknown: a check has no clear result, and no sign of a loss was seen",
    steps: &[act(
        "read the log of OpenBao for the request that failed, then check again",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const RATE_LIMITED: Cause = Cause {
    code: "openbao_rate_limited",
    headline: "OpenBao limits the rate of requests from this node",
    impact: DataImpact::NoneLost,
    data: UNREACHABLE_IS_NOT_LOST,
    steps: &[run(
        "raise the limit of this node, as an administrator (this lists the limits)",
        "bao list {server} sys/quotas/rate-limit",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const LEASE_TOO_SHORT: Cause = Cause {
    code: "lease_too_short",
    headline: "OpenBao grants tokens with a shorter lease than auth.loginBeforeTokenExpiry needs",
    impact: DataImpact::NoneLost,
    data: KEY_IS_IN_OPENBAO,
    steps: &[run(
        "have the role grant longer tokens, as an administrator",
        "bao write {bao} {login}/role/{role} role_type=jwt token_ttl=30m token_max_ttl=1h",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PASSED_OVER: Cause = Cause {
    code: "address_unavailable",
    headline: "an address of OpenBao does not serve, and another one does",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the provider uses {address_in_use}",
    steps: &[act(
        "bring {address_passed_over} back, or remove it from the configuration",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const CA_BUNDLE_UNUSABLE: Cause = Cause {
    code: "ca_bundle_unusable",
    headline: "openbao.caCertFile is unreadable, or without a usable certificate",
    impact: DataImpact::NoneLost,
    data: UNREACHABLE_IS_NOT_LOST,
    steps: &[act(
        "put the CA that signed OpenBao's certificate at {ca}, from a backup or another node",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const POLICY_EXCESSIVE: Cause = Cause {
    code: "policy_excessive",
    headline: "the policy of the token gives power over the key",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; a holder of this token or of the node could change, delete or \
           copy the key, and so all encrypted data",
    steps: &[
        run(
            "write the policy of the role again, as an administrator (NAME is its name)",
            "bao-kms-provider policy openbao --config {config} | bao policy write {bao} NAME -",
        ),
        act("attach no other policy to the role, and set token_no_default_policy=true"),
    ],
    warnings: &["do not give the provider a root token or a wider policy"],
    exit: Exit::CheckFailed,
};

pub const MOUNT_SETTINGS_DENIED: Cause = Cause {
    code: "mount_settings_denied",
    headline: "the policy of the token does not allow reading the settings of the Transit mount",
    impact: DataImpact::NoneLost,
    data: "no data is lost: decryption continues, and the provider does not encrypt, since OpenBao could \
           replace a lost key unnoticed",
    steps: POLICY_INSUFFICIENT.steps,
    warnings: POLICY_INSUFFICIENT.warnings,
    exit: Exit::CheckFailed,
};

pub const RENEWAL_DENIED: Cause = Cause {
    code: "renewal_denied",
    headline: "the policy of the token does not allow its renewal",
    impact: DataImpact::NoneLost,
    data: "no data is lost: every renewal fails and is replaced by a new login",
    steps: &[run(
        "unless renewal was left out on purpose, write the policy of the role again, as an \
         administrator (NAME is its name)",
        "bao-kms-provider policy openbao --config {config} | bao policy write {bao} NAME -",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

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
        ConnectionError::Client(_) => &super::configuration::INVALID,
        ConnectionError::UnsupportedAuth(_) => &super::configuration::UNSUPPORTED_LOGIN,
        ConnectionError::Runtime(_) => &INCONCLUSIVE,
    }
}
