//! Faults of an OAuth 2.0 issuer, over real TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kms_domain::scope::{KeyName, MountPath};
use openbao_client::{
    client::Client,
    login::{
        Login as _, LoginFailure,
        jwt::{ClaimRules, JwtRole},
        oauth2::{
            ClientAuthentication, ClientSecret, OAuth2Login, SecretPlace, TokenRequest, TokenUrl,
            system_ca_file,
        },
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    fake::{FakeOpenBao, Handshake, Reply},
    files,
};

const LONG: Duration = Duration::from_secs(20);
const SECRET: &str = "MARKER-client-secret-0123456789";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000)
}

/// An issuer, an OpenBao and the files of a client.
struct Place {
    issuer: FakeOpenBao,
    openbao: FakeOpenBao,
    directory: TempDir,
}

impl Place {
    async fn new(handshake: Handshake, script: impl IntoIterator<Item = Reply>) -> Self {
        let place = Self {
            issuer: FakeOpenBao::start_with(handshake, script).await,
            openbao: FakeOpenBao::start([]).await,
            directory: TempDir::new().unwrap(),
        };
        place.write("secret", SECRET, 0o600);
        place.write("ca.crt", place.issuer.ca_pem(), 0o644);
        place
    }

    fn write(&self, name: &str, content: &str, mode: u32) {
        files::replace(&self.directory.path().join(name), content.as_bytes(), mode);
    }

    fn login(&self) -> OAuth2Login {
        let address = self.issuer.endpoint().address.authority();
        let port = address.rsplit_once(':').unwrap().1;
        self.login_at(&format!("https://localhost:{port}/token?tenant=1"))
    }

    fn login_at(&self, url: &str) -> OAuth2Login {
        self.login_with(url, Some(self.directory.path().join("ca.crt")))
    }

    fn login_with(&self, url: &str, ca_file: Option<PathBuf>) -> OAuth2Login {
        let role = JwtRole {
            client: Client::new(self.openbao.endpoint(), Arc::new(|_| {})).unwrap(),
            mount_path: MountPath::parse("auth/jwt").unwrap(),
            role: KeyName::parse("kms").unwrap(),
        };
        let request = TokenRequest {
            url: TokenUrl::parse(url).unwrap(),
            client_id: "node-1".to_owned(),
            scopes: Vec::new(),
            audience: Some("kms".to_owned()),
            resources: Vec::new(),
        };
        let secret = self.directory.path().join("secret");
        let secret = ClientSecret::new(secret, SecretPlace::Basic);
        let rules = ClaimRules {
            expected_issuer: Some("https://id.test".to_owned()),
            expected_audience: vec!["kms".to_owned()],
            expected_subject: None,
            clock_skew_leeway: Duration::from_secs(30),
            min_remaining: Duration::from_secs(120),
        };
        let authentication = ClientAuthentication::Secret(secret);
        OAuth2Login::new(role, request, authentication, ca_file, rules)
    }

    /// Outcome and code of a login that must fail before OpenBao is asked.
    async fn refused(&self, login: &OAuth2Login, deadline: Duration) -> (&'static str, String) {
        let failure = login.log_in(now(), deadline).await.err().unwrap();
        let said = format!("{failure} {failure:?}");
        assert!(!said.contains("MARKER"), "{said}");
        assert!(matches!(failure, LoginFailure::OAuth2(_)), "{said}");
        assert_eq!(self.openbao.seen().len(), 0);
        (failure.outcome().label(), failure.detail().to_owned())
    }
}

fn claims() -> Value {
    json!({"iss": "https://id.test", "aud": "kms", "exp": 2_000})
}

fn jwt(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.MARKER", part(&json!({"alg": "RS256"})), part(claims))
}

fn issued(token: &str) -> Reply {
    let body = json!({"access_token": token, "token_type": "bearer", "expires_in": 600});
    Reply::ok(body)
}

#[tokio::test]
async fn a_secret_buys_an_access_token_and_that_a_token_of_openbao() {
    let token = jwt(&claims());
    let place = Place::new(Handshake::Good, [issued(&token), issued(&token)]).await;
    let granted = json!({"auth": {"client_token": "s.token", "lease_duration": 60}});
    place
        .openbao
        .then([Reply::ok(&granted), Reply::ok(&granted)]);
    let login = place.login();
    assert_eq!(login.check(now()).await.unwrap(), None);
    assert_eq!(place.issuer.connections(), 0, "a check is local");

    let grant = login.log_in(now(), LONG).await.ok().unwrap();
    assert_eq!(grant.token.expose(), "s.token");
    assert_eq!(grant.lease.duration, Duration::from_secs(60));
    let sent: Value = serde_json::from_str(&place.openbao.seen()[0].body).unwrap();
    assert_eq!(sent, json!({"role": "kms", "jwt": token}));

    // The secret is read again for each login.
    place.write("secret", "other", 0o600);
    login.log_in(now(), LONG).await.ok().unwrap();
    let seen = place.issuer.seen();
    let authorization = |index: usize| seen[index].headers["authorization"].clone();
    assert_ne!(authorization(0), authorization(1));
    assert_eq!(seen[0].target, "/token?tenant=1");
    assert_eq!(seen[0].headers["accept"], "application/json");
    let port = place.issuer.endpoint().address.port();
    assert_eq!(seen[0].headers["host"], format!("localhost:{port}"));
}

