//! Landlock sandbox: restricts the running daemon to the files and ports of its configuration.
//!
//! Rules apply to directories, because a rule on a file would not cover its replacement. A rule is
//! bound to the inode of the directory. It is therefore placed on a directory that survives
//! credential renewals, see `stable_directory`.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};

use openbao_client::login::oauth2::system_ca_file;

use super::Outcome;
use crate::config::{Config, JwtSource, Method};

/// The newest tested ABI. Later ones restrict more operations, perhaps too many.
const TRIED: ABI = ABI::V7;

/// Directories of the C library's modules for name resolution.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
const DNS_PORT: u16 = 53;

/// Files and ports the daemon may access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Directories readable with all their descendants.
    read: Vec<PathBuf>,
    /// Directory of the state files, with write access.
    state: PathBuf,
    /// Directory of the socket.
    socket: PathBuf,
    /// TCP ports to listen on; 0 is any free one.
    listen: Vec<u16>,
    /// TCP ports to connect to, on every host.
    connect: Vec<u16>,
}

impl Sandbox {
    /// The sandbox for this configuration; `None` for a login whose files or ports the
    /// configuration does not list completely.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let issuers: Vec<_> = config
            .auth
            .methods()
            .filter_map(|method| match method {
                Method::Jwt(jwt) => match &jwt.source {
                    // A connection to a Unix socket with a path needs no right on that path.
                    JwtSource::File(_) | JwtSource::Spiffe(_) => None,
                    JwtSource::OAuth2(oauth2) => Some(oauth2),
                },
                // The module of a token runs outside, in the helper.
                Method::Cert(_) | Method::AppRole(_) | Method::Userpass(_) | Method::Token(_) => {
                    None
                }
            })
            .collect();
        let credentials = config.auth.credential_files().into_iter();
        let credentials = credentials.map(|(_, path)| path.to_owned());
        let system_ca = issuers.iter().find(|issuer| issuer.ca_cert_file.is_none());
        let system_ca = system_ca.and_then(|_| system_ca_file());
        // For the metrics of this process. The kernel may recreate the directory of one process at
        // any time, so the rule is on `/proc`. Protected entries of other processes stay
        // inaccessible, because Landlock also denies tracing them.
        let processes = PathBuf::from("/proc");
        let mut read: Vec<_> = [config.openbao.ca_cert_file.clone()]
            .into_iter()
            .chain(credentials)
            .chain(system_ca)
            .map(|path| stable_directory(&path))
            .chain([processes])
            .collect();

        let failover = config.openbao.failover.iter().map(|place| &place.address);
        let addresses: Vec<_> = [&config.openbao.address]
            .into_iter()
            .chain(failover)
            .chain(issuers.iter().map(|issuer| issuer.token_url.address()))
            .collect();

        let mut connect: Vec<_> = addresses.iter().map(|address| address.port()).collect();
        connect.sort_unstable();
        connect.dedup();
        let named = addresses.iter().any(|address| address.ip().is_none());
        let listeners = [&config.server.metrics, &config.server.health];
        let listeners = || listeners.into_iter().flatten();
        if named || listeners().any(|listener| listener.has_name()) {
            // Resolver files are replaced at run time: a rule on a single file would end with that
            // file.
            read.push("/etc".into());
            read.extend(LIBRARIES.map(PathBuf::from));
            let resolver = fs::canonicalize("/etc/resolv.conf");
            read.extend(resolver.ok().as_deref().map(directory));
            connect.push(DNS_PORT);
        }
        Some(Self {
            read,
            state: config.state_path.directory().to_owned(),
            socket: directory(&config.server.socket_path),
            listen: listeners().map(|listener| listener.port()).collect(),
            connect,
        })
    }

    /// Permanently restricts the calling thread, and threads it starts later, to the sandbox, as
    /// far as the kernel supports it.
    ///
    /// # Errors
    /// The kernel supports Landlock but rejects these rules.
    fn restrict_thread(&self) -> Result<RestrictionStatus, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let replace = read
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::RemoveFile;
        let socket = read | AccessFs::MakeSock | AccessFs::RemoveFile;

        let beneath = |path: &Path, access: BitFlags<AccessFs>| {
            // A path absent now stays outside the sandbox, even if it is created later.
            let directory = PathFd::new(path).ok()?;
            Some(Ok::<_, RulesetError>(PathBeneath::new(directory, access)))
        };
        let files = self.read.iter().filter_map(|path| beneath(path, read));
        let own = [beneath(&self.state, replace), beneath(&self.socket, socket)];
        let ports = |ports: &[u16], access: AccessNet| {
            let rule = move |port: &u16| Ok::<_, RulesetError>(NetPort::new(*port, access));
            ports.iter().map(rule).collect::<Vec<_>>()
        };

        Ruleset::default()
            .handle_access(AccessFs::from_all(TRIED))?
            .handle_access(AccessNet::from_all(TRIED))?
            .scope(Scope::from_all(TRIED))?
            .create()?
            .add_rules(files)?
            .add_rules(own.into_iter().flatten())?
            .add_rules(ports(&self.listen, AccessNet::BindTcp))?
            .add_rules(ports(&self.connect, AccessNet::ConnectTcp))?
            .restrict_self()
    }
}

