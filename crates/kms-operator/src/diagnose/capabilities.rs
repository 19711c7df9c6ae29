//! Permissions of the token: all that the provider needs, and no power over the key.
//!
//! Covers the paths of the configured key alone.

use std::{collections::BTreeMap, fmt};

use kms_domain::scope::TransitKeyPath;
use kms_node::{
    advice::openbao,
    auth::CallFailure,
    config::Config,
    connection::Connection,
    report::{CheckResult, ImpactClass},
};
use serde::Serialize;
use serde_json::json;

use super::{Check, facts::Facts};

/// Everything needed to encrypt and decrypt, and no power over the key.
pub const CAPABILITIES: Check = Check {
    id: "transit.capabilities",
    title: "Policy of the token",
    needs: &["openbao.auth"],
    evaluate: |facts| {
        let check = match facts.granted.as_ref()? {
            Ok(granted) => key_check(&all_rules(facts.config()?), granted, facts),
            Err(failure) => CAPABILITIES
                .unanswered(failure, facts, ImpactClass::CryptographicSafety)
                .code(UNANSWERED),
        };
        Some(vec![check])
    },
};

/// The mount's settings may be read, which the provider does in every probe.
pub const CONFIG_READ: Check = Check {
    id: "transit.config_capability",
    title: "Policy for the Transit mount's settings",
    needs: NEEDS,
    evaluate: |facts| {
        let granted = facts.granted.as_ref()?.as_ref().ok()?;
        Some(vec![config_check(granted, facts)?])
    },
};

/// The token may be renewed.
pub const RENEWAL: Check = Check {
    id: "openbao.renew_capability",
    title: "Policy for token renewal",
    needs: NEEDS,
    evaluate: |facts| Some(vec![renewal_check(facts)?]),
};

const NEEDS: &[&str] = &["openbao.auth", "transit.capabilities/unanswered"];
const UNANSWERED: &str = "unanswered";

const RENEW_SELF: &str = "auth/token/renew-self";

/// Required and forbidden capabilities of one path.
struct Rule {
    path: String,
    needed: Option<&'static str>,
    forbidden: &'static [&'static str],
}

/// Capabilities at fault on one path; none if they are not known.
#[derive(Serialize)]
struct Finding<'a> {
    path: &'a str,
    capabilities: Vec<&'a str>,
}

/// Capabilities by path.
pub type Granted = BTreeMap<String, Vec<String>>;

/// Asks for the capabilities of the token on every checked path.
///
/// # Errors
/// The failed check.
pub async fn ask(openbao: &Connection, config: &Config) -> Result<Granted, CallFailure> {
    let mut paths: Vec<_> = all_rules(config)
        .into_iter()
        .map(|rule| rule.path)
        .collect();
    paths.push(RENEW_SELF.to_owned());
    openbao
        .session
        .call(async |token| openbao.transit.capabilities(&token, &paths).await)
        .await
}

/// The rules for the key, and those for another key of vault-kubernetes-kms.
fn all_rules(config: &Config) -> Vec<Rule> {
    let mut rules = rules(&config.key);
    let reader = config.legacy.vault_kubernetes_kms.as_ref();
    if let Some(key) = reader
        .map(|reader| &reader.key)
        .filter(|key| **key != config.key)
    {
        rules.extend(
            [("keys", "read"), ("decrypt", "update")].map(|(verb, needed)| Rule {
                path: format!("{}/{verb}/{}", key.mount_path, key.key_name),
                needed: Some(needed),
                forbidden: &["sudo", "root"],
            }),
        );
    }
    rules
}

