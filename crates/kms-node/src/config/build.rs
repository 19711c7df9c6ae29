//! Rules between settings, values composed of several settings, and warnings.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kms_domain::scope::{IdentityScope, TransitKeyPath};
use openbao_client::{
    endpoint::{Address, Failover},
    login::{
        jwt::ClaimRules,
        oauth2::{RsaAlgorithm, SecretPlace},
    },
};

use super::{
    AppRole, Auth, Bootstrap, Cert, CertFiles, CertSource, ClientCredential, Config,
    DebugCorrelation, Jwt, JwtSource, Logging, Method, OAuth2, OpenBao, Pkcs11, Server, Spiffe,
    Status, TokenFile, Userpass, VaultKubernetesKms,
    choice::{
        AuthMethod, CertSourceName, ClientAuthMethod, JwtSourceName, LogLevel, RsaAlgorithmName,
    },
    origin::Substitute,
    problem::Broken,
    resolve::Resolver,
    rules::MAX_FAILOVER,
    settings::{KeyIdScope, State, TransitSettings},
    values,
};
use crate::state::StatePath;

/// The usual timeout of the API server's KMS calls, also in the files generated here.
const KMS_CALL_TIMEOUT: Duration = Duration::from_secs(3);
const LONGEST_CORRELATION: Duration = Duration::from_secs(60 * 60);
/// Lifetime of tokens under the documented role.
const DOCUMENTED_TOKEN_TTL: Duration = Duration::from_secs(30 * 60);
const SHORTEST_IMPLIED_LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The packaged service may write here and in the directory of the socket.
const SERVICE_STATE_DIRECTORY: &str = "/var/lib/openbao-kms";

pub(super) fn config(resolver: &mut Resolver) -> Option<Config> {
    // A document of another kind has one problem: its kind.
    if !resolver.is_written("") {
        return None;
    }
    let config = Config::read(resolver)?;
    warn_of_likely_mistakes(resolver, &config);
    Some(config)
}

pub(super) fn server(resolver: &mut Resolver) -> Option<Server> {
    let server = Server::read(resolver);
    if let Some(path) = resolver.get(Server::socket_path)
        && let Err(broken) = values::socket_below(&resolver.socket_roots, &path)
    {
        resolver.broken(Server::socket_path.into(), path.to_str(), broken);
    }
    let metrics = resolver.get(Server::metrics).flatten();
    let health = resolver.get(Server::health).flatten();
    let both = metrics.zip(health);
    resolver.reject_if(
        both.is_some_and(|(one, other)| one.collides(&other)),
        Server::health,
        Broken::rule("must differ from server.metricsAddress")
            .hint("choose another port, or leave one of them empty"),
    );
    server
}

pub(super) fn failover(resolver: &mut Resolver) -> Option<Vec<Failover>> {
    let first = resolver.get(OpenBao::address);
    let others = resolver.get(OpenBao::failover_addresses)?;
    let mut seen: Vec<&Address> = first.iter().collect();
    for (address, _) in &others {
        resolver.reject_if(
            seen.iter().any(|other| address.is_same_place(other)),
            OpenBao::failover_addresses,
            Broken::rule(format!("names {address} twice, or it is openbao.address"))
                .hint("keep one of them"),
        );
        seen.push(address);
    }
    resolver.reject_if(
        others.len() > MAX_FAILOVER,
        OpenBao::failover_addresses,
        Broken::rule(format!("must not hold more than {MAX_FAILOVER} addresses"))
            .hint("keep the voting members of the cluster"),
    );
    let server_name = resolver.get(OpenBao::server_name)?;
    let with_name = others.into_iter().map(|(address, own_name)| Failover {
        address,
        server_name: own_name.unwrap_or_else(|| server_name.clone()),
    });
    Some(with_name.collect())
}

pub(super) fn substitute(resolver: &mut Resolver) -> Option<Substitute> {
    Some(resolver.substitute.clone())
}

pub(super) fn auth(resolver: &mut Resolver) -> Option<Auth> {
    let auth = Auth::read(resolver);
    let before_expiry = resolver.get(Auth::login_before_token_expiry);
    let increment = resolver.get(Auth::token_renewal_increment);
    resolver.reject_if(
        increment.is_some() && increment <= before_expiry,
        Auth::token_renewal_increment,
        Broken::rule("must be longer than auth.loginBeforeTokenExpiry")
            .hint("a shorter renewal would be due again at once"),
    );
    auth
}

