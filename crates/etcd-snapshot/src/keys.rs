//! Which entries of a snapshot a later entry of the same key replaces.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState},
};

use crate::cache::AsIs;

/// One bit for each entry, in the order of a read. It replaces the comparison of the keys in later
/// reads of the same bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Superseded {
    words: Vec<u64>,
    entries: usize,
}

impl Superseded {
    fn push(&mut self, superseded: bool) {
        let bit = self.entries & 63;
        if bit == 0 {
            self.words.push(0);
        }
        if let Some(word) = self.words.last_mut() {
            *word |= u64::from(superseded) << bit;
        }
        self.entries = self.entries.saturating_add(1);
    }

    /// `false` for an entry that the first read did not have.
    fn get(&self, entry: usize) -> bool {
        let word = self.words.get(entry >> 6).copied().unwrap_or_default();
        word >> (entry & 63) & 1 == 1
    }
}

/// The keys of one read.
pub(crate) enum Keys<'k> {
    /// Compared with all keys before.
    Compared {
        seen: KeySet,
        superseded: Superseded,
    },
    /// Known from an earlier read.
    Known {
        superseded: &'k Superseded,
        entry: usize,
    },
}

impl<'k> Keys<'k> {
    pub(crate) fn new(known: Option<&'k Superseded>) -> Self {
        match known {
            Some(superseded) => Self::Known {
                superseded,
                entry: 0,
            },
            None => Self::Compared {
                seen: KeySet::default(),
                superseded: Superseded::default(),
            },
        }
    }

    /// Whether a later entry, which is read earlier, has the same key.
    pub(crate) fn is_superseded(&mut self, key: &[u8]) -> bool {
        match self {
            Self::Compared { seen, superseded } => {
                let is_superseded = !seen.insert(key);
                superseded.push(is_superseded);
                is_superseded
            }
            Self::Known { superseded, entry } => {
                let is_superseded = superseded.get(*entry);
                *entry = entry.saturating_add(1);
                is_superseded
            }
        }
    }

    /// The result of the comparison, for later reads.
    pub(crate) fn into_superseded(self) -> Option<Superseded> {
        match self {
            Self::Compared { superseded, .. } => Some(superseded),
            Self::Known { .. } => None,
        }
    }
}

/// Number of parts of the set. A part that grows exists twice for a moment, so parts keep the peak
/// of the memory low.
const PARTS: usize = 64;

/// The set of seen keys, as 96-bit hashes: in 100 million keys, a collision has a probability of
/// 10^-13. Each set has new secret hash seeds, so colliding keys cannot be crafted.
pub(crate) struct KeySet {
    seeds: [RandomState; 2],
    parts: Vec<HashSet<Fingerprint, BuildHasherDefault<AsIs>>>,
}

/// Three words instead of two larger ones: 12 bytes in the table instead of 16.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u32; 3]);

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [low, high, _part] = self.0;
        state.write_u64(u64::from(high) << 32 | u64::from(low));
    }
}

impl Default for KeySet {
    fn default() -> Self {
        Self {
            seeds: Default::default(),
            parts: vec![HashSet::default(); PARTS],
        }
    }
}

impl KeySet {
    /// Returns whether the key is new.
    fn insert(&mut self, key: &[u8]) -> bool {
        let [first, second] = self.seeds.each_ref().map(|seed| seed.hash_one(key));
        let low = |hash: u64| u32::try_from(hash & u64::from(u32::MAX)).unwrap_or_default();
        let fingerprint = Fingerprint([low(first), low(first >> 32), low(second)]);
        // Bits of the second hash, since the table uses the first.
        let part = usize::try_from(low(second)).unwrap_or_default() % PARTS;
        let part = self.parts.get_mut(part);
        part.is_none_or(|part| part.insert(fingerprint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_keeps_its_bit() {
        let keys: Vec<_> = (0..1_000_u32)
            .map(|number| (number % 700).to_le_bytes())
            .collect();
        let mut keys_of_one_read = Keys::new(None);
        let compared: Vec<_> = keys
            .iter()
            .map(|key| keys_of_one_read.is_superseded(key))
            .collect();
        assert_eq!(
            compared,
            (0..1_000).map(|number| number >= 700).collect::<Vec<_>>()
        );
        let superseded = keys_of_one_read.into_superseded().unwrap();
        let mut known = Keys::new(Some(&superseded));
        let again: Vec<_> = keys.iter().map(|_| known.is_superseded(b"")).collect();
        assert_eq!(again, compared);
        assert!(!known.is_superseded(b"beyond"));
        assert_eq!(known.into_superseded(), None);
    }
}
