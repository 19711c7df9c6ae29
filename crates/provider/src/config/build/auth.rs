//! The login section: one variant a method, each with its own settings.

use std::time::Duration;

use kms_domain::scope::{KeyName, MountPath};
use openbao_client::login::jwt::ClaimRules;

use crate::config::{
    Auth, Cert, Jwt, JwtSource, Method, OAuth2, Pkcs11,
    choice::{AuthMethod, CertSourceName, ClientAuthMethod, JwtSourceName},
    duration,
    file::{AuthSection, CertSection, JwtSection, OAuth2Section, Pkcs11Section},
    problem::Broken,
    resolve::Resolver,
    values,
};

/// Lifetime of tokens under the documented role.
const DOCUMENTED_TOKEN_TTL: Duration = Duration::from_secs(30 * 60);

const SHORTEST_IMPLIED_LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn auth(
    resolver: &mut Resolver,
    section: AuthSection,
    openbao_timeout: Option<Duration>,
) -> Option<Auth> {
    let name = resolver.text("auth.method", section.method, str::parse::<AuthMethod>);
    let before_expiry = resolver.text(
        "auth.loginBeforeTokenExpiry",
        section.login_before_token_expiry,
        duration::parse_positive,
    );
    let increment = resolver.text(
        "auth.tokenRenewalIncrement",
        section.token_renewal_increment,
        duration::parse_positive,
    );
    let login_timeout = resolver.text("auth.loginTimeout", section.login_timeout, duration::parse);
    if let (Some(before_expiry), Some(increment)) = (before_expiry, increment)
        && increment <= before_expiry
    {
        resolver.reject(
            "auth.tokenRenewalIncrement",
            "must be longer than auth.loginBeforeTokenExpiry",
            "a shorter renewal would be due again at once",
        );
    }
    if before_expiry.is_some_and(|before_expiry| before_expiry >= DOCUMENTED_TOKEN_TTL) {
        resolver.warn(
            "auth.loginBeforeTokenExpiry",
            "is not below 30m, the lifetime of tokens under the documented role",
            "a token that lives no longer than this is refused at login",
        );
    }
    let method = match name? {
        AuthMethod::Jwt => {
            unused(
                resolver,
                "auth.cert",
                section.cert.is_some(),
                "auth.method is jwt",
            );
            section_of(resolver, "auth.jwt", section.jwt)
                .and_then(|section| jwt(resolver, section))
                .map(Method::Jwt)
        }
        AuthMethod::Cert => {
            unused(
                resolver,
                "auth.jwt",
                section.jwt.is_some(),
                "auth.method is cert",
            );
            section_of(resolver, "auth.cert", section.cert)
                .and_then(|section| cert(resolver, section))
                .map(Method::Cert)
        }
    };
    let login_timeout = match login_timeout? {
        Duration::ZERO => openbao_timeout?.max(SHORTEST_IMPLIED_LOGIN_TIMEOUT),
        configured => configured,
    };
    Some(Auth {
        method: method?,
        login_before_token_expiry: before_expiry?,
        token_renewal_increment: increment?,
        login_timeout,
    })
}

fn jwt(resolver: &mut Resolver, section: JwtSection) -> Option<Jwt> {
    let mount_path = auth_mount(resolver, "auth.jwt.mountPath", section.mount_path);
    let role = resolver.text("auth.jwt.role", section.role, KeyName::parse);
    // Files made before there was a choice have no source.
    let inferable = section.source.is_none()
        && section.oauth2.is_none()
        && section.jwt_file.is_some()
        && !["auth.jwt.source", "auth.jwt.oauth2"]
            .into_iter()
            .any(|path| resolver.is_faulty(path));
    let source_name = if inferable {
        resolver.infer("auth.jwt.source", "file", "auth.jwt.jwtFile");
        Some(JwtSourceName::File)
    } else {
        resolver.text("auth.jwt.source", section.source, str::parse)
    };
    let min_remaining_ttl = resolver.text(
        "auth.jwt.minRemainingTtl",
        section.min_remaining_ttl,
        duration::parse_positive,
    );
    let clock_skew_leeway = resolver.text(
        "auth.jwt.clockSkewLeeway",
        section.clock_skew_leeway,
        duration::parse,
    );
    let claim = values::optional(values::claim);
    let issuer = resolver.text("auth.jwt.expectedIssuer", section.expected_issuer, &claim);
    let audience = resolver.list(
        "auth.jwt.expectedAudience",
        section.expected_audience,
        values::claim,
    );
    let subject = resolver.text("auth.jwt.expectedSubject", section.expected_subject, &claim);
    let source = match source_name? {
        JwtSourceName::File => {
            if section.oauth2.is_some() {
                resolver.reject(
                    "auth.jwt.oauth2",
                    "must not be written when auth.jwt.source is file",
                    "remove the block, or set source: oauth2",
                );
            }
            resolver
                .text("auth.jwt.jwtFile", section.jwt_file, values::absolute_path)
                .map(JwtSource::File)
        }
        JwtSourceName::OAuth2 => {
            if section.jwt_file.is_some() {
                resolver.reject(
                    "auth.jwt.jwtFile",
                    "must not be written when auth.jwt.source is oauth2",
                    "remove it, or set source: file",
                );
            }
            let needed = "OAuth2 tokens come over the network and need it checked";
            if issuer == Some(None) {
                resolver.reject(
                    "auth.jwt.expectedIssuer",
                    "must be written when auth.jwt.source is oauth2",
                    needed,
                );
            }
            if audience.as_ref().is_some_and(Vec::is_empty) {
                resolver.reject(
                    "auth.jwt.expectedAudience",
                    "must have an entry when auth.jwt.source is oauth2",
                    needed,
                );
            }
            section_of(resolver, "auth.jwt.oauth2", section.oauth2)
                .and_then(|section| oauth2(resolver, section))
                .map(JwtSource::OAuth2)
        }
    };
    Some(Jwt {
        mount_path: mount_path?,
        role: role?,
        claims: ClaimRules {
            expected_issuer: issuer?,
            expected_audience: audience?,
            expected_subject: subject?,
            clock_skew_leeway: clock_skew_leeway?,
            min_remaining: min_remaining_ttl?,
        },
        source: source?,
    })
}

