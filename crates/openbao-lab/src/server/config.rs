//! The server's own configuration.

use std::{io, path::Path};

use crate::{port::free_port, server::Audit};

/// The audit log's name in the server's directory.
pub(crate) const AUDIT_LOG: &str = "audit.log";

/// Where one server listens, on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) cluster: u16,
}

impl Ports {
    /// Two ports that were free a moment ago.
    pub(crate) fn choose() -> io::Result<Self> {
        Ok(Self {
            api: free_port()?,
            cluster: free_port()?,
        })
    }
}

/// The configuration in HCL. With the smallest multiplier an election, which a lone server must
/// win as well, takes one to two seconds instead of five to ten.
pub(crate) fn text(directory: &str, ports: Ports, audit: Audit) -> String {
    let file = |name: &str| quoted(&Path::new(directory).join(name));
    let Ports { api, cluster } = ports;
    let audit = match audit {
        Audit::Off => String::new(),
        Audit::File => format!(
            "audit \"file\" \"lab\" {{\n  options {{\n    file_path = {}\n  }}\n}}\n",
            file(AUDIT_LOG)
        ),
    };
    format!(
        r#"api_addr = "https://127.0.0.1:{api}"
cluster_addr = "https://127.0.0.1:{cluster}"
storage "raft" {{
  path = {data}
  node_id = "lab"
  performance_multiplier = "1"
}}
listener "tcp" {{
  address = "127.0.0.1:{api}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = {certificate}
  tls_key_file = {key}
}}
{audit}"#,
        data = file("raft"),
        certificate = file("server.crt"),
        key = file("server.key"),
    )
}

/// HCL writes strings as JSON does.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}
