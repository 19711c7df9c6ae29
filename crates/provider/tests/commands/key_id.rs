//! `key-id` against the published vectors.

use serde_json::Value;

use super::{config_for, run, vectors, write};

#[test]
fn key_id_reproduces_the_published_vectors() {
    let keys = vectors("key_id.json");
    let texts = vectors("associated_data.json");
    let annotations = vectors("annotations.json");
    let directory = tempfile::tempdir().unwrap();
    for (key, text) in list(&keys["keys"]).iter().zip(list(&texts["texts"])) {
        let claim = key["claim"].as_str().unwrap();
        assert_eq!(text["claim"], claim);
        let config = write(directory.path(), "config.yaml", &config_for(&key["scope"]));
        let shown = run(&[
            "key-id",
            "--config",
            config.to_str().unwrap(),
            "--version",
            &key["transitVersion"].to_string(),
            "--created-at",
            &key["transitVersionCreatedAtUnix"].to_string(),
            "--output",
            "json",
        ]);
        assert_eq!(shown.err, "", "{claim}");
        let shown = shown.json();
        assert_eq!(shown["keyId"], key["keyId"], "{claim}");
        assert_eq!(shown["keyIdHash"], key["keyIdHash"], "{claim}");
        assert_eq!(shown["associatedData"], text["text"], "{claim}");
        assert_eq!(shown["associatedDataBase64"], text["base64"], "{claim}");
        if let Some(written) = annotations["written"].get(claim) {
            assert_eq!(&shown["annotations"], written, "{claim}");
        }
    }
}

#[test]
fn key_id_as_text_has_the_same_names() {
    let scope = &vectors("key_id.json")["keys"][0]["scope"];
    let directory = tempfile::tempdir().unwrap();
    let config = write(directory.path(), "config.yaml", &config_for(scope));
    let shown = run(&[
        "key-id",
        "--config",
        config.to_str().unwrap(),
        "--version=3",
        "--created-at=1715803200",
    ]);
    insta::assert_snapshot!("key-id", shown.transcript());
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}