/// Restricts the calling thread, so far the only one of the daemon, and returns the level of
/// enforcement.
pub(super) fn enforce_on_process(sandbox: Option<&Sandbox>) -> Outcome {
    let rules = sandbox.iter().flat_map(|sandbox| &sandbox.read);
    // Inodes are read now, while every path still is the one the rule is made from.
    let readable = rules.filter_map(|path| inode(path)).collect();
    let outcome = enforce(sandbox);
    if matches!(outcome, Outcome::Enforced | Outcome::Partial(_)) {
        // The process is restricted only once.
        READABLE.set(readable).ok();
    }
    outcome
}

/// Restricts the calling thread and returns the level of enforcement.
fn enforce(sandbox: Option<&Sandbox>) -> Outcome {
    let Some(sandbox) = sandbox else {
        return Outcome::Refused(
            "this login needs files and connections outside of the configuration".to_owned(),
        );
    };
    match sandbox.restrict_thread() {
        Ok(restricted) => judge(&restricted.ruleset, restricted.landlock),
        Err(error) => Outcome::Refused(format!(
            "the kernel refused the rules: {}",
            crate::error_chain::one_line(&error)
        )),
    }
}

/// The expected outcome of a start with this configuration on this kernel, tested on a temporary
/// thread.
#[must_use]
pub fn trial(config: &Config) -> Outcome {
    let sandbox = Sandbox::of(config);
    std::thread::spawn(move || enforce(sandbox.as_ref()))
        .join()
        .unwrap_or_else(|_| Outcome::Refused("the trial failed".to_owned()))
}

fn judge(ruleset: &RulesetStatus, kernel: LandlockStatus) -> Outcome {
    match (ruleset, kernel) {
        (RulesetStatus::FullyEnforced, _) => Outcome::Enforced,
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Outcome::Partial(format!(
                "the kernel has Landlock {effective_abi:?}, without some rules of {TRIED:?}"
            ))
        }
        (_, LandlockStatus::NotEnabled) => Outcome::Refused(
            "Landlock is not enabled: add landlock to the kernel's lsm= parameter".to_owned(),
        ),
        _ => Outcome::Refused("the kernel has no Landlock; Linux 5.13 introduced it".to_owned()),
    }
}

fn directory(of: &Path) -> PathBuf {
    of.parent().unwrap_or(Path::new("/")).to_owned()
}

/// The directory for a rule that keeps `file` readable after renewals:
///
/// - the directory with a link to its sibling, if the path leads through such a link: the kubelet
///   renews its volumes by pointing `..data` to another sibling directory;
/// - the parent of the file's directory, if it has no other entry: an agent may then recreate its
///   directory, and no other file becomes readable;
/// - otherwise the file's directory.
///
/// Directories shared by many programs never get a whole rule for this purpose.
fn stable_directory(file: &Path) -> PathBuf {
    let own = directory(file);
    let mut reached = PathBuf::new();
    for component in own.components() {
        let next = reached.join(component);
        if fs::read_link(&next).is_ok_and(|target| is_neighbour(&target))
            && let Ok(holder) = fs::canonicalize(&reached)
            && !is_shared(&holder)
        {
            return holder;
        }
        reached = next;
    }

    let resolved = fs::canonicalize(&own).unwrap_or_else(|_| own.clone());
    match resolved.parent() {
        Some(parent) if !is_shared(parent) && holds_only(parent, &resolved) => parent.to_owned(),
        _ => own,
    }
}

