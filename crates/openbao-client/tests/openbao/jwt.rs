use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use kms_domain::scope::{KeyName, MountPath, Namespace};
use openbao_client::{
    failure::FailureClass,
    login::{
        Login, LoginFailure, LoginOutcome, bound_cidrs,
        jwt::{ClaimRules, Jwt, JwtRole},
        jwt_file::JwtFile,
    },
    login_refusal::LoginRefusal,
};
use serde_json::{Value, json};
use testkit::tenant::{AUDIENCE, ISSUER, ROLE, SUBJECT};

use crate::corner::{Corner, LONG, client, token};

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
    JwtFile::new(role(corner, ROLE), corner.tenant.jwt_file(), rules)
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
    let role_path = |name: &str| format!("auth/{}/role/{name}", corner.tenant.jwt_mount);
    let roles = [
        ("claims", json!({"bound_claims": {"group": "nodes"}})),
        ("user", json!({"user_claim": "nobody"})),
        ("groups", json!({"groups_claim": "nobody"})),
        (
            "unbound",
            json!({"bound_audiences": null, "bound_subject": SUBJECT}),
        ),
        ("address", json!({"token_bound_cidrs": ["10.9.9.0/24"]})),
    ];
    for (name, difference) in roles {
        let mut role = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_audiences": [AUDIENCE],
        });
        let own = role.as_object_mut().unwrap();
        own.extend(difference.as_object().unwrap().clone());
        corner.write(&role_path(name), &role).await;
    }
    let sound = || corner.tenant.jwt(&corner.tenant.claims());
    for (refusal, text, role_name) in [
        (
            LoginRefusal::Audience,
            changed("aud", json!(["other"])),
            ROLE,
        ),
        (LoginRefusal::Audience, sound(), "unbound"),
        (
            LoginRefusal::Issuer,
            changed("iss", json!("https://other.test")),
            ROLE,
        ),
        (LoginRefusal::Subject, changed("sub", json!("node-2")), ROLE),
        // Beyond the server's own leeway.
        (
            LoginRefusal::Expired,
            corner.tenant.jwt(&with_life(&corner, -3600)),
            ROLE,
        ),
        (
            LoginRefusal::NotYetValid,
            changed("nbf", json!(4_000_000_000_u64)),
            ROLE,
        ),
        (
            LoginRefusal::NotYetValid,
            changed("iat", json!(4_000_000_000_u64)),
            ROLE,
        ),
        (
            LoginRefusal::Signature,
            other.tenant.jwt(&other.tenant.claims()),
            ROLE,
        ),
        (LoginRefusal::RoleMissing, sound(), "nobody"),
        (LoginRefusal::BoundClaims, sound(), "claims"),
        (LoginRefusal::RoleUnsuitable, sound(), "user"),
        (LoginRefusal::RoleUnsuitable, sound(), "groups"),
        (LoginRefusal::MountOrAddress, sound(), "address"),
    ] {
        let jwt = Jwt::parse(text.as_bytes()).ok().unwrap();
        let result = role(&corner, role_name).exchange(&jwt, LONG).await;
        let failure = result.err().unwrap();
        assert_eq!(failure.refusal(), Some(refusal), "{failure}");
        assert!(failure.server_errors().is_empty());
        let failure = LoginFailure::OpenBao(failure);
        assert_eq!(failure.outcome(), LoginOutcome::AuthFailed);
        assert_eq!(failure.detail(), refusal.label());
    }
}

#[tokio::test]
async fn a_login_method_that_is_not_there_is_told_from_a_refused_jwt() {
    let corner = Corner::new().await;
    let jwt = corner.tenant.jwt(&corner.tenant.claims());
    let jwt = Jwt::parse(jwt.as_bytes()).ok().unwrap();
    let refusal = async |role: JwtRole| {
        let failure = role.exchange(&jwt, LONG).await.err().unwrap();
        failure.refusal()
    };
    let nowhere = JwtRole {
        mount_path: MountPath::parse("auth/nowhere").unwrap(),
        ..role(&corner, ROLE)
    };
    assert_eq!(refusal(nowhere).await, Some(LoginRefusal::MountOrAddress));

    let mut elsewhere = corner.server.endpoint();
    elsewhere.namespace = Some(Namespace::parse("nowhere").unwrap());
    let in_namespace = JwtRole {
        client: client(elsewhere),
        ..role(&corner, ROLE)
    };
    assert_eq!(
        refusal(in_namespace).await,
        Some(LoginRefusal::NamespaceMissing)
    );

    let empty = format!("{}-empty", corner.tenant.jwt_mount);
    corner
        .write(&format!("sys/auth/{empty}"), &json!({"type": "jwt"}))
        .await;
    let unconfigured = JwtRole {
        mount_path: MountPath::parse(&format!("auth/{empty}")).unwrap(),
        ..role(&corner, ROLE)
    };
    assert_eq!(
        refusal(unconfigured).await,
        Some(LoginRefusal::MountUnconfigured)
    );
}

#[tokio::test]
async fn limits_of_a_token_are_read_where_the_policy_permits_it() {
    let corner = Corner::new().await;
    let admin = corner.server.admin();
    let limited = json!({
        "policies": ["default"], "ttl": "1h", "num_uses": 9,
    });
    let created = admin.write("auth/token/create", &limited).await.unwrap();
    let created: Value = created.json().unwrap();
    let permitted = token(created["auth"]["client_token"].as_str().unwrap());
    let cidrs = bound_cidrs(&corner.client(), &permitted, LONG).await;
    assert_eq!(cidrs.ok().unwrap(), Vec::<String>::new());
    let denied = bound_cidrs(&corner.client(), &corner.token, LONG).await;
    assert_eq!(
        denied.err().unwrap().class(),
        FailureClass::PermissionDenied
    );

    let path = format!("auth/{}/role/{ROLE}", corner.tenant.jwt_mount);
    let role_limits = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": [AUDIENCE],
        "token_num_uses": 3, "token_bound_cidrs": ["127.0.0.0/8"], "token_ttl": "30m",
        "token_no_default_policy": false,
    });
    corner.write(&path, &role_limits).await;
    let grant = login(&corner).log_in(now(), LONG).await.ok().unwrap();
    assert_eq!(grant.lease.uses.map(NonZeroU32::get), Some(3));
    let cidrs = bound_cidrs(&corner.client(), &grant.token, LONG).await;
    assert_eq!(cidrs.ok().unwrap(), ["127.0.0.0/8"]);
}
