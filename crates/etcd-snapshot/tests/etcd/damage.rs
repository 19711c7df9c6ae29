//! A damaged copy of a real snapshot gives an error, never another result.

use std::{fs, path::Path};

use etcd_snapshot::{damage::SnapshotError, file::Integrity};
use tempfile::TempDir;
use testkit::{
    big_endian::big_endian,
    etcd::{Etcd, utl},
};

use crate::reading::read;

const PAGE: usize = 4096;

/// A database of several levels without free pages, and the same with its hash.
async fn small() -> (Vec<u8>, Vec<u8>) {
    let directory = TempDir::new().unwrap();
    let snapshot = directory.path().join("snapshot");
    let etcd = Etcd::start().await;
    for batch in 0..6 {
        let operations: Vec<_> = (0..60)
            .map(|key| {
                format!(
                    "put /registry/secrets/default/{key} \"{}\"",
                    "z".repeat(batch * 60 + key)
                )
            })
            .collect();
        etcd.transaction(&operations);
    }
    etcd.put("/large", &[b'y'; 10_000]);
    let _said = etcd.ctl(&["compact", "4"]);
    etcd.save_snapshot(&snapshot);
    let stopped = etcd.stop().await;
    let data = stopped.database();
    let data = data.ancestors().nth(3).and_then(Path::to_str);
    let _said = utl(&["defrag", "--data-dir", data.unwrap()]);
    (
        fs::read(stopped.database()).unwrap(),
        fs::read(snapshot).unwrap(),
    )
}

#[tokio::test]
async fn no_damaged_copy_gives_another_answer() {
    let (raw, saved) = small().await;
    let good = read(&saved[..]).unwrap();

    for boundary in (0..saved.len()).step_by(PAGE) {
        for length in [boundary, boundary + 32, boundary + 512, boundary + 1] {
            let Some(cut) = saved.get(..length).filter(|cut| cut.len() < saved.len()) else {
                continue;
            };
            let read = read(cut);
            if length == saved.len() - 32 {
                assert_eq!(read.unwrap().integrity, Integrity::NoHash);
            } else {
                assert!(read.is_err(), "cut to {length}");
            }
        }
    }

    let mut copy = saved.clone();
    for at in (0..saved.len()).step_by(13) {
        copy[at] ^= 1 << (at % 8);
        assert!(read(&copy[..]).is_err(), "byte {at}");
        copy[at] = saved[at];
    }
    assert_eq!(read(&copy[..]).unwrap(), good);

    // Without a hash, the structure must reveal every change outside keys and values.
    let good = read(&raw[..]).unwrap();
    let mut copy = raw.clone();
    for at in structure(&raw) {
        for bit in 0..8 {
            copy[at] ^= 1 << bit;
            match read(&copy[..]) {
                Ok(reading) => assert!(reading == good, "byte {at}, bit {bit}"),
                Err(SnapshotError::Unreadable { .. }) => panic!("byte {at}, bit {bit}"),
                Err(_) => {}
            }
            copy[at] = raw[at];
        }
    }
}

#[tokio::test]
async fn a_snapshot_of_a_big_endian_machine_gives_the_same_answer() {
    let (raw, saved) = small().await;
    for file in [raw, saved] {
        let swapped = big_endian(&file);
        assert_ne!(swapped, file);
        assert_eq!(read(&swapped[..]).unwrap(), read(&file[..]).unwrap());
        let mut damaged = swapped.clone();
        // Changes the first element of every page: its position in a leaf, its key size in a
        // branch.
        for page in (2..swapped.len() / PAGE).map(|page| page * PAGE) {
            damaged[page + 16 + 7] ^= 1;
        }
        let error = read(&damaged[..]).unwrap_err();
        assert!(error.is_damage(), "{error}");
    }
}

/// Positions of page headers, element tables and meta pages.
fn structure(database: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut page = 0;
    while let Some(header) = database.get(page * PAGE..page * PAGE + 16) {
        let count = usize::from(u16::from_le_bytes([header[10], header[11]]));
        let overflow = u32::from_le_bytes(header[12..16].try_into().unwrap());
        let size = match header[8] {
            1 | 2 => 16 + 16 * count,
            4 => 80,
            _ => 0,
        };
        found.extend(page * PAGE..page * PAGE + size);
        page += 1 + usize::try_from(overflow).unwrap();
    }
    assert!(found.len() > 3000, "{}", found.len());
    found
}
