//! `installation.json`: what was made, to compare on every node.

use kms_domain::digest::TextHash;
use kms_node::build_info::BuildInfo;
use schemars::JsonSchema;
use serde::Serialize;

use super::File;
use crate::plan::{Model, Plan};

/// The summary of an installation. A compatibility surface: members are added, never renamed.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Installation {
    schema_version: &'static str,
    generator: Generator,
    /// `systemd` or `static-pod`.
    model: &'static str,
    /// Of the static pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Equal on every node of the cluster.
    pub identity_fingerprint: String,
    key_lineage_id: String,
    /// User of the provider on a node.
    runtime_user: &'static str,
    socket_group: String,
    socket_path: String,
    state_path: String,
    policy_name: String,
    /// Without this file.
    pub files: Vec<Made>,
    /// Actions for people and other tools, in order.
    pub remaining_actions: Vec<String>,
}

/// The program that made the files.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Generator {
    name: &'static str,
    version: &'static str,
    commit: &'static str,
}

/// A file of the installation.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Made {
    pub name: &'static str,
    /// In octal.
    pub mode: String,
    pub purpose: &'static str,
    /// Of its content, by which the commands of a node recognize a change.
    pub hash: String,
}

impl Installation {
    #[must_use]
    pub fn of(plan: &Plan, files: &[File]) -> Self {
        let config = &plan.loaded.config;
        let text = |path: &str| {
            let mut settings = plan.loaded.settings.iter();
            let setting = settings.find(|setting| setting.path == path);
            setting
                .and_then(|setting| setting.value.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let (model, image, runtime_user) = match &plan.model {
            Model::Systemd => ("systemd", None, "openbao-kms"),
            Model::StaticPod { image, .. } => ("static-pod", Some(image.clone()), "65532:65532"),
        };
        Self {
            schema_version: "v1",
            generator: Generator {
                name: "bao-kms-provider",
                version: BuildInfo::CURRENT.version,
                commit: BuildInfo::CURRENT.commit,
            },
            model,
            image,
            identity_fingerprint: config.fingerprint().to_string(),
            key_lineage_id: config.scope.key_lineage_id.to_string(),
            runtime_user,
            socket_group: text("server.socketGroup"),
            socket_path: text("server.socketPath"),
            state_path: text("state.path"),
            policy_name: plan.policy_name.clone(),
            files: files
                .iter()
                .map(|file| Made {
                    name: file.name,
                    mode: format!("{:04o}", file.mode),
                    purpose: file.purpose,
                    hash: TextHash::of(&file.content).as_str().to_owned(),
                })
                .collect(),
            remaining_actions: remaining(plan),
        }
    }
}

fn remaining(plan: &Plan) -> Vec<String> {
    let install = match &plan.model {
        Model::Systemd => "on every node, install the package of bao-kms-provider",
        Model::StaticPod { .. } => {
            "on every node, install the program bao-kms-provider, and load the image"
        }
    };
    let directory = super::API_SERVER_DIRECTORY;
    let auth = &plan.loaded.config.auth;
    let registration = auth.method.workload_api_socket().map(|socket| {
        let user = match &plan.model {
            Model::Systemd => "openbao-kms",
            Model::StaticPod { .. } => "65532",
        };
        format!(
            "on the SPIRE server, register {} for the user {user} of every node; its agent has the \
             socket {}",
            auth.subject().unwrap_or_default(),
            socket.display()
        )
    });
    let prepare = format!(
        "on every node, as root in this directory: bao-kms-provider node prepare . {} --apply",
        plan.operator_files()
    );
    let mut actions = vec![
        install.to_owned(),
        "prepare OpenBao once, as an administrator: ./openbao-setup.sh".to_owned(),
    ];
    actions.extend(registration);
    actions.extend([
        prepare,
        "on every node, as root in this directory: bao-kms-provider node check ., then \
         bao-kms-provider node start . --apply"
            .to_owned(),
        format!(
            "when every node is ready, restart each API server with its new flags; it reads \
             {directory}/encryption-config.yaml, which is encryption-config-readers.yaml"
        ),
        "when every API server is a reader, replace that file by encryption-config.yaml in the \
         same way"
            .to_owned(),
    ]);
    actions
}

pub(super) fn file(plan: &Plan, files: &[File]) -> File {
    let summary = Installation::of(plan, files);
    let json = serde_json::to_string_pretty(&summary).unwrap_or_default();
    File {
        name: "installation.json",
        mode: 0o640,
        purpose: "what was made, with the fingerprint to compare on every node",
        content: json + "\n",
    }
}
