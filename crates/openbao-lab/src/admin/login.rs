//! Policies and JWT logins.

use serde_json::json;

use crate::admin::{Admin, AdminError};

/// A role of a JWT login. Its tokens have the one policy, a TTL of 30 minutes and a maximum TTL of
/// one hour.
#[derive(Debug, Clone, Copy)]
pub struct JwtRole<'a> {
    /// Required element of the JWT's `aud`.
    pub audience: &'a str,
    /// Required `sub` of the JWT.
    pub subject: &'a str,
    /// The policy of the tokens.
    pub policy: &'a str,
}

impl Admin<'_> {
    /// Writes a policy in HCL.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn write_policy(&self, name: &str, policy: &str) -> Result<(), AdminError> {
        self.write(
            &format!("sys/policies/acl/{name}"),
            &json!({"policy": policy}),
        )
        .await
        .map(drop)
    }

    /// Mounts JWT login below `auth/`. JWTs must be signed with this key and come from this issuer.
    /// OpenBao checks both offline.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn mount_jwt_auth(
        &self,
        mount: &str,
        issuer: &str,
        public_key_pem: &str,
    ) -> Result<(), AdminError> {
        self.write(&format!("sys/auth/{mount}"), &json!({"type": "jwt"}))
            .await?;
        let config = json!({
            "jwt_validation_pubkeys": [public_key_pem],
            "bound_issuer": issuer,
        });
        self.write(&format!("auth/{mount}/config"), &config)
            .await
            .map(drop)
    }

    /// Writes a role of a JWT login.
    ///
    /// # Errors
    /// [`AdminError::Call`].
    pub async fn write_jwt_role(
        &self,
        mount: &str,
        name: &str,
        role: JwtRole<'_>,
    ) -> Result<(), AdminError> {
        let role = json!({
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [role.audience],
            "bound_subject": role.subject,
            "token_policies": [role.policy],
            "token_no_default_policy": true,
            "token_ttl": "30m",
            "token_max_ttl": "1h",
        });
        self.write(&format!("auth/{mount}/role/{name}"), &role)
            .await
            .map(drop)
    }
}
