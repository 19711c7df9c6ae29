//! Causes at OpenBao and on the connection to it.

use openbao_client::{
    failure::{Failure, FailureClass, TlsProblem},
    login_refusal::LoginRefusal,
};

use super::{
    Cause, Step, act, at_risk, key, login, node, none_lost, not_lost_yet, run, unknown, versions,
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
const NO_UNKNOWN_CA: &str = "do not trust the CA of an unknown server at the address, and do not disable \
    verification";
const SHOW_CLAIMS: Step = run(
    "see the claims of the JWT",
    "cut -d. -f2 {credential} | tr '_-' '/+' | base64 -d 2>/dev/null; echo",
);
const SHOW_ROLE: Step = run(
    "compare them with the role, as an administrator",
    "bao read {bao} {login}/role/{role}",
);
const SHOW_USAGE: Step = run(
    "see the certificate of the server",
    "openssl s_client -connect {authority} </dev/null | openssl x509 -noout -subject -issuer -dates \
     -ext basicConstraints,extendedKeyUsage",
);

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
    .warnings(&[NO_UNKNOWN_CA]);

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
                "compare the role with the credential and auth in {config}, as an administrator; for a \
                 JWT bound_audiences, bound_subject, bound_claims",
                "bao read {bao} {role_path}",
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
        "OpenBao keeps the key; the calls that the policy denies fail at once, also those of a \
         running provider",
    )
    .steps(&[WRITE_POLICY])
    .warnings(&[NO_WIDER_POLICY]);

    INCONCLUSIVE = unknown(
        "inconclusive",
        "unexpected response from OpenBao",
        "the result of a check is open",
    )
    .steps(&[act("read the log of OpenBao for the failed request, then check again")]);

    MOUNT_MISSING = unknown(
        "mount_missing",
        "OpenBao has no mount or namespace of the configured names",
        "wrong names are harmless; a mount that was disabled has taken its keys with it",
    )
    .steps(&[
        act(
            "compare openbao.namespace, transit.mountPath {mount} and openbao.address {address} with a \
             backup record or another node",
        ),
        run("list the mounts, as an administrator", "bao secrets list {bao}"),
        act("if the names are right, restore a backup of OpenBao with the mount and its key"),
    ])
    .warnings(&["do not enable a mount or create a key of these names"]);

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
        "bao write {bao} {role_update} token_ttl=30m token_max_ttl=1h",
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

    TOKEN_REJECTED = none_lost(
        "token_rejected",
        "OpenBao rejects the token of --token-file",
        "the key was not used, and nothing was changed",
    )
    .steps(&[act(
        "create a token with the policy of the provider, in the same OpenBao and namespace, and \
         write it to the file",
    )])
    .warnings(&[NO_WIDER_POLICY]);

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

    LOGIN_ROLE_MISSING = none_lost(
        "login_role_missing",
        "the login method in OpenBao has no role of the configured name",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run("list its roles, as an administrator", "bao list {bao} {login}/role"),
        act("correct auth.jwt.role in {config}, or write the role {role} again"),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_ROLE_UNSUITABLE = none_lost(
        "login_role_unsuitable",
        "the role in OpenBao is for another kind of login, or needs a claim that the JWT lacks",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_CLAIMS,
        SHOW_ROLE,
        act("set role_type=jwt, and user_claim and groups_claim to claims of the JWT"),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_AUDIENCE = none_lost(
        "login_audience",
        "the role in OpenBao is bound to another audience than that of the JWT",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_CLAIMS,
        SHOW_ROLE,
        run(
            "bind the role to aud of the JWT (AUDIENCE), or have a JWT issued for bound_audiences",
            "bao write {bao} {login}/role/{role} role_type=jwt bound_audiences=AUDIENCE",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_SUBJECT = none_lost(
        "login_subject",
        "the role in OpenBao is bound to another subject than that of the JWT",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_CLAIMS,
        SHOW_ROLE,
        run(
            "bind the role to sub of the JWT (SUBJECT), or have a JWT issued for bound_subject",
            "bao write {bao} {login}/role/{role} role_type=jwt bound_subject=SUBJECT",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_ISSUER = none_lost(
        "login_issuer",
        "the login method in OpenBao is bound to another issuer than that of the JWT",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_CLAIMS,
        run(
            "compare iss with bound_issuer of the login method, as an administrator",
            "bao read {bao} {login}/config",
        ),
        act("have the JWT issued by that issuer, or bind the login method to iss of the JWT"),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_SIGNATURE = none_lost(
        "login_signature",
        "the keys of the login method in OpenBao do not verify the signature of the JWT",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "see the source of the keys of the login method, as an administrator",
            "bao read {bao} {login}/config",
        ),
        act(
            "if it is a URL, have OpenBao reach it; otherwise add the present public key of the \
             issuer, or have a JWT issued with one of the keys",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_CLAIMS = none_lost(
        "login_claims",
        "a claim of the JWT differs from bound_claims of the role in OpenBao",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_CLAIMS,
        SHOW_ROLE,
        act("correct bound_claims of the role, or have a JWT issued with these claims"),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_CLOCK = none_lost(
        "login_clock",
        "the JWT has expired, or is not valid yet, by the clock of OpenBao",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "compare the clocks of this node and of OpenBao, and correct the wrong one with NTP",
            node::COMPARE_CLOCKS.command,
        ),
        act("if both are right, have a new JWT issued, and replace {credential} with it by rename"),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_UNCONFIGURED = none_lost(
        "login_unconfigured",
        "the login method in OpenBao has no configuration",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[run(
        "write its issuer and public keys again, or jwks_url in place of the keys, as an \
         administrator",
        "bao write {bao} {login}/config bound_issuer=ISSUER jwt_validation_pubkeys=@FILE",
    )])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_DENIED = none_lost(
        "login_denied",
        "OpenBao has no login method at the configured path and namespace, or the role excludes \
         this node",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run("list the login methods of the namespace, as an administrator", "bao auth list {bao}"),
        run(
            "if {login} is listed, compare token_bound_cidrs of the role with the address of this \
             node",
            "bao read {bao} -field=token_bound_cidrs {role_path}",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_MOUNT_MISSING = none_lost(
        "login_mount_missing",
        "OpenBao has no login method at the configured path and namespace",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run("list the login methods of the namespace, as an administrator", "bao auth list {bao}"),
        act(
            "correct auth.{method}.mountPath or openbao.namespace in {config}; another namespace may \
             have the method",
        ),
        act("if it was deleted, enable and configure it again, with its role and policy"),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_MOUNT_ELSEWHERE = none_lost(
        "login_mount_elsewhere",
        "the login method is mounted in the root namespace of OpenBao, and the configuration names \
         another one",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "compare openbao.namespace in {config} with that of the key, the role and the policy, \
             as an administrator",
            "bao auth list {server}",
        ),
        act(
            "enable the login method in the namespace of the key: a token of the root namespace \
             needs its policy there",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_ADDRESS_EXCLUDED = none_lost(
        "login_address_excluded",
        "token_bound_cidrs of the role in OpenBao excludes the address of this node",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "compare them with the address that OpenBao sees, perhaps that of a proxy, as an \
             administrator",
            "bao read {bao} -field=token_bound_cidrs {role_path}",
        ),
        run(
            "add the address (CIDR), or clear the list",
            "bao write {bao} {role_update} token_bound_cidrs=CIDR",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_NAMESPACE_MISSING = none_lost(
        "login_namespace_missing",
        "OpenBao has no namespace of the configured name",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run("list the namespaces, as an administrator", "bao namespace list {server}"),
        act(
            "correct openbao.namespace in {config}: it is part of the identity, so it must be as \
             before",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    TOKEN_USES_LIMITED = none_lost(
        "token_uses_limited",
        "the role in OpenBao limits the number of requests of a token",
        "OpenBao revokes a token after that number of requests, so calls wait for a new login or \
         fail",
    )
    .steps(&[run(
        "remove the limit, as an administrator",
        "bao write {bao} {role_update} token_num_uses=0",
    )]);

    TOKEN_ADDRESSES_LIMITED = none_lost(
        "token_addresses_limited",
        "the role in OpenBao binds tokens to addresses",
        "logins and calls fail once this node, or a proxy in front of OpenBao, has another address",
    )
    .steps(&[run(
        "check that the addresses include every address that this node may have, as an \
         administrator",
        "bao read {bao} -field=token_bound_cidrs {role_path}",
    )]);

    CA_AS_SERVER_CERTIFICATE = none_lost(
        "ca_as_server_certificate",
        "OpenBao presents a CA certificate as its server certificate",
        ANSWERS_AGAIN,
    )
    .steps(&[
        act(
            "issue a certificate for the server with CA:FALSE, its name in subjectAltName and the \
             usage serverAuth, signed by that CA, and set it as tls_cert_file in the listener of \
             OpenBao",
        ),
        SHOW_USAGE,
    ])
    .warnings(&[NO_UNKNOWN_CA]);

    NO_SERVER_AUTH = none_lost(
        "certificate_not_for_servers",
        "the extended key usage of OpenBao's certificate lacks serverAuth",
        ANSWERS_AGAIN,
    )
    .steps(&[
        act(
            "issue the certificate again with the usage serverAuth, and set it as tls_cert_file in \
             the listener of OpenBao",
        ),
        SHOW_USAGE,
    ])
    .warnings(&[NO_UNKNOWN_CA]);

    CLIENT_CERTIFICATE_REQUIRED = none_lost(
        "client_certificate_required",
        "OpenBao, or a proxy in front of it, requires a client certificate, and the provider has \
         none",
        ANSWERS_AGAIN,
    )
    .steps(&[act(
        "remove tls_require_and_verify_client_cert from the listener of OpenBao at {address}, or \
         add a listener without it for the nodes",
    )]);

    LOGIN_CREDENTIAL = none_lost(
        "login_credential",
        "OpenBao does not accept the ID and the secret of the login: one of them is wrong, expired, \
         revoked or used up",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "compare auth.approle.roleId or auth.userpass.username in {config} with the role or the user \
             in OpenBao",
        ),
        act(
            "as an administrator, create a new secret ID or set a new password, and replace {credential} \
             with it by rename",
        ),
    ])
    .warnings(&[
        NO_WIDER_POLICY,
        "do not repeat a wrong password: OpenBao locks the login after some failures",
    ]);

    LOGIN_SECRET_ID_ADDRESS = none_lost(
        "login_secret_id_address",
        "the secret ID is bound to other addresses than that of this node",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "create a secret ID whose cidr_list has the address of this node, or of the proxy in front of \
         OpenBao, and replace {credential} with it by rename",
    )])
    .warnings(&[NO_WIDER_POLICY]);

    LOGIN_CERTIFICATE_MISSING = none_lost(
        "login_certificate_missing",
        "no client certificate of this node reached OpenBao",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act(
            "remove tls_disable_client_certs from the listener of OpenBao at {address}, so that it asks \
             for certificates",
        ),
        act("if a proxy ends the TLS connections, connect to OpenBao itself"),
    ]);

    LOGIN_CERTIFICATE = none_lost(
        "login_certificate",
        "no role of the certificate login in OpenBao accepts the certificate of this node",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "list the roles of the login method, as an administrator",
            "bao list {bao} {login}/certs",
        ),
        act(
            "compare the issuer and the names of the certificate with certificate and allowed_* of the \
             role",
        ),
    ])
    .warnings(&[NO_WIDER_POLICY]);

    CA_BUNDLE_GLUED = none_lost(
        "ca_bundle_glued",
        "openbao.caCertFile has two certificates without a line feed between them",
        "the provider reads both, and other programs drop the second one",
    )
    .steps(&[run(
        "separate them",
        "sed -i 's/-----END CERTIFICATE----------BEGIN/-----END CERTIFICATE-----\\n-----BEGIN/g' {ca}",
    )]);
}

/// The cause of a failed call with the token.
#[must_use]
pub fn of_call(failure: &CallFailure) -> &'static Cause {
    match failure {
        CallFailure::OpenBao(failure) => of_request(failure),
        CallFailure::Auth(failure) => of_login(failure),
    }
}

/// The cause of a missing token.
#[must_use]
pub fn of_login(failure: &AuthFailure) -> &'static Cause {
    match failure {
        AuthFailure::Login(failure) => login::of_failure(failure),
        AuthFailure::Renewal(failure) => of_login_request(failure),
        AuthFailure::ShortLease { .. } => &LEASE_TOO_SHORT,
        AuthFailure::Timeout => &UNREACHABLE,
        AuthFailure::Rejected => &LOGIN_REFUSED,
        AuthFailure::Stopped => &INCONCLUSIVE,
    }
}

/// The cause of a failed login request. Every refusal concerns the login.
#[must_use]
pub fn of_login_request(failure: &Failure) -> &'static Cause {
    match (failure.refusal(), failure.class()) {
        (Some(refusal), _) => of_refusal(refusal),
        (None, FailureClass::RateLimited) => &RATE_LIMITED,
        (None, class) if class.is_outage() => of_request(failure),
        (None, _) => &LOGIN_REFUSED,
    }
}

fn of_refusal(refusal: LoginRefusal) -> &'static Cause {
    match refusal {
        LoginRefusal::RoleMissing => &LOGIN_ROLE_MISSING,
        LoginRefusal::RoleUnsuitable => &LOGIN_ROLE_UNSUITABLE,
        LoginRefusal::Audience => &LOGIN_AUDIENCE,
        LoginRefusal::Subject => &LOGIN_SUBJECT,
        LoginRefusal::Issuer => &LOGIN_ISSUER,
        LoginRefusal::Signature => &LOGIN_SIGNATURE,
        LoginRefusal::BoundClaims => &LOGIN_CLAIMS,
        LoginRefusal::Expired | LoginRefusal::NotYetValid => &LOGIN_CLOCK,
        LoginRefusal::MountUnconfigured => &LOGIN_UNCONFIGURED,
        LoginRefusal::MountOrAddress => &LOGIN_DENIED,
        LoginRefusal::NamespaceMissing => &LOGIN_NAMESPACE_MISSING,
        LoginRefusal::Credential => &LOGIN_CREDENTIAL,
        LoginRefusal::SecretIdAddress => &LOGIN_SECRET_ID_ADDRESS,
        LoginRefusal::CertificateMissing => &LOGIN_CERTIFICATE_MISSING,
        LoginRefusal::Certificate => &LOGIN_CERTIFICATE,
    }
}

/// The cause of a failed request.
#[must_use]
pub fn of_request(failure: &Failure) -> &'static Cause {
    match failure.tls_problem() {
        Some(TlsProblem::CaAsServer) => &CA_AS_SERVER_CERTIFICATE,
        Some(TlsProblem::NoServerAuth) => &NO_SERVER_AUTH,
        Some(TlsProblem::ClientCertificateRequired) => &CLIENT_CERTIFICATE_REQUIRED,
        None if failure.is_missing_mount() => &MOUNT_MISSING,
        None => of_class(failure.class()),
    }
}

/// The cause of a failed request, by its class.
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
        ConnectionError::TokenFile(_) => &TOKEN_FILE_UNUSABLE,
        ConnectionError::Client(_) => &super::configuration::INVALID,
        ConnectionError::UnsupportedAuth(_) => &super::configuration::UNSUPPORTED_LOGIN,
        ConnectionError::Runtime(_) => &INCONCLUSIVE,
    }
}
