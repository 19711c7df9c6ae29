//! Facts gathered by a command before any evaluation. `None` means not gathered.

use std::{
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kms_domain::{
    aad::AssociatedData,
    recovery::record::BackupRecord,
    registry::{Registry, checkpoint::CheckpointStatus},
    transit::{KeyMetadata, KeyProfile, ProfileRefused, TransitVersion},
};
use kms_node::{
    advice::{Advice, Cause, Site, Values, key, openbao},
    auth::{AuthFailure, CallFailure},
    clock::{Clock as _, SystemClock},
    config::{Config, LoadError, Loaded},
    connection::{self, Connection, ConnectionError, Process},
    probe::{ProbeError, RoundTrip},
    report::CheckResult,
    state::{StateError, Stored},
    transit_key::round_trip::{DeepError, round_trip},
};
use openbao_client::{
    client::Client,
    endpoint::{Address, Endpoint},
    failure::{Failure, FailureClass},
    leader::{Leader, leader},
    login::{Login, LoginFailure, bound_cidrs, fallback::Identity, is_mounted},
    login_refusal::LoginRefusal,
    presented::{Presented, presented},
    seal_status::{SealStatus, seal_status},
};

use super::{
    capabilities::{self, Granted},
    node::Node,
};
use crate::recovery::{EtcdError, verify_pair::Pair};

/// Input of the checks.
pub struct Facts {
    /// Name of the command, for steps that repeat it.
    pub command: &'static str,
    /// Its options besides `--config`, each with a space before it.
    pub options: String,
    /// The configuration, or the error while loading it.
    pub loaded: Result<Loaded, LoadError>,
    /// Facts about the machine, the process and the running provider.
    pub node: Option<Node>,
    /// Findings in kube-apiserver's `EncryptionConfiguration`, if requested.
    pub encryption: Option<Vec<CheckResult>>,
    /// The registry state of this node.
    pub stored: Option<Result<Stored, StateError>>,
    /// Whether the credential is usable for a login.
    pub credential: Option<Result<(), LoginFailure>>,
    /// Result of setting up the OpenBao client.
    pub connection: Option<Result<(), ConnectionError>>,
    /// Unauthenticated status of the server.
    pub server: Option<Answered>,
    /// Certificates of a server that is not trusted, its own first.
    pub presented: Vec<Presented>,
    /// Earlier addresses whose servers are out of reach, sealed or without an active one.
    pub passed_over: Vec<Answered>,
    /// Role of the server in its cluster.
    pub leader: Option<Result<Leader, Failure>>,
    pub login: Option<Result<(), AuthFailure>>,
    /// Failure of the configured login, where the standby identity logged in instead.
    pub standing_in: Option<LoginFailure>,
    /// Login by the standby identity.
    pub fallback: Option<Result<(), LoginFailure>>,
    /// Place of the login method, if OpenBao answered a login as without one.
    pub login_mount: Option<LoginMount>,
    /// Number of requests that OpenBao grants to a token; `None` for any number.
    pub token_uses: Option<NonZeroU32>,
    /// Addresses that OpenBao binds a token to, if the policy permits reading them.
    pub token_cidrs: Vec<String>,
    /// Capabilities of the token.
    pub granted: Option<Result<Granted, CallFailure>>,
    /// Metadata of the key in Transit.
    pub metadata: Option<Result<KeyMetadata, CallFailure>>,
    /// Result of checking the metadata.
    pub profile: Option<Result<KeyProfile, ProfileRefused>>,
    /// Whether the mount refuses to create missing keys.
    pub upsert_disabled: Option<Result<bool, CallFailure>>,
    /// A round trip with the newest version.
    pub probe: Option<Result<TransitVersion, DeepError>>,
    /// A round trip with the active version of this node.
    pub active_probe: Option<Result<TransitVersion, DeepError>>,
    pub record: Option<BackupRecord>,
    /// Result of each source of etcd data.
    pub etcd: Vec<Evidence>,
    /// After a failure: a brief round trip through the socket of the running provider.
    pub service: Option<Result<RoundTrip, ProbeError>>,
    /// A round trip through the socket of the running provider.
    pub trip: Option<Result<RoundTrip, ProbeError>>,
}

/// Where a login method is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMount {
    /// At the configured path and namespace.
    Here,
    /// At the configured path, in the root namespace instead of the configured one.
    InRoot,
    /// Neither.
    Missing,
}

