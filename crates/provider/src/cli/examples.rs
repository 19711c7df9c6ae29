//! Examples at the end of `--help` and of each manual page.

use clap::{Command, CommandFactory as _};

use super::Cli;

/// Per command: purpose and line.
const EXAMPLES: [(&str, &[(&str, &str)]); 31] = [
    (
        "init",
        &[
            ("with questions, on a terminal", "init --out openbao-kms"),
            (
                "from a file of values, for a new key",
                "init --values values.yaml --new-key --out openbao-kms",
            ),
        ],
    ),
    (
        "node",
        &[
            (
                "the steps of this node, then the same with --apply",
                "node prepare openbao-kms --ca ca.crt --credential identity.jwt",
            ),
            (
                "enable the provider, start it, and wait until it is ready",
                "node start openbao-kms --apply",
            ),
        ],
    ),
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
            (
                "before a change of release",
                "doctor --for-version release.json --endpoints 127.0.0.1:2379",
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
            (
                "an older file in the present form",
                "config migrate old.yaml --out config.yaml",
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
        "support-bundle",
        &[
            ("for a ticket", "support-bundle"),
            (
                "where the provider runs in a container",
                "support-bundle /tmp/cp1.tar.gz --log /var/log/containers/bao-kms-provider.log",
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
        "rollout",
        &[
            ("the phase of each API server", "rollout"),
            (
                "whether plaintext is gone, so that identity may be removed",
                "rollout --for identity-removal --encryption-config /etc/kubernetes/encryption-config.yaml --endpoints 127.0.0.1:2379",
            ),
            (
                "named API servers",
                "rollout --server https://10.0.0.11:6443 --server https://10.0.0.12:6443 --for writers",
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
        "rewrite",
        &[
            (
                "the objects of each resource, and the time",
                "rewrite --encryption-config /etc/kubernetes/encryption-config.yaml --dry-run",
            ),
            (
                "on a control-plane node, proven at the end",
                "rewrite --encryption-config /etc/kubernetes/encryption-config.yaml --endpoints 127.0.0.1:2379",
            ),
            (
                "Secrets alone, slowly",
                "rewrite --resource secrets --rate 5",
            ),
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
        "backups",
        &[(
            "which snapshots belong together",
            "backups --etcd-dir /backup/etcd --openbao-dir /backup/openbao",
        )],
    ),
    (
        "recover-state",
        &[(
            "plan, with the running etcd and a record",
            "recover-state --endpoints 127.0.0.1:2379 --record /backup/record.json",
        )],
    ),
    (
        "extract",
        &[
            (
                "a deleted Secret as YAML for kubectl",
                "extract --etcd-snapshot etcd.db --resource secrets --namespace shop --name db \
                 --output-dir recovered",
            ),
            (
                "names, revisions and sizes in a namespace",
                "extract --etcd-snapshot etcd.db --all-in-namespace shop --list",
            ),
        ],
    ),
    (
        "drill",
        &[
            (
                "both snapshots of a set",
                "drill --etcd-snapshot /backup/etcd.db --openbao-snapshot /backup/openbao.snap \
                 --unseal-key-file /backup/unseal-key",
            ),
            (
                "the signed statements of earlier drills",
                "drill history /backup/statements --key evidence.pub --max-age 192h",
            ),
        ],
    ),
    (
        "verify-attestation",
        &[(
            "a statement of a drill, with the snapshots that it is about",
            "verify-attestation /backup/drill.dsse.json --key evidence.pub --etcd-snapshot \
             /backup/etcd.db --openbao-snapshot /backup/openbao.snap",
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

/// The command line with its groups of commands and its examples.
pub(super) fn command() -> Command {
    let with_examples = EXAMPLES
        .iter()
        .fold(Cli::command(), |all, (name, examples)| {
            let mut text = "Examples:".to_owned();
            for (purpose, line) in *examples {
                text.push_str(&format!("\n  # {purpose}\n  {} {line}", super::PROGRAM));
            }
            all.mut_subcommand(name, |command| command.after_long_help(text))
        });
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{}\nOptions:\n{{options}}{{after-help}}",
        groups(&with_examples)
    );
    with_examples.help_template(template)
}

/// Columns of the help text, as of the parser.
const WIDTH: usize = 100;

/// The commands with their purposes, under the headings of their groups.
fn groups(cli: &Command) -> String {
    let mut text = String::new();
    for (heading, names) in super::GROUPS {
        text.push_str(&format!("\n{heading}:\n"));
        let commands = names.iter().filter_map(|name| cli.find_subcommand(name));
        for command in commands.filter(|it| !it.is_hide_set()) {
            let about = command.get_about().map(ToString::to_string);
            let mut line = format!("  {:18}", command.get_name());
            for word in about.unwrap_or_default().split(' ') {
                if line.len() + word.len() >= WIDTH {
                    text.push_str(&line);
                    line = format!("\n{:20}", "");
                }
                line.push_str(&format!(" {word}"));
            }
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_that_parse() {
        let shown = command();
        let shown = shown.get_subcommands().filter(|it| !it.is_hide_set());
        let mut shown: Vec<_> = shown.map(Command::get_name).collect();
        let mut names: Vec<_> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        shown.sort_unstable();
        assert_eq!(names, shown);
        for (name, examples) in EXAMPLES {
            for (_, line) in examples {
                assert_eq!(line.split(' ').next(), Some(name));
                let words = std::iter::once("x").chain(line.split(' '));
                let parsed = command().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn the_help_lists_every_command_below_its_group() {
        let help = command().render_long_help().to_string();
        let mut rest = help.as_str();
        for (heading, names) in super::super::GROUPS {
            let (_, below) = rest.split_once(&format!("\n{heading}:\n")).unwrap();
            let shown = names
                .iter()
                .filter(|name| !["man", "schema", "pkcs11-helper"].contains(name));
            rest = shown.fold(below, |rest, name| {
                let (before, after) = rest.split_once(&format!("  {name} ")).unwrap();
                assert!(!before.contains("\n\n"), "{before}");
                after
            });
        }
        assert!(rest.contains("--config <PATH>"), "{rest}");
    }
}
