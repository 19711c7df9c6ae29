//! Checks of the running provider: process and socket at the start of the sequence, Status and a round
//! trip at its end. The causes of a failed start lie between them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kms_domain::registry::checkpoint::CheckpointStatus;
use kms_node::{
    advice,
    probe::ProbeError,
    report::{CheckResult, one_line, table::Table, utc},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::diagnose::{
    Check,
    facts::Facts,
    node::{LIVE, Live},
    state::STATE,
};

/// Limit of the round trip after a failure.
pub(super) const SERVICE_LIMIT: Duration = Duration::from_millis(800);

/// A symptom: later checks look for its cause.
pub const PROCESS: Check = Check {
    id: "provider.process",
    title: "Process of the provider",
    needs: &[],
    evaluate: process,
};

/// As [`PROCESS`].
pub const SOCKET: Check = Check {
    id: "provider.socket",
    title: "Socket of the provider",
    needs: &[],
    evaluate: socket,
};

/// The state, required of a serving provider.
pub const KEPT: Check = Check {
    evaluate: kept,
    ..STATE
};

/// The provider runs, after all conditions of its start passed.
pub const RUNNING: Check = Check {
    id: "provider.running",
    title: "Process of the provider at the end",
    needs: &[],
    evaluate: running,
};

/// It is healthy at its socket, and uses the active key of its state.
pub const SERVING: Check = Check {
    evaluate: serving,
    ..LIVE
};

/// A round trip in the form of kube-apiserver.
pub const ROUND_TRIP: Check = Check {
    id: "kms.round_trip",
    title: "Status, Encrypt and Decrypt through the socket",
    needs: &[],
    evaluate: round_trip,
};

/// Calls of kube-apiserver that work while the incident lasts.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// `works`, `not tried`, or the failure; so for the next two.
    status: String,
    encrypt: String,
    decrypt: String,
    /// Expiry of the token in use, RFC 3339; absent if the provider does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_expires: Option<String>,
}

/// The calls through the socket just now; `None` unless the provider runs and a check failed.
#[must_use]
pub fn service(facts: &Facts, now: SystemTime) -> Option<Service> {
    const WORKS: &str = "works";
    const NOT_TRIED: &str = "not tried";
    let trip = facts.service.as_ref()?;
    let failed = trip.as_ref().err().map(|error| match error {
        ProbeError::Timeout => format!("no answer within {} ms", SERVICE_LIMIT.as_millis()),
        error => one_line(error),
    });
    let [status, encrypt, decrypt] = match (trip, failed) {
        (Err(error), Some(failed)) => match error {
            ProbeError::Call {
                call: "Decrypt", ..
            }
            | ProbeError::WrongPlaintext => [WORKS.to_owned(), WORKS.to_owned(), failed],
            ProbeError::Call {
                call: "Encrypt", ..
            }
            | ProbeError::EmptyCiphertext
            | ProbeError::KeyChanged => [WORKS.to_owned(), failed, NOT_TRIED.to_owned()],
            _ => [failed, NOT_TRIED.to_owned(), NOT_TRIED.to_owned()],
        },
        _ => [WORKS; 3].map(str::to_owned),
    };
    let why = facts.node.as_ref()?.why.as_ref();
    let why = why.and_then(|why| why.as_ref().ok());
    let remaining = why.and_then(|why| why.login.token_remaining_seconds);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Some(Service {
        status,
        encrypt,
        decrypt,
        token_expires: remaining.map(|remaining| utc(now.saturating_add(remaining))),
    })
}

/// The calls as rows.
#[must_use]
pub fn table(service: &Service) -> Table {
    let mut table = Table::new("running provider, through its socket", ["call", "now"]);
    table.row(["Status", &*service.status]);
    table.row(["Encrypt", &*service.encrypt]);
    table.row(["Decrypt", &*service.decrypt]);
    if let Some(expires) = &service.token_expires {
        table.row(["token", &*format!("expires at {expires}")]);
    }
    table
}

