//! A day of the daemon on a paused clock, beside a scripted OpenBao on the same thread.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kms_daemon::serve::serve;
use kms_domain::registry::document::Document;
use kms_node::{
    clock::{Clock as _, SystemClock},
    config::{self, Config, Flags},
    environment::Environment,
    kms_api::generated::{
        DecryptRequest, EncryptRequest, StatusRequest,
        key_management_service_client::KeyManagementServiceClient,
    },
    state::MissingCheckpoint,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    fake::{FakeOpenBao, Reply, SERVER_NAME, Seen},
    files::{self, SocketDir},
};
use tokio::{
    runtime::Handle,
    task::{spawn_blocking, yield_now},
    time::advance,
};
use tonic::transport::{Channel, Endpoint};

/// Less than every timeout of the daemon.
const STEP: Duration = Duration::from_secs(4);
const STEPS_OF_AN_HOUR: u32 = 900;
/// Turns of all tasks in which a request reaches the scripted OpenBao on an open connection, or its
/// answer the daemon.
const TURNS: usize = 40;
const PROBE: u64 = 30;
const DEEP_PROBE: u64 = 300;
const LEASE: u64 = 3600;

/// The key and the requests of a day.
#[derive(Default)]
struct Script {
    latest: AtomicU64,
    requests: Mutex<BTreeMap<&'static str, u64>>,
}

impl Script {
    fn answer(&self, seen: &Seen) -> Reply {
        let body: Value = serde_json::from_str(&seen.body).unwrap_or_default();
        let path = seen.target.as_str();
        let (name, data) = if path.ends_with("/login") || path.ends_with("/renew-self") {
            let name = ["login", "renewal"][usize::from(path.ends_with("/renew-self"))];
            let auth = json!({"client_token": "s.day", "lease_duration": LEASE, "renewable": true});
            (name, json!({ "auth": auth }))
        } else if path.contains("/encrypt/") {
            let plaintext = body["plaintext"].as_str().unwrap();
            let version = &body["key_version"];
            let ciphertext = format!("vault:v{version}:{plaintext}");
            let data = json!({"ciphertext": ciphertext, "key_version": version});
            ("encrypt", json!({ "data": data }))
        } else if path.contains("/decrypt/") {
            let plaintext = |item: &Value| {
                let ciphertext = item["ciphertext"].as_str().unwrap();
                json!({"plaintext": ciphertext.rsplit(':').next().unwrap()})
            };
            let data = match body["batch_input"].as_array() {
                None => plaintext(&body),
                Some(items) => {
                    json!({"batch_results": items.iter().map(plaintext).collect::<Vec<_>>()})
                }
            };
            ("decrypt", json!({ "data": data }))
        } else if path.ends_with("/config/keys") {
            ("settings", json!({"data": {"disable_upsert": true}}))
        } else if path.contains("/keys/") {
            ("metadata", json!({ "data": self.metadata() }))
        } else if path.contains("sys/health") {
            let health = json!({
                "initialized": true, "sealed": false, "standby": false, "cluster_id": "day",
                "version": "2.7.2",
            });
            ("health", health)
        } else {
            ("other", Value::Null)
        };
        *self.requests.lock().unwrap().entry(name).or_default() += 1;
        match data {
            Value::Null => Reply::Json(404, json!({"errors": []}).to_string()),
            data => Reply::ok(data),
        }
    }

    fn metadata(&self) -> Value {
        let latest = self.latest.load(Relaxed);
        let keys: BTreeMap<String, u64> = (1..=latest)
            .map(|version| (version.to_string(), 1_700_000_000 + version))
            .collect();
        json!({
            "name": "etcd", "type": "aes256-gcm96", "latest_version": latest,
            "min_decryption_version": 1, "min_encryption_version": 0, "min_available_version": 0,
            "deletion_allowed": false, "exportable": false, "allow_plaintext_backup": false,
            "derived": false, "supports_encryption": true, "supports_decryption": true,
            "keys": keys,
        })
    }

