//! The truth about stored objects: each encrypted DEK is decrypted directly by Transit, with the
//! associated data of its writer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openbao_client::failure::FailureClass;
use openbao_lab::admin::AdminError;
use serde_json::{Value, json};
use testkit::tenant::KEY;

use super::{
    scenario::Damage,
    world::{Entry, Object, Stored, World},
};

/// What can be read of the values of this key, by etcd key.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Truth {
    /// Objects whose encrypted DEK a provider decrypts.
    pub(super) decrypted: BTreeSet<String>,
    /// Of those, the objects that their DEK opens.
    pub(super) opened: BTreeSet<String>,
    /// All objects.
    pub(super) objects: u64,
    /// Values under the configured provider's name that no plugin wrote.
    pub(super) garbage: u64,
}

impl Truth {
    /// Asks OpenBao for everything, as it is.
    pub(super) async fn of(world: &World<'_>, stored: &Stored) -> Self {
        let mut truth = Self::default();
        let mut answers = HashMap::new();
        for (key, entry) in stored {
            let object = match entry {
                Entry::Object(object) => object,
                Entry::Garbage => {
                    truth.garbage += 1;
                    continue;
                }
                Entry::Foreign => continue,
            };
            truth.objects += 1;
            let asked = (object.sealer.encrypted_source.clone(), object.aad.clone());
            let answer = match answers.get(&asked) {
                Some(answer) => *answer,
                None => {
                    let answer = decrypted(world, object).await;
                    answers.insert(asked, answer);
                    answer
                }
            };
            let bound = !matches!(object.damage, Some(Damage::Annotations))
                && version_of(object) == object.version;
            if answer.is_some() && bound {
                truth.decrypted.insert(key.clone());
                let moved = matches!(object.damage, Some(Damage::Moved));
                if answer == Some(object.sealer.source) && !moved {
                    truth.opened.insert(key.clone());
                }
            }
        }
        truth
    }

    /// How many objects and values nothing opens.
    pub(super) fn lost(&self) -> u64 {
        self.garbage + self.lost_objects()
    }

    pub(super) fn lost_objects(&self) -> u64 {
        self.objects - self.opened.len() as u64
    }

    /// As far as it shows without opening objects.
    pub(super) fn lost_deks(&self) -> u64 {
        self.garbage + self.objects - self.decrypted.len() as u64
    }
}

/// Objects by the version that they were written under.
pub(super) fn needed(stored: &Stored) -> BTreeMap<u64, u64> {
    let mut needed = BTreeMap::new();
    for entry in stored.values() {
        if let Entry::Object(object) = entry {
            *needed.entry(object.version).or_default() += 1;
        }
    }
    needed
}

/// A provider requires that ciphertext and `key_id` name one version.
fn version_of(object: &Object) -> u64 {
    let text = std::str::from_utf8(&object.sealer.encrypted_source).unwrap();
    text.split(':').nth(1).unwrap()[1..].parse().unwrap()
}

async fn decrypted(world: &World<'_>, object: &Object) -> Option<[u8; 32]> {
    let ciphertext = std::str::from_utf8(&object.sealer.encrypted_source).unwrap();
    let body = json!({
        "ciphertext": ciphertext,
        "associated_data": STANDARD.encode(&object.aad),
    });
    let path = format!("{}/decrypt/{KEY}", world.mount());
    match world.admin().write(&path, &body).await {
        Ok(answer) => {
            let answer: Value = answer.json().unwrap();
            let plaintext = answer["data"]["plaintext"].as_str().unwrap();
            STANDARD.decode(plaintext).unwrap().try_into().ok()
        }
        Err(AdminError::Call { source, .. }) => {
            let unclear = [
                FailureClass::Unavailable,
                FailureClass::Timeout,
                FailureClass::ConnectionFailed,
                FailureClass::Sealed,
            ];
            assert!(!unclear.contains(&source.class()), "{source:?}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
