//! Settings of an installation by path, in the spelling of the configuration file.

use std::collections::BTreeMap;

use kms_domain::scope::ClusterId;
use kms_node::config::described;
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::{Map, Value, json};

/// Settings by path: those of a file, then those of flags and answers, then defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, Value>);

/// Why values cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// With the parser's message, without content.
    #[error("the file of values is not one YAML document: {0}")]
    NotYaml(String),
    #[error("--set {0:?} is not of the form PATH=VALUE, such as auth.jwt.role=kms-node")]
    NotPathAndValue(String),
    #[error("--set {path}: {rule}")]
    WrongType {
        path: String,
        /// As the rest of a sentence.
        rule: &'static str,
    },
    #[error(
        "transit.keyIdScope.keyLineageId has a value, so --new-key is refused: it would be another key"
    )]
    LineageGiven,
    #[error("the kernel gives no random bytes")]
    NoRandom,
}

impl Values {
    /// Reads a file in the format of the provider's configuration, in which settings may be missing.
    ///
    /// # Errors
    /// [`ValuesError::NotYaml`].
    pub fn parse(yaml: &str) -> Result<Self, ValuesError> {
        let options = serde_saphyr::options! {
            with_snippet: false,
            strict_booleans: true,
            legacy_octal_numbers: true,
        };
        let tree: Value = serde_saphyr::from_str_with_options(yaml, options)
            .map_err(|error| ValuesError::NotYaml(error.without_snippet().to_string()))?;
        let mut values = Self::default();
        values.flatten("", tree);
        Ok(values)
    }

    fn flatten(&mut self, path: &str, value: Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    let path = match path {
                        "" => key,
                        _ => format!("{path}.{key}"),
                    };
                    self.flatten(&path, value);
                }
            }
            Value::Null => {}
            value => {
                self.0.insert(path.to_owned(), value);
            }
        }
    }

    /// Sets `PATH=VALUE`. The type of the setting decides how the text is read; a list is separated by
    /// commas.
    ///
    /// # Errors
    /// Another form, or a text of another type. An unknown path is kept: the check of all values
    /// names it.
    pub fn set(&mut self, assignment: &str) -> Result<(), ValuesError> {
        let (path, text) = assignment
            .split_once('=')
            .filter(|(path, _)| !path.is_empty())
            .ok_or_else(|| ValuesError::NotPathAndValue(assignment.to_owned()))?;
        let wrong = |rule| ValuesError::WrongType {
            path: path.to_owned(),
            rule,
        };
        let setting = described().find(|setting| setting.path == path);
        let value = match setting.map(|setting| setting.kind) {
            Some("integer") => text
                .parse::<u64>()
                .map(Value::from)
                .map_err(|_| wrong("must be a whole number"))?,
            Some("boolean") => text
                .parse::<bool>()
                .map(Value::from)
                .map_err(|_| wrong("must be true or false"))?,
            Some("list") => text.split(',').map(str::trim).collect(),
            _ => Value::from(text),
        };
        self.0.insert(path.to_owned(), value);
        Ok(())
    }

    /// Text of a setting.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path)?.as_str()
    }

    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// Sets a value unless the setting has one.
    pub fn fill(&mut self, path: &str, value: impl Into<Value>) {
        self.0
            .entry(path.to_owned())
            .or_insert_with(|| value.into());
    }

    /// Sets a value, also in place of another.
    pub fn replace(&mut self, path: &str, value: impl Into<Value>) {
        self.0.insert(path.to_owned(), value.into());
    }

    /// Makes the lineage of a new key: 16 random bytes in hexadecimal.
    ///
    /// # Errors
    /// There is a lineage already, or no randomness.
    pub fn new_lineage(&mut self) -> Result<(), ValuesError> {
        if self.has(LINEAGE) {
            return Err(ValuesError::LineageGiven);
        }
        let mut bytes = [0_u8; 16];
        let length = getrandom(&mut bytes[..], GetRandomFlags::empty());
        if length != Ok(bytes.len()) {
            return Err(ValuesError::NoRandom);
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.replace(LINEAGE, hex);
        Ok(())
    }

    /// Completes the settings that follow from others, or that most installations share.
    /// `credentials` is the directory of the login's files.
    pub fn complete(&mut self, credentials: &str) {
        self.fill("configVersion", "v1alpha1");
        self.fill("server.socketGroup", "openbao-kms-socket");
        self.fill("openbao.caCertFile", "/etc/openbao-kms/tls/ca.crt");
        // Without an address or cluster, what follows from it is filled in as well: the missing value
        // is one problem, and the check refuses it.
        let address = self.text("openbao.address").and_then(host);
        let host = address
            .unwrap_or("openbao")
            .trim_matches(['[', ']'])
            .to_owned();
        self.fill("openbao.instanceId", host.replace(':', "-"));
        self.fill("openbao.tlsServerName", host);
        let cluster = self.text("transit.keyIdScope.clusterId");
        let cluster = cluster.filter(|id| ClusterId::parse(id).is_ok());
        let cluster = cluster.unwrap_or("cluster").to_owned();
        self.fill("transit.mountPath", "kubernetes-kms");
        self.fill("transit.keyName", &*cluster);
        self.fill("transit.keyIdScope.transitMountId", "kubernetes-kms-1");
        self.fill(
            "transit.keyIdScope.providerName",
            format!("openbao-{cluster}"),
        );
        self.fill("auth.method", "jwt");
        let method = self.text("auth.method").unwrap_or_default().to_owned();
        let mount = format!("auth/{cluster}-kms");
        let file = |name: &str| format!("{credentials}/{name}");
        match method.as_str() {
            "jwt" => {
                self.fill("auth.jwt.mountPath", mount);
                self.fill("auth.jwt.role", "kms-node");
                self.fill("auth.jwt.expectedAudience", json!(["openbao"]));
                if self.has("auth.jwt.spiffe.workloadAPISocket") {
                    self.fill("auth.jwt.source", "spiffe");
                } else if !self.has("auth.jwt.oauth2.tokenUrl") {
                    self.fill("auth.jwt.source", "file");
                    self.fill("auth.jwt.jwtFile", file("identity.jwt"));
                }
            }
            "cert" => {
                self.fill("auth.cert.mountPath", mount);
                self.fill("auth.cert.name", "kms-node");
                self.fill("auth.cert.source", "file");
                if self.text("auth.cert.source") == Some("file") {
                    self.fill("auth.cert.certificateFile", file("client.crt"));
                    self.fill("auth.cert.keyFile", file("client.key"));
                }
            }
            "approle" => {
                self.fill("auth.approle.mountPath", mount);
                self.fill("auth.approle.roleId", format!("openbao-kms-{cluster}"));
                self.fill("auth.approle.secretIdFile", file("secret-id"));
            }
            "userpass" => {
                self.fill("auth.userpass.mountPath", mount);
                self.fill("auth.userpass.username", "kms-node");
                self.fill("auth.userpass.passwordFile", file("password"));
            }
            "token" => self.fill("auth.token.file", file("token")),
            _ => {}
        }
    }

    /// The document of these settings, as YAML without comments.
    #[must_use]
    pub fn document(&self) -> Value {
        let mut root = Value::Object(Map::new());
        for (path, value) in &self.0 {
            let place = path.split('.').fold(&mut root, |object, key| {
                // A path below a value that is no section: the value is kept, and refused later.
                if !object.is_object() {
                    *object = Value::Object(Map::new());
                }
                &mut object[key]
            });
            *place = value.clone();
        }
        root
    }
}

