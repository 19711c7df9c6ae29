//! The content of each file of an installation.

mod api_server;
mod configuration;
mod monitoring;
mod openbao;
mod static_pod;
mod summary;

use kms_node::advice::site::quoted;

use crate::plan::{Model, Plan, PlanError};

pub use api_server::{Phase, encryption_configuration};
pub use summary::{Installation, Made};

/// Directory of the API server's encryption configuration on a node.
pub const API_SERVER_DIRECTORY: &str = "/etc/kubernetes/openbao-kms";

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: &'static str,
    pub mode: u32,
    /// One sentence without a full stop.
    pub purpose: &'static str,
    pub content: String,
}

/// All files, the summary last.
///
/// # Errors
/// The configuration as written differs from the plan: a fault of this program.
pub fn all(plan: &Plan) -> Result<Vec<File>, PlanError> {
    let mut files = vec![
        File {
            name: "config.yaml",
            mode: 0o640,
            purpose: "configuration of the provider, for /etc/openbao-kms/config.yaml on every node",
            content: configuration::configuration(plan)?,
        },
        File {
            name: "openbao-policy.hcl",
            mode: 0o644,
            purpose: "policy of the provider in OpenBao",
            content: plan.policy.clone(),
        },
        File {
            name: "openbao-setup.sh",
            mode: 0o750,
            purpose: "prepares OpenBao with the bao command; run it once for the key",
            content: openbao::script(plan),
        },
        File {
            name: "openbao.tf",
            mode: 0o644,
            purpose: "the same for OpenTofu, in place of the script",
            content: openbao::tofu(plan),
        },
    ];
    files.extend(api_server::files(plan));
    if let Model::StaticPod { image, socket_gid } = &plan.model {
        files.push(File {
            name: "bao-kms-provider.yaml",
            mode: 0o644,
            purpose: "manifest of the static pod, for /etc/kubernetes/manifests on every node",
            content: static_pod::manifest(plan, image, *socket_gid),
        });
    }
    files.extend(monitoring::files(plan));
    files.push(summary::file(plan, &files));
    Ok(files)
}

/// A scalar of YAML, in double quotes.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// One word of a shell.
fn word(text: &str) -> String {
    quoted(text)
}

/// Indents each line that is not empty.
fn indented(text: &str, spaces: usize) -> String {
    let indent = " ".repeat(spaces);
    text.lines()
        .map(|line| match line.is_empty() {
            true => "\n".to_owned(),
            false => format!("{indent}{line}\n"),
        })
        .collect()
}
