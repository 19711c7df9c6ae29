//! Causes in the PKCS#11 token of this node.

use pkcs11_signer::TokenProblem;

use super::{Cause, Step, act, configuration, none_lost, openbao::KEY_IS_IN_OPENBAO, run};
use crate::exit::Exit;

const NO_GUESSING: &str = "do not try other PINs by hand: the token locks after a few wrong ones";
const SHOW_LIBRARIES: Step = run(
    "see whether the dynamic linker finds all its libraries",
    "ldd {module}",
);
const SHOW_TOKENS: Step = run(
    "see the tokens of the module",
    "pkcs11-tool --module {module} --list-token-slots",
);
const AGAIN: Step =
    act("the provider logs in by itself once this is repaired; a restart is not needed");

causes! {
    MODULE_MISSING = none_lost("module_missing", "the PKCS#11 module is missing", KEY_IS_IN_OPENBAO)
        .steps(&[act(
            "install the software of the token, or correct auth.cert.pkcs11.modulePath in {config}; the \
             path is now {module}",
        )]);

    MODULE_UNSAFE = none_lost(
        "module_unsafe",
        "the PKCS#11 module can be changed by other users than root",
        KEY_IS_IN_OPENBAO,
    )
    .exit(Exit::Configuration)
    .steps(&[
        act("install the module again, if another user may have changed it"),
        act("let root own {module} and each link to it, without write access for others"),
    ]);

    MODULE_ARCHITECTURE = none_lost(
        "module_architecture",
        "the PKCS#11 module is for another processor architecture",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "install the module for the architecture of this node, or correct auth.cert.pkcs11.modulePath \
         in {config}; the path is now {module}",
    )]);

    MODULE_UNLOADABLE = none_lost(
        "module_unloadable",
        "the PKCS#11 module cannot be loaded",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_LIBRARIES,
        act(
            "install what is missing, or correct auth.cert.pkcs11.modulePath in {config}; under systemd \
             also the sandbox of the unit must admit the files of the module",
        ),
    ]);

    MODULE_FAILED = none_lost(
        "module_failed",
        "the PKCS#11 module or the token behind it fails",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_TOKENS,
        act(
            "repair the token, its service or the connection to it; under systemd the sandbox of the \
             unit must admit the files and devices of the module",
        ),
        AGAIN,
    ]);

    MODULE_HANGS = none_lost(
        "module_hangs",
        "the PKCS#11 module does not answer",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("repair the token, its service or the network to it"),
        act("if the token is only slow, raise auth.loginTimeout in {config}: its first half is for the token"),
        AGAIN,
    ]);

    MODULE_CRASHED = none_lost(
        "module_crashed",
        "the PKCS#11 module crashed",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_LIBRARIES,
        act("install another version of the module, and report the crash to its vendor"),
        AGAIN,
    ]);

    HELPER_GONE = none_lost(
        "token_helper_gone",
        "the helper process for the PKCS#11 module has ended",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("find out what ended it: the kernel's log names a lack of memory"),
        run("start the provider again", "systemctl restart bao-kms-provider"),
    ]);

    TOKEN_ABSENT = none_lost(
        "token_absent",
        "the PKCS#11 module has no token with the configured label, or more than one",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        SHOW_TOKENS,
        act("plug in the token {token_label}, or correct auth.cert.pkcs11.tokenLabel in {config}"),
        act("if the token is lost, use a time-limited emergency identity until there is another: \
             auth.method token in {config}"),
        AGAIN,
    ]);

    PIN_FILE = none_lost(
        "pin_unreadable",
        "the PIN file is missing, unreadable, unsafe, or holds something other than one line",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "write the PIN of the token as one line to {pin_file}, with mode 0640, readable for the user of \
         the provider",
    )]);

    PIN_WRONG = none_lost(
        "pin_wrong",
        "the PKCS#11 token rejected the PIN; the provider does not try this PIN again",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("write the right PIN to {pin_file}; the provider then tries it at its next login"),
        act("stop the provider until the right PIN is known: every start tries the PIN once"),
    ])
    .warnings(&[NO_GUESSING]);

    PIN_LAST_TRY = none_lost(
        "pin_last_try",
        "the PKCS#11 token locks after one more wrong PIN, so the provider does not try its PIN",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("make sure that {pin_file} holds the right PIN"),
        run(
            "log in once by hand with the right PIN, which gives all tries back",
            "pkcs11-tool --module {module} --token-label {token_label} --login --list-objects",
        ),
    ])
    .warnings(&[NO_GUESSING]);

    PIN_LOCKED = none_lost(
        "pin_locked",
        "the PIN of the PKCS#11 token is locked, expired or not set up",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        act("have the security officer of the token unlock it and set the user PIN"),
        act("write the PIN to {pin_file}"),
    ])
    .warnings(&["do not initialize the token: that destroys the key on it"]);

    TOKEN_KEY_ABSENT = none_lost(
        "token_key_absent",
        "the PKCS#11 token has no private key with the configured label, or more than one",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[
        run(
            "see the objects of the token",
            "pkcs11-tool --module {module} --token-label {token_label} --login --list-objects",
        ),
        act("correct auth.cert.pkcs11.keyLabel in {config}, which is now {key_label}, or the label of the key"),
    ]);

    TOKEN_KEY_UNSUPPORTED = none_lost(
        "token_key_unsupported",
        "the key on the PKCS#11 token is not ECDSA P-256, ECDSA P-384, Ed25519 or RSA with PSS",
        KEY_IS_IN_OPENBAO,
    )
    .steps(&[act(
        "generate a key of such a type on the token, have a certificate issued for it, and replace \
         {credential} and auth.cert.pkcs11.keyLabel",
    )]);
}

/// The cause of a problem with the token.
pub(super) fn of_token(problem: &TokenProblem) -> &'static Cause {
    match problem {
        TokenProblem::NotBuilt => &configuration::UNSUPPORTED_LOGIN,
        TokenProblem::ModuleMissing => &MODULE_MISSING,
        TokenProblem::ModuleUnsafe => &MODULE_UNSAFE,
        TokenProblem::ModuleArchitecture => &MODULE_ARCHITECTURE,
        TokenProblem::ModuleUnloadable => &MODULE_UNLOADABLE,
        TokenProblem::ModuleFailed(_) | TokenProblem::Call { .. } => &MODULE_FAILED,
        TokenProblem::TokenAbsent | TokenProblem::TokenAmbiguous => &TOKEN_ABSENT,
        TokenProblem::PinWrong | TokenProblem::PinKnownWrong => &PIN_WRONG,
        TokenProblem::PinLastTry => &PIN_LAST_TRY,
        TokenProblem::PinLocked | TokenProblem::PinUnset => &PIN_LOCKED,
        TokenProblem::KeyAbsent | TokenProblem::KeyAmbiguous => &TOKEN_KEY_ABSENT,
        TokenProblem::KeyUnsupported => &TOKEN_KEY_UNSUPPORTED,
        TokenProblem::Hangs => &MODULE_HANGS,
        TokenProblem::Crashed => &MODULE_CRASHED,
        TokenProblem::HelperGone => &HELPER_GONE,
    }
}