pub(super) fn login_timeout(resolver: &mut Resolver) -> Option<Duration> {
    let configured = resolver.get(Auth::configured_login_timeout)?;
    if !configured.is_zero() {
        return Some(configured);
    }
    let request = resolver.get(OpenBao::timeout)?;
    Some(request.max(SHORTEST_IMPLIED_LOGIN_TIMEOUT))
}

pub(super) fn method(resolver: &mut Resolver) -> Option<Method> {
    let name = resolver.get(Auth::method_name)?;
    method_named(name, resolver)
}

pub(super) fn fallback(resolver: &mut Resolver) -> Option<Option<Method>> {
    let Some(name) = resolver.get(Auth::fallback_name)? else {
        return Some(None);
    };
    let method = resolver.get(Auth::method_name)?;
    if method == name {
        let rule = Broken::rule("must differ from auth.method")
            .hint("a standby of the same method would share its cause of failure");
        resolver.reject_if(true, Auth::fallback_name, rule);
        return None;
    }
    method_named(name, resolver).map(Some)
}

fn method_named(name: AuthMethod, resolver: &mut Resolver) -> Option<Method> {
    match name {
        AuthMethod::Jwt => jwt(resolver).map(Method::Jwt),
        AuthMethod::Cert => {
            resolver.require("auth.cert");
            Cert::read(resolver).map(Method::Cert)
        }
        AuthMethod::AppRole => {
            resolver.require("auth.approle");
            AppRole::read(resolver).map(Method::AppRole)
        }
        AuthMethod::Userpass => {
            resolver.require("auth.userpass");
            Userpass::read(resolver).map(Method::Userpass)
        }
        AuthMethod::Token => {
            resolver.require("auth.token");
            TokenFile::read(resolver).map(Method::Token)
        }
    }
}

fn jwt(resolver: &mut Resolver) -> Option<Jwt> {
    resolver.require("auth.jwt");
    // Older files have no source.
    if resolver.is_written(Jwt::jwt_file)
        && !resolver.is_written(Jwt::source_name)
        && !resolver.is_written(OAUTH2.0)
        && !resolver.is_written(SPIFFE.0)
    {
        resolver.infer(Jwt::source_name, "file", Jwt::jwt_file);
    }
    Jwt::read(resolver)
}

pub(super) fn claims(resolver: &mut Resolver) -> Option<ClaimRules> {
    Some(ClaimRules {
        expected_issuer: resolver.get(Jwt::expected_issuer)?,
        expected_audience: resolver.get(Jwt::expected_audience)?,
        expected_subject: resolver.get(Jwt::expected_subject)?,
        clock_skew_leeway: resolver.get(Jwt::clock_skew_leeway)?,
        min_remaining: resolver.get(Jwt::min_remaining_ttl)?,
    })
}

pub(super) fn jwt_source(resolver: &mut Resolver) -> Option<JwtSource> {
    match resolver.needed(Jwt::source_name)? {
        JwtSourceName::File => {
            refuse_block(resolver, "file", OAUTH2);
            refuse_block(resolver, "file", SPIFFE);
            resolver.needed(Jwt::jwt_file).map(JwtSource::File)
        }
        JwtSourceName::OAuth2 => {
            refuse_file(resolver, "oauth2");
            refuse_block(resolver, "oauth2", SPIFFE);
            oauth2(resolver).map(|it| JwtSource::OAuth2(Box::new(it)))
        }
        JwtSourceName::Spiffe => {
            refuse_file(resolver, "spiffe");
            refuse_block(resolver, "spiffe", OAUTH2);
            spiffe(resolver).map(JwtSource::Spiffe)
        }
    }
}

/// The block of a source, with the hint for a file with another source.
type Block = (&'static str, &'static str);
const OAUTH2: Block = ("auth.jwt.oauth2", "remove the block, or set source: oauth2");
const SPIFFE: Block = ("auth.jwt.spiffe", "remove the block, or set source: spiffe");

fn refuse_block(resolver: &mut Resolver, source: &str, (block, hint): Block) {
    let rule = Broken::rule(format!(
        "must not be written when auth.jwt.source is {source}"
    ));
    resolver.reject_if(resolver.is_written(block), block, rule.hint(hint));
}

fn refuse_file(resolver: &mut Resolver, source: &str) {
    resolver.reject_if(
        resolver.is_written(Jwt::jwt_file),
        Jwt::jwt_file,
        Broken::rule(format!(
            "must not be written when auth.jwt.source is {source}"
        ))
        .hint("remove it, or set source: file")
        .hidden(),
    );
}

