//! Parses a JWT, checks its claims and exchanges it for a token.
//!
//! OpenBao verifies the signature. Claims are checked before the login, so that an unusable JWT is
//! reported as such instead of as a rejected login.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use kms_domain::scope::{KeyName, MountPath};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{
    client::Client,
    failure::Failure,
    login::{Grant, Login, LoginFailure, Pending, Renewal, exchange, renew_self},
    request::{Operation, Request},
    token::Token,
};

const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A JWT with three parts and parsed claims: wiped on drop, without `Debug`.
pub struct Jwt {
    text: Zeroizing<String>,
    claims: Claims,
    /// `exp`, counted from the epoch.
    expires: Duration,
}

/// Required claims of a JWT.
#[derive(Debug, Clone)]
pub struct ClaimRules {
    /// Required `iss`; `None` accepts any.
    pub expected_issuer: Option<String>,
    /// Accepted values of `aud`; empty accepts any.
    pub expected_audience: Vec<String>,
    /// Required `sub`; `None` accepts any.
    pub expected_subject: Option<String>,
    /// Tolerated clock difference to the issuer.
    pub clock_skew_leeway: Duration,
    /// Required remaining life; a JWT with this much or less is rejected.
    pub min_remaining: Duration,
}

/// Error of checking a JWT. Contains only its dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtProblem {
    /// Empty, or white space only.
    #[error("it is empty")]
    Empty,
    /// The JWT needs three dot-separated parts, a base64url payload and valid claims.
    #[error("it is malformed: {0}")]
    Malformed(JwtForm),
    /// Without `exp`.
    #[error("it has no exp: OpenBao and this provider require an expiry")]
    NoExpiry,
    /// `nbf` is in the future.
    #[error("it is not valid yet, for another {} s by this machine's clock", .0.as_secs())]
    NotYetValid(Duration),
    /// `iat` is in the future.
    #[error("it will be issued only in {} s by this machine's clock", .0.as_secs())]
    IssuedInFuture(Duration),
    /// `iss` differs.
    #[error("its issuer is not auth.jwt.expectedIssuer")]
    Issuer,
    /// `aud` has none of the accepted values.
    #[error("its audience is not among auth.jwt.expectedAudience")]
    Audience,
    /// `sub` differs.
    #[error("its subject is not auth.jwt.expectedSubject")]
    Subject,
    /// `exp` has passed.
    #[error("it expired {} s ago", .since.as_secs())]
    Expired {
        /// Time since `exp`.
        since: Duration,
    },
    /// `exp` is near.
    #[error(
        "it expires in {} s, but {} s are required",
        .remaining.as_secs(), .required.as_secs()
    )]
    NearExpiry {
        /// Time until `exp`; 0 within the leeway after it.
        remaining: Duration,
        /// Required minimum, exclusive.
        required: Duration,
    },
}

/// Error of the form of a JWT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtForm {
    /// The bytes are no UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A byte order mark stands first.
    #[error("a byte order mark (BOM) at its start")]
    ByteOrderMark,
    /// A NUL byte stands inside.
    #[error("a NUL byte inside")]
    Nul,
    /// Quotation marks stand around or inside it.
    #[error("quotation marks")]
    Quotes,
    /// White space stands inside.
    #[error("white space inside")]
    WhiteSpace,
    /// There are fewer or more than three parts.
    #[error("not three parts")]
    Parts,
    /// Header or payload is empty.
    #[error("an empty part")]
    EmptyPart,
    /// The payload is not base64url.
    #[error("a payload in other than base64url")]
    Encoding,
    /// The payload is no JSON object with claims of the right types.
    #[error("a payload without usable claims")]
    Claims,
}

impl JwtForm {
    fn code(self) -> &'static str {
        match self {
            Self::NotUtf8 => "not_utf8",
            Self::ByteOrderMark => "byte_order_mark",
            Self::Nul => "nul_byte",
            Self::Quotes => "quotation_marks",
            Self::WhiteSpace => "white_space",
            Self::Parts => "not_three_parts",
            Self::EmptyPart => "empty_part",
            Self::Encoding => "not_base64url",
            Self::Claims => "unusable_claims",
        }
    }
}

impl JwtProblem {
    /// Error code for logs and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Malformed(form) => form.code(),
            Self::NoExpiry => "no_expiry",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::IssuedInFuture(_) => "issued_in_future",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Subject => "subject",
            Self::Expired { .. } => "expired",
            Self::NearExpiry { .. } => "near_expiry",
        }
    }
}

