//! The login method and its role, for each method of the provider.

use std::path::Path;

use kms_node::config::{Config, Method};
use serde_json::json;

use crate::{files::word, plan::Plan};

/// Shell commands.
pub(super) struct Commands {
    /// Enables the method.
    pub(super) enable: String,
    /// Configures it.
    pub(super) configure: String,
    /// Writes the role.
    pub(super) role: String,
}

/// A function of the script must have a command.
const NOTHING: &str = ":";

/// Path of the method below `auth/`.
fn mount(config: &Config) -> &str {
    let path = config
        .auth
        .mount_path()
        .map_or("token", |path| path.as_str());
    path.strip_prefix("auth/").unwrap_or(path)
}

pub(super) fn commands(plan: &Plan) -> Commands {
    let config = &plan.loaded.config;
    let (mount, policy) = (mount(config), word(&plan.policy_name));
    let path = word(&format!("auth/{mount}"));
    let enable = |kind: &str| {
        let place = word(mount);
        format!("has_mount auth {place} || bao auth enable -path={place} {kind}")
    };
    let token = format!(
        "token_policies={policy} token_ttl=30m token_max_ttl=1h token_no_default_policy=true \\\n  \
         token_type=service"
    );
    match &config.auth.method {
        Method::Jwt(jwt) => {
            let claims = &jwt.claims;
            let issuer = word(claims.expected_issuer.as_deref().unwrap_or_default());
            let subject = word(claims.expected_subject.as_deref().unwrap_or_default());
            let audiences = word(&claims.expected_audience.join(","));
            let bound = format!("bao write {path}/config bound_issuer={issuer}");
            Commands {
                enable: enable("jwt"),
                configure: format!(
                    "# The keys of the issuer: from JWT_KEYS (a PEM file with public keys), from JWKS_URL,\n\
                     # or from its discovery document. ISSUER_CA: a PEM file with its CA, if that is private.\n\
                     if [ -n \"${{JWT_KEYS:-}}\" ]; then\n  \
                       {bound} \"jwt_validation_pubkeys=@$JWT_KEYS\"\n\
                     elif [ -n \"${{JWKS_URL:-}}\" ]; then\n  \
                       {bound} \"jwks_url=$JWKS_URL\" ${{ISSUER_CA:+\"jwks_ca_pem=@$ISSUER_CA\"}}\n\
                     else\n  \
                       {bound} oidc_discovery_url={issuer} \\\n    \
                         ${{ISSUER_CA:+\"oidc_discovery_ca_pem=@$ISSUER_CA\"}}\n\
                     fi"
                ),
                role: format!(
                    "bao write {path}/role/{} role_type=jwt user_claim=sub \\\n  \
                     bound_audiences={audiences} bound_subject={subject} \\\n  {token}",
                    jwt.role
                ),
            }
        }
        Method::Cert(cert) => Commands {
            enable: enable("cert"),
            configure: format!("bao write {path}/config disable_binding=false"),
            role: format!(
                "# CLIENT_CA: a PEM file with the CA of the nodes' certificates. ALLOWED: a rule that only\n\
                 # certificates of nodes meet, such as allowed_common_names=cp-1.example,cp-2.example\n\
                 bao write {path}/certs/{} \"certificate=@$CLIENT_CA\" \"$ALLOWED\" \\\n  {token}",
                word(cert.role.as_deref().unwrap_or("kms-node"))
            ),
        },
        Method::AppRole(approle) => Commands {
            enable: enable("approle"),
            configure: NOTHING.to_owned(),
            role: format!(
                "bao write {path}/role/kms-node bind_secret_id=true \\\n  {token}\n\
                 bao write {path}/role/kms-node/role-id role_id={}\n\
                 {}",
                word(&approle.role_id),
                issue(
                    "SECRET_ID",
                    "the secret ID of one node",
                    &approle.secret_id_file,
                    &format!("bao write -field=secret_id -f {path}/role/kms-node/secret-id"),
                ),
            ),
        },
        Method::Userpass(userpass) => Commands {
            enable: enable("userpass"),
            configure: NOTHING.to_owned(),
            role: format!(
                "# PASSWORD: a file with the password, as in {}\n\
                 bao write {path}/users/{} \"password=@$PASSWORD\" \\\n  {token}",
                userpass.password_file.display(),
                userpass.username
            ),
        },
        Method::Token(file) => Commands {
            enable: NOTHING.to_owned(),
            configure: NOTHING.to_owned(),
            role: format!(
                "# The token may look itself up and renew itself by the policy default.\n\
                 bao write auth/token/roles/kms-node allowed_policies={policy},default orphan=true \\\n  \
                 renewable=true token_explicit_max_ttl=24h\n\
                 {}",
                issue(
                    "TOKEN",
                    "the token of one node",
                    &file.file,
                    "bao token create -role=kms-node -field=token",
                ),
            ),
        },
    }
}

