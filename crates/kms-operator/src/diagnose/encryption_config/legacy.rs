//! Checks of the entry of vault-kubernetes-kms, which this node reads at a second socket.

use std::os::unix::ffi::OsStrExt as _;

use kms_node::{
    config::VaultKubernetesKms,
    report::{CheckResult, ImpactClass},
};

use super::{
    causes,
    document::{Document, KmsVersion},
    endpoint::is_same_file,
    fail, warn_with,
    writers::Treatment,
};

pub(super) fn check(
    document: &Document,
    treatment: &[Treatment<'_>],
    reader: &VaultKubernetesKms,
) -> Vec<CheckResult> {
    let name = reader.provider_name.as_str();
    let socket = reader.socket_path.display().to_string();
    let values = [("name", name), ("socket", &*socket)];
    let of_entry = |code: &'static str, message: String| {
        let class = ImpactClass::ApiServerAvailability;
        fail(&causes::LEGACY_ENTRY, message, &values, class).code(code)
    };

    let mut entries = document
        .kms()
        .filter(|(_, kms)| kms.name() == name)
        .peekable();
    if entries.peek().is_none() {
        let message = format!("no kms provider has the name {name:?} of vault-kubernetes-kms");
        let class = ImpactClass::DataRecovery;
        return vec![warn_with(&causes::LEGACY_UNLISTED, message, &values, class)];
    }
    let mut checks = Vec::new();
    for (place, kms) in entries {
        let bytes = reader.socket_path.as_os_str().as_bytes();
        if kms.version() == Some(KmsVersion::V1) {
            let message = format!("{place}: {name:?} is called with API v1");
            checks.push(of_entry("legacy_api_version", message));
        } else if kms.socket().is_ok_and(|found| !is_same_file(&found, bytes)) {
            let message = format!("{place}: {name:?} leads to another socket than {socket}");
            checks.push(of_entry("legacy_endpoint", message));
        }
    }

    let first: Vec<_> = treatment
        .iter()
        .filter(|it| it.is_written_by(name))
        .collect();
    if !first.is_empty() {
        let resources: Vec<_> = first.iter().map(|it| it.resource().to_string()).collect();
        let message = format!(
            "{}: {name:?} is the first provider, so new objects have its name",
            resources.join(", ")
        );
        let class = ImpactClass::Diagnosis;
        checks.push(warn_with(&causes::LEGACY_FIRST, message, &values, class));
    }
    checks
}
