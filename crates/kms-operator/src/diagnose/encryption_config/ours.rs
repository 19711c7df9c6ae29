//! Checks whether the file selects this provider: by its name, with API v2, at its socket, and with
//! a sufficient timeout.

use std::{os::unix::ffi::OsStrExt as _, time::Duration};

use kms_node::{
    advice::Site,
    config::Config,
    report::{CheckResult, ImpactClass},
};

use super::{
    ID, Place, TITLE, causes,
    document::{Document, Kms, KmsVersion},
    endpoint::is_same_file,
    fail, warn,
};

/// Required difference between kube-apiserver's timeout and this provider's timeout for OpenBao, so
/// that an error with its cause arrives in time.
const MARGIN: Duration = Duration::from_millis(500);

pub(super) fn check(document: &Document, config: &Config) -> Vec<CheckResult> {
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

/// Whether an entry has the name or the socket of this provider.
pub(super) fn is_in(document: &Document, config: &Config) -> bool {
    let name = config.scope.provider_name.as_str();
    document.kms().any(|(_, kms)| {
        kms.name() == name || kms.socket().is_ok_and(|found| is_ours(&found, config))
    })
}

fn is_ours(socket: &[u8], config: &Config) -> bool {
    is_same_file(socket, config.server.socket_path.as_os_str().as_bytes())
}

/// A name from the file if it is short and plain, otherwise a placeholder.
pub(super) fn shown(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if !name.is_empty() && name.len() <= 40 && name.bytes().all(plain) {
        format!("{name:?}")
    } else {
        "(a name that is not shown)".to_owned()
    }
}

fn missing(name: &str) -> CheckResult {
    let message = format!("no kms provider has the name {name:?}");
    let class = ImpactClass::DataRecovery;
    fail(&causes::PROVIDER_MISSING, message, &[("name", name)], class)
}

fn wrong_name(place: Place, kms: &Kms, name: &str) -> CheckResult {
    let found = shown(kms.name());
    let message = format!(
        "{place}: the kms provider at this node's socket has the name {found}, but \
         transit.keyIdScope.providerName is {name:?}"
    );
    let values = [("name", name), ("found", &*found)];
    let class = ImpactClass::DataRecovery;
    fail(&causes::PROVIDER_NAME, message, &values, class)
}

fn alias(place: Place, kms: &Kms, name: &str) -> CheckResult {
    let found = shown(kms.name());
    let message = format!("{place}: {found} leads to this provider too, beside {name:?}");
    let class = ImpactClass::DataRecovery;
    warn(&causes::PROVIDER_ALIAS, message, class)
}

fn leads_here(place: Place, kms: &Kms, config: &Config) -> Vec<CheckResult> {
    let socket = config.server.socket_path.display().to_string();
    let class = ImpactClass::ApiServerAvailability;
    let mut checks = Vec::new();
    if kms.version() == Some(KmsVersion::V1) {
        let message = format!("{place}: this provider is called with API v1");
        let check = fail(&causes::KMS_V1, message, &[], class);
        checks.push(check.code("provider_api_version"));
    }

    if let Ok(found) = kms.socket()
        && !is_ours(&found, config)
    {
        let message = format!(
            "{place}: kms.endpoint leads to another socket than server.socketPath, which is \
             {socket}{}",
            cause(kms.endpoint(), &found)
        );
        let values = [("socket", &*socket)];
        checks.push(fail(&causes::PROVIDER_ENDPOINT, message, &values, class));
    }

    if let Ok(timeout) = kms.timeout() {
        checks.extend(patience(place, timeout, config.openbao.timeout));
    }
    checks
}

/// Hint at an easily overlooked cause of a different path.
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

fn patience(place: Place, theirs: Duration, own: Duration) -> Option<CheckResult> {
    if theirs >= own.saturating_add(MARGIN) {
        return None;
    }

    let message = format!(
        "{place}: kube-apiserver waits {theirs:?} for an answer, this provider {own:?} for OpenBao"
    );
    let margin = format!("{MARGIN:?}");
    let values = [("margin", &*margin)];
    let class = ImpactClass::ApiServerAvailability;
    Some(if theirs <= own {
        fail(&causes::TIMEOUT, message, &values, class).code("timeout")
    } else {
        let check = CheckResult::warn(ID, TITLE, message);
        let advice = causes::TIMEOUT.advise(&Site::none(), &values);
        check
            .because(advice)
            .impact_class(class)
            .code("timeout_margin")
    })
}
