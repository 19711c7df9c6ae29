//! Questions about a node and their answers, shared by the commands that diagnose. A check is a
//! value of [`report`](crate::report); each function here makes the one or more that it names, from
//! facts that its caller has gathered.

pub mod capabilities;
pub mod configuration;
pub mod hardening;
pub mod key;
pub mod state;

use openbao_client::failure::FailureClass;

use crate::{
    auth::{AuthFailure, CallFailure},
    report::Check,
};

/// Identifier and title of a check. Stable.
pub type Name = (&'static str, &'static str);

/// The answer for a check whose prerequisite failed.
#[must_use]
pub fn skipped((id, title): Name) -> Check {
    Check::skip(id, title, "an earlier check failed")
}

/// What to look at when OpenBao could not be used.
#[must_use]
pub fn call_remedy(failure: &CallFailure) -> Option<&'static str> {
    let Some(class) = failure.class() else {
        return Some(
            "check the token file and auth.jwt.*, and role, audience and keys of that login in \
             OpenBao",
        );
    };
    match class {
        FailureClass::Sealed => Some("unseal OpenBao; then try again"),
        FailureClass::ConnectionFailed
        | FailureClass::DnsFailed
        | FailureClass::Timeout
        | FailureClass::Unavailable => Some(
            "check that OpenBao runs and answers at openbao.address from this node: network, \
             firewall, DNS, active node",
        ),
        FailureClass::TlsFailed => Some(
            "compare openbao.caCertFile and openbao.tlsServerName with the certificate that the \
             server shows: openssl s_client -connect HOST:PORT",
        ),
        FailureClass::PermissionDenied => {
            Some("compare the policy of the role with: bao-kms-provider policy openbao")
        }
        FailureClass::NotFound | FailureClass::KeyMissing => Some(
            "check transit.mountPath and transit.keyName; if data is encrypted already, restore \
             OpenBao and do not create a key of that name",
        ),
        _ => None,
    }
}

/// A login that failed.
#[must_use]
pub fn not_logged_in(name: Name, failure: AuthFailure) -> Check {
    let impact = "the provider gets no token: kube-apiserver cannot read or write encrypted \
                  objects through this node once the last one has expired; no data is lost";
    unanswered(name, &CallFailure::Auth(failure), impact)
}

/// A failed question to OpenBao.
fn unanswered((id, title): Name, failure: &CallFailure, impact: &str) -> Check {
    let check = Check::fail(id, title, crate::report::one_line(failure)).impact(impact);
    match call_remedy(failure) {
        Some(remedy) => check.remediation(remedy),
        None => check,
    }
}