/// A source of etcd data, compared with the key.
pub struct Evidence {
    /// Path of the file, or URLs of the members.
    pub source: String,
    /// Decryption was tried. Otherwise, objects were counted by the version that they need.
    pub tried: bool,
    /// Result of the comparison, or failure of the source.
    pub pair: Result<Pair, EtcdError>,
}

/// Status of a server, with local timestamps.
pub struct Answered {
    pub address: Address,
    pub status: Result<SealStatus, Failure>,
    /// Local time just before the request.
    pub before: SystemTime,
    /// Local time just after the response.
    pub after: SystemTime,
    /// Whether the server knows the active one of its cluster, or may know it. Asked only of an
    /// unsealed server that is one of several.
    pub has_leader: bool,
}

impl Answered {
    async fn by(endpoint: &Endpoint, deadline: Duration) -> Result<Self, ConnectionError> {
        // The API exists in the root namespace only.
        let anywhere = Endpoint {
            namespace: None,
            ..endpoint.clone()
        };
        let client = Client::new(anywhere, Arc::new(|_| {}))?;
        let before = SystemClock.now();
        let status = seal_status(&client, deadline).await;
        Ok(Self {
            address: endpoint.address.clone(),
            status,
            before,
            after: SystemClock.now(),
            has_leader: true,
        })
    }

    /// Whether it answered as an unsealed server.
    #[must_use]
    pub fn is_unsealed(&self) -> bool {
        let status = self.status.as_ref();
        status.is_ok_and(|status| status.initialized && !status.sealed)
    }

    /// Includes a server with an unexpected response.
    fn may_be_unsealed(&self) -> bool {
        match &self.status {
            Ok(status) => !status.sealed,
            Err(failure) => failure.http_status().is_some(),
        }
    }
}

impl Facts {
    /// Facts from a configuration alone.
    #[must_use]
    pub fn new(command: &'static str, loaded: Result<Loaded, LoadError>) -> Self {
        Self {
            command,
            options: String::new(),
            loaded,
            node: None,
            encryption: None,
            stored: None,
            credential: None,
            connection: None,
            server: None,
            presented: Vec::new(),
            passed_over: Vec::new(),
            leader: None,
            login: None,
            standing_in: None,
            fallback: None,
            login_mount: None,
            token_uses: None,
            token_cidrs: Vec::new(),
            granted: None,
            metadata: None,
            profile: None,
            upsert_disabled: None,
            probe: None,
            active_probe: None,
            record: None,
            etcd: Vec::new(),
            service: None,
            trip: None,
        }
    }

    /// The configuration, if this build supports its login method.
    #[must_use]
    pub fn config(&self) -> Option<&Config> {
        let config = &self.loaded.as_ref().ok()?.config;
        config.auth.supported().is_ok().then_some(config)
    }

    /// Path of the configuration file.
    #[must_use]
    pub fn config_path(&self) -> &Path {
        match &self.loaded {
            Ok(loaded) => &loaded.path,
            Err(
                LoadError::Unreadable { path, .. }
                | LoadError::Malformed { path, .. }
                | LoadError::Invalid { path, .. },
            ) => path,
        }
    }