fn process(facts: &Facts) -> Option<Vec<CheckResult>> {
    let check = match &facts.node.as_ref()?.lock {
        Ok(Some(holder)) => PROCESS.pass().message(format!(
            "process {} ({}) holds the lock on the state",
            holder.pid, holder.program
        )),
        Ok(None) => PROCESS.warn("the lock on the state is free: the provider is stopped"),
        Err(error) => PROCESS.warn(format!(
            "the holder of the lock on the state is unknown: {error}"
        )),
    };
    Some(vec![check])
}

fn socket(facts: &Facts) -> Option<Vec<CheckResult>> {
    let path = facts.config()?.server.socket_path.display();
    let check = match &facts.node.as_ref()?.live {
        Live::Absent => SOCKET.warn(format!("{path} does not exist")),
        Live::Dead => SOCKET.warn(format!("no process serves {path}")),
        Live::Closed(error) => SOCKET.warn(format!("cannot connect to {path}: {error}")),
        Live::Failed(error) => SOCKET.warn(format!("{path}: {}", one_line(error))),
        Live::Healthy(key_id) => SOCKET
            .pass()
            .message(format!("healthy, with key_id {}", key_id.hash())),
    };
    Some(vec![check])
}

/// A serving provider has had a state, even for a new key.
fn kept(facts: &Facts) -> Option<Vec<CheckResult>> {
    let node = facts.node.as_ref()?;
    let absent =
        matches!(&facts.stored, Some(Ok(stored)) if stored.anchor == CheckpointStatus::Absent);
    if !absent || node.served().is_none() {
        return (STATE.evaluate)(facts);
    }
    let path = facts.config()?.state_path.document();
    let check = STATE
        .fail(format!(
            "{} and its checkpoint are gone, while the provider still serves from memory",
            path.display()
        ))
        .code("absent_in_use")
        .impact("its next restart or promotion fails");
    Some(vec![check])
}

fn running(facts: &Facts) -> Option<Vec<CheckResult>> {
    let node = facts.node.as_ref()?;
    let check = match (&node.lock, &node.live) {
        (_, Live::Healthy(_)) | (Ok(Some(_)) | Err(_), Live::Failed(_)) | (Ok(Some(_)), _) => {
            RUNNING.pass()
        }
        (Ok(None), Live::Failed(_)) => RUNNING.warn(
            "it is unknown whether the provider runs: its socket accepts connections, but the lock on \
             the state is free; systemd's socket unit keeps the socket of a stopped provider too",
        ),
        (Ok(None), Live::Absent) => RUNNING.fail("the provider is not running"),
        (Ok(None), Live::Dead) => {
            RUNNING.fail("the provider is not running: it ended without a clean stop")
        }
        // Processes of another PID namespace are not seen.
        (Ok(None), Live::Closed(_)) | (Err(_), _) => {
            RUNNING.warn("it is unknown whether the provider runs")
        }
    };
    Some(vec![check])
}

fn serving(facts: &Facts) -> Option<Vec<CheckResult>> {
    let node = facts.node.as_ref()?;
    match &node.live {
        Live::Closed(error) if !node.is_own_user() => {
            let socket = facts.config()?.server.socket_path.display();
            let message = format!("this user cannot connect to {socket}: {error}");
            let check = SERVING.fail(message);
            Some(vec![check.code(advice::node::NOT_PERMITTED.code)])
        }
        _ => (LIVE.evaluate)(facts),
    }
}

fn round_trip(facts: &Facts) -> Option<Vec<CheckResult>> {
    let check = match facts.trip.as_ref()? {
        Ok(trip) => ROUND_TRIP.pass().message(format!(
            "the same bytes came back ({}...)",
            trip.ciphertext_prefix
        )),
        Err(error) => ROUND_TRIP.fail(one_line(error)),
    };
    Some(vec![check])
}
