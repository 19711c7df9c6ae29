//! A session with a token through its module.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism as Pkcs11Mechanism, MechanismType,
        eddsa::{EddsaParams, EddsaSignatureScheme},
        rsa::{PkcsMgfType, PkcsPssParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};

use crate::{
    frame::{KeyKind, Mechanism, Open},
    problem::TokenProblem,
};

/// DER of the identifiers of curves, as `CKA_EC_PARAMS` has them.
const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 0x22];
/// Ed25519 by its identifier, and by its name, which older modules use.
const ED25519: [&[u8]; 2] = [&[0x06, 3, 0x2b, 0x65, 0x70], b"\x13\x0cedwards25519"];

/// A session logged in to a token, with its key.
pub(crate) struct SigningSession {
    session: Session,
    key: ObjectHandle,
    kind: KeyKind,
}

impl SigningSession {
    pub(crate) fn open(open: &Open) -> Result<Self, TokenProblem> {
        check_file(&open.key.module)?;
        let module = Pkcs11::new(&open.key.module).map_err(|error| match error {
            Error::Pkcs11(..) => call_failed(&error),
            _ => TokenProblem::ModuleUnloadable,
        })?;
        let flags = CInitializeFlags::OS_LOCKING_OK;
        module
            .initialize(CInitializeArgs::new(flags))
            .map_err(|error| match call_failed(&error) {
                TokenProblem::Call { reason, .. } => TokenProblem::ModuleFailed(reason),
                other => other,
            })?;

        let slot = find_token(&module, &open.key.token)?;
        let token = module.get_token_info(slot).map_err(|it| call_failed(&it))?;
        if token.user_pin_locked() {
            return Err(TokenProblem::PinLocked);
        }
        if token.user_pin_final_try() {
            return Err(TokenProblem::PinLastTry);
        }
        let session = module
            .open_ro_session(slot)
            .map_err(|it| call_failed(&it))?;
        let pin = AuthPin::new(open.pin.as_str().into());
        session
            .login(UserType::User, Some(&pin))
            .map_err(login_failed)?;
        drop(pin);

        let key = find_key(&session, &open.key.key)?;
        let kind = kind_of(&session, key)?;
        let needed = match kind {
            KeyKind::P256 | KeyKind::P384 => MechanismType::ECDSA,
            KeyKind::Ed25519 => MechanismType::EDDSA,
            KeyKind::Rsa => MechanismType::RSA_PKCS_PSS,
        };
        let mechanisms = module.get_mechanism_list(slot);
        if !mechanisms.map_err(|it| call_failed(&it))?.contains(&needed) {
            return Err(TokenProblem::KeyUnsupported);
        }
        Ok(Self { session, key, kind })
    }

    pub(crate) fn kind(&self) -> KeyKind {
        self.kind
    }

    pub(crate) fn sign(&self, mechanism: Mechanism, data: &[u8]) -> Result<Vec<u8>, TokenProblem> {
        let pss = |hash_alg, mgf, length: u64| {
            Pkcs11Mechanism::RsaPkcsPss(PkcsPssParams {
                hash_alg,
                mgf,
                s_len: length.into(),
            })
        };
        let mechanism = match mechanism {
            Mechanism::Ecdsa => Pkcs11Mechanism::Ecdsa,
            Mechanism::Ed25519 => {
                Pkcs11Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519))
            }
            Mechanism::PssSha256 => pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
            Mechanism::PssSha384 => pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
            Mechanism::PssSha512 => pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
        };
        self.session
            .sign(&mechanism, self.key, data)
            .map_err(|error| call_failed(&error))
    }
}

/// Only root may be able to change the module or a link to it, since it runs with the rights of the
/// provider.
fn check_file(module: &Path) -> Result<(), TokenProblem> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => TokenProblem::ModuleMissing,
        _ => TokenProblem::ModuleUnloadable,
    };
    let link = fs::symlink_metadata(module).map_err(unreadable)?;
    let facts = fs::metadata(module).map_err(unreadable)?;
    if link.uid() != 0 || facts.uid() != 0 || facts.mode() & 0o022 != 0 {
        return Err(TokenProblem::ModuleUnsafe);
    }
    let header = |path: &Path| {
        let mut header = [0; 20];
        File::open(path)?.read_exact(&mut header)?;
        std::io::Result::Ok(header)
    };
    // `e_machine` of both ELF files.
    let machine = |header: &[u8; 20]| [header[18], header[19]];
    let own = header(Path::new("/proc/self/exe"));
    if let (Ok(own), Ok(other)) = (own, header(module))
        && other.starts_with(b"\x7fELF")
        && machine(&own) != machine(&other)
    {
        return Err(TokenProblem::ModuleArchitecture);
    }
    Ok(())
}

fn find_token(module: &Pkcs11, label: &str) -> Result<Slot, TokenProblem> {
    let slots = module.get_slots_with_token();
    let mut found = Vec::new();
    for slot in slots.map_err(|it| call_failed(&it))? {
        // A token may be removed between the two calls.
        let token = module.get_token_info(slot);
        if token.is_ok_and(|token| token.label() == label) {
            found.push(slot);
        }
    }
    match found[..] {
        [] => Err(TokenProblem::TokenAbsent),
        [slot] => Ok(slot),
        _ => Err(TokenProblem::TokenAmbiguous),
    }
}

fn find_key(session: &Session, label: &str) -> Result<ObjectHandle, TokenProblem> {
    let found = session.find_objects(&[
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Label(label.into()),
    ]);
    match found.map_err(|it| call_failed(&it))?[..] {
        [] => Err(TokenProblem::KeyAbsent),
        [key] => Ok(key),
        _ => Err(TokenProblem::KeyAmbiguous),
    }
}

fn kind_of(session: &Session, key: ObjectHandle) -> Result<KeyKind, TokenProblem> {
    let read = |of| {
        session
            .get_attributes(key, &[of])
            .map_err(|it| call_failed(&it))
    };
    let key_type = read(AttributeType::KeyType)?;
    let curve = || match read(AttributeType::EcParams)?.pop() {
        Some(Attribute::EcParams(curve)) => Ok(curve),
        _ => Err(TokenProblem::KeyUnsupported),
    };
    match key_type[..] {
        [Attribute::KeyType(KeyType::RSA)] => Ok(KeyKind::Rsa),
        [Attribute::KeyType(KeyType::EC)] => match &*curve()? {
            P256 => Ok(KeyKind::P256),
            P384 => Ok(KeyKind::P384),
            _ => Err(TokenProblem::KeyUnsupported),
        },
        [Attribute::KeyType(KeyType::EC_EDWARDS)] if ED25519.contains(&&*curve()?) => {
            Ok(KeyKind::Ed25519)
        }
        _ => Err(TokenProblem::KeyUnsupported),
    }
}

fn login_failed(error: Error) -> TokenProblem {
    match error {
        Error::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid, _) => {
            TokenProblem::PinWrong
        }
        Error::Pkcs11(RvError::PinLocked, _) => TokenProblem::PinLocked,
        Error::Pkcs11(RvError::PinExpired | RvError::UserPinNotInitialized, _) => {
            TokenProblem::PinUnset
        }
        _ => call_failed(&error),
    }
}

/// Names function and return code. The texts of other errors may contain paths.
fn call_failed(error: &Error) -> TokenProblem {
    let (call, reason) = match error {
        Error::Pkcs11(code, function) => (function_name(*function), format!("{code:?}")),
        _ => ("a function".to_owned(), "unusable result".to_owned()),
    };
    TokenProblem::Call { call, reason }
}

fn function_name(function: Function) -> String {
    format!("C_{function:?}")
}
