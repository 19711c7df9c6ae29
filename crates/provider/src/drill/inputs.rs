//! What a drill is given, as far as it is read here: shares, a seal's key, the OpenBao snapshot.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use kms_domain::recovery::record::NotedFile;
use openbao_client::credential_file::{self, CredentialFileRules};
use openbao_lab::server::{UnsealKey, restore::StaticSeal};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::failure::{DrillError, ShareProblem};

/// Group members may read, since a service manager hands credentials over in that way.
const SHARE_RULES: CredentialFileRules = CredentialFileRules {
    forbidden_mode: 0o137,
    max_size: 4096,
};

/// The one share in a file.
pub(super) fn share(file: &Path) -> Result<UnsealKey, DrillError> {
    let read = || {
        let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let content = credential_file::read(&path, SHARE_RULES)?;
        let text = content.trim_ascii();
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
        let text = std::str::from_utf8(text)
            .ok()
            .filter(|text| !text.is_empty() && text.as_bytes().iter().all(known))
            .ok_or(ShareProblem::NotAShare)?;
        Ok(UnsealKey::new(Zeroizing::new(text.to_owned())))
    };
    read().map_err(|problem| DrillError::Share {
        path: file.to_owned(),
        problem,
    })
}

/// The key of a seal is read by the copy itself; it must be as private as a share.
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

/// Copies a file for this user alone; the copy is what the hash is of.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<NotedFile> {
    let mut from = File::open(from)?;
    let mut to = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0_u64;
    loop {
        let read = from.read(&mut buffer)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else {
            break;
        };
        hash.update(part);
        to.write_all(part)?;
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
    }
    Ok(NotedFile {
        sha256: hash.finalize().into(),
        bytes,
    })
}
