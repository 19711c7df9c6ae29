//! PKCS#11 tokens in software (SoftHSM 2), and a module with faults in front of them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::{TempDir, tempdir};

use crate::files;

/// The user PIN of every token.
pub const PIN: &str = "soft-token-pin-4711";
/// The label of every token.
pub const TOKEN: &str = "node token";

const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
const FAULTY: &str = include_str!("softhsm/faulty.c");

/// The module of SoftHSM.
///
/// # Panics
/// When SoftHSM is not installed.
#[must_use]
pub fn module() -> PathBuf {
    let found = MODULES
        .map(PathBuf::from)
        .into_iter()
        .find(|it| it.exists());
    found.unwrap_or_else(|| panic!("SoftHSM is missing: apt-get install softhsm2"))
}

/// Type of a generated key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on the curve P-256.
    P256,
    /// ECDSA on the curve P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits.
    Rsa,
}

/// Generates a private key as PKCS#8 PEM, in the form that SoftHSM imports.
///
/// # Panics
/// When `openssl` is missing.
#[must_use]
pub fn generate(key: KeyType) -> String {
    let arguments: &[&str] = match key {
        KeyType::P256 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        KeyType::P384 => &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        KeyType::Ed25519 => &["ED25519"],
        KeyType::Rsa => &["RSA"],
    };
    let done = Command::new("openssl")
        .args(["genpkey", "-algorithm"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// A token in a directory of its own.
pub struct SoftToken(TempDir);

impl SoftToken {
    /// Creates the token [`TOKEN`] without keys.
    ///
    /// # Panics
    /// When SoftHSM is not installed.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempdir().unwrap();
        let tokens = directory.path().join("tokens");
        fs::create_dir(&tokens).unwrap();
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        let token = Self(directory);
        files::replace(&token.configuration(), configuration.as_bytes(), 0o644);
        token.run(&[
            "--init-token",
            "--free",
            "--label",
            TOKEN,
            "--so-pin",
            "so-pin-4711",
        ]);
        token
    }

    /// Value of `SOFTHSM2_CONF` for programs that use the token.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.0.path().join("softhsm2.conf")
    }

    /// Puts a PKCS#8 key into the token. `id` is two hexadecimal digits, unique in the token.
    ///
    /// # Panics
    /// When SoftHSM refuses it.
    pub fn import(&self, label: &str, id: &str, key_pem: &str) {
        let file = self.0.path().join("key.pem");
        files::replace(&file, key_pem.as_bytes(), 0o600);
        let file = file.to_str().unwrap();
        let arguments = [
            "--import", file, "--token", TOKEN, "--label", label, "--id", id,
        ];
        self.run(&arguments);
        fs::remove_file(file).unwrap();
    }

    /// Takes the token out of its reader.
    ///
    /// # Panics
    /// When it is out already.
    pub fn remove(&self) {
        rustix::fs::rename(self.0.path().join("tokens"), self.0.path().join("away")).unwrap();
        fs::create_dir(self.0.path().join("tokens")).unwrap();
    }

    /// Puts the token back.
    ///
    /// # Panics
    /// When it was not removed.
    pub fn put_back(&self) {
        fs::remove_dir_all(self.0.path().join("tokens")).unwrap();
        rustix::fs::rename(self.0.path().join("away"), self.0.path().join("tokens")).unwrap();
    }

    fn run(&self, arguments: &[&str]) {
        let done = Command::new("softhsm2-util")
            .args(arguments)
            .args(["--pin", PIN])
            .env("SOFTHSM2_CONF", self.configuration())
            .output()
            .unwrap_or_else(|_| panic!("SoftHSM is missing: apt-get install softhsm2"));
        assert!(done.status.success(), "{done:?}");
    }
}

impl Default for SoftToken {
    fn default() -> Self {
        Self::new()
    }
}

/// A module that passes every call on to SoftHSM, except for the calls with a fault.
pub struct FaultyModule(TempDir);

impl FaultyModule {
    /// Compiles the module with `cc`.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn new() -> Self {
        let faulty = Self(tempdir().unwrap());
        let source = faulty.0.path().join("faulty.c");
        files::replace(&source, FAULTY.as_bytes(), 0o644);
        let text = |name: &str, path: &Path| format!("-D{name}=\"{}\"", path.display());
        let done = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(faulty.path())
            .arg(text("REAL", &module()))
            .arg(text("FAULT", &faulty.fault()))
            .arg(text("CALLS", &faulty.0.path().join("calls")))
            .arg(source)
            .arg("-ldl")
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        faulty.heal();
        faulty
    }

    /// Path of the module.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path().join("libfaulty.so")
    }

    /// Lets a call fail: `hang`, `crash`, `exit`, a return code such as `0xa0`, or for
    /// `C_GetTokenInfo` the flags `last-try` or `locked`.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn set(&self, call: &str, fault: &str) {
        files::replace(&self.fault(), format!("{call} {fault}\n").as_bytes(), 0o644);
    }

    /// Ends the fault.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn heal(&self) {
        self.set("none", "none");
    }

    /// Number of logins that reached the module.
    #[must_use]
    pub fn logins(&self) -> usize {
        let calls = fs::read_to_string(self.0.path().join("calls")).unwrap_or_default();
        calls.lines().filter(|call| *call == "C_Login").count()
    }

    fn fault(&self) -> PathBuf {
        self.0.path().join("fault")
    }
}

impl Default for FaultyModule {
    fn default() -> Self {
        Self::new()
    }
}