/// The SVID is requested for one audience and one SPIFFE ID, the expected ones.
fn spiffe(resolver: &mut Resolver) -> Option<Spiffe> {
    let audience = resolver.get(Jwt::expected_audience);
    resolver.reject_if(
        audience.is_some_and(|audience| audience.len() != 1),
        Jwt::expected_audience,
        Broken::rule("must have exactly one entry when auth.jwt.source is spiffe")
            .hint("name the audience that the role in OpenBao accepts"),
    );
    let subject = resolver.get(Jwt::expected_subject);
    let id = subject.map(Option::unwrap_or_default);
    resolver.reject_if(
        id.is_some_and(|id| !values::is_spiffe_id(&id)),
        Jwt::expected_subject,
        Broken::rule("must be a SPIFFE ID when auth.jwt.source is spiffe")
            .hint("write spiffe://<trust domain>/<path>, as in the registration entry"),
    );
    resolver.require(SPIFFE.0);
    Spiffe::read(resolver)
}

fn oauth2(resolver: &mut Resolver) -> Option<OAuth2> {
    let needed = "OAuth2 tokens come over the network and need it checked";
    let issuer = resolver.get(Jwt::expected_issuer);
    resolver.reject_if(
        issuer == Some(None),
        Jwt::expected_issuer,
        Broken::rule("must be written when auth.jwt.source is oauth2").hint(needed),
    );
    let audience = resolver.get(Jwt::expected_audience);
    resolver.reject_if(
        audience.is_some_and(|audience| audience.is_empty()),
        Jwt::expected_audience,
        Broken::rule("must have an entry when auth.jwt.source is oauth2").hint(needed),
    );
    resolver.require(OAUTH2.0);
    OAuth2::read(resolver)
}

pub(super) fn client_credential(resolver: &mut Resolver) -> Option<ClientCredential> {
    let method = resolver.get(OAuth2::auth_method)?;
    let place = match method {
        ClientAuthMethod::Basic => SecretPlace::Basic,
        ClientAuthMethod::Post => SecretPlace::Post,
        ClientAuthMethod::PrivateKeyJwt => {
            resolver.reject_if(
                resolver.is_written(OAuth2::client_secret_file),
                OAuth2::client_secret_file,
                Broken::rule("must not be written when authMethod is private_key_jwt")
                    .hint("remove it")
                    .hidden(),
            );
            let file = resolver.needed(OAuth2::private_key_file);
            return Some(ClientCredential::PrivateKey {
                key_id: resolver.get(OAuth2::key_id)?,
                audience: resolver.get(OAuth2::assertion_audience)?,
                rsa: match resolver.get(OAuth2::rsa_algorithm)? {
                    RsaAlgorithmName::Rs256 => RsaAlgorithm::Rs256,
                    RsaAlgorithmName::Ps256 => RsaAlgorithm::Ps256,
                },
                file: file?,
            });
        }
    };
    resolver.reject_if(
        resolver.is_written(OAuth2::private_key_file),
        OAuth2::private_key_file,
        Broken::rule("must not be written when authMethod is a method with a secret")
            .hint("remove it, or set authMethod: private_key_jwt")
            .hidden(),
    );
    let file = resolver.needed(OAuth2::client_secret_file)?;
    Some(ClientCredential::Secret { file, place })
}

pub(super) fn cert_source(resolver: &mut Resolver) -> Option<CertSource> {
    match resolver.get(Cert::source_name)? {
        CertSourceName::File => {
            let block = "auth.cert.pkcs11";
            let is_written = resolver.is_written(block);
            let rule = Broken::rule("must not be written when auth.cert.source is file")
                .hint("remove the block, or set source: pkcs11");
            resolver.reject_if(is_written, block, rule);
            let certificate = resolver.needed(Cert::certificate_file);
            let key = resolver.needed(Cert::key_file);
            Some(CertSource::File(CertFiles {
                certificate: certificate?,
                key: key?,
            }))
        }
        CertSourceName::Pkcs11 => {
            for key in [Cert::certificate_file, Cert::key_file] {
                let path: &'static str = key.into();
                let is_written = resolver.is_written(path);
                let rule = Broken::rule("must not be written when auth.cert.source is pkcs11")
                    .hint("remove it, or set source: file")
                    .hidden();
                resolver.reject_if(is_written, path, rule);
            }
            resolver.require("auth.cert.pkcs11");
            Pkcs11::read(resolver).map(CertSource::Pkcs11)
        }
    }
}