/// A command that issues a credential, if the variable names a new file for it.
fn issue(variable: &str, content: &str, place: &Path, command: &str) -> String {
    format!(
        "# {variable}: a new file for {content}, which becomes {}\n\
         [ -z \"${{{variable}:-}}\" ] || (umask 077; set -C; {command} >\"${variable}\")",
        place.display()
    )
}

/// The same objects for OpenTofu.
pub(super) fn tofu(plan: &Plan) -> String {
    let config = &plan.loaded.config;
    let text = |text: &str| json!(text).to_string();
    let mount = text(mount(config));
    let token = "  token_policies          = [vault_policy.kms.name]\n  \
                 token_ttl               = 1800\n  \
                 token_max_ttl           = 3600\n  \
                 token_no_default_policy = true\n";
    let backend = |kind: &str| {
        format!(
            "resource \"vault_auth_backend\" \"kms\" {{\n  type = \"{kind}\"\n  path = {mount}\n}}\n"
        )
    };
    match &config.auth.method {
        Method::Jwt(jwt) => {
            let claims = &jwt.claims;
            let issuer = text(claims.expected_issuer.as_deref().unwrap_or_default());
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
                role = text(jwt.role.as_str()),
                audiences = json!(claims.expected_audience),
            )
        }
        Method::Cert(cert) => format!(
            r#"variable "client_ca" {{
  type        = string
  description = "PEM of the CA of the nodes' certificates"
}}

variable "allowed_common_names" {{
  type        = list(string)
  description = "Names that only certificates of nodes have"
}}

{backend}
resource "vault_cert_auth_backend_role" "kms" {{
  backend                 = vault_auth_backend.kms.path
  name                    = {role}
  certificate             = var.client_ca
  allowed_common_names    = var.allowed_common_names
{token}}}
"#,
            backend = backend("cert"),
            role = text(cert.role.as_deref().unwrap_or("kms-node")),
        ),
        Method::AppRole(approle) => format!(
            r#"{backend}
resource "vault_approle_auth_backend_role" "kms" {{
  backend                 = vault_auth_backend.kms.path
  role_name               = "kms-node"
  role_id                 = {role_id}
{token}}}
"#,
            backend = backend("approle"),
            role_id = text(&approle.role_id),
        ),
        Method::Userpass(userpass) => format!(
            r#"variable "password" {{
  type        = string
  sensitive   = true
  description = "Password of the provider"
}}

{backend}
resource "vault_generic_endpoint" "user" {{
  path           = "auth/${{vault_auth_backend.kms.path}}/users/{user}"
  disable_read   = true
  disable_delete = true
  data_json = jsonencode({{
    password                = var.password
    token_policies          = [vault_policy.kms.name]
    token_ttl               = "30m"
    token_max_ttl           = "1h"
    token_no_default_policy = true
  }})
}}
"#,
            backend = backend("userpass"),
            user = userpass.username,
        ),
        Method::Token(_) => r#"resource "vault_token_auth_backend_role" "kms" {
  role_name              = "kms-node"
  allowed_policies       = [vault_policy.kms.name, "default"]
  orphan                 = true
  renewable              = true
  token_explicit_max_ttl = 86400
}
"#
        .to_owned(),
    }
}
