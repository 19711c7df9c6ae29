//! The token request: form, and authentication of the client (RFC 6749, 2.3 and 4.4.2).

use std::{path::PathBuf, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::Full;
use zeroize::Zeroizing;

use super::{CLIENT_CREDENTIAL_RULES, ClientAuthentication, TokenRequest, problem::OAuth2Problem};
use crate::{failure::FailureClass, login::file_reader::FileReader};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Place of the client secret in the request. There is no switch from one to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretPlace {
    /// `Authorization: Basic`.
    Basic,
    /// The form.
    Post,
}

/// A client secret from a file.
#[derive(Clone)]
pub struct ClientSecret {
    file: FileReader,
    place: SecretPlace,
}

impl ClientSecret {
    /// A secret from the file at the absolute `path`.
    #[must_use]
    pub fn new(path: PathBuf, place: SecretPlace) -> Self {
        Self {
            file: FileReader::new(path, CLIENT_CREDENTIAL_RULES),
            place,
        }
    }

    async fn read(&self) -> Result<Zeroizing<Vec<u8>>, OAuth2Problem> {
        let secret = self.file.read().await;
        let mut secret = secret.map_err(OAuth2Problem::SecretFile)?;
        for end in [b'\n', b'\r'] {
            if secret.last() == Some(&end) {
                secret.pop();
            }
        }
        let stray = secret.iter().any(|byte| b"\0\r\n".contains(byte));
        match secret.is_empty() || stray {
            true => Err(OAuth2Problem::SecretContent),
            false => Ok(secret),
        }
    }
}

impl TokenRequest {
    /// The request with the client's credential, read now.
    pub(super) async fn authenticated(
        &self,
        authentication: &ClientAuthentication,
        now: SystemTime,
    ) -> Result<Request<Full<Bytes>>, OAuth2Problem> {
        let scopes = self.scopes.join(" ");
        let mut fields: Vec<(&str, &[u8])> = vec![("grant_type", b"client_credentials")];
        if !scopes.is_empty() {
            fields.push(("scope", scopes.as_bytes()));
        }
        fields.extend(self.audience.iter().map(|it| ("audience", it.as_bytes())));
        fields.extend(self.resources.iter().map(|it| ("resource", it.as_bytes())));

        let client_id = self.client_id.as_bytes();
        let (credential, basic);
        match authentication {
            ClientAuthentication::Secret(secret) => {
                credential = secret.read().await?;
                match secret.place {
                    SecretPlace::Basic => basic = Some(basic_header(client_id, &credential)?),
                    SecretPlace::Post => {
                        basic = None;
                        fields.push(("client_id", client_id));
                        fields.push(("client_secret", &credential));
                    }
                }
            }
            ClientAuthentication::PrivateKey(key) => {
                credential = key
                    .assertion(&self.client_id, self.url.as_str(), now)
                    .await?;
                basic = None;
                fields.push(("client_id", client_id));
                fields.push(("client_assertion_type", ASSERTION_TYPE.as_bytes()));
                fields.push(("client_assertion", &credential));
            }
        }

        let mut request = Request::post(self.url.target().as_str())
            .header(header::HOST, self.url.address().host_header())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from_owner(form(&fields))))
            .map_err(|_| internal())?;
        if let Some(basic) = basic {
            request.headers_mut().insert(header::AUTHORIZATION, basic);
        }
        Ok(request)
    }
}

/// A form in a buffer that never grows, so that no copy stays in freed memory.
fn form(fields: &[(&str, &[u8])]) -> Zeroizing<Vec<u8>> {
    let length: usize = fields
        .iter()
        .map(|(name, value)| name.len() + encoded_length(value) + 2)
        .sum();
    let mut form = Zeroizing::new(Vec::with_capacity(length));
    for (name, value) in fields {
        if !form.is_empty() {
            form.push(b'&');
        }
        form.extend_from_slice(name.as_bytes());
        form.push(b'=');
        encode(value, &mut form);
    }
    form
}

/// RFC 6749, 2.3.1: identifier and secret are form-urlencoded before the Basic encoding.
fn basic_header(client_id: &[u8], secret: &[u8]) -> Result<HeaderValue, OAuth2Problem> {
    let length = encoded_length(client_id) + 1 + encoded_length(secret);
    let mut pair = Zeroizing::new(Vec::with_capacity(length));
    encode(client_id, &mut pair);
    pair.push(b':');
    encode(secret, &mut pair);

    let mut value = Zeroizing::new(String::with_capacity(6 + length.div_ceil(3) * 4));
    value.push_str("Basic ");
    STANDARD.encode_string(&*pair, &mut value);
    // The header's copy is not wiped.
    let mut value = HeaderValue::from_str(&value).map_err(|_| internal())?;
    value.set_sensitive(true);
    Ok(value)
}

