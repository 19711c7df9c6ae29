//! User and groups of a process, read from `/proc`, and their assumption by a thread. Only a caller
//! with kube-apiserver's identity can test its permissions on the socket.

use std::{fmt, fs, io, path::Path};

use rustix::{
    fs::{Gid, Uid},
    thread,
};

/// Credentials checked by the kernel when a process connects to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups, ascending.
    pub groups: Vec<u32>,
}

/// Why an identity is unavailable.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("no process named {0} runs here: start it, or leave --as-process out")]
    NotRunning(String),
    /// Several processes have the name.
    #[error("{count} processes named {name} run here; name one of them")]
    Several {
        name: String,
        /// Number of processes found.
        count: usize,
    },
    /// A file with identities could not be read.
    #[error("cannot read {path}")]
    Unreadable {
        path: String,
        #[source]
        source: io::Error,
    },
    /// The line is missing in `/proc/<pid>/status` or has an unknown format.
    #[error("{path} has no usable {field} line")]
    Field {
        path: String,
        /// Name of the line.
        field: &'static str,
    },
    /// Only root may assume another identity.
    #[error("cannot take on {identity}: run this command as root")]
    Assume {
        identity: ProcessIdentity,
        #[source]
        source: io::Error,
    },
}

impl ProcessIdentity {
    /// The identity of this process.
    ///
    /// # Errors
    /// `/proc` is unreadable.
    pub fn own() -> Result<Self, IdentityError> {
        read(Path::new("/proc/self/status"))
    }

    /// The identity of a process started for this user by a service manager: the groups in the
    /// local user and group files. A user outside these files is that of a container: it has `gid`, and
    /// the groups `added` by the runtime.
    ///
    /// # Errors
    /// One of the files is unreadable.
    pub fn of_user(uid: u32, gid: u32, added: &[u32]) -> Result<Self, IdentityError> {
        let lines = |path: &str| {
            fs::read(path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .map_err(|source| IdentityError::Unreadable {
                    path: path.to_owned(),
                    source,
                })
        };
        let (users, groups) = (lines("/etc/passwd")?, lines("/etc/group")?);

        // name:password:uid:gid:...
        let user = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (name, number) = (fields.next()?, fields.nth(1)?);
            (number.parse() == Ok(uid)).then_some((name, fields.next()?.parse().ok()?))
        });
        let Some((name, gid)) = user else {
            let mut groups = [&[gid], added].concat();
            groups.sort_unstable();
            groups.dedup();
            return Ok(Self { uid, gid, groups });
        };

        // name:password:gid:member,member
        let member_of = groups.lines().filter_map(|line| {
            let mut fields = line.split(':').skip(2);
            let (number, members) = (fields.next()?, fields.next()?);
            let listed = members.split(',').any(|member| member == name);
            listed.then(|| number.parse().ok()).flatten()
        });
        let mut groups: Vec<u32> = member_of.chain([gid]).collect();
        groups.sort_unstable();
        groups.dedup();
        Ok(Self { uid, gid, groups })
    }

    /// The identity of the single process with this executable name.
    ///
    /// # Errors
    /// Zero or several processes have the name.
    pub fn of_process(name: &str) -> Result<Self, IdentityError> {
        let proc = |source| IdentityError::Unreadable {
            path: "/proc".to_owned(),
            source,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").map_err(proc)? {
            let directory = entry.map_err(proc)?.path();
            if is_named(&directory, name) {
                found.push(directory.join("status"));
            }
        }
        match found.as_slice() {
            [] => Err(IdentityError::NotRunning(name.to_owned())),
            [status] => read(status),
            several => Err(IdentityError::Several {
                name: name.to_owned(),
                count: several.len(),
            }),
        }
    }

    /// Permanently gives this identity to this thread and to threads it starts later.
    ///
    /// # Errors
    /// The process lacks the privilege.
    pub fn assume(&self) -> Result<(), IdentityError> {
        let groups: Vec<Gid> = self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // The user comes last: the other two calls need its privileges.
        thread::set_thread_groups(&groups)
            .and_then(|()| thread::set_thread_res_gid(gid, gid, gid))
            .and_then(|()| thread::set_thread_res_uid(uid, uid, uid))
            .map_err(|errno| IdentityError::Assume {
                identity: self.clone(),
                source: errno.into(),
            })
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        write!(
            f,
            "uid={} gid={} groups={}",
            self.uid,
            self.gid,
            groups.join(",")
        )
    }
}

/// Whether the process was started as `name`, according to the base name of its first argument.
fn is_named(directory: &Path, name: &str) -> bool {
    // The files of an ended process are gone.
    let first_argument = fs::read(directory.join("cmdline")).unwrap_or_default();
    let first_argument = first_argument
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    let base_name = first_argument
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    base_name == name.as_bytes()
}

fn read(status: &Path) -> Result<ProcessIdentity, IdentityError> {
    let path = status.display().to_string();
    let text = fs::read_to_string(status).map_err(|source| IdentityError::Unreadable {
        path: path.clone(),
        source,
    })?;

    let numbers = |field: &'static str| -> Result<Vec<u32>, IdentityError> {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|rest| {
            rest.strip_prefix(':')?
                .split_whitespace()
                .map(|number| number.parse().ok())
                .collect()
        })
        .ok_or_else(|| IdentityError::Field {
            path: path.clone(),
            field,
        })
    };

    // Real, effective, saved and file system identity, in this order.
    let effective = |field| match numbers(field)?.get(1) {
        Some(id) => Ok(*id),
        None => Err(IdentityError::Field {
            path: path.clone(),
            field,
        }),
    };

    let mut groups = numbers("Groups")?;
    groups.sort_unstable();
    Ok(ProcessIdentity {
        uid: effective("Uid")?,
        gid: effective("Gid")?,
        groups,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_identity_is_what_the_kernel_says() {
        let own = ProcessIdentity::own().unwrap();
        assert_eq!(own.uid, rustix::process::geteuid().as_raw());
        assert_eq!(own.gid, rustix::process::getegid().as_raw());
    }

    #[test]
    fn a_user_has_the_groups_of_the_local_files_or_the_given_one() {
        let root = ProcessIdentity::of_user(0, 7, &[9]).unwrap();
        assert_eq!(root.gid, 0);
        assert!(root.groups.contains(&0), "{root}");
        let unknown = ProcessIdentity::of_user(3_999_999, 7, &[9]).unwrap();
        assert_eq!(unknown.to_string(), "uid=3999999 gid=7 groups=7,9");
    }

    #[test]
    fn a_process_that_does_not_run_is_named_in_the_error() {
        let missing = ProcessIdentity::of_process("no-such-process-anywhere").unwrap_err();
        assert!(missing.to_string().contains("no-such-process-anywhere"));
    }
}
