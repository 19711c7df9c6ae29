//! vault-kubernetes-kms, reduced to its calls to Transit: encryption without associated data, then
//! the latest version of the key as key_id.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use kms_node::kms_api::generated::DecryptRequest;
use serde_json::{Value, json};
use testkit::{openbao::shared_openbao, tenant::KEY};

/// The plugin, for the key of a tenant.
#[derive(Clone)]
pub(crate) struct OldPlugin {
    mount: String,
}

impl OldPlugin {
    pub(crate) fn of(mount: &str) -> Self {
        let mount = mount.to_owned();
        Self { mount }
    }

    async fn key(&self) -> Value {
        let admin = shared_openbao().await.admin();
        let path = format!("{}/keys/{KEY}", self.mount);
        let metadata: Value = admin.read(&path).await.unwrap().json().unwrap();
        metadata["data"].clone()
    }

    pub(crate) async fn transit(&self, verb: &str, body: &Value) -> Value {
        let admin = shared_openbao().await.admin();
        let path = format!("{}/{verb}/{KEY}", self.mount);
        let answer: Value = admin.write(&path, body).await.unwrap().json().unwrap();
        answer["data"].clone()
    }

    /// The key_id of Status.
    pub(crate) async fn key_id(&self) -> String {
        self.key().await["latest_version"].to_string()
    }

    /// Creation time of a version: the key_id of older releases.
    pub(crate) async fn created_at(&self, version: &str) -> String {
        self.key().await["keys"][version].to_string()
    }

    /// What kube-apiserver stores.
    pub(crate) async fn encrypt(&self, plaintext: &[u8]) -> DecryptRequest {
        let body = json!({"plaintext": STANDARD.encode(plaintext)});
        let encrypted = self.transit("encrypt", &body).await;
        let ciphertext = encrypted["ciphertext"].as_str().unwrap().as_bytes();
        DecryptRequest {
            ciphertext: Bytes::copy_from_slice(ciphertext),
            uid: "test".to_owned(),
            key_id: self.key_id().await,
            annotations: [].into(),
        }
    }
}
