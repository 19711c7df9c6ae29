//! Group names in the local group file.
//!
//! Read directly: the system's lookup may ask a directory service over the network, and the
//! provider must start without one. A group that only such a service knows is given by number.

use std::{fs, io, path::Path};

/// The local group file.
pub(super) const FILE: &str = "/etc/group";

/// Why a group name has no number.
#[derive(Debug, thiserror::Error)]
pub enum GroupProblem {
    /// The group file cannot be read.
    #[error("cannot read /etc/group to find the group {name:?}")]
    Unreadable {
        /// The name looked for.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// No such line.
    #[error(
        "no group {name:?} in /etc/group; create it with \"groupadd --system\", or give the number \
         of a group that only a directory service knows"
    )]
    Unknown {
        /// The name looked for.
        name: String,
    },
}

/// The number of a group.
///
/// # Errors
/// When the file cannot be read or has no such group.
pub(super) fn find(file: &Path, name: &str) -> Result<u32, GroupProblem> {
    let bytes = fs::read(file).map_err(|source| GroupProblem::Unreadable {
        name: name.to_owned(),
        source,
    })?;
    String::from_utf8_lossy(&bytes)
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next() == Some(name);
            let number = fields.nth(1)?;
            found.then(|| number.parse().ok()).flatten()
        })
        .ok_or_else(|| GroupProblem::Unknown {
            name: name.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"root:x:0:\nkms-socket:x:990:a,b\nkms:x:991:\nbroken\nbad:x:-1:\n")
            .unwrap();
        assert_eq!(find(file.path(), "kms").unwrap(), 991);
        assert_eq!(find(file.path(), "kms-socket").unwrap(), 990);
        for absent in ["km", "broken", "bad", "a"] {
            assert!(find(file.path(), absent).is_err(), "{absent:?}");
        }
    }
}
