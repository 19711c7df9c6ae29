//! The provider on this node: its user, its socket, the lock on its state, and the running process.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kms_domain::key_id::KeyId;
use kms_node::{
    advice::{self, Values, node as causes},
    config::{Config, Environment, GroupProblem, Problem, SocketGroup},
    node_files::{self, Drift, socket_drift, socket_mark},
    probe::{KmsClient, ProbeError},
    process_identity::{IdentityError, ProcessIdentity},
    report::{CheckResult, ImpactClass, one_line, shell},
    state::{Holder, StorageFault, Trial, disk::DiskError},
    why::Why,
};
use rustix::process::Pid;
use tokio::{net::UnixStream, task, time::timeout};

use super::{
    Check,
    facts::Facts,
    running::{self, WhyError},
};

/// The checks run as the user of the provider.
pub const USER: Check = Check {
    id: "process.identity",
    title: "User of the provider",
    needs: &["config.validate"],
    evaluate: user,
};

/// The socket can be assigned to its group.
pub const GROUP: Check = Check {
    id: "socket.group",
    title: "Group of the socket",
    needs: &["config.validate"],
    evaluate: group,
};

/// Socket and directory have the configured mode and group.
pub const ACCESS: Check = Check {
    id: "socket.access",
    title: "Mode and group of socket and directory",
    needs: &[
        "config.validate",
        "config.files/server.socketPath",
        "socket.group",
    ],
    evaluate: access,
};

/// Only a provider holds the lock on the state.
pub const LOCK: Check = Check {
    id: "state.lock",
    title: "Lock on the state",
    needs: &["config.validate", "config.files/state.path"],
    evaluate: lock,
};

/// The disk of the state takes the next save.
pub const DISK: Check = Check {
    id: "state.disk",
    title: "Disk of the state",
    needs: &["config.validate", "config.files/state.path"],
    evaluate: disk,
};

/// The running provider is healthy and serves the active key of its state.
pub const LIVE: Check = Check {
    id: "kms.status",
    title: "Status of the running provider",
    needs: &["config.validate"],
    evaluate: live,
};

/// The socket for objects of vault-kubernetes-kms answers. Nothing without one.
pub const LEGACY: Check = Check {
    id: "kms.legacy_status",
    title: "Socket for vault-kubernetes-kms",
    needs: &[],
    evaluate: legacy,
};

/// A Status call takes microseconds; the limit allows for an overloaded machine.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// Time limit of a trial write; the same as that of the daemon for a save.
const DISK_DEADLINE: Duration = Duration::from_secs(5);

/// Facts about the machine.
pub struct Node {
    pub(crate) user: Result<User, IdentityError>,
    /// Problems with the files and directories in the configuration.
    pub files: Result<(), Vec<Problem>>,
    group: Result<u32, GroupProblem>,
    /// Differences of the sockets from the configuration, each with its path.
    drift: Vec<(PathBuf, Drift)>,
    pub(crate) lock: io::Result<Option<Holder>>,
    /// A trial write beside the state; `None` if the disk does not answer.
    disk: Option<Option<Trial>>,
    pub(crate) live: Live,
    /// The socket for objects of vault-kubernetes-kms; `None` without one, or if no provider is
    /// running.
    legacy: Option<Live>,
    /// View of the running provider; `None` if none is running.
    pub(crate) why: Option<Result<Why, WhyError>>,
}

/// Users relevant to the checks.
pub(crate) struct User {
    /// User of this process.
    pub(crate) own: ProcessIdentity,
    /// Owner of the state directory, and therefore user of the provider.
    pub(crate) provider: u32,
    /// Files needed by the provider but unreadable for this user.
    unreadable: Vec<PathBuf>,
}

/// State of the socket.
pub(crate) enum Live {
    /// No socket exists.
    Absent,
    /// A socket without a listener.
    Dead,
    /// Connecting to the socket failed.
    Closed(io::Error),
    /// The Status call failed or reports an unhealthy provider.
    Failed(ProbeError),
    /// Healthy, with the `key_id` of its Status.
    Healthy(KeyId),
}

