//! Transit calls without the provider between: the same client library, token, key, plaintext and
//! associated data.

use std::{sync::Arc, time::Duration};

use kms_domain::{
    annotations::Annotations,
    ciphertext::TransitCiphertext,
    key_id::KeyId,
    prepare::{PreparedDecrypt, prepare_decrypt},
    registry::Lookup,
    scope::{KeyName, MountPath, TransitKeyPath},
    transit::TransitVersion,
};
use kms_node::{
    kms_api::generated::DecryptRequest,
    state::{self, StatePath},
};
use openbao_client::{
    client::Client,
    endpoint::Endpoint,
    login::jwt::{Jwt, JwtRole},
    token::Token,
    transit::Transit,
};
use testkit::tenant::{KEY, ROLE};

use crate::stage::Stage;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A logged-in client.
#[derive(Clone)]
pub(crate) struct Direct {
    pub(crate) transit: Transit,
    pub(crate) role: JwtRole,
    token: Arc<Token>,
}

impl Direct {
    pub(crate) async fn log_in(stage: &Stage, endpoint: Endpoint) -> Self {
        let tenant = &stage.tenant;
        let client = Client::new(endpoint, Arc::new(|_| {})).unwrap();
        let role = JwtRole {
            client: client.clone(),
            mount_path: MountPath::parse(&format!("auth/{}", tenant.jwt_mount)).unwrap(),
            role: KeyName::parse(ROLE).unwrap(),
        };
        let jwt = Jwt::parse(tenant.jwt(&tenant.claims()).as_bytes()).unwrap();
        let grant = role.exchange(&jwt, TIMEOUT).await.unwrap();
        let path = TransitKeyPath {
            mount_path: MountPath::parse(&tenant.transit_mount).unwrap(),
            key_name: KeyName::parse(KEY).unwrap(),
        };
        Self {
            transit: Transit::new(client, &path, TIMEOUT),
            role,
            token: Arc::new(grant.token),
        }
    }

    pub(crate) async fn encrypt(&self, plaintext: &[u8], like: &PreparedDecrypt) {
        let version: TransitVersion = like.ciphertext.version();
        let encrypted = self
            .transit
            .encrypt(&self.token, version, plaintext, &like.associated_data)
            .await
            .unwrap();
        assert_eq!(encrypted.ciphertext.version(), version);
    }

    pub(crate) async fn decrypt(&self, prepared: &PreparedDecrypt, plaintext: &[u8]) {
        let decrypted = self
            .transit
            .decrypt(&self.token, &prepared.ciphertext, &prepared.associated_data)
            .await
            .unwrap();
        assert!(decrypted.expose() == plaintext, "other bytes came back");
    }

    /// All in one request.
    pub(crate) async fn decrypt_batch(&self, prepared: &[&PreparedDecrypt], plaintext: &[u8]) {
        let decrypted = self.transit.decrypt_batch(&self.token, prepared).await;
        for item in decrypted.unwrap() {
            assert!(item.unwrap().expose() == plaintext, "other bytes came back");
        }
    }
}

/// The provider's requests to Transit for these requests.
pub(crate) fn prepared(stage: &Stage, requests: &[DecryptRequest]) -> Vec<PreparedDecrypt> {
    let path = StatePath::parse(&stage.state_file()).unwrap();
    let document = state::inspect(&path).unwrap().document.unwrap();
    requests
        .iter()
        .map(|request| {
            let key_id = KeyId::parse(&request.key_id).unwrap();
            let Lookup::Known(key) = document.registry().lookup(&key_id) else {
                unreachable!("the provider has just encrypted with it");
            };
            let annotations = request
                .annotations
                .iter()
                .map(|(key, value)| (key.as_str(), &value[..]));
            let annotations = Annotations::parse(annotations).unwrap();
            let ciphertext = TransitCiphertext::parse(&request.ciphertext).unwrap();
            prepare_decrypt(&key, &annotations, ciphertext).unwrap()
        })
        .collect()
}
