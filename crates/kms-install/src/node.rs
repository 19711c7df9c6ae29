//! One node: the files, directories and accounts that it gets from an installation.
//!
//! [`plan`] lists the steps as values. [`Step::assess`] compares one with the disk, and [`Step::apply`]
//! makes it. Existing files are never overwritten: one with other content is a difference that a person
//! resolves. So a run can be repeated, and one that was interrupted continues.

pub mod accounts;
pub mod disk;
pub mod manager;
pub mod removal;
mod unit;

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kms_node::config::{self, Config, Environment, Flags, Loaded, SocketGroup};
use zeroize::Zeroizing;

use crate::{
    directory::Directory,
    files::{API_SERVER_DIRECTORY, SERVICE_DROP_IN, SOCKET_DROP_IN},
    plan::Model,
};
use accounts::Accounts;
use disk::{Entry, Kind, Root};

pub use unit::{BOOT_SERVICES, Unit};

/// The configuration file of a node.
pub const CONFIG: &str = "/etc/openbao-kms/config.yaml";
/// The manifest of the static pod on a node.
pub const MANIFEST: &str = "/etc/kubernetes/manifests/bao-kms-provider.yaml";
/// Makes the directory of the socket at each boot.
const TMPFILES: &str = "/etc/tmpfiles.d/openbao-kms-static-pod.conf";
const SOCKET_TMPFILES: &str = "/etc/tmpfiles.d/openbao-kms-socket.conf";
const PACKAGED_TMPFILES: [&str; 2] = [
    "/usr/lib/tmpfiles.d/bao-kms-provider.conf",
    "/etc/tmpfiles.d/bao-kms-provider.conf",
];
/// User and group of the provider under systemd.
pub const SERVICE: &str = "openbao-kms";
/// User and group of the static pod.
const POD: u32 = 65532;
const BASE: &str = "/var/lib/openbao-kms";
const OWN: [&str; 2] = ["/etc/openbao-kms", BASE];

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    Name(String),
    Id(u32),
}

/// Owner and group of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub user: Account,
    pub group: Account,
}

/// A step of `node prepare`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// One or two words for a table.
    pub name: &'static str,
    pub path: PathBuf,
    pub want: Want,
}

/// The result that a step is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// The packaged unit.
    Unit,
    /// User `openbao-kms`, its group, and the group of the socket.
    Accounts(accounts::Wanted),
    Directory {
        owner: Owner,
        mode: u32,
        place: Place,
    },
    File {
        owner: Owner,
        mode: u32,
        content: Content,
    },
}

/// The purpose of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Of the provider alone.
    Own,
    /// Of the state: existing files of another user are a difference, since they belong to another
    /// provider.
    State,
    /// Also of others, such as a directory of kubelet: an existing one stays as it is.
    Shared,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file of the installation, by its name there. `also` is accepted on the node as well.
    Made {
        name: &'static str,
        text: String,
        also: Option<String>,
    },
    /// Of a file that the operator has named.
    Given(Bytes),
    /// The operator puts it there.
    Awaited,
}

/// Bytes of a file, wiped after use: it may be a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(Arc<Zeroizing<Vec<u8>>>);

impl Bytes {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bytes(..)")
    }
}

/// A step compared with the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Present,
    /// The change that the step makes.
    Change(String),
    /// The difference of something that is kept.
    Differs(String),
    /// Only the operator has it.
    Awaited,
    /// Why the comparison is impossible, as a rule for lack of permission.
    Unknown(String),
}

/// Files that the operator has named.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Destination and bytes.
    files: Vec<(PathBuf, Bytes)>,
}

/// Why a file of the operator has no place.
#[derive(Debug, thiserror::Error)]
pub enum GivenError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} has the name of none of these files, of which the configuration needs each: {}",
        path.display(),
        wanted.join(", ")
    )]
    NoPlace { path: PathBuf, wanted: Vec<String> },
    #[error("{} has no place: the login of this configuration reads no file", .0.display())]
    NoneWanted(PathBuf),
    #[error("two files are given for {}", .0.display())]
    Twice(PathBuf),
}