fn rules(key: &TransitKeyPath) -> Vec<Rule> {
    const MANAGE: &[&str] = &["create", "update", "delete", "sudo", "root"];
    const MANAGE_OR_READ: &[&str] = &["create", "read", "update", "delete", "sudo", "root"];
    const MAKE: &[&str] = &["create", "sudo", "root"];
    const OVERRIDE: &[&str] = &["sudo", "root"];
    let name = &key.key_name;
    [
        (format!("keys/{name}"), Some("read"), MANAGE),
        (format!("encrypt/{name}"), Some("update"), MAKE),
        (format!("decrypt/{name}"), Some("update"), OVERRIDE),
        (format!("keys/{name}/rotate"), None, MANAGE),
        (
            format!("export/encryption-key/{name}"),
            None,
            MANAGE_OR_READ,
        ),
        (format!("backup/{name}"), None, MANAGE_OR_READ),
        (format!("keys/{name}/config"), None, MANAGE),
        ("config/keys".to_owned(), None, MANAGE),
        (format!("keys/{name}/trim"), None, MANAGE),
        ("restore".to_owned(), None, MANAGE),
        (format!("restore/{name}"), None, MANAGE),
        (format!("rewrap/{name}"), None, MANAGE),
    ]
    .into_iter()
    .map(|(path, needed, forbidden)| Rule {
        path: format!("{}/{path}", key.mount_path),
        needed,
        forbidden,
    })
    .collect()
}

