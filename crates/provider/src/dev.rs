//! The lab: a private, real OpenBao with a complete provider setup, in one directory. For
//! evaluation and learning. Never use it for valuable keys, because its unseal key and root token
//! lie beside the data.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use kms_node::{
    clock::{Clock as _, SystemClock},
    config::{self, Environment, Flags, LoadError, Loaded},
};
use openbao_lab::{
    admin::{Admin, AdminError, login::JwtRole, transit::NewKey},
    binary::BaoBinary,
    files::create_directory,
    jwt::{JwtError, JwtIssuer},
    server::{Audit, Installation, Server, ServerError},
};
use serde_json::json;

use kms_install::{
    files::{Phase, encryption_configuration},
    policy::{UnsafePolicyPath, policy},
};

const TRANSIT_MOUNT: &str = "transit";
const KEY: &str = "kubernetes-etcd";
const JWT_MOUNT: &str = "jwt";
const ROLE: &str = "kms-node";
const POLICY: &str = "openbao-kms-lab";
const ISSUER: &str = "https://issuer.lab.invalid";
const AUDIENCE: &str = "openbao-kms-lab";
const SUBJECT: &str = "lab-node";
/// The provider's name in `EncryptionConfiguration`.
pub const PROVIDER_NAME: &str = "openbao-kms-lab";
/// Longer than any lab runs unattended.
const JWT_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A lab on disk, with its server running.
pub struct Lab {
    server: Server,
    directory: LabDirectory,
    /// The path of the provider's socket.
    pub socket: PathBuf,
    /// The provider's configuration.
    pub loaded: Loaded,
}

