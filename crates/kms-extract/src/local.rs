//! Keys in an `EncryptionConfiguration`: `aescbc`, `aesgcm` and `secretbox`.
//!
//! The file is read once. Its keys are wiped, and no error quotes it.

use std::{
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    cipher::{
        AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
    },
    iv::FixedLength,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use crypto_secretbox::{AeadInPlace as _, KeyInit as _, XSalsa20Poly1305};
use etcd_snapshot::value::{Encoding, LocalCipher};
use kms_operator::recovery::open_regular;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// The keys of a file, by cipher and name.
#[derive(Default)]
pub struct LocalKeys(Vec<LocalKey>);

struct LocalKey {
    cipher: LocalCipher,
    name: String,
    secret: Zeroizing<Vec<u8>>,
}

/// The file has no keys. Without the cause of a parser, which quotes lines.
#[derive(Debug, thiserror::Error)]
pub enum LocalKeysError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a valid EncryptionConfiguration", .0.display())]
    Malformed(PathBuf),
    #[error("{} has more than {} KiB", .0.display(), MAX_FILE_BYTES >> 10)]
    TooLarge(PathBuf),
}

/// Size limit in bytes, far above any real file.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl LocalKeys {
    /// Reads the keys of all rules.
    ///
    /// # Errors
    /// [`LocalKeysError`].
    pub fn read(path: &Path) -> Result<Self, LocalKeysError> {
        let unreadable = |source| LocalKeysError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let malformed = || LocalKeysError::Malformed(path.to_owned());
        let file = open_regular(path).map_err(unreadable)?;
        let mut text = Zeroizing::new(String::new());
        let limit = MAX_FILE_BYTES.saturating_add(1);
        let read = file.take(limit).read_to_string(&mut text);
        let size = read.map_err(unreadable)?;
        if u64::try_from(size).is_ok_and(|size| size > MAX_FILE_BYTES) {
            return Err(LocalKeysError::TooLarge(path.to_owned()));
        }
        Self::parse(&text).ok_or_else(malformed)
    }

    /// Reads the keys in the text of a file; `None` if it is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let file: Configuration = serde_saphyr::from_str(text).ok()?;
        if file.kind != "EncryptionConfiguration" {
            return None;
        }
        let mut keys = Vec::new();
        for provider in file.resources.into_iter().flat_map(|rule| rule.providers) {
            for (cipher, listed) in [
                (LocalCipher::AesCbc, provider.aescbc),
                (LocalCipher::AesGcm, provider.aesgcm),
                (LocalCipher::Secretbox, provider.secretbox),
            ] {
                for Key { name, secret } in listed.into_iter().flat_map(|it| it.keys) {
                    let secret = Zeroizing::new(secret.replace(['\r', '\n'], ""));
                    let secret = Zeroizing::new(STANDARD.decode(secret.as_bytes()).ok()?);
                    keys.push(LocalKey {
                        cipher,
                        name,
                        secret,
                    });
                }
            }
        }
        Some(Self(keys))
    }

    /// Whether there is a key of the cipher and name in the first bytes of a stored value.
    #[must_use]
    pub fn has(&self, value: &[u8]) -> bool {
        self.named(value).next().is_some()
    }

    /// Opens a stored value with the first key of its cipher and name that fits. `None` if none does.
    #[must_use]
    pub fn open(&self, etcd_key: &[u8], value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.named(value).find_map(|(key, sealed)| {
            let plaintext = key.open(etcd_key, sealed)?;
            Encoding::of(&plaintext).map(|_| plaintext)
        })
    }

    /// The keys that a value names, with the rest of the value. Their names may have colons, so the value
    /// alone does not tell where its name ends.
    fn named<'a>(&'a self, value: &'a [u8]) -> impl Iterator<Item = (&'a LocalKey, &'a [u8])> {
        self.0.iter().filter_map(|key| {
            let prefix = prefix(key.cipher, &key.name);
            Some((key, value.strip_prefix(prefix.as_bytes())?))
        })
    }
}

/// The first bytes of a value.
fn prefix(cipher: LocalCipher, name: &str) -> String {
    let word = match cipher {
        LocalCipher::AesCbc => "aescbc",
        LocalCipher::AesGcm => "aesgcm",
        LocalCipher::Secretbox => "secretbox",
    };
    format!("k8s:enc:{word}:v1:{name}:")
}

impl LocalKey {
    fn open(&self, etcd_key: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match self.cipher {
            LocalCipher::AesCbc => self.open_cbc(sealed),
            LocalCipher::AesGcm => self.open_gcm(etcd_key, sealed),
            LocalCipher::Secretbox => self.open_secretbox(sealed),
        }
    }

