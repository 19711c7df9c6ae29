//! Drops root's capabilities before the daemon serves.

use std::{fs::File, io, iter, path::Path};

use rustix::{
    process::{Gid, getegid, getgroups},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups},
};

use super::Outcome;
use crate::config::Config;

/// Listening on lower ports requires a capability.
const FIRST_FREE_PORT: u16 = 1024;

const NONE: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// Drops every capability of the calling thread, unless the start requires one.
pub(super) fn drop_all(config: &Config) -> Outcome {
    match try_to_drop(config) {
        Ok(()) => Outcome::Enforced,
        Err(reason) => Outcome::Refused(reason),
    }
}

fn try_to_drop(config: &Config) -> Result<(), String> {
    let refused = |errno| format!("the kernel refused it: {errno}");
    let held = capabilities(None).map_err(refused)?;
    if held.permitted.is_empty() && held.inheritable.is_empty() {
        return Ok(());
    }
    let listeners = [&config.server.metrics, &config.server.health];
    for port in listeners.into_iter().flatten().map(|at| at.port()) {
        if (1..FIRST_FREE_PORT).contains(&port) {
            return Err(format!("listening on port {port} needs one"));
        }
    }
    join_the_sockets_group(config)?;
    // Clears the effective set first, to test whether the daemon needs the capabilities.
    let effective = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective, ..held }).map_err(refused)?;
    let credentials = config.auth.credential_files().into_iter();
    let mut needed =
        iter::once(&*config.openbao.ca_cert_file).chain(credentials.map(|(_, path)| path));
    if let Some(path) = needed.find(|path| is_denied(path)) {
        set_capabilities(None, held).map_err(refused)?;
        let path = path.display();
        return Err(format!(
            "{path} is readable only with them: give the file to the provider's user or group"
        ));
    }
    set_capabilities(None, NONE).map_err(refused)
}

/// A member of the group may set it on the socket; other users need a capability.
fn join_the_sockets_group(config: &Config) -> Result<(), String> {
    let gid = config
        .server
        .socket_group
        .gid()
        .map_err(|error| error.to_string())?;
    let cannot = |errno| format!("giving the socket to group {gid} needs one: {errno}");
    let gid = Gid::from_raw(gid);
    let mut groups = getgroups().map_err(cannot)?;
    if getegid() == gid || groups.contains(&gid) {
        return Ok(());
    }
    groups.push(gid);
    set_thread_groups(&groups).map_err(cannot)
}

fn is_denied(path: &Path) -> bool {
    File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}
