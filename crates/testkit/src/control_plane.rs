//! A real kube-apiserver with a real etcd, and a client for the objects that it encrypts.
//!
//! This one API server is the only writer to etcd: controllers and nodes are missing. The client
//! has administrator rights.

#![expect(clippy::unwrap_used, reason = "a failed set-up fails the test")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DynamicObject, ListParams, PostParams},
    client::Body,
    config::AuthInfo,
};
use openbao_lab::port::free_port;
use rcgen::KeyPair;
use rustix::process::geteuid;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    daemon::{Daemon, program},
    etcd::Etcd,
    files,
    fresh_root::FreshRoot,
    pki::Authority,
    wait::wait_until,
};

pub use controller_manager::ControllerManager;
pub use kind::Kind;
pub use load::{Load, Record, Running};

mod controller_manager;
mod kind;
mod load;

const INSTALL: &str = "cargo xtask tools --kubernetes";

/// The installed kubeadm.
///
/// # Panics
/// When it is missing. The message has the command to install it.
#[must_use]
pub fn kubeadm() -> PathBuf {
    program("KUBEADM", "kubernetes/kubeadm", INSTALL)
}

/// The installed kubectl.
///
/// # Panics
/// When it is missing. The message has the command to install it.
#[must_use]
pub fn kubectl() -> PathBuf {
    program("KUBECTL", "kubernetes/kubectl", INSTALL)
}

/// Limit for background work of the API server: it polls Status and its encryption configuration
/// once a minute, and several API servers share two processors.
pub const WITHIN: Duration = Duration::from_secs(180);

/// An etcd and its one API server, running or stopped. Drop kills both.
pub struct ControlPlane {
    // Dropped first, while its etcd and its log still exist.
    api_server: Option<Daemon>,
    etcd: Arc<Etcd>,
    /// Certificates, keys, the encryption configuration and the log.
    directory: TempDir,
    port: u16,
    /// Command line that runs the API server on another root; empty for this machine.
    entrance: Vec<String>,
    /// Program of another release; `None` for the installed one.
    program: Option<PathBuf>,
}

impl ControlPlane {
    /// Starts an empty etcd and writes the files for an API server.
    ///
    /// # Panics
    /// When etcd fails to start.
    pub async fn new() -> Self {
        Self::on(Etcd::start().await)
    }

    /// Writes the files for an API server of this etcd.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[must_use]
    pub fn on(etcd: Etcd) -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new(directory.path());
        authority.server("server");
        authority.client("admin", "system:masters");
        let service_accounts = KeyPair::generate().unwrap();

