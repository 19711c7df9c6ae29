//! `/why`: the running provider's view of all its dependencies, with the last failure of each.
//! Implements `docs/observability.md` section "Why".
//!
//! A separate check with its own login and files cannot see the state of the process: its
//! connections, its token, its sandbox, its loaded CA bundle. `doctor` and `triage` evaluate this
//! view.
//!
//! Every word belongs to a bounded set; the view is free of secrets and server texts.

use std::{fmt, net::IpAddr, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The path on the health listener, answered only for clients on the node itself.
pub const PATH: &str = "/why";
/// Whether a request is for this view and from a client on this node.
#[must_use]
pub fn is_asked(path: &str, client: IpAddr) -> bool {
    path == PATH && client.to_canonical().is_loopback()
}

/// The reason while new clients cannot connect. Status is unaffected: connected clients are served.
pub const SOCKET_LOST: &str = "socket_lost";

/// Under this version, members may be added, but never renamed or removed.
pub const SCHEMA_VERSION: &str = "v1";

/// The body of `/why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// `v1`.
    pub schema_version: String,
    /// Version of the program.
    pub version: String,
    /// Time since the start.
    pub uptime_seconds: u64,
    /// The reason codes of `/ready`; empty when ready.
    pub reasons: Vec<String>,
    /// The last read of the key's metadata.
    pub metadata_probe: Probe,
    /// The last round trip with the active version.
    pub deep_probe: Probe,
    /// At least one kind of probe has failed three times in a row.
    pub breaker_open: bool,
    /// The login and its token.
    pub login: Login,
    /// The addresses of OpenBao, in the order of the configuration.
    pub openbao: Vec<Server>,
    /// The registry state.
    pub state: State,
    /// Files reloaded at run time.
    pub files: Vec<File>,
    /// Decrypt requests in progress; absent before the socket is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decrypts: Option<Decrypts>,
    /// The socket for kube-apiserver.
    pub socket: Socket,
    /// The socket of `legacy.vaultKubernetesKms`; absent without this block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legacy_socket: Option<Socket>,
    /// Log lines dropped since the start, because standard error was not read in time.
    pub log_lines_dropped: u64,
}

/// A failure, described by bounded words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failed {
    /// The error class.
    pub class: String,
    /// The cause within the class, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Time since the failure.
    pub seconds_ago: u64,
}

/// One kind of probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// The last probe succeeded.
    pub passed: bool,
    /// The last failure, also after a later success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
}

/// The session with OpenBao.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Login {
    /// `authenticated`, `unhealthy` or `unknown`.
    pub state: String,
    /// Remaining lease of the token; absent without a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_remaining_seconds: Option<u64>,
    /// Remaining life of the credential for the next login; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_remaining_seconds: Option<u64>,
    /// The last failed attempt; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
    /// Whether the standby identity (`auth.fallback`) granted the token.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// Failed attempts in a row.
    pub failures_in_a_row: u32,
    /// Rest of the pause before the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_seconds: Option<u64>,
}

/// One address of OpenBao.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Server {
    /// The configured address.
    pub address: String,
    /// The role of its server in the cluster; absent for the only address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Its IP addresses with a connection or a failure.
    pub peers: Vec<Peer>,
}

/// One IP address and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Peer {
    /// The IP address and port.
    pub peer: String,
    /// Connections with a request in progress.
    pub in_use: usize,
    /// Idle connections.
    pub idle: usize,
    /// Age of the oldest connection; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
    /// The last failure, also after a later success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
}

/// The registry state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// Present while the state cannot be saved or has changed on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsaved: Option<Failed>,
    /// Bytes free in the file system of its directory; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Inodes free there; absent if unknown or unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_inodes: Option<u64>,
}

/// A file reloaded at run time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct File {
    /// The setting with the path.
    pub setting: String,
    /// The path.
    pub path: String,
    /// Why this process cannot open the file; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// For the CA bundle: hash of the content in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_in_use: Option<String>,
    /// For the CA bundle: why its present content is not in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Failed>,
}

/// Decrypt requests in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decrypts {
    /// Requests in progress, including overdue ones.
    pub requests: usize,
    /// Overdue requests among them.
    pub late: usize,
    /// Items waiting for a request.
    pub pending: usize,
    /// Additional requests for overdue ones, since the start.
    pub hedges: u64,
    /// Age at which a request is overdue.
    pub late_after_milliseconds: u64,
}

/// A socket for kube-apiserver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Socket {
    /// The service manager passed the socket.
    pub activated: bool,
    /// Current connections.
    pub connections: usize,
    /// Maximum number of connections.
    pub max_connections: usize,
    /// Connections closed since the start to make room for others.
    pub evicted: u64,
    /// The last failed accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failed>,
    /// Its path does not lead to this process: new clients cannot connect.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Why new clients may not reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Failed>,
}

/// The setting of the only file without secrets.
pub const CA_BUNDLE: &str = "openbao.caCertFile";

impl Failed {
    #[must_use]
    pub fn new(class: &str, detail: Option<&str>, ago: Duration) -> Self {
        Self {
            class: class.to_owned(),
            detail: detail.map(str::to_owned),
            seconds_ago: ago.as_secs(),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        write!(f, ", {} s ago", self.seconds_ago)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_on_this_node_see_the_view() {
        for (client, sees) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.7", false),
            ("::ffff:192.0.2.7", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(is_asked(PATH, client.parse().unwrap()), sees, "{client}");
        }
        assert!(!is_asked("/ready", IpAddr::from([127, 0, 0, 1])));
    }
}
