//! Keys on real SoftHSM tokens, and modules that hang, crash or refuse.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

use std::{
    env,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use pkcs11_signer::{Helper, KeyKind, Mechanism, TokenKey, TokenProblem, keep, work};
use testkit::softhsm::{FaultyModule, KeyType, PIN, SoftToken, TOKEN, generate, module};
use zeroize::Zeroizing;

const LIMIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(500);
const DIGEST: [u8; 32] = [7; 32];
/// Names the role of a process of this test program.
const ROLE: &str = "PKCS11_SIGNER_TEST_ROLE";

fn this_program(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "helper_process", "--nocapture"])
        .env(ROLE, role);
    command
}

/// No test: the keeper or the worker, when the environment names it.
#[test]
fn helper_process() {
    let channel = rustix::stdio::stdin();
    match env::var(ROLE).as_deref() {
        Ok("keeper") => keep(channel, || this_program("worker")).unwrap(),
        Ok("worker") => work(channel).unwrap(),
        _ => {}
    }
}

struct Place {
    token: SoftToken,
    helper: Arc<Helper>,
    key: TokenKey,
    pin: Zeroizing<String>,
}

impl Place {
    fn with(module: std::path::PathBuf) -> Self {
        let token = SoftToken::new();
        token.import("p256", "01", &generate(KeyType::P256));
        let mut keeper = this_program("keeper");
        keeper.env("SOFTHSM2_CONF", token.configuration());
        Self {
            helper: Arc::new(Helper::start(keeper).unwrap()),
            key: TokenKey {
                module,
                token: TOKEN.to_owned(),
                key: "p256".to_owned(),
            },
            pin: Zeroizing::new(PIN.to_owned()),
            token,
        }
    }

    fn open(&self, limit: Duration) -> Result<pkcs11_signer::OpenKey, TokenProblem> {
        self.helper.open(&self.key, &self.pin, limit)
    }

    #[track_caller]
    fn assert_refused(&self, problem: &TokenProblem) {
        assert_eq!(self.open(LIMIT).err().as_ref(), Some(problem));
    }

    #[track_caller]
    fn assert_signs(&self) {
        let open = self
            .open(LIMIT)
            .unwrap_or_else(|problem| panic!("{problem}"));
        let signature = open.sign(Mechanism::Ecdsa, &DIGEST, LIMIT).unwrap();
        assert_eq!(signature.len(), 64);
    }
}

#[test]
fn each_type_of_key_signs() {
    let mut place = Place::with(module());
    for (id, label, generated, kind, mechanism, length) in [
        (
            "11",
            "p384",
            KeyType::P384,
            KeyKind::P384,
            Mechanism::Ecdsa,
            96,
        ),
        (
            "12",
            "rsa",
            KeyType::Rsa,
            KeyKind::Rsa,
            Mechanism::PssSha256,
            256,
        ),
        (
            "13",
            "ed",
            KeyType::Ed25519,
            KeyKind::Ed25519,
            Mechanism::Ed25519,
            64,
        ),
    ] {
        place.token.import(label, id, &generate(generated));
        label.clone_into(&mut place.key.key);
        let open = place
            .open(LIMIT)
            .unwrap_or_else(|it| panic!("{label}: {it}"));
        assert_eq!(open.kind(), kind);
        // The session serves several signatures.
        for _ in 0..2 {
            assert_eq!(open.sign(mechanism, &DIGEST, LIMIT).unwrap().len(), length);
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let mut place = Place::with(module());
    place.key.key = "other".to_owned();
    place.assert_refused(&TokenProblem::KeyAbsent);
    place.key.token = "other".to_owned();
    place.assert_refused(&TokenProblem::TokenAbsent);
    place.key.module = "/nonexistent/module.so".into();
    place.assert_refused(&TokenProblem::ModuleMissing);
    place.key.module = "/etc/passwd".into();
    place.assert_refused(&TokenProblem::ModuleUnloadable);

    place.key = Place::with(module()).key;
    place.token.remove();
    place.assert_refused(&TokenProblem::TokenAbsent);
    place.token.put_back();
    place.assert_signs();
}

#[test]
fn a_module_that_others_can_change_is_not_loaded() {
    use std::os::unix::fs::PermissionsExt as _;
    let faulty = FaultyModule::new();
    let mode = std::fs::Permissions::from_mode(0o775);
    std::fs::set_permissions(faulty.path(), mode).unwrap();
    Place::with(faulty.path()).assert_refused(&TokenProblem::ModuleUnsafe);
}

#[test]
fn a_library_for_another_processor_is_named() {
    if !is_root() {
        return;
    }
    let faulty = FaultyModule::new();
    let mut library = std::fs::read(faulty.path()).unwrap();
    library[18] ^= 0xff;
    testkit::files::replace(&faulty.path(), &library, 0o644);
    Place::with(faulty.path()).assert_refused(&TokenProblem::ModuleArchitecture);
}

/// Another user than root owns the modules of these tests, which the signer refuses.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_wrong_pin_is_tried_once() {
    if !is_root() {
        return;
    }
    let faulty = FaultyModule::new();
    let mut place = Place::with(faulty.path());
    place.pin = Zeroizing::new("wrong".to_owned());
    place.assert_refused(&TokenProblem::PinWrong);
    place.assert_refused(&TokenProblem::PinKnownWrong);
    assert_eq!(faulty.logins(), 1);
    place.pin = Zeroizing::new(PIN.to_owned());
    place.assert_signs();

    faulty.set("C_GetTokenInfo", "last-try");
    place.assert_refused(&TokenProblem::PinLastTry);
    faulty.set("C_GetTokenInfo", "locked");
    place.assert_refused(&TokenProblem::PinLocked);
    assert_eq!(faulty.logins(), 2);
}

#[test]
fn a_module_that_hangs_or_crashes_is_ended_and_serves_again_when_it_works() {
    if !is_root() {
        return;
    }
    let faulty = FaultyModule::new();
    let place = Place::with(faulty.path());
    for call in ["C_Initialize", "C_Login"] {
        faulty.set(call, "hang");
        let began = Instant::now();
        assert_eq!(place.open(SHORT).err(), Some(TokenProblem::Hangs));
        assert!(began.elapsed() < 4 * SHORT, "{call}");
        for end in ["crash", "exit"] {
            faulty.set(call, end);
            place.assert_refused(&TokenProblem::Crashed);
        }
        faulty.heal();
        place.assert_signs();
    }

    let open = place.open(LIMIT).unwrap();
    faulty.set("C_Sign", "hang");
    let hung = open.sign(Mechanism::Ecdsa, &DIGEST, SHORT);
    assert_eq!(hung, Err(TokenProblem::Hangs));
    drop(open);
    let open = place.open(LIMIT).unwrap();
    faulty.set("C_SignInit", "crash");
    let crashed = open.sign(Mechanism::Ecdsa, &DIGEST, LIMIT);
    assert_eq!(crashed, Err(TokenProblem::Crashed));
    drop(open);

    faulty.set("C_Initialize", "0x30");
    place.assert_refused(&TokenProblem::ModuleFailed("DeviceError".to_owned()));
    faulty.heal();
    place.assert_signs();
    assert!(!place.helper.has_ended());
}

#[test]
fn one_key_is_open_at_a_time() {
    let place = Place::with(module());
    let open = place.open(LIMIT).unwrap();
    assert_eq!(place.open(SHORT).err(), Some(TokenProblem::Hangs));
    open.sign(Mechanism::Ecdsa, &DIGEST, LIMIT).unwrap();
    drop(open);
    place.assert_signs();
}
