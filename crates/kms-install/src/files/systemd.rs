//! Drop-ins for the packaged units, where the configuration differs from them.

use std::path::Path;

use kms_node::config::SocketGroup;

use super::File;
use crate::plan::{Model, Plan};

pub const SERVICE_DROP_IN: &str = "bao-kms-provider.service.conf";
pub const SOCKET_DROP_IN: &str = "bao-kms-provider.socket.conf";

/// Values of the packaged units.
const SOCKET: &str = "/run/openbao-kms/kms.sock";
const GROUP: &str = "openbao-kms-socket";
const MODE: &str = "0660";

pub(super) fn files(plan: &Plan) -> Vec<File> {
    if plan.model != Model::Systemd {
        return Vec::new();
    }
    let server = &plan.loaded.config.server;
    let path = literal(&server.socket_path.display().to_string());
    let directory = server.socket_path.parent().unwrap_or(Path::new("/"));
    let directory = literal(&directory.display().to_string());
    let group = literal(&match &server.socket_group {
        SocketGroup::Name(name) => name.clone(),
        SocketGroup::Id(gid) => gid.to_string(),
    });
    let mode = format!("{:04o}", server.socket_mode.bits());

    let mut unit = String::new();
    if path != SOCKET {
        unit = format!("[Unit]\nConditionPathIsDirectory={directory}\n");
    }
    let mut service = unit.clone();
    if group != GROUP {
        // Also a group of a directory service, which has no local entry to add a member to.
        service += &format!("[Service]\nSupplementaryGroups=\nSupplementaryGroups={group}\n");
    }
    let mut socket = String::new();
    if (&*path, &*group, &*mode) != (SOCKET, GROUP, MODE) {
        socket = format!(
            "{unit}[Socket]\nListenStream=\nListenStream={path}\nSocketGroup={group}\n\
             SocketMode={mode}\n"
        );
    }
    [
        (
            SERVICE_DROP_IN,
            service,
            "drop-in of the packaged unit, for this socket and its group",
        ),
        (
            SOCKET_DROP_IN,
            socket,
            "drop-in of the packaged socket unit, for this socket and its group",
        ),
    ]
    .into_iter()
    .filter(|(_, content, _)| !content.is_empty())
    .map(|(name, content, purpose)| File {
        name,
        mode: 0o644,
        purpose,
        content: format!("# By bao-kms-provider init, from the settings of server.\n{content}"),
    })
    .collect()
}

/// Without specifiers of systemd.
fn literal(text: &str) -> String {
    text.replace('%', "%%")
}