impl Jwt {
    /// Parses the text. Outer white space is dropped.
    ///
    /// # Errors
    /// [`JwtProblem::Empty`] or [`JwtProblem::Malformed`].
    pub fn parse(text: &[u8]) -> Result<Self, JwtProblem> {
        let text =
            std::str::from_utf8(text).map_err(|_| JwtProblem::Malformed(JwtForm::NotUtf8))?;
        let text = text.trim();
        if text.starts_with('\u{feff}') {
            return Err(JwtProblem::Malformed(JwtForm::ByteOrderMark));
        }
        if text.contains('\0') {
            return Err(JwtProblem::Malformed(JwtForm::Nul));
        }
        if text.contains(['"', '\'']) {
            return Err(JwtProblem::Malformed(JwtForm::Quotes));
        }
        if text.is_empty() {
            return Err(JwtProblem::Empty);
        }
        if text.contains(char::is_whitespace) {
            return Err(JwtProblem::Malformed(JwtForm::WhiteSpace));
        }

        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(_signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtProblem::Malformed(JwtForm::Parts));
        };
        if header.is_empty() || payload.is_empty() {
            return Err(JwtProblem::Malformed(JwtForm::EmptyPart));
        }

        let mut json = Zeroizing::new(Vec::new());
        BASE64URL
            .decode_vec(payload, &mut json)
            .map_err(|_| JwtProblem::Malformed(JwtForm::Encoding))?;
        let claims: Claims =
            serde_json::from_slice(&json).map_err(|_| JwtProblem::Malformed(JwtForm::Claims))?;
        let expires = claims.exp.as_ref().ok_or(JwtProblem::NoExpiry)?.0;
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            claims,
            expires,
        })
    }

    /// Time of expiry.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        // Cannot overflow: dates are limited when they are parsed.
        UNIX_EPOCH + self.expires
    }

    /// Checks the claims at the wall-clock time `now`.
    ///
    /// # Errors
    /// The first violated rule.
    pub fn check(&self, rules: &ClaimRules, now: SystemTime) -> Result<(), JwtProblem> {
        let claims = &self.claims;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let leeway = rules.clock_skew_leeway;
        let to_come = |date: &Option<NumericDate>| {
            let date = date.as_ref()?.0;
            (now.saturating_add(leeway) < date).then(|| date.saturating_sub(now))
        };

        if let Some(wait) = to_come(&claims.nbf) {
            return Err(JwtProblem::NotYetValid(wait));
        }
        if let Some(wait) = to_come(&claims.iat) {
            return Err(JwtProblem::IssuedInFuture(wait));
        }

        if rules.expected_issuer.is_some() && rules.expected_issuer != claims.iss {
            return Err(JwtProblem::Issuer);
        }
        let audience = claims.aud.as_ref().map_or(&[][..], |audience| &audience.0);
        let expected = &rules.expected_audience;
        if !expected.is_empty() && !expected.iter().any(|entry| audience.contains(entry)) {
            return Err(JwtProblem::Audience);
        }
        if rules.expected_subject.is_some() && rules.expected_subject != claims.sub {
            return Err(JwtProblem::Subject);
        }

        let exp = self.expires;
        if now.saturating_sub(leeway) >= exp {
            return Err(JwtProblem::Expired {
                since: now.saturating_sub(exp),
            });
        }
        let remaining = exp.saturating_sub(now);
        if remaining <= rules.min_remaining {
            return Err(JwtProblem::NearExpiry {
                remaining,
                required: rules.min_remaining,
            });
        }
        Ok(())
    }
}

/// A role of OpenBao's JWT auth method.
#[derive(Clone)]
pub struct JwtRole {
    /// Client for login and renewal.
    pub client: Client,
    /// Mount path, for example `auth/jwt`.
    pub mount_path: MountPath,
    /// Name of the role.
    pub role: KeyName,
}

#[derive(Serialize)]
struct Body<'a> {
    role: &'a str,
    jwt: &'a str,
}

impl JwtRole {
    /// Exchanges a JWT for a token.
    ///
    /// # Errors
    /// The classified failure; OpenBao rejects a JWT with 400.
    pub async fn exchange(&self, jwt: &Jwt, deadline: Duration) -> Result<Grant, Failure> {
        let request = Request::post(Operation::JwtLogin, format!("{}/login", self.mount_path))
            .json(&Body {
                role: self.role.as_str(),
                jwt: &jwt.text,
            });
        exchange(&self.client, request, Some(jwt.expires()), deadline).await
    }
}

