//! Inputs of a drill: unseal shares, the key of a seal, and the OpenBao snapshot.

use std::{fs, io, ops::RangeInclusive, os::unix::fs::OpenOptionsExt as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kms_domain::recovery::record::FileInfo;
use openbao_client::credential_file::{self, CredentialFileRules};
use openbao_lab::server::{UnsealKey, restore::StaticSeal};
use zeroize::Zeroizing;

use super::{
    age::Made,
    failure::{DrillError, ShareProblem},
};
use crate::recovery::{
    Stamp,
    backup_record::note_while_copied,
    open,
    raft_snapshot::{self, RaftSnapshotError},
};

/// Group read access is allowed, because service managers pass credentials in this way.
const SHARE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o137,
    max_size: 4096,
};

/// Size of a share in OpenBao: a key of AES-256, plus one byte if it was split.
const SHARE_BYTES: RangeInclusive<usize> = 32..=33;

/// Decoded size of a share in bytes. Tries hexadecimal, then Base64, as OpenBao does.
fn length(share: &str) -> Option<usize> {
    let digits = share.len();
    if digits.is_multiple_of(2) && share.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(digits / 2);
    }
    let decoded = STANDARD.decode(share).map(Zeroizing::new).ok()?;
    Some(decoded.len())
}

/// Reads a file with a single share.
pub(super) fn share(file: &Path) -> Result<UnsealKey, DrillError> {
    let read = || {
        let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let content = credential_file::read(&path, SHARE_RULES)?;
        let text = content.trim_ascii();
        let text = std::str::from_utf8(text)
            .ok()
            .filter(|text| length(text).is_some_and(|length| SHARE_BYTES.contains(&length)))
            .ok_or(ShareProblem::NotAShare)?;
        Ok(UnsealKey::new(Zeroizing::new(text.to_owned())))
    };
    read().map_err(|problem| DrillError::Share {
        path: file.to_owned(),
        problem,
    })
}

/// Requires the key file of a seal to be as private as a share. The copy itself reads the key.
pub(super) fn checked(seal: StaticSeal) -> Result<StaticSeal, DrillError> {
    let file = seal.key_file;
    let key_file = std::path::absolute(&file).unwrap_or_else(|_| file.clone());
    match credential_file::read(&key_file, SHARE_RULES) {
        Ok(_key) => Ok(StaticSeal { key_file, ..seal }),
        Err(problem) => Err(DrillError::Share {
            path: file,
            problem: problem.into(),
        }),
    }
}

/// A raft snapshot in the private directory.
pub(super) struct Copied {
    pub(super) file: FileInfo,
    /// Creation time from the snapshot, otherwise from the original file.
    pub(super) made: Option<Made>,
    /// Result of verifying its hashes.
    pub(super) inspected: Result<(), RaftSnapshotError>,
}

/// Copies a file, readable for this user only. Hash and inspection are those of the copy.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<Copied> {
    let mut from = open(from)?;
    let opened = Stamp::of(&from)?;
    let mut to = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;

    let file = note_while_copied(&mut from, &mut to)?;
    let inspected = raft_snapshot::inspect(&to);
    let inspected = raft_snapshot::require_unchanged(&from, opened).and(inspected);
    let created = inspected.as_ref().ok().and_then(|it| it.created);
    Ok(Copied {
        file,
        made: Made::by_archive(created).or_else(|| Made::by_file(&from)),
        inspected: inspected.map(|_| ()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_openbao_can_decode() {
        for (share, bytes) in [
            ("00".repeat(33), Some(33)),
            (STANDARD.encode([7; 33]), Some(33)),
            (STANDARD.encode([7; 32]), Some(32)),
            // Missing padding, the URL alphabet, an odd digit count, a non-hexadecimal letter.
            (
                STANDARD.encode([7; 32]).trim_end_matches('=').to_owned(),
                None,
            ),
            ("-_".repeat(22), None),
            ("0".repeat(65), None),
            ("not a share".to_owned(), None),
        ] {
            assert_eq!(length(&share), bytes, "{share}");
        }
        for (bytes, is_share) in [
            (20, false),
            (31, false),
            (32, true),
            (33, true),
            (34, false),
        ] {
            let share = STANDARD.encode(vec![7; bytes]);
            let is = SHARE_BYTES.contains(&length(&share).unwrap());
            assert_eq!(is, is_share, "{bytes}");
        }
    }
}
