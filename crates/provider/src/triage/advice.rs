//! The next safe steps, with the paths and addresses of this node, and the steps that must not be taken.

use std::path::Path;

use super::{evidence::lowest_hidden, verdict::Verdict};
use crate::{
    config::Config,
    diagnose::{bao, facts::Facts},
    plain_http::HttpUrl,
    report::{Check, shell},
};

/// Whom the advice is for.
pub struct Case<'a> {
    /// What was found out.
    pub facts: &'a Facts,
    /// The configuration file, whether or not it could be read.
    pub config_path: &'a Path,
    /// What is not as it should be.
    pub stopped_at: Option<&'a Check>,
}

/// What to do, in this order.
#[must_use]
pub fn next_steps(verdict: Verdict, case: &Case<'_>) -> Vec<String> {
    let command = case.command();
    let mut steps = match case.facts.config() {
        Some(config) => with_config(verdict, case, config),
        None => without_config(verdict, case),
    };
    match verdict {
        Verdict::Healthy | Verdict::NotPermitted => {}
        _ => steps.push(format!("then see what comes next: {command}")),
    }
    steps
}

/// What would make it worse, what fits this case first.
#[must_use]
pub fn do_not(verdict: Verdict) -> Vec<&'static str> {
    if verdict == Verdict::Healthy {
        return Vec::new();
    }
    let mut all = of_verdict(verdict).to_vec();
    all.extend(NEVER);
    all
}

/// Unsafe whatever has happened.
pub const NEVER: [&str; 8] = [
    "do not delete or overwrite the encrypted data in etcd",
    "do not recreate the Transit key or make one of its name: it decrypts nothing of the old one",
    "do not raise min_decryption_version, and do not trim or delete versions of the key",
    "do not change the provider name or another identity setting to make errors go away",
    "do not bypass the associated data (AAD), and do not edit values or annotations in etcd",
    "do not add identity to the EncryptionConfiguration as a repair: it decrypts nothing",
    "do not delete, edit or make up the state or its checkpoint",
    "do not log plaintext to find out more",
];

fn of_verdict(verdict: Verdict) -> &'static [&'static str] {
    match verdict {
        Verdict::OpenbaoUninitialized => &[
            "do not run `bao operator init` but as the first step of restoring a snapshot into it: \
             a key that is made in the new OpenBao decrypts nothing",
        ],
        Verdict::NotOpenbao => {
            &["do not restore OpenBao and do not create a key: nothing is known about either"]
        }
        Verdict::OpenbaoUntrusted => &[
            "do not take over the CA from whatever answers at the address, and do not turn \
             verification off",
        ],
        Verdict::LoginRefused | Verdict::PolicyInsufficient => {
            &["do not give the provider a root token or a wider policy"]
        }
        Verdict::KeyRecreated => &[
            "do not accept the key of today for the old one, and do not start a provider without its \
             state beside it",
        ],
        Verdict::OpenbaoRolledBack | Verdict::VersionsLost => &[
            "do not rotate the key to reach the missing numbers: new versions decrypt nothing of the \
             old ones",
        ],
        Verdict::VersionsHidden => &[
            "do not delete a backup of OpenBao or etcd before the versions were tried: a key that \
             was recreated under the same name looks the same below the limit",
        ],
        Verdict::StateLocked => &["do not delete the lock file: it frees nothing"],
        Verdict::StateLost | Verdict::StateExchanged => {
            &["do not restart a provider that still serves before its state is back"]
        }
        Verdict::StateRolledBack | Verdict::CheckpointLost => &[
            "do not start with --accept-missing-checkpoint before the state was compared with a peer",
        ],
        Verdict::IdentityChanged => &["do not delete the state so that it fits the configuration"],
        Verdict::StateOtherRelease => {
            &["do not edit, delete or rebuild what the newer release wrote"]
        }
        _ => &[],
    }
}

impl Case<'_> {
    fn program(&self, arguments: &str) -> String {
        let config = shell(self.config_path);
        format!("bao-kms-provider {arguments} --config {config}")
    }

    fn command(&self) -> String {
        self.program("triage")
    }

    /// What the check itself says.
    fn remedy(&self) -> Option<String> {
        self.stopped_at?.remedy().map(str::to_owned)
    }

    fn prove_pair(&self) -> String {
        format!(
            "prove the restored OpenBao in isolation before it goes into service: {}",
            self.program("verify-backup --etcd-snapshot FILE --depth data")
        )
    }
}