/// Switches from root to the owner of the state directory, so that files are opened with the
/// permissions of the provider. Other users remain unchanged.
///
/// # Errors
/// The groups of that user are unknown, or the switch is not permitted.
pub fn become_provider(config: &Config) -> Result<(), IdentityError> {
    let Ok(directory) = fs::metadata(config.state_path.directory()) else {
        return Ok(());
    };
    if directory.uid() == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // As the manifest of a static pod adds it.
    let added = match config.server.socket_group {
        SocketGroup::Id(gid) => vec![gid],
        SocketGroup::Name(_) => Vec::new(),
    };
    ProcessIdentity::of_user(directory.uid(), directory.gid(), &added)?.assume()
}

impl Node {
    /// Gathers the facts. `became` is the result of [`become_provider`].
    pub async fn look(
        config: &Config,
        config_path: &Path,
        environment: &Environment,
        became: Result<(), IdentityError>,
    ) -> Self {
        let user = became.and_then(|()| User::find(config, config_path));
        let provider = user
            .as_ref()
            .map_or(environment.effective_uid, |user| user.provider);
        let environment = Environment {
            effective_uid: provider,
            ..environment.clone()
        };

        let (group, server) = (config.server.socket_group.gid(), &config.server);
        let legacy = config.legacy.vault_kubernetes_kms.as_ref();
        let drift = |gid: &u32| {
            let of = |path: &PathBuf| {
                let drift = socket_drift(path, server.socket_mode.bits(), *gid);
                drift.into_iter().map(|it| (path.clone(), it)).collect()
            };
            let mut all: Vec<(PathBuf, Drift)> = of(&server.socket_path);
            // Both sockets are in one directory. Another file at the path is no socket to correct.
            let second = legacy.map(|it| &it.socket_path);
            let second = second.filter(|path| socket_mark(path).is_some());
            let mut second: Vec<_> = second.map_or(Vec::new(), of);
            second.retain(|(_, it)| matches!(it, Drift::Mode { .. } | Drift::Group { .. }));
            all.append(&mut second);
            all
        };
        let mut node = Self {
            user,
            files: node_files::check(config, config_path, &environment),
            drift: group.as_ref().map(drift).unwrap_or_default(),
            group,
            lock: Holder::of(&config.state_path.lock()),
            disk: try_disk(config).await,
            live: Live::ask(&config.server.socket_path).await,
            legacy: None,
            why: None,
        };

        if node.is_served() || matches!(node.lock, Ok(Some(_))) {
            node.why = Some(running::ask(config).await);
            if let Some(reader) = legacy {
                node.legacy = Some(Live::ask(&reader.socket_path).await);
            }
        }
        node
    }

    /// Repeats the Status call.
    pub async fn ask_again(&mut self, config: &Config) {
        self.live = Live::ask(&config.server.socket_path).await;
    }

    /// Process with the lock on the state.
    #[must_use]
    pub fn provider(&self) -> Option<Pid> {
        let holder = self.lock.as_ref().ok()?.as_ref()?;
        Pid::from_raw(holder.pid.try_into().ok()?)
    }

    /// Whether this process runs as the user of the provider.
    #[must_use]
    pub fn is_own_user(&self) -> bool {
        let user = self.user.as_ref();
        user.is_ok_and(|user| user.own.uid == user.provider)
    }

    /// Whether a server responds at the socket.
    fn is_served(&self) -> bool {
        match self.live {
            Live::Healthy(_) | Live::Failed(_) => true,
            Live::Absent | Live::Dead | Live::Closed(_) => false,
        }
    }

    /// The `key_id` of a healthy provider.
    #[must_use]
    pub fn served(&self) -> Option<&KeyId> {
        match &self.live {
            Live::Healthy(key_id) => Some(key_id),
            _ => None,
        }
    }
}

/// Writes on a thread of its own, since a hanging disk never returns.
async fn try_disk(config: &Config) -> Option<Option<Trial>> {
    let path = config.state_path.clone();
    let trial = task::spawn_blocking(move || Trial::make(&path));
    timeout(DISK_DEADLINE, trial).await.ok()?.ok()
}

