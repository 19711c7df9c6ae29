//! Faults of a SPIFFE agent, over a real socket.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kms_domain::scope::{KeyName, MountPath};
use openbao_client::{
    client::Client,
    login::{
        Login as _, LoginFailure,
        jwt::{ClaimRules, JwtRole},
        spiffe::{
            SpiffeLogin,
            generated::{
                Jwtsvid, JwtsvidRequest, JwtsvidResponse,
                spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
            },
        },
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::fake::{FakeOpenBao, Reply};
use tokio::{io::AsyncWriteExt as _, net::UnixListener, task::JoinHandle};
use tonic::{Code, Request, Response, Status, codegen::Service as _};

const LONG: Duration = Duration::from_secs(20);
const ID: &str = "spiffe://harbor.test/kms";

/// An answer of the agent: SVIDs as pairs of ID and token, or an error.
type Answer = Result<Vec<(&'static str, String)>, Code>;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000)
}

/// An agent that gives its answers in turn, and after them none.
#[derive(Clone, Default)]
struct Agent {
    script: Arc<Mutex<Vec<Answer>>>,
    seen: Arc<Mutex<Vec<JwtsvidRequest>>>,
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Agent {
    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let header = request.metadata().get("workload.spiffe.io");
        assert_eq!(header.unwrap(), "true");
        self.seen.lock().unwrap().push(request.into_inner());
        let next = {
            let mut script = self.script.lock().unwrap();
            (!script.is_empty()).then(|| script.remove(0))
        };
        let svids = match next {
            None => std::future::pending().await,
            Some(answer) => answer.map_err(|code| Status::new(code, "MARKER"))?,
        };
        let svid = |(spiffe_id, svid): (&str, String)| Jwtsvid {
            spiffe_id: spiffe_id.to_owned(),
            svid,
        };
        let svids = svids.into_iter().map(svid).collect();
        Ok(Response::new(JwtsvidResponse { svids }))
    }
}

/// An agent and an OpenBao.
struct Place {
    agent: Agent,
    openbao: FakeOpenBao,
    directory: TempDir,
    listening: Option<JoinHandle<()>>,
}

impl Place {
    /// Without a process behind the socket.
    async fn empty() -> Self {
        Self {
            agent: Agent::default(),
            openbao: FakeOpenBao::start([]).await,
            directory: TempDir::new().unwrap(),
            listening: None,
        }
    }

    async fn new() -> Self {
        let mut place = Self::empty().await;
        let (listener, agent) = (place.listener(), place.agent.clone());
        place.listening = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = SpiffeWorkloadApiServer::new(agent.clone());
                let service = service_fn(move |request| api.clone().call(request));
                let builder = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        }));
        place
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn listener(&self) -> UnixListener {
        UnixListener::bind(self.socket()).unwrap()
    }

    fn then(&self, answers: impl IntoIterator<Item = Answer>) {
        self.agent.script.lock().unwrap().extend(answers);
    }

    fn login(&self) -> SpiffeLogin {
        let role = JwtRole {
            client: Client::new(self.openbao.endpoint(), Arc::new(|_| {})).unwrap(),
            mount_path: MountPath::parse("auth/jwt").unwrap(),
            role: KeyName::parse("kms").unwrap(),
        };
        let rules = ClaimRules {
            expected_issuer: None,
            expected_audience: vec!["openbao".to_owned()],
            expected_subject: Some(ID.to_owned()),
            clock_skew_leeway: Duration::from_secs(30),
            min_remaining: Duration::from_secs(120),
        };
        SpiffeLogin::new(role, self.socket(), rules)
    }

    /// Outcome and code of a login that must fail before OpenBao is asked.
    async fn refused(&self, deadline: Duration) -> (&'static str, &'static str) {
        let failure = self.login().log_in(now(), deadline).await.err().unwrap();
        let said = format!("{failure} {failure:?}");
        assert!(!said.contains("MARKER"), "{said}");
        assert!(matches!(failure, LoginFailure::Spiffe(_)), "{said}");
        assert_eq!(self.openbao.seen().len(), 0);
        (failure.outcome().label(), failure.detail())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

fn claims() -> Value {
    json!({"sub": ID, "aud": ["openbao"], "exp": 2_000, "iat": 900})
}

fn svid(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.MARKER", part(&json!({"alg": "ES256"})), part(claims))
}

#[tokio::test]
async fn an_svid_of_the_configured_identity_buys_a_token() {
    let place = Place::new().await;
    let granted = json!({"auth": {"client_token": "s.token", "lease_duration": 60}});
    place.openbao.then([Reply::ok(&granted)]);
    let several = || {
        Ok(vec![
            ("spiffe://harbor.test/other", "other".to_owned()),
            (ID, svid(&claims())),
        ])
    };
    place.then([several(), several()]);

    let login = place.login();
    assert_eq!(login.check(now()).await.unwrap(), None);
    let grant = login.log_in(now(), LONG).await.ok().unwrap();
    assert_eq!(grant.token.expose(), "s.token");
    let expiry = UNIX_EPOCH + Duration::from_secs(2_000);
    assert_eq!(grant.credential_expires, Some(expiry));
    let sent: Value = serde_json::from_str(&place.openbao.seen()[0].body).unwrap();
    assert_eq!(sent, json!({"role": "kms", "jwt": svid(&claims())}));
    for request in place.agent.seen.lock().unwrap().iter() {
        assert_eq!(request.audience, ["openbao"]);
        assert_eq!(request.spiffe_id, ID);
    }
}

#[tokio::test]
async fn each_fault_of_an_agent_has_its_own_code() {
    let with = |member: &str, value: Value| {
        let mut claims = claims();
        claims[member] = value;
        vec![Ok(vec![(ID, svid(&claims))])]
    };
    let other = || Ok(vec![("spiffe://harbor.test/other", svid(&claims()))]);
    let denied = || Err(Code::PermissionDenied);
    let large = "x".repeat(1 << 20);
    let place = Place::new().await;
    for (answers, outcome, code) in [
        (vec![denied(), denied()], "spiffe_rejected", "no_identity"),
        (vec![denied(), other()], "spiffe_rejected", "other_identity"),
        (vec![other()], "spiffe_rejected", "other_identity"),
        (
            vec![Err(Code::InvalidArgument)],
            "spiffe_rejected",
            "request_refused",
        ),
        (
            vec![Err(Code::Unavailable)],
            "spiffe_unavailable",
            "agent_unavailable",
        ),
        (
            vec![Err(Code::Internal)],
            "spiffe_unavailable",
            "agent_unavailable",
        ),
        (
            vec![Err(Code::Unimplemented)],
            "spiffe_response",
            "no_workload_api",
        ),
        (vec![Ok(Vec::new())], "spiffe_response", "no_svid"),
        (vec![Ok(vec![(ID, large)])], "spiffe_response", "too_large"),
        (
            vec![Ok(vec![(ID, "MARKER".to_owned())])],
            "jwt_invalid",
            "not_three_parts",
        ),
        (with("exp", json!(900)), "jwt_expired", "expired"),
        (with("exp", json!(1_100)), "jwt_near_expiry", "near_expiry"),
        (with("exp", json!(null)), "jwt_invalid", "no_expiry"),
        (with("aud", json!(["MARKER"])), "jwt_invalid", "audience"),
        (with("sub", json!("MARKER")), "jwt_invalid", "subject"),
    ] {
        place.then(answers);
        assert_eq!(place.refused(LONG).await, (outcome, code));
        assert_eq!(place.agent.script.lock().unwrap().len(), 0, "{code}");
    }
}

#[tokio::test]
async fn a_socket_without_an_agent_is_named() {
    let place = Place::empty().await;
    let refused = async || place.refused(LONG).await;
    assert_eq!(refused().await, ("spiffe_request", "socket_missing"));

    drop(place.listener());
    assert_eq!(refused().await, ("spiffe_request", "socket_refused"));

    // Root passes every directory.
    let mode = |mode| {
        fs::set_permissions(place.directory.path(), Permissions::from_mode(mode)).unwrap();
    };
    mode(0o000);
    let expected = match fs::read_dir(place.directory.path()) {
        Ok(_) => "socket_refused",
        Err(_) => "socket_denied",
    };
    let denied = refused().await;
    mode(0o700);
    assert_eq!(denied, ("spiffe_request", expected));
}

#[tokio::test]
async fn a_peer_of_another_protocol_is_no_agent() {
    let place = Place::empty().await;
    let listener = place.listener();
    let web = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 6\r\n\r\nMARKER";
            stream.write_all(answer).await.unwrap();
        }
    });
    let refused = place.refused(LONG).await;
    assert_eq!(refused, ("spiffe_response", "broken_answer"));
    web.abort();
}

#[tokio::test]
async fn a_hanging_agent_is_named_before_the_login_times_out() {
    // One agent accepts and is silent; the other receives the request.
    let silent = Place::empty().await;
    let _listener = silent.listener();
    for place in [silent, Place::new().await] {
        let deadline = Duration::from_millis(500);
        let caller = deadline * 19 / 20;
        let refused = tokio::time::timeout(caller, place.refused(deadline)).await;
        assert_eq!(refused.unwrap(), ("spiffe_request", "timeout"));
    }
}
