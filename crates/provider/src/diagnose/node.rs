//! What the provider has on this node: its user, its socket, the lock on its state, and itself.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kms_domain::key_id::KeyId;
use rustix::process::Pid;
use tokio::{net::UnixStream, time::timeout};

use super::{
    NO_SERVICE, Question,
    facts::Facts,
    running::{self, WhyError},
};
use crate::{
    config::{Config, Environment, GroupProblem, Problem, files},
    probe::{KmsClient, ProbeError},
    process_identity::{IdentityError, ProcessIdentity},
    report::{Check, ImpactClass, one_line},
    state::Holder,
    telemetry::why::Why,
};

/// The checks are made as the user that runs the provider.
pub const USER: Question = Question {
    id: "process.identity",
    title: "User of the provider",
    needs: &["config.validate"],
    judge: user,
};

/// The socket can be given to its group.
pub const GROUP: Question = Question {
    id: "socket.group",
    title: "Socket group",
    needs: &["config.validate"],
    judge: group,
};

/// Nobody but a provider uses the state.
pub const LOCK: Question = Question {
    id: "state.lock",
    title: "Lock on the state",
    needs: &["config.validate", "config.files/state.path"],
    judge: lock,
};

/// The running provider is healthy and uses the key that its state says.
pub const LIVE: Question = Question {
    id: "kms.status",
    title: "Status of the running provider",
    needs: &["config.validate"],
    judge: live,
};

/// A Status takes microseconds; this is for a machine in trouble.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// What was found on the machine.
pub struct Node {
    pub(crate) user: Result<User, IdentityError>,
    /// Problems with the files and directories that the configuration names.
    pub files: Result<(), Vec<Problem>>,
    group: Result<u32, GroupProblem>,
    pub(crate) lock: io::Result<Option<Holder>>,
    pub(crate) live: Live,
    /// The running provider's own view; `None` when nobody runs.
    pub(crate) why: Option<Result<Why, WhyError>>,
}

/// For whom the checks speak.
pub(crate) struct User {
    /// Who asks.
    pub(crate) own: ProcessIdentity,
    /// Who owns the state directory, and so must run the provider.
    pub(crate) provider: u32,
    /// What the provider needs and the asking user may not read.
    unreadable: Vec<PathBuf>,
}

/// The socket.
pub(crate) enum Live {
    /// There is none.
    Absent,
    /// A socket, with nobody behind it.
    Dead,
    /// The socket cannot be connected to.
    Closed(io::Error),
    /// Its Status is not that of a healthy provider.
    Failed(ProbeError),
    /// Its Status, and the key that it serves.
    Healthy(KeyId),
}

/// Root goes on as the owner of the state directory, so that every file is opened as the provider
/// opens it. Nobody else can, and goes on as before.
///
/// # Errors
/// When that user's groups are not known, or the change is not permitted.
pub fn become_provider(config: &Config) -> Result<(), IdentityError> {
    let Ok(directory) = fs::metadata(config.state_path.directory()) else {
        return Ok(());
    };
    if directory.uid() == 0 || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    ProcessIdentity::of_user(directory.uid(), directory.gid())?.assume()
}

impl Node {
    /// Looks around. `became` is the outcome of [`become_provider`].
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
        let mut node = Self {
            user,
            files: files::check(config, config_path, &environment),
            group: config.server.socket_group.gid(),
            lock: Holder::of(&config.state_path.lock()),
            live: Live::ask(&config.server.socket_path).await,
            why: None,
        };
        if node.is_served() || matches!(node.lock, Ok(Some(_))) {
            node.why = Some(running::ask(config).await);
        }
        node
    }

    /// Asks for Status once more.
    pub async fn ask_again(&mut self, config: &Config) {
        self.live = Live::ask(&config.server.socket_path).await;
    }

    /// The process that holds the lock on the state.
    #[must_use]
    pub fn provider(&self) -> Option<Pid> {
        let holder = self.lock.as_ref().ok()?.as_ref()?;
        Pid::from_raw(holder.pid.try_into().ok()?)
    }

    /// Whether somebody answers at the socket.
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

