use std::time::{Duration, SystemTime};

use kms_domain::scope::{KeyName, MountPath};
use openbao_client::{
    failure::FailureClass,
    login::{
        Login, LoginFailure, LoginOutcome,
        jwt::{ClaimRules, Jwt, JwtRole},
        jwt_file::{JwtFile, JwtSource},
    },
};
use serde_json::{Value, json};
use testkit::tenant::{AUDIENCE, ISSUER, ROLE, SUBJECT};

use crate::corner::{Corner, LONG};

#[expect(clippy::disallowed_methods, reason = "the server has the real time")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The tenant's claims with a change.
fn with(corner: &Corner, field: &str, value: Value) -> Value {
    let mut claims = corner.tenant.claims();
    claims[field] = value;
    claims
}

/// The tenant's claims, with `exp` in this many seconds.
fn with_life(corner: &Corner, seconds: i64) -> Value {
    let expires = corner.tenant.claims()["iat"].as_i64().unwrap() + seconds;
    with(corner, "exp", json!(expires))
}

fn role(corner: &Corner, name: &str) -> JwtRole {
    JwtRole {
        client: corner.client(),
        mount_path: MountPath::parse(&format!("auth/{}", corner.tenant.jwt_mount)).unwrap(),
        role: KeyName::parse(name).unwrap(),
    }
}

fn login(corner: &Corner) -> JwtFile {
    let rules = ClaimRules {
        expected_issuer: Some(ISSUER.to_owned()),
        expected_audience: vec![AUDIENCE.to_owned()],
        expected_subject: Some(SUBJECT.to_owned()),
        clock_skew_leeway: Duration::from_secs(30),
        min_remaining: Duration::from_secs(120),
    };
    JwtFile {
        role: role(corner, ROLE),
        source: JwtSource::new(corner.tenant.jwt_file(), rules),
    }
}

#[tokio::test]
async fn a_jwt_buys_a_token_that_can_be_renewed() {
    let corner = Corner::new().await;
    let login = login(&corner);
    let grant = login.log_in(now(), LONG).await.ok().unwrap();
    assert_eq!(grant.lease.duration, Duration::from_secs(30 * 60));
    assert!(grant.lease.renewable);
    assert!(corner.transit().key_metadata(&grant.token).await.is_ok());

    let hour = Duration::from_secs(3600);
    let renewal = login.renew(&grant.token, hour, LONG).await.ok().unwrap();
    assert!(renewal.lease.duration > grant.lease.duration);
    assert!(renewal.lease.duration <= hour, "the maximum of the role");
    let same = |token: openbao_client::token::Token| token.expose() == grant.token.expose();
    assert!(renewal.token.is_none_or(same));

    let body = json!({"token": grant.token.expose()});
    corner.write("auth/token/revoke", &body).await;
    let refused = login.renew(&grant.token, hour, LONG).await.err().unwrap();
    assert!(refused.rejects_token());
}

#[tokio::test]
async fn a_replaced_file_is_used_by_the_next_login() {
    let corner = Corner::new().await;
    let login = login(&corner);
    corner.tenant.write_jwt(&with_life(&corner, 60));
    let failure = login.log_in(now(), LONG).await.err().unwrap();
    assert_eq!(failure.outcome(), LoginOutcome::JwtNearExpiry);
    corner.tenant.write_jwt(&with_life(&corner, 600));
    assert!(login.log_in(now(), LONG).await.is_ok());
}

#[tokio::test]
async fn openbao_refuses_a_jwt_that_claims_something_else() {
    let corner = Corner::new().await;
    let other = Corner::new().await;
    let changed = |field, value| corner.tenant.jwt(&with(&corner, field, value));
    for (case, text, role_name) in [
        ("audience", changed("aud", json!(["other"])), ROLE),
        ("issuer", changed("iss", json!("https://other.test")), ROLE),
        ("subject", changed("sub", json!("node-2")), ROLE),
        // Beyond the server's own leeway.
        (
            "expired",
            corner.tenant.jwt(&with_life(&corner, -3600)),
            ROLE,
        ),
        ("signature", other.tenant.jwt(&other.tenant.claims()), ROLE),
        ("role", corner.tenant.jwt(&corner.tenant.claims()), "nobody"),
    ] {
        let jwt = Jwt::parse(text.as_bytes()).ok().unwrap();
        let result = role(&corner, role_name).exchange(&jwt, LONG).await;
        let failure = result.err().unwrap();
        assert_eq!(failure.class(), FailureClass::InvalidRequest, "{case}");
        assert!(failure.server_errors().is_empty());
        let outcome = LoginFailure::OpenBao(failure).outcome();
        assert_eq!(outcome, LoginOutcome::AuthFailed, "{case}");
    }
}