const LOG: &str = "journalctl -u bao-kms-provider -n 50";
const OLDER_ETCD: &str = "without such a backup, restore an etcd snapshot that does not need what is \
    missing; what it does not have is lost";

fn without_config(verdict: Verdict, case: &Case<'_>) -> Vec<String> {
    let path = case.config_path.display();
    let mut steps: Vec<String> = case.remedy().into_iter().collect();
    match verdict {
        Verdict::NotPermitted => steps = vec![format!("sudo {}", case.command())],
        Verdict::ConfigLost => {
            steps = vec![
            format!(
                "put {path} back from configuration management or from a backup, or name it with \
                 --config"
            ),
            "compare providerName, clusterId, instanceId, namespace, transitMountId, keyLineageId, \
             mountPath and keyName with a backup record or another node: each must be as before"
                .to_owned(),
        ]
        }
        _ => steps.push(format!("see every problem: {}", case.program("config"))),
    }
    steps
}

fn with_config(verdict: Verdict, case: &Case<'_>, config: &Config) -> Vec<String> {
    let state = shell(&config.state_path.document()).into_owned();
    let checkpoint = shell(&config.state_path.checkpoint()).into_owned();
    let both = format!("{state} and {checkpoint}");
    let recover = format!(
        "without a backup rebuild them from evidence, first as a plan: {} (or --record FILE, \
         --peer-state FILE)",
        case.program("recover-state --etcd-snapshot FILE")
    );
    let from_backup = format!(
        "stop the provider, put {both} back together, from a backup of this node or a copy of a \
         healthy peer's"
    );
    let own = || case.remedy().into_iter();
    match verdict {
        Verdict::Healthy => vec![
            format!(
                "if kube-apiserver still fails, look at its side: {}",
                case.program("doctor --encryption-config /etc/kubernetes/encryption-config.yaml")
            ),
            "restart kube-apiserver, and read what is encrypted: kubectl get secrets -A".to_owned(),
        ],
        Verdict::NotRunning => vec![
            "systemctl start bao-kms-provider (of a static pod: put its manifest back)".to_owned(),
            format!("if it ends again, its log says why: {LOG}"),
        ],
        Verdict::SocketUnusable => {
            let mut steps = vec![format!("see what it waits for: {LOG}")];
            steps.extend(ready(config));
            steps.push(
                "if it waits for nothing, restart it, which makes the socket anew: systemctl restart \
                 bao-kms-provider"
                    .to_owned(),
            );
            steps
        }
        Verdict::ProviderUnhealthy => {
            let mut steps: Vec<_> = ready(config).into_iter().collect();
            steps.push(format!("see its log: {LOG}"));
            steps.push(
                "if neither tells, restart it: systemctl restart bao-kms-provider".to_owned(),
            );
            steps
        }
        Verdict::AuthMaterialUnusable => {
            let file = config.auth.jwt_file().map(|(_, file)| shell(file));
            let file = file.unwrap_or_default();
            own()
                .chain([format!(
                    "if the issuer is gone, put a JWT of an emergency issuer with the same claims at \
                     {file}, or pin the public key in OpenBao's login, for as short as possible"
                )])
                .collect()
        }
        Verdict::OpenbaoUnreachable => own()
            .chain([of_server(config, "status")])
            .collect(),
        Verdict::NotOpenbao => own()
            .chain([format!(
                "see which software answers: curl --include --cacert {} {}/v1/sys/seal-status (OpenBao \
                 sends JSON with `sealed`)",
                shell(&config.openbao.ca_cert_file),
                config.openbao.address
            )])
            .collect(),
        Verdict::OpenbaoSealed => vec![format!(
            "run `{}` until the threshold is reached, or mend its auto-unseal",
            of_server(config, "operator unseal")
        )],
        Verdict::OpenbaoUntrusted => own()
            .chain([format!(
                "compare with the CA from a backup or another node: {}",
                shell(&config.openbao.ca_cert_file)
            )])
            .collect(),
        Verdict::PolicyInsufficient => vec![format!(
            "write the policy of the role anew, as an administrator: {} | {} NAME -",
            case.program("policy openbao"),
            bao(config, "policy write")
        )],
        Verdict::KeyLost => vec![
            format!(
                "compare transit.mountPath {} and transit.keyName {} with a backup record: is it the \
                 right key, and the right OpenBao?",
                config.key.mount_path, config.key.key_name
            ),
            "if they are right, restore a backup of OpenBao that has the key".to_owned(),
            case.prove_pair(),
            OLDER_ETCD.to_owned(),
        ],
        Verdict::KeyRecreated => vec![
            "stop the provider: systemctl stop bao-kms-provider".to_owned(),
            "restore the backup of OpenBao that has the original key".to_owned(),
            case.prove_pair(),
            OLDER_ETCD.to_owned(),
        ],
        Verdict::OpenbaoRolledBack => vec![
            "restore a later backup of OpenBao, from after the rotation".to_owned(),
            case.prove_pair(),
            OLDER_ETCD.to_owned(),
        ],
        Verdict::VersionsLost => vec![
            "restore a backup of OpenBao from before the versions were deleted".to_owned(),
            case.prove_pair(),
            OLDER_ETCD.to_owned(),
        ],
        Verdict::VersionsHidden => {
            let lowest = lowest_hidden(case.facts).map_or(1, |version| version.get());
            let limit = format!("min_decryption_version={lowest}");
            vec![format!("lower the limit: {}", configure(config, &limit))]
        }
        Verdict::ObjectsDamaged => vec![
            format!(
                "find out which they are: {}",
                case.program("verify-backup --etcd-snapshot FILE --depth data --show-names")
            ),
            "restore an etcd snapshot from before, or make these objects anew from their source once \
             the rest is in service"
                .to_owned(),
        ],
        Verdict::StateLost | Verdict::StateCorrupt | Verdict::StateRolledBack => {
            vec![from_backup, recover]
        }
        Verdict::CheckpointLost => vec![
            from_backup,
            format!(
                "or compare generation and hash with another node ({}), and only if this state is \
                 the newest start it once with `serve --accept-missing-checkpoint`",
                case.program("inspect-state")
            ),
        ],
        Verdict::IdentityChanged => own()
            .chain([
                format!(
                    "change these settings back in {}: what is encrypted stays readable only under \
                     the old names",
                    shell(case.config_path)
                ),
                "if they are right, the state or the evidence is that of another cluster: look for \
                 the right one"
                    .to_owned(),
            ])
            .collect(),
        Verdict::EvidenceUnusable => vec![
            "take the evidence of this cluster and this key, or an undamaged copy of it; without \
             evidence the walk goes on, and proves less"
                .to_owned(),
        ],
        Verdict::NotPermitted => vec![format!("sudo {}", case.command())],
        Verdict::NotEstablished => {
            let mut steps: Vec<_> = own().collect();
            if steps.is_empty() {
                steps.push("mend what the message names; it is no sign of a loss".to_owned());
            }
            steps
        }
        Verdict::ConfigLost
        | Verdict::ConfigInvalid
        | Verdict::NodeMisconfigured
        | Verdict::StateLocked
        | Verdict::OpenbaoUninitialized
        | Verdict::OpenbaoNoLeader
        | Verdict::ClockWrong
        | Verdict::LoginRefused
        | Verdict::KeyUnusable
        | Verdict::EncryptionBlocked
        | Verdict::StateOtherRelease
        | Verdict::StateExchanged => own().collect(),
    }
}

fn ready(config: &Config) -> Option<String> {
    let listener = config.server.health.as_ref()?.bind_to();
    let url = HttpUrl::local(listener, "/ready");
    Some(format!("see its reasons: curl {url}"))
}

/// A command for an administrator about the server itself, which no namespace knows.
fn of_server(config: &Config, command: &str) -> String {
    let openbao = &config.openbao;
    format!(
        "bao {command} -address={} -ca-cert={}",
        openbao.address,
        shell(&openbao.ca_cert_file)
    )
}

/// A change of the key's settings.
fn configure(config: &Config, settings: &str) -> String {
    let key = &config.key;
    format!(
        "{} {}/keys/{}/config {settings}",
        bao(config, "write"),
        key.mount_path,
        key.key_name
    )
}