impl Given {
    /// Reads the CA bundle and the credentials. A single credential may have any name; otherwise the
    /// name of each is that of its destination.
    ///
    /// # Errors
    /// [`GivenError`].
    pub fn read(
        config: &Config,
        ca: Option<&Path>,
        credentials: &[PathBuf],
    ) -> Result<Self, GivenError> {
        let read = |path: &Path| {
            fs::read(path)
                .map(Bytes::new)
                .map_err(|source| GivenError::Unreadable {
                    path: path.to_owned(),
                    source,
                })
        };
        let wanted = config.auth.credential_files();
        let mut files = Vec::new();
        if let Some(ca) = ca {
            files.push((config.openbao.ca_cert_file.clone(), read(ca)?));
        }
        for path in credentials {
            let place = match wanted[..] {
                [] => return Err(GivenError::NoneWanted(path.clone())),
                [(_, only)] => Some(only),
                _ => {
                    let mut wanted = wanted.iter().map(|(_, wanted)| *wanted);
                    wanted.find(|wanted| wanted.file_name() == path.file_name())
                }
            };
            let place = place.ok_or_else(|| GivenError::NoPlace {
                path: path.clone(),
                wanted: wanted
                    .iter()
                    .map(|(_, path)| path.display().to_string())
                    .collect(),
            })?;
            if files.iter().any(|(taken, _)| taken == place) {
                return Err(GivenError::Twice(place.to_owned()));
            }
            files.push((place.to_owned(), read(path)?));
        }
        Ok(Self { files })
    }

    fn content(&self, path: &Path) -> Content {
        let mut files = self.files.iter();
        match files.find(|(place, _)| place == path) {
            Some((_, bytes)) => Content::Given(bytes.clone()),
            None => Content::Awaited,
        }
    }
}

/// The steps of a node, each after those that it needs.
#[must_use]
pub fn plan(installation: &Directory, root: &Root, given: &Given) -> Vec<Step> {
    let config = &installation.loaded.config;
    let (own, socket_group) = match &installation.model {
        Model::Systemd => {
            let own = Account::Name(SERVICE.to_owned());
            let socket_group = match &config.server.socket_group {
                SocketGroup::Name(name) => Account::Name(name.clone()),
                SocketGroup::Id(gid) => Account::Id(*gid),
            };
            (own, socket_group)
        }
        Model::StaticPod { socket_gid, .. } => (Account::Id(POD), Account::Id(*socket_gid)),
    };
    let mut steps = Vec::new();
    if installation.model == Model::Systemd {
        steps.push(Step {
            name: "unit",
            path: Unit::installed_at(root),
            want: Want::Unit,
        });
        steps.push(Step {
            name: "accounts",
            path: PathBuf::from("/etc/passwd"),
            want: Want::Accounts(accounts::Wanted::new(&socket_group)),
        });
    }
    let owners = Owners { own, socket_group };
    steps.extend(directories(config, &owners));
    steps.extend(tmpfiles(config, &installation.model, &owners, root));
    steps.extend(drop_ins(installation));
    steps.extend(files(installation, &owners, given));
    steps
}

/// The accounts of an installation.
struct Owners {
    own: Account,
    socket_group: Account,
}

impl Owners {
    fn root() -> Owner {
        Owner {
            user: Account::Name("root".to_owned()),
            group: Account::Name("root".to_owned()),
        }
    }

    /// Readable for the provider, writable for root.
    fn readable(&self) -> Owner {
        Owner {
            group: self.own.clone(),
            ..Self::root()
        }
    }

    fn own(&self) -> Owner {
        Owner {
            user: self.own.clone(),
            group: self.own.clone(),
        }
    }

