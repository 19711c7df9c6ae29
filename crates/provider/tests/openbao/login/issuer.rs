//! A node whose JWTs come from a real issuer, and the course of its logins.

use std::{fs, path::Path};

use serde_json::json;
use testkit::{
    openbao::shared_openbao,
    tenant::{AUDIENCE, ROLE},
    wait::wait_until,
};

use crate::{
    node::{Finished, Node},
    provider::{Provider, SOON},
    secrets::{files_below, holds_token, spellings},
};

/// Lets OpenBao read the keys of the issuer for the logins of this node.
pub(super) async fn trust(node: &Node, issuer: &str, jwks_url: &str, ca_file: &Path) {
    let config = json!({
        "jwks_url": jwks_url,
        "jwks_ca_pem": fs::read_to_string(ca_file).unwrap(),
        "bound_issuer": issuer,
    });
    let path = format!("auth/{}/config", node.tenant.jwt_mount);
    let admin = shared_openbao().await.admin();
    admin.write(&path, &config).await.unwrap();
}

/// The role of the node, for JWTs of this subject, with these lives of its tokens.
pub(super) async fn write_role(node: &Node, subject: &str, ttl: &str, max_ttl: &str) {
    let path = format!("auth/{}/role/{ROLE}", node.tenant.jwt_mount);
    let role = json!({
        "role_type": "jwt",
        "user_claim": "sub",
        "bound_audiences": [AUDIENCE],
        "bound_subject": subject,
        "token_policies": [node.tenant.policy],
        "token_no_default_policy": true,
        "token_ttl": ttl,
        "token_max_ttl": max_ttl,
    });
    let admin = shared_openbao().await.admin();
    admin.write(&path, &role).await.unwrap();
}

pub(super) async fn wait_for_count(provider: &Provider, series: &str, count: f64) {
    let awaited = format!("{count} of {series}");
    wait_until(SOON, &awaited, async || {
        provider.metric(series).await >= count
    })
    .await;
}

pub(super) fn logins(status: &str) -> String {
    format!(r#"auth_login_total{{status="{status}"}}"#)
}

/// A renewal, and a second login at the maximum TTL.
pub(super) async fn renews_and_logs_in_again(provider: &Provider) {
    let renewals = r#"auth_renewal_total{status="ok"}"#;
    wait_for_count(provider, renewals, 1.0).await;
    wait_for_count(provider, &logins("ok"), 2.0).await;
}

/// Everything that the provider and the commands on its node say and write. It ends the provider.
pub(super) async fn said(node: &Node, provider: Provider) -> Vec<String> {
    let mut said = vec![provider.metrics().await];
    for path in ["/live", "/ready", "/why"] {
        said.push(provider.health(path).await.1.to_string());
    }
    said.extend(provider.process_files());
    for command in [
        &["doctor"][..],
        &["config"],
        &["triage", "--output", "json"],
    ] {
        let finished = node.run(command);
        said.extend([finished.out, finished.err]);
    }
    let stopped = provider.stop().await;
    said.extend([stopped.out, stopped.err]);
    files_below(&node.state_dir(), &mut said);
    said
}

/// Nothing of these secrets, of a JWT or of a token.
pub(super) fn assert_clean(said: &[String], secrets: &[&str]) {
    for text in said {
        for secret in secrets {
            let forms = spellings(secret.as_bytes());
            let found = forms.iter().find(|form| text.contains(*form));
            assert_eq!(found, None, "{text}");
        }
        // Every JWT begins with this.
        assert!(!text.contains("eyJ"), "{text}");
        assert!(!holds_token(text), "{text}");
    }
}

/// A start that must fail at the login, with the code of its cause.
pub(super) async fn refused_with(node: &Node, code: &str, secrets: &[&str]) -> Finished {
    let refused = node.refused().await;
    assert_clean(&[refused.out.clone(), refused.err.clone()], secrets);
    refused.assert_refused(5, &["no data was changed"]);
    let report = node.run(&["verify-key", "--output", "json"]);
    assert_clean(&[report.out.clone(), report.err.clone()], secrets);
    let named = report.out.contains(&format!("\"{code}\""));
    assert!(named, "{code}: {} {}", report.out, report.err);
    refused
}