/// The lineage of the key.
pub const LINEAGE: &str = "transit.keyIdScope.keyLineageId";

/// Host of a URL, with its brackets.
fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    let host = match authority.rfind(']') {
        Some(end) => authority.get(..=end)?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_from_file_flags_and_defaults_in_this_order() {
        let mut values = Values::parse("openbao:\n  address: https://bao.test:8200\n").unwrap();
        values.set("transit.keyIdScope.clusterId=east").unwrap();
        values.set("auth.jwt.expectedAudience=a, b").unwrap();
        values.set("server.maxConcurrentEncrypt=3").unwrap();
        values.complete("/c");
        let document = values.document();
        assert_eq!(document["openbao"]["tlsServerName"], "bao.test");
        assert_eq!(document["openbao"]["instanceId"], "bao.test");
        assert_eq!(document["transit"]["keyName"], "east");
        assert_eq!(
            document["auth"]["jwt"]["expectedAudience"],
            json!(["a", "b"])
        );
        assert_eq!(document["server"]["maxConcurrentEncrypt"], 3);
    }

    #[test]
    fn the_socket_of_an_agent_selects_the_source() {
        let mut values = Values::default();
        let socket = "auth.jwt.spiffe.workloadAPISocket=unix:///run/spire/agent/api.sock";
        values.set(socket).unwrap();
        values.complete("/c");
        assert_eq!(values.text("auth.jwt.source"), Some("spiffe"));
        assert!(!values.has("auth.jwt.jwtFile"));
    }

    #[test]
    fn a_text_of_another_form_or_type_is_refused() {
        let mut values = Values::default();
        for (assignment, message) in [
            ("auth.jwt.role", "not of the form"),
            ("=x", "not of the form"),
            ("server.maxConcurrentEncrypt=many", "whole number"),
            ("rotation.rejectVersionRollback=yes", "true or false"),
        ] {
            let error = values.set(assignment).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(Values::parse("a: [").is_err());
        assert_eq!(values, Values::default());
    }

    #[test]
    fn a_lineage_is_new_only_once() {
        let mut values = Values::default();
        values.new_lineage().unwrap();
        let lineage = values.text(LINEAGE).unwrap();
        assert!(lineage.len() == 32 && lineage.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(values.new_lineage(), Err(ValuesError::LineageGiven));
    }

    #[test]
    fn the_host_of_an_address_is_found() {
        for (url, expected) in [
            ("https://bao.test:8200/v", Some("bao.test")),
            ("https://[2001:db8::1]:8200", Some("[2001:db8::1]")),
            ("https://user@bao.test", Some("bao.test")),
            ("bao.test:8200", None),
            ("https://", None),
        ] {
            assert_eq!(host(url), expected, "{url}");
        }
    }
}