fn oauth2(resolver: &mut Resolver, section: OAuth2Section) -> Option<OAuth2> {
    let token_url = resolver.text(
        "auth.jwt.oauth2.tokenUrl",
        section.token_url,
        values::token_url,
    );
    let client_id = resolver.text(
        "auth.jwt.oauth2.clientId",
        section.client_id,
        values::client_id,
    );
    let client_secret_file = resolver.text(
        "auth.jwt.oauth2.clientSecretFile",
        section.client_secret_file,
        values::absolute_path,
    );
    let auth_method = resolver.text(
        "auth.jwt.oauth2.authMethod",
        section.auth_method,
        str::parse::<ClientAuthMethod>,
    );
    let scopes = resolver.list("auth.jwt.oauth2.scopes", section.scopes, values::scope);
    let audience = resolver.text(
        "auth.jwt.oauth2.audience",
        section.audience,
        values::optional(values::no_control_characters),
    );
    let resources = resolver.list(
        "auth.jwt.oauth2.resources",
        section.resources,
        values::resource,
    );
    let ca_cert_file = resolver.text(
        "auth.jwt.oauth2.caCertFile",
        section.ca_cert_file,
        values::optional(values::absolute_path),
    );
    Some(OAuth2 {
        token_url: token_url?,
        client_id: client_id?,
        client_secret_file: client_secret_file?,
        auth_method: auth_method?,
        scopes: scopes?,
        audience: audience?,
        resources: resources?,
        ca_cert_file: ca_cert_file?,
    })
}

fn cert(resolver: &mut Resolver, section: CertSection) -> Option<Cert> {
    let mount_path = auth_mount(resolver, "auth.cert.mountPath", section.mount_path);
    let role = resolver.text(
        "auth.cert.name",
        section.name,
        values::optional(values::identifier),
    );
    let source = resolver.text("auth.cert.source", section.source, |text| {
        text.parse::<CertSourceName>().map_err(|problem| {
            let broken = Broken::from(problem);
            if text == "spiffe" {
                broken.hint("OpenBao cannot derive an identity alias from a URI SAN")
            } else {
                broken
            }
        })
    });
    let min_remaining_ttl = resolver.text(
        "auth.cert.minRemainingTtl",
        section.min_remaining_ttl,
        duration::parse_positive,
    );
    let clock_skew_leeway = resolver.text(
        "auth.cert.clockSkewLeeway",
        section.clock_skew_leeway,
        duration::parse,
    );
    let token = match source? {
        CertSourceName::Pkcs11 => section_of(resolver, "auth.cert.pkcs11", section.pkcs11)
            .and_then(|section| pkcs11(resolver, section)),
    };
    Some(Cert {
        mount_path: mount_path?,
        role: role?,
        min_remaining_ttl: min_remaining_ttl?,
        clock_skew_leeway: clock_skew_leeway?,
        token: token?,
    })
}

fn pkcs11(resolver: &mut Resolver, section: Pkcs11Section) -> Option<Pkcs11> {
    let certificate_file = resolver.text(
        "auth.cert.pkcs11.certificateFile",
        section.certificate_file,
        values::absolute_path,
    );
    let module_path = resolver.text(
        "auth.cert.pkcs11.modulePath",
        section.module_path,
        values::absolute_path,
    );
    let token_label = resolver.text(
        "auth.cert.pkcs11.tokenLabel",
        section.token_label,
        values::identifier,
    );
    let key_label = resolver.text(
        "auth.cert.pkcs11.keyLabel",
        section.key_label,
        values::identifier,
    );
    let pin_file = resolver.text(
        "auth.cert.pkcs11.pinFile",
        section.pin_file,
        values::absolute_path,
    );
    let max_sessions: Option<u32> = resolver.integer(
        "auth.cert.pkcs11.maxSessions",
        section.max_sessions,
        2..=i64::from(u32::MAX),
    );
    Some(Pkcs11 {
        certificate_file: certificate_file?,
        module_path: module_path?,
        token_label: token_label?,
        key_label: key_label?,
        pin_file: pin_file?,
        max_sessions: max_sessions?.try_into().ok()?,
    })
}

fn auth_mount(
    resolver: &mut Resolver,
    path: &'static str,
    given: Option<String>,
) -> Option<MountPath> {
    let mount = resolver.text(path, given, MountPath::parse)?;
    if !mount.as_str().starts_with("auth/") {
        resolver.warn(
            path,
            "does not begin with auth/, where OpenBao mounts auth methods",
            "write the whole path, such as auth/jwt",
        );
    }
    Some(mount)
}

/// A section that the choice made elsewhere needs.
fn section_of<T>(resolver: &mut Resolver, path: &'static str, section: Option<T>) -> Option<T> {
    if section.is_none() {
        resolver.missing(path);
    }
    section
}

fn unused(resolver: &mut Resolver, path: &'static str, written: bool, because: &str) {
    if written {
        resolver.warn(
            path,
            format!("is ignored, since {because}"),
            "remove the block",
        );
    }
}
