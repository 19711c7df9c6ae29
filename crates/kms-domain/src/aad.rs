//! The associated data that binds a Transit ciphertext to its key and purpose.
//! Implements `docs/format/associated-data.md`.
//!
//! It is never stored or displayed. Outside this crate, it comes from [`prepare`](crate::prepare),
//! after a match of the annotations, or belongs to a probe or benchmark.

use std::fmt;

use serde::Serialize;

use crate::{json, key::TransitKey};

/// The bytes authenticated by Transit together with the plaintext.
#[derive(Clone, PartialEq, Eq)]
pub struct AssociatedData(Vec<u8>);

impl AssociatedData {
    /// The associated data of the status probe. It differs from that of stored objects, so a
    /// probe's ciphertext cannot be used as one.
    #[must_use]
    pub fn status_probe() -> Self {
        Self(b"openbao-kubernetes-kms/status-probe/v1".to_vec())
    }

    /// The associated data of a probe run by an operator, distinct from the status probe in
    /// OpenBao's audit log.
    #[must_use]
    pub fn doctor_probe() -> Self {
        Self(b"openbao-kubernetes-kms/doctor-probe/v1".to_vec())
    }

    /// The associated data of the `benchmark` command.
    #[must_use]
    pub fn benchmark() -> Self {
        Self(b"openbao-kubernetes-kms/benchmark-smoke/v1".to_vec())
    }

    /// The bytes for Transit, before base64.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn for_key(key: &TransitKey) -> Self {
        let scope = key.scope();
        let text = json::compact(&Version1 {
            aad_version: "v1",
            purpose: "kubernetes-etcd-kms-v2",
            provider: "openbao-transit",
            provider_name: scope.identity().provider_name.as_str(),
            cluster_id_hash: scope.cluster_hash.as_str(),
            openbao_instance_hash: scope.instance_hash.as_str(),
            openbao_namespace_hash: scope.namespace_hash.as_ref().map(|hash| hash.as_str()),
            transit_mount_hash: scope.mount_hash.as_str(),
            transit_key_hash: scope.lineage_hash.as_str(),
            key_id_hash: key.id_hash().as_str(),
            key_version: &key.version().to_string(),
        });
        Self(text.into_bytes())
    }
}

impl fmt::Debug for AssociatedData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AssociatedData(..)")
    }
}

/// The members in authentication order.
#[derive(Serialize)]
struct Version1<'a> {
    aad_version: &'static str,
    purpose: &'static str,
    provider: &'static str,
    provider_name: &'a str,
    cluster_id_hash: &'a str,
    openbao_instance_hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    openbao_namespace_hash: Option<&'a str>,
    transit_mount_hash: &'a str,
    transit_key_hash: &'a str,
    key_id_hash: &'a str,
    key_version: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{self, vectors};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::Deserialize;

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Vectors {
        status_probe: String,
        texts: Vec<Text>,
    }

    #[derive(Deserialize)]
    struct Text {
        claim: String,
        text: String,
        base64: String,
    }

    #[test]
    fn every_vector_is_built_byte_for_byte() {
        let expected: Vectors = vectors!("associated_data.json");
        for Text {
            claim,
            text,
            base64,
        } in expected.texts
        {
            let built = AssociatedData::for_key(&vectors::key(&claim));
            assert_eq!(
                std::str::from_utf8(built.as_bytes()),
                Ok(text.as_str()),
                "{claim}"
            );
            assert_eq!(STANDARD.encode(built.as_bytes()), base64, "{claim}");
        }
        assert_eq!(
            AssociatedData::status_probe().as_bytes(),
            expected.status_probe.as_bytes()
        );
        assert_eq!(expected.status_probe.len(), 38);
    }

    #[test]
    fn it_is_not_shown() {
        let built = AssociatedData::for_key(&vectors::key("golden, no namespace"));
        assert_eq!(format!("{built:?}"), "AssociatedData(..)");
    }
}
