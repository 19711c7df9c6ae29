//! The values of one installation in the commands of the catalogue.

use std::path::Path;

use crate::{
    config::{CertSource, Config, JwtSource, Method, Pkcs11, packaged_unit},
    plain_http::HttpUrl,
};

/// An installation: its configuration file, and its settings if they could be loaded.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    config_path: &'a Path,
    config: Option<&'a Config>,
    etcd: &'a str,
}

impl<'a> Site<'a> {
    #[must_use]
    pub fn new(config_path: &'a Path, config: Option<&'a Config>) -> Self {
        Self {
            config_path,
            config,
            etcd: "--etcd-snapshot FILE",
        }
    }

    /// With the options of the etcd that was read.
    #[must_use]
    pub fn with_etcd(self, etcd: &'a str) -> Self {
        Self { etcd, ..self }
    }

    /// For causes that need nothing of an installation.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Path::new(""), None)
    }

    /// The text of a placeholder, quoted for a shell; `None` where this installation has no such
    /// value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<String> {
        match name {
            "config" => return Some(shell(self.config_path)),
            "unit" => return Some(packaged_unit(self.config_path)),
            "etcd" => return Some(self.etcd.to_owned()),
            _ => {}
        }
        let config = self.config?;
        let openbao = &config.openbao;
        let ca = || shell(&openbao.ca_cert_file);
        Some(match name {
            "address" => openbao.address.to_string(),
            "authority" => openbao.address.authority(),
            "ca" => ca(),
            // Options of `curl` and the URL of OpenBao, with the name in its certificate.
            "curl" => {
                let (address, authority) = (&openbao.address, openbao.address.authority());
                match tls_name(config) {
                    None => format!("--cacert {} {address}", ca()),
                    Some((name, port)) => format!(
                        "--connect-to {name}:{port}:{authority} --cacert {} https://{name}:{port}",
                        ca()
                    ),
                }
            }
            // Options of a `bao` command about the server itself, which has no namespace.
            "server" => server(config),
            // Options of a `bao` command about the key, the policy or the login.
            "bao" => match config.request_namespace() {
                Some(namespace) => {
                    format!(
                        "{} -namespace={}",
                        server(config),
                        quoted(namespace.as_str())
                    )
                }
                None => server(config),
            },
            "login" => config.auth.mount_path()?.to_string(),
            "role" => config.auth.role()?.to_owned(),
            "method" => config.auth.method.name().to_owned(),
            "role_path" => config.auth.role_path()?,
            // The kind of a JWT role has to be written again.
            "role_update" => {
                let kind = match &config.auth.method {
                    Method::Jwt(_) => " role_type=jwt",
                    _ => "",
                };
                format!("{}{kind}", config.auth.role_path()?)
            }
            "mount" => config.key.mount_path.to_string(),
            "key" => config.key.key_name.to_string(),
            "state" => shell(&config.state_path.document()),
            "state_directory" => shell(config.state_path.directory()),
            "checkpoint" => shell(&config.state_path.checkpoint()),
            "socket" => shell(&config.server.socket_path),
            "legacy_socket" => shell(&config.legacy.vault_kubernetes_kms.as_ref()?.socket_path),
            "key_file" => match &config.auth.method {
                Method::Cert(cert) => match &cert.source {
                    CertSource::File(files) => shell(&files.key),
                    // The only file with rules like those of a key.
                    CertSource::Pkcs11(token) => shell(&token.certificate_file),
                },
                _ => return None,
            },
            "credential" => shell(config.auth.credential_files().first()?.1),
            // Options of `curl` and the token URL of the OAuth issuer.
            "issuer" => {
                let Method::Jwt(jwt) = &config.auth.method else {
                    return None;
                };
                let JwtSource::OAuth2(oauth2) = &jwt.source else {
                    return None;
                };
                let url = quoted(oauth2.token_url.as_str());
                match &oauth2.ca_cert_file {
                    Some(ca) => format!("--cacert {} {url}", shell(ca)),
                    None => url,
                }
            }
            "workload_socket" => shell(workload_socket(config)?),
            "spiffe_id" => quoted(config.auth.subject()?),
            "module" => shell(&token(config)?.module_path),
            "pin_file" => shell(&token(config)?.pin_file),
            "token_label" => quoted(&token(config)?.token_label),
            "key_label" => quoted(&token(config)?.key_label),
            "ready" => {
                let listener = config.server.health.as_ref()?.bind_to();
                HttpUrl::local(listener, "/ready").to_string()
            }
            _ => return None,
        })
    }
}

fn token(config: &Config) -> Option<&Pkcs11> {
    config.auth.methods().find_map(Method::pkcs11)
}

fn workload_socket(config: &Config) -> Option<&Path> {
    config.auth.methods().find_map(Method::workload_api_socket)
}

fn server(config: &Config) -> String {
    let openbao = &config.openbao;
    let (address, ca) = (&openbao.address, shell(&openbao.ca_cert_file));
    let mut options = format!("-address={address} -ca-cert={ca}");
    if let Some((name, _)) = tls_name(config) {
        options.push_str(&format!(" -tls-server-name={}", quoted(&name)));
    }
    options
}

/// The name in OpenBao's certificate, if it is not the host of the address, and the port.
fn tls_name(config: &Config) -> Option<(String, String)> {
    let name = config.openbao.server_name.to_string();
    let authority = config.openbao.address.authority();
    let (host, port) = authority.rsplit_once(':').unwrap_or((&authority, "443"));
    (name != host.trim_matches(['[', ']'])).then(|| (name, port.to_owned()))
}

/// The path as one word of a shell, quoted where it needs to be.
#[must_use]
pub fn shell(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.starts_with('-') {
        // Not an option.
        true => quoted(&format!("./{text}")),
        false => quoted(&text),
    }
}

/// The text as one word of a shell, quoted where it needs to be.
#[must_use]
pub fn quoted(text: &str) -> String {
    // `--name=value` stays readable: behind the name of a program, `=` has no meaning for a shell.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+".contains(c);
    if !text.is_empty() && !text.starts_with('=') && text.chars().all(plain) {
        return text.to_owned();
    }
    // No path or argument holds a NUL, the one character that cannot be quoted.
    shlex::try_quote(text).map_or_else(|_| String::new(), |word| word.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(shell(Path::new("/etc/a-b_c.yaml")), "/etc/a-b_c.yaml");
        for path in ["/a b/it's", "/a$(id)", "", "/a\"b`c"] {
            let words = shlex::split(&shell(Path::new(path))).unwrap();
            assert_eq!(words, [path]);
        }
    }
}
