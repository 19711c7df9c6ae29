//! A login method of a node other than a JWT file, and the course of its tokens.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::{Value, json};
use testkit::{
    files,
    openbao::shared_openbao,
    pki::Authority,
    relay::{Line, Relay},
    wait::wait_until,
};

use crate::{
    node::{IMPATIENT, Node},
    provider::{Provider, SOON, to_decrypt},
    secrets::{files_below, holds_token, spellings},
};

/// Limits of the tokens of [`Method`], short enough to see renewals and their end.
const TOKEN_TTL: &str = "6s";
const TOKEN_MAX_TTL: &str = "12s";

/// A node with a login method of its own.
pub(crate) struct Method {
    pub(crate) node: Node,
    /// Mount of the method, without `auth/`.
    pub(crate) mount: String,
    /// File with the credential.
    pub(crate) file: PathBuf,
    /// The way of [`Self::lives`] to OpenBao.
    relay: Option<Relay>,
}

impl Method {
    /// A node with this method mounted, not yet configured.
    async fn mounted(kind: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let node = Node::new(IMPATIENT).await;
        let mount = format!("{kind}-{number}");
        let admin = shared_openbao().await.admin();
        let method = json!({"type": kind});
        admin
            .write(&format!("sys/auth/{mount}"), &method)
            .await
            .unwrap();
        let file = node.tenant.path().join("credential");
        Self {
            node,
            mount,
            file,
            relay: None,
        }
    }

    /// A role `kms` whose secret ID is in the file.
    pub(crate) async fn approle(wrapped: bool) -> Self {
        let mut method = Self::mounted("approle").await;
        method.write("role/kms", &method.token_settings()).await;
        let role_id = method.read("role/kms/role-id").await["role_id"].clone();
        method.configure(
            "approle",
            json!({
                "mountPath": format!("auth/{}", method.mount),
                "roleId": role_id,
                "secretIdFile": method.file,
                "wrapped": wrapped,
            }),
        );
        method
    }

    /// A user whose password is in the file.
    pub(crate) async fn userpass(password: &str) -> Self {
        let mut method = Self::mounted("userpass").await;
        method.set_password(password).await;
        method.configure(
            "userpass",
            json!({
                "mountPath": format!("auth/{}", method.mount),
                "username": "node-1",
                "passwordFile": method.file,
            }),
        );
        method.put(password);
        method
    }

    /// A role `kms` for certificates of an authority; none is issued yet.
    pub(crate) async fn cert(directory: &Path) -> (Self, Authority) {
        let mut method = Self::mounted("cert").await;
        let authority = Authority::new(directory);
        let mut role = method.token_settings();
        role["certificate"] = json!(fs::read_to_string(directory.join("ca.crt")).unwrap());
        role["allowed_common_names"] = json!(["node-1"]);
        method.write("certs/kms", &role).await;
        method.configure(
            "cert",
            json!({
                "mountPath": format!("auth/{}", method.mount),
                "name": "kms",
                "source": "file",
                "certificateFile": directory.join("node-1.crt"),
                "keyFile": directory.join("node-1.key"),
            }),
        );
        (method, authority)
    }

    /// A token in the file.
    pub(crate) async fn token() -> Self {
        let mut method = Self::mounted("approle").await;
        method.configure("token", json!({"file": method.file}));
        method
    }

    fn configure(&mut self, name: &str, block: Value) {
        self.node.config["auth"] = json!({
            "method": name,
            (name): block,
            "loginBeforeTokenExpiry": "3s",
            "tokenRenewalIncrement": "6s",
        });
    }

    /// Settings of a role for the policy of the node.
    pub(crate) fn token_settings(&self) -> Value {
        json!({
            "token_policies": [self.node.tenant.policy],
            "token_no_default_policy": true,
            "token_ttl": TOKEN_TTL,
            "token_max_ttl": TOKEN_MAX_TTL,
        })
    }

    pub(crate) async fn set_password(&self, password: &str) {
        let mut user = self.token_settings();
        user["password"] = json!(password);
        self.write("users/node-1", &user).await;
    }

