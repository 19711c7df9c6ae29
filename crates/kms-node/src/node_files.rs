//! The files and directories named in a configuration: presence, kind, and safety from other users.
//!
//! A check reports in advance; each reader repeats its own part on the descriptor it opens.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use kms_domain::digest::TextHash;
use openbao_client::{credential_file, endpoint::Roots};

use crate::{
    config::{CertSource, Config, JwtSource, Method, Problem, ProblemKind, packaged_unit},
    environment::Environment,
};

/// Write access of group and others.
const NOT_WRITABLE: u32 = 0o022;
/// All access except reading by the group.
const PRIVATE_READABLE: u32 = 0o037;
/// As above, and the execute bit of the owner.
const SECRET: u32 = 0o137;
/// All access of group and others.
const OWN: u32 = 0o077;

const MAX_BUNDLE_BYTES: u64 = 16 * 1024 * 1024;

/// The process that is about to start.
struct Start<'a> {
    environment: &'a Environment,
    /// The packaged unit with this configuration.
    unit: String,
}

/// Checks every file and directory named in `config`, and the configuration file itself. With a
/// standby identity, problems of one login count only if the other has some too.
///
/// # Errors
/// Every problem found.
pub fn check(
    config: &Config,
    config_path: &Path,
    environment: &Environment,
) -> Result<(), Vec<Problem>> {
    let server = &config.server;
    let gid = server.socket_group.gid();
    let start = Start {
        environment,
        unit: packaged_unit(config_path),
    };
    let state_directory = own_directory(config.state_path.directory(), NOT_WRITABLE, &start);
    let mut checks = vec![
        ("(configuration file)", file(config_path, PRIVATE_READABLE)),
        ("openbao.caCertFile", bundle(&config.openbao.ca_cert_file)),
        ("server.socketPath", socket(&server.socket_path, &start)),
        (
            "server.socketGroup",
            gid.map(drop)
                .map_err(|rule| problem(None, rule.to_string())),
        ),
        // The reader of the state checks the files in it.
        ("state.path", state_directory),
    ];
    // One usable login is enough to serve. Each login checks its own files again.
    let logins: Vec<_> = config.auth.methods().map(of_method).collect();
    let usable = |login: &Vec<(_, Checked)>| login.iter().all(|(_, checked)| checked.is_ok());
    if !logins.iter().any(usable) {
        checks.extend(logins.into_iter().flatten());
    }
    let problems: Vec<_> = checks
        .into_iter()
        .filter_map(|(path, checked)| {
            let path = path.to_owned();
            Some(Problem {
                path,
                ..*checked.err()?
            })
        })
        .collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems),
    }
}

fn of_method(method: &Method) -> Vec<(&'static str, Checked)> {
    match method {
        Method::Jwt(jwt) => match &jwt.source {
            JwtSource::File(path) => vec![("auth.jwt.jwtFile", file(path, PRIVATE_READABLE))],
            JwtSource::OAuth2(oauth2) => {
                let (setting, secret) = oauth2.credential.file();
                let roots = oauth2.ca_cert_file.iter();
                let roots = roots.map(|path| ("auth.jwt.oauth2.caCertFile", bundle(path)));
                [(setting, file(secret, SECRET))]
                    .into_iter()
                    .chain(roots)
                    .collect()
            }
            // The agent may start later, and its socket belongs to another user.
            JwtSource::Spiffe(spiffe) => vec![(
                "auth.jwt.spiffe.workloadAPISocket",
                socket_or_absent(&spiffe.workload_api_socket),
            )],
        },
        Method::Cert(cert) => match &cert.source {
            CertSource::File(files) if files.certificate == files.key => {
                vec![("auth.cert.keyFile", behind_link(&files.key, SECRET))]
            }
            CertSource::File(files) => vec![
                (
                    "auth.cert.certificateFile",
                    behind_link(&files.certificate, NOT_WRITABLE),
                ),
                ("auth.cert.keyFile", behind_link(&files.key, SECRET)),
            ],
            CertSource::Pkcs11(token) => vec![
                (
                    "auth.cert.pkcs11.certificateFile",
                    file(&token.certificate_file, PRIVATE_READABLE),
                ),
                (
                    "auth.cert.pkcs11.pinFile",
                    file(&token.pin_file, PRIVATE_READABLE),
                ),
                ("auth.cert.pkcs11.modulePath", module(&token.module_path)),
            ],
        },
        Method::AppRole(approle) => vec![(
            "auth.approle.secretIdFile",
            file(&approle.secret_id_file, SECRET),
        )],
        Method::Userpass(userpass) => vec![(
            "auth.userpass.passwordFile",
            file(&userpass.password_file, SECRET),
        )],
        Method::Token(token) => vec![("auth.token.file", file(&token.file, SECRET))],
    }
}

