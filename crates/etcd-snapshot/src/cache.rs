//! Cache of parsed KMS v2 messages. All objects written by one run of an API server under one
//! `key_id` have equal bytes after their encrypted data. These bytes are parsed once and then
//! recognised.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use crate::{envelope::Envelope, protobuf::Fields};

/// Parse results by the bytes after the encrypted data. The cache is cleared when full, so messages
/// without equal parts cannot fill the memory.
#[derive(Debug)]
pub struct EnvelopeCache<T> {
    /// By the hash of the bytes. The bytes are compared too; a collision replaces the entry.
    known: HashMap<u64, (Vec<u8>, T), BuildHasherDefault<AsIs>>,
    kept: usize,
}

/// Maximum number of cached bytes: enough for thousands of API server runs.
const ROOM: usize = 1 << 20;

impl<T> Default for EnvelopeCache<T> {
    fn default() -> Self {
        Self {
            known: HashMap::default(),
            kept: 0,
        }
    }
}

impl<T: Copy> EnvelopeCache<T> {
    /// Returns the encrypted data of the message and the result for a message with equal other
    /// bytes. [`Envelope::parse`] succeeds for such a message.
    #[must_use]
    pub fn recognise<'m>(&self, message: &'m [u8]) -> Option<(&'m [u8], T)> {
        let (data, rest) = part(message)?;
        let (known, learned) = self.known.get(&hash(rest))?;
        (known == rest).then_some((data, *learned))
    }

    /// Caches the result for a message and its parsed `envelope`. A message with another layout
    /// than that of Kubernetes is ignored.
    pub fn learn(&mut self, message: &[u8], envelope: &Envelope<'_>, learned: T) {
        let Some((data, rest)) = part(message) else {
            return;
        };
        // If the rest also had encrypted data, that later field would be the valid one.
        if !std::ptr::eq(data, envelope.encrypted_data) {
            return;
        }
        if self.kept.saturating_add(rest.len()) > ROOM {
            *self = Self::default();
        }
        self.kept = self.kept.saturating_add(rest.len());
        self.known.insert(hash(rest), (rest.to_vec(), learned));
    }
}

/// The encrypted data and the remaining bytes, if the message begins with encrypted data.
fn part(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(message);
    let field = fields.next()?.ok()?;
    let data = field.bytes().ok()?;
    (field.number == 1 && !data.is_empty()).then_some((data, fields.0))
}

/// A fast hash without collision resistance: a crafted collision only causes another parse.
fn hash(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: &[u8; 8]| {
        (hash ^ u64::from_le_bytes(*word))
            .wrapping_mul(ODD)
            .rotate_left(29)
    };

    // Four independent lanes, so that multiplications overlap.
    let (mut a, mut b, mut c) = (1, 2, 3);
    let mut d = u64::try_from(bytes.len()).unwrap_or(0);
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        if let ([first, second, third, fourth], _) = block.as_chunks::<8>() {
            a = mix(a, first);
            b = mix(b, second);
            c = mix(c, third);
            d = mix(d, fourth);
        }
    }

    let folded = [a, b, c, d]
        .iter()
        .fold(0, |hash, lane| mix(hash, &lane.to_le_bytes()));

    rest.chunks(8).fold(folded, |hash, chunk| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        mix(hash, &word)
    })
}

/// Uses an existing hash unchanged.
#[derive(Debug, Default)]
pub(crate) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[number << 3 | 2, length][..], content].concat()
    }

    fn message(data: &[u8], key_id: &str) -> Vec<u8> {
        [
            field(1, data),
            field(2, key_id.as_bytes()),
            field(3, b"vault:v1:AAAA"),
            vec![5 << 3, 1],
        ]
        .concat()
    }

    fn learned(message: &[u8]) -> EnvelopeCache<u8> {
        let mut cache = EnvelopeCache::default();
        cache.learn(message, &Envelope::parse(message).unwrap(), 7);
        cache
    }

    #[test]
    fn what_differs_in_its_data_alone_is_recognised() {
        let cache = learned(&message(b"one", "key-1"));
        let other = message(b"another", "key-1");
        assert_eq!(cache.recognise(&other), Some((&b"another"[..], 7)));
        for unknown in [
            message(b"one", "key-2"),
            message(b"", "key-1"),
            message(b"one", "key-1")[5..].to_vec(),
            b"\x08\x01".to_vec(),
            Vec::new(),
        ] {
            assert_eq!(cache.recognise(&unknown), None, "{unknown:02x?}");
        }
    }

    #[test]
    fn data_that_stands_elsewhere_too_is_not_learned() {
        let twice = [message(b"first", "key-1"), field(1, b"last")].concat();
        assert_eq!(Envelope::parse(&twice).unwrap().encrypted_data, b"last");
        assert_eq!(learned(&twice).recognise(&twice), None);
    }

    #[test]
    fn it_forgets_before_it_is_large() {
        let mut cache = EnvelopeCache::default();
        for number in 0..100_000_u32 {
            let message = message(b"data", &format!("key-{number}"));
            cache.learn(&message, &Envelope::parse(&message).unwrap(), number);
            assert_eq!(cache.recognise(&message), Some((&b"data"[..], number)));
            assert!(cache.kept <= ROOM);
        }
        assert!(cache.known.len() < 50_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_is_recognised_parses_to_the_same(
            changes in vec((any::<Index>(), any::<u8>()), 0..3),
        ) {
            let good = message(b"encrypted", "key-1");
            let cache = learned(&good);
            let mut changed = good.clone();
            for (at, byte) in changes {
                let at = at.index(changed.len());
                changed[at] = byte;
            }
            if let Some((data, _)) = cache.recognise(&changed) {
                let expected = Envelope {
                    encrypted_data: data,
                    ..Envelope::parse(&good).unwrap()
                };
                prop_assert_eq!(Envelope::parse(&changed), Ok(expected));
            }
        }
    }
}
