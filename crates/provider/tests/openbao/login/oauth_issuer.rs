//! Tokens of a real OAuth 2.0 issuer: Ory Hydra, whose keys OpenBao reads.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kms_domain::scope::{KeyName, MountPath};
use openbao_client::{
    client::Client,
    login::{
        Login as _,
        jwt::{ClaimRules, JwtRole},
        oauth2::{
            ClientAuthentication, OAuth2Login, PrivateKeyJwt, RsaAlgorithm, TokenRequest, TokenUrl,
        },
    },
};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
use serde_json::{Value, json};
use testkit::{
    files,
    hydra::{AccessTokens, ClientKey, Hydra},
    openbao::shared_openbao,
    pki::jwk_of,
    runbook::Walk,
    tenant::{AUDIENCE, ROLE},
    wait::wait_until,
};
use tonic::Code;

use super::{
    issuer::{
        assert_clean, logins, refused_with, renews_and_logs_in_again, said, trust, wait_for_count,
        write_role,
    },
    pages::serving,
    revoke_tokens,
};
use crate::{
    node::{IMPATIENT, Node, QUIET, TIMING},
    provider::{SOON, assert_decrypt_refused, to_decrypt},
    scene::{FIRST, OPENBAO},
};

const CLIENT: &str = "kms-node-1";
const SECRET: &str = "MARKER-client-secret-0123456789abcdef";
const NEW_SECRET: &str = "MARKER-replaced-secret-0123456789abcdef";
const SECRETS: &[&str] = &[SECRET, NEW_SECRET];

/// A client of the issuer with this secret.
fn client(secret: &str) -> Value {
    json!({
        "client_id": CLIENT,
        "client_secret": secret,
        "grant_types": ["client_credentials"],
        "audience": [AUDIENCE],
        "scope": "kms.login",
        "token_endpoint_auth_method": "client_secret_basic",
    })
}

fn secret_file(node: &Node) -> PathBuf {
    node.tenant.path().join("client-secret")
}

fn write_secret(node: &Node, secret: &str) {
    files::replace(&secret_file(node), secret.as_bytes(), 0o640);
}

/// A node whose login takes access tokens of the issuer.
async fn node_of(issuer: &Hydra, timing: testkit::tenant::Timing) -> Node {
    let mut node = Node::new(timing).await;
    let mount = format!("auth/{}", node.tenant.jwt_mount);
    let jwks_url = issuer.jwks_url();
    trust(&node, &issuer.issuer(), &jwks_url, &issuer.ca_file()).await;
    write_role(&node, CLIENT, "30m", "1h").await;

    let ca_file = node.tenant.path().join("issuer.crt");
    files::replace(&ca_file, &fs::read(issuer.ca_file()).unwrap(), 0o644);
    write_secret(&node, &format!("{SECRET}\n"));
    node.config["auth"]["jwt"] = json!({
        "source": "oauth2",
        "mountPath": mount,
        "role": ROLE,
        "expectedIssuer": issuer.issuer(),
        "expectedAudience": [AUDIENCE],
        "expectedSubject": CLIENT,
        "oauth2": {
            "tokenUrl": issuer.token_url(),
            "clientId": CLIENT,
            "clientSecretFile": secret_file(&node),
            "authMethod": "client_secret_basic",
            "audience": AUDIENCE,
            "caCertFile": ca_file,
        },
    });
    node
}

#[tokio::test]
async fn a_client_logs_in_renews_and_follows_its_replaced_secret() {
    let issuer = Hydra::start(AccessTokens::Jwt).await;
    issuer.put_client(&client(SECRET)).await;
    let mut node = node_of(&issuer, TIMING).await;
    write_role(&node, CLIENT, "6s", "9s").await;
    node.config["auth"]["loginBeforeTokenExpiry"] = json!("3s");
    let provider = node.serve().await;
    let encrypted = provider.encrypt(b"seed").await.unwrap();

    // Renewed, and logged in again at the maximum TTL.
    renews_and_logs_in_again(&provider).await;

    // The issuer has another secret: calls continue with the token until its end.
    issuer.put_client(&client(NEW_SECRET)).await;
    wait_for_count(&provider, &logins("oauth2_rejected"), 1.0).await;
    let refused = provider.events("auth.login").last().unwrap();
    assert_eq!(refused["detail"], "invalid_client", "{refused}");
    let before = provider.metric(&logins("ok")).await;
    write_secret(&node, NEW_SECRET);
    wait_for_count(&provider, &logins("ok"), before + 1.0).await;
    let opened = provider.decrypt(to_decrypt(&encrypted)).await.unwrap();
    assert_eq!(opened, &b"seed"[..]);

    // The client is removed.
    issuer.delete_client(CLIENT).await;
    revoke_tokens(&node).await;
    let sentence = "the OAuth issuer refuses this node's client; no data is lost";
    wait_until(SOON, sentence, async || {
        let refused = provider.decrypt(to_decrypt(&encrypted)).await.err();
        refused.is_some_and(|refused| refused.message().contains(sentence))
    })
    .await;
    issuer.put_client(&client(NEW_SECRET)).await;
    wait_until(SOON, "a login of the restored client", async || {
        provider.decrypt(to_decrypt(&encrypted)).await.is_ok()
    })
    .await;

    assert_clean(&said(&node, provider).await, SECRETS);
}

