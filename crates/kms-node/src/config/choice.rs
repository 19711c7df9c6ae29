//! Settings with a fixed set of words.

use serde_json::{Value, json};

use super::{
    problem::Broken,
    resolve::Resolver,
    rules::{Rule, read_text},
};

macro_rules! choices {
    ($($vis:vis $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal),+ $(,)?
        $(; $refused:literal = $reason:literal)?
    })+) => {$(
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$note])* $variant),+
        }

        impl Rule for $name {
            type Value = Self;
            const KIND: &'static str = "text";

            fn schema() -> Value {
                json!({"type": "string", "enum": [$($word),+]})
            }

            fn read(value: &Value, path: &str, resolver: &mut Resolver) -> Option<Self> {
                read_text(value, path, resolver, |text| {
                    let words: &[&str] = &[$($word),+];
                    let refused = Broken::rule(format!("must be {}", words.join(" or ")));
                    match text {
                        $($word => Ok(Self::$variant),)+
                        $($refused => Err(refused.hint($reason)),)?
                        _ => Err(refused),
                    }
                })
            }
        }
    )+};
}

choices! {
    pub(super) ConfigVersion { V1Alpha1 = "v1alpha1" }
    pub(super) AuthMethod {
        Jwt = "jwt", Cert = "cert", AppRole = "approle", Userpass = "userpass", Token = "token",
    }
    pub(super) JwtSourceName { File = "file", OAuth2 = "oauth2", Spiffe = "spiffe" }
    pub(super) ClientAuthMethod {
        Basic = "client_secret_basic",
        Post = "client_secret_post",
        PrivateKeyJwt = "private_key_jwt",
    }
    pub(super) RsaAlgorithmName { Rs256 = "RS256", Ps256 = "PS256" }
    pub(super) CertSourceName {
        File = "file", Pkcs11 = "pkcs11";
        "spiffe" = "OpenBao cannot derive an identity alias from a URI SAN"
    }
    pub(super) RotationMode { Observed = "observed" }
    pub Enforcement {
        Disabled = "disabled",
        /// As far as the kernel goes; what it refuses is reported.
        BestEffort = "best-effort",
        /// Without it the provider does not start.
        Required = "required",
    }
    pub LogLevel { Debug = "debug", Info = "info", Warn = "warn", Error = "error" }
    pub LogFormat { Json = "json", Text = "text" }
}
