//! Requests that kube-apiserver would not make, or that stored data was tampered with for: the
//! code, the sentence, the class, and that OpenBao is not asked when it must not be.

use bytes::Bytes;
use kms_node::kms_api::generated::DecryptRequest;
use tonic::{Code, Status};

use crate::{
    node::{Node, QUIET},
    provider::{Provider, assert_decrypt_refused, to_decrypt},
};

const PROVIDER: &str = "provider.kms.openbao.org";
const KEY_ID_HASH: &str = "key-id-hash.kms.openbao.org";
const MOUNT_HASH: &str = "transit-mount-hash.kms.openbao.org";
const KEY_HASH: &str = "transit-key-hash.kms.openbao.org";
const NAMESPACE_HASH: &str = "openbao-namespace-hash.kms.openbao.org";
const VERSION: &str = "transit-key-version.kms.openbao.org";
const PLUGIN: &str = "plugin-version.kms.openbao.org";
const AAD_VERSION: &str = "aad-version.kms.openbao.org";

const SEED: &[u8] = b"the seed that comes back";
/// SHA-256 of another text, in the spelling of the format.
const OTHER_HASH: &str = "MFY-fdnn3o0Tkx3NGLEANm6lO7z4dH6Ot_Ps8AGry3k";

/// What a caller is told, of the data too, and the class beside it.
type Expected = (Code, &'static str, &'static str, &'static str);

const WRITTEN_BY_ANOTHER: &str = "another provider wrote the object, or it is damaged";

const MALFORMED: Expected = (
    Code::InvalidArgument,
    "key_id malformed",
    WRITTEN_BY_ANOTHER,
    "key_id_malformed",
);
const INVALID: Expected = (
    Code::InvalidArgument,
    "annotations invalid",
    WRITTEN_BY_ANOTHER,
    "annotation_invalid",
);
const MISMATCH: Expected = (
    Code::InvalidArgument,
    "annotations do not match key snapshot",
    "the stored parts do not belong together",
    "aad_mismatch",
);
const LIMIT: Expected = (
    Code::InvalidArgument,
    "kms request exceeds protocol limits",
    WRITTEN_BY_ANOTHER,
    "protocol_limit",
);
const CIPHERTEXT: Expected = (
    Code::InvalidArgument,
    "ciphertext invalid",
    WRITTEN_BY_ANOTHER,
    "unknown",
);
const AUTHENTICATION: Expected = (
    Code::InvalidArgument,
    "transit decrypt failed",
    "key version 1 of this OpenBao did not encrypt this",
    "aad_mismatch",
);

#[track_caller]
fn assert_refused(case: &str, provider: &Provider, refused: Option<Status>, expected: Expected) {
    let (code, sentence, of_the_data, class) = expected;
    let refused = refused.unwrap_or_else(|| panic!("{case}: accepted"));
    assert_eq!(refused.code(), code, "{case}");
    assert_decrypt_refused(&refused, sentence, of_the_data);
    assert_class(case, provider, class);
}

#[track_caller]
fn assert_class(case: &str, provider: &Provider, class: &str) {
    let event = provider.events("kms.request").last().unwrap();
    assert_eq!(event["error_class"], class, "{case}");
}

/// A provider and a request that decrypts to [`SEED`].
async fn good() -> (Node, Provider, DecryptRequest) {
    let node = Node::new(QUIET).await;
    let provider = node.serve().await;
    let request = to_decrypt(&provider.encrypt(SEED).await.unwrap());
    (node, provider, request)
}

/// Asserts that each changed request is refused as expected, without a call to OpenBao, and that
/// the unchanged one works still.
async fn assert_table(
    provider: &Provider,
    good: &DecryptRequest,
    table: Vec<(String, DecryptRequest, Expected)>,
) {
    let before = provider.transit_calls().await;
    for (case, request, expected) in table {
        let refused = provider.decrypt(request).await.err();
        assert_refused(&case, provider, refused, expected);
    }
    assert_eq!(provider.transit_calls().await, before, "OpenBao was asked");
    assert_eq!(provider.decrypt(good.clone()).await.unwrap(), SEED);
}

#[tokio::test]
async fn empty_requests_are_refused() {
    let (_node, provider, good) = good().await;
    let before = provider.transit_calls().await;
    let refused = provider.encrypt(b"").await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "plaintext is required");
    assert_class("plaintext", &provider, "unknown");

    let empty = DecryptRequest {
        ciphertext: Bytes::new(),
        ..good
    };
    let refused = provider.decrypt(empty).await.err();
    let expected = (
        Code::InvalidArgument,
        "ciphertext is required",
        WRITTEN_BY_ANOTHER,
        "unknown",
    );
    assert_refused("ciphertext", &provider, refused, expected);
    assert_eq!(provider.transit_calls().await, before);
}