impl User {
    fn find(config: &Config, config_path: &Path) -> Result<Self, IdentityError> {
        let own = ProcessIdentity::own()?;
        let directory = config.state_path.directory();
        let provider = fs::metadata(directory).map_or(own.uid, |directory| directory.uid());
        let denied = |path: &&Path| {
            let opened = File::open(path);
            opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let credentials = config.auth.credential_files().into_iter();
        let state = config.state_path.document();
        let unreadable = [config_path, &config.openbao.ca_cert_file, directory, &state]
            .into_iter()
            .chain(credentials.map(|(_, file)| file))
            .filter(denied)
            .map(Path::to_owned)
            .collect();
        Ok(Self {
            own,
            provider,
            unreadable,
        })
    }
}

impl Live {
    /// Calls only Status: a check must not write through a running provider.
    async fn ask(socket: &Path) -> Self {
        match timeout(STATUS_DEADLINE, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                return match error.kind() {
                    io::ErrorKind::NotFound => Self::Absent,
                    io::ErrorKind::ConnectionRefused => Self::Dead,
                    _ => Self::Closed(error),
                };
            }
            Err(_) => return Self::Failed(ProbeError::Timeout),
        }
        let status = async { KmsClient::new(socket, STATUS_DEADLINE)?.healthy(None).await };
        match status.await {
            Ok(healthy) => Self::Healthy(healthy.key_id),
            Err(error) => Self::Failed(error),
        }
    }
}

fn user(facts: &Facts) -> Option<Vec<CheckResult>> {
    let user = match &facts.node.as_ref()?.user {
        Ok(user) => user,
        Err(error) => {
            let check = USER
                .warn(one_line(error))
                .because(facts.advise(&causes::NOT_PERMITTED, &[]))
                .impact_class(ImpactClass::Diagnosis);
            return Some(vec![check]);
        }
    };
    let User {
        own,
        provider,
        unreadable,
    } = user;

    let own_uid = own.uid;
    let list: Vec<_> = unreadable
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let list = list.join(", ");

    let check = match (own_uid == *provider, unreadable.is_empty()) {
        (true, true) => USER.pass().message(own.to_string()),
        (true, false) => {
            let files: Vec<_> = unreadable.iter().map(|path| shell(path)).collect();
            let (gid, files) = (own.gid.to_string(), files.join(" "));
            let values = [("gid", &*gid), ("files", &*files)];
            USER.fail(format!("{own} has no access to {list}"))
                .because(facts.advise(&causes::MISCONFIGURED, &values))
                .code("unreadable")
                .impact_class(ImpactClass::ApiServerAvailability)
        }
        (false, true) => USER
            .warn(format!(
                "the command runs as {own}, and the provider as user {provider}, the owner of the state"
            ))
            .because(facts.advise(&causes::NOT_PERMITTED, &[]))
            .impact_class(ImpactClass::Diagnosis),
        (false, false) => USER
            .fail(format!(
                "{own} has no access to {list}; the provider runs as user {provider}"
            ))
            .because(facts.advise(&causes::NOT_PERMITTED, &[]))
            .code("other_user")
            .impact_class(ImpactClass::Diagnosis),
    };
    Some(vec![
        check.detail("user", own_uid).detail("provider", *provider),
    ])
}

fn group(facts: &Facts) -> Option<Vec<CheckResult>> {
    let node = facts.node.as_ref()?;
    let failed = |message: String, cause, values: Values<'_>, code: &'static str| {
        GROUP
            .fail(message)
            .because(facts.advise(cause, values))
            .code(code)
            .impact_class(ImpactClass::ApiServerAvailability)
    };

    let check = match (&node.group, &node.user) {
        (Err(problem), _) => failed(
            one_line(problem),
            &causes::SOCKET_GROUP_UNUSABLE,
            &[],
            "unknown",
        ),
        (Ok(gid), Ok(User { own, provider, .. }))
            if own.uid == *provider
                && own.uid != 0
                && own.gid != *gid
                && !own.groups.contains(gid) =>
        {
            let groups = own.to_string();
            failed(
                format!("user {provider} is not in group {gid}, server.socketGroup"),
                &causes::SOCKET_GROUP_UNUSABLE,
                &[("groups", &*groups)],
                "not_a_member",
            )
        }
        (Ok(gid), _) => GROUP.pass().message(format!("gid {gid}")),
    };
    Some(vec![check])
}

