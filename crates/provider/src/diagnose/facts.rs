//! What a command has found out before anything is judged. A fact that was not gathered is `None`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use kms_domain::{
    aad::AssociatedData,
    recovery::record::BackupRecord,
    registry::Registry,
    transit::{KeyMetadata, KeyProfile, ProfileRefused, TransitVersion},
};
use openbao_client::{
    client::Client,
    endpoint::{Address, Endpoint},
    failure::Failure,
    leader::{Leader, leader},
    login::{LoginFailure, jwt_file::JwtSource},
    seal_status::{SealStatus, seal_status},
};

use super::{
    capabilities::{self, Granted},
    node::Node,
};
use crate::{
    auth::{AuthFailure, CallFailure},
    clock::{Clock as _, SystemClock},
    config::{Config, LoadError, Loaded},
    connection::{self, Connection, ConnectionError},
    probe::{ProbeError, RoundTrip},
    recovery::{EtcdError, verify_pair::Pair},
    report::Check,
    state::{StateError, Stored},
    watcher::deep::{DeepError, round_trip},
};

/// Everything that questions may judge.
pub struct Facts {
    /// The configuration, or why there is none.
    pub loaded: Result<Loaded, LoadError>,
    /// Of the machine, the process and the running provider.
    pub node: Option<Node>,
    /// What was found in kube-apiserver's `EncryptionConfiguration`, if that was asked for.
    pub encryption: Option<Vec<Check>>,
    /// The registry state of this node.
    pub stored: Option<Result<Stored, StateError>>,
    /// Whether the JWT can be expected to log in.
    pub jwt: Option<Result<(), LoginFailure>>,
    /// Whether there was anything to ask with.
    pub connection: Option<Result<(), ConnectionError>>,
    /// What the server told without a token.
    pub server: Option<Answered>,
    /// Addresses that come before it and do not serve.
    pub passed_over: Vec<Answered>,
    /// The part of the server in its cluster.
    pub leader: Option<Result<Leader, Failure>>,
    /// The login.
    pub login: Option<Result<(), AuthFailure>>,
    /// What the token may do.
    pub granted: Option<Result<Granted, CallFailure>>,
    /// What Transit tells about the key.
    pub metadata: Option<Result<KeyMetadata, CallFailure>>,
    /// The judgement of it.
    pub profile: Option<Result<KeyProfile, ProfileRefused>>,
    /// Whether the mount refuses to make missing keys.
    pub upsert_disabled: Option<Result<bool, CallFailure>>,
    /// A round trip with the newest version.
    pub probe: Option<Result<TransitVersion, DeepError>>,
    /// A round trip with the version that this node encrypts with.
    pub active_probe: Option<Result<TransitVersion, DeepError>>,
    /// What a backup record tells of the key.
    pub record: Option<BackupRecord>,
    /// What became of each source of etcd data.
    pub etcd: Vec<Evidence>,
    /// A round trip through the socket of the running provider.
    pub trip: Option<Result<RoundTrip, ProbeError>>,
}

/// One source of etcd data beside the key.
pub struct Evidence {
    /// The file or the servers.
    pub source: String,
    /// What was found, or why the source gave no answer.
    pub pair: Result<Pair, EtcdError>,
}

/// The answer of a server, and the local clock around it.
pub struct Answered {
    /// The server that was asked.
    pub address: Address,
    /// What it said.
    pub status: Result<SealStatus, Failure>,
    /// Just before the question.
    pub before: SystemTime,
    /// Just after the answer.
    pub after: SystemTime,
}

impl Answered {
    async fn by(endpoint: &Endpoint, deadline: Duration) -> Result<Self, ConnectionError> {
        // Namespaces do not know the question.
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
        })
    }

    fn is_unsealed(&self) -> bool {
        let status = self.status.as_ref();
        status.is_ok_and(|status| status.initialized && !status.sealed)
    }

    /// Also a server that answers without telling.
    fn may_be_unsealed(&self) -> bool {
        match &self.status {
            Ok(status) => !status.sealed,
            Err(failure) => failure.http_status().is_some(),
        }
    }
}

