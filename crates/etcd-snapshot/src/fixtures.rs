//! Handmade databases for cases beyond a real etcd. A page has 1024 bytes.

use aws_lc_rs::digest::{SHA256, digest};

use crate::{
    damage::{Damage, SnapshotError},
    file::{Snapshot, fnv1a},
    revision::{Reading, Revisions},
};

pub(crate) const PAGE: usize = 1024;
pub(crate) const ROOT: u64 = 2;

/// A leaf element: flags, key, value.
pub(crate) type Entry = (u32, Vec<u8>, Vec<u8>);

fn page(id: u64, flags: u16, table: &[[u8; 16]], content: &[u8]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend(flags.to_le_bytes());
    bytes.extend(u16::try_from(table.len()).unwrap().to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(table.concat());
    bytes.extend(content);
    let pages = bytes.len().div_ceil(PAGE);
    let overflow = u32::try_from(pages - 1).unwrap();
    bytes[12..16].copy_from_slice(&overflow.to_le_bytes());
    bytes.resize(pages * PAGE, 0);
    bytes
}

pub(crate) fn leaf(id: u64, entries: &[Entry]) -> Vec<u8> {
    let (mut table, mut content) = (Vec::new(), Vec::new());
    for (index, (flags, key, value)) in entries.iter().enumerate() {
        let pos = (entries.len() - index) * 16 + content.len();
        let sizes = [pos, key.len(), value.len()].map(|size| u32::try_from(size).unwrap());
        let words = [*flags, sizes[0], sizes[1], sizes[2]];
        table.push(words.map(u32::to_le_bytes).concat().try_into().unwrap());
        content.extend([&key[..], value].concat());
    }
    page(id, 0x02, &table, &content)
}

pub(crate) fn branch(id: u64, children: &[(Vec<u8>, u64)]) -> Vec<u8> {
    let (mut table, mut content) = (Vec::new(), Vec::new());
    for (index, (key, child)) in children.iter().enumerate() {
        let pos = (children.len() - index) * 16 + content.len();
        let sizes = [pos, key.len()].map(|size| u32::try_from(size).unwrap().to_le_bytes());
        let element = [&sizes.concat()[..], &child.to_le_bytes()].concat();
        table.push(element.try_into().unwrap());
        content.extend(key);
    }
    page(id, 0x01, &table, &content)
}

pub(crate) fn meta(page_number: u64, transaction: u64, pages: usize) -> Vec<u8> {
    let mut meta = Vec::new();
    for word in [0xED0C_DAED, 2, u32::try_from(PAGE).unwrap(), 0] {
        meta.extend(u32::to_le_bytes(word));
    }
    for word in [ROOT, 0, u64::MAX, pages.try_into().unwrap(), transaction] {
        meta.extend(u64::to_le_bytes(word));
    }
    meta.extend(fnv1a(&meta).to_le_bytes());
    let mut bytes = page_number.to_le_bytes().to_vec();
    bytes.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(meta);
    bytes.resize(PAGE, 0);
    bytes
}

/// Two meta pages followed by `pages`, the first of which is the root.
pub(crate) fn database(pages: &[Vec<u8>]) -> Vec<u8> {
    let content = pages.concat();
    let count = 2 + content.len() / PAGE;
    [meta(0, 7, count), meta(1, 6, count), content].concat()
}

/// A root page with the bucket `key` at this page and an empty bucket `meta`.
pub(crate) fn root(key_page: u64) -> Vec<u8> {
    let at = [key_page.to_le_bytes(), [0; 8]].concat();
    let meta = [&[0; 16][..], &leaf(0, &[])[..16]].concat();
    leaf(ROOT, &[(1, b"key".into(), at), (1, b"meta".into(), meta)])
}

pub(crate) fn revision(main: i64) -> Vec<u8> {
    [&main.to_be_bytes()[..], b"_", &[0; 8]].concat()
}

/// The entry of a put at revision `main`, which must be below 128.
pub(crate) fn put(main: u8, key: &[u8], value: &[u8]) -> Entry {
    let mut message = vec![0x0a, u8::try_from(key.len()).unwrap()];
    message.extend([key, &[0x10, main, 0x18, main, 0x20, 1, 0x2a]].concat());
    message.extend([
        u8::try_from(value.len() & 127).unwrap() | 128,
        u8::try_from(value.len() >> 7).unwrap(),
    ]);
    message.extend(value);
    (0, revision(main.into()), message)
}

pub(crate) fn delete(main: u8, key: &[u8]) -> Entry {
    let message = [&[0x0a, u8::try_from(key.len()).unwrap()], key].concat();
    let mut at = revision(main.into());
    at.push(b't');
    (0, at, message)
}

pub(crate) fn with_hash(mut database: Vec<u8>) -> Vec<u8> {
    let hash = digest(&SHA256, &database);
    database.extend(hash.as_ref());
    database
}

/// Key, value, revision, superseded.
pub(crate) type Found = (Vec<u8>, Vec<u8>, i64, bool);

pub(crate) fn read(file: &[u8]) -> Result<Reading<Vec<Found>>, SnapshotError> {
    let snapshot = Snapshot::open(file, &|_| {})?;
    snapshot.gather(Revisions::All, Vec::new(), |found, object| {
        found.push((
            object.key.to_vec(),
            object.value.to_vec(),
            object.revision,
            object.superseded,
        ));
    })
}

/// Page, offset and kind of the reported damage.
pub(crate) fn damage(file: &[u8]) -> (u64, u64, Damage) {
    match read(file) {
        Err(SnapshotError::Damaged {
            page,
            offset,
            damage,
        }) => (page, offset, damage),
        other => panic!("{other:?}"),
    }
}