#[tokio::test]
async fn each_fault_of_an_issuer_has_its_own_code() {
    let with = |member: &str, value: Value| {
        let mut claims = claims();
        claims[member] = value;
        issued(&jwt(&claims))
    };
    let error = |status: u16, code: &str| {
        let body = json!({"error": code, "error_description": "MARKER"});
        Reply::Json(status, body.to_string())
    };
    let place = Place::new(Handshake::Good, []).await;
    let login = place.login();
    for (reply, outcome, code) in [
        (
            error(401, "invalid_client"),
            "oauth2_rejected",
            "invalid_client",
        ),
        (
            error(400, "invalid_scope"),
            "oauth2_rejected",
            "invalid_scope",
        ),
        (error(400, "MARKER"), "oauth2_rejected", "other"),
        (
            Reply::Json(404, "MARKER".to_owned()),
            "oauth2_rejected",
            "other",
        ),
        (
            Reply::Redirect(307, "https://MARKER.test/".to_owned()),
            "oauth2_rejected",
            "redirect",
        ),
        (
            error(429, "slow_down"),
            "oauth2_unavailable",
            "rate_limited",
        ),
        (error(503, "MARKER"), "oauth2_unavailable", "unavailable"),
        (
            Reply::Web(200, "<html>MARKER".to_owned()),
            "oauth2_response",
            "content_type",
        ),
        (
            Reply::Filler(200, (1 << 20) + 1),
            "oauth2_response",
            "too_large",
        ),
        (Reply::ok("MARKER"), "oauth2_response", "malformed"),
        (issued("MARKER-opaque"), "oauth2_response", "opaque_token"),
        (
            Reply::Cut("{\"access".to_owned()),
            "oauth2_request",
            "connection_failed",
        ),
        (Reply::Close, "oauth2_request", "connection_failed"),
        (with("exp", json!(900)), "jwt_expired", "expired"),
        (with("exp", json!(1_100)), "jwt_near_expiry", "near_expiry"),
        (with("exp", json!(null)), "jwt_invalid", "no_expiry"),
        (with("iss", json!("MARKER")), "jwt_invalid", "issuer"),
        (with("aud", json!(["MARKER"])), "jwt_invalid", "audience"),
    ] {
        let shown = format!("{reply:?}");
        place.issuer.then([reply]);
        let refused = place.refused(&login, LONG).await;
        assert_eq!(refused, (outcome, code.to_owned()), "{shown}");
    }

    let body = json!({"access_token": jwt(&claims()), "token_type": "Bearer", "expires_in": 120});
    place.issuer.then([Reply::ok(body)]);
    let refused = place.refused(&login, LONG).await;
    assert_eq!(refused, ("jwt_near_expiry", "near_expiry".to_owned()));
}

#[tokio::test]
async fn a_slow_issuer_is_named_before_the_login_times_out() {
    let place = Place::new(Handshake::Good, [Reply::Hang, Reply::Stall("{".to_owned())]).await;
    let login = place.login();
    for _ in 0..2 {
        let deadline = Duration::from_millis(500);
        let caller = deadline * 19 / 20;
        let refused = tokio::time::timeout(caller, place.refused(&login, deadline)).await;
        let expected = ("oauth2_request", "timeout".to_owned());
        assert_eq!(refused.unwrap(), expected);
    }
}

#[tokio::test]
async fn an_issuer_without_a_trusted_certificate_gets_no_secret() {
    for handshake in [Handshake::Expired, Handshake::ForClients] {
        let place = Place::new(handshake, []).await;
        let refused = place.refused(&place.login(), LONG).await;
        assert_eq!(refused, ("oauth2_request", "tls_failed".to_owned()));
        assert_eq!(place.issuer.seen().len(), 0);
    }
    let place = Place::new(Handshake::Good, []).await;
    place.write("ca.crt", place.openbao.ca_pem(), 0o644);
    let refused = place.refused(&place.login(), LONG).await;
    assert_eq!(refused, ("oauth2_request", "tls_failed".to_owned()));

    // A private CA is not among those of the system, which may have none.
    let port = place.issuer.endpoint().address.port();
    let system = place.login_with(&format!("https://localhost:{port}/token"), None);
    let expected = match system_ca_file() {
        Some(_) => "tls_failed",
        None => "file_missing",
    };
    let refused = place.refused(&system, LONG).await;
    assert_eq!(refused, ("oauth2_request", expected.to_owned()));

    let nobody = place.login_at("https://localhost:1/token");
    let refused = place.refused(&nobody, LONG).await;
    assert_eq!(refused, ("oauth2_request", "connection_failed".to_owned()));
}

#[tokio::test]
async fn an_unusable_file_ends_the_login_before_a_connection() {
    let place = Place::new(Handshake::Good, []).await;
    let login = place.login();
    for (name, content, mode, expected) in [
        (
            "secret",
            "a\nb",
            0o600,
            ("oauth2_credential", "invalid_content"),
        ),
        (
            "secret",
            "MARKER",
            0o644,
            ("oauth2_credential", "file_mode"),
        ),
        ("ca.crt", "MARKER", 0o644, ("oauth2_request", "ca_unusable")),
        ("ca.crt", "MARKER", 0o666, ("oauth2_request", "file_mode")),
    ] {
        place.write("secret", SECRET, 0o600);
        place.write(name, content, mode);
        let (outcome, code) = place.refused(&login, LONG).await;
        assert_eq!((outcome, &*code), expected);
        let checked = login.check(now()).await.unwrap_err();
        assert_eq!((checked.outcome().label(), checked.detail()), expected);
    }
    assert_eq!(place.issuer.connections(), 0);
}