    fn socket(&self) -> Owner {
        Owner {
            user: self.own.clone(),
            group: self.socket_group.clone(),
        }
    }
}

/// Outer directories before inner ones.
fn directories(config: &Config, owners: &Owners) -> Vec<Step> {
    let parent = |path: &Path| path.parent().map(ToOwned::to_owned);
    let socket = parent(&config.server.socket_path);
    let state = config.state_path.directory().to_owned();
    let mut steps: Vec<Step> = Vec::new();
    let mut add = |path: PathBuf, owner: Owner, mode: u32, place: Place| {
        if !steps.iter().any(|step| step.path == path) {
            steps.push(Step {
                name: "directory",
                path,
                want: Want::Directory { owner, mode, place },
            });
        }
    };
    let place = |path: &Path| match OWN.iter().any(|own| path.starts_with(own)) {
        true => Place::Own,
        false => Place::Shared,
    };
    add(
        "/etc/openbao-kms".into(),
        owners.readable(),
        0o750,
        Place::Own,
    );
    if let Some(ca) = parent(&config.openbao.ca_cert_file) {
        let place = place(&ca);
        add(ca, Owners::root(), 0o755, place);
    }
    add(BASE.into(), owners.own(), 0o750, Place::Own);
    let credentials = config.auth.credential_files().into_iter();
    let credentials: BTreeSet<_> = credentials.filter_map(|(_, path)| parent(path)).collect();
    for directory in credentials {
        let place = place(&directory);
        add(directory, owners.readable(), 0o750, place);
    }
    add(state, owners.own(), 0o750, Place::State);
    if let Some(socket) = socket {
        add(socket, owners.socket(), 0o2750, Place::Own);
    }
    add(
        API_SERVER_DIRECTORY.into(),
        Owners::root(),
        0o755,
        Place::Own,
    );
    steps
}

/// `/run` is empty after a boot. The package makes the default directory.
fn tmpfiles(config: &Config, model: &Model, owners: &Owners, root: &Root) -> Option<Step> {
    let directory = config.server.socket_path.parent()?.display().to_string();
    let path = match model {
        Model::StaticPod { .. } => TMPFILES,
        Model::Systemd => {
            let packaged = PACKAGED_TMPFILES.iter().find(|path| {
                let text = root.text(Path::new(path)).unwrap_or_default();
                text.lines().any(|line| {
                    let mut words = line.split_whitespace();
                    words.next() == Some("d") && words.next() == Some(&*directory)
                })
            });
            if packaged.is_some() {
                return None;
            }
            SOCKET_TMPFILES
        }
    };
    let Owner { user, group } = owners.socket();
    Some(Step {
        name: "boot",
        path: path.into(),
        want: Want::File {
            owner: Owners::root(),
            mode: 0o644,
            content: Content::Made {
                name: "",
                text: format!("d {directory} 2750 {user} {group} -\n"),
                also: None,
            },
        },
    })
}

/// Of the packaged units, where `init` has made some. `systemctl enable` loads them.
fn drop_ins(installation: &Directory) -> Vec<Step> {
    let mut steps = Vec::new();
    for name in [SERVICE_DROP_IN, SOCKET_DROP_IN] {
        let text = installation.content(name);
        if text.is_empty() {
            continue;
        }
        let unit = name.trim_end_matches(".conf");
        let directory = Path::new("/etc/systemd/system").join(format!("{unit}.d"));
        steps.push(Step {
            name: "directory",
            path: directory.clone(),
            want: Want::Directory {
                owner: Owners::root(),
                mode: 0o755,
                place: Place::Own,
            },
        });
        steps.push(Step {
            name: "drop-in",
            path: directory.join("installation.conf"),
            want: Want::File {
                owner: Owners::root(),
                mode: 0o644,
                content: Content::Made {
                    name,
                    text: text.to_owned(),
                    also: None,
                },
            },
        });
    }
    steps
}

