//! Examples at the end of `--help` and of each manual page.

use clap::{Command, CommandFactory as _};

use super::Cli;

/// Per command: purpose and line.
const EXAMPLES: [(&str, &[(&str, &str)]); 23] = [
    (
        "serve",
        &[(
            "as the packaged service runs it",
            "serve --config /etc/openbao-kms/config.yaml",
        )],
    ),
    (
        "doctor",
        &[
            ("everything that this node needs", "doctor"),
            (
                "with the file that kube-apiserver is given",
                "doctor --encryption-config /etc/kubernetes/encryption-config.yaml",
            ),
        ],
    ),
    (
        "triage",
        &[
            ("in an incident", "triage"),
            (
                "with evidence from etcd",
                "triage --endpoints 127.0.0.1:2379 --record /backup/record.json",
            ),
        ],
    ),
    (
        "probe",
        &[
            (
                "as kube-apiserver would call",
                "probe --as-process kube-apiserver",
            ),
            ("wait for a provider that starts", "probe --wait 2m --quiet"),
        ],
    ),
    (
        "dev",
        &[("a lab for one round trip", "dev --once --dir /tmp/lab")],
    ),
    (
        "config",
        &[
            ("each setting with its origin", "config"),
            (
                "elsewhere than on the node",
                "config --settings-only --config config.yaml",
            ),
        ],
    ),
    (
        "key-id",
        &[(
            "the key_id of version 2",
            "key-id --version 2 --created-at 1715731200",
        )],
    ),
    (
        "inspect-state",
        &[
            ("the configured state", "inspect-state"),
            (
                "a copy, for a program",
                "inspect-state /backup/key-registry.json -o json",
            ),
        ],
    ),
    (
        "compare-nodes",
        &[
            (
                "three nodes by their metrics",
                "compare-nodes --metrics a=http://10.0.0.1:8081 --metrics b=http://10.0.0.2:8081 \
                 --metrics c=http://10.0.0.3:8081",
            ),
            (
                "wait until a rotation is through on both",
                "compare-nodes --metrics a=http://10.0.0.1:8081 --metrics b=http://10.0.0.2:8081 \
                 --wait 15m",
            ),
        ],
    ),
    (
        "verify-key",
        &[
            ("with the login of the configuration", "verify-key"),
            (
                "with an administrator's token, when the login does not work",
                "verify-key --token-file /root/bao-token",
            ),
        ],
    ),
    (
        "rotation-plan",
        &[
            ("the stage of a rotation", "rotation-plan"),
            ("wait for the promotion", "rotation-plan --wait 15m"),
        ],
    ),
    (
        "verify-rotation",
        &[
            ("this node alone", "verify-rotation"),
            (
                "with every object in etcd; on a node of kubeadm its certificates are found",
                "verify-rotation --endpoints 127.0.0.1:2379",
            ),
        ],
    ),
    (
        "retire-versions",
        &[(
            "plan, with the running etcd and a backup",
            "retire-versions --before-version 3 --endpoints 127.0.0.1:2379 --etcd-snapshot \
             /backup/etcd.db",
        )],
    ),
    (
        "restore-versions",
        &[("plan", "restore-versions --versions 1,2")],
    ),
    (
        "scan-etcd",
        &[
            ("a snapshot", "scan-etcd --etcd-snapshot /backup/etcd.db"),
            (
                "the running etcd, as YAML",
                "scan-etcd --endpoints 127.0.0.1:2379 --show-names -o yaml",
            ),
        ],
    ),
    (
        "record-backup",
        &[(
            "beside the two snapshots of a set",
            "record-backup --out /backup/record.json --etcd-snapshot /backup/etcd.db \
             --openbao-snapshot /backup/openbao.snap",
        )],
    ),
    (
        "verify-backup",
        &[
            (
                "a backup with the OpenBao of the configuration",
                "verify-backup --etcd-snapshot /backup/etcd.db --record /backup/record.json",
            ),
            (
                "with an isolated restore of OpenBao",
                "verify-backup --etcd-snapshot /backup/etcd.db --openbao-address \
                 https://127.0.0.1:18200 --openbao-cacert /restore/ca.crt --token-file \
                 /restore/token",
            ),
        ],
    ),
    (
        "recover-state",
        &[(
            "plan, with the running etcd and a record",
            "recover-state --endpoints 127.0.0.1:2379 --record /backup/record.json",
        )],
    ),
    (
        "drill",
        &[(
            "both snapshots of a set",
            "drill --etcd-snapshot /backup/etcd.db --openbao-snapshot /backup/openbao.snap \
             --unseal-key-file /backup/unseal-key",
        )],
    ),
    (
        "benchmark",
        &[
            (
                "against OpenBao",
                "benchmark --iterations 1000 --concurrency 16",
            ),
            (
                "through the running provider",
                "benchmark --through-socket --iterations 1000",
            ),
        ],
    ),
    (
        "policy",
        &[("for an administrator of OpenBao", "policy openbao")],
    ),
    ("version", &[("for a program", "version -o json")]),
    ("completion", &[("in this shell", "completion bash")]),
];

/// The command line with its examples.
pub(super) fn command() -> Command {
    EXAMPLES
        .iter()
        .fold(Cli::command(), |all, (name, examples)| {
            let mut text = "Examples:".to_owned();
            for (purpose, line) in *examples {
                text.push_str(&format!("\n  # {purpose}\n  {} {line}", super::PROGRAM));
            }
            all.mut_subcommand(name, |command| command.after_long_help(text))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_that_parse() {
        let names: Vec<_> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        let shown = command();
        let shown = shown.get_subcommands().filter(|it| !it.is_hide_set());
        assert_eq!(names, shown.map(Command::get_name).collect::<Vec<_>>());
        for (name, examples) in EXAMPLES {
            for (_, line) in examples {
                assert_eq!(line.split(' ').next(), Some(name));
                let words = std::iter::once("x").chain(line.split(' '));
                let parsed = command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }
}
