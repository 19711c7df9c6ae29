//! The running provider: first what of it can be seen from outside, at the end whether it does its
//! work. In between lies everything that could keep it from that.

use kms_domain::registry::anchor::Anchor;

use super::verdict::Verdict;
use crate::{
    diagnose::{
        Question,
        facts::Facts,
        node::{LIVE, Live},
        state::STATE,
    },
    report::{Check, one_line},
};

/// A sign, and no cause: what keeps the provider from running is looked for next.
pub const PROCESS: Question = Question {
    id: "provider.process",
    title: "Process of the provider",
    needs: &[],
    judge: process,
};

/// As [`PROCESS`].
pub const SOCKET: Question = Question {
    id: "provider.socket",
    title: "Socket of the provider",
    needs: &[],
    judge: socket,
};

/// The state, if there must be one.
pub const KEPT: Question = Question {
    judge: kept,
    ..STATE
};

/// Nothing keeps the provider from running, and it runs.
pub const RUNNING: Question = Question {
    id: "provider.running",
    title: "The provider runs",
    needs: &[],
    judge: running,
};

/// It answers at its socket, is healthy, and uses the key that its state says.
pub const SERVING: Question = Question {
    judge: serving,
    ..LIVE
};

/// It encrypts and decrypts as kube-apiserver would have it.
pub const ROUND_TRIP: Question = Question {
    id: "kms.round_trip",
    title: "Status, Encrypt and Decrypt through the socket",
    needs: &[],
    judge: round_trip,
};

fn process(facts: &Facts) -> Option<Vec<Check>> {
    let check = match &facts.node.as_ref()?.lock {
        Ok(Some(holder)) => PROCESS.pass().message(format!(
            "process {} ({}) holds the lock on the state",
            holder.pid, holder.program
        )),
        Ok(None) => PROCESS.warn("nobody holds the lock on the state: it does not run"),
        Err(error) => PROCESS.warn(format!("cannot tell who has locked the state: {error}")),
    };
    Some(vec![check])
}

fn socket(facts: &Facts) -> Option<Vec<Check>> {
    let path = facts.config()?.server.socket_path.display();
    let check = match &facts.node.as_ref()?.live {
        Live::Absent => SOCKET.warn(format!("{path} does not exist")),
        Live::Dead => SOCKET.warn(format!("nobody serves {path}")),
        Live::Closed(error) => SOCKET.warn(format!("cannot connect to {path}: {error}")),
        Live::Failed(error) => SOCKET.warn(format!("{path}: {}", one_line(error))),
        Live::Healthy(key_id) => SOCKET
            .pass()
            .message(format!("healthy, with key_id {}", key_id.hash())),
    };
    Some(vec![check])
}

/// A provider that serves has had a state, however new the key is.
fn kept(facts: &Facts) -> Option<Vec<Check>> {
    let node = facts.node.as_ref()?;
    let absent = matches!(&facts.stored, Some(Ok(stored)) if stored.anchor == Anchor::Absent);
    if !absent || node.served().is_none() {
        return (STATE.judge)(facts);
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

fn running(facts: &Facts) -> Option<Vec<Check>> {
    let node = facts.node.as_ref()?;
    let check = match (&node.lock, &node.live) {
        (_, Live::Healthy(_)) | (Ok(Some(_)) | Err(_), Live::Failed(_)) | (Ok(Some(_)), _) => {
            RUNNING.pass()
        }
        (Ok(None), Live::Failed(_)) => RUNNING.warn(
            "cannot tell whether the provider runs: its socket accepts connections, but nobody holds \
             the lock on the state; systemd's socket unit also keeps the socket of one that does not run",
        ),
        (Ok(None), Live::Absent) => RUNNING.fail("the provider is not running"),
        (Ok(None), Live::Dead) => {
            RUNNING.fail("the provider is not running: it ended without a clean stop")
        }
        // Processes of another PID namespace are not seen.
        (Ok(None), Live::Closed(_)) | (Err(_), _) => {
            RUNNING.warn("cannot tell whether the provider runs")
        }
    };
    Some(vec![check])
}

fn serving(facts: &Facts) -> Option<Vec<Check>> {
    let node = facts.node.as_ref()?;
    let socket = facts.config()?.server.socket_path.display();
    let unusable = |message: String, verdict: Verdict| {
        Some(vec![SERVING.fail(message).code(verdict.as_str())])
    };
    match &node.live {
        Live::Absent => unusable(
            format!(
                "the provider runs, but there is no socket {socket}: it is still starting, serves \
                 another socket, or its socket was removed"
            ),
            Verdict::SocketUnusable,
        ),
        Live::Dead => unusable(
            format!("a process holds the state, but nobody serves {socket}"),
            Verdict::SocketUnusable,
        ),
        Live::Closed(error) => {
            let own = node.user.as_ref().ok();
            let verdict = match own {
                Some(user) if user.own.uid == user.provider => Verdict::SocketUnusable,
                _ => Verdict::NotPermitted,
            };
            unusable(
                format!("this user cannot connect to {socket}: {error}"),
                verdict,
            )
        }
        Live::Failed(_) | Live::Healthy(_) => (LIVE.judge)(facts),
    }
}

fn round_trip(facts: &Facts) -> Option<Vec<Check>> {
    let check = match facts.trip.as_ref()? {
        Ok(trip) => ROUND_TRIP.pass().message(format!(
            "the same bytes came back ({}...)",
            trip.ciphertext_prefix
        )),
        Err(error) => ROUND_TRIP.fail(one_line(error)),
    };
    Some(vec![check])
}