/// Name, or `#` and number for `sudo`, and number of the owner of the state directory, if that is a
/// user other than root and this one.
#[must_use]
pub fn foreign_state(config: &Config, user: u32) -> Option<(String, u32)> {
    let owner = fs::metadata(config.state_path.directory()).ok()?.uid();
    let foreign = owner != 0 && owner != user;
    let name = || user_name(owner).unwrap_or_else(|| format!("#{owner}"));
    foreign.then(|| (name(), owner))
}

/// As in the local file of users.
fn user_name(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// A difference of the socket or its directory from the configuration, beyond the rules of a start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Drift {
    #[error("the socket has mode {found:04o}, and server.socketMode is {expected:04o}")]
    Mode { found: u32, expected: u32 },
    #[error("the socket belongs to group {found}, and server.socketGroup is group {expected}")]
    Group { found: u32, expected: u32 },
    /// The group of the socket cannot reach it.
    #[error(
        "the directory of the socket has mode {mode:04o} and group {group}, so group {expected} of \
         server.socketGroup has no access"
    )]
    Directory {
        mode: u32,
        group: u32,
        expected: u32,
    },
    /// Other users can replace the socket.
    #[error(
        "the directory of the socket has mode {mode:04o}, so other users can replace the socket"
    )]
    Shared { mode: u32 },
}

impl Drift {
    /// The bounded word for log, metrics and reports.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Mode { .. } => "mode",
            Self::Group { .. } => "group",
            Self::Directory { .. } => "directory",
            Self::Shared { .. } => "unsafe_directory",
        }
    }
}

/// Compares the socket, if it exists, and its directory with the configured mode and group.
#[must_use]
pub fn socket_drift(socket: &Path, mode: u32, gid: u32) -> Vec<Drift> {
    let mut drift = Vec::new();
    if let Ok(found) = fs::symlink_metadata(socket) {
        let (found_mode, expected) = (found.mode() & 0o7777, mode);
        if found_mode != expected {
            let found = found_mode;
            drift.push(Drift::Mode { found, expected });
        }
        let (found, expected) = (found.gid(), gid);
        if found != expected {
            drift.push(Drift::Group { found, expected });
        }
    }
    let directory = socket.parent().unwrap_or(Path::new("/"));
    if let Ok(found) = fs::symlink_metadata(directory) {
        let (found_mode, group) = (found.mode() & 0o7777, found.gid());
        let enters = match group == gid {
            true => found_mode & 0o010 != 0,
            false => found_mode & 0o001 != 0,
        };
        // A socket for its owner alone needs no access of its group.
        if mode & 0o060 != 0 && !enters {
            drift.push(Drift::Directory {
                mode: found_mode,
                group,
                expected: gid,
            });
        }
        if found_mode & NOT_WRITABLE != 0 {
            drift.push(Drift::Shared { mode: found_mode });
        }
    }
    drift
}

type Checked<T = ()> = Result<T, Box<Problem>>;

/// A problem whose setting the caller adds.
fn problem(file: Option<&Path>, rule: impl Into<String>) -> Box<Problem> {
    Box::new(Problem {
        path: String::new(),
        kind: ProblemKind::File,
        origin: None,
        value: file.map(|file| file.display().to_string()),
        rule: rule.into(),
        hint: None,
    })
}

fn refused<T>(file: &Path, rule: impl Into<String>, hint: impl Into<String>) -> Checked<T> {
    let mut problem = problem(Some(file), rule);
    problem.hint = Some(hint.into());
    Err(problem)
}

fn failed(path: &Path, action: &str) -> impl FnOnce(io::Error) -> Box<Problem> {
    move |error| problem(Some(path), format!("cannot be {action}: {error}"))
}

fn file(path: &Path, mask: u32) -> Checked {
    regular(path, mask).map(drop)
}

/// A regular file, or a symbolic link to one in the same directory, as kubelet keeps for its
/// certificate.
fn behind_link(path: &Path, mask: u32) -> Checked {
    let metadata = fs::symlink_metadata(path).map_err(failed(path, "examined"))?;
    if !metadata.is_symlink() {
        return file(path, mask);
    }
    let target = credential_file::link_target(path);
    let target = target.map_err(|rule| problem(Some(path), rule.to_string()))?;
    file(&target, mask)
}

/// A regular file, not a symlink, without the permission bits of `mask`.
fn regular(path: &Path, mask: u32) -> Checked<Metadata> {
    let metadata = fs::symlink_metadata(path).map_err(failed(path, "examined"))?;
    if metadata.is_symlink() {
        let hint = "put the file itself there; a projected volume does not fit";
        return refused(path, "must not be a symbolic link", hint);
    }
    if !metadata.is_file() {
        return Err(problem(Some(path), "must be a regular file"));
    }
    mode(path, &metadata, mask)?;
    Ok(metadata)
}