#[tokio::test]
async fn a_key_id_is_refused_unless_it_is_exactly_one_that_is_known() {
    let (_node, provider, good) = good().await;
    let key_id = good.key_id.clone();
    // 43 characters hold 258 bits for 256, so the last one has neighbours of the same value.
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = ALPHABET.find(key_id.chars().last().unwrap()).unwrap();
    let unused_bits = format!("{}{}", &key_id[..47], &ALPHABET[last + 1..last + 2]);
    let unknown = (
        Code::NotFound,
        "key_id unknown",
        "key version 1 of this key and configuration",
        "key_id_unknown",
    );
    let table = [
        (String::new(), MALFORMED),
        (key_id[..47].to_owned(), MALFORMED),
        (format!("{key_id}A"), MALFORMED),
        (format!("{key_id}="), MALFORMED),
        (format!("{}=", &key_id[..47]), MALFORMED),
        (key_id.replace("obk2.", "obk1."), MALFORMED),
        (format!("obk2.+{}", &key_id[6..]), MALFORMED),
        (format!(" {key_id}"), MALFORMED),
        (unused_bits, MALFORMED),
        (format!("obk2.{}", "A".repeat(43)), unknown),
        ("k".repeat(1023), MALFORMED),
        ("k".repeat(1024), LIMIT),
    ];
    let table = table.map(|(key_id, expected)| {
        let request = DecryptRequest {
            key_id: key_id.clone(),
            ..good.clone()
        };
        (format!("key_id {key_id:?}"), request, expected)
    });
    assert_table(&provider, &good, table.into()).await;
    let errors = r#"decrypt_key_id_errors_total{reason="key_id_unknown"}"#;
    assert_eq!(provider.metric(errors).await, 1.0);
    let errors = r#"decrypt_key_id_errors_total{reason="key_id_malformed"}"#;
    assert_eq!(provider.metric(errors).await, 10.0);
}

#[tokio::test]
async fn an_edited_annotation_is_found_before_openbao_is_asked() {
    let (_node, provider, good) = good().await;
    let mut table = Vec::new();
    let mut case = |name: &str, value: Option<&str>, expected| {
        let mut request = good.clone();
        match value {
            Some(value) => {
                let value = Bytes::copy_from_slice(value.as_bytes());
                request.annotations.insert(name.to_owned(), value);
            }
            None => drop(request.annotations.remove(name).unwrap()),
        }
        table.push((format!("{name} = {value:?}"), request, expected));
    };
    for name in [
        PROVIDER,
        KEY_ID_HASH,
        MOUNT_HASH,
        KEY_HASH,
        VERSION,
        PLUGIN,
        AAD_VERSION,
    ] {
        case(name, None, INVALID);
        case(name, Some(""), INVALID);
    }
    for name in [KEY_ID_HASH, MOUNT_HASH, KEY_HASH] {
        case(name, Some("not-base64url-sha256"), INVALID);
        case(name, Some(OTHER_HASH), MISMATCH);
    }
    case(NAMESPACE_HASH, Some(OTHER_HASH), MISMATCH);
    case(NAMESPACE_HASH, Some("short"), INVALID);
    case(PROVIDER, Some("openbao-other"), INVALID);
    case(AAD_VERSION, Some("v2"), INVALID);
    case(VERSION, Some("2"), MISMATCH);
    for version in [
        "0",
        "-1",
        "+1",
        "01",
        " 1",
        "1 ",
        "0x1",
        "1_0",
        "9223372036854775808",
    ] {
        case(VERSION, Some(version), INVALID);
    }
    for name in [
        "example.org/x",
        "X.example.org",
        "nodot",
        "a..b",
        "-a.b",
        "",
    ] {
        case(name, Some("x"), INVALID);
    }
    let mut renamed = good.clone();
    let marker = renamed.annotations.remove(PROVIDER).unwrap();
    renamed.annotations.insert("provider".to_owned(), marker);
    table.push(("renamed".to_owned(), renamed, INVALID));
    let mut none = good.clone();
    none.annotations.clear();
    table.push(("none".to_owned(), none, INVALID));
    let mut binary = good.clone();
    let bytes = Bytes::from_static(b"\xff\xfe");
    binary.annotations.insert("x.example.org".to_owned(), bytes);
    table.push(("not UTF-8".to_owned(), binary, INVALID));
    assert_table(&provider, &good, table).await;
}

#[tokio::test]
async fn annotations_of_others_and_of_other_builds_are_accepted() {
    let (_node, provider, mut request) = good().await;
    let extra = Bytes::from_static(b"anything");
    request
        .annotations
        .insert("x.example.org".to_owned(), extra);
    let plugin = Bytes::from_static(b"v0.0.0-other");
    request.annotations.insert(PLUGIN.to_owned(), plugin);
    assert_eq!(provider.decrypt(request).await.unwrap(), SEED);
}

#[tokio::test]
async fn annotations_are_accepted_up_to_the_limit_and_not_beyond() {
    let (_node, provider, good) = good().await;
    let used: usize = good
        .annotations
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    let filled = |total: usize| {
        let mut request = good.clone();
        let name = "x.example.org";
        let value = vec![b'x'; total - used - name.len()];
        request.annotations.insert(name.to_owned(), value.into());
        request
    };
    assert_eq!(provider.decrypt(filled(32767)).await.unwrap(), SEED);
    let table = vec![("32768".to_owned(), filled(32768), LIMIT)];
    assert_table(&provider, &good, table).await;
}

