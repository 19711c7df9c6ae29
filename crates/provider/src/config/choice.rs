//! Settings with a fixed set of words.

use std::{fmt, str::FromStr};

use super::problem::Broken;

/// A word that is none of the allowed ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be {}", .0.join(" or "))]
pub struct NoSuchChoice(pub(super) &'static [&'static str]);

impl From<NoSuchChoice> for Broken {
    fn from(problem: NoSuchChoice) -> Self {
        Self::rule(problem)
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $vis:vis $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word in the configuration file.
            #[must_use]
            $vis fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl FromStr for $name {
            type Err = NoSuchChoice;

            fn from_str(text: &str) -> Result<Self, NoSuchChoice> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(NoSuchChoice(Self::WORDS)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": Self::WORDS })
            }
        }
    };
}

choice!(
    /// The only configuration version.
    pub(super) ConfigVersion {
        /// The present one.
        V1Alpha1 = "v1alpha1",
    }
);
choice!(
    /// `auth.method`
    pub(super) AuthMethod {
        /// A JSON Web Token.
        Jwt = "jwt",
        /// A client certificate.
        Cert = "cert",
    }
);
choice!(
    /// `auth.jwt.source`
    pub(super) JwtSourceName {
        /// A token file that somebody else keeps fresh.
        File = "file",
        /// The client credentials grant.
        OAuth2 = "oauth2",
    }
);
choice!(
    /// `auth.jwt.oauth2.authMethod`
    pub ClientAuthMethod {
        /// In the `Authorization` header.
        Basic = "client_secret_basic",
        /// In the request body.
        Post = "client_secret_post",
    }
);
choice!(
    /// `auth.cert.source`
    pub(super) CertSourceName {
        /// A key on a PKCS#11 token.
        Pkcs11 = "pkcs11",
    }
);
choice!(
    /// `rotation.mode`
    pub(super) RotationMode {
        /// The provider follows rotations and never makes one.
        Observed = "observed",
    }
);
choice!(
    /// `hardening.landlock` and `hardening.lockMemory`
    pub Enforcement {
        /// Not asked for.
        Disabled = "disabled",
        /// As far as the kernel goes along; what it refuses is reported.
        BestEffort = "best-effort",
        /// Without it the provider does not start.
        Required = "required",
    }
);
choice!(
    /// `logging.level`
    pub LogLevel {
        /// Everything.
        Debug = "debug",
        /// What an operator wants to know.
        Info = "info",
        /// What will need attention.
        Warn = "warn",
        /// What failed.
        Error = "error",
    }
);
choice!(
    /// `logging.format`
    pub LogFormat {
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
);
