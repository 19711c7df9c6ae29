//! The credential of this node, and its login to OpenBao.

use kms_node::{
    advice::{self, Cause},
    auth::{AuthFailure, CallFailure},
    report::{CheckResult, ImpactClass, counted, one_line},
};
use openbao_client::failure::{Failure, FailureClass};

use super::{Check, facts::Facts};

/// The JWT file is safe and its claims are good now.
pub const JWT: Check = Check {
    id: "jwt.local",
    title: "JWT file",
    needs: &[
        "config.validate",
        "config.files/auth.jwt.jwtFile",
        "process.identity/other_user",
    ],
    evaluate: jwt,
};

/// `doctor`: a login that can be expected to work does.
pub const AUTH: Check = Check {
    id: "openbao.auth",
    title: "Login to OpenBao",
    needs: &["openbao.tls", "openbao.reachable", "jwt.local"],
    evaluate: auth,
};

/// `verify-key`: as [`AUTH`], with everything that a login needs being part of it.
pub const AUTH_ALONE: Check = Check {
    needs: &["openbao.tls"],
    ..AUTH
};

fn jwt(facts: &Facts) -> Option<Vec<CheckResult>> {
    let files = facts.config()?.auth.credential_files();
    let (_, file) = files.first()?;
    let failure = match facts.credential.as_ref()? {
        Ok(()) => return Some(vec![JWT.pass()]),
        Err(failure) => failure,
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
            _ => failed,
        },
    };
    Some(vec![failed])
}

/// Limits of the role that a node meets later.
fn logged_in(facts: &Facts) -> Vec<CheckResult> {
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
    let warnings: Vec<_> = uses.into_iter().chain(cidrs).collect();
    match warnings.is_empty() {
        true => vec![AUTH.pass()],
        false => warnings,
    }
}
