//! Group names in the local group file.
//!
//! Read directly: the lookup of the system may ask a directory service over the network, and the
//! provider must start without one. A group known only to such a service is given by number.

use std::{fs, io, path::Path};

const FILE: &str = "/etc/group";

#[derive(Debug, thiserror::Error)]
pub enum GroupProblem {
    #[error("cannot read /etc/group to find the group {name:?}")]
    Unreadable { name: String, source: io::Error },
    #[error(
        "no group {name:?} in /etc/group; create it with \"groupadd --system\", or give the number \
         of a group that only a directory service knows"
    )]
    Unknown { name: String },
}

/// The number of a local group.
///
/// # Errors
/// The group file is unreadable or lacks the name.
pub fn gid_of(name: &str) -> Result<u32, GroupProblem> {
    find(Path::new(FILE), name)
}

fn find(file: &Path, name: &str) -> Result<u32, GroupProblem> {
    let unreadable = |source| GroupProblem::Unreadable {
        name: name.to_owned(),
        source,
    };
    let bytes = fs::read(file).map_err(unreadable)?;
    let number = String::from_utf8_lossy(&bytes).lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let number = fields.nth(1)?;
        found.then(|| number.parse().ok()).flatten()
    });
    number.ok_or_else(|| GroupProblem::Unknown {
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
