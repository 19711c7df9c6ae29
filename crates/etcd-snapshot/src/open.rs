//! Proves that a decrypted DEK source opens an object. The plaintext is wiped in this module, and
//! leaves it by [`DekSource::reveal`] alone, which only `kms-extract` may call (`clippy.toml`).
//! Implements `docs/format/etcd-snapshot.md` section 7.
//!
//! The cryptography comes from aws-lc-rs, which the program already has for TLS. A second AES
//! implementation would only make it larger.

use std::fmt;

use aws_lc_rs::{
    aead::{
        AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce,
        UnboundKey,
    },
    hmac::{self, HMAC_SHA256},
};
use zeroize::{Zeroize, Zeroizing};

use crate::{envelope::DekSourceType, value::Encoding};

/// A decrypted DEK source, as returned by the plugin. Only its bytes are kept, and wiped on drop. A
/// prepared key takes twenty times the memory, and a cluster may have a DEK for each object.
pub struct DekSource(Source);

enum Source {
    Key(&'static Algorithm, Secret),
    Seed(Secret),
}

type Secret = Zeroizing<Box<[u8]>>;

/// A DEK source with a size that Kubernetes refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the decrypted DEK source has {bytes} bytes; Kubernetes uses other sizes")]
pub struct UnusableDekSource {
    bytes: usize,
}

/// Reason why an object does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The encrypted data is shorter than the overhead of the encryption.
    #[error("the encrypted data has {bytes} bytes and must have {least} at least")]
    TooShort {
        /// The size of the encrypted data.
        bytes: usize,
        /// The minimum size: the overhead.
        least: usize,
    },
    /// It was encrypted with another key or for another etcd key, or was changed.
    #[error(
        "the encrypted data does not open: it is of another DEK source or another etcd key, or was \
         changed"
    )]
    NotAuthentic,
    /// It opens, but its content is not an API object.
    #[error("the encrypted data opens but is no API object")]
    NotAnObject,
}

impl fmt::Debug for DekSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DekSource(..)")
    }
}

const SEED: usize = 32;
const INFO: usize = 32;
const TAG: usize = 16;

impl DekSource {
    /// Copies a DEK source returned by Decrypt.
    ///
    /// # Errors
    /// A key without an AES key size, or a seed of fewer than 32 bytes.
    pub fn new(
        secret: &Zeroizing<Vec<u8>>,
        kind: DekSourceType,
    ) -> Result<Self, UnusableDekSource> {
        let unusable = UnusableDekSource {
            bytes: secret.len(),
        };
        let source = match kind {
            DekSourceType::AesGcmKey => {
                let algorithm = match secret.len() {
                    16 => &AES_128_GCM,
                    24 => &AES_192_GCM,
                    32 => &AES_256_GCM,
                    _ => return Err(unusable),
                };
                Source::Key(algorithm, Zeroizing::new(secret.as_slice().into()))
            }
            DekSourceType::HkdfSeed if secret.len() < SEED => return Err(unusable),
            DekSourceType::HkdfSeed => Source::Seed(Zeroizing::new(secret.as_slice().into())),
        };
        Ok(Self(source))
    }

    /// Opens the `encrypted_data` of the object under `etcd_key`, the complete key with its prefix,
    /// and returns the encoding of the object.
    ///
    /// # Errors
    /// Every condition under which the API server cannot read the object.
    pub fn prove(
        &self,
        etcd_key: &[u8],
        encrypted_data: &[u8],
        scratch: &mut OpenBuffers,
    ) -> Result<Encoding, OpenError> {
        let plaintext = self.open(etcd_key, encrypted_data, scratch)?;
        let encoding = Encoding::of(plaintext);
        plaintext.zeroize();
        encoding.ok_or(OpenError::NotAnObject)
    }

    /// Opens the object like [`prove`](Self::prove), and returns its plaintext.
    ///
    /// # Errors
    /// Same as [`prove`](Self::prove).
    pub fn reveal(
        &self,
        etcd_key: &[u8],
        encrypted_data: &[u8],
        scratch: &mut OpenBuffers,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let plaintext = self.open(etcd_key, encrypted_data, scratch)?;
        let copy = Zeroizing::new(plaintext.to_vec());
        plaintext.zeroize();
        match Encoding::of(&copy) {
            Some(_) => Ok(copy),
            None => Err(OpenError::NotAnObject),
        }
    }

