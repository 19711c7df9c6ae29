//! The OpenBao side: mount, key, policy, login method and role.

use kms_node::config::{Config, Method};

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
    let (login_enable, login_config, login_role) = login(plan);
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
        login_enable = indented(&login_enable, 2),
        login_config = indented(&login_config, 2),
        login_role = indented(&login_role, 2),
    )
}

/// Name of the method below `auth/`.
fn method_mount(config: &Config) -> &str {
    let path = config.auth.mount_path().as_str();
    path.strip_prefix("auth/").unwrap_or(path)
}

/// Commands that enable the login method, configure it, and write the role.
fn login(plan: &Plan) -> (String, String, String) {
    let config = &plan.loaded.config;
    let mount = method_mount(config);
    let path = word(config.auth.mount_path().as_str());
    let role = config.auth.role().unwrap_or_default();
    let kind = match &config.auth.method {
        Method::Jwt(_) => "jwt",
        Method::Cert(_) => "cert",
    };
    let enable = format!(
        "has_mount auth {mount} || bao auth enable -path={} {kind}",
        word(mount)
    );
    let token = format!(
        "token_policies={} token_ttl=30m token_max_ttl=1h token_no_default_policy=true \\\n  \
         token_type=service",
        word(&plan.policy_name)
    );
    match &config.auth.method {
        Method::Jwt(jwt) => {
            let claims = &jwt.claims;
            let issuer = word(claims.expected_issuer.as_deref().unwrap_or_default());
            let subject = word(claims.expected_subject.as_deref().unwrap_or_default());
            let audiences = word(&claims.expected_audience.join(","));
            let config = format!(
                "# The keys of the issuer: from JWT_KEYS (a PEM file with public keys), from JWKS_URL, or\n\
                 # from the issuer's discovery document. ISSUER_CA is the PEM file with its CA, if it is private.\n\
                 if [ -n \"${{JWT_KEYS:-}}\" ]; then\n  \
                   bao write {path}/config bound_issuer={issuer} \"jwt_validation_pubkeys=@$JWT_KEYS\"\n\
                 elif [ -n \"${{JWKS_URL:-}}\" ]; then\n  \
                   bao write {path}/config bound_issuer={issuer} \"jwks_url=$JWKS_URL\" \
                 ${{ISSUER_CA:+\"jwks_ca_pem=@$ISSUER_CA\"}}\n\
                 else\n  \
                   bao write {path}/config bound_issuer={issuer} oidc_discovery_url={issuer} \
                 ${{ISSUER_CA:+\"oidc_discovery_ca_pem=@$ISSUER_CA\"}}\n\
                 fi"
            );
            let role = format!(
                "bao write {path}/role/{role} role_type=jwt user_claim=sub \\\n  \
                 bound_audiences={audiences} bound_subject={subject} \\\n  {token}"
            );
            (enable, config, role)
        }
        Method::Cert(_) => {
            let config =
                format!("bao write {path}/config disable_binding=false ocsp_fail_open=false");
            let role = format!(
                "# CLIENT_CA: the PEM file with the CA of the nodes' certificates. ALLOWED: a rule that only\n\
                 # certificates of nodes meet, such as allowed_uri_sans=spiffe://example/kms\n\
                 bao write {path}/certs/{role} \"certificate=@$CLIENT_CA\" \"$ALLOWED\" \\\n  {token}"
            );
            (enable, config, role)
        }
    }
}

/// The same objects for OpenTofu.
pub(super) fn tofu(plan: &Plan) -> String {
    let config = &plan.loaded.config;
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let namespace = config.scope.openbao_namespace.as_ref();
    let namespace = namespace.map_or(String::new(), |name| {
        format!("  namespace = {}\n", text(name.as_str()))
    });
    let mount = method_mount(config);
    let role = text(config.auth.role().unwrap_or_default());
    let token = "  token_policies          = [vault_policy.kms.name]\n  \
                 token_ttl               = 1800\n  \
                 token_max_ttl           = 3600\n  \
                 token_no_default_policy = true\n";
    let login = match &config.auth.method {
        Method::Jwt(jwt) => {
            let claims = &jwt.claims;
            let issuer = text(claims.expected_issuer.as_deref().unwrap_or_default());
            let audiences = serde_json::json!(claims.expected_audience);
            let subject = text(claims.expected_subject.as_deref().unwrap_or_default());
            format!(
                r#"# The keys of the issuer. In place of the discovery document: jwks_url, or jwt_validation_pubkeys.
resource "vault_jwt_auth_backend" "kms" {{
  type               = "jwt"
  path               = {mount}
  bound_issuer       = {issuer}
  oidc_discovery_url = {issuer}
}}

resource "vault_jwt_auth_backend_role" "kms" {{
  backend                 = vault_jwt_auth_backend.kms.path
  role_name               = {role}
  role_type               = "jwt"
  user_claim              = "sub"
  bound_audiences         = {audiences}
  bound_subject           = {subject}
{token}}}
"#,
                mount = text(mount),
            )
        }
        Method::Cert(_) => format!(
            r#"variable "client_ca" {{
  type        = string
  description = "PEM of the CA of the nodes' certificates"
}}

variable "allowed_uri_sans" {{
  type        = list(string)
  description = "URIs that only certificates of nodes have"
}}

resource "vault_auth_backend" "kms" {{
  type = "cert"
  path = {mount}
}}

resource "vault_cert_auth_backend_role" "kms" {{
  backend                 = vault_auth_backend.kms.path
  name                    = {role}
  certificate             = var.client_ca
  allowed_uri_sans        = var.allowed_uri_sans
{token}}}
"#,
            mount = text(mount),
        ),
    };
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
