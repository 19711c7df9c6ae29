//! The types of settings: the rule of each value, and its part of the schema.
//!
//! JSON Schema cannot express every rule, so a pattern may allow more than the loader, and never
//! less.

use std::{marker::PhantomData, path::PathBuf, time::Duration};

use kms_domain::scope::{
    ClusterId, KeyLineageId, KeyName, MountPath, Namespace, OpenBaoInstanceId, ProviderName,
    TransitMountId,
};
use openbao_client::{
    endpoint::{Address, ServerName},
    login::oauth2::TokenUrl,
};
use serde_json::{Value, json};

use super::{
    problem::Broken,
    resolve::Resolver,
    values::{self, Listener, SocketGroup, SocketMode},
};
use crate::{duration, state::StatePath};

/// Addresses beside `openbao.address`; all of them are asked at the same time.
pub(super) const MAX_FAILOVER: usize = 8;

/// The type of a setting.
pub(super) trait Rule {
    type Value;
    /// The type column of the reference page.
    const KIND: &'static str;

    fn schema() -> Value;

    /// Parses a value of the right JSON type; problems go to `resolver`.
    fn read(value: &Value, path: &str, resolver: &mut Resolver) -> Option<Self::Value>;
}

/// [`Rule::read`] for text.
pub(super) fn read_text<T>(
    value: &Value,
    path: &str,
    resolver: &mut Resolver,
    parse: impl FnOnce(&str) -> Result<T, Broken>,
) -> Option<T> {
    let text = value.as_str()?;
    let report = |broken| resolver.broken(path, Some(text), broken);
    parse(text).map_err(report).ok()
}

impl Rule for bool {
    type Value = Self;
    const KIND: &'static str = "boolean";

    fn schema() -> Value {
        json!({"type": "boolean"})
    }

    fn read(value: &Value, _path: &str, _resolver: &mut Resolver) -> Option<Self> {
        value.as_bool()
    }
}

pub(super) struct Integer<T, const MIN: u32, const MAX: u32>(PhantomData<T>);

impl<T: TryFrom<u32>, const MIN: u32, const MAX: u32> Rule for Integer<T, MIN, MAX> {
    type Value = T;
    const KIND: &'static str = "integer";

    fn schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }

    fn read(value: &Value, path: &str, resolver: &mut Resolver) -> Option<T> {
        let number = value.as_i64()?;
        let in_range = u32::try_from(number)
            .ok()
            .filter(|number| (MIN..=MAX).contains(number));
        let parsed = in_range.and_then(|number| T::try_from(number).ok());
        if parsed.is_none() {
            let rule = Broken::rule(format!("must be from {MIN} to {MAX}"));
            resolver.broken(path, Some(&number.to_string()), rule);
        }
        parsed
    }
}

pub(super) struct List<R>(PhantomData<R>);

impl<R: Rule> Rule for List<R> {
    type Value = Vec<R::Value>;
    const KIND: &'static str = "list";

    fn schema() -> Value {
        json!({"type": "array", "items": R::schema()})
    }

    fn read(value: &Value, path: &str, resolver: &mut Resolver) -> Option<Self::Value> {
        let entries = value.as_array()?.iter().enumerate();
        let parsed: Vec<_> = entries
            .map(|(index, entry)| R::read(entry, &format!("{path}[{index}]"), resolver))
            .collect();
        parsed.into_iter().collect()
    }
}

/// Text whose empty form stands for `None`.
pub(super) struct Optional<R>(PhantomData<R>);

impl<R: Rule> Rule for Optional<R> {
    type Value = Option<R::Value>;
    const KIND: &'static str = R::KIND;

    fn schema() -> Value {
        let mut schema = R::schema();
        if let Some(Value::String(pattern)) = schema.get_mut("pattern") {
            pattern.insert_str(0, "^$|");
        }
        if let Some(Value::Array(words)) = schema.get_mut("enum") {
            words.push("".into());
        }
        schema
    }

    fn read(value: &Value, path: &str, resolver: &mut Resolver) -> Option<Self::Value> {
        match value.as_str()? {
            "" => Some(None),
            _ => R::read(value, path, resolver).map(Some),
        }
    }
}

/// `openbao.failoverAddresses`: each address with the server name written beside it.
pub(super) enum FailoverAddresses {}

impl Rule for FailoverAddresses {
    type Value = Vec<(Address, Option<ServerName>)>;
    const KIND: &'static str = "list of sections";