    fn open<'b>(
        &self,
        etcd_key: &[u8],
        encrypted_data: &[u8],
        scratch: &'b mut OpenBuffers,
    ) -> Result<&'b mut [u8], OpenError> {
        let info_size = match &self.0 {
            Source::Key(..) => 0,
            Source::Seed(_) => INFO,
        };
        let too_short = OpenError::TooShort {
            bytes: encrypted_data.len(),
            least: info_size.saturating_add(NONCE_LEN).saturating_add(TAG),
        };

        let (key, rest) = match &self.0 {
            Source::Key(algorithm, bytes) => (key(algorithm, bytes), encrypted_data),
            Source::Seed(seed) => {
                let (info, rest) = encrypted_data.split_first_chunk().ok_or(too_short)?;
                (derive(scratch.prepared(seed), info), rest)
            }
        };
        let key = key.ok_or(OpenError::NotAuthentic)?;

        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(too_short)?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG>().ok_or(too_short)?;

        let plaintext = scratch.room(ciphertext.len());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        match key.open_separate_gather(nonce, Aad::from(etcd_key), ciphertext, tag, plaintext) {
            Ok(()) => Ok(plaintext),
            Err(_) => {
                plaintext.zeroize();
                Err(OpenError::NotAuthentic)
            }
        }
    }
}

/// Buffers reused between objects.
#[derive(Default)]
pub struct OpenBuffers {
    /// Plaintext buffer, wiped after each object.
    plaintext: Zeroizing<Vec<u8>>,
    /// The last seed with its prepared HMAC key. Consecutive objects often have the same seed.
    seed: Option<(Secret, hmac::Key)>,
}

impl OpenBuffers {
    /// The first `size` bytes. The rest was wiped after an earlier, larger object.
    fn room(&mut self, size: usize) -> &mut [u8] {
        if self.plaintext.len() < size {
            self.plaintext.resize(size, 0);
        }
        self.plaintext.get_mut(..size).unwrap_or_default()
    }

    fn prepared(&mut self, seed: &Secret) -> &hmac::Key {
        let prepared = self.seed.take().filter(|(last, _)| last == seed);
        let prepare = || (seed.clone(), hmac::Key::new(HMAC_SHA256, seed));
        let (_, key) = self.seed.insert(prepared.unwrap_or_else(prepare));
        key
    }
}

impl fmt::Debug for OpenBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenBuffers(..)")
    }
}

fn key(algorithm: &'static Algorithm, bytes: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(algorithm, bytes).ok().map(LessSafeKey::new)
}