    /// Writes below the mount, as root.
    pub(crate) async fn write(&self, path: &str, body: &Value) -> Value {
        let path = format!("auth/{}/{path}", self.mount);
        let admin = shared_openbao().await.admin();
        let answer = admin.write(&path, body).await.unwrap();
        answer.json::<Value>().unwrap_or_default()["data"].take()
    }

    async fn read(&self, path: &str) -> Value {
        let path = format!("auth/{}/{path}", self.mount);
        let admin = shared_openbao().await.admin();
        let answer = admin.read(&path).await.unwrap();
        answer.json::<Value>().unwrap()["data"].take()
    }

    /// A new secret ID of the role.
    pub(crate) async fn secret_id(&self) -> String {
        let created = self.write("role/kms/secret-id", &json!({})).await;
        created["secret_id"].as_str().unwrap().to_owned()
    }

    /// Replaces the credential.
    pub(crate) fn put(&self, credential: &str) {
        files::replace(&self.file, format!("{credential}\n").as_bytes(), 0o640);
    }

    /// Ends every token of the method.
    pub(crate) async fn revoke(&self) {
        let path = format!("sys/leases/revoke-prefix/auth/{}", self.mount);
        let admin = shared_openbao().await.admin();
        admin.write(&path, &json!({"sync": true})).await.unwrap();
    }

    /// First login, renewal, and another login at the maximum TTL; no call fails meanwhile. Then two
    /// outages of OpenBao, with the token alive and with its end.
    pub(crate) async fn lives(&mut self) -> Provider {
        let relay = Relay::to(&shared_openbao().await.endpoint()).await;
        let direct = self.node.config["openbao"]["address"].clone();
        self.node.config["openbao"]["address"] = json!(relay.address);
        let provider = self.node.serve().await;
        // For commands, during which this process passes nothing on.
        self.node.config["openbao"]["address"] = direct;
        let request = to_decrypt(&provider.encrypt(b"seed").await.unwrap());
        for (series, count) in [
            (r#"auth_renewal_total{status="ok"}"#, 1.0),
            (r#"auth_login_total{status="ok"}"#, 2.0),
        ] {
            wait_until(SOON, series, async || {
                provider.decrypt(request.clone()).await.unwrap();
                provider.metric(series).await >= count
            })
            .await;
        }
        for token_ends in [false, true] {
            relay.set(Line::Cut);
            wait_until(SOON, "a call without OpenBao", async || {
                provider.decrypt(request.clone()).await.is_err()
            })
            .await;
            if token_ends {
                self.revoke().await;
            }
            relay.set(Line::Open);
            self.recovers(&provider).await;
            provider.decrypt(request.clone()).await.unwrap();
        }
        self.relay = Some(relay);
        provider
    }

    /// The credential is unusable, and the token gone: calls fail until there is another.
    pub(crate) async fn fails(&self, provider: &Provider, detail: &str) {
        wait_until(SOON, detail, async || {
            let failed = provider.events("auth.login").last();
            failed.is_some_and(|failed| failed["detail"] == detail)
        })
        .await;
        assert!(provider.encrypt(b"seed").await.is_err());
    }

    pub(crate) async fn recovers(&self, provider: &Provider) {
        wait_until(SOON, "a login with the new credential", async || {
            provider.encrypt(b"seed").await.is_ok()
        })
        .await;
    }

    /// Nothing that the program said or wrote holds a secret or a token.
    pub(crate) async fn assert_silent(&self, provider: Provider, secrets: &[&str]) {
        let mut said = vec![provider.metrics().await, provider.log()];
        for path in ["/live", "/ready"] {
            said.push(provider.health(path).await.1.to_string());
        }
        said.extend(provider.process_files());
        for command in [
            &["doctor"][..],
            &["doctor", "--output", "json"],
            &["triage", "--output", "json"],
            &["config", "--output", "json"],
        ] {
            let finished = self.node.run(command);
            said.extend([finished.out, finished.err]);
        }
        let finished = provider.stop().await;
        said.extend([finished.out, finished.err]);
        files_below(&self.node.state_dir(), &mut said);
        for text in said {
            assert!(!holds_token(&text), "{text}");
            for secret in secrets {
                for spelled in spellings(secret.as_bytes()) {
                    assert!(!text.contains(&spelled), "{spelled} in {text}");
                }
            }
        }
    }
}
