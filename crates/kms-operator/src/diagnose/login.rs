//! The credential of this node, and its login to OpenBao.

use kms_node::{
    advice::{self, Cause},
    auth::{AuthFailure, CallFailure},
    config::Method,
    report::{CheckResult, ImpactClass, counted, one_line},
};
use openbao_client::{
    failure::{Failure, FailureClass},
    login::{LoginFailure, approle::WrappingProblem, oauth2::OAuth2Problem},
};

use super::{Check, facts::Facts};

/// The JWT file is safe and its claims are good now.
pub const JWT: Check = Check {
    id: "jwt.local",
    title: "JWT file",
    needs: &[
        "config.validate",
        "config.files/auth.jwt.jwtFile",
        "config.files/auth.jwt.oauth2.clientSecretFile",
        "config.files/auth.jwt.oauth2.privateKeyFile",
        "config.files/auth.jwt.oauth2.caCertFile",
        "config.files/auth.jwt.spiffe.workloadAPISocket",
        "config.files/auth.cert.certificateFile",
        "config.files/auth.cert.keyFile",
        "config.files/auth.cert.pkcs11.certificateFile",
        "config.files/auth.approle.secretIdFile",
        "config.files/auth.userpass.passwordFile",
        "config.files/auth.token.file",
        "process.identity/other_user",
    ],
    evaluate: jwt,
};

/// `doctor`: a login that can be expected to work does.
pub const AUTH: Check = Check {
    id: "openbao.auth",
    title: "Login to OpenBao",
    needs: &[
        "openbao.tls",
        "openbao.reachable",
        "jwt.local",
        "config.files/auth.cert.pkcs11.modulePath",
        "config.files/auth.cert.pkcs11.pinFile",
    ],
    evaluate: auth,
};

/// `doctor`: the standby identity can log in.
pub const FALLBACK: Check = Check {
    id: "openbao.fallback",
    title: "Login of the standby identity",
    needs: &["openbao.tls", "openbao.reachable"],
    evaluate: fallback,
};

/// `verify-key`: as [`AUTH`], with everything that a login needs being part of it.
pub const AUTH_ALONE: Check = Check {
    needs: &["openbao.tls"],
    ..AUTH
};

fn jwt(facts: &Facts) -> Option<Vec<CheckResult>> {
    let auth = &facts.config()?.auth;
    let files = auth.credential_files();
    let failure = match facts.credential.as_ref()? {
        Ok(()) => return Some(vec![JWT.pass()]),
        Err(failure) => failure,
    };
    let file = match failure {
        LoginFailure::OAuth2(OAuth2Problem::CaFile(_) | OAuth2Problem::Ca(_)) => files.last()?.1,
        LoginFailure::Spiffe(_) => auth.methods().find_map(Method::workload_api_socket)?,
        _ => files.first()?.1,
    };
    let failed = JWT
        .fail(format!("{}: {}", file.display(), one_line(failure)))
        .because(facts.advise(advice::login::of_failure(failure), &[]))
        .code(failure.detail())
        .impact_class(ImpactClass::ApiServerAvailability);
    Some(vec![failed])
}

fn auth(facts: &Facts) -> Option<Vec<CheckResult>> {
    let failure = match facts.login.as_ref()? {
        Ok(()) => return Some(logged_in(facts)),
        Err(failure) => failure,
    };
    let call = CallFailure::Auth(failure.clone());
    let failed = AUTH.unanswered(&call, facts, ImpactClass::ApiServerAvailability);
    let refusal = failure.openbao().and_then(Failure::refusal);
    let failed = match failure.openbao().map(Failure::class) {
        Some(_) if refusal.is_some() => failed.code(failure.detail()),
        Some(
            class @ (FailureClass::InvalidRequest
            | FailureClass::PermissionDenied
            | FailureClass::Unauthenticated
            | FailureClass::NotFound),
        ) => failed.code(class.label()),
        _ => match failure {
            AuthFailure::ShortLease { .. } => failed.code("short_lease"),
            AuthFailure::Login(LoginFailure::PinFile(_) | LoginFailure::Pkcs11(_)) => {
                failed.code(failure.detail())
            }
            _ => failed,
        },
    };
    Some(vec![failed])
}

/// No result without a standby identity.
fn fallback(facts: &Facts) -> Option<Vec<CheckResult>> {
    if facts.config()?.auth.fallback.is_none() {
        return Some(Vec::new());
    }
    let failure = match facts.fallback.as_ref() {
        None => return Some(vec![FALLBACK.skip("no login was tried")]),
        Some(Ok(())) => return Some(vec![FALLBACK.pass()]),
        Some(Err(failure)) => failure,
    };
    if let LoginFailure::Wrapping(WrappingProblem::Reserved) = failure {
        return Some(vec![FALLBACK.skip(one_line(failure))]);
    }
    let failed = FALLBACK
        .fail(one_line(failure))
        .because(facts.advise(advice::login::of_failure(failure), &[]))
        .code(failure.detail())
        .impact("no data is lost: the login by auth.method is not affected")
        .impact_class(ImpactClass::Diagnosis);
    Some(vec![failed])
}

/// Limits of the role that a node meets later, and a failure behind the standby identity.
fn logged_in(facts: &Facts) -> Vec<CheckResult> {
    let standing_in = facts.standing_in.as_ref().map(|failure| {
        AUTH.warn(format!(
            "the standby identity logged in, since the configured login failed: {}",
            one_line(failure)
        ))
        .because(facts.advise(advice::login::of_failure(failure), &[]))
        .code(failure.detail())
        .impact_class(ImpactClass::ApiServerAvailability)
    });
    let limited = |message: String, cause: &Cause| {
        AUTH.warn(message)
            .because(facts.advise(cause, &[]))
            .impact_class(ImpactClass::ApiServerAvailability)
    };
    let uses = facts.token_uses.map(|uses| {
        let message = format!("each token is good for {}", counted(uses.get(), "request"));
        limited(message, &advice::openbao::TOKEN_USES_LIMITED)
    });
    let cidrs = (!facts.token_cidrs.is_empty()).then(|| {
        let message = format!("tokens are bound to {}", facts.token_cidrs.join(", "));
        limited(message, &advice::openbao::TOKEN_ADDRESSES_LIMITED)
    });
    let warnings: Vec<_> = standing_in.into_iter().chain(uses).chain(cidrs).collect();
    match warnings.is_empty() {
        true => vec![AUTH.pass()],
        false => warnings,
    }
}