        for (name, pem) in [
            ("service-accounts.key", service_accounts.serialize_pem()),
            ("service-accounts.pub", service_accounts.public_key_pem()),
        ] {
            files::replace(&directory.path().join(name), pem.as_bytes(), 0o600);
        }
        Self {
            etcd: Arc::new(etcd),
            directory,
            port: free_port().unwrap(),
            api_server: None,
            entrance: Vec::new(),
            program: None,
        }
    }

    /// Another API server of this cluster, on a machine of this name, with the same etcd. It has no
    /// encryption configuration.
    ///
    /// # Panics
    /// When a file cannot be copied.
    #[must_use]
    pub fn beside(&self, host: &str) -> Self {
        let directory = TempDir::new().unwrap();
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let is_shared = path
                .extension()
                .is_some_and(|it| it != "yaml" && it != "log");
            if is_shared {
                fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let mut entrance = vec!["unshare", "--uts"];
        // Any user may name a machine of its own.
        entrance.extend((!geteuid().is_root()).then_some("--map-root-user"));
        let rename = r#"hostname "$0" && exec "$@""#;
        entrance.extend(["sh", "-c", rename, host]);
        Self {
            etcd: Arc::clone(&self.etcd),
            directory,
            port: free_port().unwrap(),
            api_server: None,
            entrance: entrance.into_iter().map(str::to_owned).collect(),
            program: self.program.clone(),
        }
    }

    /// Lets the API server run on this machine from its next start on.
    pub fn move_to(&mut self, machine: &FreshRoot) {
        self.entrance = machine.entrance();
    }

    /// Runs this kube-apiserver from the next start on.
    pub fn change_to(&mut self, program: PathBuf) {
        self.program = Some(program);
    }

    /// The etcd that stores the objects.
    #[must_use]
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The URL for clients.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Path of a file: `ca.crt`; `admin.crt` and `admin.key` of the administrator; or
    /// `kube-apiserver.log` of the running API server.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }

    /// Path of the `EncryptionConfiguration`, for other programs.
    #[must_use]
    pub fn encryption_file(&self) -> PathBuf {
        self.file("encryption.yaml")
    }

    /// The kubeconfig of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let file = |name: &str| self.file(name).display().to_string();
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "admin",
            "contexts": [{"name": "admin", "context": {"cluster": "test", "user": "admin"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": self.endpoint(),
                "certificate-authority": file("ca.crt"),
            }}],
            "users": [{"name": "admin", "user": {
                "client-certificate": file("admin.crt"),
                "client-key": file("admin.key"),
            }}],
        });
        config.to_string()
    }

    /// Writes an `EncryptionConfiguration` with these providers for every [`Kind`]; the first
    /// provider encrypts. It takes effect at the next start or reload.
    pub fn encrypt_with(&self, providers: &[Value]) {
        let resources = Kind::ALL.map(Kind::resource_name);
        let configuration = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": resources, "providers": providers}],
        });
        let text = format!("{configuration:#}");
        files::replace(&self.encryption_file(), text.as_bytes(), 0o600);
    }

    /// Links the socket of this node's provider, and returns the path of the link: the same for
    /// every API server, so that all can have one configuration.
    ///
    /// # Panics
    /// When there is a link already.
    #[must_use]
    pub fn link(&self, socket: &Path) -> PathBuf {
        symlink(socket, self.file("kms.sock")).unwrap();
        "/proc/self/cwd/kms.sock".into()
    }

    /// Starts the API server and returns at once. Uses the encryption configuration if it exists.
    ///
    /// # Panics
    /// When the kube-apiserver program is missing. The message has the command to install it.
    pub fn spawn(&mut self, options: &[&str]) {
        let path = |name: &str| self.file(name).display().to_string();
        let of_etcd = |name: &str| self.etcd.file(name).display().to_string();
        let mut arguments: Vec<String> = [
            ("etcd-servers", self.etcd.endpoint().to_owned()),
            ("etcd-cafile", of_etcd("ca.crt")),
            ("etcd-certfile", of_etcd("client.crt")),
            ("etcd-keyfile", of_etcd("client.key")),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", self.port.to_string()),
            ("tls-cert-file", path("server.crt")),
            ("tls-private-key-file", path("server.key")),
            ("client-ca-file", path("ca.crt")),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".to_owned(),
            ),
            ("service-account-key-file", path("service-accounts.pub")),
            (
                "service-account-signing-key-file",
                path("service-accounts.key"),
            ),
            ("service-cluster-ip-range", "10.0.0.0/24".to_owned()),
            ("authorization-mode", "RBAC".to_owned()),
            // The plugin requires a service account, but the controller that creates it is missing.
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
        ]
        .into_iter()
        .map(|(option, value)| format!("--{option}={value}"))
        .collect();

        if self.encryption_file().exists() {
            let file = path("encryption.yaml");
            arguments.push(format!("--encryption-provider-config={file}"));
        }
        arguments.extend(options.iter().map(|&option| option.to_owned()));

        let installed = || program("KUBE_APISERVER", "kubernetes/kube-apiserver", INSTALL);
        let api_server = self.program.clone().unwrap_or_else(installed);
        let log = self.file("kube-apiserver.log");
        let mut words = self.entrance.clone();
        let directory = format!("--chdir={}", path("."));
        words.extend(["env".to_owned(), directory]);
        words.push(api_server.display().to_string());
        words.extend(arguments);
        let (first, arguments) = words.split_first().unwrap();
        self.api_server = Some(Daemon::spawn(Path::new(first), arguments, &log));
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Panics
    /// When it ends before it is ready.
    pub async fn start(&mut self, options: &[&str]) {
        self.spawn(options);
        self.ready().await;
    }

    /// Waits until the API server and its encryption providers are ready.
    ///
    /// # Panics
    /// When it is stopped or ends before it is ready.
    pub async fn ready(&mut self) {
        let client = self.client();
        let api_server = self.api_server.as_mut().unwrap();
        api_server
            .ready(async || matches!(get(&client, "/readyz").await, Some((StatusCode::OK, _))))
            .await;
    }

    /// As [`Self::ready`], and starts an API server that has ended again, as a kubelet does.
    ///
    /// # Panics
    /// When it is not ready [`WITHIN`] the limit.
    pub async fn ready_after_restarts(&mut self) {
        let client = self.client();
        wait_until(WITHIN, "an API server", async || {
            if self.api_server.as_mut().is_none_or(Daemon::has_ended) {
                self.spawn(&[]);
            }
            matches!(get(&client, "/readyz").await, Some((StatusCode::OK, _)))
        })
        .await;
    }

    /// Stops the API server gracefully.
    ///
    /// # Panics
    /// When it fails to end.
    pub async fn stop(&mut self) {
        if let Some(api_server) = self.api_server.take() {
            api_server.stop().await;
        }
    }

    /// Kills the API server.
    pub fn kill(&mut self) {
        self.api_server = None;
    }

    /// Log of the running API server so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.api_server.as_ref().map_or(String::new(), Daemon::log)
    }

    /// Status and body of the response to a `GET`; `None` if the request fails.
    pub async fn get(&self, path: &str) -> Option<(StatusCode, String)> {
        get(&self.client(), path).await
    }

    /// Status and body of the response to a request with a JSON body; a `PATCH` is a merge patch.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        send(&self.client(), method, path, body).await
    }

    /// Creates objects with names from `name-0` on, several at a time, with one text.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn create_many(&self, kind: Kind, name: &str, count: usize, text: &str) {
        let mut tasks = JoinSet::new();
        let api = self.api(kind);
        for number in 0..count {
            if tasks.len() >= 16 {
                tasks.join_next().await.unwrap().unwrap();
            }
            let (api, object) = (api.clone(), kind.object(&format!("{name}-{number}"), text));
            tasks.spawn(async move {
                api.create(&PostParams::default(), &object).await.unwrap();
            });
        }
        tasks.join_all().await;
    }

    /// Sum of a metric over the series with all of `labels`.
    ///
    /// # Panics
    /// When the request fails.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, metrics) = self.get("/metrics").await.unwrap();
        metrics
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|series| series.starts_with(['{', ' ']))
            .filter(|series| labels.iter().all(|label| series.contains(label)))
            .map(|series| series.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Creates the object, or replaces its text.
    ///
    /// # Errors
    /// Errors of the API server.
    pub async fn write(&self, kind: Kind, name: &str, text: &str) -> Result<(), kube::Error> {
        let (api, parameters) = (self.api(kind), PostParams::default());
        let mut object = kind.object(name, text);
        match api.get_opt(name).await? {
            None => api.create(&parameters, &object).await?,
            Some(stored) => {
                object.metadata.resource_version = stored.resource_version();
                api.replace(name, &parameters, &object).await?
            }
        };
        Ok(())
    }

    /// The object's text; `None` if the object is missing.
    ///
    /// # Errors
    /// Errors of the API server.
    pub async fn read(&self, kind: Kind, name: &str) -> Result<Option<String>, kube::Error> {
        let object = self.api(kind).get_opt(name).await?;
        Ok(object.map(|object| kind.text(&object)))
    }

    /// Names of all objects of the kind. Requests them in chunks as `kubectl get` does: a list
    /// without a limit waits for the watch cache, which stays empty while an object is unreadable.
    ///
    /// # Errors
    /// Errors of the API server.
    ///
    /// # Panics
    /// When the list has more than one chunk.
    pub async fn names(&self, kind: Kind) -> Result<Vec<String>, kube::Error> {
        let chunk = ListParams::default().limit(500);
        let objects = self.api(kind).list(&chunk).await?;
        let more = objects.metadata.continue_.as_deref();
        assert_eq!(more.unwrap_or_default(), "");
        Ok(objects.iter().map(ResourceExt::name_any).collect())
    }

    /// Replaces every object of the kind with itself, including objects created by the API server.
    /// It has the effect of `kubectl get --all-namespaces ... -o json | kubectl replace -f -`:
    /// every object is stored again.
    ///
    /// # Errors
    /// Errors of the API server.
    pub async fn rewrite(&self, kind: Kind) -> Result<(), kube::Error> {
        let (client, resource) = (self.client(), kind.resource());
        let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        for object in everywhere.list(&ListParams::default()).await? {
            let namespace = object.namespace().unwrap_or_default();
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), &namespace, &resource);
            let name = object.name_any();
            api.replace(&name, &PostParams::default(), &object).await?;
        }
        Ok(())
    }

    /// The object's value in etcd.
    ///
    /// # Panics
    /// When etcd has no value for the object.
    #[must_use]
    pub fn stored(&self, kind: Kind, name: &str) -> Vec<u8> {
        self.etcd.get(&kind.etcd_key(name)).unwrap()
    }

    /// Defines the custom resource [`Kind::Custom`] in the API server.
    ///
    /// # Panics
    /// When the definition is rejected or stays unserved.
    pub async fn define_custom_resource(&self) {
        let definitions = Api::all_with(self.client(), &kind::definitions());
        let created = definitions
            .create(&PostParams::default(), &kind::definition())
            .await;
        created.unwrap();
        wait_until(WITHIN, "the custom resource", async || {
            self.names(Kind::Custom).await.is_ok()
        })
        .await;
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), kind::NAMESPACE, &kind.resource())
    }

    /// A client with the administrator's certificate and connections of its own.
    fn client(&self) -> Client {
        Client::try_from(self.client_config()).unwrap()
    }

    fn client_config(&self) -> Config {
        let mut config = Config::new(self.endpoint().parse().unwrap());
        let ca = CertificateDer::from_pem_file(self.file("ca.crt")).unwrap();
        config.root_cert = Some(vec![ca.to_vec()]);
        config.auth_info = AuthInfo {
            client_certificate: Some(self.file("admin.crt").display().to_string()),
            client_key: Some(self.file("admin.key").display().to_string()),
            ..AuthInfo::default()
        };
        config
    }
}

async fn get(client: &Client, path: &str) -> Option<(StatusCode, String)> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = client.send(request).await.ok()?;
    let status = answer.status();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let content = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content);
    let body = Body::from(body.to_string().into_bytes());
    let answer = client.send(request.body(body).unwrap()).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// A KMS v2 provider at this socket, for [`ControlPlane::encrypt_with`].
#[must_use]
pub fn kms(name: &str, socket: &Path) -> Value {
    json!({"kms": {
        "apiVersion": "v2",
        "name": name,
        "endpoint": format!("unix://{}", socket.display()),
        "timeout": "3s",
    }})
}

/// The provider without encryption, for [`ControlPlane::encrypt_with`].
#[must_use]
pub fn identity() -> Value {
    json!({"identity": {}})
}
