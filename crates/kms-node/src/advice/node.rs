//! Causes on the node: files, user, lock, socket, process.

use openbao_client::{
    credential_file::CredentialFileProblem,
    login::{LoginFailure, jwt::JwtProblem},
};

use tonic::Code;

use super::{Cause, DataImpact, act, run};
use crate::exit::Exit;

pub const ALL: &[&Cause] = &[
    &HEALTHY,
    &MISCONFIGURED,
    &STATE_LOCKED,
    &JWT_UNUSABLE,
    &CLOCK_WRONG,
    &NOT_RUNNING,
    &SOCKET_UNUSABLE,
    &UNHEALTHY,
    &NOT_PERMITTED,
    &STATE_DIRECTORY_MISSING,
    &SOCKET_DIRECTORY_MISSING,
    &FILES_UNREADABLE,
    &OTHER_USER,
    &SOCKET_GROUP_UNKNOWN,
    &SOCKET_GROUP_NOT_A_MEMBER,
    &JWT_MISSING,
    &JWT_UNREADABLE,
    &JWT_HANGS,
    &JWT_EXPIRED,
    &JWT_NOT_YET_VALID,
    &JWT_CLAIMS,
    &HARDENING_REFUSED,
    &HARDENING_INCOMPLETE,
    &SANDBOX_OUTDATED,
    &CA_BUNDLE_OUTDATED,
    &PROVIDER_LOGIN_FAILED,
    &PROVIDER_PROBE_FAILED,
    &LOG_LINES_DROPPED,
    &SOCKET_DENIED,
    &PROBED_AS_ROOT,
    &PROBED_AS_OWNER,
    &PROCESS_UNKNOWN,
    &NOT_KMS_V2,
    &KEY_ID_UNEXPECTED,
    &WRONG_BYTES,
    &NO_ANSWER,
    &UNAVAILABLE,
    &KEY_CHANGED,
    &NO_RANDOM,
    &LISTENER_UNUSABLE,
    &SOCKET_NOT_OPENED,
    &SOCKET_UNIT_INVALID,
    &PART_ENDED,
    &SOCKET_DRIFTED,
];

const WAITS: &str = "no data is lost: kube-apiserver waits for this node, and etcd stays as it is";
const LOG: &str = "journalctl -u bao-kms-provider -n 50";

pub const HEALTHY: Cause = Cause {
    code: "healthy",
    headline: "all checks passed on this node",
    impact: DataImpact::NoneLost,
    data: "no data is lost: this node reads and writes encrypted objects, and the key has every \
           version that the evidence needs",
    steps: &[
        run(
            "if kube-apiserver still fails, check its side",
            "bao-kms-provider doctor --encryption-config /etc/kubernetes/encryption-config.yaml \
             --config {config}",
        ),
        run(
            "restart kube-apiserver, and read encrypted objects",
            "kubectl get secrets -A",
        ),
    ],
    warnings: &[],
    exit: Exit::Success,
};