pub(super) fn scope(resolver: &mut Resolver) -> Option<IdentityScope> {
    let names = KeyIdScope::read(resolver)?;
    Some(IdentityScope {
        provider_name: names.provider_name,
        cluster_id: names.cluster_id,
        openbao_instance_id: resolver.get(OpenBao::instance_id)?,
        openbao_namespace: resolver.get(OpenBao::namespace)?,
        transit_mount_id: names.transit_mount_id,
        key_lineage_id: names.key_lineage_id,
    })
}

pub(super) fn key(resolver: &mut Resolver) -> Option<TransitKeyPath> {
    let names = TransitSettings::read(resolver)?;
    Some(TransitKeyPath {
        mount_path: names.mount_path,
        key_name: names.key_name,
    })
}

pub(super) fn vault_kubernetes_kms(resolver: &mut Resolver) -> Option<Option<VaultKubernetesKms>> {
    if !resolver.is_written("legacy.vaultKubernetesKms") {
        return Some(None);
    }
    let reader = VaultKubernetesKms::read(resolver);
    let name = resolver.get(VaultKubernetesKms::provider_name);
    let own_name = resolver.get(KeyIdScope::provider_name);
    resolver.reject_if(
        name.is_some() && name == own_name,
        VaultKubernetesKms::provider_name,
        Broken::rule("must differ from transit.keyIdScope.providerName")
            .hint("the stored objects of each provider have its name in front"),
    );
    reader.map(Some)
}

pub(super) fn legacy_socket(resolver: &mut Resolver) -> Option<PathBuf> {
    let written = resolver.get(VaultKubernetesKms::written_socket)?;
    let own = resolver.get(Server::socket_path)?;
    let directory = own.parent().unwrap_or(Path::new("/"));
    let path = written.unwrap_or_else(|| directory.join("vault-kubernetes-kms.sock"));
    resolver.reject_if(
        path.parent() != Some(directory) || path == own,
        VaultKubernetesKms::written_socket,
        Broken::rule("must be another file in the directory of server.socketPath")
            .hint("leave it out: vault-kubernetes-kms.sock in that directory is the default"),
    );
    let checked = values::socket_path(path.to_str()?);
    let report = |broken| resolver.broken(VaultKubernetesKms::written_socket.into(), None, broken);
    checked.map_err(report).ok()
}

pub(super) fn legacy_key(resolver: &mut Resolver) -> Option<TransitKeyPath> {
    let own = key(resolver)?;
    let (mount, name) = (
        resolver.get(VaultKubernetesKms::written_mount)?,
        resolver.get(VaultKubernetesKms::written_key)?,
    );
    Some(TransitKeyPath {
        mount_path: mount.unwrap_or(own.mount_path),
        key_name: name.unwrap_or(own.key_name),
    })
}

pub(super) fn status(resolver: &mut Resolver) -> Option<Status> {
    let status = Status::read(resolver);
    let probe_interval = resolver.get(Status::probe_interval);
    let max_staleness = resolver.get(Status::max_staleness);
    resolver.reject_if(
        max_staleness.is_some() && probe_interval >= max_staleness,
        Status::probe_interval,
        Broken::rule("must be shorter than status.statusMaxStaleness")
            .hint("Status would turn unhealthy between two good probes"),
    );
    status
}

pub(super) fn state_path(resolver: &mut Resolver) -> Option<StatePath> {
    State::read(resolver).map(|state| state.path)
}

pub(super) fn debug_correlation(resolver: &mut Resolver) -> Option<Option<DebugCorrelation>> {
    let correlation = DebugCorrelation::read(resolver);
    if !resolver.get(DebugCorrelation::enabled)? {
        return Some(None);
    }
    let level = resolver.get(Logging::level);
    resolver.reject_if(
        level.is_some_and(|level| level != LogLevel::Debug),
        Logging::level,
        Broken::rule("must be debug while logging.debugCorrelation.enabled is true")
            .hint("correlation is written at level debug only"),
    );
    let request_ids = resolver.get(Logging::request_ids);
    resolver.reject_if(
        request_ids == Some(false),
        Logging::request_ids,
        Broken::rule("must be true while logging.debugCorrelation.enabled is true")
            .hint("without the IDs there is nothing to correlate"),
    );
    let ttl = resolver.get(DebugCorrelation::ttl);
    resolver.reject_if(
        ttl.is_some_and(|ttl| ttl.is_zero() || ttl > LONGEST_CORRELATION),
        DebugCorrelation::ttl,
        Broken::rule("must be longer than 0s and at most 1h")
            .hint("correlation is for one incident"),
    );
    let incident = resolver.get(DebugCorrelation::incident);
    resolver.reject_if(
        incident == Some(None),
        DebugCorrelation::incident,
        Broken::rule("must be written while logging.debugCorrelation.enabled is true")
            .hint("name the incident that the log is kept for"),
    );
    correlation.map(Some)
}

