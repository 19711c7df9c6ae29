//! The OpenBao policy of the provider: all grants with their reasons.

use kms_domain::scope::TransitKeyPath;
use kms_node::config::Config;

/// A mount path with characters of special meaning in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "transit.mountPath {0:?} cannot be written in a policy without granting something else: \
     use letters, digits, '_', '-', '.' and '/'"
)]
pub struct UnsafePolicyPath(String);

/// The policy in HCL; its heading names `place` as its target.
///
/// # Errors
/// The mount path has characters of special meaning in a policy.
pub fn policy(config: &Config, renewal: bool, place: &str) -> Result<String, UnsafePolicyPath> {
    let mut hcl = format!("# Policy of bao-kms-provider, for {place}.\n");
    let reader = config.legacy.vault_kubernetes_kms.as_ref();
    let legacy = reader.map(|reader| &reader.key);
    let mut grants = grants(&config.key, renewal)?;
    if let Some(key) = legacy.filter(|key| **key != config.key) {
        grants.extend(legacy_grants(key)?);
    }
    for (path, capability, reason) in grants {
        hcl +=
            &format!("\n# {reason}\npath \"{path}\" {{\n  capabilities = [\"{capability}\"]\n}}\n");
    }
    Ok(hcl)
}

/// Path, capability and reason.
type Grant = (String, &'static str, &'static str);

/// Every grant. All other capabilities are denied, in particular
/// `create` on encrypt, which would create a missing key.
fn grants(key: &TransitKeyPath, renewal: bool) -> Result<Vec<Grant>, UnsafePolicyPath> {
    let mount = plain_mount(key)?;
    let name = key.key_name.as_str();

    let mut grants = vec![
        (
            format!("{mount}/keys/{name}"),
            "read",
            "Versions and settings of the key.",
        ),
        (format!("{mount}/encrypt/{name}"), "update", "Encrypt."),
        (format!("{mount}/decrypt/{name}"), "update", "Decrypt."),
        (
            format!("{mount}/config/keys"),
            "read",
            "Whether the mount refuses to make keys on encrypt (disable_upsert).",
        ),
        (
            "sys/capabilities-self".to_owned(),
            "update",
            "Compare this policy: it must grant no more.",
        ),
    ];

    if renewal {
        grants.push((
            "auth/token/renew-self".to_owned(),
            "update",
            "Keep the token alive between logins.",
        ));
    }
    Ok(grants)
}

/// The grants for another key, of vault-kubernetes-kms.
fn legacy_grants(key: &TransitKeyPath) -> Result<[Grant; 2], UnsafePolicyPath> {
    let mount = plain_mount(key)?;
    let name = key.key_name.as_str();
    Ok([
        (
            format!("{mount}/keys/{name}"),
            "read",
            "Versions of the key of vault-kubernetes-kms.",
        ),
        (
            format!("{mount}/decrypt/{name}"),
            "update",
            "Decrypt objects of vault-kubernetes-kms.",
        ),
    ])
}

/// The mount, if it has no character of special meaning in a policy.
fn plain_mount(key: &TransitKeyPath) -> Result<&str, UnsafePolicyPath> {
    let mount = key.mount_path.as_str();
    // `+` and a final `*` are wildcards; quotes and `$` have a meaning in HCL.
    let plain = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    match mount.chars().all(plain) {
        true => Ok(mount),
        false => Err(UnsafePolicyPath(mount.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use kms_domain::scope::{KeyName, MountPath};

    use super::*;

    #[test]
    fn a_mount_path_cannot_widen_the_policy() {
        let grants_at = |mount| {
            let key = TransitKeyPath {
                mount_path: MountPath::parse(mount).unwrap(),
                key_name: KeyName::parse("k").unwrap(),
            };
            grants(&key, true)
        };
        assert_eq!(
            grants_at("team-a/transit").unwrap()[0].0,
            "team-a/transit/keys/k"
        );
        for mount in ["+", "a/+", "a*", "a\"{}", "${a}"] {
            assert!(grants_at(mount).is_err(), "{mount:?}");
        }
    }
}