fn files(installation: &Directory, owners: &Owners, given: &Given) -> Vec<Step> {
    let config = &installation.loaded.config;
    let file = |name, path: &Path, owner, mode, content| Step {
        name,
        path: path.to_owned(),
        want: Want::File {
            owner,
            mode,
            content,
        },
    };
    let made = |name: &'static str, also: Option<&str>| Content::Made {
        name,
        text: installation.content(name).to_owned(),
        also: also.map(|name| installation.content(name).to_owned()),
    };
    let ca = &config.openbao.ca_cert_file;
    let encryption = Path::new(API_SERVER_DIRECTORY).join("encryption-config.yaml");
    let mut steps = vec![
        file(
            "configuration",
            Path::new(CONFIG),
            owners.readable(),
            0o640,
            made("config.yaml", None),
        ),
        file("CA", ca, Owners::root(), 0o644, given.content(ca)),
    ];
    for (setting, path) in config.auth.credential_files() {
        let content = given.content(path);
        // Certificates of an issuer are public, and the provider needs them closed to writers alone.
        steps.push(match setting.ends_with("caCertFile") {
            true => file("issuer's CA", path, Owners::root(), 0o644, content),
            false => file("credential", path, owners.readable(), 0o640, content),
        });
    }
    steps.push(file(
        "API server",
        &encryption,
        Owners::root(),
        0o644,
        made(
            "encryption-config-readers.yaml",
            Some("encryption-config.yaml"),
        ),
    ));
    steps
}

/// The manifest of the static pod, which starts it.
#[must_use]
pub fn manifest(installation: &Directory) -> Step {
    let name = "bao-kms-provider.yaml";
    Step {
        name: "manifest",
        path: MANIFEST.into(),
        want: Want::File {
            owner: Owners::root(),
            mode: 0o600,
            content: Content::Made {
                name,
                text: installation.content(name).to_owned(),
                also: None,
            },
        },
    }
}

/// Why a change failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot make {}", path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make the user and groups")]
    Accounts(#[source] accounts::CreateError),
    #[error("the account {0} is unknown on this node")]
    Unknown(Account),
}

impl Step {
    /// Compares the step with the disk.
    #[must_use]
    pub fn assess(&self, root: &Root, accounts: &Accounts) -> Status {
        match &self.want {
            Want::Unit => match Unit::find(root) {
                Some(_) => Status::Present,
                None => Status::Differs("the packaged unit is not installed".to_owned()),
            },
            Want::Accounts(wanted) => match wanted.missing(accounts) {
                missing if missing.is_empty() => Status::Present,
                missing => Status::Change(format!("add {}", missing.join(", "))),
            },
            Want::Directory { owner, mode, place } => {
                self.directory(root, accounts, owner, *mode, *place)
            }
            Want::File {
                owner,
                mode,
                content,
            } => self.file(root, accounts, owner, *mode, content),
        }
    }

    fn directory(
        &self,
        root: &Root,
        accounts: &Accounts,
        owner: &Owner,
        mode: u32,
        place: Place,
    ) -> Status {
        let entry = match root.look(&self.path) {
            Ok(None) => return Status::Change("make".to_owned()),
            Ok(Some(entry)) => entry,
            Err(error) => return Status::Unknown(error.to_string()),
        };
        if entry.kind != Kind::Directory {
            return Status::Differs("is not a directory".to_owned());
        }
        if place == Place::Shared {
            return Status::Present;
        }
        let Some(change) = access(&entry, owner, mode, accounts) else {
            return Status::Present;
        };
        let other_owner = owner.user.uid(accounts) != Some(entry.uid);
        if place == Place::State && other_owner && !root.is_empty(&self.path).unwrap_or(false) {
            return Status::Differs(format!(
                "has files of a provider with user {}",
                accounts.user_name(entry.uid)
            ));
        }
        Status::Change(change)
    }

