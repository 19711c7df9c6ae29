use kms_domain::{
    aad::AssociatedData,
    ciphertext::TransitCiphertext,
    scope::{KeyName, MountPath},
    transit::TransitVersion,
};
use openbao_client::failure::FailureClass;
use serde_json::json;

use crate::corner::{Corner, token, token_of};

fn version(number: u64) -> TransitVersion {
    TransitVersion::new(number).unwrap()
}

fn ciphertext(text: &str) -> TransitCiphertext {
    TransitCiphertext::parse(text.as_bytes()).unwrap()
}

#[tokio::test]
async fn what_was_encrypted_is_decrypted_and_nothing_else_is() {
    let corner = Corner::new().await;
    let (transit, token) = (corner.transit(), &corner.token);
    let data = AssociatedData::status_probe();
    for plaintext in [&b"0123456789abcdef0123456789abcdef"[..], b"\0", &[7; 1024]] {
        let encrypted = transit.encrypt(token, version(1), plaintext, &data).await;
        let encrypted = encrypted.unwrap();
        assert_eq!(encrypted.key_version, Some(version(1)));
        assert_eq!(encrypted.ciphertext.version(), version(1));
        let decrypted = transit.decrypt(token, &encrypted.ciphertext, &data).await;
        assert_eq!(decrypted.ok().unwrap().expose(), plaintext);

        let damaged = encrypted
            .ciphertext
            .as_str()
            .replacen(":v1:", ":v1:AAAA", 1);
        let refused = transit.decrypt(token, &ciphertext(&damaged), &data).await;
        assert_eq!(refused.err().unwrap().class(), FailureClass::DecryptFailed);
    }
}

#[tokio::test]
async fn other_associated_data_is_refused() {
    let corner = Corner::new().await;
    let body = json!({"plaintext": "c2VjcmV0", "associated_data": "b3RoZXI="});
    let encrypted = corner.write(&corner.path("encrypt"), &body).await;
    let encrypted = ciphertext(encrypted["data"]["ciphertext"].as_str().unwrap());
    let data = AssociatedData::status_probe();
    let refused = corner
        .transit()
        .decrypt(&corner.token, &encrypted, &data)
        .await;
    assert_eq!(refused.err().unwrap().class(), FailureClass::DecryptFailed);
}

#[tokio::test]
async fn versions_out_of_range_have_their_own_classes() {
    let corner = Corner::new().await;
    let (transit, token) = (corner.transit(), &corner.token);
    let data = AssociatedData::status_probe();
    let encrypt = async |number| transit.encrypt(token, version(number), b"x", &data).await;
    let refusal = async |ciphertext| {
        let decrypted = transit.decrypt(token, ciphertext, &data).await;
        decrypted.err().unwrap().class()
    };
    let key = corner.path("keys");
    let config = format!("{key}/config");

    let first = encrypt(1).await.unwrap().ciphertext;
    let too_new = encrypt(2).await.unwrap_err();
    assert_eq!(too_new.class(), FailureClass::VersionTooNew);
    corner.write(&format!("{key}/rotate"), &json!({})).await;
    assert_eq!(encrypt(2).await.unwrap().key_version, Some(version(2)));
    let newer = ciphertext(&first.as_str().replacen(":v1:", ":v9:", 1));
    assert_eq!(refusal(&newer).await, FailureClass::VersionTooNew);

    corner
        .write(&config, &json!({"min_encryption_version": 2}))
        .await;
    let too_old = encrypt(1).await.unwrap_err();
    assert_eq!(too_old.class(), FailureClass::VersionBelowMinimum);
    corner
        .write(&config, &json!({"min_decryption_version": 2}))
        .await;
    assert_eq!(refusal(&first).await, FailureClass::VersionTooOld);

    let metadata = transit.key_metadata(token).await.unwrap();
    assert_eq!(metadata.latest_version, 2);
    assert_eq!(metadata.min_encryption_version, 2);
    assert_eq!(metadata.min_decryption_version, 2);
    let listed: Vec<_> = metadata
        .keys
        .0
        .iter()
        .map(|(number, _)| number.as_str())
        .collect();
    assert_eq!(listed, ["2"], "hidden versions are not listed");
}

