//! The signature of `SHA256SUMS`: ECDSA with P-256 and SHA-256, as `openssl` and `cosign` verify it.
//!
//! `openssl` reads the key from its file, and asks for its passphrase on the terminal.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{SUMS, sha256};
use crate::process::{self, Error, say};

/// A public key of P-256 in DER begins with it: algorithm and curve (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The publisher's key.
pub(super) struct Key {
    path: PathBuf,
    /// SHA-256 of the public key in DER.
    fingerprint: String,
}

impl Key {
    /// Refuses an unusable key before the build.
    pub(super) fn new(path: &Path) -> Result<Self, Error> {
        let mut public = Command::new("openssl");
        public
            .args(["pkey", "-pubout", "-outform", "DER", "-in"])
            .arg(path)
            .stderr(Stdio::inherit());
        let public = public.output().map_err(|source| Error::Start {
            program: "openssl".into(),
            source,
        })?;
        if !public.stdout.starts_with(&P256) {
            return Err(Error::Refused(format!(
                "{} is no private key for ECDSA with P-256; make one with\n  \
                 openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -out FILE",
                path.display()
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            fingerprint: sha256(&public.stdout),
        })
    }

    pub(super) fn sign(&self, out: &Path) -> Result<(), Error> {
        let mut sign = Command::new("openssl");
        sign.args(["dgst", "-sha256", "-sign"])
            .arg(&self.path)
            .arg("-out")
            .arg(out.join(format!("{SUMS}.sig")))
            .arg(out.join(SUMS));
        process::run(&mut sign)?;
        say(&format!(
            "{SUMS}.sig is by the key whose public part has the SHA-256 {}",
            self.fingerprint
        ));
        Ok(())
    }
}
