//! Causes on the node: files, user, lock, socket, process.

use tonic::Code;

use super::{
    Cause, Step, act, none_lost, not_lost_yet,
    openbao::{self, KEY_IS_IN_OPENBAO},
    run,
    state::REBUILD,
    unknown,
};
use crate::exit::Exit;

const WAITS: &str = "kube-apiserver waits for this node, and etcd stays as it is";
const RUNNING_CONTINUES: &str =
    "the running provider continues to serve until its next login or reload of trust";

pub(super) const START: Step = run("start the provider", "systemctl start {unit}");
pub(super) const STOP: Step = run("stop the provider", "systemctl stop {unit}");
const RESTART: Step = run("restart the provider", "systemctl restart {unit}");
const READ_LOG: Step = run("read its log", "journalctl -u {unit} -n 50");
const READINESS: Step = run(
    "see the reasons of its readiness",
    "curl --max-time 5 {ready}",
);
const STATUS: Step = run("see whether the provider runs", "systemctl status {unit}");
pub(super) const COMPARE_CLOCKS: Step = run(
    "compare the clocks of this node and of OpenBao",
    "date --utc; curl --silent --head {curl}/v1/sys/health | grep -i '^date'",
);
const AS_ROOT: Step = run(
    "run it as root",
    "sudo bao-kms-provider {command} --config {config}",
);

