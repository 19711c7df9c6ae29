//! Does the file lead to this provider: by its name, with v2, at its socket, and with patience
//! enough?

use std::{os::unix::ffi::OsStrExt as _, time::Duration};

use super::{
    ID, Place, TITLE,
    document::{Document, Kms, KmsVersion},
    endpoint::is_same_file,
};
use crate::{
    config::Config,
    report::{Check, ImpactClass},
};

/// What kube-apiserver should wait longer than this provider waits for OpenBao, so that the answer
/// with the cause arrives.
const MARGIN: Duration = Duration::from_millis(500);

pub(super) fn check(document: &Document, config: &Config) -> Vec<Check> {
    let name = config.scope.provider_name.as_str();
    let (named, others): (Vec<_>, Vec<_>) = document.kms().partition(|(_, kms)| kms.name() == name);
    let aliases = others
        .iter()
        .filter(|(_, kms)| kms.socket().is_ok_and(|found| is_ours(&found, config)));
    let mut checks: Vec<_> = match (named.is_empty(), aliases.clone().next()) {
        (true, None) => vec![missing(name)],
        (true, Some(_)) => aliases
            .map(|(place, kms)| wrong_name(*place, kms, name))
            .collect(),
        (false, _) => aliases
            .map(|(place, kms)| alias(*place, kms, name))
            .collect(),
    };
    for (place, kms) in named {
        checks.extend(leads_here(place, kms, config));
    }
    checks
}

fn is_ours(socket: &[u8], config: &Config) -> bool {
    is_same_file(socket, config.server.socket_path.as_os_str().as_bytes())
}

/// A name from the file, if it is short and plain enough to be one.
pub(super) fn shown(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !name.is_empty() && name.len() <= 40 && name.bytes().all(plain) {
        format!("{name:?}")
    } else {
        "(a name that is not shown)".to_owned()
    }
}

fn missing(name: &str) -> Check {
    Check::fail(ID, TITLE, format!("no kms provider has the name {name:?}"))
        .code("provider_missing")
        .impact(
            "kube-apiserver does not use this provider: it encrypts nothing with it, and cannot \
             read what was encrypted with it before",
        )
        .impact_class(ImpactClass::DataRecovery)
        .remediation(format!(
            "list a kms provider with apiVersion: v2 and name: {name}, which is \
             transit.keyIdScope.providerName; do not change that setting instead"
        ))
}

fn wrong_name(place: Place, kms: &Kms, name: &str) -> Check {
    let found = shown(kms.name());
    let message = format!(
        "{place}: the kms provider at this node's socket has the name {found}, but \
         transit.keyIdScope.providerName is {name:?}"
    );
    Check::fail(ID, TITLE, message)
        .code("provider_name")
        .impact(format!(
            "values are stored under the name {found}: data written under it would not be found \
             by the name that this provider's key_ids, backups and recovery go by, and data \
             stored under {name:?} cannot be read"
        ))
        .impact_class(ImpactClass::DataRecovery)
        .remediation(format!(
            "write name: {name} in this file. If something was stored under {found} already, list \
             {name} first and keep {found} after it until everything is rewritten. Do not change \
             transit.keyIdScope.providerName to clear this error: that changes every key_id, and \
             what is stored becomes unreadable"
        ))
}

fn alias(place: Place, kms: &Kms, name: &str) -> Check {
    let found = shown(kms.name());
    let message = format!("{place}: {found} leads to this provider too, beside {name:?}");
    Check::warn(ID, TITLE, message)
        .code("provider_alias")
        .impact("what is stored under that name is not counted by rotation, backup and recovery")
        .impact_class(ImpactClass::DataRecovery)
        .remediation(
            "keep it only to read what was stored under it: never as the first provider, and no \
             longer than until everything is rewritten",
        )
}

fn leads_here(place: Place, kms: &Kms, config: &Config) -> Vec<Check> {
    let socket = &config.server.socket_path;
    let mut checks = Vec::new();
    if kms.version() == Some(KmsVersion::V1) {
        checks.push(
            Check::fail(
                ID,
                TITLE,
                format!("{place}: this provider is not asked with v2"),
            )
            .code("provider_api_version")
            .impact("this provider speaks v2 alone: no call of kube-apiserver succeeds")
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation("write apiVersion: v2 in its kms entry"),
        );
    }
    if let Ok(found) = kms.socket()
        && !is_ours(&found, config)
    {
        checks.push(
            Check::fail(
                ID,
                TITLE,
                format!(
                    "{place}: kms.endpoint leads to another socket than server.socketPath, which \
                     is {}{}",
                    socket.display(),
                    cause(kms.endpoint(), &found)
                ),
            )
            .code("provider_endpoint")
            .impact(
                "kube-apiserver cannot read or write encrypted objects through this provider; if \
                 another one answers there, it must not encrypt under this name",
            )
            .impact_class(ImpactClass::ApiServerAvailability)
            .remediation(format!("write endpoint: unix://{}", socket.display())),
        );
    }
    if let Ok(timeout) = kms.timeout() {
        checks.extend(patience(place, timeout, config.openbao.timeout));
    }
    checks
}

/// The cause of another path that is easily overlooked in the endpoint.
fn cause(endpoint: &str, found: &[u8]) -> &'static str {
    let host = |rest: &str| rest.starts_with("//") && !rest.starts_with("///");
    match found {
        [] => ": no slash follows unix:, so there is no path at all",
        [b'@', ..] => ": /@ stands for a socket without a file",
        [.., b'/'] => ": the slash at its end makes it the path of a directory",
        _ if endpoint.split_once(':').is_some_and(|(_, rest)| host(rest)) => {
            ": with two slashes after unix: the path begins at the third"
        }
        _ => "",
    }
}

fn patience(place: Place, theirs: Duration, own: Duration) -> Option<Check> {
    if theirs >= own.saturating_add(MARGIN) {
        return None;
    }
    let message = format!(
        "{place}: kube-apiserver waits {theirs:?} for an answer, this provider {own:?} for OpenBao"
    );
    let (check, impact) = if theirs <= own {
        (
            Check::fail(ID, TITLE, message).code("timeout"),
            "kube-apiserver gives up on a slow OpenBao before this provider can say what is wrong, \
             and calls that would have succeeded fail; no data is lost",
        )
    } else {
        (
            Check::warn(ID, TITLE, message).code("timeout_margin"),
            "the answer to a call that took all of openbao.timeout may come too late for \
             kube-apiserver; no data is lost",
        )
    };
    let check = check
        .impact(impact)
        .impact_class(ImpactClass::ApiServerAvailability)
        .remediation(format!(
            "make openbao.timeout at least {MARGIN:?} shorter than timeout in this kms entry, \
             which is 3s when it is absent"
        ));
    Some(check)
}