fn encoded_length(text: &[u8]) -> usize {
    text.iter()
        .map(|&byte| if is_plain(byte) { 1 } else { 3 })
        .sum()
}

/// Percent-encodes everything that is special in a form or in a URL.
fn encode(text: &[u8], to: &mut Vec<u8>) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    let digit = |value: u8| HEX.get(usize::from(value)).copied().unwrap_or_default();
    for &byte in text {
        if is_plain(byte) {
            to.push(byte);
        } else {
            to.extend([b'%', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A request that the HTTP library refuses to build; the configuration excludes it.
fn internal() -> OAuth2Problem {
    super::Transport::new(FailureClass::Unknown).into()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::login::oauth2::TokenUrl;

    fn secret(content: &[u8], place: SecretPlace) -> (tempfile::TempDir, ClientAuthentication) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::io::Write::write_all(&mut fs::File::create(&path).unwrap(), content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let secret = ClientSecret::new(path, place);
        (directory, ClientAuthentication::Secret(secret))
    }

    async fn sent(
        request: &TokenRequest,
        content: &[u8],
        place: SecretPlace,
    ) -> Result<(Option<String>, String), OAuth2Problem> {
        let (_directory, authentication) = secret(content, place);
        let now = SystemTime::UNIX_EPOCH;
        let (parts, body) = request
            .authenticated(&authentication, now)
            .await?
            .into_parts();
        let authorization = parts.headers.get(header::AUTHORIZATION);
        assert!(authorization.is_none_or(HeaderValue::is_sensitive));
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        Ok((authorization, String::from_utf8(body.to_vec()).unwrap()))
    }

    fn plain() -> TokenRequest {
        TokenRequest {
            url: TokenUrl::parse("https://id.test/token?tenant=1").unwrap(),
            client_id: "node 1:a".to_owned(),
            scopes: Vec::new(),
            audience: None,
            resources: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_client_authenticates_in_the_configured_place_alone() {
        let secret = "p+w%&=ä~ x".as_bytes();
        let (authorization, body) = sent(&plain(), secret, SecretPlace::Basic).await.unwrap();
        assert_eq!(body, "grant_type=client_credentials");
        let pair = STANDARD.encode("node%201%3Aa:p%2Bw%25%26%3D%C3%A4~%20x");
        assert_eq!(authorization.unwrap(), format!("Basic {pair}"));

        let (authorization, body) = sent(&plain(), secret, SecretPlace::Post).await.unwrap();
        assert_eq!(authorization, None);
        assert_eq!(
            body,
            "grant_type=client_credentials&client_id=node%201%3Aa\
             &client_secret=p%2Bw%25%26%3D%C3%A4~%20x"
        );
    }

    #[tokio::test]
    async fn scope_audience_and_resources_are_sent_if_they_are_set() {
        let request = TokenRequest {
            scopes: vec!["kms.login".to_owned(), "b".to_owned()],
            audience: Some("kms harbor".to_owned()),
            resources: vec!["https://a/b?c".to_owned(), "urn:x".to_owned()],
            ..plain()
        };
        let (_, body) = sent(&request, b"s", SecretPlace::Basic).await.unwrap();
        assert_eq!(
            body,
            "grant_type=client_credentials&scope=kms.login%20b&audience=kms%20harbor\
             &resource=https%3A%2F%2Fa%2Fb%3Fc&resource=urn%3Ax"
        );
    }

    #[tokio::test]
    async fn a_secret_is_one_line_and_keeps_its_white_space() {
        for (content, kept) in [
            (&b" s "[..], Some("%20s%20")),
            (b"s\n", Some("s")),
            (b"s\r\n", Some("s")),
            (b"s\r", Some("s")),
            (b"", None),
            (b"\r\n", None),
            (b"s\n\n", None),
            (b"a\nb", None),
            (b"a\0", None),
        ] {
            let sent = sent(&plain(), content, SecretPlace::Post).await;
            match kept {
                Some(kept) => {
                    let (_, body) = sent.unwrap();
                    assert!(body.ends_with(&format!("client_secret={kept}")), "{body}");
                }
                None => assert_eq!(sent.unwrap_err(), OAuth2Problem::SecretContent),
            }
        }
    }
}
