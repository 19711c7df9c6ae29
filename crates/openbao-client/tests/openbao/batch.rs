use kms_domain::{
    aad::AssociatedData, ciphertext::TransitCiphertext, prepare::PreparedDecrypt,
    transit::TransitVersion,
};
use openbao_client::{
    failure::{Failure, FailureClass},
    transit::Plaintext,
};
use serde_json::json;

use crate::corner::{Corner, token};

fn item(ciphertext: TransitCiphertext) -> PreparedDecrypt {
    PreparedDecrypt {
        ciphertext,
        associated_data: AssociatedData::status_probe(),
    }
}

async fn encrypted(corner: &Corner, version: u64, plaintext: &[u8]) -> PreparedDecrypt {
    let version = TransitVersion::new(version).unwrap();
    let data = AssociatedData::status_probe();
    let encrypted = corner
        .transit()
        .encrypt(&corner.token, version, plaintext, &data)
        .await;
    item(encrypted.unwrap().ciphertext)
}

fn altered(good: &PreparedDecrypt, from: &str, to: &str) -> PreparedDecrypt {
    let text = good.ciphertext.as_str().replacen(from, to, 1);
    item(TransitCiphertext::parse(text.as_bytes()).unwrap())
}

fn outcome(result: Result<Plaintext, Failure>) -> Result<Vec<u8>, FailureClass> {
    match result {
        Ok(plaintext) => Ok(plaintext.expose().to_vec()),
        Err(failure) => Err(failure.class()),
    }
}

async fn outcomes(
    corner: &Corner,
    items: &[PreparedDecrypt],
) -> Vec<Result<Vec<u8>, FailureClass>> {
    let results = corner.transit().decrypt_batch(&corner.token, items).await;
    results.ok().unwrap().into_iter().map(outcome).collect()
}

#[tokio::test]
async fn every_item_has_its_own_result_whatever_its_neighbours_have() {
    let corner = Corner::new().await;
    let key = corner.path("keys");
    let first = encrypted(&corner, 1, b"first").await;
    corner.write(&format!("{key}/rotate"), &json!({})).await;
    let second = encrypted(&corner, 2, b"second").await;
    let body = json!({"plaintext": "c2VjcmV0", "associated_data": "b3RoZXI="});
    let other = corner.write(&corner.path("encrypt"), &body).await;
    let other = other["data"]["ciphertext"].as_str().unwrap();
    let items = [
        altered(&first, ":v1:", ":v1:AAAA"),
        first.clone(),
        item(TransitCiphertext::parse(other.as_bytes()).unwrap()),
        altered(&first, ":v1:", ":v9:"),
        second.clone(),
        item(TransitCiphertext::parse(b"vault:v1:AAAA").unwrap()),
        first.clone(),
    ];
    let expected = [
        Err(FailureClass::DecryptFailed),
        Ok(b"first".to_vec()),
        Err(FailureClass::DecryptFailed),
        Err(FailureClass::VersionTooNew),
        Ok(b"second".to_vec()),
        Err(FailureClass::DecryptFailed),
        Ok(b"first".to_vec()),
    ];
    assert_eq!(outcomes(&corner, &items).await, expected);

    let config = json!({"min_decryption_version": 2});
    corner.write(&format!("{key}/config"), &config).await;
    let expected = [Err(FailureClass::VersionTooOld), Ok(b"second".to_vec())];
    assert_eq!(outcomes(&corner, &[first, second]).await, expected);
}

#[tokio::test]
async fn any_number_of_items_is_answered_in_order() {
    let corner = Corner::new().await;
    let mut items = Vec::new();
    for number in 0..250_u8 {
        items.push(encrypted(&corner, 1, &[number + 1]).await);
    }
    for count in [0, 1, 128, 250] {
        let expected: Vec<_> = (1..=u8::try_from(count).unwrap())
            .map(|n| Ok(vec![n]))
            .collect();
        assert_eq!(outcomes(&corner, &items[..count]).await, expected);
    }
    items[200] = altered(&items[200], ":v1:", ":v1:AAAA");
    let outcomes = outcomes(&corner, &items).await;
    assert_eq!(outcomes[200], Err(FailureClass::DecryptFailed));
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        249
    );
}

#[tokio::test]
async fn what_refuses_all_items_is_one_failure() {
    let corner = Corner::new().await;
    let items = vec![encrypted(&corner, 1, b"x").await; 2];
    let transit = corner.transit();
    let nobody = transit.decrypt_batch(&token("s.nobody"), &items).await;
    let nobody = nobody.err().unwrap();
    assert_eq!(nobody.class(), FailureClass::Unauthenticated);
    assert!(nobody.rejects_token());

    let config = format!("{}/config", corner.path("keys"));
    corner
        .write(&config, &json!({"deletion_allowed": true}))
        .await;
    corner
        .server
        .admin()
        .delete(&corner.path("keys"))
        .await
        .unwrap();
    let gone = transit.decrypt_batch(&corner.token, &items).await;
    assert_eq!(gone.err().unwrap().class(), FailureClass::KeyMissing);
}