#[tokio::test]
async fn a_missing_key_or_mount_is_told_apart_from_a_refusal() {
    let corner = Corner::new().await;
    let root = token_of(&corner.server.admin(), "root").await;
    let data = AssociatedData::status_probe();
    let some = ciphertext("vault:v1:AAECAwQFBgcICQoLDA0ODw==");

    let mut no_key = corner.key.clone();
    no_key.key_name = KeyName::parse("none").unwrap();
    let transit = corner.transit_at(&no_key);
    let encrypted = transit.encrypt(&root, version(1), b"x", &data).await;
    assert_eq!(encrypted.unwrap_err().class(), FailureClass::KeyMissing);
    let decrypted = transit.decrypt(&root, &some, &data).await;
    assert_eq!(decrypted.err().unwrap().class(), FailureClass::KeyMissing);
    let metadata = transit.key_metadata(&root).await;
    assert_eq!(metadata.unwrap_err().class(), FailureClass::NotFound);

    let mut no_mount = corner.key.clone();
    no_mount.mount_path = MountPath::parse("no/such/mount").unwrap();
    let transit = corner.transit_at(&no_mount);
    let encrypted = transit.encrypt(&root, version(1), b"x", &data).await;
    assert_eq!(encrypted.unwrap_err().class(), FailureClass::NotFound);
    let upsert = transit.upsert_disabled(&root).await;
    assert_eq!(upsert.unwrap_err().class(), FailureClass::NotFound);
}

#[tokio::test]
async fn a_policy_that_denies_is_told_from_a_bad_token() {
    let corner = Corner::new().await;
    let encrypt = corner.path("encrypt");
    let rules = format!("path \"{encrypt}\" {{ capabilities = [\"update\"] }}");
    let limited = corner.token_with(&rules).await;
    let transit = corner.transit();
    let data = AssociatedData::status_probe();

    let encrypted = transit.encrypt(&limited, version(1), b"x", &data).await;
    let encrypted = encrypted.unwrap();
    let decrypted = transit
        .decrypt(&limited, &encrypted.ciphertext, &data)
        .await;
    let denied = transit.key_metadata(&limited).await;
    for failure in [decrypted.err().unwrap(), denied.unwrap_err()] {
        assert_eq!(failure.class(), FailureClass::PermissionDenied);
        assert!(!failure.rejects_token());
    }
    let revoke = json!({"token": limited.expose()});
    corner.write("auth/token/revoke", &revoke).await;
    for dead in [&limited, &token("s.nobody")] {
        let unknown = transit.key_metadata(dead).await.unwrap_err();
        assert_eq!(unknown.class(), FailureClass::Unauthenticated);
        assert!(unknown.rejects_token());
    }
}

#[tokio::test]
async fn key_upsert_and_capabilities_can_be_read() {
    let corner = Corner::new().await;
    let (transit, token) = (corner.transit(), &corner.token);

    let metadata = transit.key_metadata(token).await.unwrap();
    assert_eq!(metadata.name.as_deref(), Some("etcd"));
    assert_eq!(metadata.key_type, "aes256-gcm96");
    assert!(metadata.supports_encryption && metadata.supports_decryption);
    assert_eq!(metadata.keys.0.len(), 1);

    assert!(transit.upsert_disabled(token).await.unwrap());
    let config = format!("{}/config/keys", corner.key.mount_path);
    corner
        .write(&config, &json!({"disable_upsert": false}))
        .await;
    assert!(!transit.upsert_disabled(token).await.unwrap());

    let paths = [corner.path("decrypt"), corner.path("rewrap")];
    for paths in [&paths[..], &paths[..1]] {
        let all = transit.capabilities(token, paths).await.unwrap();
        assert_eq!(all.len(), paths.len());
        assert_eq!(all[&paths[0]], ["update"]);
        assert!(paths.len() == 1 || all[&paths[1]] == ["deny"]);
    }
}