    /// The cause of a failed login.
    #[must_use]
    pub fn of_login(&self, failure: &AuthFailure) -> &'static Cause {
        let cause = openbao::of_login(failure);
        match self.login_mount {
            Some(mount) if cause == &openbao::LOGIN_DENIED => match mount {
                LoginMount::Here => &openbao::LOGIN_ADDRESS_EXCLUDED,
                LoginMount::InRoot => &openbao::LOGIN_MOUNT_ELSEWHERE,
                LoginMount::Missing => &openbao::LOGIN_MOUNT_MISSING,
            },
            _ => cause,
        }
    }

    /// The cause of a failed call with the token.
    #[must_use]
    pub fn of_call(&self, failure: &CallFailure) -> &'static Cause {
        let cause = openbao::of_call(failure);
        if self.token_uses.is_some() && cause == &openbao::LOGIN_REFUSED {
            return &openbao::TOKEN_USES_LIMITED;
        }
        // A first installation has neither the mount nor the key.
        match self.is_unused() && [&key::LOST, &openbao::MOUNT_MISSING].contains(&cause) {
            true => &key::ABSENT,
            false => cause,
        }
    }

    /// Whether this node has neither a state nor a record, and its provider does not serve.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        let served = self
            .node
            .as_ref()
            .is_some_and(|node| node.served().is_some());
        let absent = |stored: &Stored| stored.anchor == CheckpointStatus::Absent;
        let stored = self.stored.as_ref().and_then(|stored| stored.as_ref().ok());
        stored.is_some_and(absent) && self.record.is_none() && !served
    }

    /// The advice for this installation.
    #[must_use]
    pub fn advise(&self, cause: &Cause, values: Values<'_>) -> Advice {
        let site = Site::new(self.config_path(), self.config());
        let command = format!("{}{}", self.command, self.options);
        cause.advise(&site, &[values, &[("command", &*command)]].concat())
    }

    /// The key, if its use is permitted.
    #[must_use]
    pub fn usable_key(&self) -> Option<&KeyProfile> {
        self.profile.as_ref()?.as_ref().ok()
    }

    /// The state, if it exists and is valid.
    #[must_use]
    pub fn registry(&self) -> Option<&Registry> {
        let stored = self.stored.as_ref()?.as_ref().ok()?;
        stored
            .document
            .as_ref()
            .map(|document| &**document.registry())
    }

    /// Reads the credential as a login would.
    ///
    /// # Errors
    /// The client could not be created.
    pub async fn read_credential(&mut self, config: &Config) -> Result<(), ConnectionError> {
        let client = Client::new(connection::endpoint(config)?, Arc::new(|_| {}))?;
        let login = connection::login(config, client, Process::Command)?;
        self.credential = Some(login.check(SystemClock.now()).await.map(drop));
        Ok(())
    }

    /// Requests the unauthenticated status from the configured addresses in order, up to the first
    /// unsealed server that knows the active one. Without one, an unsealed server or the first
    /// address is evaluated. Returns the endpoint for further requests.
    ///
    /// # Errors
    /// The client could not be created.
    pub async fn ask_server(&mut self, config: &Config) -> Result<Endpoint, ConnectionError> {
        let deadline = config.openbao.timeout;
        let first = connection::endpoint(config)?;
        let further = config.openbao.failover.iter().map(|place| Endpoint {
            address: place.address.clone(),
            server_name: place.server_name.clone(),
            ..first.clone()
        });
        let several = !config.openbao.failover.is_empty();

        let (mut asked, mut unsealed) = (Vec::new(), None);
        for endpoint in [first.clone()].into_iter().chain(further) {
            let mut answered = Answered::by(&endpoint, deadline).await?;
            if several && answered.is_unsealed() {
                let leader = ask_leader(endpoint.clone(), deadline).await?;
                answered.has_leader = !matches!(leader, Ok(Leader::Nobody));
            }
            if answered.is_unsealed() && answered.has_leader {
                self.passed_over = asked;
                self.server = Some(answered);
                return Ok(endpoint);
            }
            if answered.is_unsealed() && unsealed.is_none() {
                unsealed = Some((endpoint, asked.len()));
            }
            asked.push(answered);
        }

        let (endpoint, place) = unsealed.unwrap_or((first, 0));
        let server = asked.into_iter().nth(place);
        let failure = server.as_ref().and_then(|it| it.status.as_ref().err());
        if failure.map(Failure::class) == Some(FailureClass::TlsFailed) {
            self.presented = presented(&endpoint, deadline).await;
        }
        self.server = server;
        Ok(endpoint)
    }

    /// Asks the server whether it is the active node of its cluster.
    ///
    /// # Errors
    /// The client could not be created.
    pub async fn ask_leader(
        &mut self,
        endpoint: Endpoint,
        deadline: Duration,
    ) -> Result<(), ConnectionError> {
        self.leader = Some(ask_leader(endpoint, deadline).await?);
        Ok(())
    }

    /// Logs in by the standby identity, if there is one.
    pub async fn try_fallback(&mut self, config: &Config, client: &Client) {
        if let Some(login) = connection::fallback_login(config, client.clone()) {
            self.fallback = log_in(login, config).await;
        }
    }

    /// Logs in, then reads capabilities, key and mount.
    pub async fn ask_openbao(&mut self, config: &Config, openbao: &Connection) {
        let Connection {
            client,
            session,
            transit,
            ..
        } = openbao;
        let token = match session.token().await {
            Ok(token) => token,
            Err(failure) => {
                let refusal = failure.openbao().and_then(Failure::refusal);
                if refusal == Some(LoginRefusal::MountOrAddress) {
                    self.login_mount = find_login(config, client).await;
                }
                self.login = Some(Err(failure));
                return;
            }
        };
        self.login = Some(Ok(()));
        if session.status().identity == Identity::Fallback {
            self.standing_in = log_in(connection::configured_login(config, client.clone()), config)
                .await
                .and_then(Result::err);
        }
        self.token_uses = session.status().token_uses;
        let cidrs = bound_cidrs(client, &token, config.openbao.timeout).await;
        self.token_cidrs = cidrs.unwrap_or_default();

        self.granted = Some(capabilities::ask(openbao, config).await);
        let metadata = openbao.key_metadata().await;
        let judge = |metadata| KeyProfile::check(metadata, &config.key.key_name);
        self.profile = metadata.as_ref().ok().map(judge);
        self.metadata = Some(metadata);

        let upsert_disabled = session
            .call(async |token| transit.upsert_disabled(&token).await)
            .await;
        self.upsert_disabled = Some(upsert_disabled);
    }

    /// Encrypts and decrypts random bytes with the newest and with the active version.
    pub async fn try_key(&mut self, openbao: &Connection) {
        let Some(profile) = self.usable_key() else {
            return;
        };
        let newest = profile.latest();
        let active = self.registry().map(|registry| registry.active().version());

        let aad = AssociatedData::doctor_probe();
        let try_version = async |version| {
            let done = round_trip(&openbao.session, &openbao.transit, version, &aad).await;
            done.map(|_| version)
        };
        self.probe = Some(try_version(newest).await);
        self.active_probe = match active {
            Some(active) => Some(try_version(active).await),
            None => None,
        };
    }

    /// Gathers all facts about credential, server and key. Each step requires the success of the previous
    /// one.
    ///
    /// # Errors
    /// The client could not be created.
    pub async fn ask_all(&mut self, config: &Config) -> Result<(), ConnectionError> {
        self.read_credential(config).await?;
        let endpoint = self.ask_server(config).await?;
        let unsealed = self.server.as_ref().is_some_and(Answered::may_be_unsealed);
        let usable = matches!(self.credential, Some(Ok(()))) || config.auth.fallback.is_some();
        if unsealed && usable {
            let openbao = Connection::new(config, endpoint)?;
            self.try_fallback(config, &openbao.client).await;
            self.ask_openbao(config, &openbao).await;
            self.try_key(&openbao).await;
        }
        Ok(())
    }
}