    /// IV (16 bytes), then blocks with PKCS #7 padding. Nothing authenticates them.
    fn open_cbc(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let algorithm = match self.secret.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            _ => return None,
        };
        let (iv, blocks) = sealed.split_first_chunk::<16>()?;
        let key = UnboundCipherKey::new(algorithm, &self.secret).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let mut opened = Zeroizing::new(blocks.to_vec());
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let length = key.decrypt(&mut opened, context).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }

    /// Nonce (12 bytes), ciphertext, tag (16 bytes), with the etcd key as associated data.
    fn open_gcm(&self, etcd_key: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let algorithm = match self.secret.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &self.secret).ok()?);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut opened = Zeroizing::new(rest.to_vec());
        let length = key
            .open_in_place(nonce, Aad::from(etcd_key), &mut opened)
            .ok()?
            .len();
        opened.truncate(length);
        Some(opened)
    }

    /// Nonce (24 bytes), tag (16 bytes), ciphertext. The etcd key is not authenticated.
    fn open_secretbox(&self, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_first_chunk::<24>()?;
        let cipher = XSalsa20Poly1305::new_from_slice(&self.secret).ok()?;
        let mut opened = Zeroizing::new(rest.to_vec());
        cipher
            .decrypt_in_place(nonce.into(), b"", &mut *opened)
            .ok()?;
        Some(opened)
    }
}

/// `EncryptionConfiguration`; here and below, fields in use only.
#[derive(Deserialize)]
struct Configuration {
    kind: String,
    #[serde(default)]
    resources: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
struct Provider {
    #[serde(default)]
    aescbc: Option<Keys>,
    #[serde(default)]
    aesgcm: Option<Keys>,
    #[serde(default)]
    secretbox: Option<Keys>,
}

#[derive(Deserialize)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    name: String,
    #[serde(deserialize_with = "wiped")]
    secret: Zeroizing<String>,
}

fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::cipher::{EncryptionContext, PaddedBlockEncryptingKey};
    use crypto_secretbox::aead::Aead as _;

    use super::*;

    const KEY: [u8; 32] = [7; 32];
    /// kube-apiserver accepts a colon in a name.
    const NAME: &str = "2026-11-30T10:00";
    const ETCD_KEY: &[u8] = b"/registry/secrets/default/demo";
    const OBJECT: &[u8] = b"k8s\0the object";

    fn keys() -> LocalKeys {
        let secret = STANDARD.encode(KEY);
        let provider = |word: &str| {
            format!(
                "  - {word}:\n      keys:\n      - name: '2026'\n        secret: AA==\n      - name: \
                 '{NAME}'\n        secret: |\n          {secret}\n"
            )
        };
        let text = format!(
            "kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n{}{}{}  \
             - identity: {{}}\n",
            provider("aescbc"),
            provider("aesgcm"),
            provider("secretbox"),
        );
        LocalKeys::parse(&text).unwrap()
    }

    fn sealed(cipher: LocalCipher) -> Vec<u8> {
        let content = match cipher {
            LocalCipher::AesCbc => {
                let key = UnboundCipherKey::new(&AES_256, &KEY).unwrap();
                let key = PaddedBlockEncryptingKey::cbc_pkcs7(key).unwrap();
                let mut data = OBJECT.to_vec();
                let iv = EncryptionContext::Iv128(FixedLength::from(&[1; 16]));
                key.less_safe_encrypt(&mut data, iv).unwrap();
                [&[1; 16][..], &data].concat()
            }
            LocalCipher::AesGcm => {
                let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).unwrap());
                let mut data = OBJECT.to_vec();
                let nonce = Nonce::assume_unique_for_key([2; 12]);
                key.seal_in_place_append_tag(nonce, Aad::from(ETCD_KEY), &mut data)
                    .unwrap();
                [&[2; 12][..], &data].concat()
            }
            LocalCipher::Secretbox => {
                let cipher = XSalsa20Poly1305::new(&KEY.into());
                let data = cipher.encrypt(&[3; 24].into(), OBJECT).unwrap();
                [&[3; 24][..], &data].concat()
            }
        };
        [prefix(cipher, NAME).as_bytes(), &content].concat()
    }

    const CIPHERS: [LocalCipher; 3] = [
        LocalCipher::AesCbc,
        LocalCipher::AesGcm,
        LocalCipher::Secretbox,
    ];

    #[test]
    fn values_of_every_cipher_open() {
        let keys = keys();
        for cipher in CIPHERS {
            let value = sealed(cipher);
            let opened = keys.open(ETCD_KEY, &value);
            assert_eq!(opened.unwrap().as_slice(), OBJECT, "{cipher:?}");
            let other = [prefix(cipher, "other").as_bytes(), b"x"].concat();
            assert!(keys.has(&value) && !keys.has(&other));
            for length in 0..value.len() {
                let cut = keys.open(ETCD_KEY, &value[..length]);
                assert!(cut.is_none(), "{cipher:?} {length}");
            }
        }
        let other = b"/registry/secrets/default/other";
        let moved = keys.open(other, &sealed(LocalCipher::AesGcm));
        assert!(moved.is_none());
    }

    #[test]
    fn a_malformed_file_has_no_keys() {
        for text in [
            "[",
            "",
            "kind: Config",
            "resources: []",
            "kind: EncryptionConfiguration\nresources: 1",
            "kind: EncryptionConfiguration\nresources: [{providers: [{aescbc: {keys: [{name: a, secret: '-'}]}}]}]",
        ] {
            assert!(LocalKeys::parse(text).is_none(), "{text}");
        }
    }
}