/// A directory, not a symlink, without the permission bits of `mask`.
fn directory(path: &Path, mask: u32) -> Checked<Metadata> {
    let metadata = fs::symlink_metadata(path).map_err(failed(path, "examined"))?;
    if !metadata.is_dir() {
        let rule = "must be a directory, not a symbolic link or a file";
        return Err(problem(Some(path), rule));
    }
    mode(path, &metadata, mask)?;
    Ok(metadata)
}

fn own_directory(path: &Path, mask: u32, start: &Start<'_>) -> Checked {
    let metadata = directory(path, mask)?;
    owned(path, &metadata, start)
}

fn mode(path: &Path, metadata: &Metadata, mask: u32) -> Checked {
    let mode = metadata.mode() & 0o7777;
    if mode & mask == 0 {
        return Ok(());
    }
    let rule = format!("has mode {mode:04o}, which others could misuse");
    let allowed = mode & !mask;
    refused(
        path,
        rule,
        format!("run: chmod {allowed:04o} {}", path.display()),
    )
}

fn owned(path: &Path, metadata: &Metadata, start: &Start<'_>) -> Checked {
    let (owner, user) = (metadata.uid(), start.environment.effective_uid);
    if owner == user {
        return Ok(());
    }
    if user == 0 {
        // An administrator tried the service by hand: root's directories would stop the service.
        let rule = format!(
            "belongs to user {owner}, and this is a start as root: keep this owner if the service \
             runs as it"
        );
        return refused(path, rule, format!("run: systemctl start {}", start.unit));
    }
    let rule = format!("belongs to user {owner}, but the provider runs as user {user}");
    refused(path, rule, format!("run: chown {user} {}", path.display()))
}

fn bundle(path: &Path) -> Checked {
    let metadata = regular(path, NOT_WRITABLE)?;
    if metadata.len() > MAX_BUNDLE_BYTES {
        return Err(problem(
            Some(path),
            "is too large for a set of certificates",
        ));
    }
    let pem = fs::read(path).map_err(failed(path, "read"))?;
    let roots = Roots::from_pem(&pem);
    roots
        .map(drop)
        .map_err(|rule| problem(Some(path), rule.to_string()))
}

fn socket(path: &Path, start: &Start<'_>) -> Checked {
    let environment = start.environment;
    let parent = path.parent().unwrap_or(Path::new("/"));
    own_directory(parent, NOT_WRITABLE, start).map_err(as_packaged)?;
    // Another user with write access to a directory above could put a socket of their own there.
    let roots = environment.socket_roots();
    let root = roots.iter().find(|root| parent.starts_with(root));
    let above = parent.ancestors().skip(1);
    for directory_above in above.take_while(|it| root.is_none_or(|root| it != root)) {
        let metadata = directory(directory_above, NOT_WRITABLE)?;
        if metadata.uid() != 0 {
            owned(directory_above, &metadata, start)?;
        }
    }
    // Unlike /run, this one belongs to the user alone.
    let private = environment.runtime_directory();
    if let Some(private) = private.filter(|private| root == Some(private)) {
        own_directory(&private, OWN, start)?;
    }
    socket_or_absent(path)
}

fn socket_or_absent(path: &Path) -> Checked {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, "examined")(error)),
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => {
            let hint = "move it away, or choose another path";
            refused(path, "is taken by something that is not a socket", hint)
        }
    }
}

/// Names the mode of the packaged directory, not only the one without the unsafe bits.
fn as_packaged(mut problem: Box<Problem>) -> Box<Problem> {
    let chmod = problem
        .hint
        .as_deref()
        .is_some_and(|hint| hint.starts_with("run: chmod "));
    if let Some(directory) = problem.value.as_deref().filter(|_| chmod) {
        problem.hint = Some(format!("run: chmod 2750 {directory}"));
    }
    problem
}

/// The library runs with the rights of the provider, so only root may change it. The path may be a
/// link of root, as packages install it.
fn module(path: &Path) -> Checked {
    let link = fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink() && link.uid() == 0);
    if link && let Ok(target) = fs::canonicalize(path) {
        return module(&target);
    }
    match regular(path, NOT_WRITABLE)?.uid() {
        0 => Ok(()),
        _ => Err(problem(Some(path), "must belong to root")),
    }
}

/// Identifies one socket among those of all machines, independent of its path; `None` if the path
/// has no socket. Device and inode recur on similar machines, so the modification time in
/// nanoseconds is included.
#[must_use]
pub fn socket_mark(path: &Path) -> Option<TextHash> {
    let found = fs::metadata(path).ok()?;
    let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
    let name = format!("{} {} {seconds} {nanoseconds}", found.dev(), found.ino());
    let socket = found.file_type().is_socket();
    socket.then(|| TextHash::of(&format!("socket {name}")))
}