    fn total(&self) -> u64 {
        self.requests.lock().unwrap().values().sum()
    }

    fn requests(&self, name: &str) -> u64 {
        let requests = self.requests.lock().unwrap();
        requests.get(name).copied().unwrap_or_default()
    }
}

fn configuration(directory: &Path, sockets: &SocketDir, openbao: &FakeOpenBao) -> Config {
    let file = |name: &str| directory.join(name);
    files::replace(&file("ca.pem"), openbao.ca_pem().as_bytes(), 0o644);
    files::directory(&file("state"), 0o750);
    // Only its claims are read, by the clock of the machine, which stays where it is.
    let now = SystemClock.unix_seconds();
    let claims =
        json!({"iss": "day", "sub": "day", "aud": ["day"], "iat": now, "exp": now + LEASE});
    let part = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let jwt = [
        part(json!({"alg": "ES256"})),
        part(claims),
        "c2lnbmVk".to_owned(),
    ]
    .join(".");
    files::replace(&file("jwt"), jwt.as_bytes(), 0o640);
    let text = json!({
        "configVersion": "v1alpha1",
        "server": {
            "socketPath": sockets.socket(),
            "socketMode": "0660",
            "socketGroup": fs::metadata(sockets.path()).unwrap().gid().to_string(),
            "metricsAddress": "127.0.0.1:0",
            "healthAddress": "127.0.0.1:0",
        },
        "openbao": {
            "address": openbao.endpoint().address.to_string(),
            "caCertFile": file("ca.pem"),
            "tlsServerName": SERVER_NAME,
            "timeout": "10s",
            "instanceId": "day",
        },
        "auth": {
            "method": "jwt",
            "jwt": {
                "source": "file",
                "mountPath": "auth/jwt",
                "role": "node",
                "jwtFile": file("jwt"),
                "expectedIssuer": "day",
                "expectedAudience": ["day"],
                "expectedSubject": "day",
            },
        },
        "transit": {
            "mountPath": "transit",
            "keyName": "etcd",
            "keyIdScope": {
                "providerName": "day",
                "clusterId": "day",
                "transitMountId": "transit",
                "keyLineageId": "00112233445566778899aabbccddeeff",
            },
        },
        "status": {
            "probeInterval": format!("{PROBE}s"),
            "deepProbeInterval": format!("{DEEP_PROBE}s"),
        },
        "state": {"path": file("state").join("key-registry.json")},
        "rotation": {"activationDelay": "5m"},
    });
    let (flags, environment) = (Flags::default(), Environment::default());
    let loaded = config::parse(&text.to_string(), file("config.yaml"), &flags, &environment);
    loaded.unwrap().config
}

/// Lets all tasks run until no request has arrived meanwhile. Work on the one blocking thread comes
/// before the empty work at its end.
async fn settle(script: &Script) {
    loop {
        let before = script.total();
        for _ in 0..TURNS {
            yield_now().await;
        }
        spawn_blocking(|| ()).await.unwrap();
        if script.total() == before {
            return;
        }
    }
}

async fn round_trip(client: &mut KeyManagementServiceClient<Channel>) {
    let request = EncryptRequest {
        plaintext: STANDARD.encode([7; 24]).into(),
        uid: "day".to_owned(),
    };
    let encrypted = client.encrypt(request.clone()).await.unwrap().into_inner();
    let decrypt = DecryptRequest {
        ciphertext: encrypted.ciphertext,
        uid: "day".to_owned(),
        key_id: encrypted.key_id,
        annotations: encrypted.annotations,
    };
    let decrypted = client.decrypt(decrypt).await.unwrap().into_inner();
    assert_eq!(decrypted.plaintext, request.plaintext);
}

