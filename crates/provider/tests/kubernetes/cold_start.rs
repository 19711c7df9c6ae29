//! Start of a kube-apiserver with many Secrets: its time, and its calls. The figures are in
//! `docs/kubernetes.md`.

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{
    control_plane::{ControlPlane, Kind},
    stored::{Sealer, SourceType, random},
};

use crate::{
    bulk,
    cluster::{NAME, calls},
    provider::Provider,
};

mod long;

/// Size of each Secret's text, in bytes.
const TEXT: usize = 1_000;

/// One cluster with many Secrets. Its API server is stopped.
struct Filled {
    control_plane: ControlPlane,
    secrets: usize,
}

/// A start of an API server.
struct Start {
    /// From the start of the process until `/readyz` answers 200.
    ready: Duration,
    /// From the start of the process until a list of all Secrets, requested then, is complete.
    listed: Duration,
    /// Calls of Decrypt that the provider received.
    decrypts: u64,
    /// Encryptions and decryptions that the provider requested of Transit.
    requests: f64,
}

/// The stored form of a Secret without encryption, and the name that it holds.
struct Template {
    name: String,
    stored: Vec<u8>,
}

impl Template {
    /// Written by an API server without encryption.
    async fn new() -> Self {
        let mut control_plane = ControlPlane::new().await;
        control_plane.start(&[]).await;
        let name = name(0);
        let text = "x".repeat(TEXT);
        let written = control_plane.write(Kind::Secret, &name, &text);
        written.await.unwrap();
        let stored = control_plane.stored(Kind::Secret, &name);
        Self { name, stored }
    }

    /// The same Secret under another name, which has the same length.
    fn named(&self, name: &str) -> Vec<u8> {
        let mut stored = self.stored.clone();
        let length = self.name.len();
        for at in 0..=stored.len() - length {
            let place = &mut stored[at..at + length];
            if place == self.name.as_bytes() {
                place.copy_from_slice(name.as_bytes());
            }
        }
        stored
    }
}

fn name(number: usize) -> String {
    format!("secret-{number:06}")
}

impl Filled {
    /// A cluster whose API server has run once with this encryption provider, `None` for none.
    /// `stored` encrypts the Secret of this number for its etcd key.
    async fn new(
        template: &Template,
        provider: Option<Value>,
        secrets: usize,
        stored: impl Fn(usize, &str, Vec<u8>) -> Vec<u8>,
    ) -> Self {
        let mut control_plane = ControlPlane::new().await;
        if let Some(provider) = provider {
            control_plane.encrypt_with(&[provider]);
        }
        control_plane.start(&[]).await;
        control_plane.stop().await;
        let objects = (0..secrets).map(|number| {
            let name = name(number);
            let key = Kind::Secret.etcd_key(&name);
            let value = stored(number, &key, template.named(&name));
            (key, value)
        });
        bulk::put(control_plane.etcd(), objects).await;
        Self {
            control_plane,
            secrets,
        }
    }

    async fn start(&mut self, provider: &Provider) -> Start {
        let decrypts_before = calls(provider).await.decrypt;
        let requests_before = provider.transit_calls().await;
        let begun = Instant::now();
        self.control_plane.spawn(&[]);
        self.control_plane.ready_after_restarts().await;
        let ready = begun.elapsed();
        let (status, list) = self.control_plane.get("/api/v1/secrets").await.unwrap();
        let listed = begun.elapsed();
        assert_eq!(status, 200);
        let found = list.matches(r#""name":"secret-"#).count();
        assert_eq!(found, self.secrets);
        let start = Start {
            ready,
            listed,
            decrypts: calls(provider).await.decrypt - decrypts_before,
            requests: provider.transit_calls().await - requests_before,
        };
        self.control_plane.stop().await;
        start
    }
}

/// Encrypted DEK seeds, each as another run of an API server has them.
async fn seeds(provider: &Provider, count: u64) -> Vec<Sealer> {
    let mut sealers = Vec::new();
    for _ in 0..count {
        let source: [u8; 32] = random();
        let answer = provider.encrypt(&source).await.unwrap();
        let annotations = answer.annotations.into_iter();
        let mut annotations: Vec<_> = annotations
            .map(|(name, value)| (name, value.to_vec()))
            .collect();
        annotations.sort();
        sealers.push(Sealer {
            provider: NAME.to_owned(),
            source,
            source_type: SourceType::HkdfSeed,
            encrypted_source: answer.ciphertext.to_vec(),
            key_id: answer.key_id,
            annotations,
        });
    }
    sealers
}

impl Start {
    /// The figures of all rounds of one case, each as its lowest and highest value.
    fn row(case: &str, rounds: &[Self]) -> String {
        let range = |figure: fn(&Self) -> String| {
            let mut figures: Vec<String> = rounds.iter().map(figure).collect();
            figures.sort_by(|one, other| one.len().cmp(&other.len()).then(one.cmp(other)));
            figures.dedup();
            match &figures[..] {
                [low, .., high] => format!("{low} to {high}"),
                same => same.concat(),
            }
        };
        format!(
            "| {case} | {} s | {} s | {} | {} |",
            range(|start| format!("{:.1}", start.ready.as_secs_f64())),
            range(|start| format!("{:.1}", start.listed.as_secs_f64())),
            range(|start| start.decrypts.to_string()),
            range(|start| start.requests.to_string()),
        )
    }
}
