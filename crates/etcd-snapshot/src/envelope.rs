//! The message in a value of a KMS v2 plugin.
//! Implements `docs/format/etcd-snapshot.md` section 6.

use crate::protobuf::{Fields, Malformed};

/// A message within the limits of Kubernetes. No part of it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The object, encrypted with a key from the DEK source.
    pub encrypted_data: &'a [u8],
    /// The `key_id` from the plugin.
    pub key_id: &'a str,
    /// The ciphertext from the plugin.
    pub encrypted_dek_source: &'a [u8],
    /// The annotations from the plugin, ascending and without duplicate keys.
    pub annotations: Vec<(&'a str, &'a [u8])>,
    /// Type of the decrypted DEK source.
    pub dek_source_type: DekSourceType,
}

/// Derivation of an object's key from the DEK source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DekSourceType {
    /// The DEK source is the key. Written up to Kubernetes 1.28.
    AesGcmKey,
    /// The DEK source is a seed; each object has its own derived key.
    HkdfSeed,
}

/// Reason for refusal by the API server. The API server never writes such a message, so it is
/// damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes are not a message.
    #[error("the KMS v2 message is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A part is missing.
    #[error("the KMS v2 message has no {0}")]
    Missing(Part),
    /// A part is too large.
    #[error("the {part} of the KMS v2 message has {bytes} bytes, more than {limit}")]
    TooLarge {
        /// The part.
        part: Part,
        /// Its size in bytes.
        bytes: usize,
        /// Its maximum size in bytes.
        limit: usize,
    },
    /// An annotation key is not a domain name.
    #[error("an annotation of the KMS v2 message has no domain name for its key")]
    AnnotationKey,
    /// The DEK source type is unknown.
    #[error("the KMS v2 message has the unknown DEK source type {0}")]
    DekSourceType(u64),
}

/// A part of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Field 1.
    EncryptedData,
    /// Field 2.
    KeyId,
    /// Field 3.
    EncryptedDekSource,
    /// Field 4.
    Annotations,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::EncryptedData => "encrypted data",
            Self::KeyId => "key_id",
            Self::EncryptedDekSource => "encrypted DEK source",
            Self::Annotations => "annotations",
        })
    }
}

const MAX_KEY_ID: usize = 1024;
const MAX_DEK_SOURCE: usize = 1024;
const MAX_ANNOTATIONS: usize = 32_768;

impl<'a> Envelope<'a> {
    /// Parses the message of [`Protection::KmsV2`](crate::value::Protection::KmsV2).
    ///
    /// # Errors
    /// Every message refused by the API server.
    pub fn parse(message: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut envelope = Self {
            encrypted_data: b"",
            key_id: "",
            encrypted_dek_source: b"",
            annotations: Vec::new(),
            dek_source_type: DekSourceType::AesGcmKey,
        };

        // The default value of an absent field is 0.
        let mut dek_source_type = 0;
        for field in Fields(message) {
            let field = field?;
            match field.number {
                1 => envelope.encrypted_data = field.bytes()?,
                2 => envelope.key_id = field.text()?,
                3 => envelope.encrypted_dek_source = field.bytes()?,
                4 => envelope.annotations.push(annotation(field.bytes()?)?),
                5 => dek_source_type = field.varint()?,
                _ => {}
            }
        }

        envelope.dek_source_type = match dek_source_type {
            0 => DekSourceType::AesGcmKey,
            1 => DekSourceType::HkdfSeed,
            other => return Err(EnvelopeError::DekSourceType(other)),
        };

        keep_the_last_of_each_key(&mut envelope.annotations);
        envelope.check()?;

        Ok(envelope)
    }

    fn check(&self) -> Result<(), EnvelopeError> {
        let annotations = self.annotations.iter().fold(0_usize, |sum, (key, value)| {
            sum.saturating_add(key.len()).saturating_add(value.len())
        });

        for (part, bytes, limit) in [
            (Part::EncryptedData, self.encrypted_data.len(), usize::MAX),
            (Part::KeyId, self.key_id.len(), MAX_KEY_ID),
            (
                Part::EncryptedDekSource,
                self.encrypted_dek_source.len(),
                MAX_DEK_SOURCE,
            ),
            (Part::Annotations, annotations, MAX_ANNOTATIONS),
        ] {
            if bytes == 0 && part != Part::Annotations {
                return Err(EnvelopeError::Missing(part));
            }
            if bytes > limit {
                return Err(EnvelopeError::TooLarge { part, bytes, limit });
            }
        }

        match self.annotations.iter().all(|(key, _)| is_domain_name(key)) {
            true => Ok(()),
            false => Err(EnvelopeError::AnnotationKey),
        }
    }
}