/// A source of JWTs. It makes a [`Login`] by its role.
pub trait JwtSource: Send + Sync {
    /// The role of the logins.
    fn role(&self) -> &JwtRole;

    /// As [`Login::check`].
    fn examine(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>>;

    /// A JWT that follows the rules of the configuration, before `deadline`.
    fn obtain(&self, now: SystemTime, deadline: Instant) -> Pending<'_, Result<Jwt, LoginFailure>>;
}

impl<S: JwtSource> Login for S {
    fn check(&self, now: SystemTime) -> Pending<'_, Result<Option<SystemTime>, LoginFailure>> {
        self.examine(now)
    }

    fn log_in(
        &self,
        now: SystemTime,
        deadline: Duration,
    ) -> Pending<'_, Result<Grant, LoginFailure>> {
        Box::pin(async move {
            // Less than the whole time, so that a slow source is named before the caller gives up.
            let patience = Instant::now() + deadline * 9 / 10;
            let deadline = Instant::now() + deadline;
            let jwt = self.obtain(now, patience).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            let grant = self.role().exchange(&jwt, left).await;
            grant.map_err(LoginFailure::OpenBao)
        })
    }

    fn renew<'a>(
        &'a self,
        token: &'a Token,
        increment: Duration,
        deadline: Duration,
    ) -> Pending<'a, Result<Renewal, Failure>> {
        Box::pin(renew_self(&self.role().client, token, increment, deadline))
    }
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
}

