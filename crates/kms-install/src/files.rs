//! The content of each file of an installation.

mod api_server;
mod configuration;
mod monitoring;
mod openbao;
mod static_pod;
mod summary;
mod systemd;

use kms_node::advice::site::quoted;

use crate::plan::{Model, Plan, PlanError};

pub use api_server::{Phase, encryption_configuration};
pub use summary::{Installation, Made};
pub use systemd::{SERVICE_DROP_IN, SOCKET_DROP_IN};

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
    files.extend(systemd::files(plan));
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::plan::tests::values;

    fn made(method: &str, model: Model) -> Vec<File> {
        let mut values = values();
        values.set(&format!("auth.method={method}")).unwrap();
        all(&Plan::new(values, model, None).unwrap()).unwrap()
    }

    fn pod() -> Model {
        Model::StaticPod {
            image: format!("registry.test/provider@sha256:{}", "a".repeat(64)),
            socket_gid: 990,
        }
    }

    #[test]
    fn every_file_in_yaml_is_one_document() {
        for method in ["jwt", "cert", "approle", "userpass", "token"] {
            for model in [Model::Systemd, pod()] {
                for file in made(method, model) {
                    if file.name.ends_with(".yaml") {
                        let read = serde_saphyr::from_str::<Value>(&file.content);
                        assert!(read.is_ok(), "{method}: {}: {read:?}", file.name);
                    }
                }
            }
        }
    }

    #[test]
    fn drop_ins_have_the_values_that_differ_from_the_units() {
        let drop_ins = |assignments: &[&str]| -> Vec<(&str, String)> {
            let mut values = values();
            for assignment in assignments {
                values.set(assignment).unwrap();
            }
            let files = all(&Plan::new(values, Model::Systemd, None).unwrap()).unwrap();
            let drop_ins = files
                .into_iter()
                .filter(|file| file.name.ends_with(".conf"));
            drop_ins
                .map(|file| {
                    (
                        file.name,
                        file.content.lines().skip(1).collect::<Vec<_>>().join(" "),
                    )
                })
                .collect()
        };
        assert_eq!(drop_ins(&[]), []);
        let group = drop_ins(&["server.socketGroup=4242"]);
        assert_eq!(
            group[0],
            (
                SERVICE_DROP_IN,
                "[Service] SupplementaryGroups= SupplementaryGroups=4242".to_owned()
            )
        );
        assert_eq!(
            group[1],
            (
                SOCKET_DROP_IN,
                "[Socket] ListenStream= ListenStream=/run/openbao-kms/kms.sock SocketGroup=4242 \
                 SocketMode=0660"
                    .to_owned()
            )
        );
        let path = drop_ins(&["server.socketPath=/run/openbao-kms/100%/kms.sock"]);
        assert_eq!(
            path[0].1,
            "[Unit] ConditionPathIsDirectory=/run/openbao-kms/100%%"
        );
        let mode = drop_ins(&["server.socketMode=0600"]);
        assert_eq!(mode.len(), 1);
        assert!(mode[0].1.ends_with("SocketMode=0600"), "{mode:?}");
    }

    #[test]
    fn a_login_by_spiffe_has_the_socket_in_the_pod_and_the_id_in_the_role() {
        let mut values = values();
        for assignment in [
            "auth.jwt.spiffe.workloadAPISocket=unix:///run/spire/agent/api.sock",
            "auth.jwt.expectedSubject=spiffe://harbor.test/kms",
        ] {
            values.set(assignment).unwrap();
        }
        let files = all(&Plan::new(values, pod(), None).unwrap()).unwrap();
        for (name, text) in [
            ("bao-kms-provider.yaml", "path: \"/run/spire/agent\""),
            ("openbao-setup.sh", "bound_subject=spiffe://harbor.test/kms"),
            ("installation.json", "register spiffe://harbor.test/kms"),
        ] {
            let file = files.iter().find(|file| file.name == name).unwrap();
            assert!(file.content.contains(text), "{}", file.content);
        }
    }

    #[test]
    fn a_static_pod_mounts_each_directory_once_and_is_no_unit() {
        let files = made("cert", pod());
        let content = |name: &str| -> Value {
            let file = files.iter().find(|file| file.name == name).unwrap();
            serde_saphyr::from_str(&file.content).unwrap()
        };
        let spec = &content("bao-kms-provider.yaml")["spec"];
        let mounts = spec["containers"][0]["volumeMounts"].as_array().unwrap();
        let paths: Vec<_> = mounts
            .iter()
            .map(|mount| mount["mountPath"].as_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "/etc/openbao-kms/config.yaml",
                "/etc/openbao-kms/tls",
                "/var/lib/openbao-kms/credentials",
                "/run/openbao-kms",
                "/var/lib/openbao-kms/state",
            ]
        );
        assert_eq!(spec["volumes"].as_array().unwrap().len(), mounts.len());
        assert_eq!(spec["securityContext"]["supplementalGroups"][0], 990);
        let actions = content("installation.json")["remainingActions"].to_string();
        assert!(!actions.contains("systemctl"), "{actions}");
        assert!(actions.contains("load the image"), "{actions}");
    }
}