impl Facts {
    /// What there is to know about a configuration alone.
    #[must_use]
    pub fn new(loaded: Result<Loaded, LoadError>) -> Self {
        Self {
            loaded,
            node: None,
            encryption: None,
            stored: None,
            jwt: None,
            connection: None,
            server: None,
            passed_over: Vec::new(),
            leader: None,
            login: None,
            granted: None,
            metadata: None,
            profile: None,
            upsert_disabled: None,
            probe: None,
            active_probe: None,
            record: None,
            etcd: Vec::new(),
            trip: None,
        }
    }

    /// A configuration that this build can work with.
    #[must_use]
    pub fn config(&self) -> Option<&Config> {
        let config = &self.loaded.as_ref().ok()?.config;
        config.auth.jwt_file().is_ok().then_some(config)
    }

    /// The key, if it may be used.
    #[must_use]
    pub fn usable_key(&self) -> Option<&KeyProfile> {
        self.profile.as_ref()?.as_ref().ok()
    }

    /// The state, if it may be believed and there is one.
    #[must_use]
    pub fn registry(&self) -> Option<&Registry> {
        let stored = self.stored.as_ref()?.as_ref().ok()?;
        stored
            .document
            .as_ref()
            .map(|document| &**document.registry())
    }

    /// Reads the JWT as a login would.
    pub async fn read_jwt(&mut self, config: &Config) {
        if let Ok((jwt, file)) = config.auth.jwt_file() {
            let source = JwtSource::new(file.to_owned(), jwt.claims.clone());
            self.jwt = Some(source.read(SystemClock.now()).await.map(drop));
        }
    }

    /// Asks the configured addresses, one after the other, what they tell everybody, up to the first
    /// server that is unsealed. Without one it is the first address that is judged. Returns the
    /// endpoint to ask further.
    ///
    /// # Errors
    /// When no client can be made.
    pub async fn ask_server(&mut self, config: &Config) -> Result<Endpoint, ConnectionError> {
        let first = connection::endpoint(config)?;
        let further = config.openbao.failover.iter().map(|place| Endpoint {
            address: place.address.clone(),
            server_name: place.server_name.clone(),
            ..first.clone()
        });
        let mut asked = Vec::new();
        for endpoint in [first.clone()].into_iter().chain(further) {
            let answered = Answered::by(&endpoint, config.openbao.timeout).await?;
            if answered.is_unsealed() {
                self.passed_over = asked;
                self.server = Some(answered);
                return Ok(endpoint);
            }
            asked.push(answered);
        }
        asked.truncate(1);
        self.server = asked.pop();
        Ok(first)
    }

    /// Asks the server whether it is the active one of its cluster.
    ///
    /// # Errors
    /// When no client can be made.
    pub async fn ask_leader(
        &mut self,
        endpoint: Endpoint,
        deadline: Duration,
    ) -> Result<(), ConnectionError> {
        // As above.
        let endpoint = Endpoint {
            namespace: None,
            ..endpoint
        };
        let client = Client::new(endpoint, Arc::new(|_| {}))?;
        self.leader = Some(leader(&client, deadline).await);
        Ok(())
    }

    /// Logs in and asks about policy, key and mount.
    pub async fn ask_openbao(&mut self, config: &Config, openbao: &Connection) {
        let Connection {
            session, transit, ..
        } = openbao;
        let login = session.token().await.map(drop);
        let logged_in = login.is_ok();
        self.login = Some(login);
        if !logged_in {
            return;
        }
        self.granted = Some(capabilities::ask(openbao, &config.key).await);
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

    /// Everything that a JWT, the server and the key tell, as far as each step lets the next be
    /// asked.
    ///
    /// # Errors
    /// When there is nothing to ask with.
    pub async fn ask_all(&mut self, config: &Config) -> Result<(), ConnectionError> {
        self.read_jwt(config).await;
        let endpoint = self.ask_server(config).await?;
        let unsealed = self.server.as_ref().is_some_and(Answered::may_be_unsealed);
        if unsealed && matches!(self.jwt, Some(Ok(()))) {
            let openbao = Connection::new(config, endpoint)?;
            self.ask_openbao(config, &openbao).await;
            self.try_key(&openbao).await;
        }
        Ok(())
    }
}
