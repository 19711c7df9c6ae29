//! Socket activation: the listener passed by systemd, by the protocol of `sd_listen_fds(3)`.
//! Connections made while no provider runs wait in its queue.

use std::{io, os::unix::net::UnixListener};

use kms_node::config::Environment;
use listenfd::ListenFd;

/// Why the passed sockets are unusable. The sockets are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Exactly one listener is expected.
    #[error(
        "systemd passed {passed} sockets in place of one; nothing was served, no data is lost. \
         Leave one ListenStream= in the socket unit, then run `systemctl daemon-reload` and \
         `systemctl restart bao-kms-provider.socket bao-kms-provider.service`"
    )]
    Count {
        /// The value of `LISTEN_FDS`.
        passed: String,
    },
    /// The descriptor is another kind of socket.
    #[error(
        "the socket that systemd passed is not a Unix stream socket; nothing was served, no data \
         is lost. Set ListenStream= in the socket unit to the path in server.socketPath"
    )]
    Kind(#[source] io::Error),
}

/// Takes the listener passed to this process, if any. Call it once, and before other threads start,
/// because it removes the environment variables.
///
/// # Errors
/// [`ActivationError`]
pub fn passed_listener(environment: &Environment) -> Result<Option<UnixListener>, ActivationError> {
    let Some(passed) = passed(environment, std::process::id()) else {
        return Ok(None);
    };
    if passed != "1" {
        return Err(ActivationError::Count {
            passed: passed.to_owned(),
        });
    }
    ListenFd::from_env()
        .take_unix_listener(0)
        .map_err(ActivationError::Kind)
}

/// The number of sockets, if they are for the process `own`.
fn passed(environment: &Environment, own: u32) -> Option<&str> {
    let pid = environment.variable("LISTEN_PID")?;
    let ours = pid.parse() == Ok(own);
    environment.variable("LISTEN_FDS").filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_sockets_for_this_process_are_taken() {
        for (variables, expected) in [
            (&[][..], None),
            (&[("LISTEN_FDS", "1")], None),
            (&[("LISTEN_FDS", "1"), ("LISTEN_PID", "8")], None),
            (&[("LISTEN_PID", "7")], None),
            (&[("LISTEN_FDS", "1"), ("LISTEN_PID", "7")], Some("1")),
        ] {
            let named = variables.iter();
            let environment = Environment {
                variables: named
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect::<BTreeMap<_, _>>(),
                effective_uid: 0,
            };
            assert_eq!(passed(&environment, 7), expected, "{variables:?}");
        }
        let own = std::process::id().to_string();
        let variables = [("LISTEN_PID", &*own), ("LISTEN_FDS", "2")];
        let environment = Environment {
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            effective_uid: 0,
        };
        let refused = passed_listener(&environment).unwrap_err();
        assert!(refused.to_string().starts_with("systemd passed 2 sockets"));
    }
}