impl User {
    fn find(config: &Config, config_path: &Path) -> Result<Self, IdentityError> {
        let own = ProcessIdentity::own()?;
        let directory = config.state_path.directory();
        let provider = fs::metadata(directory).map_or(own.uid, |directory| directory.uid());
        let denied = |path: &&Path| {
            let opened = File::open(path);
            opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let jwt = config.auth.jwt_file().ok().map(|(_, file)| file);
        let state = config.state_path.document();
        let unreadable = [config_path, &config.openbao.ca_cert_file, directory, &state]
            .into_iter()
            .chain(jwt)
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
    /// Status and nothing else: a check must not write through a running provider.
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

fn user(facts: &Facts) -> Option<Vec<Check>> {
    let user = match &facts.node.as_ref()?.user {
        Ok(user) => user,
        Err(error) => {
            let check = USER
                .warn(one_line(error))
                .impact("the other checks may see files that the provider cannot")
                .impact_class(ImpactClass::Diagnosis)
                .remediation("run doctor as the provider's user");
            return Some(vec![check]);
        }
    };
    let User {
        own,
        provider,
        unreadable,
    } = user;
    let own_uid = own.uid;
    let unreadable: Vec<_> = unreadable
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let list = unreadable.join(", ");
    let check = match (own_uid == *provider, unreadable.is_empty()) {
        (true, true) => USER.pass().message(own.to_string()),
        (true, false) => USER
            .fail(format!("{own} cannot read {list}"))
            .code("unreadable")
            .impact("the provider runs as this user and does not start, or cannot log in; no data is lost")
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(format!(
                "if they are still yours, run `chgrp {gid} {files}` and `chmod u+r,g+r {files}`",
                gid = own.gid,
                files = unreadable.join(" "),
            )),
        (false, true) => USER
            .warn(format!(
                "{own} asks, but the state belongs to user {provider}, who runs the provider"
            ))
            .impact("the other checks may see more or less than the provider")
            .impact_class(ImpactClass::Diagnosis)
            .remediation(format!("run doctor as root, or with `sudo -u '#{provider}'`")),
        (false, false) => USER
            .fail(format!(
                "{own} cannot read {list}, and is not user {provider}, who runs the provider"
            ))
            .code("other_user")
            .impact("nothing is known about what this user cannot read")
            .impact_class(ImpactClass::Diagnosis)
            .remediation(format!("run doctor as root, or with `sudo -u '#{provider}'`")),
    };
    Some(vec![
        check.detail("user", own_uid).detail("provider", *provider),
    ])
}

fn group(facts: &Facts) -> Option<Vec<Check>> {
    let node = facts.node.as_ref()?;
    let impact = "the provider cannot give the socket to the API server's group and does not \
        start; no data is lost";
    let failed = |message: String, code: &'static str, remedy: String| {
        GROUP
            .fail(message)
            .code(code)
            .impact(impact)
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(remedy)
    };
    let check = match (&node.group, &node.user) {
        (Err(problem), _) => failed(
            one_line(problem),
            "unknown",
            "correct server.socketGroup, or create the group".to_owned(),
        ),
        (Ok(gid), Ok(User { own, provider, .. }))
            if own.uid == *provider
                && own.uid != 0
                && own.gid != *gid
                && !own.groups.contains(gid) =>
        {
            failed(
                format!("user {provider} is not in group {gid}, server.socketGroup"),
                "not_a_member",
                format!(
                    "add the user to the group, with SupplementaryGroups of the unit or `usermod \
                     -aG`, or set server.socketGroup to a group of the user ({own})"
                ),
            )
        }
        (Ok(gid), _) => GROUP.pass().message(format!("gid {gid}")),
    };
    Some(vec![check])
}

fn lock(facts: &Facts) -> Option<Vec<Check>> {
    let path = facts.config()?.state_path.lock();
    let path = path.display();
    let check = match &facts.node.as_ref()?.lock {
        Ok(None) => LOCK
            .pass()
            .message("nobody holds it: the provider is not running"),
        // A provider under another name is told by its socket: never advise to kill what serves.
        Ok(Some(holder)) if holder.is_provider() || facts.node.as_ref()?.is_served() => LOCK
            .pass()
            .message(format!(
                "held by process {} ({})",
                holder.pid, holder.program
            ))
            .detail("pid", holder.pid),
        Ok(Some(Holder { pid, program })) => LOCK
            .fail(format!(
                "{path} is locked by process {pid} ({program}), which is not a provider"
            ))
            .code("foreign_process")
            .impact("the provider cannot start as long as that process runs; no data is lost")
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(format!(
                "find out what it is with `ps -fp {pid}`; then run `kill {pid}`. Deleting the \
                 lock file does not free the state"
            ))
            .detail("pid", *pid),
        Err(error) => LOCK
            .warn(format!("cannot tell who has locked {path}: {error}"))
            .impact("whether a provider runs must be found out otherwise")
            .impact_class(ImpactClass::Diagnosis),
    };
    Some(vec![check])
}

fn live(facts: &Facts) -> Option<Vec<Check>> {
    let node = facts.node.as_ref()?;
    let socket = facts.config()?.server.socket_path.display();
    let fail = |message: String, code: &'static str, remedy: &str| {
        LIVE.fail(message)
            .code(code)
            .impact(NO_SERVICE)
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(remedy)
    };
    let check = match (&node.live, &node.lock) {
        (Live::Absent, Ok(Some(holder))) => LIVE
            .warn(format!(
                "process {} holds the lock on the state, but there is no socket {socket}: it is \
                 still starting, or serves another socket",
                holder.pid
            ))
            .code("starting")
            .impact(NO_SERVICE)
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation("see /ready and the log of the provider for what it waits for"),
        (Live::Absent, _) => LIVE.skip(format!(
            "there is no socket {socket}: the provider is not running"
        )),
        (Live::Dead, _) => fail(
            format!("nobody serves {socket}: the provider ended without a clean stop"),
            "stale_socket",
            "start the provider, which replaces the dead socket; its log tells why it ended",
        ),
        (Live::Closed(error), _) => LIVE
            .skip(format!("this user cannot connect to {socket}: {error}"))
            .code("closed"),
        // systemd accepts for a provider that is stopped.
        (Live::Failed(error), Ok(None)) => fail(
            format!(
                "{socket}: {error}; nobody holds the lock on the state, so systemd's socket unit \
                 may keep the socket of a provider that does not run"
            ),
            "not_running",
            "run `systemctl start bao-kms-provider`; if it runs already, in a container, see the \
             reasons on its /ready",
        ),
        (Live::Failed(error), _) => fail(
            format!("{socket}: {error}"),
            "unhealthy",
            "correct what failed above; else see the reasons on the provider's /ready",
        ),
        (Live::Healthy(served), _) => match facts.registry().map(|registry| registry.active()) {
            Some(active) if active.id() != served => LIVE
                .fail(format!(
                    "the running provider serves key_id {}, but its state on disk says {}",
                    served.hash(),
                    active.id_hash()
                ))
                .code("other_key")
                .impact(
                    "objects are encrypted under a key_id that a restart may not know; nothing is \
                     lost yet",
                )
                .impact_class(ImpactClass::DataRecovery)
                .remediation(
                    "find out who exchanged the state while the provider ran, put the files of \
                     the running provider back from a backup or a peer, and only then restart it",
                ),
            _ => LIVE
                .pass()
                .message(format!("serves key_id {}", served.hash()))
                .detail("keyIdHash", served.hash().as_str()),
        },
    };
    Some(vec![check])
}
