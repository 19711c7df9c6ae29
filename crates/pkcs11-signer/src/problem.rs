//! Errors of a token, its key and the module.

use serde::{Deserialize, Serialize};

/// Error of using a key on a token. Contains neither paths nor labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TokenProblem {
    /// This build cannot load modules.
    #[error("this build of the program cannot load PKCS#11 modules")]
    NotBuilt,
    /// The file of the module is missing.
    #[error("the module does not exist")]
    ModuleMissing,
    /// Another user than root may change the module.
    #[error("the module can be changed by others than root")]
    ModuleUnsafe,
    /// The module is a library for another processor.
    #[error("the module is for another processor architecture")]
    ModuleArchitecture,
    /// The dynamic linker refused the module: it is no library, or one that it needs is missing.
    #[error("the module cannot be loaded")]
    ModuleUnloadable,
    /// `C_Initialize` failed.
    #[error("the module does not start: {0}")]
    ModuleFailed(String),
    /// No token has the label.
    #[error("no token has this label")]
    TokenAbsent,
    /// Several tokens have the label.
    #[error("several tokens have this label")]
    TokenAmbiguous,
    /// The token rejected the PIN.
    #[error("the token rejected the PIN")]
    PinWrong,
    /// The token rejected this PIN before. It was not tried again.
    #[error("the token rejected this PIN before, so it was not tried again")]
    PinKnownWrong,
    /// One more wrong PIN locks the token. The PIN was not tried.
    #[error("the token has one try for the PIN left, so it was not tried")]
    PinLastTry,
    /// The PIN is locked after too many wrong ones.
    #[error("the PIN of the token is locked")]
    PinLocked,
    /// The token has no user PIN, or it has expired.
    #[error("the user PIN of the token is not set up, or has expired")]
    PinUnset,
    /// The token has no private key with the label.
    #[error("the token has no private key with this label")]
    KeyAbsent,
    /// Several private keys have the label.
    #[error("several private keys of the token have this label")]
    KeyAmbiguous,
    /// The key is of an unsupported type or curve, or the token lacks the mechanism for it.
    #[error("the key is not ECDSA P-256, ECDSA P-384, Ed25519 or RSA with PSS")]
    KeyUnsupported,
    /// A call of the module failed.
    #[error("{call} of the module failed: {reason}")]
    Call {
        /// Name of the function.
        call: String,
        /// Name of the return code.
        reason: String,
    },
    /// A call of the module did not return within its time limit.
    #[error("the module does not answer")]
    Hangs,
    /// The process with the module was ended by a signal.
    #[error("the module crashed")]
    Crashed,
    /// The helper process of this program has ended or could not start.
    #[error("the helper process for the module is gone")]
    HelperGone,
}

impl TokenProblem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotBuilt => "pkcs11_not_built",
            Self::ModuleMissing => "module_missing",
            Self::ModuleUnsafe => "module_unsafe",
            Self::ModuleArchitecture => "module_architecture",
            Self::ModuleUnloadable => "module_unloadable",
            Self::ModuleFailed(_) => "module_failed",
            Self::TokenAbsent => "token_absent",
            Self::TokenAmbiguous => "token_ambiguous",
            Self::PinWrong => "pin_wrong",
            Self::PinKnownWrong => "pin_known_wrong",
            Self::PinLastTry => "pin_last_try",
            Self::PinLocked => "pin_locked",
            Self::PinUnset => "pin_unset",
            Self::KeyAbsent => "key_absent",
            Self::KeyAmbiguous => "key_ambiguous",
            Self::KeyUnsupported => "key_unsupported",
            Self::Call { .. } => "module_call_failed",
            Self::Hangs => "module_hangs",
            Self::Crashed => "module_crashed",
            Self::HelperGone => "helper_gone",
        }
    }

    /// Whether the token counted a wrong PIN, or would count the next one.
    pub(crate) fn condemns_pin(&self) -> bool {
        matches!(self, Self::PinWrong | Self::PinLocked)
    }
}