/// HKDF-Expand without an extract step: the seed is the pseudo-random key. The 32 bytes are one
/// hash block, so one HMAC of the info and the block number is enough.
fn derive(seed: &hmac::Key, info: &[u8; INFO]) -> Option<LessSafeKey> {
    let mut message = [1; INFO + 1];
    message.first_chunk_mut()?.clone_from(info);
    let mut bytes = Zeroizing::new([0; 32]);
    hmac::sign_to_buffer(seed, &message, bytes.as_mut_slice()).ok()?;
    key(&AES_256_GCM, bytes.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{envelope::Envelope, value::Protection};

    const ETCD_KEY: &[u8] = b"/registry/secrets/default/demo";
    const PLAINTEXT: &[u8] = b"k8s\0demo-plaintext";
    const SEED_VALUE: &str = "6b38733a656e633a6b6d733a76323a64656d6f3a0a4e202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b6c3858a1cb6e130683fbeacc1b185fc142f2723af468a9a8b4930f6251e8cc0831fc12056b65792d311a0d7661756c743a76333a4141414122180a1376657273696f6e2e6578616d706c652e6f72671201312801";
    const KEY_VALUE: &str = "6b38733a656e633a6b6d733a76323a64656d6f3a0a2e8485868788898a8b8c8d8e8f8c40b807b026e27a25d05f98f4916904c0e72b7292144671f145e8a0c10ce6d0bda112056b65792d311a0d7661756c743a76333a41414141";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn secret(first: u8, size: u8) -> Zeroizing<Vec<u8>> {
        Zeroizing::new((first..first + size).collect())
    }

    fn message(value: &[u8]) -> Envelope<'_> {
        let Protection::KmsV2 { provider, message } = Protection::of(value) else {
            panic!("no KMS v2 value")
        };
        assert_eq!(provider, "demo");
        Envelope::parse(message).unwrap()
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "it is tested here")]
    fn the_vectors_of_both_types_open() {
        for (value, kind, secret) in [
            (SEED_VALUE, DekSourceType::HkdfSeed, secret(0, 32)),
            (KEY_VALUE, DekSourceType::AesGcmKey, secret(0x64, 32)),
        ] {
            let value = bytes(value);
            let envelope = message(&value);
            assert_eq!(envelope.key_id, "key-1");
            assert_eq!(envelope.encrypted_dek_source, b"vault:v3:AAAA");
            assert_eq!(envelope.dek_source_type, kind);
            let source = DekSource::new(&secret, kind).unwrap();
            let mut scratch = OpenBuffers::default();
            let data = envelope.encrypted_data;
            assert_eq!(
                source.open(ETCD_KEY, data, &mut scratch).unwrap(),
                PLAINTEXT
            );
            assert_eq!(
                source.prove(ETCD_KEY, data, &mut scratch),
                Ok(Encoding::Protobuf)
            );
            let revealed = source.reveal(ETCD_KEY, data, &mut scratch).unwrap();
            assert_eq!(revealed.as_slice(), PLAINTEXT);
            assert!(scratch.plaintext.iter().all(|byte| *byte == 0));
        }
        let value = bytes(SEED_VALUE);
        let annotations = message(&value).annotations;
        assert_eq!(annotations, [("version.example.org", &b"1"[..])]);
    }

    #[test]
    fn another_key_another_source_and_any_changed_bit_keep_it_closed() {
        let mut scratch = OpenBuffers::default();
        for (value, kind, first) in [
            (SEED_VALUE, DekSourceType::HkdfSeed, 0),
            (KEY_VALUE, DekSourceType::AesGcmKey, 0x64),
        ] {
            let value = bytes(value);
            let data = message(&value).encrypted_data;
            let source = DekSource::new(&secret(first, 32), kind).unwrap();
            let other = DekSource::new(&secret(first + 1, 32), kind).unwrap();
            let closed = Err(OpenError::NotAuthentic);
            let moved = b"/registry/secrets/default/other";
            assert_eq!(source.prove(moved, data, &mut scratch), closed);
            assert_eq!(other.prove(ETCD_KEY, data, &mut scratch), closed);
            for bit in 0..data.len() * 8 {
                let mut changed = data.to_vec();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(source.prove(ETCD_KEY, &changed, &mut scratch), closed);
                assert!(scratch.plaintext.iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn sizes_that_kubernetes_refuses_are_refused() {
        let usable = |kind, size| DekSource::new(&secret(0, size), kind).is_ok();
        for (size, key, seed) in [
            (0, false, false),
            (16, true, false),
            (24, true, false),
            (31, false, false),
            (32, true, true),
            (33, false, true),
        ] {
            assert_eq!(usable(DekSourceType::AesGcmKey, size), key, "{size}");
            assert_eq!(usable(DekSourceType::HkdfSeed, size), seed, "{size}");
        }
        let mut scratch = OpenBuffers::default();
        for (kind, least) in [
            (DekSourceType::AesGcmKey, 28),
            (DekSourceType::HkdfSeed, 60),
        ] {
            let source = DekSource::new(&secret(0, 32), kind).unwrap();
            for bytes in 0..least {
                let short = source.prove(ETCD_KEY, &vec![0; bytes], &mut scratch);
                assert_eq!(short, Err(OpenError::TooShort { bytes, least }));
            }
            let long_enough = source.prove(ETCD_KEY, &vec![0; least], &mut scratch);
            assert_eq!(long_enough, Err(OpenError::NotAuthentic));
        }
    }

    #[test]
    fn what_opens_must_be_an_object() {
        let key = key(&AES_256_GCM, &secret(0, 32)).unwrap();
        let mut data = b"not an object".to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        key.seal_in_place_append_tag(nonce, Aad::from(ETCD_KEY), &mut data)
            .unwrap();
        let data = [&[0; NONCE_LEN], &data[..]].concat();
        let source = DekSource::new(&secret(0, 32), DekSourceType::AesGcmKey).unwrap();
        assert_eq!(
            source.prove(ETCD_KEY, &data, &mut OpenBuffers::default()),
            Err(OpenError::NotAnObject)
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let source = DekSource::new(&secret(0, 32), DekSourceType::HkdfSeed).unwrap();
        assert_eq!(format!("{source:?}"), "DekSource(..)");
        let mut scratch = OpenBuffers::default();
        scratch.prepared(&Zeroizing::new(secret(0, 32).as_slice().into()));
        assert_eq!(format!("{scratch:?}"), "OpenBuffers(..)");
    }
}