pub const MISCONFIGURED: Cause = Cause {
    code: "node_misconfigured",
    headline: "a file, directory or group of the configuration is missing, unsafe, or owned by \
               another user",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("set owner and mode, if the file is still yours", "{fix}"),
        act("{correction}"),
        act("put {missing} back, or correct {setting} in {config}"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const STATE_LOCKED: Cause = Cause {
    code: "state_locked",
    headline: "a process other than the provider has locked the state",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("identify the process", "ps -fp {pid}"),
        run("end it", "kill {pid}"),
    ],
    warnings: &["do not delete the lock file: the lock stays with the process"],
    exit: Exit::CheckFailed,
};

pub const JWT_UNUSABLE: Cause = Cause {
    code: "jwt_unusable",
    headline: "the JWT is missing, unreadable, expired, or its claims differ from the configuration",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[act(
        "if the issuer is gone, put a JWT of an emergency issuer with the same claims at {jwt}, or pin \
         its public key in OpenBao's login, for as short a time as possible",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const CLOCK_WRONG: Cause = Cause {
    code: "clock_wrong",
    headline: "the login fails, and the clocks of node and OpenBao differ by more than the leeway",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[run(
        "find the clock that is wrong and correct it with NTP; compare both",
        "date --utc; curl --silent --head --cacert {ca} {address}/v1/sys/health | grep -i '^date'",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NOT_RUNNING: Cause = Cause {
    code: "not_running",
    headline: "the provider is stopped, and could run",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run(
            "start it (of a static pod: put its manifest back)",
            "systemctl start bao-kms-provider",
        ),
        run("if it ends again, read its log", LOG),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SOCKET_UNUSABLE: Cause = Cause {
    code: "socket_unusable",
    headline: "the provider runs, and its socket accepts no connection",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("see in its log whether it waits for OpenBao", LOG),
        run("see the reasons of its readiness", "curl {ready}"),
        run(
            "if it waits for nothing, restart it: the start creates the socket",
            "systemctl restart bao-kms-provider",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const UNHEALTHY: Cause = Cause {
    code: "provider_unhealthy",
    headline: "the provider is unhealthy: it gives no answer, or fails to encrypt or decrypt",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("see the reasons of its readiness", "curl {ready}"),
        run("read its log", LOG),
        run(
            "if neither names a cause, restart it",
            "systemctl restart bao-kms-provider",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NOT_PERMITTED: Cause = Cause {
    code: "not_permitted",
    headline: "this user lacks the permission to read the files of the provider",
    impact: DataImpact::Unknown,
    data: "unknown: nothing was examined, and no sign of a loss was seen",
    steps: &[run(
        "run it as root",
        "sudo bao-kms-provider {command} --config {config}",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const STATE_DIRECTORY_MISSING: Cause = Cause {
    code: "state_directory_missing",
    headline: "the directory of the state is missing",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        act(
            "mount {state_directory}, or create it with mode 0750, owned by the user of the provider",
        ),
        run(
            "if it held a state, rebuild that from evidence, first as a plan",
            "bao-kms-provider recover-state --etcd-snapshot FILE --config {config}",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SOCKET_DIRECTORY_MISSING: Cause = Cause {
    code: "socket_directory_missing",
    headline: "the directory of the socket is missing",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[act(
        "have the directory of {socket} created at boot, with mode 2750 and owned by the user of the \
         provider: RuntimeDirectory= of the unit, or tmpfiles.d",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const FILES_UNREADABLE: Cause = Cause {
    code: "files_unreadable",
    headline: "the user of the provider lacks access to its files",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run(
            "give the files to the group of the user, if they are still yours",
            "chgrp {gid} {files} && chmod u+r,g+r {files}",
        ),
        act("correct owner and mode of {path}"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const OTHER_USER: Cause = Cause {
    code: "other_user",
    headline: "the command runs as another user than the provider",
    impact: DataImpact::Unknown,
    data: "unknown: the checks may have access to more or fewer files than the provider",
    steps: &[run(
        "run it as root",
        "sudo bao-kms-provider {command} --config {config}",
    )],
    warnings: &[],
    exit: Exit::Runtime,
};

pub const SOCKET_GROUP_UNKNOWN: Cause = Cause {
    code: "socket_group_unknown",
    headline: "the group of server.socketGroup does not exist on this node",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[act(
        "correct server.socketGroup in {config}, or create the group",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SOCKET_GROUP_NOT_A_MEMBER: Cause = Cause {
    code: "socket_group_not_a_member",
    headline: "the user of the provider is not in the group of server.socketGroup",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[act(
        "add the user to the group, with SupplementaryGroups= of the unit or `usermod -aG`, or set \
         server.socketGroup in {config} to a group of the user ({groups})",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const JWT_MISSING: Cause = Cause {
    code: "jwt_missing",
    headline: "the JWT is missing",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[act(
        "start the software that writes and renews {jwt} on this node, and read its log",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const JWT_UNREADABLE: Cause = Cause {
    code: "jwt_unreadable",
    headline: "the file of the JWT is unreadable for the user of the provider",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[act(
        "make {jwt} a regular file with mode 0640 that the user of the provider can read",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const JWT_HANGS: Cause = Cause {
    code: "jwt_hangs",
    headline: "the file system of the JWT does not answer",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[act(
        "mount the file system of {jwt} again, or keep the file on a local one",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const JWT_EXPIRED: Cause = Cause {
    code: "jwt_expired",
    headline: "the JWT has expired, expires too soon, or is malformed",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[
        act("have a new JWT issued, and replace {jwt} with it by rename"),
        act("find out why the software that renews it on this node stopped"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const JWT_NOT_YET_VALID: Cause = Cause {
    code: "jwt_not_yet_valid",
    headline: "the JWT is not valid yet by the clock of this node",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[
        act(
            "compare the clocks of this node, of the issuer and of OpenBao, and correct the one that is \
             wrong",
        ),
        act("if the clock of this node is right, have a new JWT issued"),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const JWT_CLAIMS: Cause = Cause {
    code: "jwt_claims",
    headline: "the claims of the JWT differ from the configuration",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[
        act("have a JWT issued with the configured claims"),
        run(
            "or correct auth.jwt, if the role in OpenBao has other claims",
            "bao read {bao} {login}/role/{role}",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const HARDENING_REFUSED: Cause = Cause {
    code: "hardening_refused",
    headline: "a required hardening measure is not available on this node",
    impact: DataImpact::NoneLost,
    data: "no data is lost: a running provider continues to serve, and the next start is refused",
    steps: &[act(
        "remove the obstacle, or set hardening.landlock to best-effort in {config}",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const HARDENING_INCOMPLETE: Cause = Cause {
    code: "hardening_incomplete",
    headline: "the running provider lacks hardening measures",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the provider serves, and an attacker who controls its process is less \
           confined",
    steps: &[run(
        "see the missing measures in its log; docs/operate/hardening.md describes each",
        "journalctl -u bao-kms-provider | grep process.not_hardened",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

const RESTART: &str = "systemctl restart bao-kms-provider";

pub const SANDBOX_OUTDATED: Cause = Cause {
    code: "sandbox_outdated",
    headline: "a directory of the configuration was replaced, and the sandbox of the running provider \
               permits the former one",
    impact: DataImpact::NoneLost,
    data: RUNNING_CONTINUES,
    steps: &[run("restart the provider", RESTART)],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const CA_BUNDLE_OUTDATED: Cause = Cause {
    code: "ca_bundle_outdated",
    headline: "the running provider uses another content of the CA bundle than the file has",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the provider may reject the certificate of OpenBao, or trust another \
           server's",
    steps: &[
        act("put a valid CA bundle at {ca}: the provider loads it within a minute"),
        run("or restart the provider", RESTART),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_LOGIN_FAILED: Cause = Cause {
    code: "provider_login_failed",
    headline: "the running provider cannot log in to OpenBao",
    impact: DataImpact::NoneLost,
    data: super::openbao::KEY_IS_IN_OPENBAO,
    steps: &[
        run("read its log", LOG),
        run(
            "if the login of this check works, the provider has another credential: restart it",
            RESTART,
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PROVIDER_PROBE_FAILED: Cause = Cause {
    code: "provider_probe_failed",
    headline: "a probe of the running provider fails at OpenBao",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("read its log", LOG),
        run(
            "if the checks of OpenBao pass, the provider is connected to another server: restart it",
            RESTART,
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const LOG_LINES_DROPPED: Cause = Cause {
    code: "log_lines_dropped",
    headline: "the log of the provider has gaps: its reader was too slow",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the log has gaps",
    steps: &[run(
        "check the reader of the log",
        "systemctl status systemd-journald",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SOCKET_DENIED: Cause = Cause {
    code: "socket_denied",
    headline: "the socket is missing, not a socket, or not accessible for this user",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("see whether the provider runs", STATUS),
        run("see owner, group and mode of the socket", "ls -l {probed}"),
        act(
            "compare it with server.socketPath and server.socketGroup of {config}: the caller must be \
             in the group",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PROBED_AS_ROOT: Cause = Cause {
    code: "probed_as_root",
    headline: "root has access to every socket, so the access of kube-apiserver is unproven",
    impact: DataImpact::Unknown,
    data: "unknown: only the access of root was tested",
    steps: &[run(
        "repeat it as kube-apiserver",
        "bao-kms-provider probe --socket {probed} --as-process kube-apiserver",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PROBED_AS_OWNER: Cause = Cause {
    code: "probed_as_owner",
    headline: "the owner of the socket ran the probe, so access through its group is unproven",
    impact: DataImpact::Unknown,
    data: "unknown: only the access of the owner was tested",
    steps: &[run(
        "repeat it as kube-apiserver",
        "sudo bao-kms-provider probe --socket {probed} --as-process kube-apiserver",
    )],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PROCESS_UNKNOWN: Cause = Cause {
    code: "process_unknown",
    headline: "the process of --as-process is missing or ambiguous, or its identity needs root",
    impact: DataImpact::Unknown,
    data: "unknown: nothing was tested",
    steps: &[
        run("see the processes of this name", "pgrep -a {process}"),
        run(
            "repeat it as root",
            "sudo bao-kms-provider probe --socket {probed} --as-process {process}",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NOT_KMS_V2: Cause = Cause {
    code: "not_this_provider",
    headline: "the software at the socket is not this provider",
    impact: DataImpact::Unknown,
    data: "unknown: another KMS plugin, or another version of the API, answers at the socket",
    steps: &[run("see the process that listens", "ss -lxp src {probed}")],
    warnings: &["do not write Secrets through this socket"],
    exit: Exit::CheckFailed,
};

pub const KEY_ID_UNEXPECTED: Cause = Cause {
    code: "key_id_unexpected",
    headline: "the provider uses another key_id than expected",
    impact: DataImpact::AtRisk,
    data: "at risk: no data is lost yet; nodes with different key_ids may not read each other's objects",
    steps: &[run(
        "show configuration and state of this node, and compare them with the other nodes",
        "bao-kms-provider inspect-state --config {config}",
    )],
    warnings: &["do not restart a provider before its state was compared"],
    exit: Exit::CheckFailed,
};

pub const WRONG_BYTES: Cause = Cause {
    code: "wrong_plaintext",
    headline: "a decryption returned other bytes than were encrypted",
    impact: DataImpact::AtRisk,
    data: "at risk: objects that are written now may be unreadable later",
    steps: &[
        run("stop the provider", "systemctl stop bao-kms-provider"),
        act("report it, with the releases of provider and OpenBao"),
    ],
    warnings: &["do not write Secrets through this provider"],
    exit: Exit::CheckFailed,
};

pub const NO_ANSWER: Cause = Cause {
    code: "no_answer",
    headline: "no answer in time from the provider",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: UNHEALTHY.steps,
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const UNAVAILABLE: Cause = Cause {
    code: "provider_unavailable",
    headline: "no process serves the socket, or the provider has no connection to OpenBao",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("see whether the provider runs", STATUS),
        run(
            "find the cause",
            "sudo bao-kms-provider triage --config {config}",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const KEY_CHANGED: Cause = Cause {
    code: "key_changed",
    headline: "the key changed between Status and Encrypt, as when a rotation is promoted",
    impact: DataImpact::NoneLost,
    data: "no data is lost: the provider keeps both versions readable",
    steps: &[run("repeat it", "bao-kms-provider probe --socket {probed}")],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const NO_RANDOM: Cause = Cause {
    code: "no_random_bytes",
    headline: "the kernel gives no random bytes",
    impact: DataImpact::Unknown,
    data: "unknown: nothing was tested",
    steps: &[act("allow the system call getrandom for this program")],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const LISTENER_UNUSABLE: Cause = Cause {
    code: "listener_unusable",
    headline: "the address for metrics or health is in use or invalid",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("see which process has the port", "ss -ltnp"),
        act(
            "choose a free address in server.metricsAddress or server.healthAddress, or \"\" to \
             disable the listener",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SOCKET_NOT_OPENED: Cause = Cause {
    code: "socket_not_opened",
    headline: "the provider cannot open its socket",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run("see which process has the socket", "ss -xlp src {socket}"),
        run(
            "examine the node",
            "bao-kms-provider doctor --config {config}",
        ),
        run(
            "correct the cause above, and start the provider again",
            "systemctl restart bao-kms-provider",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SOCKET_UNIT_INVALID: Cause = Cause {
    code: "socket_unit_invalid",
    headline: "the socket that systemd passed does not fit the configuration",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        act("leave one ListenStream= in the socket unit, with the path of server.socketPath"),
        run(
            "load the unit, and start the provider again",
            "systemctl daemon-reload && systemctl restart bao-kms-provider.socket \
             bao-kms-provider.service",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const PART_ENDED: Cause = Cause {
    code: "part_ended",
    headline: "a part of the provider ended unexpectedly",
    impact: DataImpact::NoneLost,
    data: WAITS,
    steps: &[
        run(
            "start the provider again",
            "systemctl restart bao-kms-provider",
        ),
        run("report the last lines of its log", LOG),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

pub const SOCKET_DRIFTED: Cause = Cause {
    code: "socket_drifted",
    headline: "mode or group of the socket or its directory differ from the configuration",
    impact: DataImpact::NoneLost,
    data: "no data is lost: a kube-apiserver that runs as root still connects, another one may wait for \
           this node",
    steps: &[
        run("set them as configured", "{fix}"),
        act(
            "correct what sets them otherwise: tmpfiles.d or RuntimeDirectory= for the directory, the \
             socket unit or configuration management for the socket",
        ),
    ],
    warnings: &[],
    exit: Exit::CheckFailed,
};

const STATUS: &str = "systemctl status bao-kms-provider";

const RUNNING_CONTINUES: &str = "no data is lost: the running provider continues to serve until its next \
    login or reload of trust";

/// The cause of a JWT that cannot log in.
#[must_use]
pub fn of_jwt(failure: &LoginFailure) -> &'static Cause {
    match failure {
        LoginFailure::JwtFile(problem) => match problem {
            CredentialFileProblem::Missing => &JWT_MISSING,
            CredentialFileProblem::Hangs => &JWT_HANGS,
            CredentialFileProblem::AbsolutePathRequired
            | CredentialFileProblem::Unreadable(_)
            | CredentialFileProblem::Symlink
            | CredentialFileProblem::NotRegular
            | CredentialFileProblem::UnsafePermissions { .. }
            | CredentialFileProblem::Changed
            | CredentialFileProblem::TooLarge { .. } => &JWT_UNREADABLE,
        },
        LoginFailure::Jwt(problem) => match problem {
            JwtProblem::Empty
            | JwtProblem::Malformed(_)
            | JwtProblem::Expired { .. }
            | JwtProblem::NearExpiry { .. } => &JWT_EXPIRED,
            JwtProblem::NotYetValid(_) | JwtProblem::IssuedInFuture(_) => &JWT_NOT_YET_VALID,
            JwtProblem::Issuer | JwtProblem::Audience | JwtProblem::Subject => &JWT_CLAIMS,
        },
        LoginFailure::OpenBao(failure) => super::openbao::of_login_request(failure.class()),
    }
}

/// The cause of a call that the provider refused with this gRPC code.
#[must_use]
pub fn of_code(code: Code) -> &'static Cause {
    match code {
        Code::Unavailable => &UNAVAILABLE,
        Code::DeadlineExceeded | Code::Cancelled => &NO_ANSWER,
        Code::PermissionDenied => &super::openbao::POLICY_INSUFFICIENT,
        Code::Unauthenticated => &PROVIDER_LOGIN_FAILED,
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