    fn schema() -> Value {
        json!({"type": "array", "maxItems": MAX_FAILOVER, "items": {
            "type": "object",
            "additionalProperties": false,
            "description": "A further address of the same OpenBao cluster.",
            "properties": {
                "address": {
                    "description": "As openbao.address.",
                    "type": "string",
                    "pattern": URL,
                },
                "tlsServerName": {
                    "description": "DNS name or IP address in its certificate; \
                        openbao.tlsServerName when absent.",
                    "type": "string",
                    "pattern": r"\S",
                },
            },
            "required": ["address"],
        }})
    }

    fn read(value: &Value, path: &str, resolver: &mut Resolver) -> Option<Self::Value> {
        let entries = value.as_array()?.iter().enumerate();
        let parsed: Vec<_> = entries
            .map(|(index, entry)| {
                let at = format!("{path}[{index}].address");
                let address = match entry.get("address") {
                    Some(address) => HttpsUrl::read(address, &at, resolver),
                    None => resolver.missing(&at),
                };
                let at = format!("{path}[{index}].tlsServerName");
                let name = match entry.get("tlsServerName") {
                    Some(name) => Some(TlsServerName::read(name, &at, resolver)?),
                    None => None,
                };
                Some((address?, name))
            })
            .collect();
        parsed.into_iter().collect()
    }
}

macro_rules! texts {
    ($($rule:ident: $kind:literal, $pattern:expr, $parse:expr => $value:ty;)+) => {$(
        pub(super) enum $rule {}

        impl Rule for $rule {
            type Value = $value;
            const KIND: &'static str = $kind;

            fn schema() -> Value {
                json!({"type": "string", "pattern": $pattern})
            }

            fn read(value: &Value, path: &str, resolver: &mut Resolver) -> Option<$value> {
                read_text(value, path, resolver, |text| $parse(text).map_err(Broken::from))
            }
        }
    )+};
}

const NAME: &str = r"^\S([^\u0000\t\r\n]*\S)?$";
const URL: &str = "^[Hh][Tt][Tt][Pp][Ss]://[^/?#@]+([/?]|$)";
pub(super) const SPIFFE_ID: &str = "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$";
const PRINTABLE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
const DURATION: &str = r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+)$";

texts! {
    SocketPath: "path", "^/", values::socket_path => PathBuf;
    AbsolutePath: "path", "^/", values::absolute_path => PathBuf;
    StateFile: "path", "^/", values::state_file => StatePath;
    Mode: "text", "^0*[0246]{0,2}0$", values::socket_mode => SocketMode;
    Group: "text", r"\S", values::socket_group => SocketGroup;
    HostPort: "host:port", r"^([^:\[\]]*|\[[^\[\]]+\]):[0-9]+$", values::listener => Listener;
    HttpsUrl: "URL", URL, values::address => Address;
    TokenUrlText: "URL", URL, values::token_url => TokenUrl;
    WorkloadApiSocket: "URI", "^unix:///", values::workload_api_socket => PathBuf;
    TlsServerName: "text", r"\S", values::server_name => ServerName;
    ResourceUri: "URI", "^[A-Za-z][A-Za-z0-9+.-]*:[!-~]+$", values::resource => String;
    Positive: "duration", DURATION, duration::parse_positive => Duration;
    NonNegative: "duration", DURATION, duration::parse => Duration;
    Name: "name", NAME, values::name => String;
    Claim: "name", NAME, values::claim => String;
    IncidentId: "name", NAME, values::incident_id => String;
    ClientId: "text", r"\S", values::client_id => String;
    Printable: "text", PRINTABLE, values::printable => String;
    Scope: "text", r"^[\u0021\u0023-\u005b\u005d-\u007e]+$", values::scope => String;
    Mount: "mount", r"^[^/\s%?#\\]+(/[^/\s%?#\\]+)*$", MountPath::parse => MountPath;
    KeyNameText: "key name", "^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$", KeyName::parse => KeyName;
    NamespacePath: "text", r"^[^/%\u0000\t\r\n]+(/[^/%\u0000\t\r\n]+)*$", Namespace::parse => Namespace;
    InstanceId: "name", NAME, OpenBaoInstanceId::parse => OpenBaoInstanceId;
    PluginName: "name", r"^[^\s:]([^:\u0000\t\r\n]*[^\s:])?$", values::plugin_name => ProviderName;
    ClusterIdText: "name", NAME, ClusterId::parse => ClusterId;
    TransitMountIdText: "name", NAME, TransitMountId::parse => TransitMountId;
    KeyLineageIdText: "name", NAME, KeyLineageId::parse => KeyLineageId;
}
