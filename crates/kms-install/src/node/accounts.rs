//! Users and groups of a node, in its local files.
//!
//! They are read directly, like those of the provider: a directory service may be unreachable at boot.
//! systemd-sysusers makes them by the packaged file; without it, groupadd, useradd and usermod do.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use super::{Account, SERVICE, disk::Root};

/// The local users and groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Name, number and number of the first group.
    users: Vec<(String, u32, u32)>,
    /// Name, number and members.
    groups: Vec<(String, u32, Vec<String>)>,
}

impl Accounts {
    /// Reads `/etc/passwd` and `/etc/group`; a missing file has no accounts.
    #[must_use]
    pub fn read(root: &Root) -> Self {
        let text = |path| root.text(Path::new(path)).unwrap_or_default();
        let fields = |line: &str| -> Vec<String> { line.split(':').map(str::to_owned).collect() };
        let (passwd, group) = (text("/etc/passwd"), text("/etc/group"));
        let users = passwd.lines().filter_map(|line| match &fields(line)[..] {
            [name, _, uid, gid, ..] => Some((name.clone(), uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        });
        let groups = group.lines().filter_map(|line| match &fields(line)[..] {
            [name, _, gid, members, ..] => {
                let members = members.split(',').map(str::to_owned);
                Some((name.clone(), gid.parse().ok()?, members.collect()))
            }
            _ => None,
        });
        Self {
            users: users.collect(),
            groups: groups.collect(),
        }
    }

    /// Number of a user. Root needs no entry: an image may lack the file.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u32> {
        let mut users = self.users.iter();
        let found = users.find(|(known, ..)| known == name);
        found
            .map(|(_, uid, _)| *uid)
            .or((name == "root").then_some(0))
    }

    /// Number of a group, as [`Self::uid`].
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<u32> {
        let mut groups = self.groups.iter();
        let found = groups.find(|(known, ..)| known == name);
        found
            .map(|(_, gid, _)| *gid)
            .or((name == "root").then_some(0))
    }

    /// Name of a user, or its number.
    #[must_use]
    pub fn user_name(&self, uid: u32) -> String {
        let mut users = self.users.iter();
        let found = users.find(|(_, known, _)| *known == uid);
        found.map_or_else(|| uid.to_string(), |(name, ..)| name.clone())
    }

    /// Name of a group, or its number.
    #[must_use]
    pub fn group_name(&self, gid: u32) -> String {
        let mut groups = self.groups.iter();
        let found = groups.find(|(_, known, _)| *known == gid);
        found.map_or_else(|| gid.to_string(), |(name, ..)| name.clone())
    }

    fn is_member(&self, user: &str, group: &Account) -> bool {
        let first = self.users.iter().find(|(name, ..)| name == user);
        self.groups.iter().any(|(name, gid, members)| {
            let this = match group {
                Account::Name(wanted) => name == wanted,
                Account::Id(wanted) => gid == wanted,
            };
            let in_it = members.iter().any(|member| member == user);
            this && (in_it || first.is_some_and(|(_, _, first)| first == gid))
        })
    }
}

/// The accounts of a node under systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    socket_group: Account,
}

/// Why accounts could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("cannot run {program}")]
    NotRun {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed: {message}")]
    Failed {
        program: &'static str,
        message: String,
    },
    #[error("still missing: {0}")]
    Missing(String),
}

/// One account to make.
enum Missing<'a> {
    Group(&'a str),
    User,
    Member(&'a Account),
}

impl Wanted {
    #[must_use]
    pub fn new(socket_group: &Account) -> Self {
        Self {
            socket_group: socket_group.clone(),
        }
    }

    /// The missing accounts in words.
    #[must_use]
    pub fn missing(&self, accounts: &Accounts) -> Vec<String> {
        let missing = self.find_missing(accounts).into_iter();
        let words = missing.map(|missing| match missing {
            Missing::Group(name) => format!("group {name}"),
            Missing::User => format!("user {SERVICE}"),
            Missing::Member(group) => format!("{SERVICE} to group {group}"),
        });
        words.collect()
    }

    fn find_missing(&self, accounts: &Accounts) -> Vec<Missing<'_>> {
        let mut missing = Vec::new();
        let mut groups = vec![SERVICE];
        if let Account::Name(name) = &self.socket_group {
            groups.push(name);
        }
        let absent = groups
            .into_iter()
            .filter(|name| accounts.gid(name).is_none());
        missing.extend(absent.map(Missing::Group));
        if accounts.uid(SERVICE).is_none() {
            missing.push(Missing::User);
        }
        // A group of a directory service has no entry to add a member to.
        let is_local = match &self.socket_group {
            Account::Name(_) => true,
            Account::Id(gid) => accounts.groups.iter().any(|(_, known, _)| known == gid),
        };
        if is_local && !accounts.is_member(SERVICE, &self.socket_group) {
            missing.push(Missing::Member(&self.socket_group));
        }
        missing
    }

    /// Makes the missing accounts.
    ///
    /// # Errors
    /// A program failed, or accounts are still missing.
    pub fn create(&self, root: &Root) -> Result<(), CreateError> {
        let packaged = ["/usr/lib/sysusers.d", "/etc/sysusers.d"].iter();
        let mut packaged = packaged.map(|directory| format!("{directory}/bao-kms-provider.conf"));
        let packaged = packaged.find(|path| root.text(Path::new(path)).is_ok());
        if packaged.is_some() {
            let option = format!("--root={}", root.path().display());
            match run("systemd-sysusers", &[&option, "bao-kms-provider.conf"]) {
                // Distributions without systemd.
                Err(CreateError::NotRun { .. }) => {}
                done => done?,
            }
        }
        let prefix = root.path().display().to_string();
        let prefix = match root.is_system() {
            true => vec![],
            false => vec!["--prefix", &prefix],
        };
        for missing in self.find_missing(&Accounts::read(root)) {
            let group;
            let (program, arguments) = match missing {
                Missing::Group(name) => ("groupadd", vec!["--system", name]),
                Missing::User => (
                    "useradd",
                    vec![
                        "--system",
                        "--gid",
                        SERVICE,
                        "--home-dir",
                        super::BASE,
                        "--no-create-home",
                        "--shell",
                        "/usr/sbin/nologin",
                        "--comment",
                        "OpenBao KMS provider",
                        SERVICE,
                    ],
                ),
                Missing::Member(to) => {
                    group = to.to_string();
                    ("usermod", vec!["--append", "--groups", &group, SERVICE])
                }
            };
            run(program, &[&prefix[..], &arguments].concat())?;
        }
        let missing = self.missing(&Accounts::read(root));
        match missing.is_empty() {
            true => Ok(()),
            false => Err(CreateError::Missing(missing.join(", "))),
        }
    }
}

fn run(program: &'static str, arguments: &[&str]) -> Result<(), CreateError> {
    let mut command = Command::new(program);
    let done = command.args(arguments).stdin(Stdio::null()).output();
    let done = done.map_err(|source| CreateError::NotRun { program, source })?;
    if done.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&done.stderr);
    Err(CreateError::Failed {
        program,
        message: message.lines().last().unwrap_or_default().to_owned(),
    })
}