fn access(facts: &Facts) -> Option<Vec<CheckResult>> {
    let drift = &facts.node.as_ref()?.drift;
    if drift.is_empty() {
        return Some(vec![ACCESS.pass()]);
    }
    let gid = facts.node.as_ref()?.group.as_ref().ok()?;
    let check = |(path, drift): &(PathBuf, Drift)| {
        let socket = shell(path);
        let directory = shell(path.parent()?);
        let fix = match drift {
            Drift::Mode { expected, .. } => format!("chmod {expected:04o} {socket}"),
            Drift::Group { .. } => format!("chgrp {gid} {socket}"),
            Drift::Directory { .. } | Drift::Shared { .. } => {
                format!("chgrp {gid} {directory} && chmod 2750 {directory}")
            }
        };
        let check = ACCESS
            .fail(format!("{}: {drift}", path.display()))
            .because(facts.advise(&causes::SOCKET_DRIFTED, &[("fix", &*fix)]))
            .detail("drift", drift.as_str());
        Some(check.impact_class(ImpactClass::ApiServerAvailability))
    };
    drift.iter().map(check).collect()
}

fn lock(facts: &Facts) -> Option<Vec<CheckResult>> {
    let path = facts.config()?.state_path.lock();
    let path = path.display();
    let check = match &facts.node.as_ref()?.lock {
        Ok(None) => LOCK
            .pass()
            .message("no process holds it: the provider is not running"),
        // The socket identifies a provider with another program name. Never advise to kill a
        // serving process.
        Ok(Some(holder)) if holder.is_provider() || facts.node.as_ref()?.is_served() => LOCK
            .pass()
            .message(format!(
                "held by process {} ({})",
                holder.pid, holder.program
            ))
            .detail("pid", holder.pid),
        Ok(Some(Holder { pid, program })) => {
            let number = pid.to_string();
            let values = [("pid", &*number)];
            LOCK.fail(format!(
                "{path} is locked by process {pid} ({program}), which is not a provider"
            ))
            .because(facts.advise(&causes::STATE_LOCKED, &values))
            .code("foreign_process")
            .impact_class(ImpactClass::ApiServerAvailability)
            .detail("pid", *pid)
        }
        Err(error) => LOCK
            .warn(format!(
                "the process that has locked {path} is unknown: {error}"
            ))
            .impact("unknown: a provider may run or not")
            .impact_class(ImpactClass::Diagnosis),
    };
    Some(vec![check])
}

fn disk(facts: &Facts) -> Option<Vec<CheckResult>> {
    let directory = facts.config()?.state_path.directory().display();
    let fail = |message: String, fault: StorageFault| {
        DISK.fail(message)
            .because(facts.advise(advice::state::of_storage(fault), &[]))
            .impact_class(ImpactClass::ApiServerAvailability)
    };
    let check = match &facts.node.as_ref()?.disk {
        None => {
            let seconds = DISK_DEADLINE.as_secs();
            let message = format!("the disk of {directory} has not answered for {seconds} s");
            fail(message, StorageFault::NoAnswer)
        }
        Some(None) => DISK.skip(format!("{directory} does not exist")),
        Some(Some(trial)) => {
            let space = trial.space.map(|space| space.to_string());
            let space = space.unwrap_or_else(|| "unknown free space".to_owned());
            let check = match (&trial.written, trial.fault()) {
                (Err(DiskError::Unsafe { .. }), Some(fault)) => {
                    fail(format!("the file system of {directory} has {space}"), fault)
                }
                (Err(error), Some(fault)) => fail(one_line(error), fault),
                (Err(error), None) => DISK.skip(one_line(error)),
                (Ok(()), _) => DISK
                    .pass()
                    .message(format!("a test file was written and removed; {space}")),
            };
            match trial.space {
                Some(space) => check
                    .detail("freeBytes", space.free_bytes)
                    .detail("freeInodes", space.free_inodes),
                None => check,
            }
        }
    };
    Some(vec![check])
}

