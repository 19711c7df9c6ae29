//! The server's configuration file.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    port::free_port,
    server::{Audit, snapshot::TRANSFER},
};

/// Limit of a stored entry in bytes. A key with thousands of versions is one entry, beyond the default of
/// 1 MiB.
const MAX_ENTRY: u32 = 8 << 20;

/// Name of the audit log in the server's directory.
pub(crate) const AUDIT_LOG: &str = "audit.log";

/// Ports of one server on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) cluster: u16,
}

impl Ports {
    /// Returns two ports that were just free.
    pub(crate) fn choose() -> io::Result<Self> {
        Ok(Self {
            api: free_port()?,
            cluster: free_port()?,
        })
    }
}

/// The key of a `seal "static"`.
#[derive(Debug, Clone)]
pub struct StaticSeal {
    /// `current_key_id`.
    pub key_id: String,
    /// Absolute path of the file with `current_key`.
    pub key_file: PathBuf,
}

/// Settings that differ between servers.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Name in its cluster.
    pub(crate) node_id: String,
    /// The `https` address for other members of the cluster; `None` for the cluster port.
    pub(crate) cluster_address: Option<String>,
    pub(crate) audit: Audit,
    /// Auto-unseal key instead of unseal shares.
    pub(crate) seal: Option<StaticSeal>,
    /// Whether a quorum of shares may create a root token. OpenBao denies it by default.
    pub(crate) quorum_makes_root: bool,
}

/// The configuration in HCL. The smallest performance multiplier makes a raft election take one to
/// two seconds instead of five to ten. A single server needs an election too.
pub(crate) fn text(directory: &str, ports: Ports, settings: &Settings) -> String {
    let file = |name: &str| quoted(&Path::new(directory).join(name));

    let Ports { api, cluster } = ports;
    let cluster_address = match &settings.cluster_address {
        Some(address) => address.clone(),
        None => format!("https://127.0.0.1:{cluster}"),
    };

    let audit = match settings.audit {
        Audit::Off => String::new(),
        Audit::File => format!(
            "audit \"file\" \"lab\" {{\n  options {{\n    file_path = {}\n  }}\n}}\n",
            file(AUDIT_LOG)
        ),
    };

    let seal = settings.seal.as_ref().map_or_else(String::new, |seal| {
        let key = format!("file://{}", seal.key_file.display());
        format!(
            "seal \"static\" {{\n  current_key_id = {}\n  current_key = {}\n}}\n",
            quoted(Path::new(&seal.key_id)),
            quoted(Path::new(&key))
        )
    });

    let generate_root = match settings.quorum_makes_root {
        true => "  disable_unauthed_generate_root_endpoints = false\n",
        false => "",
    };
    format!(
        r#"api_addr = "https://127.0.0.1:{api}"
cluster_addr = {cluster_address}
storage "raft" {{
  path = {data}
  node_id = {node_id}
  performance_multiplier = "1"
  max_entry_size = {MAX_ENTRY}
}}
listener "tcp" {{
  address = "127.0.0.1:{api}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = {certificate}
  tls_key_file = {key}
  max_request_duration = "{TRANSFER}"
{generate_root}}}
{audit}{seal}"#,
        data = file("raft"),
        cluster_address = quoted(Path::new(&cluster_address)),
        node_id = quoted(Path::new(&settings.node_id)),
        certificate = file("server.crt"),
        key = file("server.key"),
    )
}

/// HCL strings have JSON syntax.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}