/// Lets some hours pass, with two rotations of the key if there are enough.
async fn hours(hours: u32, script: &Script, client: &mut KeyManagementServiceClient<Channel>) {
    for hour in 1..=hours {
        if hour == hours / 3 || hour == hours * 2 / 3 {
            script.latest.fetch_add(1, Relaxed);
        }
        for step in 0..STEPS_OF_AN_HOUR {
            advance(STEP).await;
            settle(script).await;
            // As often as kube-apiserver.
            if step % 5 == 0 {
                let status = client.status(StatusRequest {}).await.unwrap().into_inner();
                assert_eq!(status.healthz, "ok");
            }
        }
        round_trip(client).await;
    }
}

mod long {
    use super::*;

    /// Every wait ends at its time, so a day takes seconds; nothing of it may pile up.
    #[test]
    #[ignore = "long: half a minute of computing"]
    fn a_day_costs_its_probes_and_renewals_and_leaves_nothing_behind() {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .max_blocking_threads(1)
            // Looks for network events in each turn.
            .event_interval(2)
            .build()
            .unwrap();
        runtime.block_on(async {
            // A clock that is paused moves by itself once all tasks wait, also for the network.
            let spinning = tokio::spawn(async {
                loop {
                    yield_now().await;
                }
            });
            let script = Arc::new(Script::default());
            script.latest.store(1, Relaxed);
            let answering = Arc::clone(&script);
            let openbao = FakeOpenBao::answering(move |seen| answering.answer(seen)).await;
            let (directory, sockets) = (TempDir::new().unwrap(), SocketDir::new());
            let config = configuration(directory.path(), &sockets, &openbao);

            let (ready, mut is_ready) = tokio::sync::oneshot::channel();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let ready = || ready.send(()).unwrap();
            let stopped = async { drop(stopped.await) };
            let serving = serve(&config, MissingCheckpoint::Refuse, None, ready, stopped);
            let day = async {
                while is_ready.try_recv().is_err() {
                    advance(Duration::from_millis(100)).await;
                    settle(&script).await;
                }
                let socket = format!("unix://{}", sockets.socket().display());
                let channel = Endpoint::from_shared(socket).unwrap().connect_lazy();
                let mut client = KeyManagementServiceClient::new(channel);
                hours(1, &script, &mut client).await;
                let tasks = Handle::current().metrics().num_alive_tasks();
                let requests = script.requests.lock().unwrap().clone();

                hours(24, &script, &mut client).await;
                assert!(Handle::current().metrics().num_alive_tasks() <= tasks);
                drop(stop);
                requests
            };
            let serving = async {
                let served = serving.await;
                assert!(served.is_ok(), "{served:?}, {:?}", script.requests);
            };
            let ((), before) = tokio::join!(serving, day);
            spinning.abort();

            let state = fs::read(directory.path().join("state/key-registry.json")).unwrap();
            let requests = script.requests.lock().unwrap().clone();
            println!(
                "{requests:?}, {} connections, state of {} bytes",
                openbao.connections(),
                state.len()
            );
            let of_a_day =
                |name: &str| script.requests(name) - before.get(name).copied().unwrap_or(0);
            let seconds: u64 = 24 * 3600;
            assert_eq!(of_a_day("login"), 0);
            assert_eq!(of_a_day("other"), 0);
            // A random pause keeps the probes of many nodes apart.
            for (name, due) in [
                ("metadata", seconds / PROBE),
                ("decrypt", seconds / DEEP_PROBE),
                ("encrypt", seconds / DEEP_PROBE),
                ("renewal", seconds / LEASE),
            ] {
                let made = of_a_day(name);
                assert!(
                    (due * 3 / 4..=due * 3 / 2 + 30).contains(&made),
                    "{name}: {made} of {due}"
                );
            }
            let document = Document::decode(&state).unwrap();
            assert_eq!(document.registry().records().len(), 3);
            assert!(state.len() < 3 * 1024);
        });
    }
}