fn legacy(facts: &Facts) -> Option<Vec<CheckResult>> {
    let reader = facts
        .config()
        .and_then(|it| it.legacy.vault_kubernetes_kms.as_ref());
    let Some(reader) = reader else {
        return Some(Vec::new());
    };
    let socket = reader.socket_path.display();
    let fail = |message: String, cause, code: &'static str| {
        LEGACY
            .fail(message)
            .because(facts.advise(cause, &[]))
            .code(code)
            .impact_class(ImpactClass::ApiServerAvailability)
    };
    let check = match &facts.node.as_ref()?.legacy {
        None => LEGACY.skip("the provider is not running"),
        Some(Live::Healthy(_)) => LEGACY.pass().message(format!("serves {socket}")),
        Some(Live::Absent | Live::Dead) => fail(
            format!("no process serves {socket}"),
            &causes::LEGACY_SOCKET_UNUSABLE,
            causes::LEGACY_SOCKET_UNUSABLE.code,
        ),
        Some(Live::Closed(error)) => {
            LEGACY.skip(format!("this user cannot connect to {socket}: {error}"))
        }
        Some(Live::Failed(error)) => fail(
            format!("{socket}: {error}"),
            &causes::UNHEALTHY,
            "unhealthy",
        ),
    };
    Some(vec![check])
}

fn live(facts: &Facts) -> Option<Vec<CheckResult>> {
    let node = facts.node.as_ref()?;
    let socket = facts.config()?.server.socket_path.display();
    let fail = |message: String, cause, code: &'static str| {
        LIVE.fail(message)
            .because(facts.advise(cause, &[]))
            .code(code)
            .impact_class(ImpactClass::ApiServerAvailability)
    };

    let check = match (&node.live, &node.lock) {
        (Live::Absent, Ok(Some(holder))) => {
            let state = match &node.why {
                Some(Ok(why)) if why.decrypts.is_none() => {
                    format!("is still starting ({})", why.reasons.join(", "))
                }
                Some(Ok(_)) => "serves, and its socket was removed".to_owned(),
                _ => {
                    "is still starting, serves another socket, or its socket was removed".to_owned()
                }
            };
            let pid = holder.pid;
            fail(
                format!("there is no socket {socket}: the provider, process {pid}, {state}"),
                &causes::SOCKET_UNUSABLE,
                causes::SOCKET_UNUSABLE.code,
            )
        }
        (Live::Absent, _) => LIVE.skip(format!(
            "there is no socket {socket}: the provider is not running"
        )),
        (Live::Dead, Ok(Some(holder))) => fail(
            format!(
                "process {} holds the lock on the state, but no process serves {socket}",
                holder.pid
            ),
            &causes::SOCKET_UNUSABLE,
            causes::SOCKET_UNUSABLE.code,
        ),
        (Live::Dead, _) => fail(
            format!("no process serves {socket}: the provider ended without a clean stop"),
            &causes::NOT_RUNNING,
            "stale_socket",
        ),
        (Live::Closed(error), _) if node.is_own_user() => fail(
            format!("the provider's user cannot connect to {socket}: {error}"),
            &causes::SOCKET_UNUSABLE,
            causes::SOCKET_UNUSABLE.code,
        ),
        (Live::Closed(error), _) => LIVE
            .skip(format!("this user cannot connect to {socket}: {error}"))
            .code("closed"),
        // systemd accepts connections for a stopped provider.
        (Live::Failed(error), Ok(None)) => fail(
            format!(
                "{socket}: {error}; no process holds the lock on the state, so systemd's socket unit \
                 may keep the socket of a provider that does not run"
            ),
            &causes::NOT_RUNNING,
            "not_running",
        ),
        (Live::Failed(error), _) => fail(
            format!("{socket}: {error}"),
            &causes::UNHEALTHY,
            "unhealthy",
        ),
        (Live::Healthy(served), _) => match facts.registry().map(|registry| registry.active()) {
            Some(active) if active.id() != served => LIVE
                .fail(format!(
                    "the running provider serves key_id {}, but its state on disk says {}",
                    served.hash(),
                    active.id_hash()
                ))
                .because(facts.advise(&advice::state::REPLACED, &[]))
                .code("other_key")
                .impact_class(ImpactClass::DataRecovery),
            _ => LIVE
                .pass()
                .message(format!("serves key_id {}", served.hash()))
                .detail("keyIdHash", served.hash().as_str()),
        },
    };
    Some(vec![check])
}