#[derive(Deserialize)]
#[serde(from = "TextOrList")]
struct Audience(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrList {
    Text(String),
    List(Vec<String>),
}

impl From<TextOrList> for Audience {
    fn from(audience: TextOrList) -> Self {
        match audience {
            TextOrList::Text(one) => Self(vec![one]),
            TextOrList::List(many) => Self(many),
        }
    }
}

/// Time since the Unix epoch, with fractions; at most `i64::MAX` seconds.
#[derive(Deserialize)]
#[serde(try_from = "serde_json::Number")]
struct NumericDate(Duration);

impl TryFrom<serde_json::Number> for NumericDate {
    type Error = &'static str;

    fn try_from(number: serde_json::Number) -> Result<Self, Self::Error> {
        let date = match number.as_u64() {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => number
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        };
        date.filter(|date| i64::try_from(date.as_secs()).is_ok())
            .map(Self)
            .ok_or("a date must be a number of seconds, 0 or more")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn jwt_of(claims: &Value) -> Result<Jwt, JwtProblem> {
        let payload = BASE64URL.encode(claims.to_string());
        Jwt::parse(format!("e30.{payload}.c2ln").as_bytes())
    }

    fn rules() -> ClaimRules {
        ClaimRules {
            expected_issuer: None,
            expected_audience: Vec::new(),
            expected_subject: None,
            clock_skew_leeway: Duration::from_secs(30),
            min_remaining: Duration::from_secs(120),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn check(claims: &Value, now: u64) -> Result<(), JwtProblem> {
        jwt_of(claims)
            .unwrap_or_else(|_| panic!("{claims}"))
            .check(&rules(), at(now))
    }

    #[test]
    fn the_shape_is_checked_before_the_claims() {
        let malformed = |text: &str| match Jwt::parse(text.as_bytes()) {
            Err(JwtProblem::Malformed(what)) => what,
            _ => panic!("{text:?}"),
        };
        assert!(matches!(Jwt::parse(b" \n"), Err(JwtProblem::Empty)));
        assert_eq!(malformed("a.e30"), JwtForm::Parts);
        assert_eq!(malformed("a.e30.c.d"), JwtForm::Parts);
        assert_eq!(malformed(".e30.c"), JwtForm::EmptyPart);
        assert_eq!(malformed("a..c"), JwtForm::EmptyPart);
        assert_eq!(malformed("a.e3 0.c"), JwtForm::WhiteSpace);
        assert_eq!(malformed("a.e+/=.c"), JwtForm::Encoding);
        assert_eq!(malformed("a.W10.c"), JwtForm::Claims);
        assert!(matches!(Jwt::parse(b"a.e30.c"), Err(JwtProblem::NoExpiry)));
        // Left by editors, by JSON and by a buffer of fixed size.
        let sound = "a.eyJleHAiOjF9Cg.c";
        for (text, what) in [
            (format!("\u{feff}{sound}"), JwtForm::ByteOrderMark),
            (format!("\"{sound}\"\n"), JwtForm::Quotes),
            (format!("{sound}\0\0"), JwtForm::Nul),
        ] {
            assert_eq!(malformed(&text), what);
        }
        // Padding is tolerated, and the signature may be empty.
        let padded = "a.eyJleHAiOjF9Cg==.\n";
        assert_eq!(Jwt::parse(padded.as_bytes()).ok().unwrap().expires(), at(1));
    }

    #[test]
    fn dates_are_numbers_with_or_without_a_fraction() {
        let expires = |exp: Value| jwt_of(&json!({ "exp": exp })).ok().map(|jwt| jwt.expires());
        assert_eq!(expires(json!(10)), Some(at(10)));
        let half = Duration::from_millis(10_500);
        assert_eq!(expires(json!(10.5)), Some(UNIX_EPOCH + half));
        let last = i64::MAX.unsigned_abs();
        assert_eq!(expires(json!(last)), Some(at(last)));
        for bad in [
            json!(-1),
            json!("10"),
            json!(u64::MAX),
            json!(1e300),
            json!(null),
        ] {
            assert_eq!(expires(bad.clone()), None, "{bad}");
        }
        assert!(jwt_of(&json!({})).is_err());
        assert!(
            check(
                &json!({"exp": 1000, "nbf": null, "iat": null, "aud": null}),
                0
            )
            .is_ok()
        );
    }

    #[test]
    fn each_date_rule_has_its_own_bound() {
        let exp = 10_000;
        let seconds = Duration::from_secs;
        for (claims, now, expected) in [
            (json!({"exp": exp, "nbf": 130}), 100, Ok(())),
            (
                json!({"exp": exp, "nbf": 131}),
                100,
                Err(JwtProblem::NotYetValid(seconds(31))),
            ),
            (json!({"exp": exp, "iat": 130}), 100, Ok(())),
            (
                json!({"exp": exp, "iat": 131}),
                100,
                Err(JwtProblem::IssuedInFuture(seconds(31))),
            ),
            (json!({"exp": exp}), exp - 121, Ok(())),
            (
                json!({"exp": exp}),
                exp - 120,
                Err(JwtProblem::NearExpiry {
                    remaining: seconds(120),
                    required: seconds(120),
                }),
            ),
            (
                json!({"exp": exp}),
                exp + 29,
                Err(JwtProblem::NearExpiry {
                    remaining: seconds(0),
                    required: seconds(120),
                }),
            ),
            (
                json!({"exp": exp}),
                exp + 30,
                Err(JwtProblem::Expired { since: seconds(30) }),
            ),
        ] {
            assert_eq!(check(&claims, now), expected, "{claims} at {now}");
        }
    }

    #[test]
    fn issuer_audience_and_subject_must_be_the_expected_ones() {
        let rules = ClaimRules {
            expected_issuer: Some("https://issuer".to_owned()),
            expected_audience: vec!["openbao".to_owned(), "vault".to_owned()],
            expected_subject: Some("node-1".to_owned()),
            ..rules()
        };
        let good = json!({"exp": 1000, "iss": "https://issuer", "aud": "vault", "sub": "node-1"});
        let with = |field: &str, value: Value| {
            let mut claims = good.clone();
            claims[field] = value;
            jwt_of(&claims).ok().unwrap().check(&rules, at(0))
        };
        assert_eq!(with("aud", json!("vault")), Ok(()));
        assert_eq!(with("aud", json!(["other", "openbao"])), Ok(()));
        for bad in [json!("other"), json!([]), json!(null), json!(["Vault"])] {
            assert_eq!(with("aud", bad), Err(JwtProblem::Audience));
        }
        for bad in [json!("https://issuer/"), json!(null)] {
            assert_eq!(with("iss", bad), Err(JwtProblem::Issuer));
        }
        for bad in [json!("node-2"), json!(null)] {
            assert_eq!(with("sub", bad), Err(JwtProblem::Subject));
        }
        for bad in [json!(1), json!({"a": 1}), json!([1])] {
            assert!(jwt_of(&json!({"exp": 1, "aud": bad})).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>) {
            Jwt::parse(&bytes).ok();
        }

        #[test]
        fn a_usable_jwt_has_more_life_than_required(exp in 0..20_000u64, now in 0..20_000u64) {
            if check(&json!({ "exp": exp }), now).is_ok() {
                prop_assert!(exp > now + 120);
            } else {
                prop_assert!(exp <= now + 120);
            }
        }
    }
}
