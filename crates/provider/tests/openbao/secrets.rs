//! No secret gets out: known plaintexts and JWTs, and anything of a token's form, are looked for
//! in everything that the program says or writes.

use std::{fs, path::Path};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use kms_node::kms_api::generated::DecryptRequest;
use openbao_lab::admin::Admin;
use serde_json::{Value, json};
use testkit::{openbao::shared_openbao, tenant::ROLE};

use crate::{
    node::{IMPATIENT, Node, TIMING},
    provider::to_decrypt,
};

/// Every way in which a secret might be spelled.
pub(crate) fn spellings(secret: &[u8]) -> Vec<String> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<_> = secret.iter().map(u8::to_string).collect();
    let mut spellings = vec![
        String::from_utf8_lossy(secret).into_owned(),
        hex.to_uppercase(),
        hex,
        list.join(", "),
        list.join(","),
    ];
    // Base64 of a text that holds the secret depends on where in it the secret begins.
    for before in 0..3 {
        let shifted = [&vec![0; before][..], secret].concat();
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = engine.encode(&shifted);
            // The first and last characters also hold bits of the neighbours.
            spellings.push(text[4..text.len() - 4].to_owned());
        }
    }
    spellings
}

/// Whether the text holds something of the form of an OpenBao token.
pub(crate) fn holds_token(text: &str) -> bool {
    text.match_indices("s.").any(|(at, _)| {
        let word = text[..at].chars().last().is_some_and(char::is_alphanumeric);
        let random = text[at + 2..]
            .chars()
            .take_while(char::is_ascii_alphanumeric);
        !word && random.count() >= 20
    })
}

/// The content of every file below a directory, as far as it is text.
pub(crate) fn files_below(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if let Ok(content) = fs::read(&path) {
            found.push(String::from_utf8_lossy(&content).into_owned());
        }
    }
}

#[test]
fn the_sweep_finds_what_it_looks_for() {
    let secret = b"MARKER-plaintext-0123456789";
    let hidden = [
        format!("{secret:?}"),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE_NO_PAD.encode([b"{\"key\":\"", &secret[..], b"\"}"].concat()),
        secret.map(|byte| format!("{byte:02x}")).concat(),
        "MARKER-plaintext-0123456789".to_owned(),
    ];
    for text in hidden {
        let found = spellings(secret).iter().any(|form| text.contains(form));
        assert!(found, "{text}");
    }
    assert!(holds_token("token: s.abcdefghijklmnopqrstuvwx"));
    assert!(!holds_token("tests.abcdefghijklmnopqrstuvwx s.short"));
}

#[tokio::test]
async fn no_secret_is_ever_said_or_written() {
    const PLAINTEXT: &[u8] = b"MARKER-plaintext-0123456789abcdef";
    const REQUEST: &str = "MARKER-request-0123456789abcdef";
    let mut node = Node::new(TIMING).await;
    let jwt = fs::read(node.tenant.jwt_file()).unwrap();
    let provider = node.serve().await;

    // What succeeds, what is refused here, and what OpenBao refuses.
    let encrypted = provider.encrypt(PLAINTEXT).await.unwrap();
    let good = to_decrypt(&encrypted);
    assert_eq!(provider.decrypt(good.clone()).await.unwrap(), PLAINTEXT);
    let mut said = Vec::new();
    let mut annotated = good.clone();
    let marker = Bytes::from_static(REQUEST.as_bytes());
    annotated
        .annotations
        .insert(REQUEST.to_owned(), marker.clone());
    let mut flipped = good.ciphertext.to_vec();
    flipped[9] = if flipped[9] == b'A' { b'B' } else { b'A' };
    for request in [
        annotated,
        DecryptRequest {
            key_id: REQUEST.to_owned(),
            uid: REQUEST.to_owned(),
            ..good.clone()
        },
        DecryptRequest {
            ciphertext: marker,
            ..good.clone()
        },
        DecryptRequest {
            ciphertext: flipped.into(),
            ..good.clone()
        },
    ] {
        said.push(format!(
            "{:?}",
            provider.decrypt(request).await.unwrap_err()
        ));
    }
    let too_large = PLAINTEXT.repeat(30);
    said.push(format!("{:?}", provider.encrypt(&too_large).await.err()));
    let revoke = format!("sys/leases/revoke-prefix/auth/{}", node.tenant.jwt_mount);
    let admin = shared_openbao().await.admin();
    admin.write(&revoke, &json!({"sync": true})).await.unwrap();
    provider.decrypt(good.clone()).await.unwrap();

    said.push(provider.metrics().await);
    for path in ["/live", "/ready"] {
        said.push(provider.health(path).await.1.to_string());
    }
    said.extend(provider.process_files());
    for command in [
        &["config"][..],
        &["config", "--output", "json"],
        &["policy", "openbao"],
        &["probe", "--socket", node.sockets.socket().to_str().unwrap()],
        &["inspect-state", node.state_file().to_str().unwrap()],
    ] {
        let finished = node.run(command);
        assert_eq!(finished.code, Some(0), "{command:?}: {}", finished.err);
        said.extend([finished.out, finished.err]);
    }
    let stopped = provider.stop().await;
    assert!(
        stopped.err.contains(r#""level":"debug""#),
        "{}",
        stopped.err
    );
    said.extend([stopped.out, stopped.err]);

    // A JWT that OpenBao refuses, and one that cannot be read.
    node.config["bootstrap"]["graceTimeout"] = json!("10ms");
    node.config["auth"]["jwt"]["role"] = json!("no-such-role");
    let refused = node.refused().await;
    assert_eq!(refused.code, Some(5));
    said.push(refused.err);
    let broken = [&jwt[..], b".x"].concat();
    testkit::files::replace(&node.tenant.jwt_file(), &broken, 0o640);
    let refused = node.refused().await;
    assert_eq!(refused.code, Some(5));
    said.push(refused.err);

    files_below(&node.state_dir(), &mut said);
    files_below(node.sockets.path(), &mut said);
    let mut secrets = vec![PLAINTEXT, REQUEST.as_bytes(), &good.ciphertext[9..]];
    secrets.extend(jwt.split(|byte| *byte == b'.'));
    for secret in secrets {
        for form in spellings(secret) {
            for text in &said {
                assert!(!text.contains(&form), "{form} is in {text}");
            }
        }
    }
    assert!(said.iter().all(|text| !holds_token(text)));
}

#[tokio::test]
async fn a_token_has_the_form_that_the_sweep_looks_for() {
    let node = Node::new(IMPATIENT).await;
    let jwt = fs::read_to_string(node.tenant.jwt_file()).unwrap();
    let anonymous = Admin::new(shared_openbao().await.endpoint(), None).unwrap();
    let path = format!("auth/{}/login", node.tenant.jwt_mount);
    let body = json!({"role": ROLE, "jwt": jwt});
    let granted = anonymous.write(&path, &body).await.unwrap();
    let granted: Value = granted.json().unwrap();
    let token = granted["auth"]["client_token"].as_str().unwrap();
    assert!(holds_token(token));
}
