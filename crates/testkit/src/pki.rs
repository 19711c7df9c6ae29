//! A certificate authority of one test: certificates for servers on loopback and for their clients.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use serde_json::{Value, json};

use crate::files;

/// Issues certificates as `<name>.crt` and `<name>.key` into one directory, beside `ca.crt`.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    /// Creates the CA and writes `ca.crt`.
    ///
    /// # Panics
    /// When the directory cannot be written.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = ca.self_signed(&key).unwrap().pem();
        files::replace(&directory.join("ca.crt"), certificate.as_bytes(), 0o644);
        Self {
            issuer: Issuer::new(ca, key),
            directory: directory.to_owned(),
        }
    }

    /// Issues a certificate for a server on loopback. It is valid for clients too, because some
    /// servers connect to themselves.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn server(&self, name: &str) {
        let mut server =
            CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        server.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue(server, name);
    }

    /// Issues a client certificate. In Kubernetes `name` is the user and `group` is the group.
    ///
    /// # Panics
    /// When the directory cannot be written.
    pub fn client(&self, name: &str, group: &str) {
        self.client_for(name, group, Duration::from_hours(30 * 24));
    }

    /// As [`Self::client`], with this lifetime from now on.
    ///
    /// # Panics
    /// When the directory cannot be written.
    #[expect(
        clippy::disallowed_methods,
        reason = "the servers of a test have the time of the machine"
    )]
    pub fn client_for(&self, name: &str, group: &str, lifetime: Duration) {
        let mut client = CertificateParams::default();
        client.not_after = (SystemTime::now() + lifetime).into();
        let subject = &mut client.distinguished_name;
        subject.push(DnType::OrganizationName, group);
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(client, name);
    }

    fn issue(&self, mut certificate: CertificateParams, name: &str) {
        let subject = &mut certificate.distinguished_name;
        subject.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.signed_by(&key, &self.issuer).unwrap();
        let file = |extension: &str| self.directory.join(format!("{name}.{extension}"));
        files::replace(&file("crt"), certificate.pem().as_bytes(), 0o644);
        files::replace(&file("key"), key.serialize_pem().as_bytes(), 0o600);
    }
}

/// The JWK of a PEM public key on the curve P-256.
///
/// # Panics
/// When the text is something else.
#[must_use]
pub fn jwk_of(public_pem: &str) -> Value {
    let lines = public_pem.lines().filter(|line| !line.starts_with('-'));
    let der = STANDARD.decode(lines.collect::<String>()).unwrap();
    // The end of the DER: both coordinates.
    let (x, y) = der.last_chunk::<64>().unwrap().split_at(32);
    let text = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
    json!({"kty": "EC", "crv": "P-256", "x": text(x), "y": text(y), "use": "sig", "kid": "client"})
}
