//! The files and directories that a configuration names: there, of the right kind, and safe from
//! other users.
//!
//! A check says what would go wrong; each reader repeats its own part on the descriptor it opens.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use openbao_client::endpoint::Roots;

use super::{
    Config, JwtSource, Method,
    origin::Environment,
    problem::{Problem, ProblemKind},
};

/// Group and others must not write.
const NOT_WRITABLE: u32 = 0o022;
/// Group may read; nothing else for group, nothing for others.
const PRIVATE_READABLE: u32 = 0o037;
/// As above, and no execute bit for the owner.
const SECRET: u32 = 0o137;

/// Larger bundles are not read.
const MAX_BUNDLE_BYTES: u64 = 16 * 1024 * 1024;

/// Checks every file and directory that `config` names and the file it was loaded from.
///
/// # Errors
/// Every problem found.
pub fn check(
    config: &Config,
    config_path: &Path,
    environment: &Environment,
) -> Result<(), Vec<Problem>> {
    let mut checks = vec![
        ("(configuration file)", file(config_path, PRIVATE_READABLE)),
        ("openbao.caCertFile", bundle(&config.openbao.ca_cert_file)),
        (
            "server.socketPath",
            socket(&config.server.socket_path, environment),
        ),
        ("server.socketGroup", group(config)),
        (
            "state.path",
            state(&config.state_path.document(), environment),
        ),
    ];
    match &config.auth.method {
        Method::Jwt(jwt) => match &jwt.source {
            JwtSource::File(path) => {
                checks.push(("auth.jwt.jwtFile", file(path, PRIVATE_READABLE)));
            }
            JwtSource::OAuth2(oauth2) => {
                checks.push((
                    "auth.jwt.oauth2.clientSecretFile",
                    file(&oauth2.client_secret_file, SECRET),
                ));
                if let Some(path) = &oauth2.ca_cert_file {
                    checks.push(("auth.jwt.oauth2.caCertFile", bundle(path)));
                }
            }
        },
        Method::Cert(cert) => {
            let token = &cert.token;
            checks.extend([
                (
                    "auth.cert.pkcs11.certificateFile",
                    file(&token.certificate_file, PRIVATE_READABLE),
                ),
                (
                    "auth.cert.pkcs11.pinFile",
                    file(&token.pin_file, PRIVATE_READABLE),
                ),
                ("auth.cert.pkcs11.modulePath", module(&token.module_path)),
            ]);
        }
    }
    let problems: Vec<_> = checks
        .into_iter()
        .filter_map(|(path, result)| Some((path, result.err()?)))
        .map(|(path, finding)| Problem {
            path: path.to_owned(),
            kind: ProblemKind::File,
            origin: None,
            value: finding.file.map(|file| file.display().to_string()),
            rule: finding.rule,
            hint: finding.hint,
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

struct Finding {
    file: Option<PathBuf>,
    rule: String,
    hint: Option<String>,
}

impl Finding {
    fn new(file: &Path, rule: impl Into<String>) -> Self {
        Self {
            file: Some(file.to_owned()),
            rule: rule.into(),
            hint: None,
        }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

fn file(path: &Path, mask: u32) -> Result<(), Finding> {
    regular(path, mask).map(drop)
}

/// A regular file, not a symlink, without the permission bits of `mask`.
fn regular(path: &Path, mask: u32) -> Result<Metadata, Finding> {
    let metadata = inspect(path)?;
    if metadata.is_symlink() {
        return Err(Finding::new(path, "must not be a symbolic link")
            .hint("put the file itself there; a projected volume does not fit"));
    }
    if !metadata.is_file() {
        return Err(Finding::new(path, "must be a regular file"));
    }
    mode(path, &metadata, mask)?;
    Ok(metadata)
}

fn directory(path: &Path, mask: u32) -> Result<Metadata, Finding> {
    let metadata = inspect(path)?;
    if !metadata.is_dir() {
        return Err(Finding::new(
            path,
            "must be a directory, not a symbolic link or a file",
        ));
    }
    mode(path, &metadata, mask)?;
    Ok(metadata)
}

fn inspect(path: &Path) -> Result<Metadata, Finding> {
    fs::symlink_metadata(path)
        .map_err(|error| Finding::new(path, format!("cannot be examined: {error}")))
}

fn mode(path: &Path, metadata: &Metadata, mask: u32) -> Result<(), Finding> {
    let mode = metadata.mode() & 0o7777;
    if mode & mask == 0 {
        return Ok(());
    }
    let allowed = mode & !mask;
    Err(Finding::new(
        path,
        format!("has mode {mode:04o}, which others could misuse"),
    )
    .hint(format!("run: chmod {allowed:04o} {}", path.display())))
}

fn owned(path: &Path, metadata: &Metadata, environment: &Environment) -> Result<(), Finding> {
    let user = environment.effective_uid;
    if metadata.uid() == user {
        return Ok(());
    }
    let rule = format!(
        "belongs to user {}, not to user {user}, who runs the provider",
        metadata.uid()
    );
    Err(Finding::new(path, rule).hint(format!("run: chown {user} {}", path.display())))
}

fn bundle(path: &Path) -> Result<(), Finding> {
    let metadata = regular(path, NOT_WRITABLE)?;
    if metadata.len() > MAX_BUNDLE_BYTES {
        return Err(Finding::new(path, "is too large for a set of certificates"));
    }
    let pem =
        fs::read(path).map_err(|error| Finding::new(path, format!("cannot be read: {error}")))?;
    Roots::from_pem(&pem)
        .map(drop)
        .map_err(|problem| Finding::new(path, problem.to_string()))
}

fn socket(path: &Path, environment: &Environment) -> Result<(), Finding> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let metadata = directory(parent, NOT_WRITABLE)?;
    owned(parent, &metadata, environment)?;
    // Another user who can replace a directory on the way could put a socket of their own there.
    let roots = environment.socket_roots();
    let root = roots.iter().find(|root| parent.starts_with(root));
    let above = parent.ancestors().skip(1);
    for directory_above in above.take_while(|it| root.is_none_or(|root| it != root)) {
        let metadata = directory(directory_above, NOT_WRITABLE)?;
        if metadata.uid() != 0 {
            owned(directory_above, &metadata, environment)?;
        }
    }
    // Unlike /run this one is nobody's but the user's, so nothing of it is open to others.
    let private = environment.runtime_directory();
    if let Some(private) = private.filter(|private| root == Some(private)) {
        let metadata = directory(&private, 0o077)?;
        owned(&private, &metadata, environment)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => Err(
            Finding::new(path, "is taken by something that is not a socket")
                .hint("move it away, or choose another path"),
        ),
        Err(error) => Err(Finding::new(path, format!("cannot be examined: {error}"))),
    }
}

fn group(config: &Config) -> Result<(), Finding> {
    config
        .server
        .socket_group
        .gid()
        .map(drop)
        .map_err(|problem| Finding {
            file: None,
            rule: problem.to_string(),
            hint: None,
        })
}

/// The directory of the state file; the state's own reader checks the files in it.
fn state(path: &Path, environment: &Environment) -> Result<(), Finding> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let metadata = directory(parent, NOT_WRITABLE)?;
    owned(parent, &metadata, environment)
}

/// The library runs inside the provider, so only root may change it.
fn module(path: &Path) -> Result<(), Finding> {
    let metadata = regular(path, NOT_WRITABLE)?;
    if metadata.uid() != 0 {
        return Err(Finding::new(path, "must belong to root"));
    }
    Ok(())
}
