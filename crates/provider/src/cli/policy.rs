//! `policy`: what the provider must be allowed to do in OpenBao, and nothing more.

use std::io::{self, Write};

use clap::{ArgAction, Args, Subcommand};
use kms_domain::scope::TransitKeyPath;

use super::{Context, Failure, exit::Exit};

/// Print policies
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(subcommand)]
    system: System,
}

#[derive(Debug, Subcommand)]
enum System {
    /// Print the OpenBao policy for the configured key, as HCL
    Openbao {
        /// Allow the token to be renewed
        #[arg(
            long,
            action = ArgAction::Set,
            default_value_t = true,
            default_missing_value = "true",
            num_args = 0..=1,
            require_equals = true,
            value_name = "BOOL"
        )]
        include_token_renewal: bool,
    },
}

/// A mount path with characters that are more than text in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "transit.mountPath {0:?} cannot be written in a policy without granting something else: \
     use letters, digits, '_', '-', '.' and '/'"
)]
pub(super) struct UnsafePolicyPath(String);

impl Options {
    pub(super) fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let System::Openbao {
            include_token_renewal,
        } = self.system;
        let config = context.load()?.config;
        let grants = grants(&config.key, include_token_renewal)?;
        let namespace = config.scope.openbao_namespace;
        let place = namespace.map_or("the root namespace".to_owned(), |name| {
            format!("namespace {name}")
        });
        write(&grants, &place, context.out)?;
        Ok(Exit::Success)
    }
}

/// Path, capability and reason of everything that is granted. A capability that is not here is
/// denied: in particular no `create` on encrypt, which would make a missing key.
fn grants(
    key: &TransitKeyPath,
    renewal: bool,
) -> Result<Vec<(String, &'static str, &'static str)>, UnsafePolicyPath> {
    let mount = key.mount_path.as_str();
    let name = key.key_name.as_str();
    // `+` and a final `*` are wildcards, quotes and `$` have a meaning in HCL.
    let plain = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    if !mount.chars().all(plain) {
        return Err(UnsafePolicyPath(mount.to_owned()));
    }
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
            "Check that this policy grants no more.",
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

fn write(grants: &[(String, &str, &str)], place: &str, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "# Policy of bao-kms-provider, for {place}.")?;
    for (path, capability, reason) in grants {
        writeln!(out, "\n# {reason}")?;
        writeln!(out, "path \"{path}\" {{")?;
        writeln!(out, "  capabilities = [\"{capability}\"]")?;
        writeln!(out, "}}")?;
    }
    Ok(())
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