#[tokio::test]
async fn without_its_issuer_a_node_serves_until_its_token_ends() {
    let mut issuer = Hydra::start(AccessTokens::Jwt).await;
    issuer.put_client(&client(SECRET)).await;
    let mut node = node_of(&issuer, QUIET).await;
    node.config["auth"]["loginTimeout"] = json!("2s");
    let provider = node.serve().await;
    let encrypted = to_decrypt(&provider.encrypt(b"seed").await.unwrap());

    issuer.kill();
    provider.decrypt(encrypted.clone()).await.unwrap();
    assert_eq!(provider.metric(&logins("oauth2_request")).await, 0.0);

    revoke_tokens(&node).await;
    let advice =
        "the OAuth issuer of this node gives no answer; no data is lost; restore the issuer";
    let refused = provider.decrypt(encrypted.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_decrypt_refused(&refused, "transit authentication failed", advice);
    let failed = provider.events("auth.login").last().unwrap();
    assert_eq!(failed["detail"], "connection_failed", "{failed}");
    let doctor = node.run(&["doctor"]);
    assert!(
        doctor.out.contains("the OAuth issuer did not answer"),
        "{}",
        doctor.out
    );
    assert!(doctor.out.contains(&issuer.token_url()), "{}", doctor.out);

    issuer.start_again().await;
    wait_until(SOON, "a login at the restored issuer", async || {
        provider.decrypt(encrypted.clone()).await.is_ok()
    })
    .await;
    provider.stop().await;
}

#[tokio::test]
async fn a_client_that_cannot_get_a_usable_token_is_told_why() {
    let issuer = Hydra::start(AccessTokens::Jwt).await;
    issuer.put_client(&client(SECRET)).await;
    let mut node = node_of(&issuer, IMPATIENT).await;
    let good = node.config.clone();
    let changes: [(&[&str], Value, &str); 9] = [
        (
            &["oauth2", "authMethod"],
            json!("client_secret_post"),
            "oauth_client_refused",
        ),
        (
            &["oauth2", "clientId"],
            json!("nobody"),
            "oauth_client_refused",
        ),
        (
            &["oauth2", "audience"],
            json!("other"),
            "oauth_request_refused",
        ),
        (
            &["oauth2", "scopes"],
            json!(["other"]),
            "oauth_request_refused",
        ),
        (
            &["oauth2", "tokenUrl"],
            json!(format!("{}/oauth2/nothing", issuer.issuer())),
            "oauth_response_unusable",
        ),
        (
            &["oauth2", "caCertFile"],
            json!(node.tenant.ca_file()),
            "oauth_issuer_untrusted",
        ),
        (
            &["expectedAudience"],
            json!(["other"]),
            "oauth_token_claims",
        ),
        (&["expectedSubject"], json!("other"), "oauth_token_claims"),
        (&["minRemainingTtl"], json!("1h"), "oauth_token_dates"),
    ];
    for (path, value, code) in changes {
        node.config = good.clone();
        let mut setting = &mut node.config["auth"]["jwt"];
        for key in path {
            setting = &mut setting[*key];
        }
        *setting = value;
        refused_with(&node, code, SECRETS).await;
    }

    node.config = good;
    write_secret(&node, NEW_SECRET);
    refused_with(&node, "oauth_client_refused", SECRETS).await;
    write_secret(&node, "two\nlines");
    refused_with(&node, "oauth_secret_unusable", SECRETS).await;
    write_secret(&node, SECRET);
    let mut other_grant = client(SECRET);
    other_grant["grant_types"] = json!(["authorization_code"]);
    issuer.put_client(&other_grant).await;
    refused_with(&node, "oauth_client_refused", SECRETS).await;

    let mut in_form = client(SECRET);
    in_form["token_endpoint_auth_method"] = json!("client_secret_post");
    issuer.put_client(&in_form).await;
    node.config["auth"]["jwt"]["oauth2"]["authMethod"] = json!("client_secret_post");
    let provider = node.serve().await;
    provider.stop().await;
}

#[tokio::test]
async fn opaque_tokens_of_an_issuer_are_named() {
    let issuer = Hydra::start(AccessTokens::Jwt).await;
    issuer.put_client(&client(SECRET)).await;
    let mut node = node_of(&issuer, IMPATIENT).await;
    let opaque = Hydra::start(AccessTokens::Opaque).await;
    opaque.put_client(&client(SECRET)).await;
    node.config["auth"]["jwt"]["oauth2"]["tokenUrl"] = json!(opaque.token_url());
    node.config["auth"]["jwt"]["oauth2"]["caCertFile"] = json!(opaque.ca_file());
    let refused = refused_with(&node, "oauth_token_opaque", SECRETS).await;
    assert!(refused.err.contains("opaque"), "{}", refused.err);
}

#[expect(clippy::disallowed_methods, reason = "the issuer has the real time")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[tokio::test]
async fn a_client_proves_itself_with_its_private_key() {
    let issuer = Hydra::start(AccessTokens::Jwt).await;
    issuer.put_client(&client(SECRET)).await;
    let mut node = node_of(&issuer, IMPATIENT).await;
    let file = node.tenant.path().join("client.pem");
    let admin = shared_openbao().await;
    let login = |rsa| {
        let role = JwtRole {
            client: Client::new(admin.endpoint(), Arc::new(|_| {})).unwrap(),
            mount_path: MountPath::parse(&format!("auth/{}", node.tenant.jwt_mount)).unwrap(),
            role: KeyName::parse(ROLE).unwrap(),
        };
        let request = TokenRequest {
            url: TokenUrl::parse(&issuer.token_url()).unwrap(),
            client_id: CLIENT.to_owned(),
            scopes: vec!["kms.login".to_owned()],
            audience: Some(AUDIENCE.to_owned()),
            resources: Vec::new(),
        };
        let key = PrivateKeyJwt::new(file.clone(), Some("k1".to_owned()), None, rsa);
        let rules = ClaimRules {
            expected_issuer: Some(issuer.issuer()),
            expected_audience: vec![AUDIENCE.to_owned()],
            expected_subject: Some(CLIENT.to_owned()),
            clock_skew_leeway: Duration::from_secs(30),
            min_remaining: Duration::from_secs(120),
        };
        let authentication = ClientAuthentication::PrivateKey(key);
        OAuth2Login::new(role, request, authentication, Some(issuer.ca_file()), rules)
    };

    let register = async |key: &ClientKey, algorithm: &str| {
        let mut jwk = key.jwk.clone();
        jwk["kid"] = json!("k1");
        let mut client = client(SECRET);
        client["token_endpoint_auth_method"] = json!("private_key_jwt");
        client["token_endpoint_auth_signing_alg"] = json!(algorithm);
        client["jwks"] = json!({"keys": [jwk]});
        client.as_object_mut().unwrap().remove("client_secret");
        issuer.put_client(&client).await;
    };
    let rs256 = RsaAlgorithm::Rs256;
    for (key, algorithm, rsa) in [
        (
            ClientKey::ec(&PKCS_ECDSA_P384_SHA384, "P-384"),
            "ES384",
            rs256,
        ),
        (ClientKey::rsa(), "RS256", rs256),
        (ClientKey::rsa(), "PS256", RsaAlgorithm::Ps256),
        (
            ClientKey::ec(&PKCS_ECDSA_P256_SHA256, "P-256"),
            "ES256",
            rs256,
        ),
    ] {
        files::replace(&file, key.pem.as_bytes(), 0o600);
        register(&key, algorithm).await;
        let granted = login(rsa).log_in(now(), SOON).await;
        let failure = granted.err().map(|failure| format!("{failure:?}"));
        assert_eq!(failure, None, "{algorithm}");
    }

    // The last key, by the program; then with a key unknown to the issuer.
    let oauth2 = &mut node.config["auth"]["jwt"]["oauth2"];
    oauth2.as_object_mut().unwrap().remove("clientSecretFile");
    oauth2["authMethod"] = json!("private_key_jwt");
    oauth2["privateKeyFile"] = json!(file);
    oauth2["keyId"] = json!("k1");
    let provider = node.serve().await;
    provider.encrypt(b"seed").await.unwrap();
    provider.stop().await;
    let other = ClientKey::ec(&PKCS_ECDSA_P256_SHA256, "P-256");
    files::replace(&file, other.pem.as_bytes(), 0o600);
    refused_with(&node, "oauth_client_refused", SECRETS).await;
    files::replace(&file, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n", 0o600);
    refused_with(&node, "oauth_key_unusable", SECRETS).await;
}

#[tokio::test]
async fn an_access_token() {
    let issuer = Hydra::start(AccessTokens::Jwt).await;
    let mut scene = serving().await;
    scene.name_everywhere("https://id.example.com", &issuer.issuer());
    let ca = scene.machine(OPENBAO).path("/root/issuer-ca.pem");
    fs::copy(issuer.ca_file(), ca).unwrap();

    let mut walk = Walk::of("operate/login/oauth2");
    let incident = "the client kms-node-1 is registered with client.pub";
    walk.to_incident(&mut scene, incident).await;
    let public = fs::read_to_string(scene.machine(FIRST).path("/root/client.pub")).unwrap();
    issuer
        .put_client(&json!({
            "client_id": "kms-node-1",
            "grant_types": ["client_credentials"],
            "audience": ["openbao"],
            "token_endpoint_auth_method": "private_key_jwt",
            "token_endpoint_auth_signing_alg": "ES256",
            "jwks": {"keys": [jwk_of(&public)]},
        }))
        .await;
    walk.to_end(&mut scene).await;
}