#[tokio::test]
async fn a_message_above_64_kib_is_refused_and_the_connection_goes_on() {
    let (_node, provider, good) = good().await;
    let before = provider.transit_calls().await;
    let large = DecryptRequest {
        uid: "u".repeat(65536),
        ..good.clone()
    };
    let refused = provider.decrypt(large).await.unwrap_err();
    assert_refused("uid", &provider, Some(refused), LIMIT);
    let refused = provider.encrypt(&[b'x'; 65536]).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "kms request exceeds protocol limits");
    for method in ["encrypt", "decrypt"] {
        let labels = format!(r#"method="{method}",error_class="protocol_limit""#);
        let refusals = format!("grpc_errors_total{{{labels}}}");
        assert_eq!(provider.metric(&refusals).await, 1.0);
    }
    assert_eq!(provider.transit_calls().await, before);
    assert_eq!(provider.decrypt(good).await.unwrap(), SEED);
}

#[tokio::test]
async fn a_ciphertext_that_transit_cannot_have_made_is_not_sent() {
    let (_node, provider, good) = good().await;
    let text = std::str::from_utf8(&good.ciphertext).unwrap().to_owned();
    let payload = text.strip_prefix("vault:v1:").unwrap();
    let table = [
        (format!("vault:v2:{payload}"), MISMATCH),
        (format!("vault:v0:{payload}"), CIPHERTEXT),
        (format!("vault:v01:{payload}"), CIPHERTEXT),
        (format!("bao:v1:{payload}"), CIPHERTEXT),
        (payload.to_owned(), CIPHERTEXT),
        ("vault:v1:".to_owned(), CIPHERTEXT),
        ("vault:v1:not base64".to_owned(), CIPHERTEXT),
        (format!("{text}\n"), CIPHERTEXT),
        ("x".repeat(1023), CIPHERTEXT),
        ("x".repeat(1024), LIMIT),
    ];
    let mut table: Vec<_> = table
        .map(|(ciphertext, expected)| {
            let request = DecryptRequest {
                ciphertext: ciphertext.clone().into(),
                ..good.clone()
            };
            (format!("ciphertext {ciphertext:?}"), request, expected)
        })
        .into();
    let binary = DecryptRequest {
        ciphertext: Bytes::from_static(b"\xff\x00\xfe"),
        ..good.clone()
    };
    table.push(("binary".to_owned(), binary, CIPHERTEXT));
    assert_table(&provider, &good, table).await;
}

#[tokio::test]
async fn a_changed_or_foreign_ciphertext_never_decrypts() {
    let (_node, provider, good) = good().await;
    let mut flipped = good.ciphertext.to_vec();
    // The first character of the payload: part of the nonce, and of no padding.
    flipped[9] = if flipped[9] == b'A' { b'B' } else { b'A' };
    let flipped = DecryptRequest {
        ciphertext: flipped.into(),
        ..good.clone()
    };
    let before = provider.transit_calls().await;
    let refused = provider.decrypt(flipped).await.err();
    assert_refused("flipped", &provider, refused, AUTHENTICATION);

    // As if the object of another cluster had been put into this one's etcd.
    let (_other_node, other, foreign) = self::good().await;
    let refused = provider.decrypt(foreign.clone()).await.err();
    let unknown = (
        Code::NotFound,
        "key_id unknown",
        "key version 1 of this key and configuration",
        "key_id_unknown",
    );
    assert_refused("whole object", &provider, refused, unknown);
    let mixed = DecryptRequest {
        ciphertext: foreign.ciphertext.clone(),
        ..good.clone()
    };
    let refused = provider.decrypt(mixed).await.err();
    assert_refused("its ciphertext", &provider, refused, AUTHENTICATION);
    let mixed = DecryptRequest {
        annotations: foreign.annotations.clone(),
        ..good.clone()
    };
    let refused = provider.decrypt(mixed).await.err();
    assert_refused("its annotations", &provider, refused, MISMATCH);
    assert_eq!(provider.transit_calls().await, before + 2.0);
    assert_eq!(other.decrypt(foreign).await.unwrap(), SEED);
    let errors = r#"aad_validation_errors_total{reason="aad_mismatch"}"#;
    assert_eq!(provider.metric(errors).await, 3.0);
}

#[tokio::test]
async fn a_plaintext_is_encrypted_as_long_as_kubernetes_can_store_the_result() {
    let (_node, provider, _) = good().await;
    let largest = [b'x'; 731];
    let encrypted = provider.encrypt(&largest).await.unwrap();
    assert_eq!(encrypted.ciphertext.len(), 1021);
    assert_eq!(
        provider.decrypt(to_decrypt(&encrypted)).await.unwrap(),
        &largest[..]
    );
    let refused = provider.encrypt(&[b'x'; 732]).await.err().unwrap();
    assert_eq!(refused.code(), Code::Internal);
    assert_eq!(refused.message(), "kms response exceeds protocol limits");
    assert_class("732 bytes", &provider, "protocol_limit");
}
