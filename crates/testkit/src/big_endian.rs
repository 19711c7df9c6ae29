//! Converts an etcd snapshot to the form written by a big-endian machine such as s390x.

#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "an invalid file fails the test"
)]

use aws_lc_rs::digest::{SHA256, digest};

const HEADER: usize = 16;
const ELEMENT: usize = 16;
const META: usize = 64;
const HASH: usize = 32;

/// The same content with the byte order of every bbolt integer reversed. Meta pages, all pages in
/// use and the trailing SHA-256 are rewritten; free pages are unchanged.
///
/// # Panics
/// When the file is an invalid little-endian database. The trailing SHA-256 is optional.
#[must_use]
pub fn big_endian(snapshot: &[u8]) -> Vec<u8> {
    let has_hash = snapshot.len() % 512 == HASH;
    let hash = if has_hash { HASH } else { 0 };
    let mut file = snapshot[..snapshot.len() - hash].to_vec();
    let size = u32_at(&file, HEADER + 8);
    let metas = [0, size];

    let newest = metas.into_iter().max_by_key(|at| u64_at(&file, at + 64));
    let root = u64_at(&file, newest.unwrap() + HEADER + 16);

    for at in metas {
        swap_header(&mut file[at..]);
        swap_meta(&mut file[at + HEADER..][..META]);
    }
    swap_tree(&mut file, size, root);

    if has_hash {
        let hash = digest(&SHA256, &file);
        file.extend(hash.as_ref());
    }
    file
}

fn swap_meta(meta: &mut [u8]) {
    for word in 0..4 {
        meta[word * 4..][..4].reverse();
    }
    for word in 2..8 {
        meta[word * 8..][..8].reverse();
    }
    let sum = meta[..META - 8]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    meta[META - 8..].copy_from_slice(&sum.to_be_bytes());
}

/// Converts a page and all pages and buckets below it.
fn swap_tree(file: &mut Vec<u8>, size: usize, page: u64) {
    let at = usize::try_from(page).unwrap() * size;
    let pages = u32_at(file, at + 12) + 1;
    let mut bytes = file[at..at + pages * size].to_vec();
    for below in swap_page(&mut bytes) {
        swap_tree(file, size, below);
    }
    file[at..at + bytes.len()].copy_from_slice(&bytes);
}

/// Converts one page and returns its child pages.
fn swap_page(page: &mut [u8]) -> Vec<u64> {
    let is_branch = page[8] == 1;
    let count = usize::from(page[10]) | usize::from(page[11]) << 8;
    let mut below = Vec::new();
    for at in (0..count).map(|index| HEADER + index * ELEMENT) {
        if is_branch {
            below.push(u64_at(page, at + 8));
            for (start, length) in [(0, 4), (4, 4), (8, 8)] {
                page[at + start..][..length].reverse();
            }
            continue;
        }
        let [flags, position, key, value] = [0, 4, 8, 12].map(|word| u32_at(page, at + word));
        let bucket = &mut page[at + position + key..][..value];
        if flags == 1 {
            let root = u64_at(bucket, 0);
            bucket[..8].reverse();
            bucket[8..16].reverse();
            match root {
                0 => below.extend(swap_page(&mut bucket[16..])),
                root => below.push(root),
            }
        }
        for word in 0..4 {
            page[at + word * 4..][..4].reverse();
        }
    }
    swap_header(page);
    below
}

fn swap_header(page: &mut [u8]) {
    for (start, length) in [(0, 8), (8, 2), (10, 2), (12, 4)] {
        page[start..][..length].reverse();
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let word = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    usize::try_from(word).unwrap()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