    fn file(
        &self,
        root: &Root,
        accounts: &Accounts,
        owner: &Owner,
        mode: u32,
        content: &Content,
    ) -> Status {
        let entry = match root.look(&self.path) {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                return match content {
                    Content::Awaited => Status::Awaited,
                    _ => Status::Change("make".to_owned()),
                };
            }
            Err(error) => return Status::Unknown(error.to_string()),
        };
        if *content == Content::Awaited {
            // Its agent decides on owner and mode, and doctor checks both.
            return Status::Present;
        }
        if entry.kind != Kind::File {
            return Status::Differs("is not a regular file".to_owned());
        }
        let expected: &[&[u8]] = match content {
            Content::Awaited => &[],
            Content::Given(bytes) => &[bytes.0.as_slice()],
            Content::Made { text, also, .. } => {
                let also = also.as_ref().unwrap_or(text);
                &[text.as_bytes(), also.as_bytes()]
            }
        };
        match root.bytes(&self.path).map(Zeroizing::new) {
            Err(error) => return Status::Unknown(error.to_string()),
            Ok(found) if expected.contains(&found.as_slice()) => {}
            Ok(found) => return Status::Differs(content.difference(&found)),
        }
        match access(&entry, owner, mode, accounts) {
            Some(change) => Status::Change(change),
            None => Status::Present,
        }
    }

    /// Makes the step. The caller has assessed it, so only [`Status::Change`] arrives here; a file that
    /// came since then is kept.
    ///
    /// # Errors
    /// [`ApplyError`]; the disk then has the old or the new state of this step.
    pub fn apply(&self, root: &Root, accounts: &Accounts) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Disk {
            path: self.path.clone(),
            source,
        };
        match &self.want {
            Want::Unit => Ok(()),
            Want::Accounts(wanted) => wanted.create(root).map_err(ApplyError::Accounts),
            Want::Directory { owner, mode, .. } => {
                let owner = owner.numbers(accounts)?;
                root.make_directory(&self.path, owner, *mode)
                    .map_err(failed)
            }
            Want::File {
                owner,
                mode,
                content,
            } => {
                let owner = owner.numbers(accounts)?;
                let bytes = match content {
                    Content::Made { text, .. } => Some(text.as_bytes()),
                    Content::Given(bytes) => Some(bytes.0.as_slice()),
                    Content::Awaited => None,
                };
                match (bytes, root.look(&self.path).map_err(failed)?) {
                    (Some(bytes), None) => root.install(&self.path, bytes, owner, *mode),
                    _ => root.set_access(&self.path, owner, *mode),
                }
                .map_err(failed)
            }
        }
    }

    /// Owner and mode as a table shows them.
    #[must_use]
    pub fn access(&self) -> (String, String) {
        match &self.want {
            Want::Unit | Want::Accounts(_) => (String::new(), String::new()),
            Want::Directory { owner, mode, .. } | Want::File { owner, mode, .. } => {
                (owner.to_string(), format!("{mode:04o}"))
            }
        }
    }

    /// The command by which a person installs the file.
    #[must_use]
    pub fn by_hand(&self, file: &str) -> Option<String> {
        let Want::File { owner, mode, .. } = &self.want else {
            return None;
        };
        let path = kms_node::report::shell(&self.path);
        Some(format!(
            "install -m {mode:04o} -o {} -g {} {file} {path}",
            owner.user, owner.group
        ))
    }

    /// The file of the installation that this step installs.
    #[must_use]
    pub fn made_from(&self) -> Option<&'static str> {
        match &self.want {
            Want::File {
                content: Content::Made { name, .. },
                ..
            } => (!name.is_empty()).then_some(*name),
            _ => None,
        }
    }
}