/// Why the lab setup failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The directory belongs to a production installation.
    #[error(
        "{} is a place for real configuration and data; a lab is for throwing away: choose a directory elsewhere with --dir",
        .0.display()
    )]
    Production(PathBuf),
    /// The directory exists and may hold valuable data.
    #[error("{} exists already and is left alone: name a new directory with --dir", .0.display())]
    Exists(PathBuf),
    /// A user other than root has no private directory for the socket.
    #[error(
        "XDG_RUNTIME_DIR is not set, so there is no private place for the socket of a user other than root; set it to a directory of your own with mode 0700, for instance with: export XDG_RUNTIME_DIR=$(mktemp -d)"
    )]
    NoRuntimeDirectory,
    /// A file or directory of the lab could not be created.
    #[error("cannot make {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The server failed to start.
    #[error("OpenBao could not be started for the lab")]
    Server(#[from] ServerError),
    /// A setup request to the server failed.
    #[error("OpenBao could not be set up for the lab")]
    Admin(#[from] AdminError),
    #[error("no JWT could be issued for the lab")]
    Jwt(#[from] JwtError),
    /// The generated configuration is invalid.
    #[error("the lab's configuration is refused")]
    Config(#[from] LoadError),
    /// The key path of the lab is invalid in a policy.
    #[error(transparent)]
    Policy(#[from] UnsafePolicyPath),
}

impl Lab {
    /// Starts a server from `bao` and sets it up, below a directory that must not exist yet. `told`
    /// receives a message for each step. `flags` replace settings of the generated configuration.
    ///
    /// # Errors
    /// [`LabError`]; all files created until then are removed.
    pub async fn set_up(
        bao: BaoBinary,
        directory: Option<PathBuf>,
        flags: &Flags,
        environment: &Environment,
        mut told: impl FnMut(fmt::Arguments<'_>),
    ) -> Result<Self, LabError> {
        let sockets = socket_root(environment)?;
        let directory = LabDirectory::create(directory, &sockets)?;
        let path = directory.path.as_path();
        let socket = directory.socket_directory.join("kms.sock");

        told(format_args!(
            "starting a private OpenBao from {}",
            bao.path().display()
        ));
        let installation = Installation::prepare(bao, &path.join("openbao"), Audit::File)?;
        let server = installation.start().await?;

        told(format_args!("initializing and unsealing it"));
        let secrets = server.initialize().await?;
        server.unseal(&secrets.unseal_key).await?;

        told(format_args!("setting up Transit, policy and JWT login"));
        make_directory(&path.join("state"), 0o750)?;
        let file = path.join("config.yaml");
        write(
            &file,
            0o640,
            configuration(&server, path, &socket).as_bytes(),
        )?;
        // The default of openbao.timeout.
        let request = Duration::from_secs(2);
        let encryption = encryption_configuration(PROVIDER_NAME, &socket, request, Phase::Writers);
        write(
            &path.join("encryption-config.yaml"),
            0o644,
            encryption.as_bytes(),
        )?;
        write(
            &path.join("root-token"),
            0o600,
            secrets.root_token.expose().as_bytes(),
        )?;
        write(
            &path.join("unseal-key"),
            0o600,
            secrets.unseal_key.expose().as_bytes(),
        )?;

        let flags = Flags {
            config: Some(file),
            ..flags.clone()
        };
        let loaded = config::load(&flags, environment)?;

        let issuer = JwtIssuer::generate()?;
        let jwt = issuer.issue(&claims())?;
        write(&path.join("identity.jwt"), 0o640, jwt.as_bytes())?;
        let policy = policy(&loaded.config, true, "the root namespace")?;
        write(&path.join("policy.hcl"), 0o644, policy.as_bytes())?;
        set_up_openbao(&server.admin(&secrets.root_token)?, &issuer, &policy).await?;

        Ok(Self {
            server,
            directory,
            socket,
            loaded,
        })
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// The address of the server, for `BAO_ADDR`.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.endpoint().address.to_string()
    }

    /// The CA of the server, for `BAO_CACERT`.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.server.ca_file()
    }

    /// Stops the server and removes the files of the lab, unless `keep` is set.
    ///
    /// # Errors
    /// The server does not stop.
    pub async fn take_down(self, keep: bool) -> Result<(), LabError> {
        let Self {
            server,
            mut directory,
            ..
        } = self;
        directory.keep = keep;
        server.stop().await?;
        Ok(())
    }
}

/// Files of the lab; removed on drop unless `keep` is set.
struct LabDirectory {
    path: PathBuf,
    /// The same directory if it may hold a socket, otherwise another one.
    socket_directory: PathBuf,
    keep: bool,
}

impl LabDirectory {
    fn create(chosen: Option<PathBuf>, sockets: &Path) -> Result<Self, LabError> {
        let own = sockets.join(format!("openbao-kms-lab-{}", std::process::id()));
        let path = match chosen {
            Some(chosen) => resolved(&chosen)?,
            None => own.clone(),
        };

        if ["/etc", "/var/lib"]
            .iter()
            .any(|production| path.starts_with(production))
        {
            return Err(LabError::Production(path));
        }

        let socket_directory = if path.starts_with(sockets) {
            path.clone()
        } else {
            own
        };

        for directory in [&path, &socket_directory] {
            if fs::symlink_metadata(directory).is_ok() {
                return Err(LabError::Exists(directory.clone()));
            }
        }

        // From here on, dropping the value removes the directories.
        let directory = Self {
            path,
            socket_directory,
            keep: false,
        };

        make_directory(&directory.path, 0o700)?;
        if directory.socket_directory != directory.path {
            make_directory(&directory.socket_directory, 0o700)?;
        }
        Ok(directory)
    }
}

impl Drop for LabDirectory {
    fn drop(&mut self) {
        // A failed removal only leaves clutter.
        if !self.keep {
            drop(fs::remove_dir_all(&self.path));
        }
        if self.socket_directory != self.path {
            drop(fs::remove_dir_all(&self.socket_directory));
        }
    }
}

/// Directory for the sockets of this user. Never the directory of an installed provider.
fn socket_root(environment: &Environment) -> Result<PathBuf, LabError> {
    match environment.effective_uid {
        0 => Ok(PathBuf::from("/run")),
        _ => environment
            .runtime_directory()
            .ok_or(LabError::NoRuntimeDirectory),
    }
}

/// The absolute path with resolved links in its existing part, to detect a link to `/etc`.
fn resolved(path: &Path) -> Result<PathBuf, LabError> {
    let failed = |source| LabError::File {
        path: path.to_owned(),
        source,
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        _ => Err(LabError::Production(absolute)),
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), LabError> {
    create_directory(path, mode).map_err(|source| LabError::File {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, mode: u32, content: &[u8]) -> Result<(), LabError> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            // The umask has cleared bits of the mode given at creation.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(content)
        })
        .map_err(|source| LabError::File {
            path: path.to_owned(),
            source,
        })
}

async fn set_up_openbao(
    admin: &Admin<'_>,
    issuer: &JwtIssuer,
    policy: &str,
) -> Result<(), AdminError> {
    admin.mount_transit(TRANSIT_MOUNT).await?;
    admin
        .create_key(TRANSIT_MOUNT, KEY, &NewKey::default())
        .await?;
    admin.write_policy(POLICY, policy).await?;
    admin
        .mount_jwt_auth(JWT_MOUNT, ISSUER, issuer.public_key_pem())
        .await?;
    let role = JwtRole {
        audience: AUDIENCE,
        subject: SUBJECT,
        policy: POLICY,
    };
    admin.write_jwt_role(JWT_MOUNT, ROLE, role).await
}

fn claims() -> serde_json::Value {
    let now = SystemClock.unix_seconds();
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": SUBJECT,
        "iat": now,
        "exp": now + JWT_LIFE.as_secs(),
    })
}

/// The provider's configuration file. Paths are quoted as JSON strings, which are valid YAML.
fn configuration(server: &Server, directory: &Path, socket: &Path) -> String {
    let quoted = |path: PathBuf| serde_json::Value::from(path.display().to_string()).to_string();
    let ca = quoted(server.ca_file());
    let jwt = quoted(directory.join("identity.jwt"));
    let state = quoted(directory.join("state/key-registry.json"));
    let socket = quoted(socket.to_owned());
    let address = server.endpoint().address;
    let gid = rustix::process::getegid().as_raw();
    format!(
        r#"# Made by `bao-kms-provider dev`. A lab: see docs/configuration.md for the real thing.
configVersion: v1alpha1
server:
  socketPath: {socket}
  socketMode: "0600"
  socketGroup: "{gid}"
  metricsAddress: "127.0.0.1:0"
  healthAddress: "127.0.0.1:0"
openbao:
  address: "{address}"
  caCertFile: {ca}
  tlsServerName: localhost
  instanceId: lab
auth:
  method: jwt
  jwt:
    source: file
    mountPath: auth/{JWT_MOUNT}
    role: {ROLE}
    jwtFile: {jwt}
    expectedIssuer: {ISSUER}
    expectedAudience: [{AUDIENCE}]
    expectedSubject: {SUBJECT}
transit:
  mountPath: {TRANSIT_MOUNT}
  keyName: {KEY}
  keyIdScope:
    providerName: {PROVIDER_NAME}
    clusterId: lab
    transitMountId: lab-transit
    keyLineageId: lab-1
status:
  probeInterval: 5s
  deepProbeInterval: 30s
  statusMaxStaleness: 30s
rotation:
  activationDelay: 10s
state:
  path: {state}
logging:
  format: text
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_never_made_among_production_files_or_over_something() {
        let sockets = tempfile::tempdir().unwrap();
        let create = |path: &Path| LabDirectory::create(Some(path.to_owned()), sockets.path());
        for path in [
            "/etc/openbao-kms-lab",
            "/var/lib/lab",
            "/var/lib/../lib/lab",
        ] {
            let refused = create(Path::new(path));
            assert!(matches!(refused, Err(LabError::Production(_))), "{path}");
        }
        let link = sockets.path().join("link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(matches!(
            create(&link.join("lab")),
            Err(LabError::Production(_))
        ));
        assert!(matches!(create(sockets.path()), Err(LabError::Exists(_))));
    }

    #[test]
    fn a_lab_goes_away_unless_it_is_kept() {
        let sockets = tempfile::tempdir().unwrap();
        let path = sockets.path().join("lab");
        let mut lab = LabDirectory::create(Some(path.clone()), sockets.path())
            .ok()
            .unwrap();
        assert!(path.is_dir());
        lab.keep = true;
        drop(lab);
        assert!(path.is_dir());
        fs::remove_dir(&path).unwrap();
        drop(LabDirectory::create(Some(path.clone()), sockets.path()));
        assert!(!path.exists());
    }
}
