//! The certificates that a server presents, read for diagnostics. The handshake ends there: nothing is
//! trusted and no request is sent.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kms_domain::digest::sha256_hex;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::time::timeout;

use crate::{
    connect::Host,
    der::{Certificate, element},
    endpoint::Endpoint,
};

/// Limit for the parts of a name that are shown.
const MAX_NAME: usize = 120;

/// A certificate in words. Names are limited in length and characters: the server chooses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Common name, organization and unit of the holder.
    pub subject: String,
    /// The same of the signer.
    pub issuer: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
}

impl fmt::Display for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            subject,
            issuer,
            not_before,
            not_after,
            fingerprint,
        } = self;
        write!(
            f,
            "subject {subject}, issuer {issuer}, valid {not_before} to {not_after}, SHA-256 \
             {fingerprint}"
        )
    }
}

/// The chain that the server presents, its own certificate first; empty if there is none within
/// `deadline`.
pub async fn presented(endpoint: &Endpoint, deadline: Duration) -> Vec<Presented> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let recorder = Arc::new(Recorder {
        chain: Mutex::default(),
        schemes: provider
            .signature_verification_algorithms
            .supported_schemes(),
    });
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let Ok(config) =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions)
    else {
        return Vec::new();
    };
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();

    let tls: tokio_rustls::TlsConnector = Arc::new(config).into();
    let host = Host::new(&endpoint.address, &endpoint.server_name);
    let connecting = async {
        for peer in host.peers().await.unwrap_or_default() {
            // Always an error: the recorder accepts nothing.
            if host.connect(peer, tls.clone()).await.is_err() && !recorder.chain().is_empty() {
                break;
            }
        }
    };
    timeout(deadline, connecting).await.unwrap_or_default();
    recorder
        .chain()
        .iter()
        .filter_map(|der| describe(der))
        .collect()
}

/// Keeps the chain and refuses it.
#[derive(Debug)]
struct Recorder {
    chain: Mutex<Vec<CertificateDer<'static>>>,
    schemes: Vec<SignatureScheme>,
}

impl Recorder {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        chain.clone()
    }
}

const REFUSED: rustls::Error = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = [own].into_iter().chain(further);
        let chain = chain.map(|it| it.clone().into_owned()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Err(REFUSED)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(REFUSED)
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(REFUSED)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Reads names and dates. `None` for another structure.
fn describe(der: &[u8]) -> Option<Presented> {
    let parts = Certificate::parse(der)?;
    Some(Presented {
        subject: name(parts.subject),
        issuer: name(parts.issuer),
        not_before: parts.not_before.to_string(),
        not_after: parts.not_after.to_string(),
        fingerprint: sha256_hex(der),
    })
}

/// `CN=..., O=...`; other attributes are left out.
fn name(mut parts: &[u8]) -> String {
    let mut shown = Vec::new();
    while let Some((_, set, rest)) = element(parts) {
        parts = rest;
        let Some((_, attribute, _)) = element(set) else {
            continue;
        };
        let Some((_, kind, value)) = element(attribute) else {
            continue;
        };
        let kind = match kind {
            [0x55, 4, 3] => "CN",
            [0x55, 4, 10] => "O",
            [0x55, 4, 11] => "OU",
            _ => continue,
        };
        if let Some((_, value, _)) = element(value) {
            let text = String::from_utf8_lossy(value);
            let plain = |c: char| c == ' ' || c.is_ascii_graphic();
            let text: String = text.chars().filter(|c| plain(*c)).take(MAX_NAME).collect();
            shown.push(format!("{kind}={text}"));
        }
    }
    match shown.is_empty() {
        true => "(empty)".to_owned(),
        false => format!("{:?}", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn names_and_dates_are_read_and_nothing_else_is_shown() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::CommonName, "bao\u{1b}[31m\"1\"");
        subject.push(DnType::OrganizationName, "o".repeat(500));
        subject.push(DnType::CountryName, "DE");
        params.not_before = date_time_ymd(1999, 2, 3);
        params.not_after = date_time_ymd(2051, 2, 3);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap();
        let shown = describe(der.der()).unwrap();
        let name = format!("\"CN=bao[31m\\\"1\\\", O={}\"", "o".repeat(MAX_NAME));
        assert_eq!(shown.subject, name);
        assert_eq!(shown.issuer, name);
        assert_eq!(shown.not_before, "1999-02-03T00:00:00Z");
        assert_eq!(shown.not_after, "2051-02-03T00:00:00Z");
        assert_eq!(shown.fingerprint.len(), 64);
        for length in 0..der.der().len() {
            assert_eq!(describe(&der.der()[..length]), None);
        }
    }
}