/// The change of owner and mode; `None` if they are right.
fn access(entry: &Entry, owner: &Owner, mode: u32, accounts: &Accounts) -> Option<String> {
    let mut changes = Vec::new();
    let (uid, gid) = (owner.user.uid(accounts), owner.group.gid(accounts));
    if uid != Some(entry.uid) || gid != Some(entry.gid) {
        let found = format!(
            "{}:{}",
            accounts.user_name(entry.uid),
            accounts.group_name(entry.gid)
        );
        changes.push(format!("owner {found} to {owner}"));
    }
    if entry.mode != mode {
        changes.push(format!("mode {:04o} to {mode:04o}", entry.mode));
    }
    (!changes.is_empty()).then(|| changes.join(", "))
}

impl Content {
    /// The difference in a few words, without content of a credential.
    fn difference(&self, found: &[u8]) -> String {
        let Self::Made { name, text, .. } = self else {
            return "has other content than the given file".to_owned();
        };
        let found = String::from_utf8_lossy(found);
        let settings = match *name {
            "config.yaml" => settings_that_differ(text, &found),
            _ => None,
        };
        settings.unwrap_or_else(|| {
            let mut lines = text.lines().zip(found.lines());
            let line = lines.position(|(one, other)| one != other);
            let line = line.unwrap_or_else(|| text.lines().count().min(found.lines().count()));
            format!("has other content from line {} on", line + 1)
        })
    }
}

/// Names of the settings with other values.
fn settings_that_differ(made: &str, found: &str) -> Option<String> {
    let load = |text: &str| -> Option<Loaded> {
        let (flags, environment) = (Flags::default(), Environment::default());
        config::parse(text, PathBuf::new(), &flags, &environment).ok()
    };
    let (made, found) = (load(made)?, load(found)?);
    let value = |loaded: &Loaded, path: &str| {
        let mut settings = loaded.settings.iter();
        settings
            .find(|setting| setting.path == path)
            .map(|setting| setting.value.clone())
    };
    let paths = made.settings.iter().chain(&found.settings);
    let paths: BTreeSet<_> = paths.map(|setting| setting.path).collect();
    let differing = paths
        .into_iter()
        .filter(|path| value(&made, path) != value(&found, path));
    let differing: Vec<_> = differing.collect();
    Some(match differing.is_empty() {
        true => "has other comments or another form, with the same settings".to_owned(),
        false => format!("has other values of {}", differing.join(", ")),
    })
}

impl Account {
    fn uid(&self, accounts: &Accounts) -> Option<u32> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Name(name) => accounts.uid(name),
        }
    }

    fn gid(&self, accounts: &Accounts) -> Option<u32> {
        match self {
            Self::Id(id) => Some(*id),
            Self::Name(name) => accounts.gid(name),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => write!(f, "{id}"),
        }
    }
}

impl Owner {
    fn numbers(&self, accounts: &Accounts) -> Result<(u32, u32), ApplyError> {
        let unknown = |account: &Account| ApplyError::Unknown(account.clone());
        let uid = self.user.uid(accounts).ok_or_else(|| unknown(&self.user))?;
        let gid = self
            .group
            .gid(accounts)
            .ok_or_else(|| unknown(&self.group))?;
        Ok((uid, gid))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.user, self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, tests::values};

    fn config(assignments: &[&str]) -> Config {
        let mut values = values();
        for assignment in assignments {
            values.set(assignment).unwrap();
        }
        let plan = Plan::new(values, Model::Systemd, None).unwrap();
        plan.loaded.config
    }

