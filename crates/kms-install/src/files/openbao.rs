//! The OpenBao side: mount, key, policy, login method and role.

mod login;

use super::{indented, word};
use crate::plan::Plan;

/// A shell script of `bao` commands. It repeats safely: what exists is kept.
pub(super) fn script(plan: &Plan) -> String {
    let config = &plan.loaded.config;
    let namespace = config.scope.openbao_namespace.as_ref();
    let namespace = namespace.map_or(String::new(), |name| {
        format!("export BAO_NAMESPACE={}\n", word(name.as_str()))
    });
    let (mount, key) = (config.key.mount_path.as_str(), config.key.key_name.as_str());
    let login::Commands {
        enable,
        configure,
        role,
    } = login::commands(plan);
    format!(
        r#"#!/bin/sh
# Prepares OpenBao for bao-kms-provider of cluster {cluster}. Run it once for the key, with BAO_ADDR,
# BAO_CACERT and an administrator's token (bao login). It repeats safely: an existing mount, key and
# method are kept, the policy and the role are written again.
#
# Usage: openbao-setup.sh [all|transit|policy|auth-mount|auth-config|auth-role]
set -eu
{namespace}
has_mount() {{
  bao "$1" list -format=json | grep -q "^  \"$2/\": {{"
}}

transit() {{
  has_mount secrets {mount} || bao secrets enable -path={mount_word} transit
  # Encryption with a wrong name fails instead of making another key.
  bao write {mount_word}/config/keys disable_upsert=true
  bao read {mount_word}/keys/{key} >/dev/null 2>&1 ||
    bao write {mount_word}/keys/{key} type=aes256-gcm96 derived=false exportable=false allow_plaintext_backup=false
}}

policy() {{
  bao policy write {policy_name} - <<'POLICY'
{policy}POLICY
}}

auth_mount() {{
{login_enable}}}

auth_config() {{
{login_config}}}

auth_role() {{
{login_role}}}

case "${{1:-all}}" in
  all)
    transit
    policy
    auth_mount
    auth_config
    auth_role
    echo "OpenBao is ready for bao-kms-provider: check a node with bao-kms-provider doctor"
    ;;
  transit) transit ;;
  policy) policy ;;
  auth-mount) auth_mount ;;
  auth-config) auth_config ;;
  auth-role) auth_role ;;
  *)
    echo "usage: $0 [all|transit|policy|auth-mount|auth-config|auth-role]" >&2
    exit 2
    ;;
esac
"#,
        cluster = config.scope.cluster_id,
        mount_word = word(mount),
        policy = plan.policy,
        policy_name = word(&plan.policy_name),
        login_enable = indented(&enable, 2),
        login_config = indented(&configure, 2),
        login_role = indented(&role, 2),
    )
}

/// The same objects for OpenTofu.
pub(super) fn tofu(plan: &Plan) -> String {
    let config = &plan.loaded.config;
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let namespace = config.scope.openbao_namespace.as_ref();
    let namespace = namespace.map_or(String::new(), |name| {
        format!("  namespace = {}\n", text(name.as_str()))
    });
    let login = login::tofu(plan);
    format!(
        r#"# Prepares OpenBao for bao-kms-provider of cluster {cluster}. The provider for Vault speaks OpenBao's API.
terraform {{
  required_providers {{
    vault = {{
      source = "hashicorp/vault"
    }}
  }}
}}

provider "vault" {{
  address = {address}
{namespace}}}

resource "vault_mount" "kms" {{
  path = {transit}
  type = "transit"

  lifecycle {{
    prevent_destroy = true
  }}
}}

# Encryption with a wrong name fails instead of making another key.
resource "vault_generic_endpoint" "keys" {{
  path                 = "${{vault_mount.kms.path}}/config/keys"
  disable_read         = true
  disable_delete       = true
  ignore_absent_fields = true
  data_json            = jsonencode({{ disable_upsert = true }})
}}

resource "vault_transit_secret_backend_key" "kms" {{
  backend                = vault_mount.kms.path
  name                   = {key}
  type                   = "aes256-gcm96"
  derived                = false
  exportable             = false
  allow_plaintext_backup = false
  deletion_allowed       = false

  # Without this key every encrypted object in etcd is lost. Versions are the provider's matter.
  lifecycle {{
    prevent_destroy = true
    ignore_changes  = [min_decryption_version, min_encryption_version]
  }}
}}

resource "vault_policy" "kms" {{
  name   = {policy_name}
  policy = file("${{path.module}}/openbao-policy.hcl")
}}

{login}"#,
        cluster = config.scope.cluster_id,
        address = text(&config.openbao.address.to_string()),
        transit = text(config.key.mount_path.as_str()),
        key = text(config.key.key_name.as_str()),
        policy_name = text(&plan.policy_name),
    )
}
