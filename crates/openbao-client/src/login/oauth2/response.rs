//! The response to a token request (RFC 6749, 5).

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::problem::{OAuth2Problem, ResponseProblem, TokenError, Transport};
use crate::{
    client::collect,
    login::jwt::{Jwt, JwtProblem},
};

const MAX_BODY: usize = 1 << 20;

/// An access token of unchecked content: wiped on drop, without `Debug`.
pub(super) struct IssuedToken {
    text: Zeroizing<String>,
    /// Life from the time of the request, if the issuer states it.
    life: Option<Duration>,
}

/// Reads the whole response.
pub(super) async fn read(response: Response<Incoming>) -> Result<IssuedToken, OAuth2Problem> {
    let (parts, body) = response.into_parts();
    let status = parts.status;
    match status {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS => return Err(OAuth2Problem::Unavailable(status.as_u16())),
        _ if status.is_server_error() => return Err(OAuth2Problem::Unavailable(status.as_u16())),
        _ => {
            let error = if status.is_redirection() {
                TokenError::Redirect
            } else {
                error_code(&collect(body, MAX_BODY).await.unwrap_or_default())
            };
            let status = status.as_u16();
            return Err(OAuth2Problem::Rejected { status, error });
        }
    }

    if !is_json(&parts.headers) {
        return Err(OAuth2Problem::Response(ResponseProblem::ContentType));
    }
    let body = collect(body, MAX_BODY).await.map_err(|error| match error
        .is::<http_body_util::LengthLimitError>(
    ) {
        true => OAuth2Problem::Response(ResponseProblem::TooLarge),
        false => Transport::of(&*error).into(),
    })?;
    parse(&body).map_err(OAuth2Problem::Response)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next());
    media_type.is_some_and(|it| it.trim().eq_ignore_ascii_case("application/json"))
}

fn error_code(body: &[u8]) -> TokenError {
    #[derive(Deserialize)]
    struct Body {
        error: TokenError,
    }
    serde_json::from_slice(body).map_or(TokenError::Other, |body: Body| body.error)
}

fn parse(body: &[u8]) -> Result<IssuedToken, ResponseProblem> {
    // The token is borrowed from the wiped buffer. A JWT has no characters for JSON to escape.
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow, default)]
        access_token: Option<&'a str>,
        #[serde(borrow, default)]
        token_type: Option<&'a str>,
        #[serde(default)]
        expires_in: Option<serde_json::Value>,
    }
    let body: Body<'_> = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(_) => return Err(ResponseProblem::Malformed),
    };
    let text = body.access_token.filter(|text| !text.is_empty());
    let text = text.ok_or(ResponseProblem::NoToken)?;
    let bearer = |kind: &str| kind.eq_ignore_ascii_case("Bearer");
    if !body.token_type.is_some_and(bearer) {
        return Err(ResponseProblem::TokenType);
    }

    let life = match body.expires_in {
        None | Some(serde_json::Value::Null) => None,
        Some(seconds) => match seconds.as_u64() {
            None | Some(0) => return Err(ResponseProblem::ExpiresIn),
            Some(seconds) => Some(Duration::from_secs(seconds)),
        },
    };
    Ok(IssuedToken {
        text: Zeroizing::new(text.to_owned()),
        life,
    })
}

impl IssuedToken {
    /// The token as a JWT with a signature.
    pub(super) fn jwt(&self) -> Result<Jwt, OAuth2Problem> {
        let parts: Vec<_> = self.text.split('.').collect();
        let compact = parts.len() == 3 && parts.iter().all(|part| !part.is_empty());
        if !compact || self.text.contains(char::is_whitespace) {
            return Err(OAuth2Problem::Response(ResponseProblem::Opaque));
        }
        Jwt::parse(self.text.as_bytes()).map_err(OAuth2Problem::Token)
    }

    /// Checks the life stated by the issuer, independent of the clocks. `age` is counted from the
    /// request.
    pub(super) fn check_life(
        &self,
        age: Duration,
        required: Duration,
    ) -> Result<(), OAuth2Problem> {
        let remaining = self.life.map(|life| life.saturating_sub(age));
        match remaining {
            Some(remaining) if remaining <= required => {
                Err(OAuth2Problem::Token(JwtProblem::NearExpiry {
                    remaining,
                    required,
                }))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(change: impl FnOnce(&mut Value)) -> Option<ResponseProblem> {
        let mut body = json!({"access_token": "a.b.c", "token_type": "bearer", "extra": [1]});
        change(&mut body);
        parse(body.to_string().as_bytes()).err()
    }

    #[test]
    fn a_response_follows_rfc_6749() {
        assert_eq!(refused(|_| {}), None);
        for (member, value, problem) in [
            ("expires_in", json!(3600), None),
            ("expires_in", json!(null), None),
            ("expires_in", json!(0), Some(ResponseProblem::ExpiresIn)),
            ("expires_in", json!(-5), Some(ResponseProblem::ExpiresIn)),
            ("expires_in", json!(1.5), Some(ResponseProblem::ExpiresIn)),
            (
                "expires_in",
                json!("3600"),
                Some(ResponseProblem::ExpiresIn),
            ),
            ("token_type", json!("mac"), Some(ResponseProblem::TokenType)),
            ("token_type", json!(null), Some(ResponseProblem::TokenType)),
            ("access_token", json!(""), Some(ResponseProblem::NoToken)),
            ("access_token", json!(null), Some(ResponseProblem::NoToken)),
            ("access_token", json!(7), Some(ResponseProblem::Malformed)),
        ] {
            let shown = format!("{member}: {value}");
            assert_eq!(refused(|body| body[member] = value), problem, "{shown}");
        }
        for body in ["", "7", "{", "\"a.b.c\""] {
            let problem = parse(body.as_bytes()).err();
            assert_eq!(problem, Some(ResponseProblem::Malformed), "{body}");
        }
    }

    #[test]
    fn an_opaque_token_has_its_own_problem() {
        for text in ["ory_at_x.y", "a..c", "a.b.", "a.b. c", "a.b.c.d", "opaque"] {
            let token = IssuedToken {
                text: Zeroizing::new(text.to_owned()),
                life: None,
            };
            let problem = token.jwt().err().unwrap();
            assert_eq!(problem.code(), "opaque_token", "{text}");
        }
    }

    #[test]
    fn the_stated_life_is_counted_from_the_request() {
        let seconds = Duration::from_secs;
        let token = IssuedToken {
            text: Zeroizing::default(),
            life: Some(seconds(130)),
        };
        assert!(token.check_life(seconds(9), seconds(120)).is_ok());
        let refused = token.check_life(seconds(10), seconds(120)).unwrap_err();
        assert_eq!(refused.code(), "near_expiry");
    }

    #[test]
    fn only_known_error_codes_are_kept() {
        for (body, code) in [
            (r#"{"error":"invalid_client"}"#, "invalid_client"),
            (r#"{"error":"invalid_target","x":1}"#, "invalid_target"),
            (r#"{"error":"marker_of_the_issuer"}"#, "other"),
            (r#"{"error":"redirect"}"#, "other"),
            ("<html>", "other"),
        ] {
            assert_eq!(
                OAuth2Problem::Rejected {
                    status: 400,
                    error: error_code(body.as_bytes())
                }
                .code(),
                code
            );
        }
    }

    #[test]
    fn the_media_type_counts_without_parameters() {
        for (value, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/html", false),
            ("application/jwt", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(is_json(&headers), json, "{value}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