causes! {
    HEALTHY = none_lost(
        "healthy",
        "no check failed on this node",
        "this node reads and writes encrypted objects, and the key has every version of the \
         evidence",
    )
    .exit(Exit::Success)
    .steps(&[
        run(
            "if kube-apiserver still fails, check its side",
            "bao-kms-provider doctor --encryption-config /etc/kubernetes/encryption-config.yaml \
             --config {config}",
        ),
        run("see whether kube-apiserver reads encrypted objects", "kubectl get secrets -A"),
    ]);

    STATE_OF_OTHER_USER = none_lost(
        "state_of_other_user",
        "the provider was started as another user than the owner of its state",
        WAITS,
    )
    .exit(Exit::Configuration)
    .steps(&[
        run(
            "start the service, which runs as the owner of the state",
            "systemctl start {unit}",
        ),
        run(
            "or, for a start with these options, run it as that user",
            "sudo -u {owner} {again}",
        ),
    ])
    .warnings(&[
        "do not change the owner of the state with chown: the service could not start any more",
    ]);

    MISCONFIGURED = none_lost(
        "node_misconfigured",
        "a file, directory or group of the configuration is missing, unsafe, or owned by another \
         user",
        WAITS,
    )
    .steps(&[
        run("set owner and mode, if the file is still yours", "{fix}"),
        run(
            "give the files to the group of the provider's user, if they are still yours",
            "chgrp {gid} {files} && chmod u+r,g+r {files}",
        ),
        act("correct owner and mode of {path}"),
        act("{correction}"),
        act("put {missing} back, or correct {setting} in {config}"),
    ]);

    STATE_LOCKED = none_lost(
        "state_locked",
        "a process other than the provider has locked the state",
        WAITS,
    )
    .steps(&[run("identify the process", "ps -fp {pid}"), run("end it", "kill {pid}")])
    .warnings(&["do not delete the lock file: the lock stays with the process"]);

    CLOCK_WRONG = none_lost(
        "clock_wrong",
        "the login fails, and the clocks of node and OpenBao differ by more than the leeway",
        WAITS,
    )
    .steps(&[run(
        "find the wrong clock and correct it with NTP; compare both",
        COMPARE_CLOCKS.command,
    )]);

    NOT_RUNNING = none_lost("not_running", "the provider is stopped, and could run", WAITS)
        .steps(&[
            run("start it (of a static pod: put its manifest back)", START.command),
            run("if it ends again, read its log", READ_LOG.command),
        ]);

    SOCKET_UNUSABLE = none_lost(
        "socket_unusable",
        "the provider runs, and its socket accepts no connection",
        WAITS,
    )
    .steps(&[
        run("see in its log whether it waits for OpenBao", READ_LOG.command),
        READINESS,
        run("if it waits for nothing, restart it: the start creates the socket", RESTART.command),
    ]);

    LEGACY_SOCKET_UNUSABLE = none_lost(
        "legacy_socket_unusable",
        "the provider cannot serve the socket of legacy.vaultKubernetesKms",
        "objects of vault-kubernetes-kms wait for this socket on this node; all other objects are served",
    )
    .steps(&[
        run("see in its log why (socket.rebind_failed)", READ_LOG.command),
        run("find the process that listens there, if any", "ss -xlp src {legacy_socket}"),
        act(
            "stop that process, or move the file at the path away: the provider binds the socket \
             within seconds",
        ),
    ]);

    UNHEALTHY = none_lost(
        "provider_unhealthy",
        "the provider is unhealthy: it gives no answer, or fails to encrypt or decrypt",
        WAITS,
    )
    .steps(&[
        READINESS,
        READ_LOG,
        run("if neither names a cause, restart it", RESTART.command),
    ]);

    NOT_PERMITTED = unknown(
        "not_permitted",
        "this user is not the provider's, or lacks the permission to read its files",
        "this user has access to more or fewer files than the provider",
    )
    .steps(&[AS_ROOT]);

    STATE_DIRECTORY_MISSING = none_lost(
        "state_directory_missing",
        "the directory of the state is missing",
        WAITS,
    )
    .steps(&[
        run(
            "mount {state_directory}, or create it, owned by the USER of the provider",
            "install --directory --mode 0750 --owner USER {state_directory}",
        ),
        run("if it held a state, rebuild the state from evidence, first as a \
            plan", REBUILD.command),
    ]);

    SOCKET_DIRECTORY_UNUSABLE = none_lost(
        "socket_directory_unusable",
        "the directory of the socket is missing or unsafe",
        WAITS,
    )
    .steps(&[act(
        "have the directory of {socket} created at boot, with mode 2750 and owned by the user of \
         the provider: RuntimeDirectory= of the unit, or tmpfiles.d",
    )]);

    SOCKET_GROUP_UNUSABLE = none_lost(
        "socket_group_unusable",
        "the group of server.socketGroup does not exist, or lacks the user of the provider",
        WAITS,
    )
    .steps(&[
        act("correct server.socketGroup in {config}, or create the group"),
        act(
            "add the user to the group, with SupplementaryGroups= of the unit or `usermod -aG`; \
             its groups are {groups}",
        ),
    ]);

    HARDENING_REFUSED = none_lost(
        "hardening_refused",
        "a required hardening measure is not available on this node",
        "a running provider continues to serve, and the next start is refused",
    )
    .steps(&[act("remove the obstacle, or set the required measure to best-effort in {config}")]);

    HARDENING_INCOMPLETE = none_lost(
        "hardening_incomplete",
        "the running provider lacks hardening measures",
        "the provider serves, and an attacker with control of its process is less confined",
    )
    .steps(&[run(
        "see the missing measures in its log; docs/operate/hardening.md describes each",
        "journalctl -u {unit} | grep process.not_hardened",
    )]);

    SANDBOX_OUTDATED = none_lost(
        "sandbox_outdated",
        "a directory of the configuration was replaced, and the sandbox of the running provider \
         permits the former one",
        RUNNING_CONTINUES,
    )
    .steps(&[RESTART]);

    CA_BUNDLE_OUTDATED = none_lost(
        "ca_bundle_outdated",
        "the running provider uses another content of the CA bundle than the file has",
        "the provider may reject the certificate of OpenBao, or trust another server's",
    )
    .steps(&[
        act("put a valid CA bundle at {ca}: the provider loads it within a minute"),
        run("or restart the provider", RESTART.command),
    ]);

    PROVIDER_DISCONNECTED = none_lost(
        "provider_disconnected",
        "the login or a probe of the running provider fails at OpenBao",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        READ_LOG,
        run(
            "if the checks of OpenBao pass, the provider has another credential or another server: \
             restart it",
            RESTART.command,
        ),
    ]);

    LOG_LINES_DROPPED = none_lost(
        "log_lines_dropped",
        "the log of the provider has gaps: its reader was too slow",
        "the log has gaps",
    )
    .steps(&[run("check the reader of the log", "systemctl status systemd-journald")]);

    SOCKET_DENIED = none_lost(
        "socket_denied",
        "the socket is missing, not a socket, or not accessible for this user",
        WAITS,
    )
    .steps(&[
        STATUS,
        run("see owner, group and mode of the socket", "ls -l {probed}"),
        act(
            "compare it with server.socketPath and server.socketGroup of {config}: the caller must \
             be in the group",
        ),
    ]);

    PROBE_UNPROVEN = unknown(
        "probe_unproven",
        "the probe ran as root or as the owner of the socket, so the access of kube-apiserver is \
         unproven",
        "only the access of this user was tested",
    )
    .exit(Exit::CheckFailed)
    .steps(&[run(
        "repeat it as kube-apiserver",
        "sudo bao-kms-provider probe --socket {probed} --as-process kube-apiserver",
    )]);

    PROCESS_UNKNOWN = unknown(
        "process_unknown",
        "the process of --as-process is missing or ambiguous, or its identity needs root",
        "nothing was tested",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        run("see the processes of this name", "pgrep -a {process}"),
        run(
            "repeat it as root",
            "sudo bao-kms-provider probe --socket {probed} --as-process {process}",
        ),
    ]);

    NOT_KMS_V2 = unknown(
        "not_this_provider",
        "the software at the socket is not this provider",
        "another KMS plugin, or another version of the API, answers at the socket",
    )
    .exit(Exit::CheckFailed)
    .steps(&[run("see the listening process", "ss -lxp src {probed}")])
    .warnings(&["do not write Secrets through this socket"]);

    KEY_ID_UNEXPECTED = not_lost_yet(
        "key_id_unexpected",
        "the provider uses another key_id than expected",
        "nodes with different key_ids may not read each other's objects",
    )
    .steps(&[run(
        "show configuration and state of this node, and compare them with the other nodes",
        "bao-kms-provider inspect-state --config {config}",
    )])
    .warnings(&["do not restart a provider before its state was compared"]);

    UNAVAILABLE = none_lost(
        "provider_unavailable",
        "no process serves the socket, or the provider has no connection to OpenBao",
        WAITS,
    )
    .steps(&[STATUS, run("find the cause", "sudo bao-kms-provider triage --config {config}")]);

    KEY_CHANGED = none_lost(
        "key_changed",
        "the key changed between Status and Encrypt, as when a rotation is promoted",
        "the provider keeps both versions readable",
    )
    .steps(&[run("repeat it", "bao-kms-provider probe --socket {probed}")]);

    NO_RANDOM = unknown("no_random_bytes", "the kernel gives no random bytes", "nothing was tested")
        .exit(Exit::CheckFailed)
        .steps(&[act("allow the system call getrandom for this program")]);

    LISTENER_UNUSABLE = none_lost(
        "listener_unusable",
        "the address for metrics or health is in use or invalid",
        WAITS,
    )
    .steps(&[
        run("see the process at the port", "ss -ltnp"),
        act(
            "choose a free address in server.metricsAddress or server.healthAddress, or \"\" to \
             disable the listener",
        ),
    ]);

    SOCKET_NOT_OPENED = none_lost("socket_not_opened", "the provider cannot open its socket", WAITS)
        .steps(&[
            run("see the process at the socket", "ss -xlp src {socket}"),
            act("stop the other process, or move a file of another type away from {socket}"),
            run("examine the node", "bao-kms-provider doctor --config {config}"),
            run("correct the cause above, and start the provider again", RESTART.command),
        ]);

    SOCKET_UNIT_INVALID = none_lost(
        "socket_unit_invalid",
        "the socket from systemd differs from the configuration",
        WAITS,
    )
    .steps(&[
        act("leave one ListenStream= in the socket unit, with the path of server.socketPath"),
        run(
            "load the unit, and start the provider again",
            "systemctl daemon-reload && systemctl restart {unit}.socket \
             {unit}.service",
        ),
    ]);

    PART_ENDED = none_lost("part_ended", "a part of the provider ended unexpectedly", WAITS)
        .steps(&[
            run("start the provider again", RESTART.command),
            run("report the last lines of its log", READ_LOG.command),
        ]);

    SOCKET_DRIFTED = none_lost(
        "socket_drifted",
        "mode or group of the socket or its directory differ from the configuration",
        "a kube-apiserver of root still connects, another one may wait for this node",
    )
    .steps(&[
        run("set them as configured", "{fix}"),
        act(
            "correct their source: tmpfiles.d or RuntimeDirectory= for the directory, the socket \
             unit or configuration management for the socket",
        ),
    ]);
}

/// The cause of a call that the provider refused with this gRPC code.
#[must_use]
pub fn of_code(code: Code) -> &'static Cause {
    match code {
        Code::Unavailable => &UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => &UNHEALTHY,
        Code::PermissionDenied => &openbao::POLICY_INSUFFICIENT,
        Code::Unauthenticated => &PROVIDER_DISCONNECTED,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => &UNHEALTHY,
    }
}
