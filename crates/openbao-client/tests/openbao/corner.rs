//! A tenant of the shared server for one test.

use std::{sync::Arc, time::Duration};

use kms_domain::scope::{KeyName, MountPath, TransitKeyPath};
use openbao_client::{client::Client, endpoint::Endpoint, token::Token, transit::Transit};
use openbao_lab::admin::Admin;
use serde::Serialize;
use serde_json::{Value, json};
use testkit::{
    openbao::{OpenBao, shared_openbao},
    tenant::{KEY, Tenant},
};
use zeroize::Zeroizing;

pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A mount, a key, a JWT login, and a token with the provider's policy.
pub(crate) struct Corner {
    pub(crate) server: &'static OpenBao,
    pub(crate) tenant: Tenant,
    pub(crate) token: Token,
    pub(crate) key: TransitKeyPath,
}

pub(crate) fn client(endpoint: Endpoint) -> Client {
    Client::new(endpoint, Arc::new(|_| {})).unwrap()
}

pub(crate) fn token(text: &str) -> Token {
    Token::new(Zeroizing::new(text.to_owned())).ok().unwrap()
}

/// A new token with this policy.
pub(crate) async fn token_of(admin: &Admin<'_>, policy: &str) -> Token {
    let body = json!({"policies": [policy], "no_default_policy": true, "ttl": "1h"});
    let created = admin.write("auth/token/create", &body).await.unwrap();
    let created: Value = created.json().unwrap();
    token(created["auth"]["client_token"].as_str().unwrap())
}

impl Corner {
    pub(crate) async fn new() -> Self {
        let server = shared_openbao().await;
        let tenant = Tenant::new(server).await;
        let token = token_of(&server.admin(), &tenant.policy).await;
        let key = TransitKeyPath {
            mount_path: MountPath::parse(&tenant.transit_mount).unwrap(),
            key_name: KeyName::parse(KEY).unwrap(),
        };
        Self {
            server,
            tenant,
            token,
            key,
        }
    }

    pub(crate) fn client(&self) -> Client {
        client(self.server.endpoint())
    }

    /// The key allowed by the policy.
    pub(crate) fn transit(&self) -> Transit {
        self.transit_at(&self.key)
    }

    pub(crate) fn transit_at(&self, key: &TransitKeyPath) -> Transit {
        Transit::new(self.client(), key, LONG)
    }

    /// API path of an operation with the key.
    pub(crate) fn path(&self, verb: &str) -> String {
        format!("{}/{verb}/{}", self.key.mount_path, self.key.key_name)
    }

    /// Writes with the root token.
    pub(crate) async fn write(&self, path: &str, body: &impl Serialize) -> Value {
        let answer = self.server.admin().write(path, body).await.unwrap();
        answer.json().unwrap_or_default()
    }

    /// A token with only this policy.
    pub(crate) async fn token_with(&self, rules: &str) -> Token {
        let policy = format!("{}-rules", self.tenant.policy);
        let admin = self.server.admin();
        admin.write_policy(&policy, rules).await.unwrap();
        token_of(&admin, &policy).await
    }
}