/// Names every path and capability that is too much, missing or unanswered.
fn key_check(rules: &[Rule], granted: &Granted, facts: &Facts) -> CheckResult {
    let (mut unanswered, mut excess, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for Rule {
        path,
        needed,
        forbidden,
    } in rules
    {
        let found = |capabilities| Finding { path, capabilities };
        let granted = granted.get(path).map_or(&[][..], Vec::as_slice);
        if granted.is_empty() {
            unanswered.push(found(Vec::new()));
            continue;
        }
        let too_much: Vec<_> = granted
            .iter()
            .map(String::as_str)
            .filter(|capability| forbidden.contains(capability))
            .collect();
        if !too_much.is_empty() {
            excess.push(found(too_much));
        }
        if let Some(needed) = *needed
            && !allows(granted, needed)
        {
            missing.push(found(vec![needed]));
        }
    }
    let (code, class, cause) = match (excess.is_empty(), missing.is_empty()) {
        (false, _) => (
            "excess",
            ImpactClass::CryptographicSafety,
            &openbao::POLICY_EXCESSIVE,
        ),
        (true, false) => (
            "missing",
            ImpactClass::ApiServerAvailability,
            &openbao::POLICY_INSUFFICIENT,
        ),
        (true, true) => (
            UNANSWERED,
            ImpactClass::CryptographicSafety,
            &openbao::INCONCLUSIVE,
        ),
    };
    let mut details = Vec::new();
    let mut message = Vec::new();
    for (name, said, found) in [
        ("excess", "it grants too much", excess),
        ("missing", "it lacks", missing),
        ("unanswered", "OpenBao did not answer for", unanswered),
    ] {
        if !found.is_empty() {
            let all: Vec<_> = found.iter().map(ToString::to_string).collect();
            message.push(format!("{said}: {}", all.join("; ")));
            details.push((name, json!(found)));
        }
    }
    if message.is_empty() {
        return CAPABILITIES.pass();
    }
    let check = CAPABILITIES
        .fail(message.join("; "))
        .because(facts.advise(cause, &[]))
        .code(code)
        .impact_class(class);
    details
        .into_iter()
        .fold(check, |check, (name, found)| check.detail(name, found))
}

fn config_check(granted: &Granted, facts: &Facts) -> Option<CheckResult> {
    let path = format!("{}/config/keys", facts.config()?.key.mount_path);
    if granted.get(&path).is_some_and(|it| allows(it, "read")) {
        return Some(CONFIG_READ.pass());
    }
    let check = CONFIG_READ
        .fail(format!("it lacks: read on {path}"))
        .because(facts.advise(&openbao::MOUNT_SETTINGS_DENIED, &[]))
        .impact_class(ImpactClass::ApiServerAvailability);
    Some(check)
}

fn renewal_check(facts: &Facts) -> Option<CheckResult> {
    let granted = facts.granted.as_ref()?.as_ref().ok()?;
    if granted
        .get(RENEW_SELF)
        .is_some_and(|it| allows(it, "update"))
    {
        return Some(RENEWAL.pass());
    }
    let check = RENEWAL
        .warn(format!(
            "it lacks: update on {RENEW_SELF}, so a new login replaces each renewal"
        ))
        .because(facts.advise(&openbao::POLICY_INSUFFICIENT, &[]))
        .impact_class(ImpactClass::Diagnosis);
    Some(check)
}

fn allows(granted: &[String], capability: &str) -> bool {
    granted.iter().any(|it| it == capability || it == "root")
}

impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.capabilities.is_empty() {
            write!(f, "{} on ", self.capabilities.join(", "))?;
        }
        f.write_str(self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use kms_domain::scope::{KeyName, MountPath};
    use serde_json::Value;

    use super::*;
    use kms_node::config::LoadError;

    fn key() -> TransitKeyPath {
        TransitKeyPath {
            mount_path: MountPath::parse("transit").unwrap(),
            key_name: KeyName::parse("etcd").unwrap(),
        }
    }

    fn facts() -> Facts {
        let path = PathBuf::new();
        let reason = String::new();
        Facts::new("test", Err(LoadError::Malformed { path, reason }))
    }

    /// The check of the printed policy with these changes.
    fn judged(changes: &[(&str, &[&str])]) -> Value {
        let rules = rules(&key());
        let least = |rule: &Rule| vec![rule.needed.unwrap_or("deny").to_owned()];
        let mut granted: Granted = rules
            .iter()
            .map(|rule| (rule.path.clone(), least(rule)))
            .collect();
        for (path, capabilities) in changes {
            let capabilities = capabilities.iter().map(ToString::to_string).collect();
            granted.insert(format!("transit/{path}"), capabilities);
        }
        serde_json::to_value(key_check(&rules, &granted, &facts())).unwrap()
    }

    #[test]
    fn the_least_policy_passes() {
        assert_eq!(judged(&[])["status"], "pass");
        // Making nothing new, these two are no power over the key.
        let harmless = judged(&[
            ("decrypt/etcd", &["create", "update"]),
            ("keys/etcd", &["list", "read"]),
        ]);
        assert_eq!(harmless["status"], "pass");
    }

    #[test]
    fn every_path_and_capability_at_fault_is_listed() {
        let found = judged(&[
            ("encrypt/etcd", &["create", "update"]),
            ("decrypt/etcd", &["deny"]),
            ("keys/etcd/rotate", &["delete", "update"]),
            ("backup/etcd", &["read"]),
            ("restore", &[]),
        ]);
        assert_eq!(found["status"], "fail");
        assert_eq!(
            found["message"],
            "it grants too much: create on transit/encrypt/etcd; delete, update on \
             transit/keys/etcd/rotate; read on transit/backup/etcd; it lacks: update on \
             transit/decrypt/etcd; OpenBao did not answer for: transit/restore"
        );
        assert_eq!(
            found["details"]["missing"],
            json!([{"path": "transit/decrypt/etcd", "capabilities": ["update"]}])
        );
    }

    #[test]
    fn each_rule_refuses_each_of_its_capabilities() {
        for rule in rules(&key()) {
            let path = rule.path.strip_prefix("transit/").unwrap();
            for forbidden in ["create", "read", "update", "delete", "sudo", "root"] {
                let mut granted = vec![forbidden];
                granted.extend(rule.needed);
                let failed = judged(&[(path, &granted)])["status"] == "fail";
                assert_eq!(
                    failed,
                    rule.forbidden.contains(&forbidden),
                    "{forbidden} on {path}"
                );
            }
        }
    }

    #[test]
    fn root_lacks_nothing_and_is_too_much_everywhere() {
        let paths: Vec<_> = rules(&key()).into_iter().map(|rule| rule.path).collect();
        let changes: Vec<(&str, &[&str])> = paths
            .iter()
            .map(|path| (path.strip_prefix("transit/").unwrap(), &["root"][..]))
            .collect();
        let found = judged(&changes);
        assert_eq!(found["details"]["excess"].as_array().unwrap().len(), 12);
        assert_eq!(found["details"]["missing"], Value::Null);
    }
}
