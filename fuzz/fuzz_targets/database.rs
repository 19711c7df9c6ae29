//! A bbolt database around pages of 1024 bytes.

/// Puts two meta pages before the pages, the first of which is the root. A mutated meta page has a
/// wrong checksum and would fail early, so the meta pages are always valid.
pub fn around(pages: &[u8]) -> Vec<u8> {
    let mut content = pages.to_vec();
    content.resize(pages.len().div_ceil(1024) * 1024, 0);
    let count = 2 + content.len() as u64 / 1024;
    let mut meta = Vec::new();
    for word in [0xED0C_DAED_u32, 2, 1024, 0] {
        meta.extend(word.to_le_bytes());
    }
    for word in [2, 0, u64::MAX, count, 1] {
        meta.extend(u64::to_le_bytes(word));
    }
    let checksum = meta.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    meta.extend(checksum.to_le_bytes());
    let mut database = vec![0; 2048];
    for at in [16, 1024 + 16] {
        database[at..at + 64].copy_from_slice(&meta);
    }
    database.extend(content);
    database
}