/// Whether the target of a link is an entry of the link's own directory.
fn is_neighbour(target: &Path) -> bool {
    let mut components = target.components();
    matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none()
}

/// Whether the directory is a system directory with files of many programs.
fn is_shared(directory: &Path) -> bool {
    const SHARED: [&str; 9] = [
        "/run/user",
        "/run/secrets",
        "/usr/lib",
        "/usr/local",
        "/var/cache",
        "/var/lib",
        "/var/log",
        "/var/run",
        "/var/tmp",
    ];
    // The root and its direct entries: `/etc`, `/run`, `/tmp`.
    directory.components().count() <= 2 || SHARED.iter().any(|it| directory == Path::new(it))
}

fn holds_only(directory: &Path, entry: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        entries
            .into_iter()
            .all(|found| found.is_ok_and(|found| found.path() == entry))
    })
}

/// Device and inode number: the identity of a directory, independent of its path.
type Inode = (u64, u64);

fn inode(path: &Path) -> Option<Inode> {
    let facts = fs::metadata(path).ok()?;
    Some((facts.dev(), facts.ino()))
}

/// Readable directories of the sandbox; set once the process is restricted.
static READABLE: OnceLock<Vec<Inode>> = OnceLock::new();

/// Whether this process is restricted and `file` now lies outside its readable directories. In this
/// case, only a restart helps. Blocks on the file system.
#[must_use]
pub fn is_outside(file: &Path) -> bool {
    READABLE
        .get()
        .is_some_and(|readable| is_outside_of(readable, file))
}