/// Parses a map entry: a message with an optional key and an optional value.
fn annotation(entry: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let (mut key, mut value) = ("", &b""[..]);
    for field in Fields(entry) {
        let field = field?;
        match field.number {
            1 => key = field.text()?,
            2 => value = field.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

fn keep_the_last_of_each_key(annotations: &mut Vec<(&str, &[u8])>) {
    // The sort is stable, so the last of equal keys is the first after the reversal.
    annotations.reverse();
    annotations.sort_by_key(|(key, _)| *key);
    annotations.dedup_by_key(|(key, _)| *key);
}

/// The domain name rule of Kubernetes: at least two labels, with an optional trailing dot.
fn is_domain_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &[u8]| {
        let inner = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        (1..=63).contains(&label.len())
            && label.iter().all(inner)
            && label.first() != Some(&b'-')
            && label.last() != Some(&b'-')
    };
    // Compares bytes for speed: this runs for every annotation of every object.
    let mut labels = name.as_bytes().split(|byte| *byte == b'.');
    name.len() <= 253 && name.contains('.') && labels.all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let length = u16::try_from(content.len()).unwrap();
        // A varint of three bytes for every length.
        let groups = [length & 127 | 128, length >> 7 & 127 | 128, length >> 14];
        bytes.extend(groups.map(|group| u8::try_from(group).unwrap()));
        [&bytes, content].concat()
    }

    fn annotated(key: &str, value: &[u8]) -> Vec<u8> {
        field(4, &[field(1, key.as_bytes()), field(2, value)].concat())
    }

    fn least() -> Vec<u8> {
        [field(1, b"data"), field(2, b"key-1"), field(3, b"dek")].concat()
    }

    #[test]
    fn fields_stand_in_any_order_and_the_last_counts() {
        let message = [
            &b"\x28\x00"[..],
            &annotated("b.example", b"first"),
            &annotated("a.example", b""),
            &field(2, b"old"),
            &b"\x30\x07\x3d...."[..],
            &least(),
            &annotated("b.example", b"last"),
            &b"\x28\x01"[..],
        ]
        .concat();
        let expected = Envelope {
            encrypted_data: b"data",
            key_id: "key-1",
            encrypted_dek_source: b"dek",
            annotations: vec![("a.example", b""), ("b.example", b"last")],
            dek_source_type: DekSourceType::HkdfSeed,
        };
        assert_eq!(Envelope::parse(&message), Ok(expected));
        let least = least();
        let type_of_the_least = Envelope::parse(&least).unwrap().dek_source_type;
        assert_eq!(type_of_the_least, DekSourceType::AesGcmKey);
    }

    #[test]
    fn what_the_api_server_refuses_is_refused() {
        let with = |more: &[u8]| [&least(), more].concat();
        let large = |part, bytes, limit| EnvelopeError::TooLarge { part, bytes, limit };
        for (message, error) in [
            (vec![], EnvelopeError::Missing(Part::EncryptedData)),
            (
                with(&field(1, b"")),
                EnvelopeError::Missing(Part::EncryptedData),
            ),
            (with(&field(2, b"")), EnvelopeError::Missing(Part::KeyId)),
            (
                with(&field(3, b"")),
                EnvelopeError::Missing(Part::EncryptedDekSource),
            ),
            (
                with(&field(2, &[b'a'; 1025])),
                large(Part::KeyId, 1025, 1024),
            ),
            (
                with(&field(3, &[0; 1025])),
                large(Part::EncryptedDekSource, 1025, 1024),
            ),
            (
                with(&annotated("a.b", &[0; 32_766])),
                large(Part::Annotations, 32_769, 32_768),
            ),
            (with(b"\x28\x02"), EnvelopeError::DekSourceType(2)),
            (
                with(&field(2, b"\xff")),
                EnvelopeError::Malformed(Malformed::NotUtf8 { number: 2 }),
            ),
            (
                with(b"\x10\x01"),
                EnvelopeError::Malformed(Malformed::WireType { number: 2 }),
            ),
            (
                with(b"\x0a\x05"),
                EnvelopeError::Malformed(Malformed::CutOff),
            ),
        ] {
            assert_eq!(Envelope::parse(&message), Err(error));
        }
        for limit in [
            field(2, &[b'a'; 1024]),
            field(3, &[0; 1024]),
            annotated("a.b", &[0; 32_765]),
        ] {
            assert!(Envelope::parse(&with(&limit)).is_ok());
        }
    }

    #[test]
    fn annotation_keys_are_domain_names() {
        let long = format!("{}.b", "a".repeat(63));
        for (key, good) in [
            ("a.b", true),
            ("a-1.example.org", true),
            ("a.b.", true),
            (&long, true),
            (&format!("a{long}"), false),
            ("", false),
            ("ab", false),
            ("a..b", false),
            ("A.b", false),
            ("-a.b", false),
            ("a-.b", false),
            (&["a"; 127].join("."), true),
            (&["a"; 128].join("."), false),
        ] {
            let message = [least(), annotated(key, b"")].concat();
            assert_eq!(Envelope::parse(&message).is_ok(), good, "{key}");
        }
    }
}
