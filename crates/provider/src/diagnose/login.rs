//! Can this node log in to OpenBao?

use openbao_client::{
    credential_file::CredentialFileProblem,
    failure::FailureClass,
    login::{LoginFailure, jwt::JwtProblem},
};

use super::{Question, bao, facts::Facts};
use crate::{
    auth::{AuthFailure, CallFailure},
    report::{Check, ImpactClass, one_line},
};

/// The JWT file is safe and its claims are good now.
pub const JWT: Question = Question {
    id: "jwt.local",
    title: "JWT file",
    needs: &[
        "config.validate",
        "config.files/auth.jwt.jwtFile",
        "process.identity/other_user",
    ],
    judge: jwt,
};

/// `doctor`: a login that can be expected to work does.
pub const AUTH: Question = Question {
    id: "openbao.auth",
    title: "OpenBao JWT login",
    needs: &["openbao.tls", "openbao.reachable", "jwt.local"],
    judge: auth,
};

/// `verify-key`: as [`AUTH`], with everything that a login needs being part of it.
pub const AUTH_ALONE: Question = Question {
    needs: &["openbao.tls"],
    ..AUTH
};

const IMPACT: &str = "the provider gets no token: kube-apiserver cannot read or write encrypted \
    objects through this node once the last one has expired; no data is lost";

fn jwt(facts: &Facts) -> Option<Vec<Check>> {
    let (_, file) = facts.config()?.auth.jwt_file().ok()?;
    let file = file.display();
    let failure = match facts.jwt.as_ref()? {
        Ok(()) => return Some(vec![JWT.pass()]),
        Err(failure) => failure,
    };
    let remedy = match failure {
        LoginFailure::Jwt(problem) => claims(problem),
        LoginFailure::JwtFile(CredentialFileProblem::Hangs) => {
            "mount the file system below it again, or keep the file on a local one"
        }
        LoginFailure::JwtFile(_) | LoginFailure::OpenBao(_) => {
            "make it a regular file, mode 0640, that the provider's user can read"
        }
    };
    let failed = JWT
        .fail(format!("{file}: {}", one_line(failure)))
        .code(failure.detail())
        .impact(IMPACT)
        .impact_class(ImpactClass::ApiServerAvailability)
        .remediation(remedy);
    Some(vec![failed])
}

fn claims(problem: &JwtProblem) -> &'static str {
    const RENEW: &str = "have a new JWT issued and put it in place of this one by rename; then \
        find out why whatever renews it on this node has stopped";
    const CLOCK: &str = "compare the clocks of this node, of the issuer and of OpenBao, and set \
        the one that is wrong; if this node's is right, have a new JWT issued";
    const CLAIM: &str = "have a JWT issued with the configured claims, or correct the setting if \
        the role in OpenBao says otherwise";
    match problem {
        JwtProblem::Empty
        | JwtProblem::Malformed(_)
        | JwtProblem::Expired { .. }
        | JwtProblem::NearExpiry { .. } => RENEW,
        JwtProblem::NotYetValid(_) | JwtProblem::IssuedInFuture(_) => CLOCK,
        JwtProblem::Issuer | JwtProblem::Audience | JwtProblem::Subject => CLAIM,
    }
}

fn auth(facts: &Facts) -> Option<Vec<Check>> {
    let failure = match facts.login.as_ref()? {
        Ok(()) => return Some(vec![AUTH.pass()]),
        Err(failure) => failure,
    };
    let config = facts.config()?;
    let (jwt, _) = config.auth.jwt_file().ok()?;
    let call = CallFailure::Auth(failure.clone());
    let failed = AUTH.unanswered(&call, ImpactClass::ApiServerAvailability, IMPACT);
    let failed = match failure.openbao().map(|failure| failure.class()) {
        Some(
            class @ (FailureClass::InvalidRequest
            | FailureClass::PermissionDenied
            | FailureClass::Unauthenticated
            | FailureClass::NotFound),
        ) => failed.code(class.label()).remediation(format!(
            "compare the JWT with `{read} {mount}/role/{role}` (the role exists, \
             bound_audiences, bound_subject, bound_claims) and `{read} {mount}/config` \
             (bound_issuer, signing keys), and correct what differs",
            read = bao(config, "read"),
            mount = jwt.mount_path,
            role = jwt.role,
        )),
        _ => match failure {
            AuthFailure::ShortLease { .. } => failed.code("short_lease").remediation(format!(
                "run `{} {}/role/{} role_type=jwt token_ttl=30m token_max_ttl=1h`",
                bao(config, "write"),
                jwt.mount_path,
                jwt.role
            )),
            _ => failed,
        },
    };
    Some(vec![failed])
}