fn is_outside_of(readable: &[Inode], file: &Path) -> bool {
    // A missing file is reported as missing, wherever its directory leads.
    let Ok(directory) = fs::canonicalize(directory(file)) else {
        return false;
    };
    let mut above = directory.ancestors().filter_map(inode);
    !above.any(|inode| readable.contains(&inode))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        io::{self, ErrorKind},
        net::{TcpListener, TcpStream},
        os::{
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixDatagram, UnixListener},
        },
        sync::mpsc,
        thread,
    };

    use tempfile::{TempDir, tempdir};

    use super::*;
    use crate::config::{Environment, Flags, parse};

    /// Directories as on a node, and one outside the sandbox.
    struct Place {
        root: TempDir,
        sandbox: Sandbox,
    }

    impl Place {
        fn new() -> Self {
            let root = tempdir().unwrap();
            let directory = |name: &str| {
                let path = root.path().join(name);
                fs::create_dir(&path).unwrap();
                File::create(path.join("file")).unwrap();
                path
            };
            directory("outside");
            let sandbox = Sandbox {
                read: vec![directory("credentials"), directory("tls")],
                state: directory("state"),
                socket: directory("socket"),
                listen: vec![0],
                connect: Vec::new(),
            };
            Self { root, sandbox }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        /// Runs `work` on a thread inside the sandbox.
        fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
            thread::scope(|scope| {
                let restricted = scope.spawn(|| {
                    let outcome = enforce(Some(&self.sandbox));
                    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
                    work()
                });
                restricted.join().unwrap()
            })
        }
    }

    #[track_caller]
    fn assert_denied<T>(tried: io::Result<T>) {
        assert_eq!(
            tried.err().map(|error| error.kind()),
            Some(ErrorKind::PermissionDenied)
        );
    }

    fn append(path: PathBuf) -> io::Result<File> {
        OpenOptions::new().append(true).open(path)
    }

    #[test]
    fn credentials_are_read_also_when_renamed_into_place_and_nothing_outside_is() {
        let place = Place::new();
        let credential = place.path("credentials/file");
        let (renew, renewals) = mpsc::channel::<()>();
        let (renewed, done) = mpsc::channel();
        thread::scope(|scope| {
            // The renewing process is unrestricted.
            let (place, credential) = (&place, &credential);
            scope.spawn(move || {
                renewals.iter().for_each(|()| {
                    let new = place.path("credentials/new");
                    fs::copy(place.path("outside/file"), &new).unwrap();
                    rustix::fs::rename(new, credential).unwrap();
                    renewed.send(()).unwrap();
                });
            });
            place.within(move || {
                File::open(credential).unwrap();
                renew.send(()).unwrap();
                done.recv().unwrap();
                File::open(credential).unwrap();
                assert_denied(append(credential.clone()));
                assert_denied(File::create(place.path("tls/new")));
                assert_denied(File::open(place.path("outside/file")));
                assert_denied(File::open("/etc/passwd"));
            });
        });
    }

    #[test]
    fn the_state_can_be_replaced_and_the_socket_bound_and_removed() {
        let place = Place::new();
        place.within(|| {
            let (new, file) = (place.path("state/new"), place.path("state/file"));
            File::create(&new).unwrap();
            rustix::fs::rename(&new, &file).unwrap();
            File::open(&file).unwrap();
            append(file).unwrap().set_len(0).unwrap();
            fs::read_dir(place.path("state")).unwrap();

            let socket = place.path("socket/kms.sock");
            drop(UnixListener::bind(&socket).unwrap());
            fs::remove_file(&socket).unwrap();
            assert_denied(UnixListener::bind(place.path("state/kms.sock")));
            assert_denied(File::create(place.path("socket/new")));
            assert_denied(fs::create_dir(place.path("state/sub")));
            assert_denied(fs::remove_file(place.path("outside/file")));
        });
    }

    #[test]
    fn only_its_own_ports_are_open() {
        let mut place = Place::new();
        let [own, other] = [(), ()].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let [own, other] = [&own, &other].map(|it| it.local_addr().unwrap());
        place.sandbox.connect = vec![own.port()];
        place.sandbox.listen = vec![other.port()];
        place.within(|| {
            TcpStream::connect(own).unwrap();
            assert_denied(TcpStream::connect(other));
            assert_denied(TcpListener::bind(own));
            let taken = TcpListener::bind(other).err().unwrap();
            assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        });
    }

    #[test]
    fn a_manager_on_an_abstract_socket_is_told_if_it_was_connected_before() {
        let name = format!("bao-kms-provider-sandbox-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let place = Place::new();
        let before = UnixDatagram::unbound().unwrap();
        before.connect_addr(&address).unwrap();
        place.within(|| {
            before.send(b"READY=1").unwrap();
            assert_denied(UnixDatagram::unbound().unwrap().connect_addr(&address));
        });
        assert_eq!(manager.recv(&mut [0; 16]).unwrap(), 7);
    }

    fn boundary_of(change: impl FnOnce(String) -> String) -> Option<Sandbox> {
        boundary_of_file("minimal", change)
    }

    fn boundary_of_file(name: &str, change: impl FnOnce(String) -> String) -> Option<Sandbox> {
        let path = format!("../provider/tests/config/good/{name}.yaml");
        let text = change(fs::read_to_string(&path).unwrap());
        let loaded = parse(
            &text,
            path.into(),
            &Flags::default(),
            &Environment::default(),
        );
        Sandbox::of(&loaded.unwrap().config)
    }

    /// A file in newly created nested directories.
    fn file_below(root: &Path, path: &str) -> PathBuf {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        File::create(&file).unwrap();
        file
    }

    #[test]
    fn the_rule_is_on_a_directory_that_a_renewal_leaves_in_place() {
        let root = tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let link = |target: &str, path: &str| {
            std::os::unix::fs::symlink(target, root.join(path)).unwrap();
        };
        file_below(&root, "volume/..first/sub/jwt");
        file_below(&root, "agent/own/jwt");
        file_below(&root, "mixed/own/jwt");
        file_below(&root, "mixed/other");
        link("..first", "volume/..data");
        link("../agent", "mixed/elsewhere");
        for (file, directory) in [
            ("volume/..data/jwt", "volume"),
            ("volume/..data/sub/jwt", "volume"),
            ("agent/own/jwt", "agent"),
            ("mixed/own/jwt", "mixed/own"),
            ("mixed/elsewhere/own/jwt", "agent"),
        ] {
            let found = stable_directory(&root.join(file));
            assert_eq!(found, root.join(directory), "{file}");
        }
        for shared in ["/", "/etc", "/run", "/var/lib", "/tmp"] {
            assert!(is_shared(Path::new(shared)), "{shared}");
        }
        assert!(!is_shared(Path::new("/run/agent")));
        assert!(!is_shared(Path::new("/var/lib/openbao-kms")));
    }

    #[test]
    fn a_directory_made_anew_is_outside_and_one_below_a_rule_is_not() {
        let root = tempdir().unwrap();
        let [inner, outer] = ["own/jwt", "other/jwt"].map(|path| file_below(root.path(), path));
        let rule = |path: &Path| vec![inode(path).unwrap()];
        let own = rule(inner.parent().unwrap());
        let all = rule(root.path());
        assert!(!is_outside_of(&own, &inner));
        assert!(is_outside_of(&own, &outer));
        rustix::fs::rename(root.path().join("own"), root.path().join("aside")).unwrap();
        assert!(!is_outside_of(&own, &inner), "missing, not outside");
        file_below(root.path(), "own/jwt");
        assert!(is_outside_of(&own, &inner));
        assert!(!is_outside_of(&all, &inner));
        assert!(!is_outside(&inner), "this process is not restricted");
    }

    #[test]
    fn an_address_needs_no_resolver_and_a_name_does() {
        let etc = Path::new("/etc");
        let name = boundary_of(|text| text).unwrap();
        assert!(name.read.iter().any(|path| path == etc));
        assert!(name.connect.contains(&DNS_PORT));

        let address =
            boundary_of(|text| text.replace("https://vault-a.harbor.test", "https://10.0.0.1"));
        let address = address.unwrap();
        assert!(!address.read.iter().any(|path| path == etc));
        assert_eq!(address.connect.len(), 1);
        assert_eq!(address.listen, [8081, 8082]);
    }

    #[test]
    fn every_address_of_openbao_can_be_connected_to() {
        let sandbox = boundary_of(|text| {
            let first = "https://vault-a.harbor.test:8200";
            let both =
                "https://10.0.0.1:8200\n  failoverAddresses:\n  - address: https://10.0.0.2:8300";
            text.replace(first, both)
        });
        let addresses = sandbox.unwrap();
        assert_eq!(addresses.connect, [8200, 8300]);
        let name = boundary_of(|text| {
            let first = "https://vault-a.harbor.test:8200";
            let both =
                "https://10.0.0.1:8200\n  failoverAddresses:\n  - address: https://b.test:8200";
            text.replace(first, both)
        });
        assert_eq!(name.unwrap().connect, [8200, DNS_PORT]);
    }

    #[test]
    fn an_oauth_issuer_can_be_reached_and_the_files_of_its_client_read() {
        let sandbox = boundary_of_file("oauth2", |text| {
            let text = text.replace("https://vault-a.harbor.test:8200", "https://10.0.0.1:8200");
            text.replace("https://id.harbor.test/", "https://10.0.0.2:8443/")
        });
        let sandbox = sandbox.unwrap();
        assert_eq!(sandbox.connect, [8200, 8443]);
        for directory in [
            "/var/lib/openbao-kms/credentials",
            "/etc/openbao-kms/issuer",
        ] {
            assert!(sandbox.read.iter().any(|path| path == Path::new(directory)));
        }
        let name = boundary_of_file("oauth2", |text| {
            text.replace("https://vault-a.harbor.test:8200", "https://10.0.0.1:8200")
        });
        assert_eq!(name.unwrap().connect, [443, 8200, DNS_PORT]);
    }

    #[test]
    fn a_kernel_without_landlock_is_told_apart_from_one_that_has_it_switched_off() {
        let none = RulesetStatus::NotEnforced;
        for (kernel, said) in [
            (LandlockStatus::NotImplemented, "the kernel has no Landlock"),
            (LandlockStatus::NotEnabled, "lsm="),
        ] {
            let outcome = judge(&none, kernel);
            assert!(matches!(&outcome, Outcome::Refused(reason) if reason.contains(said)));
        }
        let old = LandlockStatus::Available {
            effective_abi: ABI::V2,
            kernel_abi: None,
        };
        let outcome = judge(&RulesetStatus::PartiallyEnforced, old);
        assert!(matches!(&outcome, Outcome::Partial(reason) if reason.contains("V2")));
    }
}
