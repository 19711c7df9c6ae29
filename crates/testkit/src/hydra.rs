//! A real OAuth 2.0 issuer, Ory Hydra, over TLS on loopback.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa,
    signature::KeyPair as _,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use openbao_lab::port::free_port;
use rcgen::{KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    daemon::{Daemon, SOON, program},
    fake::Upstream,
    files,
    pki::Authority,
    wait::wait_until,
};

const INSTALL: &str = "cargo xtask tools --kubernetes";

/// Form of the access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTokens {
    /// JWTs, signed with RS256.
    Jwt,
    /// Random texts for introspection.
    Opaque,
}

/// An issuer, running or stopped. Drop kills it and removes its directory.
pub struct Hydra {
    // Dropped first, while its files still exist.
    daemon: Option<Daemon>,
    directory: TempDir,
    port: u16,
    admin_port: u16,
}

impl Hydra {
    /// Starts an issuer without clients.
    ///
    /// # Panics
    /// When Hydra fails to start or its program is missing. The message has the command to install
    /// it.
    pub async fn start(tokens: AccessTokens) -> Self {
        let directory = TempDir::new().unwrap();
        Authority::new(directory.path()).server("server");
        let mut hydra = Self {
            daemon: None,
            directory,
            port: free_port().unwrap(),
            admin_port: free_port().unwrap(),
        };
        hydra.write_config(tokens);

        let mut migrate = Command::new(hydra_program());
        let migrate = migrate.args([
            "migrate",
            "sql",
            "up",
            "--read-from-env",
            "--yes",
            "--config",
        ]);
        let migrate = migrate.arg(hydra.file("hydra.json")).output().unwrap();
        let said = String::from_utf8_lossy(&migrate.stderr);
        assert!(migrate.status.success(), "{said}");

        hydra.start_again().await;
        // Its signing key takes seconds to generate; a request is cut off after some of them.
        wait_until(SOON, "the signing key of Hydra", async || {
            let keys = hydra.try_ask(hydra.port, Method::GET, "/.well-known/jwks.json", None);
            keys.await.is_some_and(|(status, _)| status.is_success())
        })
        .await;
        hydra
    }

    /// Starts the stopped issuer, with its clients and keys, at the same URL.
    ///
    /// # Panics
    /// When it fails to start.
    pub async fn start_again(&mut self) {
        let arguments = ["serve", "all", "--config"].map(str::to_owned);
        let config = self.file("hydra.json").display().to_string();
        let arguments = [&arguments[..], &[config]].concat();
        let mut daemon = Daemon::spawn(&hydra_program(), &arguments, &self.file("hydra.log"));
        daemon
            .ready(async || {
                let ready = self.try_ask(self.port, Method::GET, "/health/ready", None);
                ready.await.is_some_and(|(status, _)| status.is_success())
            })
            .await;
        self.daemon = Some(daemon);
    }

    /// Kills the issuer. Its ports then refuse connections.
    pub fn kill(&mut self) {
        self.daemon = None;
    }

    /// The `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// URL of the token endpoint.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("{}/oauth2/token", self.issuer())
    }

    /// URL of the public keys of its tokens.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        format!("{}/.well-known/jwks.json", self.issuer())
    }

    /// The PEM file with its CA.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// Log since the last start.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.as_ref().map_or(String::new(), Daemon::log)
    }

    /// Creates a client, or replaces the one with the same `client_id`. Members are those of
    /// Hydra's admin API.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn put_client(&self, client: &Value) {
        let id = client["client_id"].as_str().unwrap();
        let path = format!("/admin/clients/{id}");
        let (status, _) = self.ask(self.admin_port, Method::GET, &path, None).await;
        let (status, said) = if status == StatusCode::NOT_FOUND {
            let clients = "/admin/clients";
            self.ask(self.admin_port, Method::POST, clients, Some(client))
                .await
        } else {
            self.ask(self.admin_port, Method::PUT, &path, Some(client))
                .await
        };
        assert!(status.is_success(), "{status}: {said}");
    }

    /// Removes a client.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn delete_client(&self, id: &str) {
        let path = format!("/admin/clients/{id}");
        let (status, said) = self.ask(self.admin_port, Method::DELETE, &path, None).await;
        assert!(status.is_success(), "{status}: {said}");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_config(&self, tokens: AccessTokens) {
        let database = self.file("db.sqlite").display().to_string();
        let listen = |port: u16| json!({"host": "127.0.0.1", "port": port});
        let config = json!({
            "dsn": format!("sqlite://{database}?_fk=true&mode=rwc"),
            "serve": {
                "public": listen(self.port),
                "admin": listen(self.admin_port),
                "tls": {
                    "enabled": true,
                    "cert": {"path": self.file("server.crt")},
                    "key": {"path": self.file("server.key")},
                },
            },
            "urls": {"self": {"issuer": self.issuer()}},
            "secrets": {"system": ["only-for-this-test-0123456789"]},
            "strategies": {"access_token": match tokens {
                AccessTokens::Jwt => "jwt",
                AccessTokens::Opaque => "opaque",
            }},
            // Not the key of ID tokens, to save its generation.
            "webfinger": {"jwks": {"broadcast_keys": ["hydra.jwt.access-token"]}},
            "ttl": {"access_token": "10m"},
            "sqa": {"opt_out": true},
        });
        let text = format!("{config:#}");
        files::replace(&self.file("hydra.json"), text.as_bytes(), 0o600);
    }

    async fn ask(
        &self,
        port: u16,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (StatusCode, String) {
        self.try_ask(port, method, path, body).await.unwrap()
    }

    /// Status and body of the response; `None` if the request fails.
    async fn try_ask(
        &self,
        port: u16,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(StatusCode, String)> {
        let server = Upstream::new(
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            &self.ca_file(),
        );
        let body = body.map_or(String::new(), Value::to_string);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("127.0.0.1:{port}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .unwrap();
        let answer = server.ask(request).await.ok()?;
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        Some((answer.status(), body))
    }
}

fn hydra_program() -> PathBuf {
    program("HYDRA", "kubernetes/hydra", INSTALL)
}

/// A key pair of a client, for `private_key_jwt`.
pub struct ClientKey {
    /// The private key, PKCS#8.
    pub pem: String,
    /// The public key, for the issuer.
    pub jwk: Value,
}

impl ClientKey {
    /// An elliptic curve key.
    ///
    /// # Panics
    /// When the generation fails.
    #[must_use]
    pub fn ec(algorithm: &'static SignatureAlgorithm, curve: &str) -> Self {
        let key = KeyPair::generate_for(algorithm).unwrap();
        // An uncompressed point: one byte and both coordinates.
        let point = key.public_key_raw().get(1..).unwrap();
        let (x, y) = point.split_at(point.len() / 2);
        let text = |number: &[u8]| URL_SAFE_NO_PAD.encode(number);
        Self {
            jwk: json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y), "use": "sig"}),
            pem: key.serialize_pem(),
        }
    }

    /// An RSA key of 2048 bits.
    ///
    /// # Panics
    /// When the generation fails.
    #[must_use]
    pub fn rsa() -> Self {
        let key = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        // DER with a header of 9 bytes, the modulus, and the exponent 65537.
        let public = key.public_key().as_ref().get(9..265).unwrap();
        let modulus = URL_SAFE_NO_PAD.encode(public);
        let private: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let body = STANDARD.encode(private.as_ref());
        Self {
            jwk: json!({"kty": "RSA", "n": modulus, "e": "AQAB", "use": "sig"}),
            pem: format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
        }
    }
}