    #[test]
    fn a_credential_goes_to_the_file_of_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            fs::File::create_new(&path).unwrap();
            path
        };
        let jwt = Given::read(&config(&[]), None, &[file("any")]).unwrap();
        let place = Path::new("/var/lib/openbao-kms/identity.jwt");
        assert_eq!(jwt.content(place), Content::Given(Bytes::new(Vec::new())));

        let cert = config(&["auth.method=cert"]);
        let pair = Given::read(&cert, None, &[file("client.key")]).unwrap();
        let place = |name| Path::new(BASE).join(name);
        assert_eq!(
            pair.content(&place("client.key")),
            Content::Given(Bytes::new(Vec::new()))
        );
        assert_eq!(pair.content(&place("client.crt")), Content::Awaited);
        let refused = Given::read(&cert, None, &[file("other")]).unwrap_err();
        assert!(refused.to_string().contains("client.crt"), "{refused}");

        let two = [file("one"), file("two")];
        let refused = Given::read(&config(&[]), None, &two).unwrap_err();
        assert!(refused.to_string().contains("identity.jwt"), "{refused}");
        let spiffe = config(&[
            "auth.jwt.spiffe.workloadAPISocket=unix:///run/spire/agent/api.sock",
            "auth.jwt.expectedSubject=spiffe://harbor.test/kms",
        ]);
        let refused = Given::read(&spiffe, None, &two[..1]).unwrap_err();
        assert!(refused.to_string().contains("reads no file"), "{refused}");
    }

    #[test]
    fn directories_of_others_are_shared() {
        let config = config(&[
            "auth.method=cert",
            "auth.cert.certificateFile=/var/lib/kubelet/pki/kubelet-client-current.pem",
            "auth.cert.keyFile=/var/lib/kubelet/pki/kubelet-client-current.pem",
            "openbao.caCertFile=/etc/ssl/certs/ca.pem",
        ]);
        let owners = Owners {
            own: Account::Id(1),
            socket_group: Account::Id(2),
        };
        let steps = directories(&config, &owners);
        let shared = steps.iter().filter(|step| {
            matches!(
                step.want,
                Want::Directory {
                    place: Place::Shared,
                    ..
                }
            )
        });
        let shared: Vec<_> = shared.map(|step| step.path.display().to_string()).collect();
        assert_eq!(shared, ["/etc/ssl/certs", "/var/lib/kubelet/pki"]);
    }

    #[test]
    fn a_difference_names_settings_or_a_line_and_nothing_of_a_credential() {
        let made = |name, text: &str| Content::Made {
            name,
            text: text.to_owned(),
            also: None,
        };
        let lines = made("x", "a\nb\n").difference(b"a\nc\n");
        assert_eq!(lines, "has other content from line 2 on");
        let longer = made("x", "a\n").difference(b"a\nb\n");
        assert_eq!(longer, "has other content from line 2 on");
        let secret = Content::Given(Bytes::new(b"hvs.secret".to_vec()));
        let shown = format!("{secret:?} {}", secret.difference(b"hvs.other"));
        assert!(!shown.contains("hvs"), "{shown}");
        let text = values().document().to_string();
        assert_eq!(settings_that_differ("a: 1", &text), None);
    }

    #[test]
    fn links_below_another_root_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        std::os::unix::fs::symlink("/etc", directory.path().join("etc")).unwrap();
        assert!(root.look(Path::new("/etc/passwd")).is_err());
        let link = root.look(Path::new("/etc")).unwrap().unwrap();
        assert_eq!(link.kind, Kind::Other);
        assert_eq!(root.look(Path::new("/usr/lib/x")).unwrap(), None);
    }

    #[test]
    fn a_service_outside_the_order_of_the_unit_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        let write = |path: &str, text: &str| {
            let path = root.of(Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut file = fs::File::create_new(path).unwrap();
            io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        assert_eq!(Unit::find(&root), None);
        write(
            "/usr/lib/systemd/system/bao-kms-provider.service",
            "[Unit]\nBefore=kubelet.service\n",
        );
        let named = || Unit::find(&root).unwrap().starts_after(&root);
        write("/usr/lib/systemd/system/kubelet.service", "");
        assert_eq!(named(), None);
        write("/etc/systemd/system/k3s.service", "");
        assert_eq!(named(), Some("k3s.service"));
        write(
            "/etc/systemd/system/bao-kms-provider.service.d/order.conf",
            "[Unit]\nBefore=k3s.service\n",
        );
        assert_eq!(named(), None);
    }
}