pub(super) fn incident_id(resolver: &mut Resolver) -> Option<String> {
    resolver.get(DebugCorrelation::incident)?
}

/// Warns of probable mistakes, and of values without margin for the usual delays of a node.
fn warn_of_likely_mistakes(resolver: &mut Resolver, config: &Config) {
    for (key, listener) in [
        (Server::metrics, &config.server.metrics),
        (Server::health, &config.server.health),
    ] {
        resolver.warn_if(
            listener.as_ref().is_some_and(|it| !it.is_loopback()),
            key,
            Broken::rule("can be reached from other machines, without authentication")
                .hint("listen on 127.0.0.1 unless the network in front is closed"),
        );
    }
    resolver.warn_if(
        config.auth.login_before_token_expiry >= DOCUMENTED_TOKEN_TTL,
        Auth::login_before_token_expiry,
        Broken::rule("is not below 30m, the lifetime of tokens under the documented role")
            .hint("a token that lives no longer than this is refused at login"),
    );
    let used = [Some(&config.auth.method), config.auth.fallback.as_ref()];
    for block in [
        "auth.jwt",
        "auth.cert",
        "auth.approle",
        "auth.userpass",
        "auth.token",
    ] {
        let is_used = used
            .iter()
            .flatten()
            .any(|method| block == format!("auth.{}", method.name()));
        resolver.warn_if(
            !is_used && resolver.is_written(block),
            block,
            Broken::rule(format!(
                "is ignored, since auth.method is {}",
                config.auth.method.name()
            ))
            .hint("remove the block"),
        );
    }
    for method in used.into_iter().flatten() {
        let (mount, setting) = match method {
            Method::Jwt(jwt) => (&jwt.mount_path, Jwt::mount_path.into()),
            Method::Cert(cert) => (&cert.mount_path, Cert::mount_path.into()),
            Method::AppRole(approle) => (&approle.mount_path, AppRole::mount_path.into()),
            Method::Userpass(userpass) => (&userpass.mount_path, Userpass::mount_path.into()),
            Method::Token(_) => continue,
        };
        let setting: &'static str = setting;
        resolver.warn_if(
            !mount.as_str().starts_with("auth/"),
            setting,
            Broken::rule("does not begin with auth/, where OpenBao mounts auth methods")
                .hint("write the whole path, such as auth/jwt"),
        );
    }
    let state = config.state_path.directory();
    resolver.warn_if(
        !state.starts_with(SERVICE_STATE_DIRECTORY),
        State::path,
        Broken::rule("is outside /var/lib/openbao-kms, which the packaged service may write")
            .hint("extend ReadWritePaths of the unit, or move the file"),
    );
    let (grace, retry) = (
        config.bootstrap.grace_timeout,
        config.bootstrap.retry_interval,
    );
    resolver.warn_if(
        !grace.is_zero() && retry > grace,
        Bootstrap::retry_interval,
        Broken::rule("is longer than bootstrap.graceTimeout").hint("there will be only two tries"),
    );
    let timeout = config.openbao.timeout;
    resolver.warn_if(
        timeout >= KMS_CALL_TIMEOUT,
        OpenBao::timeout,
        Broken::rule("is not below 3s, the usual timeout of the API server's KMS calls")
            .hint("lower it, else the API server gives up first and learns no cause"),
    );
    let status = config.status;
    let request_and_login = timeout.saturating_add(config.auth.login_timeout);
    let slowest_probe = status.probe_interval.saturating_add(request_and_login);
    resolver.warn_if(
        slowest_probe >= status.max_staleness,
        Status::max_staleness,
        Broken::rule("is not above status.probeInterval + openbao.timeout + auth.loginTimeout")
            .hint("one slow probe turns Status unhealthy"),
    );
    resolver.warn_if(
        status.deep_probe_interval < status.probe_interval,
        Status::deep_probe_interval,
        Broken::rule("is shorter than status.probeInterval")
            .hint("round trips through Transit are the costly probes"),
    );
}
