//! Encodes values as kube-apiserver stores them, from a KMS v2 `EncryptResponse`. Implements
//! `docs/format/etcd-snapshot.md` sections 5 to 7, in the direction of encryption.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey},
    hmac, rand,
};

/// Type of the decrypted source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceType {
    /// The key of every object: Kubernetes up to 1.28.
    AesGcmKey,
    /// A seed: each object has a key derived from it.
    HkdfSeed,
}

/// Encrypts objects as one run of kube-apiserver does.
#[derive(Debug, Clone)]
pub struct Sealer {
    /// Name of the provider in the encryption configuration.
    pub provider: String,
    /// Plaintext of the plugin's Encrypt request.
    pub source: [u8; 32],
    /// How the key of an object is derived from `source`.
    pub source_type: SourceType,
    /// `EncryptResponse.ciphertext`.
    pub encrypted_source: Vec<u8>,
    /// `EncryptResponse.key_id`.
    pub key_id: String,
    /// `EncryptResponse.annotations`.
    pub annotations: Vec<(String, Vec<u8>)>,
}

/// Encrypts objects with the `aescbc` provider.
pub struct AesCbc {
    prefix: String,
    key: PaddedBlockEncryptingKey,
}

impl AesCbc {
    /// Uses the key of this name, from the encryption configuration.
    ///
    /// # Panics
    /// When the cipher rejects the key.
    #[must_use]
    pub fn new(name: &str, key: &[u8; 32]) -> Self {
        let key = UnboundCipherKey::new(&AES_256, key).unwrap();
        Self {
            prefix: format!("k8s:enc:aescbc:v1:{name}:"),
            key: PaddedBlockEncryptingKey::cbc_pkcs7(key).unwrap(),
        }
    }

    /// The stored value for `plaintext`.
    ///
    /// # Panics
    /// When the system's random number generator fails.
    #[must_use]
    pub fn value(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut sealed = plaintext.to_vec();
        let context = self.key.encrypt(&mut sealed).unwrap();
        let vector: &[u8] = (&context).try_into().unwrap();
        [self.prefix.as_bytes(), vector, &sealed].concat()
    }
}

/// Random bytes, for example for `source`.
///
/// # Panics
/// When the system's random number generator fails.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).unwrap();
    bytes
}

impl Sealer {
    /// The stored value for `plaintext` at `etcd_key`, the full etcd key.
    ///
    /// # Panics
    /// When the system's random number generator fails.
    #[must_use]
    pub fn value(&self, etcd_key: &str, plaintext: &[u8]) -> Vec<u8> {
        self.seal(etcd_key, plaintext, random(), random())
    }

    fn seal(
        &self,
        etcd_key: &str,
        plaintext: &[u8],
        info: [u8; 32],
        nonce: [u8; NONCE_LEN],
    ) -> Vec<u8> {
        let (info, key) = match self.source_type {
            SourceType::AesGcmKey => (&[][..], self.source.to_vec()),
            SourceType::HkdfSeed => {
                let seed = hmac::Key::new(hmac::HMAC_SHA256, &self.source);
                let block = hmac::sign(&seed, &[&info[..], &[1]].concat());
                (&info[..], block.as_ref().to_vec())
            }
        };

        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
        let mut sealed = plaintext.to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_used, Aad::from(etcd_key), &mut sealed)
            .unwrap();

        let mut value = format!("k8s:enc:kms:v2:{}:", self.provider).into_bytes();
        field(&mut value, 1, &[info, &nonce, &sealed].concat());
        field(&mut value, 2, self.key_id.as_bytes());
        field(&mut value, 3, &self.encrypted_source);
        for (name, content) in &self.annotations {
            let mut entry = Vec::new();
            field(&mut entry, 1, name.as_bytes());
            field(&mut entry, 2, content);
            field(&mut value, 4, &entry);
        }
        if self.source_type == SourceType::HkdfSeed {
            value.extend([5 << 3, 1]);
        }
        value
    }
}

fn field(message: &mut Vec<u8>, number: u8, content: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = content.len();
    while length >= 0x80 {
        message.push(0x80 | u8::try_from(length & 0x7f).unwrap());
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap());
    message.extend(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(first: u8) -> [u8; N] {
        std::array::from_fn(|index| first + u8::try_from(index).unwrap())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Test vectors from `docs/format/etcd-snapshot.md`.
    #[test]
    fn values_are_those_of_kubernetes() {
        let mut sealer = Sealer {
            provider: "demo".to_owned(),
            source: bytes(0),
            source_type: SourceType::HkdfSeed,
            encrypted_source: b"vault:v3:AAAA".into(),
            key_id: "key-1".to_owned(),
            annotations: vec![("version.example.org".to_owned(), b"1".into())],
        };
        let key = "/registry/secrets/default/demo";
        let sealed = sealer.seal(key, b"k8s\0demo-plaintext", bytes(0x20), bytes(0x40));
        assert_eq!(
            hex(&sealed),
            "6b38733a656e633a6b6d733a76323a64656d6f3a0a4e202122232425262728292a2b2c2d2e2f30313233\
             3435363738393a3b3c3d3e3f404142434445464748494a4b6c3858a1cb6e130683fbeacc1b185fc142f2\
             723af468a9a8b4930f6251e8cc0831fc12056b65792d311a0d7661756c743a76333a4141414122180a13\
             76657273696f6e2e6578616d706c652e6f72671201312801"
        );
        sealer.source = bytes(100);
        sealer.source_type = SourceType::AesGcmKey;
        sealer.annotations.clear();
        let sealed = sealer.seal(key, b"k8s\0demo-plaintext", bytes(0), bytes(0x84));
        assert_eq!(
            hex(&sealed),
            "6b38733a656e633a6b6d733a76323a64656d6f3a0a2e8485868788898a8b8c8d8e8f8c40b807b026e27a\
             25d05f98f4916904c0e72b7292144671f145e8a0c10ce6d0bda112056b65792d311a0d7661756c743a76\
             333a41414141"
        );
    }
}