async fn ask_leader(
    endpoint: Endpoint,
    deadline: Duration,
) -> Result<Result<Leader, Failure>, ConnectionError> {
    // The API exists in the root namespace only.
    let endpoint = Endpoint {
        namespace: None,
        ..endpoint
    };
    let client = Client::new(endpoint, Arc::new(|_| {}))?;
    Ok(leader(&client, deadline).await)
}

/// A login whose token is not used. `None` where the build or the process excludes it.
async fn log_in(
    login: Result<Arc<dyn Login>, ConnectionError>,
    config: &Config,
) -> Option<Result<(), LoginFailure>> {
    let (now, deadline) = (SystemClock.now(), config.auth.login_timeout);
    Some(login.ok()?.log_in(now, deadline).await.map(drop))
}

/// Looks for the login method by logins without a credential. `None` if that is impossible.
async fn find_login(config: &Config, client: &Client) -> Option<LoginMount> {
    let (path, deadline) = (config.auth.login_path()?, config.openbao.timeout);
    if is_mounted(client, &path, deadline).await {
        return Some(LoginMount::Here);
    }
    let mut endpoint = connection::endpoint(config).ok()?;
    if endpoint.namespace.take().is_some() {
        let root = Client::new(endpoint, Arc::new(|_| {})).ok()?;
        if is_mounted(&root, &path, deadline).await {
            return Some(LoginMount::InRoot);
        }
    }
    Some(LoginMount::Missing)
}
